//! How things stand: parts of answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, Warning};
use crate::protocol::id::{BroadcastId, BundleId, DeviceId, InviteId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::roles::Roles;
use crate::protocol::series::{Series, SeriesName};
use crate::protocol::transfer::{Direction, TransferState};

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
    /// How the link's packets travel: `host`, from one device to the other; `srflx`, through a
    /// NAT; `relay`, through a TURN server; `rendezvous`, through that. Nothing when there is no link.
    #[serde(default)]
    pub path: Option<String>,
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
