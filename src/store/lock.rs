//! One process per state folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::StoreError;

/// Held for as long as the store is open. The kernel lets go of it when the process ends,
/// however it ends; the file stays.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of a state folder, or says which process has it.
    pub(super) fn take(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join("lock");
        let failed = |source| StoreError::io("open", &path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let pid = file
                    .take(20)
                    .read_to_string(&mut holder)
                    .ok()
                    .and_then(|_| holder.trim().parse().ok());
                return Err(StoreError::Locked {
                    state_dir: state_dir.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &path, source)),
        }
        // The number is for people; the lock itself does not depend on it.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::debug!(%error, path = %path.display(), "the lock file does not name us");
        }
        Ok(Self { file })
    }

    /// True while this very file is still there.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let there = std::fs::metadata(path).map(|stat| (stat.dev(), stat.ino()));
        let ours = self.file.metadata().map(|stat| (stat.dev(), stat.ino()));
        matches!((there, ours), (Ok(there), Ok(ours)) if there == ours)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would do, but for a process that is being started just now: until it runs its
        // own program it has a copy of the handle, and with it the lock.
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "the lock is let go of by closing it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_is_told_who_has_the_lock_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        match Lock::take(dir.path()) {
            Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(lock);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_file_of_a_dead_process_does_not_lock() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "1\nleft behind").unwrap();
        Lock::take(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
