//! What can go wrong in the store, said to a person.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the state folder.
    #[error(
        "the state folder {} is in use by {}; stop that first, or choose another folder with --state",
        state_dir.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The state folder.
        state_dir: PathBuf,
        /// The process that has it, where its lock file says so.
        pid: Option<u32>,
    },
    /// A file or folder of the store could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The key file does not hold a key.
    #[error(
        "the device key {} is damaged: it must hold 64 hex digits; restore it from a backup, or \
         remove it to become a new device, which everyone must authorize again",
        path.display()
    )]
    DamagedIdentity {
        /// The key file.
        path: PathBuf,
    },
    /// The system gave no random bytes for a new key.
    #[error("cannot make a device key: the system gives no random bytes: {0}")]
    NoRandomness(String),
    /// The database was written by a newer version of this program.
    #[error(
        "the database {} was written by a newer version ({table} has schema {found}, this version \
         knows {known}); use that version, or another folder with --state",
        path.display()
    )]
    Newer {
        /// The database folder.
        path: PathBuf,
        /// The table in question.
        table: &'static str,
        /// Its schema version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The database failed in use.
    #[error(
        "the database {} failed: {message}; start again: if it is damaged it is set aside then, \
         and no received file is lost",
        path.display()
    )]
    Database {
        /// The database folder.
        path: PathBuf,
        /// What the database said.
        message: String,
    },
    /// The disk takes nothing more.
    #[error(
        "the disk at {} has no room left, so {} cannot be written ({fault}): free some room there, \
         and do it again; it was not done", disk.display(), path.display()
    )]
    NoRoom {
        /// Where the disk is mounted.
        disk: PathBuf,
        /// What could not be written.
        path: PathBuf,
        /// What the system said.
        fault: String,
    },
    /// A record is larger than is kept.
    #[error("{what} of {size} bytes is more than the {limit} bytes that are kept")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// As many records as are kept.
    #[error("there are {limit} {what} already; remove some that are no longer needed")]
    Full {
        /// What there are too many of.
        what: &'static str,
        /// How many may be kept.
        limit: usize,
    },
    /// The key in an authorization belongs to another device.
    #[error(
        "the key given for the device {device} belongs to another device; authorize by id alone, or with its own key"
    )]
    WrongKey {
        /// The device that was to be authorized.
        device: String,
    },
    /// Progress of a transfer that has no record.
    #[error("the transfer {0} has no record, so its progress cannot be kept")]
    UnknownTransfer(String),
}

/// What full disks and used up quotas are called, by the system and by Rust.
const FULL: [&str; 4] = [
    "No space left on device",
    "StorageFull",
    "Disk quota exceeded",
    "QuotaExceeded",
];

/// Where the disk of a path is mounted: the highest folder that is on the same one.
fn disk_of(path: &Path) -> PathBuf {
    let device = |path: &Path| path.metadata().ok().map(|meta| meta.dev());
    let mut there = path.ancestors().skip_while(|path| device(path).is_none());
    let Some(first) = there.next() else {
        return path.to_owned();
    };
    let same = there.take_while(|path| device(path) == device(first));
    same.last().unwrap_or(first).to_owned()
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return Self::no_room(path, source.to_string());
        }
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Of the database, which says why in words, also where that is a full disk.
    pub(super) fn database(path: &Path, message: String) -> Self {
        let says = |word: &&str| message.contains(word);
        if FULL.iter().any(says) {
            return Self::no_room(path, message);
        }
        Self::Database {
            path: path.to_owned(),
            message,
        }
    }

    fn no_room(path: &Path, fault: String) -> Self {
        Self::NoRoom {
            disk: disk_of(path),
            path: path.to_owned(),
            fault,
        }
    }
}
