//! What can go wrong in the store, said to a person.

use std::io;
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

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
