//! What is answered, and what is told as it happens.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    CloneInfo, GroupInfo, Introducer, InviteInfo, Mistake, PeerInfo, PlanInfo, Receiver,
    TransferInfo, VersionInfo,
};
use crate::actors::health::Health;
use crate::actors::provider::ProviderEvent;
use crate::actors::report::{BroadcastInfo, Report};
use crate::actors::service::Mode;
use crate::config::Change;
use crate::protocol::id::{BroadcastId, DeviceId, InviteId, TransferId};
use crate::store::GrantedBy;

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
    /// A group.
    Group(GroupInfo),
    /// A roster, signed or to be signed.
    Roster {
        /// Its group.
        group: String,
        /// The file's content.
        text: String,
    },
    /// A device has a new key, which its old one has signed: all that was said of the old id
    /// holds for the new one.
    KeyChanged {
        /// Its id now.
        device_id: DeviceId,
        /// Its id before.
        earlier: DeviceId,
        /// Its name for people.
        name: String,
    },
    /// A change of key that a device shows counts for nothing.
    KeyRefused {
        /// The id that it would have.
        device_id: DeviceId,
        /// From which address.
        address: String,
        /// Why.
        reason: String,
    },
    /// This device has a new key.
    Renewed {
        /// Its id now.
        device_id: DeviceId,
        /// Its id before.
        earlier: DeviceId,
        /// Others are shown the change and follow it; else it is another device to them.
        followed: bool,
        /// Invites that ended.
        invites: usize,
    },
    /// The same key is in use on two machines.
    Cloned {
        /// Which device.
        device_id: DeviceId,
        /// Its name for people.
        name: String,
        /// It is our own key.
        ours: bool,
        /// What is known.
        #[serde(flatten)]
        clone: CloneInfo,
    },
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
    /// This PIN lets in whoever types it on another device.
    PairPin {
        /// Six digits.
        pin: String,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// The other screen must show the same code;
    /// [`Request::PairAnswer`](super::Request::PairAnswer) says whether it does.
    PairCode {
        /// Which device.
        device_id: DeviceId,
        /// Its name for people.
        name: String,
        /// Six digits.
        code: String,
    },
    /// We and a device have let each other in.
    Paired {
        /// Which device.
        device_id: DeviceId,
        /// Its name for people.
        name: String,
        /// How.
        by: GrantedBy,
        /// The group that it has put us into.
        group: Option<String>,
    },
    /// An invite, as it stands.
    Invite(InviteInfo),
    /// A device has come in by an invite.
    Joined {
        /// Which device.
        device_id: DeviceId,
        /// Its name for people.
        name: String,
        /// By which invite.
        invite: InviteId,
        /// The group that it is in now.
        group: Option<String>,
        /// How many devices the invite still lets in.
        left: u32,
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
    /// A broadcast of the config file, as it now stands.
    Plan(Box<PlanInfo>),
    /// A transfer, as it now stands.
    Transfer(TransferInfo),
    /// An offer waits for a person: [`Request::Accept`](super::Request::Accept) takes it,
    /// [`Request::Refuse`](super::Request::Refuse) does not.
    Asked {
        /// Which transfer.
        transfer: TransferId,
        /// Who offers.
        device_id: DeviceId,
        /// Its name for people.
        device_name: String,
        /// What is offered.
        name: String,
        /// Bytes in all.
        size: u64,
        /// Number of files, where known.
        files: Option<u32>,
        /// When it counts as refused, in Unix seconds.
        until: u64,
    },
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
    /// A bundle is offered that has arrived before and is unchanged here, as far as can be told
    /// without its content.
    Here {
        /// The transfer that brought it.
        transfer: TransferId,
        /// Who offers it.
        device_id: DeviceId,
        /// What it is called.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// Bytes in all.
        bytes: u64,
    },
    /// A program that was run after an arrival has ended.
    Ran {
        /// The transfer that arrived.
        transfer: TransferId,
        /// From whom.
        device_id: DeviceId,
        /// Where the bundle is.
        path: PathBuf,
        /// The program.
        program: String,
        /// Its exit code; nothing when it was killed or could not be started.
        code: Option<i32>,
        /// How it ended, for people.
        how: String,
        /// How long it took, in seconds.
        seconds: f64,
        /// The beginning of what it wrote, made harmless.
        output: String,
    },
    /// A version of a series that is here.
    Version(VersionInfo),
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
    /// The settings were read again, and hold from now on.
    Reloaded {
        /// The file, where there is one.
        file: Option<PathBuf>,
        /// What changed.
        changes: Vec<Change>,
    },
    /// The settings were read again and are wrong: those from before still hold.
    NotReloaded {
        /// All mistakes.
        mistakes: Vec<Mistake>,
    },
    /// A broadcast on record.
    BroadcastInfo(BroadcastInfo),
    /// What became of a broadcast.
    Report(Box<Report>),
    /// Whether the process does what it is for.
    Health(Health),
    /// What the process was started for.
    Mode {
        /// That.
        mode: Mode,
    },
    /// Programs of this machine can ask over HTTP.
    Serving {
        /// Where: `http://address:port`, or `unix:/path`.
        url: String,
        /// The file with the token.
        token_file: PathBuf,
    },
    /// Something on the way to what was asked for at the rendezvous.
    Fetching {
        /// What.
        what: ProviderEvent,
    },
    /// Whether this device is at its rendezvous, or no longer.
    Rendezvous {
        /// Why it is not; nothing when it is.
        reason: Option<String>,
    },
    /// What a look through the audit log has found.
    AuditChecked {
        /// Files that there are.
        files: usize,
        /// Lines in them.
        lines: u64,
        /// Lines that were not written to their end, and are marked as such.
        torn: u64,
        /// Lines that are not as they were written.
        wrong: u64,
        /// The first of those, and what is wrong.
        faults: Vec<String>,
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
