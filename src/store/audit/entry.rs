//! What the audit log says, and how a line of it is written and read.

use std::io;

use serde::{Deserialize, Serialize};

use crate::protocol::id::{BroadcastId, BundleId, DeviceId, InviteId, Root, TransferId};
use crate::protocol::names::printable;
use crate::protocol::roles::Roles;
use crate::protocol::series::Series;
use crate::protocol::transfer::{Direction, Side, TransferState};
use crate::protocol::trust::{Authorization, Floor, GrantedBy, Group};
use crate::store::record::{BroadcastRecord, BroadcastState, TransferRecord};

/// Most characters of a text that others had a say in.
const MAX_TEXT: usize = 400;
/// Most receivers that are named.
const MAX_NAMED: usize = 64;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// A service began its work.
    Started {
        /// This device.
        device_id: DeviceId,
        /// Of the program.
        version: &'static str,
    },
    /// A broadcast began, or is over.
    Broadcast {
        /// Which.
        broadcast: BroadcastId,
        /// What it is called.
        name: String,
        /// Whom it is for, as it was said; at most 64 of them.
        to: Vec<String>,
        /// Bytes in all.
        size: u64,
        /// What is handed out.
        bundle: Option<BundleId>,
        /// Of which series it is a version.
        series: Option<Series>,
        /// `active`, `done` or `cancelled`.
        state: BroadcastState,
    },
    /// A transfer is over: who got what from whom, or why not.
    Transfer(Box<TransferEntry>),
    /// A device is let in.
    Authorized {
        /// Which.
        device: DeviceId,
        /// Its name for people.
        name: String,
        /// Who decided.
        by: GrantedBy,
        /// Which invite, roster or earlier id it came through.
        via: Option<String>,
        /// What it may do, where that is said.
        roles: Option<Roles>,
        /// When it ends, in Unix seconds.
        expires: Option<u64>,
    },
    /// A device is shut out.
    Revoked {
        /// Which.
        device: DeviceId,
    },
    /// A device has a new key.
    KeyChanged {
        /// Its id before.
        device: DeviceId,
        /// Its id from now on.
        to: DeviceId,
    },
    /// A roster is in force.
    Roster {
        /// Who signed it.
        admin: DeviceId,
        /// Its group.
        group: String,
        /// Its version.
        version: u64,
    },
    /// A group was changed.
    Group {
        /// Its name.
        group: String,
        /// How many are in it now.
        members: usize,
        /// What they may do, where that is said.
        roles: Option<Roles>,
    },
    /// A group was removed.
    GroupRemoved {
        /// Its name.
        group: String,
    },
    /// An invite was made, used or taken back.
    Invite {
        /// Which.
        invite: InviteId,
        /// How many devices it is for.
        uses: u32,
        /// How many it has let in.
        used: usize,
        /// The group that they come into.
        group: Option<String>,
        /// When it ends, in Unix seconds.
        expires: u64,
        /// A person has taken it back.
        revoked: bool,
    },
    /// A device that was introduced served falsehoods, or nothing.
    Distrusted {
        /// Which.
        device: DeviceId,
        /// Who introduced it.
        introduced_by: DeviceId,
        /// The bundle.
        bundle: BundleId,
        /// What it did.
        reason: String,
    },
    /// The settings were read again.
    Reloaded {
        /// They hold now; else the old ones still do.
        taken: bool,
        /// What changed, or what is wrong.
        text: String,
    },
    /// The line before was not written to its end: the power was cut, or the disk was full.
    Torn {
        /// How much of it there is.
        bytes: u64,
    },
    /// So many lines found no room while the disk took none.
    Lost {
        /// How many.
        lines: u64,
    },
}

/// A transfer that is over.
#[derive(Debug, Clone, Serialize)]
pub struct TransferEntry {
    /// Which.
    pub transfer: TransferId,
    /// Of which broadcast, where it is ours.
    pub broadcast: Option<BroadcastId>,
    /// Which way.
    pub direction: Direction,
    /// The other device.
    pub device: DeviceId,
    /// Its name for people, where it is on record.
    pub device_name: Option<String>,
    /// What let that device in when the transfer ended.
    pub authorized: Option<String>,
    /// What was transferred.
    pub name: String,
    /// Who made it.
    pub origin: DeviceId,
    /// Which bundle.
    pub bundle: BundleId,
    /// Of which series it is a version.
    pub series: Option<Series>,
    /// Hash over its whole content, where it is known.
    pub root: Option<Root>,
    /// Bytes in all.
    pub size: u64,
    /// Bytes that the receiver has.
    pub bytes: u64,
    /// Payload bytes that went over the link.
    pub moved: u64,
    /// Seconds since its chunks first began to move, in the process that ended it.
    pub seconds: Option<f64>,
    /// How it ended: `complete`, `cancelled` or `failed`.
    pub ended: &'static str,
    /// Who ended it, where somebody did.
    pub by: Option<Side>,
    /// Why, for programs.
    pub code: Option<crate::protocol::message::Code>,
    /// Why, for people.
    pub reason: Option<String>,
    /// When, in Unix seconds.
    pub updated: u64,
}

impl Entry {
    /// What a record of a transfer that is over says. `known` is the decision about the device.
    pub(in crate::store) fn of_transfer(
        record: &TransferRecord,
        known: Option<&Authorization>,
    ) -> Self {
        let (by, code, reason) = match &record.state {
            TransferState::Paused { by, code, reason }
            | TransferState::Cancelled { by, code, reason } => (Some(*by), Some(*code), reason),
            TransferState::Failed { code, reason } => (None, Some(*code), reason),
            _ => (None, None, &String::new()),
        };
        let decided = known.map(|known| match &known.via {
            Some(via) => format!("{} {via}", word(known.by)),
            None => word(known.by),
        });
        Self::Transfer(Box::new(TransferEntry {
            transfer: record.id,
            broadcast: record.broadcast,
            direction: record.direction,
            device: record.peer.clone(),
            device_name: known.map(|known| clip(&known.name)),
            authorized: record.account.authorized.as_deref().map(clip).or(decided),
            name: clip(&record.name),
            origin: record.origin.clone(),
            bundle: record.bundle,
            series: record.series.clone(),
            root: record.root,
            size: record.size,
            bytes: record.bytes_done.min(record.size),
            moved: record.account.moved,
            seconds: record.account.millis.map(|millis| millis as f64 / 1000.0),
            ended: record.state.word(),
            by,
            code,
            reason: (!reason.is_empty()).then(|| clip(reason)),
            updated: record.updated,
        }))
    }

    pub(in crate::store) fn of_broadcast(record: &BroadcastRecord) -> Self {
        let mut to: Vec<String> = record
            .to
            .iter()
            .take(MAX_NAMED)
            .map(|to| clip(to))
            .collect();
        if record.to.len() > MAX_NAMED {
            to.push(format!("and {} more", record.to.len() - MAX_NAMED));
        }
        Self::Broadcast {
            broadcast: record.id,
            name: clip(&record.name),
            to,
            size: record.size,
            bundle: record.bundle,
            series: record.series.clone(),
            state: record.state,
        }
    }

    pub(in crate::store) fn of_authorization(decided: &Authorization) -> Self {
        Self::Authorized {
            device: decided.device.clone(),
            name: clip(&decided.name),
            by: decided.by,
            via: decided.via.as_deref().map(clip),
            roles: decided.roles,
            expires: decided.expires,
        }
    }

    pub(in crate::store) fn of_floor(floor: &Floor) -> Self {
        Self::Roster {
            admin: floor.admin.clone(),
            group: clip(&floor.group),
            version: floor.version,
        }
    }

    pub(in crate::store) fn of_group(group: &Group) -> Self {
        Self::Group {
            group: clip(&group.name),
            members: group.members.len(),
            roles: group.roles,
        }
    }

    /// The settings were read again; `text` says what changed, or what is wrong.
    pub fn reloaded(taken: bool, text: &str) -> Self {
        let text = clip(text);
        Self::Reloaded { taken, text }
    }

    /// A device that was introduced is dropped as a source.
    pub fn distrusted(
        device: DeviceId,
        introduced_by: DeviceId,
        bundle: BundleId,
        reason: &str,
    ) -> Self {
        Self::Distrusted {
            device,
            introduced_by,
            bundle,
            reason: clip(reason),
        }
    }
}

/// The word that JSON has for it.
fn word(by: GrantedBy) -> String {
    let value = serde_json::to_value(by).unwrap_or_default();
    value.as_str().unwrap_or("other").to_owned()
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A line, to be written.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    seq: u64,
    time: String,
    prev: &'a str,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// What every line has, as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) time: String,
    pub(super) prev: String,
    pub(super) what: String,
}

impl<'a> Line<'a> {
    pub(super) fn new(seq: u64, time: u64, prev: &'a str, entry: &'a Entry) -> Self {
        Self {
            seq,
            time: stamp(time),
            prev,
            entry,
        }
    }

    /// The line without its end, harmless in a terminal and in an editor.
    pub(super) fn to_json(&self) -> io::Result<String> {
        Ok(harmless(&serde_json::to_string(self)?))
    }
}

impl Line<'_> {
    pub(super) fn read(line: &[u8]) -> Option<Head> {
        serde_json::from_slice(line).ok()
    }
}

impl Head {
    /// When it was written, in Unix seconds.
    pub(super) fn at(&self) -> Option<u64> {
        let time = chrono::DateTime::parse_from_rfc3339(&self.time).ok()?;
        time.timestamp().try_into().ok()
    }
}

/// Unix seconds as RFC 3339, in UTC.
fn stamp(time: u64) -> String {
    let time = i64::try_from(time).ok();
    let time = time.and_then(|time| chrono::DateTime::from_timestamp(time, 0));
    time.unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// JSON text in which whatever a terminal could act on, or nobody sees, is escaped.
fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut buffer = [0; 4];
    for c in json.chars() {
        let shown = (' '..='~').contains(&c) || printable(c.encode_utf8(&mut buffer)).len() <= 4;
        if shown {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}
