//! An open channel, whatever carries it: a data channel of WebRTC, or a relayed link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{PeerConnection, RTCIceCandidateType};

use super::relayed::Pipe;
use super::{LinkError, NATIVE_LABEL, doing};
use crate::protocol::standstill::Standstill;

/// A message that finds no room in the send buffer for this long never will.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether everything has arrived; the stack has no event for it.
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// How often it is looked whether anything of it arrives.
const STILL_POLL: Duration = Duration::from_millis(500);

/// How the packets of a link travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// From one device's address to the other's.
    Direct,
    /// Through a NAT of either side, along an address that it has given away.
    Reflexive,
    /// Through a TURN server of either side.
    Relayed,
    /// Over WebSocket, through a rendezvous.
    Rendezvous,
}

impl Path {
    /// The word that ICE has for it; `rendezvous` where it is none of ICE's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "host",
            Self::Reflexive => "srflx",
            Self::Relayed => "relay",
            Self::Rendezvous => "rendezvous",
        }
    }

    fn of(ends: [RTCIceCandidateType; 2]) -> Self {
        use RTCIceCandidateType::{Prflx, Relay, Srflx};
        if ends.contains(&Relay) {
            Self::Relayed
        } else if ends.contains(&Srflx) || ends.contains(&Prflx) {
            Self::Reflexive
        } else {
            Self::Direct
        }
    }
}

/// An open channel.
#[derive(Clone)]
pub struct Channel {
    carrier: Carrier,
    label: Arc<str>,
    max_message: usize,
    peer_certificate: [u8; 32],
    path: Option<Path>,
    /// Bytes of all messages that were sent.
    sent: Arc<AtomicU64>,
}

#[derive(Clone)]
enum Carrier {
    WebRtc(Arc<dyn DataChannel>),
    Relay(Arc<Pipe>),
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
    pub(super) async fn new(
        channel: Arc<dyn DataChannel>,
        connection: &dyn PeerConnection,
    ) -> Option<Self> {
        let label = channel.label().await.ok()?;
        let sctp = connection.sctp().await?;
        let max_message = sctp.max_message_size().await.ok()? as usize;
        let pair = sctp.transport().ice_transport();
        let pair = pair.get_selected_candidate_pair().await.ok().flatten();
        let path = pair.map(|pair| Path::of([pair.local().typ, pair.remote().typ]));
        let certificates = sctp.transport().get_remote_certificates().await.ok()?;
        let peer_certificate = Sha256::digest(certificates.first()?).into();
        Some(Self {
            carrier: Carrier::WebRtc(channel),
            label: label.into(),
            max_message,
            peer_certificate,
            path,
            sent: Arc::default(),
        })
    }

    /// The one channel of a relayed link, whose other end has shown this key.
    pub(super) fn relayed(pipe: Pipe, max_message: usize, peer_key: [u8; 32]) -> Self {
        Self {
            carrier: Carrier::Relay(Arc::new(pipe)),
            label: NATIVE_LABEL.into(),
            max_message,
            peer_certificate: peer_key,
            path: Some(Path::Rendezvous),
            sent: Arc::default(),
        }
    }

    /// The channel's label: which dialect is spoken on it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether it goes through a rendezvous, and not over WebRTC.
    pub fn is_relayed(&self) -> bool {
        matches!(self.carrier, Carrier::Relay(_))
    }

    /// How its packets travelled when it was opened, where the stack says so.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// Bytes of the largest message that the other side takes.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// SHA-256 of the certificate that the DTLS handshake really brought; on a relayed link that
    /// of the key that the Noise handshake brought.
    pub fn peer_certificate(&self) -> &[u8; 32] {
        &self.peer_certificate
    }

    /// Sends bytes; waits while the send buffer is full.
    pub async fn send(&self, message: BytesMut) -> Result<(), LinkError> {
        let bytes = message.len();
        let sending = async {
            match &self.carrier {
                Carrier::WebRtc(channel) => channel.send(message).await.map_err(doing("sending")),
                Carrier::Relay(pipe) => pipe.send(Incoming::Binary(message.freeze())).await,
            }
        };
        self.sends(bytes, sending).await
    }

    /// Sends text; waits while the send buffer is full.
    pub async fn send_text(&self, text: &str) -> Result<(), LinkError> {
        let sending = async {
            match &self.carrier {
                Carrier::WebRtc(channel) => channel.send_text(text).await.map_err(doing("sending")),
                Carrier::Relay(pipe) => {
                    let text = Bytes::copy_from_slice(text.as_bytes());
                    pipe.send(Incoming::Text(text)).await
                }
            }
        };
        self.sends(text.len(), sending).await
    }

    async fn sends(
        &self,
        bytes: usize,
        sending: impl Future<Output = Result<(), LinkError>>,
    ) -> Result<(), LinkError> {
        timeout(SEND_LIMIT, sending)
            .await
            .map_err(|_| LinkError::Stalled(SEND_LIMIT))??;
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes that were sent and have not arrived, as far as this side knows; nothing when the
    /// channel is closed.
    async fn outstanding(&self) -> Option<u64> {
        match &self.carrier {
            Carrier::WebRtc(channel) => channel.outstanding_bytes().await.ok().map(|b| b as u64),
            Carrier::Relay(pipe) => pipe.outstanding(),
        }
    }

    /// Waits until nothing of what was sent has arrived for `limit`, though the connection stands:
    /// the transport gives up on nothing by itself, and a connection of which it has lost track is
    /// made anew sooner than it comes back.
    pub async fn stands_still(&self, limit: Duration) -> LinkError {
        let mut still = Standstill::new(limit, Instant::now());
        let mut every = tokio::time::interval(STILL_POLL);
        loop {
            every.tick().await;
            let Some(outstanding) = self.outstanding().await else {
                // Whoever reads or writes hears that it is closed.
                continue;
            };
            let sent = self.sent.load(Ordering::Relaxed);
            if still.look(sent, outstanding, Instant::now()) {
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
            while self.outstanding().await.is_some_and(|bytes| bytes > 0) {
                every.tick().await;
            }
        };
        let _ = timeout(SEND_LIMIT, flushing).await;
    }

    /// The next message; `None` when the channel is closed. One reader only.
    pub async fn receive(&self) -> Option<Incoming> {
        let channel = match &self.carrier {
            Carrier::WebRtc(channel) => channel,
            Carrier::Relay(pipe) => return pipe.receive().await,
        };
        loop {
            match channel.poll().await? {
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
