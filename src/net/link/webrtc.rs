//! A connection of WebRTC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceCandidateInit, RTCIceGatheringState, RTCPeerConnectionIceEvent, RTCPeerConnectionState,
    RTCSessionDescription, SettingEngineBuilder,
};

use super::{Channel, LinkError, LinkEvent, LinkOptions, doing};
use crate::net::ice;
use crate::net::runtime::LinkRuntime;
use crate::protocol::candidate::{Candidate, MAX_CANDIDATES};

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
pub(super) const GATHER_LIMIT: Duration = Duration::from_secs(2);
/// With STUN or TURN servers, how long a description waits for the host candidates of all
/// addresses: one that cannot be bound never comes. What the servers say follows by itself.
const HOSTS_LIMIT: Duration = Duration::from_millis(300);
/// Stream of the silent channel through which an answerer prods its driver. It is negotiated
/// out of band, so that the other side never hears of it, and below Chromium's 1,024 streams.
const PROD_STREAM: u16 = 1022;

/// One WebRTC connection. Closed, with all its tasks and sockets, when dropped.
pub(super) struct WebRtc {
    connection: Arc<dyn PeerConnection>,
    data_plane: Handle,
}

impl Drop for WebRtc {
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

impl WebRtc {
    /// Makes a connection with a channel of this label, and its offer, host candidates included.
    pub(super) async fn offer(
        options: &LinkOptions,
        label: &str,
    ) -> Result<(Self, String, mpsc::Receiver<LinkEvent>), LinkError> {
        let (link, events, gathered, sink) = Self::build(options).await?;
        let channel = link
            .connection
            .create_data_channel(label, None)
            .await
            .map_err(doing("opening a data channel"))?;
        let offer = link
            .connection
            .create_offer(None)
            .await
            .map_err(doing("making an offer"))?;
        let sdp = link.describe(offer, options, gathered, &sink).await?;
        prod(Arc::clone(&channel));
        tokio::spawn(wait_open(channel, Arc::clone(&link.connection), sink));
        Ok((link, sdp, events))
    }

    /// Makes a connection that answers `offer`, host candidates included.
    pub(super) async fn answer(
        options: &LinkOptions,
        offer: String,
    ) -> Result<(Self, String, mpsc::Receiver<LinkEvent>), LinkError> {
        let (link, events, gathered, sink) = Self::build(options).await?;
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
        let sdp = link.describe(answer, options, gathered, &sink).await?;
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
    pub(super) async fn apply_answer(&self, answer: String) -> Result<(), LinkError> {
        let answer = RTCSessionDescription::answer(answer).map_err(doing("reading an answer"))?;
        self.connection
            .set_remote_description(answer)
            .await
            .map_err(doing("taking an answer"))
    }

    /// Adds a remote candidate: the bare `candidate:` line.
    pub(super) async fn add_candidate(&self, candidate: String) -> Result<(), LinkError> {
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
    pub(super) async fn close(&self) {
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
            watch::Receiver<Gathered>,
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
        let servers = ice::resolve(&options.ice).await;
        let configuration = RTCConfigurationBuilder::default()
            .with_ice_servers(servers)
            .build();
        let (events, receiver) = mpsc::channel(8);
        let (gathered, is_gathered) = watch::channel(Gathered::default());
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
            .with_configuration(configuration)
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

    /// Sets the local description and returns it once all host candidates are in. Candidates that
    /// come later are events.
    async fn describe(
        &self,
        description: RTCSessionDescription,
        options: &LinkOptions,
        mut gathered: watch::Receiver<Gathered>,
        events: &mpsc::Sender<LinkEvent>,
    ) -> Result<String, LinkError> {
        self.connection
            .set_local_description(description)
            .await
            .map_err(doing("setting the local description"))?;
        let hosts = match options.ice.is_empty() {
            true => usize::MAX,
            false => options.addresses.len(),
        };
        let all = gathered.wait_for(|now| now.complete || now.hosts() >= hosts);
        let limit = match options.ice.is_empty() {
            true => GATHER_LIMIT,
            false => HOSTS_LIMIT,
        };
        let waited = timeout(limit, all).await.map(|ended| ended.map(drop));
        match waited {
            Ok(ended) => ended.map_err(|_| LinkError::Closed)?,
            Err(_) if gathered.borrow().hosts() > 0 => {}
            Err(_) => return Err(LinkError::NoDescription),
        }
        let local = self
            .connection
            .local_description()
            .await
            .ok_or(LinkError::NoDescription)?;
        if !options.ice.is_empty() {
            tokio::spawn(trickle(gathered, local.sdp.clone(), events.clone()));
        }
        Ok(local.sdp)
    }
}

/// The candidates that have been found so far.
#[derive(Default)]
struct Gathered {
    complete: bool,
    /// Their bare lines.
    lines: Vec<String>,
}

impl Gathered {
    fn hosts(&self) -> usize {
        let host = |line: &&String| line.contains(" typ host");
        self.lines.iter().filter(host).count()
    }
}

/// Tells of each candidate that the description lacks, until there are no more.
async fn trickle(
    mut gathered: watch::Receiver<Gathered>,
    sdp: String,
    events: mpsc::Sender<LinkEvent>,
) {
    let place = |line: &str| {
        let candidate = Candidate::parse(line).ok()?;
        Some((candidate.address, candidate.port, candidate.kind))
    };
    let described = sdp.lines().filter(|line| line.starts_with("a=candidate"));
    let described: Vec<_> = described.map(place).collect();
    let mut told = 0;
    loop {
        let (fresh, complete) = {
            let now = gathered.borrow_and_update();
            (now.lines[told..].to_vec(), now.complete)
        };
        told += fresh.len();
        for line in fresh {
            if described.contains(&place(&line)) {
                continue;
            }
            if events.send(LinkEvent::Candidate(line)).await.is_err() {
                return;
            }
        }
        if complete || gathered.changed().await.is_err() {
            return;
        }
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
                let event =
                    opened.map_or(LinkEvent::Lost("no certificate".into()), LinkEvent::Open);
                let _ = events.send(event).await;
                return;
            }
            DataChannelEvent::OnClose => break,
            _ => {}
        }
    }
    let _ = events
        .send(LinkEvent::Lost(
            "the data channel closed before it was open".into(),
        ))
        .await;
}

struct Handler {
    events: mpsc::Sender<LinkEvent>,
    gathered: watch::Sender<Gathered>,
    connection: std::sync::OnceLock<std::sync::Weak<dyn PeerConnection>>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_modify(|now| now.complete = true);
        }
    }

    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let Ok(init) = event.candidate.to_json() else {
            return;
        };
        // Written anew: others need no address of ours beside it.
        if let Ok(candidate) = Candidate::parse(&init.candidate) {
            self.gathered.send_modify(|now| {
                if now.lines.len() < MAX_CANDIDATES {
                    now.lines.push(candidate.to_string());
                }
            });
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
        let _ = self.events.try_send(LinkEvent::Lost(reason.into()));
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let Some(connection) = self.connection.get().and_then(std::sync::Weak::upgrade) else {
            return;
        };
        tokio::spawn(wait_open(channel, connection, self.events.clone()));
    }
}
