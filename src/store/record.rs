//! What the store keeps: the records and their bounds.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::protocol::allowance::Share;
use crate::protocol::id::{BroadcastId, BundleId, DeviceId, InviteId, Root, TransferId};
use crate::protocol::invite::Issued;
use crate::protocol::plan::Memory;
use crate::protocol::series::{Series, SeriesName};
use crate::protocol::transfer::{Direction, TransferState};
pub use crate::protocol::trust::{Authorization, GrantedBy, Group};

impl TransferRecord {
    /// True while a person is asked about it.
    pub fn is_asked(&self) -> bool {
        matches!(self.question, Some(Question::Open { .. })) && !self.state.is_final()
    }

    /// True for what this device hands out under that name. Names of what comes are others' to
    /// choose, and mean nothing here.
    pub fn is_called(&self, name: &str) -> bool {
        let series = self.series.as_ref().map(|series| series.name.as_str());
        self.direction == Direction::Outgoing && (self.name == name || series == Some(name))
    }
}

/// One bundle to a set of devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastRecord {
    /// The broadcast.
    pub id: BroadcastId,
    /// What is handed out.
    #[serde(with = "path_list")]
    pub paths: Vec<PathBuf>,
    /// The bundle's name.
    pub name: String,
    /// Device names, ids, groups or `all`, as the person said it.
    pub to: Vec<String>,
    /// When it was made, in Unix seconds.
    pub created: u64,
    /// Where it stands.
    pub state: BroadcastState,
    /// The bundle, once its head is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleId>,
    /// All bytes of all files; 0 until known.
    pub size: u64,
    /// When it has its turn, how fast it goes, and to how many at a time.
    #[serde(default)]
    pub share: Share,
    /// Of which series it is a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
    /// It is given back to a device that hands out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hand_in: bool,
}

/// Where a broadcast stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BroadcastState {
    /// Devices may still get it.
    Active,
    /// Every device that it was for has it, or never will.
    Done,
    /// Stopped for good on purpose.
    Cancelled,
}

/// One broadcast to, or from, one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRecord {
    /// The transfer, stable over reconnects and restarts.
    pub id: TransferId,
    /// Which way the bytes go.
    pub direction: Direction,
    /// The broadcast it belongs to, where we made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<BroadcastId>,
    /// The device at the other end of the link.
    pub peer: DeviceId,
    /// The device that made the bundle.
    pub origin: DeviceId,
    /// The bundle.
    pub bundle: BundleId,
    /// Its name.
    pub name: String,
    /// All bytes of all files.
    pub size: u64,
    /// Where it stands.
    pub state: TransferState,
    /// When that last changed, in Unix seconds.
    pub updated: u64,
    /// Incoming: where it is being put, or was put.
    #[serde(default, with = "path_option", skip_serializing_if = "Option::is_none")]
    pub destination: Option<PathBuf>,
    /// The root, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// A digest of the files' sizes and times, by which a change is noticed without reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat_digest: Option<String>,
    /// Payload bytes that are safe, at the last checkpoint.
    pub bytes_done: u64,
    /// Incoming: what a person was asked about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    /// Of which series it is a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
    /// It is given back to a device that hands out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hand_in: bool,
    /// Incoming: what is run after the arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// How it went, for whoever asks later.
    #[serde(default, flatten)]
    pub account: Account,
}

/// A program that is run after an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// It is to be run, or was while the process ended.
    Due,
    /// It has ended.
    Ran {
        /// Its exit code; nothing when it was killed or could not be started.
        code: Option<i32>,
    },
}

/// How a transfer went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Payload bytes that went over the link, in all processes.
    #[serde(default)]
    pub moved: u64,
    /// Milliseconds since its chunks first began to move, in the process that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis: Option<u64>,
    /// What let the other device in when this last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized: Option<String>,
}

/// Whether a person takes an offered bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Nobody has answered yet.
    Open {
        /// When it counts as refused, in Unix seconds.
        until: u64,
    },
    /// Somebody has said yes.
    Accepted,
}

/// What is remembered of a `[[broadcast]]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Its name.
    pub name: SeriesName,
    /// How far it is.
    #[serde(flatten)]
    pub memory: Memory,
    /// The broadcast of its last version; those of its transfers say who has that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<BroadcastId>,
}

/// A record that lives in a table of its own.
pub(super) trait Record: Clone + Serialize + DeserializeOwned {
    /// What the record is, in the plural, for errors.
    const WHAT: &'static str;
    /// How many may be kept.
    const MOST: usize;
    type Key: Ord + Clone;
    fn key(&self) -> Self::Key;
    fn key_bytes(key: &Self::Key) -> &[u8];
}

macro_rules! record {
    ($type:ty, $what:literal, $most:literal, $key:ty, $field:ident, $bytes:ident) => {
        impl Record for $type {
            const WHAT: &'static str = $what;
            const MOST: usize = $most;
            type Key = $key;
            fn key(&self) -> $key {
                self.$field.clone()
            }
            fn key_bytes(key: &$key) -> &[u8] {
                key.$bytes()
            }
        }
    };
}
record!(
    BroadcastRecord,
    "broadcasts",
    10_000,
    BroadcastId,
    id,
    as_bytes
);
record!(
    TransferRecord,
    "transfers",
    10_000,
    TransferId,
    id,
    as_bytes
);
record!(Group, "groups", 1_000, String, name, as_bytes);
record!(PlanRecord, "plans", 2_000, SeriesName, name, as_bytes);
record!(Issued, "invites", 200, InviteId, id, as_bytes);

/// Paths as text where they are UTF-8, else as `{"bytes": hex}`: no path of this machine is
/// beyond storing.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredPath {
    Text(String),
    Bytes { bytes: String },
}

impl StoredPath {
    fn of(path: &std::path::Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes {
                bytes: data_encoding::HEXLOWER.encode(path.as_os_str().as_bytes()),
            },
        }
    }

    fn path<E: serde::de::Error>(self) -> Result<PathBuf, E> {
        use std::os::unix::ffi::OsStringExt;
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Bytes { bytes } => data_encoding::HEXLOWER
                .decode(bytes.as_bytes())
                .map(|bytes| std::ffi::OsString::from_vec(bytes).into())
                .map_err(E::custom),
        }
    }
}

mod path_list {
    use super::{PathBuf, StoredPath};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| StoredPath::of(path)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        let stored = Vec::<StoredPath>::deserialize(from)?;
        stored.into_iter().map(StoredPath::path).collect()
    }
}

mod path_option {
    use super::{PathBuf, StoredPath};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_deref().map(StoredPath::of).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let stored = Option::<StoredPath>::deserialize(from)?;
        stored.map(StoredPath::path).transpose()
    }
}
