//! Text messages of the native dialect (PROTOCOL.md §6 and §8).

use serde::{Deserialize, Serialize};

use super::exchange::Have;
use super::frame::{Handle, MAX_MESSAGE};
use super::id::{BundleId, DeviceId, Root, RunId, TransferId};
use super::identity::{PublicKey, Signature};
use super::introduction::Introduction;
use super::names::brief;
use super::series::Series;
use super::signal::SignalKind;

/// A text message on the `fileshare` channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Message {
    /// Who I say I am; opens the channel handshake.
    Hello(Hello),
    /// The signature that shows it.
    Proof {
        /// Over the statement of PROTOCOL.md §6.
        sig: Signature,
    },
    /// A step of first contact.
    Pair(super::pairing::PairMessage),
    /// The sender offers a bundle, or offers it again after an interruption.
    StartTransfer(Box<StartTransfer>),
    /// The receiver's answer to it.
    #[serde(alias = "START_TRANSFER_ACKNOLEDGED")]
    StartTransferAcknowledged(Acknowledgement),
    /// How many payload bytes the receiver has taken since START_TRANSFER.
    Ack {
        /// The transfer.
        handle: Handle,
        /// Payload bytes.
        bytes: u64,
    },
    /// The sender has sent everything that was missing.
    EndOfChunks {
        /// The transfer.
        handle: Handle,
        /// The root of the whole bundle.
        root: Root,
        /// The origin's signature of it.
        root_sig: Signature,
    },
    /// Chunks are still missing after the end.
    Need {
        /// The transfer.
        handle: Handle,
        /// Bitmap of what is there, see [`super::chunkset::ChunkSet`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        have: Option<String>,
    },
    /// Verified, on disk, under its final name.
    TransferComplete {
        /// The transfer.
        handle: Handle,
        /// The root that was verified. Plain clients leave it out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
    },
    /// Stop for now.
    Pause {
        /// The transfer.
        handle: Handle,
        /// Why, for programs.
        #[serde(default)]
        code: Code,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
    /// Go on: the sender starts again with START_TRANSFER.
    Resume {
        /// The transfer.
        handle: Handle,
    },
    /// Stop for good.
    Cancel {
        /// The transfer.
        handle: Handle,
        /// Why, for programs.
        #[serde(default)]
        code: Code,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
    /// The origin vouches for another receiver.
    Introduce(Box<Introduction>),
    /// It no longer does.
    EndIntroduction {
        /// For which of its bundles.
        bundle: BundleId,
        /// For which device.
        peer: DeviceId,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
    /// A signaling message for, or from, a device that the origin has introduced.
    Signal {
        /// To the origin: whom it is for. From the origin: who wrote it.
        with: DeviceId,
        /// The origin passes it on.
        #[serde(default)]
        passed: bool,
        /// What `data` is.
        kind: SignalKind,
        /// As in signaling over TCP, at most 16 KiB.
        data: String,
    },
    /// What the writer has of a bundle.
    Have(Box<Have>),
    /// Chunks that the writer wants of what a neighbour has.
    Want {
        /// Under which the reader serves.
        handle: Handle,
        /// Runs of chunks, as `[first, how many]`.
        chunks: Vec<(u32, u32)>,
    },
}

/// The opening of the channel handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol version.
    pub v: u32,
    /// The writer's device id.
    pub id: DeviceId,
    /// The key that hashes to it.
    pub key: PublicKey,
    /// 32 random bytes, b64.
    pub nonce: String,
    /// The device's name for people.
    #[serde(default)]
    pub name: String,
    /// `desktop` or `mobile`.
    #[serde(default)]
    pub device: String,
    /// Tells this start of the writer's program from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// An offered bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTransfer {
    /// The transfer's number on this link.
    pub handle: Handle,
    /// The transfer, stable over reconnects.
    pub id: TransferId,
    /// Names the head.
    pub bundle: BundleId,
    /// Who made the bundle.
    pub origin: DeviceId,
    /// The origin's key.
    pub key: PublicKey,
    /// The bundle's name.
    pub name: String,
    /// One file or a folder tree.
    pub kind: super::manifest::Kind,
    /// All bytes of all files.
    pub size: u64,
    /// Number of files.
    pub files: u32,
    /// Bytes per chunk.
    pub chunk_size: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// MIME type of a single file; `inode/directory` for a tree.
    pub mime: String,
    /// Bytes of the head that follows.
    pub head_size: u32,
    /// The root, where already known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// The origin's signature of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_sig: Option<Signature>,
    /// Of which series it is a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
    /// It is given back to a device that hands out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hand_in: bool,
    /// The sender can send all pages before the first chunk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pages_first: bool,
}

/// The receiver's answer to START_TRANSFER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The transfer.
    pub handle: Handle,
    /// What the receiver decided. Plain clients may leave it out, which accepts.
    #[serde(default)]
    pub status: Decision,
    /// With `accepted`: bitmap of the chunks that are already there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<String>,
    /// With `accepted`: ACK messages will come.
    #[serde(default)]
    pub acks: bool,
    /// With `accepted`: the pages are to come first, then nothing until NEED. Only to a sender
    /// that can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pages_first: bool,
    /// With `complete`: the root of what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// With `refused` and `paused`: why, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// With `refused` and `paused`: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a receiver decides about an offered bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Send what is missing.
    #[default]
    Accepted,
    /// It is already here, whole.
    Complete,
    /// Not wanted, or not possible.
    Refused,
    /// Wanted, but not now.
    Paused,
}

/// Why a transfer is paused, refused, cancelled or failed: one word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A person or the config has not authorized the device.
    Unauthorized,
    /// Policy or a person said no.
    Declined,
    /// Too much going on.
    Busy,
    /// A person paused it.
    Paused,
    /// It waits for a person at the receiver to take it or not.
    Asking,
    /// A person cancelled it.
    Cancelled,
    /// No room at the receiver.
    DiskFull,
    /// The receiver's disk failed, or refused.
    DiskError,
    /// Above what the receiver lets this device send.
    Quota,
    /// Hashes or signatures do not fit.
    Integrity,
    /// The message made no sense.
    BadRequest,
    /// A feature or version that is not there.
    Unsupported,
    /// The file changed at the origin while it was being sent.
    Changed,
    /// The program is ending.
    Shutdown,
    /// The connection could not be made, or was lost and not regained.
    NotConnected,
    /// Anything else, and words of later versions.
    #[default]
    #[serde(other)]
    Other,
}

/// Why a text is not a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Above 64 KiB.
    #[error("a text message of {0} bytes is too long")]
    TooLong(usize),
    /// Not JSON, or not one of ours.
    #[error("not a message of this protocol: {0}")]
    Malformed(String),
}

impl Message {
    /// Reads one text message.
    pub fn decode(text: &[u8]) -> Result<Self, MessageError> {
        if text.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong(text.len()));
        }
        // The error's text repeats words of the message.
        serde_json::from_slice(text).map_err(|e| MessageError::Malformed(brief(&e.to_string())))
    }

    /// Writes it.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("messages hold nothing that JSON cannot say")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_of_the_first_draft_is_understood() {
        let text = br#"{"type":"START_TRANSFER_ACKNOLEDGED","handle":3}"#;
        let Message::StartTransferAcknowledged(ack) = Message::decode(text).unwrap() else {
            panic!()
        };
        assert_eq!(
            (ack.handle, ack.status, ack.acks),
            (3, Decision::Accepted, false)
        );
    }

    #[test]
    fn unknown_keys_and_codes_are_tolerated_and_unknown_types_are_not() {
        let text = br#"{"type":"PAUSE","handle":3,"code":"sunspots","reason":"x","more":[1]}"#;
        assert!(matches!(
            Message::decode(text),
            Ok(Message::Pause {
                code: Code::Other,
                ..
            })
        ));
        assert!(Message::decode(br#"{"type":"REBOOT","handle":3}"#).is_err());
    }

    #[test]
    fn errors_repeat_little_of_a_message_and_nothing_that_a_terminal_acts_on() {
        let text = format!("{{\"type\":\"\u{1b}[2J{}\"}}", "x".repeat(60_000));
        let text = text.replace('\u{1b}', "\\u001b");
        let error = Message::decode(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(r"\u{1b}[2J"), "{error}");
        assert!(error.len() < 300 && !error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn long_and_deep_messages_are_refused() {
        let mut text = br#"{"type":"RESUME","handle":1}"#.to_vec();
        text.resize(MAX_MESSAGE, b' ');
        assert_eq!(
            Message::decode(&text).unwrap(),
            Message::Resume { handle: 1 }
        );
        text.push(b' ');
        assert!(Message::decode(&text).is_err());
        assert!(Message::decode("[".repeat(60_000).as_bytes()).is_err());
    }
}
