//! What a person or a program can ask of a running node, and what it answers: the types of the
//! local API, as JSON lines. Every request is answered by any number of events and then one
//! [`Event::End`].

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::health::Health;
use super::report::{BroadcastInfo, Report};
use crate::config::{Change, ConfigError, Warning};
use crate::protocol::allowance::Share;
use crate::protocol::id::{BroadcastId, BundleId, DeviceId, InviteId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::roles::Roles;
use crate::protocol::series::{Series, SeriesName};
use crate::protocol::transfer::{Direction, TransferState};
use crate::store::GrantedBy;

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
        /// What it may do; nothing for what its groups say.
        #[serde(default)]
        roles: Option<Roles>,
        /// The group to put it into.
        #[serde(default)]
        group: Option<String>,
        /// For how many seconds; nothing for ever.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// Something about groups and rosters.
    Group(GroupRequest),
    /// No longer let it; live links end.
    Revoke {
        /// A device's id, the beginning of one, or a name.
        device: String,
    },
    /// Broadcast files, and tell how it goes until all is said.
    Send {
        /// Files and folders, absolute.
        paths: Vec<PathBuf>,
        /// Device ids, names, groups, or `all`.
        to: Vec<String>,
        /// How long to wait for a device that is not there, in milliseconds; `None` for ever.
        wait_ms: Option<u64>,
        /// When it has its turn, how fast it goes, and to how many at a time.
        #[serde(default)]
        share: Share,
    },
    /// The same for a version of a series: at the receivers it takes the place of the one before.
    SendVersion {
        /// Which series, and which version.
        series: Series,
        /// Files and folders, absolute.
        paths: Vec<PathBuf>,
        /// Device ids, names, groups, or `all`.
        to: Vec<String>,
        /// How long to wait for a device that is not there, in milliseconds; `None` for ever.
        wait_ms: Option<u64>,
    },
    /// All versions that are here of what was received.
    Versions,
    /// Put an earlier version in the place of the one that is there.
    RollBack {
        /// The name of a series, or the beginning of the id of a transfer that brought one.
        what: String,
        /// Which version; the newest before the one that is there, where nothing is said.
        to: Option<u64>,
    },
    /// Give files back to a device that hands out, and tell how it goes until all is said.
    HandIn {
        /// Files and folders, absolute.
        paths: Vec<PathBuf>,
        /// A device's id, the beginning of one, or a name; who last sent something here, where
        /// nothing is said.
        to: Option<String>,
        /// How long to wait for it, in milliseconds; `None` for ever.
        wait_ms: Option<u64>,
    },
    /// Pair with a device, and tell how it goes until it is done; at most one at a time.
    Pair {
        /// A device's id, the beginning of one, or a name; whoever comes where nothing is said.
        with: Option<String>,
        /// Where it listens, besides what discovery says.
        addresses: Vec<SocketAddr>,
        /// How.
        way: PairWay,
        /// How long to wait for it, in milliseconds.
        for_ms: u64,
    },
    /// A person has compared the codes.
    PairAnswer {
        /// With which device.
        device: DeviceId,
        /// They are the same.
        yes: bool,
    },
    /// Make an invite.
    Invite {
        /// How many devices it lets in.
        uses: u32,
        /// For how long, in milliseconds.
        for_ms: u64,
        /// The group that they come into.
        group: Option<String>,
        /// What they may do; what the group says, or everything, where nothing is said.
        roles: Option<Roles>,
        /// Where this device can be reached; its own addresses where none are given.
        addresses: Vec<SocketAddr>,
    },
    /// All invites on record.
    Invites,
    /// Take invites back.
    RevokeInvite {
        /// An id, the beginning of one, or `all`.
        what: String,
    },
    /// Come in by an invite.
    Join {
        /// The token, or the URL.
        invite: String,
    },
    /// All transfers on record.
    Transfers,
    /// All broadcasts on record.
    Broadcasts,
    /// What became of a broadcast, device by device.
    Report {
        /// Its id, the beginning of that, its name, or that of its series.
        what: String,
        /// Which version of the series; the newest when nothing is said.
        #[serde(default)]
        version: Option<u64>,
    },
    /// Whether the process does what it is for.
    Health,
    /// The broadcasts of the config file, as they stand.
    Plans,
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
    /// Take an offer that waits for a person.
    Accept {
        /// An id, or the beginning of one.
        what: String,
    },
    /// Do not take it.
    Refuse {
        /// An id, or the beginning of one.
        what: String,
    },
    /// Read the settings again.
    Reload,
    /// Everything that happens from now on, until the connection is closed; first, what a person
    /// is being asked.
    Watch,
}

/// Something about groups and rosters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum GroupRequest {
    /// All groups.
    List,
    /// One group.
    Show {
        /// Its name.
        group: String,
    },
    /// Put devices into a group, which is made where there is none.
    Add {
        /// Its name.
        group: String,
        /// Devices' ids, the beginnings of such, or names.
        devices: Vec<String>,
    },
    /// Take devices out of a group.
    Remove {
        /// Its name.
        group: String,
        /// Devices' ids, the beginnings of such, or names; none for the group itself, with its
        /// rosters.
        devices: Vec<String>,
    },
    /// Say what the members of a group may do.
    Roles {
        /// Its name.
        group: String,
        /// What; nothing to say nothing about it.
        roles: Option<Roles>,
    },
    /// A roster of the group's devices, to be signed.
    Export {
        /// Its name.
        group: String,
        /// A word of the admin.
        note: String,
    },
    /// Sign a roster with this device's key.
    Sign {
        /// What `Export` gave.
        draft: String,
        /// For how many seconds it is good.
        seconds: u64,
        /// Its version, instead of the next one.
        version: Option<u64>,
    },
    /// Let the devices of a signed roster in.
    Import {
        /// The signed roster.
        roster: String,
        /// Who must have signed it; needed when its admin is not known yet.
        admin: Option<DeviceId>,
    },
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
    /// The other screen must show the same code; [`Request::PairAnswer`] says whether it does.
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
    /// An offer waits for a person: [`Request::Accept`] takes it, [`Request::Refuse`] does not.
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
    /// Programs of this machine can ask over HTTP.
    Serving {
        /// Where: `http://address:port`, or `unix:/path`.
        url: String,
        /// The file with the token.
        token_file: PathBuf,
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

/// A mistake in the settings, or something that is hardly meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    /// The file, the variable, or the command line.
    pub source: Option<String>,
    /// The line of the file, from 1.
    pub line: Option<usize>,
    /// The column in it, from 1.
    pub column: Option<usize>,
    /// The setting, with its section.
    pub key: Option<String>,
    /// All of that, what is wrong, and what to do, for people.
    pub message: String,
    /// What was meant, perhaps.
    pub suggestion: Option<String>,
}

impl Mistake {
    /// All mistakes of settings that were not taken.
    pub fn all(error: &ConfigError) -> Vec<Self> {
        error.mistakes().iter().map(Self::of).collect()
    }

    fn of(error: &ConfigError) -> Self {
        let place = error.place();
        Self {
            line: place.as_ref().and_then(|place| place.line),
            column: place.as_ref().and_then(|place| place.column),
            source: place.map(|place| place.source),
            key: error.key().map(str::to_owned),
            message: printable(&error.to_string()),
            suggestion: error.suggestion().map(str::to_owned),
        }
    }

    /// What is no mistake, but hardly meant.
    pub fn of_warning(warning: &Warning) -> Self {
        Self {
            source: Some(warning.place.source.clone()),
            line: warning.place.line,
            column: warning.place.column,
            key: Some(warning.key.clone()),
            message: printable(&warning.to_string()),
            suggestion: None,
        }
    }
}

/// A version of what was received.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Which series, and which version.
    #[serde(flatten)]
    pub series: Series,
    /// Whose series it is.
    pub device_id: DeviceId,
    /// Its name for people.
    pub device_name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes of its files.
    pub size: u64,
    /// It is in its place; else it is kept to go back to.
    pub current: bool,
    /// Somebody has changed it since it came, or taken it away.
    pub changed: bool,
    /// A person went back from it, so it does not come again by itself.
    pub rolled_back: bool,
}

/// How two devices come to know each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairWay {
    /// People compare a code on both screens.
    Code,
    /// A PIN that the other screen shows, typed here.
    TypePin(String),
    /// A PIN that is shown here.
    ShowPin,
}

/// An invite, as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InviteInfo {
    /// Which.
    pub invite: InviteId,
    /// What others join with; only when it is new.
    pub token: Option<String>,
    /// The same as a URL.
    pub url: Option<String>,
    /// How many devices it is for.
    pub uses: u32,
    /// How many it would still let in.
    pub left: u32,
    /// When it ends, in Unix seconds.
    pub expires: u64,
    /// Seconds until then.
    pub seconds: u64,
    /// It is a kiosk's: it does not end, and the uses are those of a day.
    #[serde(default)]
    pub each_day: bool,
    /// The group that they come into.
    pub group: Option<String>,
    /// What they may do.
    pub roles: Option<Roles>,
    /// Why it lets nobody in any more.
    pub ended: Option<String>,
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
    /// What it may do.
    #[serde(default)]
    pub roles: Roles,
    /// The groups that it is in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What authorizes it, or why nothing does.
    #[serde(default)]
    pub why: String,
    /// When that ends, in Unix seconds; nothing for never.
    #[serde(default)]
    pub expires: Option<u64>,
    /// There is a link to it now.
    pub connected: bool,
    /// It has proven who it is, on this link.
    pub verified: bool,
    /// Who introduced it to us, and for what.
    #[serde(default)]
    pub introduced: Vec<Introducer>,
    /// Why the last connection failed.
    pub error: Option<String>,
    /// Its key is in use on two machines.
    #[serde(default)]
    pub clone: Option<CloneInfo>,
}

/// One key on two machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneInfo {
    /// Where they were seen, as far as known.
    pub addresses: Vec<String>,
    /// Both have proven the key on a link; else only adverts say so, which anybody can forge.
    pub proven: bool,
    /// What to do about it.
    pub hint: String,
}

/// A group, as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// What its members may do where nothing is said about them.
    pub roles: Option<Roles>,
    /// Its members, by a person or by a roster.
    pub members: Vec<PeerInfo>,
    /// Its rosters.
    pub rosters: Vec<RosterInfo>,
}

/// A roster in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RosterInfo {
    /// Who signed it.
    pub admin: DeviceId,
    /// Its version.
    pub version: u64,
    /// When it ends, in Unix seconds.
    pub expires: u64,
    /// A word of the admin.
    pub note: String,
    /// How many devices it names.
    pub devices: usize,
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

/// A broadcast of the config file, as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanInfo {
    /// Its name, and that of the series of its versions.
    pub series: SeriesName,
    /// `waiting` for its time, `settling` until it rests, `open`, `resting` outside of its hours,
    /// `lacking` something to hand out, `over`, `off`, or `stopped` where no service runs.
    pub state: String,
    /// Why, for people.
    pub why: Option<String>,
    /// The last version that began.
    pub version: Option<u64>,
    /// Its broadcast.
    pub broadcast: Option<BroadcastId>,
    /// When it began, in Unix seconds.
    pub began: Option<u64>,
    /// When something happens by the clock next, in Unix seconds.
    pub next: Option<u64>,
    /// Until when devices are waited for, in Unix seconds.
    pub deadline: Option<u64>,
    /// What the clock says, in Unix seconds.
    pub now: u64,
    /// Whom it is for, as the file says it.
    pub to: Vec<String>,
    /// Words of `to` that mean nobody yet.
    pub unknown: Vec<String>,
    /// Where each device stands; empty in what is told while it happens.
    pub receivers: Vec<PlanReceiver>,
}

/// A device that a broadcast of the config file is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanReceiver {
    /// Which.
    pub device_id: DeviceId,
    /// Its name for people.
    pub name: String,
    /// Its transfer.
    pub transfer: TransferId,
    /// Where that stands: one word.
    pub state: String,
    /// Why it rests, or ended.
    pub reason: Option<String>,
    /// Bytes that it has.
    pub bytes: u64,
    /// Bytes in all.
    pub size: u64,
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
    /// Pending: what it waits for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
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
