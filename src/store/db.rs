//! Opening sled so that it always opens, and flushing so that it survives a power cut.
//!
//! sled 0.34.7 panics when it opens a truncated file, refuses to open beside the leftovers of an
//! opening that was killed, and flushes without fsync.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::StoreError;
use super::files::{create_private_dir, sync_dir, sync_parent};
use super::pieces::Pieces;

/// The trees, each with the schema version that this program writes.
const TREES: [(&str, u32); 5] = [
    ("authorizations", 1),
    ("broadcasts", 1),
    ("transfers", 1),
    ("progress", 1),
    ("groups", 1),
];
/// How many damaged databases are kept for whoever wants to look into them.
const DAMAGED_KEPT: usize = 3;
const DAMAGED_PREFIX: &str = "db.damaged-";
/// What sled may keep in memory, in bytes; its own default is 1 GiB.
const CACHE: u64 = 16 * 1024 * 1024;
/// A database that this process has just closed is let go of by its background threads, a little
/// later.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The open database in `<state>/db`.
#[derive(Debug)]
pub(super) struct Database {
    db: sled::Db,
    path: PathBuf,
}

/// Why a database did not open.
enum Trouble {
    /// It can be set aside and made anew.
    Damaged(String),
    /// Setting it aside would not help, or would be wrong.
    Other(StoreError),
}

impl Database {
    /// Opens the database, or sets a damaged one aside and makes a new one. `true` says that the
    /// database is new.
    pub(super) fn open(state_dir: &Path) -> Result<(Self, bool), StoreError> {
        let path = state_dir.join("db");
        match Self::try_open(&path) {
            Ok(opened) => Ok(opened),
            Err(Trouble::Other(error)) => Err(error),
            Err(Trouble::Damaged(fault)) => {
                let aside = set_aside(state_dir, &path)
                    .map_err(|source| StoreError::io("set aside", &path, source))?;
                tracing::warn!(
                    path = %path.display(), aside = %aside.display(), fault,
                    "the database was damaged (a panic message above this line is part of that). \
                     It is set aside and made anew: authorizations come back from their journal, \
                     received files stay, and partly received ones are checked again from disk"
                );
                match Self::try_open(&path) {
                    Ok((database, _)) => Ok((database, true)),
                    Err(Trouble::Other(error)) => Err(error),
                    Err(Trouble::Damaged(message)) => Err(StoreError::Database { path, message }),
                }
            }
        }
    }

    fn try_open(path: &Path) -> Result<(Self, bool), Trouble> {
        let failed = |action, source| Trouble::Other(StoreError::io(action, path, source));
        create_private_dir(path).map_err(|source| failed("create", source))?;
        remove_leftovers(path).map_err(|source| failed("clean up", source))?;
        let mut tries = 0;
        let db = loop {
            tries += 1;
            match catch(|| open_sled(path)) {
                Ok(Err(sled::Error::Io(error))) if is_locked(&error) && tries < LOCK_TRIES => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Ok(Ok(db)) => break db,
                Ok(Err(sled::Error::Io(source))) if !is_damage(&source) => {
                    return Err(failed("open the database", source));
                }
                Ok(Err(error)) => return Err(Trouble::Damaged(error.to_string())),
                Err(panic) => return Err(Trouble::Damaged(panic)),
            }
        };
        let database = Self {
            db,
            path: path.to_owned(),
        };
        let is_new = database.check()?;
        let synced = sync_dir(path).and_then(|()| sync_parent(path));
        synced.map_err(|source| failed("sync", source))?;
        Ok((database, is_new))
    }

    /// Reads everything once, so that damage shows now and not in the middle of work, and
    /// compares the schema versions. `true` says that it has none yet, so it is new, or was cut
    /// back to nothing.
    fn check(&self) -> Result<bool, Trouble> {
        let mut is_new = false;
        let damaged = |error: StoreError| Trouble::Damaged(error.to_string());
        let meta = self.tree("meta").map_err(damaged)?;
        for (name, known) in TREES {
            let key = format!("schema/{name}");
            let found = self.guard(|| meta.get(&key)).map_err(damaged)?;
            let found = found.map(|value| value.as_ref().try_into().map(u32::from_be_bytes));
            match found {
                None => {
                    is_new = true;
                    let version = known.to_be_bytes();
                    self.guard(|| meta.insert(&key, &version))
                        .map_err(damaged)?;
                }
                Some(Ok(found)) if found == known => {}
                Some(Ok(found)) if found > known => {
                    return Err(Trouble::Other(StoreError::Newer {
                        path: self.path.clone(),
                        table: name,
                        found,
                        known,
                    }));
                }
                Some(_) => {
                    return Err(Trouble::Damaged(format!("{name} has no schema version")));
                }
            }
            self.pieces(name)
                .and_then(|pieces| pieces.all(self, name))
                .map_err(damaged)?;
        }
        Ok(is_new)
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
        Err(StoreError::Database {
            path: self.path.clone(),
            message,
        })
    }
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

/// Renames the database to `db.damaged-<unix time>` and removes the oldest of those.
fn set_aside(state_dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut stamp = now.map_or(0, |elapsed| elapsed.as_secs());
    let mut aside = state_dir.join(format!("{DAMAGED_PREFIX}{stamp}"));
    while aside.exists() {
        stamp += 1;
        aside = state_dir.join(format!("{DAMAGED_PREFIX}{stamp}"));
    }
    fs::rename(path, &aside)?;
    sync_dir(state_dir)?;
    let mut stamps = Vec::new();
    for entry in fs::read_dir(state_dir)? {
        let name = entry?.file_name();
        let stamp = name
            .to_str()
            .and_then(|name| name.strip_prefix(DAMAGED_PREFIX));
        stamps.extend(stamp.and_then(|stamp| stamp.parse::<u64>().ok()));
    }
    stamps.sort_unstable();
    let surplus = stamps.len().saturating_sub(DAMAGED_KEPT);
    for stamp in &stamps[..surplus] {
        fs::remove_dir_all(state_dir.join(format!("{DAMAGED_PREFIX}{stamp}")))?;
    }
    Ok(aside)
}
