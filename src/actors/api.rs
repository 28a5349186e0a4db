//! What a person or a program can ask of a running node, and what it answers: the types of the
//! local API, as JSON lines. Every request is answered by any number of events and then one
//! [`Event::End`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::id::{BroadcastId, BundleId, DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::transfer::{Direction, TransferState};

/// Something asked of the node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Who is this?
    Id,
    /// Who is here, and who may?
    Peers,
    /// Let a device exchange bundles with us.
    Authorize {
        /// The device.
        device: DeviceId,
        /// Its name for people; the advertised one when empty.
        name: String,
    },
    /// No longer let it; live links end.
    Revoke {
        /// A device's id, the beginning of one, or a name.
        device: String,
    },
    /// Broadcast files, and tell how it goes until all is said.
    Send {
        /// Files and folders, absolute.
        paths: Vec<PathBuf>,
        /// Device ids, names, or `all`.
        to: Vec<String>,
        /// How long to wait for a device that is not there, in milliseconds; `None` for ever.
        wait_ms: Option<u64>,
    },
    /// All transfers on record.
    Transfers,
    /// Pause a transfer or broadcast.
    Pause {
        /// An id, or the beginning of one.
        what: String,
    },
    /// Go on with it.
    Resume {
        /// An id, or the beginning of one.
        what: String,
    },
    /// Stop it for good.
    Cancel {
        /// An id, or the beginning of one.
        what: String,
    },
    /// Everything that happens from now on, until the connection is closed.
    Watch,
}

/// Something that happened, or part of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The node is ready.
    Listening {
        /// Our id.
        device_id: DeviceId,
        /// Our name for people.
        name: String,
        /// The port of our signaling listener.
        port: u16,
        /// Where received bundles go; nothing when we do not receive.
        destination: Option<PathBuf>,
    },
    /// Who this is.
    Id {
        /// Our id.
        device_id: DeviceId,
        /// Our name for people.
        name: String,
        /// Our public key, b64.
        key: String,
    },
    /// A device: on the network, authorized, or both.
    Peer(PeerInfo),
    /// A device is no longer seen.
    PeerGone {
        /// Which.
        device_id: DeviceId,
    },
    /// A device that nobody has decided about wants to connect.
    Unauthorized {
        /// Which.
        device_id: DeviceId,
        /// From which address.
        address: String,
        /// What to do about it.
        hint: String,
    },
    /// A device was introduced to us: we may exchange chunks of a bundle with it.
    Introduced {
        /// Which.
        device_id: DeviceId,
        /// Who introduced it, and for what.
        #[serde(flatten)]
        introducer: Introducer,
    },
    /// An introduced device served falsehoods, or nothing, and is dropped for that bundle.
    Distrusted {
        /// Which.
        device_id: DeviceId,
        /// Who introduced it, and for what.
        #[serde(flatten)]
        introducer: Introducer,
        /// What it did.
        reason: String,
    },
    /// So much of a bundle that has arrived came from an introduced device.
    Relayed {
        /// The transfer.
        transfer: TransferId,
        /// From whom.
        device_id: DeviceId,
        /// Verified bytes.
        bytes: u64,
    },
    /// A connection could not be made, or was lost.
    NotConnected {
        /// To which device.
        device_id: DeviceId,
        /// Why.
        reason: String,
    },
    /// A broadcast has begun.
    Broadcast {
        /// Which.
        broadcast: BroadcastId,
        /// What it is called.
        name: String,
        /// Bytes in all.
        size: u64,
        /// Number of files.
        files: u32,
        /// What was left out, and why.
        skipped: Vec<String>,
    },
    /// A transfer, as it now stands.
    Transfer(TransferInfo),
    /// How far a transfer is.
    Progress {
        /// Which.
        transfer: TransferId,
        /// The other device.
        device_id: DeviceId,
        /// Bytes that the receiver has.
        bytes: u64,
        /// Bytes in all.
        size: u64,
    },
    /// A bundle has arrived, verified.
    Received {
        /// Which transfer.
        transfer: TransferId,
        /// From whom.
        device_id: DeviceId,
        /// Where it is.
        path: PathBuf,
        /// Bytes in all.
        bytes: u64,
        /// Hash over the whole content.
        root: String,
    },
    /// How a broadcast ended.
    Summary {
        /// Which.
        broadcast: BroadcastId,
        /// What it is called.
        name: String,
        /// Bytes in all.
        size: u64,
        /// Each receiver.
        receivers: Vec<Receiver>,
    },
    /// A short word for people.
    Note {
        /// The word.
        text: String,
    },
    /// The request could not be served.
    Error {
        /// What happened, to what, and what to do.
        message: String,
    },
    /// The answer ends here.
    End {
        /// The exit code that says how it went.
        code: u8,
    },
}

/// A device, as seen and as decided about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its id.
    pub device_id: DeviceId,
    /// Its name for people.
    pub name: String,
    /// `desktop` or `mobile`; empty when unknown.
    pub device_type: String,
    /// Where it listens; empty when it is not there.
    pub addresses: Vec<String>,
    /// It may exchange bundles with us.
    pub authorized: bool,
    /// There is a link to it now.
    pub connected: bool,
    /// It has proven who it is, on this link.
    pub verified: bool,
    /// Who introduced it to us, and for what.
    #[serde(default)]
    pub introduced: Vec<Introducer>,
    /// Why the last connection failed.
    pub error: Option<String>,
}

/// Who vouches for a device, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introducer {
    /// The origin of the bundle.
    pub by: DeviceId,
    /// Its name for people.
    pub by_name: String,
    /// Which bundle.
    pub bundle: BundleId,
    /// What it is called.
    pub bundle_name: String,
}

/// A transfer, as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransferInfo {
    /// Which.
    pub transfer: TransferId,
    /// The broadcast, where it is ours.
    pub broadcast: Option<BroadcastId>,
    /// Which way.
    pub direction: Direction,
    /// The other device.
    pub device_id: DeviceId,
    /// Its name for people.
    pub device_name: String,
    /// What is being transferred.
    pub name: String,
    /// Bytes that the receiver has.
    pub bytes: u64,
    /// Bytes in all.
    pub size: u64,
    /// Where it stands.
    pub state: TransferState,
}

/// One line of the table at the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receiver {
    /// Which device.
    pub device_id: DeviceId,
    /// Its name for people.
    pub name: String,
    /// Where its transfer stands: one word.
    pub state: String,
    /// Why it does not have it, for programs.
    pub code: Option<Code>,
    /// Why it does not have it, for people.
    pub reason: Option<String>,
    /// Bytes that it has.
    pub bytes: u64,
    /// Payload bytes that were sent to it in this run.
    pub sent: u64,
    /// Seconds from its first byte until it had everything, verified and in its place.
    pub seconds: Option<f64>,
    /// It had everything before.
    pub already: bool,
    /// It has proven who it is; false for plain clients.
    pub verified: bool,
}

/// The program's exit codes.
pub mod exit {
    /// All delivered.
    pub const OK: u8 = 0;
    /// Something went wrong.
    pub const ERROR: u8 = 1;
    /// Usage or config.
    pub const USAGE: u8 = 2;
    /// Some receivers failed.
    pub const SOME_FAILED: u8 = 3;
    /// Not authorized.
    pub const UNAUTHORIZED: u8 = 4;
    /// No receiver before the deadline.
    pub const NO_RECEIVER: u8 = 5;
    /// Integrity.
    pub const INTEGRITY: u8 = 6;
    /// Disk or quota.
    pub const DISK: u8 = 7;
    /// Interrupted.
    pub const INTERRUPTED: u8 = 130;
}
