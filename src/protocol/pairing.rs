//! First contact: how two devices that have proven their keys come to authorize each other
//! (PROTOCOL.md §13).

pub mod code;
pub mod guests;
pub mod pin;
pub mod standing;

use serde::{Deserialize, Serialize};

use super::handshake::Binding;
use super::id::InviteId;
use super::identity::{PublicKey, unb64};
use super::message::Code;
use super::names::printable;

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
        /// Which invite.
        invite: InviteId,
        /// b64, 32 bytes.
        mac: String,
    },
    /// Invite: taken; the writer has authorized the reader.
    Accepted {
        /// The writer knows the secret too, b64, 32 bytes.
        mac: String,
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

impl PairMessage {
    /// True for a first message: the others answer one.
    pub fn begins(&self) -> bool {
        matches!(
            self,
            Self::Commit { .. } | Self::Pin { .. } | Self::Invite { .. }
        )
    }
}

/// The two ends of the connection that a pairing goes on over, both proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties {
    /// Names the connection.
    pub binding: Binding,
    /// Our key.
    pub ours: PublicKey,
    /// The key of the other side.
    pub theirs: PublicKey,
}

/// How a pairing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Say this; the other side has to say something.
    Say(PairMessage),
    /// Say this, and show the person the code, to be compared with the other screen.
    Show {
        /// Six digits.
        code: String,
        /// What to say.
        say: Option<PairMessage>,
    },
    /// Nothing yet.
    Wait,
    /// Authorize the other side; when that is on disk, say this.
    Grant {
        /// What to say.
        say: Option<PairMessage>,
    },
    /// It comes to nothing.
    End {
        /// What to say last.
        say: Option<PairMessage>,
        /// Why.
        why: Ended,
    },
}

/// Why a pairing has come to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The person at this side said no.
    #[error("the codes are not the same")]
    Declined,
    /// The other side has ended it.
    #[error("the other device says: {reason}")]
    Refused {
        /// Why, for programs.
        code: Code,
        /// Why, for people; harmless.
        reason: String,
    },
    /// The nonce does not fit the commitment.
    #[error(
        "the other device did not keep to what it had committed to: somebody may sit in between"
    )]
    BadReveal,
    /// The keys differ, and so do the PINs.
    #[error("the PIN is not the one that is shown")]
    WrongPin,
    /// A message whose turn it was not.
    #[error("the other device sent something out of turn")]
    OutOfTurn,
    /// Not the bytes that belong there.
    #[error("the other device sent something that cannot be read")]
    Unreadable,
}

impl Ended {
    /// The other side's own words, cut and made harmless.
    pub fn refused(code: Code, reason: &str) -> Self {
        let reason = printable(reason).chars().take(200).collect();
        Self::Refused { code, reason }
    }

    fn step(self) -> Step {
        let code = match &self {
            Self::Refused { .. } => None,
            Self::Declined => Some(Code::Declined),
            Self::BadReveal => Some(Code::Integrity),
            Self::WrongPin => Some(Code::Unauthorized),
            Self::OutOfTurn | Self::Unreadable => Some(Code::BadRequest),
        };
        let say = code.map(|code| PairMessage::Reject {
            code,
            reason: self.to_string(),
        });
        Step::End { say, why: self }
    }
}

fn bytes32(text: &str) -> Result<[u8; 32], Ended> {
    unb64(text)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Ended::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::Identity;

    /// Device `ours` and device `theirs` on one connection.
    pub(super) fn parties(ours: u8, theirs: u8) -> Parties {
        parties_on([7; 32], ours, theirs)
    }

    pub(super) fn parties_on(binding: Binding, ours: u8, theirs: u8) -> Parties {
        let key = |n| Identity::from_seed(&[n; 32]).public_key();
        let (ours, theirs) = (key(ours), key(theirs));
        Parties {
            binding,
            ours,
            theirs,
        }
    }
}
