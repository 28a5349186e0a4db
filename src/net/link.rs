//! A link to one device: a WebRTC connection with its data channel, or, where WebRTC fails, the
//! same through a rendezvous. As typed calls and events.
//!
//! Everything here must be called on the data-plane runtime: sockets belong to the runtime that
//! polls them.

mod channel;
mod relayed;
mod webrtc;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use self::relayed::Relayed;
use self::webrtc::WebRtc;
use super::rendezvous::{Server, ServerError};
use crate::protocol::ice::IceServer;
pub use channel::{Channel, Incoming, Path};
pub use relayed::meeting_point;

/// The label of the native dialect's channel (PROTOCOL.md §5).
pub const NATIVE_LABEL: &str = "fileshare";
/// The label of the plain dialect's channel (PROTOCOL.md §19).
pub const PLAIN_LABEL: &str = "file-transfer";
/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Local addresses to bind and to offer as host candidates.
    pub addresses: Vec<IpAddr>,
    /// Offer loopback addresses too.
    pub loopback: bool,
    /// STUN and TURN servers to ask for further candidates. They never hold up a description.
    pub ice: Vec<IceServer>,
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

/// Through what a link goes that does not go over WebRTC.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The rendezvous that passes its messages on.
    pub server: Server,
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
        source: ::webrtc::error::Error,
    },
    /// There is no address to bind.
    #[error(
        "no network address to use: connect a network, or name one in network.addresses, \
         or set network.loopback"
    )]
    NoAddress,
    /// The local description did not become ready.
    #[error("no local session description after {} s", webrtc::GATHER_LIMIT.as_secs())]
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
    /// A description does not say how to meet at a rendezvous.
    #[error("the description names no meeting point of a rendezvous")]
    NoRelay,
    /// Whoever came to the meeting point does not have the key that was vouched for.
    #[error("somebody else came to the meeting point at the rendezvous")]
    Impostor,
    /// A relayed link broke, or could not be made.
    #[error("{0}")]
    Relay(String),
    /// The rendezvous that was to relay it.
    #[error(transparent)]
    Rendezvous(#[from] ServerError),
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
}

fn doing(doing: &'static str) -> impl FnOnce(::webrtc::error::Error) -> LinkError {
    move |source| LinkError::WebRtc { doing, source }
}

/// What happens on a connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// The data channel is open.
    Open(Channel),
    /// A STUN or TURN server has told of a candidate that the description does not have: the bare
    /// `candidate:` line.
    Candidate(String),
    /// ICE is disconnected or failed, or the other side closed. The link is of no more use.
    Lost(Cow<'static, str>),
}

/// What a link that is being made consists of: itself, its signed description's text, its events.
type Made = (Link, String, mpsc::Receiver<LinkEvent>);

/// One link. Closed, with all its tasks and sockets, when dropped.
pub struct Link(Way);

enum Way {
    WebRtc(WebRtc),
    Relayed(Relayed),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Makes a connection and its offer, host candidates included; with `relay` one that is
    /// relayed and has none.
    pub async fn offer(
        options: &LinkOptions,
        relay: Option<RelayOptions>,
    ) -> Result<Made, LinkError> {
        match relay {
            Some(relay) => {
                let (relayed, sdp, events) = Relayed::offer(options, relay)?;
                Ok((Self(Way::Relayed(relayed)), sdp, events))
            }
            None => {
                let (connection, sdp, events) = WebRtc::offer(options, NATIVE_LABEL).await?;
                Ok((Self(Way::WebRtc(connection)), sdp, events))
            }
        }
    }

    /// Makes a connection for the plain dialect and its offer, host candidates included.
    pub async fn offer_plain(options: &LinkOptions) -> Result<Made, LinkError> {
        let (connection, sdp, events) = WebRtc::offer(options, PLAIN_LABEL).await?;
        Ok((Self(Way::WebRtc(connection)), sdp, events))
    }

    /// Makes a connection that answers `offer`, host candidates included. An offer that names a
    /// meeting point needs the rendezvous where it is.
    pub async fn answer(
        options: &LinkOptions,
        relay: Option<RelayOptions>,
        offer: String,
    ) -> Result<Made, LinkError> {
        if meeting_point(&offer).is_some() {
            let relay = relay.ok_or(LinkError::NoRelay)?;
            let (relayed, sdp, events) = Relayed::answer(options, relay, &offer)?;
            return Ok((Self(Way::Relayed(relayed)), sdp, events));
        }
        let (connection, sdp, events) = WebRtc::answer(options, offer).await?;
        Ok((Self(Way::WebRtc(connection)), sdp, events))
    }

    /// Applies the answer to our offer.
    pub async fn apply_answer(&self, answer: String) -> Result<(), LinkError> {
        match &self.0 {
            Way::WebRtc(connection) => connection.apply_answer(answer).await,
            Way::Relayed(relayed) => relayed.apply_answer(&answer),
        }
    }

    /// Adds a remote candidate: the bare `candidate:` line. A relayed link needs none.
    pub async fn add_candidate(&self, candidate: String) -> Result<(), LinkError> {
        match &self.0 {
            Way::WebRtc(connection) => connection.add_candidate(candidate).await,
            Way::Relayed(_) => Ok(()),
        }
    }

    /// Closes the connection and waits for its tasks to end.
    pub async fn close(&self) {
        if let Way::WebRtc(connection) = &self.0 {
            connection.close().await;
        }
    }
}
