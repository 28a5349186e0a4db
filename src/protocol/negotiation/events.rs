//! What goes into a negotiation, what comes out, and its numbers.

use std::time::{Duration, Instant};

use super::MAX_CANDIDATES;
#[cfg(doc)]
use super::Negotiation;

/// Who writes the offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Initiator {
    /// Whoever wants to send.
    #[default]
    Sender,
    /// Always the device with the lower id.
    LowerId,
}

/// The numbers of a negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who offers.
    pub initiator: Initiator,
    /// How long one offer waits for its answer.
    pub answer_timeout: Duration,
    /// How long to wait before each further try; as many tries as there are waits.
    pub backoffs: Vec<Duration>,
    /// How long candidates are kept that came before their description.
    pub early_candidates: Duration,
    /// How many of them.
    pub max_early: usize,
    /// How long the channel may take to open once both descriptions are known.
    pub connect_timeout: Duration,
    /// How long the device with the lower id, after its own offer was answered, ignores offers:
    /// one may still be on its way that the other side dropped when ours arrived.
    pub glare_guard: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            initiator: Initiator::Sender,
            answer_timeout: Duration::from_secs(10),
            backoffs: [1, 2, 4].map(Duration::from_secs).to_vec(),
            early_candidates: Duration::from_secs(30),
            max_early: MAX_CANDIDATES,
            connect_timeout: Duration::from_secs(30),
            glare_guard: Duration::from_secs(3),
        }
    }
}

/// Numbers the connections made for one peer. Only the latest one counts.
pub type Generation = u64;

/// What happened. `generation` says to which connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// We want to be connected.
    Connect,
    /// We no longer want to be.
    Disconnect,
    /// The offer asked for by [`Output::MakeOffer`], set as the local description.
    LocalOffer {
        /// Whose.
        generation: Generation,
        /// The offer, signed.
        sdp: String,
    },
    /// The answer asked for by [`Output::MakeAnswer`], set as the local description.
    LocalAnswer {
        /// Whose.
        generation: Generation,
        /// The answer, signed.
        sdp: String,
    },
    /// A verified offer of the peer.
    RemoteOffer(String),
    /// A verified answer to the offer sent last.
    RemoteAnswer(String),
    /// A candidate of the peer, filtered.
    RemoteCandidate(String),
    /// The offer or answer was written to a signaling connection.
    Delivered {
        /// Whose.
        generation: Generation,
    },
    /// It could not be: no signaling connection could be made.
    Undeliverable {
        /// Whose.
        generation: Generation,
        /// Why, for people.
        reason: String,
    },
    /// The data channel is open.
    ChannelOpen {
        /// Whose.
        generation: Generation,
    },
    /// The connection could not be made, or it broke.
    ConnectionLost {
        /// Whose.
        generation: Generation,
        /// Why, for people.
        reason: String,
    },
    /// The peer refused our offer or answer, for this reason.
    Refused(String),
    /// Time has passed: [`Negotiation::next_deadline`] is here.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make a fresh connection, and with it an offer.
    MakeOffer {
        /// The new connection's number.
        generation: Generation,
    },
    /// Make a fresh connection, and with it the answer to this offer.
    MakeAnswer {
        /// The new connection's number.
        generation: Generation,
        /// The offer.
        offer: String,
    },
    /// Write this offer to the peer, and tell how that went.
    SendOffer {
        /// Whose.
        generation: Generation,
        /// The offer.
        sdp: String,
    },
    /// Write this answer to the peer, and tell how that went.
    SendAnswer {
        /// Whose.
        generation: Generation,
        /// The answer.
        sdp: String,
    },
    /// Set the remote description.
    ApplyAnswer {
        /// Whose.
        generation: Generation,
        /// The answer.
        sdp: String,
    },
    /// Add a candidate of the peer.
    AddCandidate {
        /// Whose.
        generation: Generation,
        /// The candidate.
        text: String,
    },
    /// Close this connection and forget it.
    CloseConnection {
        /// Which.
        generation: Generation,
    },
    /// A try failed; the next one follows.
    Retrying {
        /// Number of the next try, from 2.
        attempt: usize,
        /// When it begins.
        at: Instant,
        /// Why the last one failed.
        reason: Failure,
    },
    /// The channel is open.
    Connected {
        /// Whose.
        generation: Generation,
    },
    /// There is no connection, and none will be tried until somebody asks for it.
    NotConnected {
        /// Why.
        reason: Failure,
    },
    /// The input changed nothing, for the log.
    Ignored {
        /// Why.
        reason: &'static str,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The offer was written, but nobody answered.
    #[error("no answer after {tries} tries: check that the program runs there and lets us in")]
    NoAnswer {
        /// How many offers were made.
        tries: usize,
    },
    /// No signaling connection.
    #[error("it cannot be reached after {tries} tries ({reason}): check its address and firewall")]
    Unreachable {
        /// How many were tried.
        tries: usize,
        /// What the last one said.
        reason: String,
    },
    /// The other side was to offer and did not.
    #[error("no offer came, and the device with the lower id has to make it")]
    NoOffer,
    /// Our own side could not make an offer or answer in time.
    #[error("our side of the connection could not be made in time")]
    NotMade,
    /// Both descriptions are there, but the channel did not open.
    #[error("both sides agreed, but no packets get through: check that UDP is let through")]
    NoChannel,
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The peer said no.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// We ended it.
    #[error("disconnected")]
    Disconnected,
}

/// A negotiation's state, for tables and pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing yet.
    Idle,
    /// The other side has to offer.
    WaitingForOffer,
    /// An offer is being made or waits for its answer.
    Offering,
    /// Between two tries.
    BackingOff,
    /// An answer is being made.
    Answering,
    /// Waiting for the channel.
    Connecting,
    /// The channel is open.
    Connected,
    /// Given up.
    Failed,
}
