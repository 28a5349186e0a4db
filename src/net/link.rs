//! One WebRTC connection with one data channel, as typed calls and events.
//!
//! Everything here must be called on the data-plane runtime: sockets belong to the runtime that
//! polls them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceCandidateInit, RTCIceGatheringState, RTCPeerConnectionState, RTCSessionDescription,
    SettingEngineBuilder,
};

use super::runtime::LinkRuntime;
use crate::protocol::standstill::Standstill;

/// The label of the native dialect's channel (PROTOCOL.md §5).
pub const NATIVE_LABEL: &str = "fileshare";
/// Largest message we accept. We never send more than [`crate::protocol::frame::MAX_MESSAGE`].
const MAX_INCOMING_MESSAGE: u32 = 262_144;
/// SCTP's receive window: enough for the largest window of ours, and small enough that a
/// receiver with many links stays small.
const RECEIVE_WINDOW: u32 = 512 * 1024;
/// How often the driver is prodded until the channel is open; without it DTLS and SCTP wait for
/// the next ICE tick, twenty times as long.
const PROD_INTERVAL: Duration = Duration::from_millis(2);
/// The driver is prodded for at most this long.
const PROD_LIMIT: Duration = Duration::from_secs(5);
/// Gathering host candidates is local work; this only bounds a stuck driver.
const GATHER_LIMIT: Duration = Duration::from_secs(2);
/// Stream of the silent channel through which an answerer prods its driver. It is negotiated
/// out of band, so that the other side never hears of it, and below Chromium's 1,024 streams.
const PROD_STREAM: u16 = 1022;

/// A message that finds no room in the send buffer for this long never will.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether everything has arrived; the stack has no event for it.
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// How often it is looked whether anything of it arrives.
const STILL_POLL: Duration = Duration::from_millis(500);

/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Local addresses to bind and to offer as host candidates.
    pub addresses: Vec<IpAddr>,
    /// Offer loopback addresses too.
    pub loopback: bool,
    /// Bytes for each socket buffer.
    pub udp_buffer: usize,
    /// SCTP packet size in bytes.
    pub mtu: u32,
    /// Unacknowledged bytes that one channel may hold before `send` waits.
    pub send_buffer: usize,
    /// Silence after which ICE counts as disconnected.
    pub ice_disconnected: Duration,
    /// Silence after that until it counts as failed.
    pub ice_failed: Duration,
}

/// Why a connection could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The WebRTC stack said no.
    #[error("{doing}: {source}")]
    WebRtc {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: webrtc::error::Error,
    },
    /// There is no address to bind.
    #[error(
        "no network address to use: connect a network, or name one in network.addresses, \
         or set network.loopback"
    )]
    NoAddress,
    /// The local description did not become ready.
    #[error("no local session description after {} s", GATHER_LIMIT.as_secs())]
    NoDescription,
    /// The other side takes nothing, though the connection stands.
    #[error("the other side has taken nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The other side owes something, and says nothing.
    #[error("the other side has owed {what} for {} s", .waited.as_secs())]
    Silent {
        /// What is waited for.
        what: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
}

fn doing(doing: &'static str) -> impl FnOnce(webrtc::error::Error) -> LinkError {
    move |source| LinkError::WebRtc { doing, source }
}

/// What happens on a connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// The data channel is open.
    Open(Channel),
    /// ICE is disconnected or failed, or the other side closed. The link is of no more use.
    Lost(&'static str),
}

/// One WebRTC connection. Closed, with all its tasks and sockets, when dropped.
pub struct Link {
    connection: Arc<dyn PeerConnection>,
    data_plane: Handle,
}

impl Drop for Link {
    fn drop(&mut self) {
        // A connection that is dropped without close() leaks its tasks and sockets.
        let connection = Arc::clone(&self.connection);
        self.data_plane.spawn(async move {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "closing a connection");
            }
        });
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Makes a connection and its offer, host candidates included.
    pub async fn offer(
        options: &LinkOptions,
    ) -> Result<(Self, String, mpsc::Receiver<LinkEvent>), LinkError> {
        let (link, events, gathered, sink) = Self::build(options).await?;
        let channel = link
            .connection
            .create_data_channel(NATIVE_LABEL, None)
            .await
            .map_err(doing("opening a data channel"))?;
        let offer = link
            .connection
            .create_offer(None)
            .await
            .map_err(doing("making an offer"))?;
        let sdp = link.describe(offer, gathered).await?;
        prod(Arc::clone(&channel));
        tokio::spawn(wait_open(channel, Arc::clone(&link.connection), sink));
        Ok((link, sdp, events))
    }

    /// Makes a connection that answers `offer`, host candidates included.
    pub async fn answer(
        options: &LinkOptions,
        offer: String,
    ) -> Result<(Self, String, mpsc::Receiver<LinkEvent>), LinkError> {
        let (link, events, gathered, _) = Self::build(options).await?;
        let offer = RTCSessionDescription::offer(offer).map_err(doing("reading an offer"))?;
        link.connection
            .set_remote_description(offer)
            .await
            .map_err(doing("taking an offer"))?;
        let answer = link
            .connection
            .create_answer(None)
            .await
            .map_err(doing("making an answer"))?;
        let sdp = link.describe(answer, gathered).await?;
        let silent = RTCDataChannelInit {
            negotiated: Some(PROD_STREAM),
            ..Default::default()
        };
        match link.connection.create_data_channel("", Some(silent)).await {
            Ok(channel) => prod(channel),
            Err(error) => tracing::debug!(%error, "the connection will open slowly"),
        }
        Ok((link, sdp, events))
    }

    /// Applies the answer to our offer.
    pub async fn apply_answer(&self, answer: String) -> Result<(), LinkError> {
        let answer = RTCSessionDescription::answer(answer).map_err(doing("reading an answer"))?;
        self.connection
            .set_remote_description(answer)
            .await
            .map_err(doing("taking an answer"))
    }

    /// Adds a remote candidate: the bare `candidate:` line.
    pub async fn add_candidate(&self, candidate: String) -> Result<(), LinkError> {
        let init = RTCIceCandidateInit {
            candidate,
            sdp_mid: Some("0".to_owned()),
            sdp_mline_index: Some(0),
            ..Default::default()
        };
        self.connection
            .add_ice_candidate(init)
            .await
            .map_err(doing("taking a candidate"))
    }

    /// Closes the connection and waits for its tasks to end.
    pub async fn close(&self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing a connection");
        }
    }

    async fn build(
        options: &LinkOptions,
    ) -> Result<
        (
            Self,
            mpsc::Receiver<LinkEvent>,
            watch::Receiver<bool>,
            mpsc::Sender<LinkEvent>,
        ),
        LinkError,
    > {
        if options.addresses.is_empty() {
            return Err(LinkError::NoAddress);
        }
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(options.loopback)
            .with_ice_connection_attempts(Some(Duration::from_millis(20)), Some(150))
            .with_ice_timeouts(
                Some(options.ice_disconnected),
                Some(options.ice_failed),
                Some(Duration::from_secs(2)),
            )
            .with_sctp_max_receive_buffer_size(RECEIVE_WINDOW)
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(MAX_INCOMING_MESSAGE))
            .with_sctp_mtu(options.mtu)
            .build();
        let (events, receiver) = mpsc::channel(8);
        let (gathered, is_gathered) = watch::channel(false);
        let handler = Handler {
            events: events.clone(),
            gathered,
            connection: Default::default(),
        };
        let handler = Arc::new(handler);
        let addresses: Vec<SocketAddr> = options
            .addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, 0))
            .collect();
        let connection = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::default().build())
            .with_setting_engine(settings)
            .with_runtime(Arc::new(LinkRuntime {
                udp_buffer: options.udp_buffer,
            }))
            .with_handler(Arc::clone(&handler) as Arc<dyn PeerConnectionEventHandler>)
            .with_udp_addrs(addresses)
            .with_data_channel_send_buffer_limit(options.send_buffer)
            .build()
            .await
            .map_err(doing("making a connection"))?;
        let connection: Arc<dyn PeerConnection> = Arc::new(connection);
        // Weak: the connection owns its handler.
        let _ = handler.connection.set(Arc::downgrade(&connection));
        let link = Self {
            connection,
            data_plane: Handle::current(),
        };
        Ok((link, receiver, is_gathered, events))
    }

    /// Sets the local description and returns it once all host candidates are in.
    async fn describe(
        &self,
        description: RTCSessionDescription,
        mut gathered: watch::Receiver<bool>,
    ) -> Result<String, LinkError> {
        self.connection
            .set_local_description(description)
            .await
            .map_err(doing("setting the local description"))?;
        timeout(GATHER_LIMIT, gathered.wait_for(|done| *done))
            .await
            .map_err(|_| LinkError::NoDescription)?
            .map_err(|_| LinkError::Closed)?;
        let local = self
            .connection
            .local_description()
            .await
            .ok_or(LinkError::NoDescription)?;
        Ok(local.sdp)
    }
}

/// Wakes the driver until the channel is open.
fn prod(channel: Arc<dyn DataChannel>) {
    tokio::spawn(async move {
        let prodding = async {
            let mut every = tokio::time::interval(PROD_INTERVAL);
            loop {
                every.tick().await;
                let open = channel
                    .ready_state()
                    .await
                    .map(|state| state != webrtc::data_channel::RTCDataChannelState::Connecting);
                // An error means that the connection is gone.
                if open.unwrap_or(true)
                    || channel.set_buffered_amount_low_threshold(0).await.is_err()
                {
                    return;
                }
            }
        };
        let _ = timeout(PROD_LIMIT, prodding).await;
    });
}

async fn wait_open(
    channel: Arc<dyn DataChannel>,
    connection: Arc<dyn PeerConnection>,
    events: mpsc::Sender<LinkEvent>,
) {
    // Weak, so that this task does not keep a dropped link's connection alive.
    let weak = Arc::downgrade(&connection);
    drop(connection);
    while let Some(event) = channel.poll().await {
        match event {
            DataChannelEvent::OnOpen => {
                let Some(connection) = weak.upgrade() else {
                    return;
                };
                let opened = Channel::new(channel, &*connection).await;
                let event = opened.map_or(LinkEvent::Lost("no certificate"), LinkEvent::Open);
                let _ = events.send(event).await;
                return;
            }
            DataChannelEvent::OnClose => break,
            _ => {}
        }
    }
    let _ = events
        .send(LinkEvent::Lost(
            "the data channel closed before it was open",
        ))
        .await;
}

struct Handler {
    events: mpsc::Sender<LinkEvent>,
    gathered: watch::Sender<bool>,
    connection: std::sync::OnceLock<std::sync::Weak<dyn PeerConnection>>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.gathered.send(true);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        tracing::debug!(?state, "connection state");
        let reason = match state {
            RTCPeerConnectionState::Disconnected => "the network path went silent",
            RTCPeerConnectionState::Failed => "no network path works",
            RTCPeerConnectionState::Closed => "the other side closed the connection",
            _ => return,
        };
        // Runs on the driver's task: never wait here.
        let _ = self.events.try_send(LinkEvent::Lost(reason));
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let Some(connection) = self.connection.get().and_then(std::sync::Weak::upgrade) else {
            return;
        };
        tokio::spawn(wait_open(channel, connection, self.events.clone()));
    }
}

/// An open data channel.
#[derive(Clone)]
pub struct Channel {
    channel: Arc<dyn DataChannel>,
    label: Arc<str>,
    max_message: usize,
    peer_certificate: [u8; 32],
    /// Bytes of all messages that were sent.
    sent: Arc<AtomicU64>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({})", self.label)
    }
}

/// A message that came over a channel.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// UTF-8 text, not checked yet.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
}

impl Channel {
    async fn new(channel: Arc<dyn DataChannel>, connection: &dyn PeerConnection) -> Option<Self> {
        let label = channel.label().await.ok()?;
        let sctp = connection.sctp().await?;
        let max_message = sctp.max_message_size().await.ok()? as usize;
        let certificates = sctp.transport().get_remote_certificates().await.ok()?;
        let peer_certificate = Sha256::digest(certificates.first()?).into();
        Some(Self {
            channel,
            label: label.into(),
            max_message,
            peer_certificate,
            sent: Arc::default(),
        })
    }

    /// The channel's label: which dialect is spoken on it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Bytes of the largest message that the other side takes.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// SHA-256 of the certificate that the DTLS handshake really brought.
    pub fn peer_certificate(&self) -> &[u8; 32] {
        &self.peer_certificate
    }

    /// Sends bytes; waits while the send buffer is full.
    pub async fn send(&self, message: BytesMut) -> Result<(), LinkError> {
        let bytes = message.len();
        self.sends(bytes, self.channel.send(message)).await
    }

    /// Sends text; waits while the send buffer is full.
    pub async fn send_text(&self, text: &str) -> Result<(), LinkError> {
        self.sends(text.len(), self.channel.send_text(text)).await
    }

    async fn sends(
        &self,
        bytes: usize,
        sending: impl Future<Output = Result<(), webrtc::error::Error>>,
    ) -> Result<(), LinkError> {
        timeout(SEND_LIMIT, sending)
            .await
            .map_err(|_| LinkError::Stalled(SEND_LIMIT))?
            .map_err(doing("sending"))?;
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until nothing of what was sent has arrived for `limit`, though the connection stands:
    /// the transport gives up on nothing by itself, and a connection of which it has lost track is
    /// made anew sooner than it comes back.
    pub async fn stands_still(&self, limit: Duration) -> LinkError {
        let mut still = Standstill::new(limit, Instant::now());
        let mut every = tokio::time::interval(STILL_POLL);
        loop {
            every.tick().await;
            let Ok(outstanding) = self.channel.outstanding_bytes().await else {
                // Whoever reads or writes hears that it is closed.
                continue;
            };
            let sent = self.sent.load(Ordering::Relaxed);
            if still.look(sent, outstanding as u64, Instant::now()) {
                return LinkError::Stalled(limit);
            }
        }
    }

    /// Waits until the other side's transport has everything that was sent: a connection that
    /// is closed sooner loses the tail. An other side that takes nothing is not waited for beyond
    /// `SEND_LIMIT`.
    pub async fn flushed(&self) {
        let flushing = async {
            let mut every = tokio::time::interval(FLUSH_POLL);
            while self
                .channel
                .outstanding_bytes()
                .await
                .is_ok_and(|bytes| bytes > 0)
            {
                every.tick().await;
            }
        };
        let _ = timeout(SEND_LIMIT, flushing).await;
    }

    /// The next message; `None` when the channel is closed. One reader only.
    pub async fn receive(&self) -> Option<Incoming> {
        loop {
            match self.channel.poll().await? {
                DataChannelEvent::OnMessage(message) if message.is_string => {
                    return Some(Incoming::Text(message.data.freeze()));
                }
                DataChannelEvent::OnMessage(message) => {
                    return Some(Incoming::Binary(message.data.freeze()));
                }
                DataChannelEvent::OnClose => return None,
                _ => {}
            }
        }
    }
}
