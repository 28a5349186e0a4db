//! What is asked about versions from outside: which may come, which are here, to go back to one,
//! and to let old ones go for want of room.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustix::io::Errno;

use super::super::Earlier;
use super::super::commit::{inode_of, rename_without_overwriting};
use super::super::sink::free_space;
use super::super::sink_error::SinkError;
use super::super::tree;
use super::{MAX_SERIES, Next, VERSIONS, Version, Versions};
use crate::protocol::id::{BundleId, DeviceId, Root};
use crate::protocol::names::{STAGING, printable};
use crate::protocol::series::{Series, SeriesName};

/// Versions whose files are looked through for chunks of a new one.
const MAX_EARLIER: usize = 3;

/// A version that is in a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Whose series it is.
    pub origin: DeviceId,
    /// Which series, and which version.
    pub series: Series,
    /// The bundle, and its root.
    pub bundle: BundleId,
    /// Over its whole content.
    pub root: Root,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes of its files.
    pub size: u64,
    /// It is the one in its place, and not one that is kept.
    pub current: bool,
    /// Somebody has changed it since it was put there, or taken it away.
    pub changed: bool,
    /// A person went back from it.
    pub held: bool,
}

/// Why there was no going back.
#[derive(Debug, thiserror::Error)]
pub enum RollBackError {
    /// Nothing of that series is here.
    #[error("no version of {series} is kept in {}", printable(&dest.to_string_lossy()))]
    NoSeries {
        /// The series.
        series: SeriesName,
        /// The destination.
        dest: PathBuf,
    },
    /// That version is not among those kept.
    #[error("{}", no_version(series, *to, kept))]
    NoVersion {
        /// The series.
        series: SeriesName,
        /// The version that was asked for.
        to: Option<u64>,
        /// Those that are kept.
        kept: Vec<u64>,
    },
    /// What would be put aside is a person's work by now.
    #[error(
        "{} was changed since it came, or something else has its name: move it to another place, then try again",
        printable(&path.to_string_lossy())
    )]
    Changed {
        /// What lies there.
        path: PathBuf,
    },
    /// The system said no.
    #[error("{}: {source}", printable(&path.to_string_lossy()))]
    Io {
        /// Of what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn no_version(series: &SeriesName, to: Option<u64>, kept: &[u64]) -> String {
    let kept: Vec<String> = kept.iter().map(u64::to_string).collect();
    match (to, kept.is_empty()) {
        (_, true) => format!("no earlier version of {series} is kept (receive.keep_versions)"),
        (Some(to), _) => format!(
            "version {to} of {series} is not kept; there are: {}",
            kept.join(", ")
        ),
        (None, _) => format!(
            "no version of {series} before this one is kept; say which with --to: {}",
            kept.join(", ")
        ),
    }
}

/// Whether a version of a series may come into `dest`: none that is older than the one that is
/// there, and none that a person went back from.
pub fn check_version(dest: &Path, origin: &DeviceId, offered: &Series) -> Result<(), SinkError> {
    let versions = Versions::open(dest, origin, &offered.name);
    let versions = versions.map_err(|error| SinkError::of_io(dest, error, || (0, 0)))?;
    let Some(versions) = versions else {
        return Ok(());
    };
    versions.refuses(offered).map_or(Ok(()), Err)
}

/// Whether a new version would take the place of the one that is there now.
pub fn takes_place(dest: &Path, origin: &DeviceId, series: &Series, called: &str) -> bool {
    let versions = Versions::open(dest, origin, &series.name);
    let untouched = versions.ok().flatten().map(|versions| versions.untouched());
    let untouched = untouched.and_then(Result::ok).flatten();
    untouched.is_some_and(|(current, _)| current.called.as_str() == called)
}

/// The versions of a series that are in `dest`, to take chunks of a new one from: the one in its
/// place first. Whether they are still as they were is for [`super::super::Reuse`] to see.
pub fn earlier_versions(dest: &Path, origin: &DeviceId, series: &SeriesName) -> Vec<Earlier> {
    let Ok(Some(versions)) = Versions::open(dest, origin, series) else {
        return Vec::new();
    };
    let entry = |version: &Version, path: PathBuf| {
        let stat = HEXLOWER.decode(version.stat.as_bytes()).ok()?;
        Some(Earlier {
            bundle: version.bundle,
            path,
            stat: stat.try_into().ok()?,
            head: Some(versions.head(version.version).ok()??),
        })
    };
    let current = versions.record.current.iter();
    let current = current.map(|v| entry(v, dest.join(v.name.as_str())));
    let kept = versions.record.kept.iter().rev();
    let kept = kept.map(|v| entry(v, versions.kept_path(v)));
    current.chain(kept).flatten().take(MAX_EARLIER).collect()
}

/// Notes that the content which is in its place has a higher number by now. Blocks.
pub fn renumber(dest: &Path, origin: &DeviceId, now: &Series, root: &Root) -> io::Result<()> {
    match Versions::open(dest, origin, &now.name)? {
        Some(mut versions) => versions.renumber(now.version, root),
        None => Ok(()),
    }
}

/// Does something with each series in a destination, one after another: each is locked meanwhile.
fn each<T>(dest: &Path, mut act: impl FnMut(Versions) -> T) -> Vec<T> {
    let names = || {
        let dest = tree::open_destination(dest)?;
        let all = tree::folder(&tree::folder(&dest, STAGING)?, VERSIONS)?;
        let entries = all.entries()?.take(MAX_SERIES);
        entries
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<Vec<_>>>()
    };
    let names = names().unwrap_or_default();
    let names = names.iter().filter_map(|name| name.to_str());
    // One that cannot be read hides no other.
    let opened = names.filter_map(|name| match Versions::open_folder(dest, name) {
        Ok(versions) => versions.map(&mut act),
        Err(error) => {
            tracing::warn!(%error, name, "the versions of a series cannot be read");
            None
        }
    });
    opened.collect()
}

/// All versions in a destination, those of one series together, the newest first. Blocks.
pub fn list(dest: &Path) -> Vec<Listed> {
    let mut all: Vec<Listed> = each(dest, |versions| versions.listed()).concat();
    all.sort_by(|a, b| {
        let key = |one: &Listed| (one.series.name.clone(), one.origin.clone());
        key(a)
            .cmp(&key(b))
            .then(b.series.version.cmp(&a.series.version))
    });
    all
}

/// Removes versions that are kept, those put aside longest ago first, until `dest` has `needed`
/// bytes free; none where all of them would not make room enough. True when there is room now.
/// Blocks.
pub fn make_room(dest: &Path, needed: u64) -> bool {
    let kept = each(dest, |versions| {
        let sizes = versions.record.kept.iter().map(|kept| kept.size);
        sizes.fold(0, u64::saturating_add)
    });
    let kept = kept.into_iter().fold(0, u64::saturating_add);
    if free_space(dest).is_ok_and(|free| free.saturating_add(kept) < needed) {
        return false;
    }
    loop {
        if free_space(dest).is_ok_and(|free| free >= needed) {
            return true;
        }
        let oldest = each(dest, |versions| {
            let oldest = versions.record.kept.first()?;
            Some((oldest.aside, versions.folder().to_owned()))
        });
        let Some((_, folder)) = oldest.into_iter().flatten().min() else {
            return false;
        };
        let removed = Versions::open_folder(dest, &folder).and_then(|versions| {
            let mut versions = versions.ok_or(io::ErrorKind::NotFound)?;
            let series = &versions.record.series;
            tracing::info!(%series, "the oldest version that was kept is removed to make room");
            versions.remove_oldest()
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "an old version could not be removed");
            return false;
        }
    }
}

/// Puts an earlier version in the place of the one that is there, which is kept instead: version
/// `to`, or the newest before the one that is there. Blocks.
pub fn roll_back(
    dest: &Path,
    origin: &DeviceId,
    series: &SeriesName,
    to: Option<u64>,
) -> Result<Listed, RollBackError> {
    let io = |source| RollBackError::Io {
        path: dest.to_owned(),
        source,
    };
    let versions = Versions::open(dest, origin, series).map_err(io)?;
    let mut versions = versions.ok_or_else(|| RollBackError::NoSeries {
        series: series.clone(),
        dest: dest.to_owned(),
    })?;
    versions.roll_back(to)?;
    let current = versions.listed().into_iter().find(|listed| listed.current);
    current.ok_or_else(|| io(io::Error::other("it was moved away meanwhile")))
}

impl Versions {
    /// Why a version does not come in.
    pub(super) fn refuses(&self, offered: &Series) -> Option<SinkError> {
        let here = self.record.current.as_ref()?.version;
        let series = offered.clone();
        if here == offered.version {
            return None;
        }
        if self.record.held.is_some_and(|held| offered.version <= held) {
            return Some(SinkError::RolledBack { series });
        }
        (offered.version < here).then_some(SinkError::Older { series, here })
    }

    fn listed(&self) -> Vec<Listed> {
        let held = self.record.held;
        let entry = |version: &Version, path: PathBuf, current: bool| Listed {
            origin: self.record.origin.clone(),
            series: Series {
                name: self.record.series.clone(),
                version: version.version,
            },
            bundle: version.bundle,
            root: version.root,
            size: version.size,
            current,
            changed: !self.is_untouched(version, &path).unwrap_or(false),
            held: !current && held.is_some_and(|held| version.version <= held),
            path,
        };
        let current = self.record.current.iter();
        let current = current.map(|v| entry(v, self.dest_path.join(v.name.as_str()), true));
        let kept = self.record.kept.iter();
        let kept = kept.map(|v| entry(v, self.kept_path(v), false));
        current.chain(kept).collect()
    }

    fn kept_path(&self, version: &Version) -> PathBuf {
        let folder = self
            .dest_path
            .join(STAGING)
            .join(VERSIONS)
            .join(self.folder());
        folder
            .join(version.version.to_string())
            .join(version.name.as_str())
    }

    fn roll_back(&mut self, to: Option<u64>) -> Result<(), RollBackError> {
        let now = self.record.current.as_ref().map(|current| current.version);
        let fits = |kept: &&Version| match to {
            Some(to) => kept.version == to,
            None => now.is_none_or(|now| kept.version < now),
        };
        let found = self
            .record
            .kept
            .iter()
            .filter(fits)
            .max_by_key(|kept| kept.version);
        let Some(found) = found.cloned() else {
            return Err(RollBackError::NoVersion {
                series: self.record.series.clone(),
                to,
                kept: self.record.kept.iter().map(|kept| kept.version).collect(),
            });
        };
        let place = self
            .record
            .current
            .clone()
            .map_or(found.name.clone(), |c| c.name);
        let path = self.dest_path.join(place.as_str());
        let at = |error: io::Error| RollBackError::Io {
            path: path.clone(),
            source: error,
        };
        let untouched = self.untouched().map_err(at)?;
        let there = inode_of(&self.dest, place.as_str()).map_err(at)?;
        if there.is_some() && untouched.is_none() {
            return Err(RollBackError::Changed { path });
        }
        let from = tree::folder(&self.dir, &found.version.to_string()).map_err(at)?;
        let top = found.name.as_str().to_owned();
        let inode = inode_of(&from, &top).map_err(at)?;
        let inode = inode.ok_or_else(|| at(io::Error::from(io::ErrorKind::NotFound)))?;
        let folder = self.folder().to_owned();
        let version = Version {
            name: place.clone(),
            ..found.clone()
        };
        let from_path = vec![VERSIONS.to_owned(), folder, found.version.to_string()];
        self.announce(Next {
            version,
            from: from_path,
            top: top.clone(),
            inode,
            replaces: untouched.clone(),
            held: now,
        })
        .map_err(at)?;
        let moved = match untouched {
            Some(_) => self.exchange(&from, &top, place.as_str()),
            None => rename_without_overwriting(&from, &top, &self.dest, place.as_str(), found.kind),
        };
        match moved {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(RollBackError::Changed { path }),
            Err(error) => return Err(at(error.into())),
        }
        let synced = tree::sync_folder(&self.dest).and_then(|()| tree::sync_folder(&from));
        synced.and_then(|()| self.settle()).map_err(at)?;
        // Fails where something is left in it, as it should.
        let _ = self.dir.remove_dir(found.version.to_string());
        Ok(())
    }
}
