//! A sled database that may be damaged: opened and used without panics, flushed for good.
//!
//! sled 0.34.7 panics when it opens a truncated file, refuses to open beside the leftovers of an
//! opening that was killed, and flushes without fsync.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::StoreError;
use super::files::{create_private_dir, sync_dir, sync_parent};
use super::pieces::Pieces;

/// The trees, each with the schema version that this program writes. The first ones have been
/// there from the beginning.
const TREES: [(&str, u32); 7] = [
    ("authorizations", 1),
    ("broadcasts", 1),
    ("transfers", 1),
    ("progress", 1),
    ("groups", 1),
    ("invites", 1),
    ("plans", 1),
];
const FIRST_TREES: usize = 5;
/// What sled may keep in memory, in bytes; its own default is 1 GiB.
const CACHE: u64 = 16 * 1024 * 1024;
/// A database that this process has just closed is let go of by its background threads, a little
/// later.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// How many items are copied at once.
const BATCH: usize = 32;
/// Bytes that may be written before it is waited until sled has them in its file. sled 0.34.7 has
/// at least seven threads for that. Each that is done with a piece of its log, of 512 KiB, takes a
/// lock; whoever has that lock may wait for the file to be cut off behind its last piece, which is
/// work for the same threads: seven that wait for the lock are all that there are, and then nothing
/// ever moves again. As long as a few pieces at most are under way, threads are left.
const UNDER_WAY: usize = 64 * 1024;

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    db: sled::Db,
    /// Something of it has failed: sled then takes nothing more, whatever becomes of the disk.
    failed: AtomicBool,
    /// Bytes that were written since sled had all in its file.
    under_way: AtomicUsize,
    pub(super) path: PathBuf,
}

/// Why a database could not be opened or read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It can be set aside and made anew.
    Damaged(String),
    /// Setting it aside would not help, or would be wrong.
    Other(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl Database {
    /// Opens a database, or makes an empty one.
    pub(super) fn at(path: &Path) -> Result<Self, Trouble> {
        let failed = |action, source| Trouble::Other(StoreError::io(action, path, source));
        create_private_dir(path).map_err(|source| failed("create", source))?;
        remove_leftovers(path).map_err(|source| failed("clean up", source))?;
        let mut tries = 0;
        let db = loop {
            tries += 1;
            match catch(|| open_sled(path)) {
                Ok(Err(sled::Error::Io(error))) if is_locked(&error) && tries < LOCK_TRIES => {
                    std::thread::park_timeout(LOCK_PAUSE);
                }
                Ok(Ok(db)) => break db,
                Ok(Err(sled::Error::Io(source))) if !is_damage(&source) => {
                    return Err(failed("open the database", source));
                }
                Ok(Err(error)) => return Err(Trouble::Damaged(error.to_string())),
                Err(panic) => return Err(Trouble::Damaged(panic)),
            }
        };
        let path = path.to_owned();
        Ok(Self {
            db,
            failed: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            path,
        })
    }

    /// True when [`Database::complete`] was reached; a schema that is newer than ours is an error.
    pub(super) fn is_complete(&self) -> Result<bool, Trouble> {
        let meta = self.tree("meta")?;
        for (n, (name, known)) in TREES.into_iter().enumerate() {
            let found = self.guard(|| meta.get(schema_key(name)))?;
            let Some(found) = found else {
                if n < FIRST_TREES {
                    return Ok(false);
                }
                // Written by an earlier version: the tree is empty.
                continue;
            };
            match found.as_ref().try_into().map(u32::from_be_bytes) {
                Ok(found) if found == known => {}
                Ok(found) if found > known => {
                    return Err(Trouble::Other(StoreError::Newer {
                        path: self.path.clone(),
                        table: name,
                        found,
                        known,
                    }));
                }
                _ => return Err(Trouble::Damaged(format!("{name} has no schema version"))),
            }
        }
        Ok(true)
    }

    /// Marks the database as whole, for good, by writing the schema versions.
    pub(super) fn complete(&self) -> Result<(), StoreError> {
        let meta = self.tree("meta")?;
        let mut versions = sled::Batch::default();
        for (name, version) in TREES {
            versions.insert(schema_key(name).into_bytes(), &version.to_be_bytes());
        }
        // All else first: sled writes in order, but the mark must not come before a write that
        // fails.
        self.flush()?;
        self.guard(|| meta.apply_batch(versions))?;
        self.flush()?;
        sync_dir(&self.path)
            .and_then(|()| sync_parent(&self.path))
            .map_err(|source| StoreError::io("sync", &self.path, source))
    }

    /// Copies everything into another database. What was read before damage showed is copied.
    pub(super) fn copy_to(&self, target: &Self) -> Result<(), Trouble> {
        for (name, _) in TREES {
            let from = self.tree(name)?;
            let to = target.tree(name).map_err(Trouble::Other)?;
            let mut items = from.iter();
            loop {
                let mut batch = sled::Batch::default();
                let mut count = 0;
                let mut bytes = 0;
                let read = self.guard(|| {
                    for item in items.by_ref().take(BATCH) {
                        let (key, value) = item?;
                        bytes += key.len() + value.len();
                        batch.insert(key, value);
                        count += 1;
                    }
                    Ok(())
                });
                target
                    .write(bytes, || to.apply_batch(batch))
                    .map_err(Trouble::Other)?;
                read?;
                if count < BATCH {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Closes the database. Closing writes, and panics on the damage that reading met.
    pub(super) fn close(self) {
        if let Err(panic) = catch(|| drop(self)) {
            tracing::debug!(panic, "a database did not close as it should");
        }
    }

    /// One of [`TREES`].
    pub(super) fn pieces(&self, name: &'static str) -> Result<Pieces, StoreError> {
        self.tree(name).map(Pieces::new)
    }

    pub(super) fn tree(&self, name: &'static str) -> Result<sled::Tree, StoreError> {
        self.guard(|| self.db.open_tree(name))
    }

    /// Everything written so far is on disk when this returns, also after a power cut.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.guard(|| self.db.flush())?;
        let file = self.path.join("db");
        File::open(&file)
            .and_then(|file| file.sync_all())
            .map_err(|source| StoreError::io("sync", &file, source))
    }

    /// Runs something of sled's and makes its panics errors.
    pub(super) fn guard<T>(&self, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        let message = match catch(work) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic,
        };
        self.failed.store(true, Ordering::Relaxed);
        Err(StoreError::database(&self.path, message))
    }

    /// The same for something that writes about so many bytes: see `UNDER_WAY`.
    pub(super) fn write<T>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let done = self.guard(work)?;
        if self.under_way.fetch_add(bytes, Ordering::Relaxed) + bytes >= UNDER_WAY {
            self.under_way.store(0, Ordering::Relaxed);
            self.guard(|| self.db.flush())?;
        }
        Ok(done)
    }

    /// As if something of it had failed.
    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// True when something of it has failed since it was opened.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

fn schema_key(tree: &str) -> String {
    format!("schema/{tree}")
}

fn open_sled(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new().path(path).cache_capacity(CACHE).open()
}

fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").chars().take(500).collect()
}

/// sled says this in words only.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// False for what is wrong with the machine and not with the file: a fresh database would meet
/// the same.
fn is_damage(error: &io::Error) -> bool {
    !is_locked(error)
        && !matches!(
            error.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::OutOfMemory
                | ErrorKind::NotADirectory
        )
        // Out of file handles, for this process or the machine.
        && !matches!(error.raw_os_error(), Some(23 | 24))
}

/// Deletes `snap.*.generating`, which an opening that was killed leaves behind.
fn remove_leftovers(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
