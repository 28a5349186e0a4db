//! What is written down about a series, and what belongs to a version.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::protocol::id::{BundleId, DeviceId, Root};
use crate::protocol::manifest::{Head, Kind};
use crate::protocol::names::BundlePath;
use crate::protocol::series::SeriesName;

/// A version that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Version {
    pub(in super::super) version: u64,
    /// What the bundle is called.
    pub(in super::super) called: BundlePath,
    /// Its name in the destination, which may be `called (2)`.
    pub(in super::super) name: BundlePath,
    pub(in super::super) kind: Kind,
    pub(in super::super) bundle: BundleId,
    pub(in super::super) root: Root,
    pub(in super::super) size: u64,
    /// Hex of the [`stat_digest`] that it had when it was put there.
    pub(in super::super) stat: String,
    /// When it was put aside, in Unix seconds.
    #[serde(default)]
    pub(in super::super) aside: u64,
}

/// What is about to get a place in the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Next {
    pub(in super::super) version: Version,
    /// The folder below `.handout` that it comes from, and its name there.
    pub(in super::super) from: Vec<String>,
    pub(in super::super) top: String,
    /// Device and inode of it.
    pub(in super::super) inode: (u64, u64),
    /// The version that it takes the place of, which is kept.
    pub(in super::super) replaces: Option<(Version, (u64, u64))>,
    /// A person goes back from this version: it is not to come again by itself.
    #[serde(default)]
    pub(in super::super) held: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) v: u32,
    pub(super) origin: DeviceId,
    pub(super) series: SeriesName,
    /// What is in its place.
    pub(super) current: Option<Version>,
    /// What is kept, put aside longest ago first.
    pub(super) kept: Vec<Version>,
    /// The highest version that a person has gone back from: only higher ones are taken.
    #[serde(default)]
    pub(super) held: Option<u64>,
    #[serde(default)]
    pub(super) next: Option<Next>,
}

/// Whether the folder at `path` holds what the head names, and nothing that somebody has put
/// there since. A file has nothing in it.
pub(super) fn holds_nothing_else(path: &Path, head: &Head) -> io::Result<bool> {
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
