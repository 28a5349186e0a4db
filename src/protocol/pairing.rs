//! First contact: how two devices that have proven their keys come to authorize each other
//! (PROTOCOL.md §13).

use serde::{Deserialize, Serialize};

use super::message::Code;

/// One step of first contact, on an open channel whose handshake is over. Which steps follow
/// each other depends on the way: a compared code, a PIN, or an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum PairMessage {
    /// Code: the initiator is bound to its nonce before it sees the other's.
    Commit {
        /// b64, 32 bytes.
        commit: String,
    },
    /// Code: the responder's nonce.
    Nonce {
        /// b64, 32 bytes.
        nonce: String,
    },
    /// Code: the initiator's nonce, which must fit the commitment.
    Reveal {
        /// b64, 32 bytes.
        nonce: String,
    },
    /// Code: the person at this side says that both screens show the same.
    Confirm,
    /// PIN: a side's part of the key exchange (SPAKE2).
    Pin {
        /// b64, 33 bytes.
        share: String,
    },
    /// PIN: a side has the same key, and so the same PIN.
    PinProof {
        /// b64, 32 bytes.
        mac: String,
    },
    /// Invite: whoever joins knows the secret.
    Invite {
        /// Which invite, b64.
        invite: String,
        /// b64, 32 bytes.
        mac: String,
    },
    /// PIN and invite: taken; the writer has authorized the reader.
    Accepted {
        /// That the writer knows the secret too, b64, 32 bytes; with an invite only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
        /// The group that the reader is in now, at the writer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// It comes to nothing; the channel is closed.
    Reject {
        /// Why, for programs.
        #[serde(default)]
        code: Code,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
}
