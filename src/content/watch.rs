//! Folders that are handed out by themselves: what is in them, in a few bytes, and when to look.
//!
//! The system's word that something changed only says that it is worth looking: what counts is
//! the digest of names, sizes and times. So a network folder that says nothing, a limit on watches
//! that is reached, and an event that is lost cost some time and nothing else.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::scan::{Scan, scan_set};
use super::withheld::Withheld;
use crate::protocol::manifest::MAX_ENTRIES;
use crate::protocol::names::printable;
use crate::protocol::plan::{Part, PathPattern};

/// Most places that are watched for one set of patterns; with more, looking now and then has to do.
const MAX_PLACES: usize = 1000;

/// Why nothing was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    /// It is no longer what it was.
    Moved,
    /// There is nothing, for this reason.
    Missing(String),
}

/// The paths that patterns mean now, in order, each once.
///
/// # Errors
/// Why there are none, for people.
pub fn expand(patterns: &[PathPattern]) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for pattern in patterns {
        let before = found.len();
        below(pattern.base(), pattern.parts(), &mut found)?;
        if pattern.parts().is_empty() {
            let path = pattern.base();
            fs::metadata(path).map_err(|error| cannot(path, &error))?;
        } else if found.len() == before {
            let shown = printable(&pattern.to_string());
            return Err(format!("nothing fits {shown}"));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn cannot(path: &Path, error: &std::io::Error) -> String {
    let path = printable(&path.to_string_lossy());
    format!("{path} cannot be read: {error}")
}

fn below(base: &Path, parts: &[Part], found: &mut Vec<PathBuf>) -> Result<(), String> {
    let Some((part, rest)) = parts.split_first() else {
        found.push(base.to_owned());
        return match found.len() > MAX_ENTRIES {
            true => Err(format!("more than {MAX_ENTRIES} paths fit")),
            false => Ok(()),
        };
    };
    let entries = fs::read_dir(base).map_err(|error| cannot(base, &error))?;
    for entry in entries
        .flatten()
        .filter(|entry| part.fits(&entry.file_name()))
    {
        let path = entry.path();
        if rest.is_empty() {
            below(&path, rest, found)?;
        } else if path.is_dir() {
            // One that may not be read has nothing that fits.
            let _ = below(&path, rest, found);
        }
    }
    Ok(())
}

/// What is there, as a digest of names, sizes, times and modes; no file is read. Blocks.
///
/// # Errors
/// Why there is nothing, for people.
pub fn look(patterns: &[PathPattern]) -> Result<String, String> {
    let (mut hasher, mut files, mut entries) = (blake3::Hasher::new(), 0_usize, 0_usize);
    for path in expand(patterns)? {
        // What is named itself may be a link; what is below may not.
        let meta = fs::metadata(&path).map_err(|error| cannot(&path, &error))?;
        let mut waiting = vec![(path, meta)];
        while let Some((path, meta)) = waiting.pop() {
            entries += 1;
            if entries > 2 * MAX_ENTRIES {
                return Err(format!(
                    "there are more than {MAX_ENTRIES} files and folders"
                ));
            }
            note(&mut hasher, &path, &meta);
            if !meta.is_dir() {
                files += usize::from(meta.is_file());
                continue;
            }
            // What cannot be read is not handed out either, and does not hold up the rest.
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            let below = below.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
            let mut below: Vec<_> = below.collect();
            below.sort_by(|(a, _), (b, _)| b.cmp(a));
            waiting.extend(below);
        }
    }
    if files == 0 {
        return Err("there are no files in it".to_owned());
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

fn note(hasher: &mut blake3::Hasher, path: &Path, meta: &Metadata) {
    let name = path.as_os_str().as_encoded_bytes();
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name);
    hasher.update(&meta.mode().to_le_bytes());
    // A folder's own size and time change with files that come and go, which count themselves.
    if !meta.is_dir() {
        hasher.update(&meta.len().to_le_bytes());
        hasher.update(&meta.mtime().to_le_bytes());
        hasher.update(&meta.mtime_nsec().to_le_bytes());
    }
}

/// What is there, to be handed out under this name where it is more than one file or folder; only
/// if it looks like `digest`, before and after. Blocks.
///
/// # Errors
/// It looks different, or there is nothing.
pub fn take(
    patterns: &[PathPattern],
    name: &str,
    digest: &str,
    withheld: &Withheld,
) -> Result<Scan, NotTaken> {
    let looks = || look(patterns).map_err(NotTaken::Missing);
    if looks()? != digest {
        return Err(NotTaken::Moved);
    }
    let paths = expand(patterns).map_err(NotTaken::Missing)?;
    let single = matches!(patterns, [one] if one.parts().is_empty());
    let scanned = match single {
        true => super::scan(&paths, withheld),
        false => scan_set(&paths, name, withheld),
    };
    let scanned = scanned.map_err(|error| NotTaken::Missing(printable(&error.to_string())))?;
    if looks()? != digest {
        return Err(NotTaken::Moved);
    }
    Ok(scanned)
}

/// Where the system is asked to tell of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    deep: bool,
    /// Which folder it was: another one in its place has to be asked for anew.
    inode: (u64, u64),
}

/// What the system's word is held against.
#[derive(Debug, Default)]
struct Heard {
    places: Mutex<Vec<PathBuf>>,
    /// A place is gone, and whatever comes there has to be asked for anew. Its inode does not tell:
    /// the next folder may get the same one.
    stale: AtomicBool,
}

impl Heard {
    fn hear(&self, event: &notify::Result<notify::Event>) {
        let Ok(event) = event else { return };
        if !matches!(
            event.kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        ) {
            return;
        }
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = event.paths.iter();
        if gone.any(|path| places.iter().any(|place| place.starts_with(path))) {
            self.stale.store(true, Ordering::Relaxed);
        }
    }
}

/// Tells when it is worth looking.
pub struct Watch {
    patterns: Vec<PathPattern>,
    stirred: Arc<AtomicBool>,
    watcher: Option<RecommendedWatcher>,
    places: BTreeMap<PathBuf, Place>,
    /// The same, for whoever hears that one of them is gone.
    heard: Arc<Heard>,
    failed: bool,
}

impl Watch {
    /// A watch over what patterns mean. `stirred` becomes true when something may have changed.
    /// Nothing is watched before [`Watch::refresh`].
    pub fn new(patterns: Vec<PathPattern>, stirred: Arc<AtomicBool>) -> Self {
        Self {
            patterns,
            stirred,
            watcher: None,
            places: BTreeMap::new(),
            heard: Arc::default(),
            failed: false,
        }
    }

    /// Watches what there is now. To be called before each look, so that nothing is missed in
    /// between. Why the system does not tell of changes, when that has become so: then looking
    /// now and then has to do. Blocks.
    pub fn refresh(&mut self) -> Option<String> {
        let failed = self.try_refresh().err();
        let before = std::mem::replace(&mut self.failed, failed.is_some());
        if failed.is_some() {
            // The next refresh tries again from nothing.
            self.watcher = None;
            self.places.clear();
        }
        failed.filter(|_| !before)
    }

    /// True while the system tells of changes.
    pub fn is_told(&self) -> bool {
        !self.failed && self.watcher.is_some()
    }

    fn try_refresh(&mut self) -> Result<(), String> {
        if self.heard.stale.swap(false, Ordering::Relaxed) {
            self.watcher = None;
            self.places.clear();
        }
        let wanted = self.wanted();
        if wanted.len() > MAX_PLACES {
            return Err(format!("more than {MAX_PLACES} places to watch"));
        }
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            None => {
                let stirred = Arc::clone(&self.stirred);
                let bases = self.patterns.iter().map(|of| of.base().to_owned());
                let bases: Vec<PathBuf> = bases.collect();
                let heard = Arc::clone(&self.heard);
                let watcher = notify::recommended_watcher(move |event| {
                    heard.hear(&event);
                    if is_change(&event, &bases) {
                        stirred.store(true, Ordering::Relaxed);
                    }
                });
                let watcher = watcher.map_err(|error| error.to_string())?;
                self.watcher.insert(watcher)
            }
        };
        let gone = self.places.iter();
        let gone: Vec<_> = gone
            .filter(|(path, place)| wanted.get(*path) != Some(place))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            // It may be gone from the disk, and then the system has let go of it.
            let _ = watcher.unwatch(&path);
            self.places.remove(&path);
        }
        let places = wanted.keys().cloned().collect();
        let heard = &self.heard.places;
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = places;
        for (path, place) in wanted {
            let Entry::Vacant(free) = self.places.entry(path) else {
                continue;
            };
            let mode = match place.deep {
                true => RecursiveMode::Recursive,
                false => RecursiveMode::NonRecursive,
            };
            let watched = watcher.watch(free.key(), mode);
            watched.map_err(|error| error.to_string())?;
            free.insert(place);
        }
        Ok(())
    }

    fn wanted(&self) -> BTreeMap<PathBuf, Place> {
        let mut wanted = BTreeMap::new();
        let mut add = |path: &Path, deep: bool| {
            let Ok(meta) = fs::metadata(path) else { return };
            let inode = (meta.dev(), meta.ino());
            let place = wanted
                .entry(path.to_owned())
                .or_insert(Place { deep, inode });
            place.deep |= deep;
        };
        for pattern in &self.patterns {
            // Where it is missing: wherever it may come to be.
            let there = pattern.base().ancestors().find(|path| path.is_dir());
            if let Some(there) = there {
                add(there, pattern.parts().is_empty() && there == pattern.base());
            }
            // A folder that is taken away and comes back shows in the one that it is in.
            if let Some(parent) = pattern.base().parent().filter(|parent| parent.is_dir()) {
                add(parent, false);
            }
            let mut found = Vec::new();
            let _ = below(pattern.base(), pattern.parts(), &mut found);
            for path in found.iter().take(MAX_PLACES + 1) {
                match path.is_dir() {
                    true => add(path, true),
                    // Programs replace files rather than write into them.
                    false => path
                        .parent()
                        .into_iter()
                        .for_each(|parent| add(parent, false)),
                }
            }
        }
        wanted
    }
}

/// Whether an event is about these places, and more than that somebody, perhaps we, has read
/// something.
fn is_change(event: &notify::Result<notify::Event>, bases: &[PathBuf]) -> bool {
    let here = |path: &PathBuf| {
        let mut bases = bases.iter();
        bases.any(|base| path.starts_with(base) || base.starts_with(path))
    };
    match event {
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => event.paths.iter().any(here),
            EventKind::Access(_) => false,
            _ => event.paths.is_empty() || event.paths.iter().any(here),
        },
        // Events were lost: looking will tell.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests;
