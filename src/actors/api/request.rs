//! What can be asked.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::actors::provider::Fetching;
use crate::protocol::allowance::Share;
use crate::protocol::id::DeviceId;
use crate::protocol::roles::Roles;
use crate::protocol::series::Series;

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
    /// What the process was started for.
    Mode,
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
    /// Ask for data at the rendezvous, and receive it.
    Fetch(Fetching),
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
