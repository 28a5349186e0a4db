//! Hashes of files that this process has read before: when one file of a folder changes, the
//! others need not be read again to say what is in them.
//!
//! Nothing rests on it but time: what is sent is read and compared with its hash all the same.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::protocol::manifest::ChunkHash;

/// Chunks whose hashes are kept, of all files together: about 12 MiB, or two bundles of the most
/// chunks that one can have.
const MOST: usize = 262_144;
/// A file that was changed so shortly before it was read could be changed again without its times
/// showing it, where the system's clock for files is coarse.
const SETTLED: Duration = Duration::from_secs(2);

/// A file as it was at one time, and how it is cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    /// When the system last changed anything about it: nobody can set this one back.
    changed: (i64, i64),
    chunk_size: u32,
}

impl Seen {
    /// The file of this metadata.
    pub(super) fn of(meta: &Metadata, chunk_size: u32) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            chunk_size,
        }
    }

    /// Whether a later change is sure to show. To be asked before the file is read.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let before = now.unwrap_or_default().saturating_sub(SETTLED).as_secs() as i64;
        self.modified.0 < before && self.changed.0 < before
    }

    fn chunks(&self) -> usize {
        self.size.div_ceil(u64::from(self.chunk_size.max(1))) as usize
    }
}

struct Known {
    hashes: Vec<Option<ChunkHash>>,
    used: u64,
}

/// Hashes of many files; those not asked for longest are let go first.
pub(super) struct Hashes {
    most: usize,
    kept: usize,
    clock: u64,
    files: HashMap<Seen, Known>,
    order: BTreeMap<u64, Seen>,
}

impl Hashes {
    fn new(most: usize) -> Self {
        Self {
            most,
            kept: 0,
            clock: 0,
            files: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// The hash of a file's chunk, counted from the file's beginning.
    pub(super) fn get(&mut self, seen: &Seen, chunk: u32) -> Option<ChunkHash> {
        let known = self.files.get_mut(seen)?;
        let hash = (*known.hashes.get(chunk as usize)?)?;
        self.clock += 1;
        self.order.remove(&known.used);
        known.used = self.clock;
        self.order.insert(self.clock, seen.clone());
        Some(hash)
    }

    /// Notes the hash of a file's chunk.
    pub(super) fn put(&mut self, seen: &Seen, chunk: u32, hash: ChunkHash) {
        let chunks = seen.chunks();
        if chunks > self.most {
            return;
        }
        if !self.files.contains_key(seen) {
            while self.kept + chunks > self.most {
                let Some((_, oldest)) = self.order.pop_first() else {
                    return;
                };
                self.files.remove(&oldest);
                self.kept -= oldest.chunks();
            }
            self.clock += 1;
            let (hashes, used) = (vec![None; chunks], self.clock);
            self.files.insert(seen.clone(), Known { hashes, used });
            self.order.insert(used, seen.clone());
            self.kept += chunks;
        }
        if let Some(known) = self.files.get_mut(seen)
            && let Some(place) = known.hashes.get_mut(chunk as usize)
        {
            *place = Some(hash);
        }
    }
}

/// What this process remembers. One for all bundles: versions of a folder share most files.
pub(super) fn remembered() -> MutexGuard<'static, Hashes> {
    static ALL: LazyLock<Mutex<Hashes>> = LazyLock::new(|| Mutex::new(Hashes::new(MOST)));
    // After a panic elsewhere it is still right: each entry is whole by itself.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(file: u64, chunks: u64) -> Seen {
        Seen {
            file: (1, file),
            size: chunks * 100,
            modified: (5, 0),
            changed: (5, 0),
            chunk_size: 100,
        }
    }

    #[test]
    fn what_was_not_asked_for_longest_is_let_go_and_the_number_of_hashes_is_bounded() {
        let mut hashes = Hashes::new(10);
        let hash = ChunkHash::of(b"x");
        for file in 0..3 {
            hashes.put(&seen(file, 3), 1, hash);
        }
        assert_eq!(hashes.get(&seen(0, 3), 1), Some(hash));
        assert_eq!(hashes.get(&seen(0, 3), 0), None);
        hashes.put(&seen(3, 4), 0, hash);
        assert_eq!(hashes.get(&seen(1, 3), 1), None, "the oldest but one");
        assert_eq!(hashes.get(&seen(0, 3), 1), Some(hash));
        assert!(hashes.kept <= 10, "{}", hashes.kept);
        hashes.put(&seen(9, 11), 0, hash);
        assert_eq!(hashes.get(&seen(9, 11), 0), None, "too large to be kept");
        assert_eq!(hashes.get(&seen(0, 3), 1), Some(hash));
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_believed_to_stay_as_it_is() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        assert!(!seen(1, 1).is_settled(now));
        assert!(seen(1, 1).is_settled(now + Duration::from_secs(1)));
        let mut touched = seen(1, 1);
        touched.changed = (7, 0);
        assert!(!touched.is_settled(now + Duration::from_secs(1)));
    }
}
