//! Versions of a series in a destination: which one is in its place, and the earlier ones that are
//! kept to go back to.
//!
//! `<destination>/.handout/versions/<series>/` holds `series.json`, and for each version that is
//! kept `<version>/<name>`; `<version>.head` is the head of each one that is here, by which it is
//! seen whether somebody has changed it. Before anything moves, `next` in `series.json` says what
//! is to take which place: whoever opens the folder after an interruption finds out, by the
//! inodes, on which side of the move it was, and goes on from there.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cap_std::fs::Dir;
use data_encoding::HEXLOWER;
use rustix::fs::{FlockOperation, RenameFlags, flock, renameat, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::commit::{inode_of, rename_without_overwriting, stat_digest};
use super::tree;
use crate::protocol::id::{BundleId, DeviceId, Root};
use crate::protocol::manifest::{Head, Kind, MAX_HEAD};
use crate::protocol::names::{BundlePath, STAGING};
use crate::protocol::series::SeriesName;

const VERSIONS: &str = "versions";
const RECORD: &str = "series.json";
/// A record of as many versions as can be kept is smaller.
const MAX_RECORD: u64 = 1 << 20;
const REMOVED: &str = ".removed";
/// Series in one destination.
const MAX_SERIES: usize = 10_000;

/// A version that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) version: u64,
    /// What the bundle is called.
    pub(super) called: BundlePath,
    /// Its name in the destination, which may be `called (2)`.
    pub(super) name: BundlePath,
    pub(super) kind: Kind,
    pub(super) bundle: BundleId,
    pub(super) root: Root,
    pub(super) size: u64,
    /// Hex of the [`stat_digest`] that it had when it was put there.
    pub(super) stat: String,
    /// When it was put aside, in Unix seconds.
    #[serde(default)]
    pub(super) aside: u64,
}

/// What is about to get a place in the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Next {
    pub(super) version: Version,
    /// The folder below `.handout` that it comes from, and its name there.
    pub(super) from: Vec<String>,
    pub(super) top: String,
    /// Device and inode of it.
    pub(super) inode: (u64, u64),
    /// The version that it takes the place of, which is kept.
    pub(super) replaces: Option<(Version, (u64, u64))>,
    /// A person goes back from this version: it is not to come again by itself.
    #[serde(default)]
    pub(super) held: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    v: u32,
    origin: DeviceId,
    series: SeriesName,
    /// What is in its place.
    current: Option<Version>,
    /// What is kept, put aside longest ago first.
    kept: Vec<Version>,
    /// The highest version that a person has gone back from: only higher ones are taken.
    #[serde(default)]
    held: Option<u64>,
    #[serde(default)]
    next: Option<Next>,
}

/// The folder of a series, ours alone until it is dropped.
pub(super) struct Versions {
    dest: Dir,
    dest_path: PathBuf,
    outer: Dir,
    dir: Dir,
    folder: String,
    record: Record,
}

/// The name of a series' folder. What the origin calls it never becomes part of a path.
fn folder_of(origin: &DeviceId, series: &SeriesName) -> String {
    let hash = blake3::Hasher::new()
        .update(b"handout series 1")
        .update(origin.as_str().as_bytes())
        .update(series.as_str().as_bytes())
        .finalize();
    HEXLOWER.encode(&hash.as_bytes()[..16])
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

impl Versions {
    /// Opens the folder of a series, and ends what was interrupted; makes it where there is none.
    pub(super) fn make(
        dest_path: &Path,
        origin: &DeviceId,
        series: &SeriesName,
    ) -> io::Result<Self> {
        let dest = tree::open_destination(dest_path)?;
        let folder = folder_of(origin, series);
        let outer = tree::make_folder(&dest, STAGING, 0o700)?;
        let all = tree::make_folder(&outer, VERSIONS, 0o700)?;
        if !tree::exists(&all, &folder)? && all.entries()?.count() >= MAX_SERIES {
            let most = format!("there are {MAX_SERIES} series in this destination already");
            return Err(io::Error::other(most));
        }
        let dir = tree::make_folder(&all, &folder, 0o700)?;
        tree::sync_folder(&all)?;
        tree::sync_folder(&outer)?;
        let empty = Record {
            v: 1,
            origin: origin.clone(),
            series: series.clone(),
            current: None,
            kept: Vec::new(),
            held: None,
            next: None,
        };
        Self::locked(dest, dest_path, outer, dir, folder, Some(empty))?
            .ok_or_else(|| io::Error::other("the record of a series vanished"))
    }

    /// The same, where there is one.
    pub(super) fn open(
        dest_path: &Path,
        origin: &DeviceId,
        series: &SeriesName,
    ) -> io::Result<Option<Self>> {
        Self::open_folder(dest_path, &folder_of(origin, series))
    }

    /// The same, by the folder's name.
    pub(super) fn open_folder(dest_path: &Path, folder: &str) -> io::Result<Option<Self>> {
        let open = || {
            let dest = tree::open_destination(dest_path)?;
            let outer = tree::folder(&dest, STAGING)?;
            let dir = tree::folder(&tree::folder(&outer, VERSIONS)?, folder)?;
            Ok((dest, outer, dir))
        };
        let Some((dest, outer, dir)) = missing_is_none(open())? else {
            return Ok(None);
        };
        Self::locked(dest, dest_path, outer, dir, folder.to_owned(), None)
    }

    fn locked(
        dest: Dir,
        dest_path: &Path,
        outer: Dir,
        dir: Dir,
        folder: String,
        empty: Option<Record>,
    ) -> io::Result<Option<Self>> {
        // Some file systems have no locks; there, two at once are left to the person's luck.
        let _ = flock(&dir, FlockOperation::LockExclusive);
        let stored = tree::read_small(&dir, RECORD, MAX_RECORD)?;
        let record = match stored.as_deref().map(serde_json::from_slice) {
            Some(Ok(record)) => Some(record),
            Some(Err(error)) => {
                tracing::warn!(%error, folder, "the record of a series is damaged and begun anew");
                renameat(&dir, RECORD, &dir, "series.damaged.json")?;
                empty
            }
            None => empty,
        };
        let Some(record) = record else {
            return Ok(None);
        };
        let mut versions = Self {
            dest,
            dest_path: dest_path.to_owned(),
            outer,
            dir,
            folder,
            record,
        };
        versions.sweep();
        versions.settle()?;
        Ok(Some(versions))
    }

    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    pub(super) fn current(&self) -> Option<&Version> {
        self.record.current.as_ref()
    }

    fn write(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.record)?;
        tree::replace(&self.dir, RECORD, &bytes)
    }

    /// Keeps the head of a version that is about to be here.
    pub(super) fn put_head(&self, version: u64, head: &[u8]) -> io::Result<()> {
        tree::replace(&self.dir, &head_name(version), head)
    }

    fn head(&self, version: u64) -> io::Result<Option<Head>> {
        let bytes = tree::read_small(&self.dir, &head_name(version), MAX_HEAD as u64 + 1)?;
        Ok(bytes.and_then(|bytes| Head::decode(&bytes).ok()))
    }

    /// Gives the version in its place a higher number, where it has this content.
    fn renumber(&mut self, number: u64, root: &Root) -> io::Result<()> {
        let Some(current) = &mut self.record.current else {
            return Ok(());
        };
        if current.root != *root || current.version >= number {
            return Ok(());
        }
        let before = std::mem::replace(&mut current.version, number);
        // The head comes first: with none, the version would count as changed by somebody.
        let (old, new) = (head_name(before), head_name(number));
        if let Some(head) = tree::read_small(&self.dir, &old, MAX_HEAD as u64 + 1)? {
            tree::replace(&self.dir, &new, &head)?;
        }
        self.write()?;
        if self.record.kept.iter().all(|kept| kept.version != before) {
            tree::remove(&self.dir, &old)?;
        }
        Ok(())
    }

    /// Whether a version that lies at `path` is as it was put there: no file touched, none added.
    fn is_untouched(&self, version: &Version, path: &Path) -> io::Result<bool> {
        let Some(head) = self.head(version.version)? else {
            return Ok(false);
        };
        let same =
            stat_digest(path, &head).is_ok_and(|stat| HEXLOWER.encode(&stat) == version.stat);
        Ok(same && holds_nothing_else(path, &head)?)
    }

    /// The version that is in its place, with its inode, if nobody has changed it since.
    pub(super) fn untouched(&self) -> io::Result<Option<(Version, (u64, u64))>> {
        let Some(current) = &self.record.current else {
            return Ok(None);
        };
        let there = inode_of(&self.dest, current.name.as_str())?;
        let Some(inode) = there else { return Ok(None) };
        let path = self.dest_path.join(current.name.as_str());
        let untouched = self.is_untouched(current, &path)?;
        Ok(untouched.then(|| (current.clone(), inode)))
    }

    /// Says durably what is about to move.
    pub(super) fn announce(&mut self, next: Next) -> io::Result<()> {
        self.record.next = Some(next);
        self.write()
    }

    /// Lets what was announced and what has its place change places at once. Where the file
    /// system cannot do that, the old one is put aside first.
    pub(super) fn exchange(&mut self, from: &Dir, top: &str, name: &str) -> Result<(), Errno> {
        match renameat_with(from, top, &self.dest, name, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            other => return other,
        }
        let kind = match self.record.next.as_ref().and_then(|n| n.replaces.as_ref()) {
            Some((old, _)) => {
                let old = old.clone();
                let dest = self.dest.try_clone().map_err(|_| Errno::IO)?;
                self.put_aside(&dest, name, &old).map_err(|_| Errno::IO)?;
                old.kind
            }
            None => return Err(Errno::EXIST),
        };
        rename_without_overwriting(from, top, &self.dest, name, kind)
    }

    /// Moves an old version to where it is kept.
    fn put_aside(&self, from: &Dir, top: &str, old: &Version) -> io::Result<()> {
        let place = old.version.to_string();
        let kept = tree::make_folder(&self.dir, &place, 0o700)?;
        tree::remove(&kept, old.name.as_str())?;
        renameat(from, top, &kept, old.name.as_str())?;
        tree::sync_folder(&kept)?;
        tree::sync_folder(&self.dir)?;
        tree::sync_folder(from)
    }

    /// Puts aside a version whose next one has another name.
    fn keep_renamed(&mut self, old: &Version) -> io::Result<()> {
        let dest = self.dest.try_clone()?;
        self.put_aside(&dest, old.name.as_str(), old)?;
        let aside = now();
        self.record.kept.push(Version {
            aside,
            ..old.clone()
        });
        self.write()
    }

    fn kept_inode(&self, version: &Version) -> io::Result<Option<(u64, u64)>> {
        match missing_is_none(tree::folder(&self.dir, &version.version.to_string()))? {
            Some(kept) => inode_of(&kept, version.name.as_str()),
            None => Ok(None),
        }
    }

    /// Brings to its end what was announced, as far as it came: whatever has moved has moved for
    /// good, and nothing that was here is lost.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        let Some(next) = self.record.next.clone() else {
            return Ok(());
        };
        let mut from = Some(self.outer.try_clone()?);
        for part in &next.from {
            from = match from {
                Some(at) => missing_is_none(tree::folder(&at, part))?,
                None => None,
            };
        }
        let left = match &from {
            Some(from) => inode_of(from, &next.top)?,
            None => None,
        };
        let there = inode_of(&self.dest, next.version.name.as_str())?;
        // Gone from where it was, it has been in its place, wherever a person has put it since.
        let placed = there == Some(next.inode) || left != Some(next.inode);
        if let Some((old, inode)) = &next.replaces {
            if placed
                && left == Some(*inode)
                && let Some(from) = &from
            {
                self.put_aside(from, &next.top, old)?;
            }
            if self.kept_inode(old)? == Some(*inode) {
                self.record.kept.retain(|kept| kept.version != old.version);
                let aside = now();
                self.record.kept.push(Version {
                    aside,
                    ..old.clone()
                });
                if self
                    .record
                    .current
                    .as_ref()
                    .is_some_and(|c| c.version == old.version)
                {
                    self.record.current = None;
                }
            }
        }
        if placed {
            let came = &next.version;
            self.record.kept.retain(|kept| kept.version != came.version);
            self.record.held = self.record.held.max(next.held);
            self.record.current = Some(came.clone());
        }
        self.record.next = None;
        self.write()
    }

    /// Removes what was put aside longest ago, until `keep` versions are left.
    pub(super) fn prune(&mut self, keep: u32) -> io::Result<()> {
        while self.record.kept.len() > keep as usize {
            self.remove_oldest()?;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        if self.record.kept.is_empty() {
            return Ok(());
        }
        let oldest = self.record.kept.remove(0);
        self.write()?;
        let place = oldest.version.to_string();
        let gone = format!("{place}{REMOVED}");
        let _ = self.dir.remove_dir_all(&gone);
        match renameat(&self.dir, place.as_str(), &self.dir, gone.as_str()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if self
            .record
            .current
            .as_ref()
            .is_none_or(|c| c.version != oldest.version)
        {
            tree::remove(&self.dir, &head_name(oldest.version))?;
        }
        tree::sync_folder(&self.dir)?;
        self.sweep();
        Ok(())
    }

    /// Removes what an interrupted removal left.
    fn sweep(&self) {
        let Ok(entries) = self.dir.entries() else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.ends_with(REMOVED)) {
                let _ = self.dir.remove_dir_all(&name);
            }
        }
    }
}

fn head_name(version: u64) -> String {
    format!("{version}.head")
}

/// Whether the folder at `path` holds what the head names, and nothing that somebody has put
/// there since. A file has nothing in it.
fn holds_nothing_else(path: &Path, head: &Head) -> io::Result<bool> {
    if head.kind == Kind::File {
        return Ok(true);
    }
    let mut known: HashSet<&str> = HashSet::new();
    let files = head.files.iter().map(|file| file.path.as_str());
    for mut at in files.chain(head.dirs.iter().map(BundlePath::as_str)) {
        known.insert(at);
        while let Some((parent, _)) = at.rsplit_once('/') {
            known.insert(parent);
            at = parent;
        }
    }
    let mut waiting = vec![(path.to_owned(), String::new())];
    while let Some((folder, at)) = waiting.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Ok(false);
            };
            let below = if at.is_empty() {
                name.to_owned()
            } else {
                format!("{at}/{name}")
            };
            if !known.contains(below.as_str()) {
                return Ok(false);
            }
            if entry.file_type()?.is_dir() {
                waiting.push((entry.path(), below));
            }
        }
    }
    Ok(true)
}

mod placing;
mod shelf;
pub(super) use placing::{Own, Placing, Whole};
pub use shelf::{
    Listed, RollBackError, check_version, earlier_versions, list, make_room, renumber, roll_back,
    takes_place,
};
