//! The folder in a destination where a bundle grows until it is whole:
//! `<destination>/.handout/<id>/` with `head`, `meta.json`, `pages`, and below `data` the files.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cap_std::fs::Dir;
use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, FlockOperation, flock, fstat, renameat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::tree::{self, inode};
use super::versions::Versions;
use crate::protocol::id::{BundleId, DeviceId, Root, TransferId};
use crate::protocol::identity::PublicKey;
use crate::protocol::manifest::{MAX_HEAD, bundle_id};
use crate::protocol::names::STAGING;

pub(super) const HEAD: &str = "head";
pub(super) const META: &str = "meta.json";
pub(super) const DATA: &str = "data";
/// Written before the bundle gets its final name.
pub(super) const FINISHING: &str = "finishing.json";
const SMALL: u64 = 64 * 1024;
const REMOVED: &str = ".removed";

/// What a person, or a receiver that lost its database, can learn about a partial bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) v: u32,
    pub(super) origin: DeviceId,
    pub(super) key: PublicKey,
    pub(super) bundle: BundleId,
    pub(super) transfer: TransferId,
}

/// The name under which the bundle is about to appear, and how it is recognised there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finishing {
    pub(super) name: String,
    pub(super) root: Root,
    /// Hex of the digest of [`super::stat_digest`].
    pub(super) stat: String,
    /// Device and inode of what came, where it changes places with what has its name: which of
    /// the two lies where shows on which side of that an interruption was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) swaps: Option<(u64, u64)>,
    /// The folder of the series of which it is a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) series: Option<String>,
}

/// The staging folder's name for a bundle of an origin.
pub(super) fn folder_name(origin: &DeviceId, bundle: &BundleId) -> String {
    let hash = blake3::Hasher::new()
        .update(origin.as_str().as_bytes())
        .update(bundle.as_bytes())
        .finalize();
    HEXLOWER.encode(&hash.as_bytes()[..16])
}

/// The head of a bundle that was begun in `dest` and is not finished: with it, a receiver can
/// open its [`super::Sink`] again and say what it has before the sender has sent anything.
pub fn find_partial(dest: &Path, origin: &DeviceId, bundle: &BundleId) -> Option<Vec<u8>> {
    let dest = tree::open_destination(dest).ok()?;
    let staging = tree::folder(
        &tree::folder(&dest, STAGING).ok()?,
        &folder_name(origin, bundle),
    )
    .ok()?;
    let head = tree::read_small(&staging, HEAD, MAX_HEAD as u64 + 1).ok()??;
    (bundle_id(&head) == *bundle).then_some(head)
}

/// Removes what a bundle that will never be finished has left in `dest`. Nothing there is fine.
pub fn discard_partial(dest: &Path, origin: &DeviceId, bundle: &BundleId) -> io::Result<()> {
    if find_partial(dest, origin, bundle).is_none() {
        return Ok(());
    }
    let dest_path = dest;
    let dest = tree::open_destination(dest)?;
    match Staging::open(&dest, &folder_name(origin, bundle))? {
        Some(staging) => {
            staging.settle_series(dest_path)?;
            staging.remove()
        }
        None => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "still being written",
        )),
    }
}

/// A staging folder that is ours alone.
pub(super) struct Staging {
    pub(super) dir: Dir,
    name: String,
    dest: Dir,
    lock: (u64, u64),
}

/// Folders that this process works in, by device and inode: `flock` would do, but not every file
/// system has it.
static OPEN: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

impl Staging {
    /// Opens or makes the folder. `None` when somebody else works in it.
    pub(super) fn open(dest: &Dir, name: &str) -> io::Result<Option<Self>> {
        // Whoever finishes removes folders that are empty, perhaps just behind us.
        for _ in 0..16 {
            let outer = tree::make_folder(dest, STAGING, 0o700)?;
            sweep(&outer);
            let dir = match tree::make_folder(&outer, name, 0o700) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let lock = inode(&fstat(&dir)?);
            if !OPEN
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(lock)
            {
                return Ok(None);
            }
            let staging = Self {
                dir,
                name: name.to_owned(),
                dest: dest.try_clone()?,
                lock,
            };
            if flock(&staging.dir, FlockOperation::NonBlockingLockExclusive)
                == Err(Errno::WOULDBLOCK)
            {
                return Ok(None);
            }
            let there = statat(&outer, name, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|stat| inode(&stat) == lock) {
                tree::sync_folder(&outer)?;
                tree::sync_folder(dest)?;
                return Ok(Some(staging));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the staging folder vanishes while it is being opened",
        ))
    }

    /// Writes a small file unless it is already as it should be.
    pub(super) fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if tree::read_small(&self.dir, name, bytes.len() as u64 + 1)?.as_deref() == Some(bytes) {
            return Ok(());
        }
        tree::replace(&self.dir, name, bytes)
    }

    /// What an interrupted run wrote about the final name.
    pub(super) fn finishing(&self) -> io::Result<Option<Finishing>> {
        let stored = tree::read_small(&self.dir, FINISHING, SMALL)?;
        Ok(stored.and_then(|stored| serde_json::from_slice(&stored).ok()))
    }

    /// What was replaced by a version of a series, and still lies here, goes to where it is kept.
    pub(super) fn settle_series(&self, dest: &Path) -> io::Result<()> {
        if let Some(folder) = self.finishing()?.and_then(|finishing| finishing.series) {
            Versions::open_folder(dest, &folder)?;
        }
        Ok(())
    }

    /// Removes the folder. It gets another name first, so that no half of it is ever taken for a
    /// partial bundle.
    pub(super) fn remove(self) -> io::Result<()> {
        let outer = tree::folder(&self.dest, STAGING)?;
        let removed = format!("{}{REMOVED}", self.name);
        // Another may be sweeping the same leftovers.
        let _ = outer.remove_dir_all(&removed);
        renameat(&outer, self.name.as_str(), &outer, removed.as_str())?;
        tree::sync_folder(&outer)?;
        if let Err(error) = outer.remove_dir_all(&removed) {
            tracing::debug!(%error, removed, "removing a staging folder is left to the next run");
        }
        // Fails while another bundle is there, as it should.
        let _ = self.dest.remove_dir(STAGING);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        OPEN.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.lock);
    }
}

/// Removes what an interrupted [`Staging::remove`] left.
fn sweep(outer: &Dir) {
    let Ok(entries) = outer.entries() else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(REMOVED)) {
            let _ = outer.remove_dir_all(&name);
        }
    }
}
