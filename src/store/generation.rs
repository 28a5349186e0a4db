//! Which database is the one: `<state>/db/<number>`, a new number at every opening.
//!
//! sled may open a file that was cut short, take what is written and flushed into it, and lose
//! that at the next opening. So nothing is written into a file that was there before: every
//! opening copies what can be read into a fresh database, which also keeps it small, and the
//! records are few and bounded. The copy counts once it is complete and on disk; then the old
//! database is removed, or set aside if it was damaged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::StoreError;
use super::db::{Database, Trouble};
use super::files::{create_private_dir, sync_dir};

/// How many damaged databases are kept for whoever wants to look into them.
const DAMAGED_KEPT: usize = 3;
const DAMAGED_PREFIX: &str = "db.damaged-";

/// Opens a fresh database with what the last one held. `true` says that there was none, or that
/// it was damaged, so that some or all of it may be missing.
pub(super) fn open(state_dir: &Path) -> Result<(Database, bool), StoreError> {
    let root = state_dir.join("db");
    create_private_dir(&root).map_err(|source| StoreError::io("create", &root, source))?;
    let numbers = numbers(&root).map_err(|source| StoreError::io("read", &root, source))?;
    let mut damaged = Vec::new();
    let mut surplus = Vec::new();
    let mut source = None;
    for (older, number) in numbers.iter().enumerate().rev() {
        let path = folder(&root, *number);
        if source.is_some() {
            surplus.push(path);
            continue;
        }
        match open_complete(&path) {
            Ok(Some(database)) => source = Some(database),
            // The copying was interrupted, and what was copied is still there.
            Ok(None) if older > 0 => surplus.push(path),
            Ok(None) => damaged.push((path, "it is not complete".to_owned())),
            Err(Trouble::Damaged(fault)) => damaged.push((path, fault)),
            Err(Trouble::Other(error)) => return Err(error),
        }
    }
    let fresh = after(&root, &numbers)?;
    let had_source = source.is_some();
    if let Some(source) = source {
        let copied = source.copy_to(&fresh);
        let path = source.path.clone();
        source.close();
        match copied {
            Ok(()) => surplus.push(path),
            Err(Trouble::Damaged(fault)) => damaged.push((path, fault)),
            Err(Trouble::Other(error)) => return Err(error),
        }
    }
    fresh.complete()?;
    let is_new = !had_source || !damaged.is_empty();
    for (path, fault) in damaged {
        let aside = set_aside(state_dir, &path)
            .map_err(|source| StoreError::io("set aside", &path, source))?;
        tracing::warn!(
            path = %path.display(), aside = %aside.display(), fault,
            "the database was damaged (a panic message above this line is part of that). It is \
             set aside and made anew: authorizations come back from their journal, received files \
             stay, and partly received ones are checked again from disk"
        );
    }
    surplus.iter().for_each(|path| remove_folder(path));
    Ok((fresh, is_new))
}

/// An empty database beside those that are there. It counts once it is complete.
pub(super) fn beside(state_dir: &Path) -> Result<Database, StoreError> {
    let root = state_dir.join("db");
    let numbers = numbers(&root).map_err(|source| StoreError::io("read", &root, source))?;
    after(&root, &numbers)
}

/// An empty database with the number after all of these.
fn after(root: &Path, numbers: &[u64]) -> Result<Database, StoreError> {
    let next = numbers.last().map_or(1, |last| last.saturating_add(1));
    let path = folder(root, next);
    Database::at(&path).map_err(|trouble| match trouble {
        Trouble::Other(error) => error,
        Trouble::Damaged(message) => StoreError::database(&path, message),
    })
}

/// Closes and removes a database that another one takes the place of.
pub(super) fn remove(database: Database) {
    let path = database.path.clone();
    database.close();
    remove_folder(&path);
}

/// Best effort: what stays is surplus at the next opening too.
fn remove_folder(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::debug!(%error, path = %path.display(), "an old database was not removed");
    }
}

/// A database whose copying was finished; `None` for others.
fn open_complete(path: &Path) -> Result<Option<Database>, Trouble> {
    let database = Database::at(path)?;
    match database.is_complete() {
        Ok(true) => Ok(Some(database)),
        other => {
            database.close();
            other.map(|_| None)
        }
    }
}

fn folder(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{number:08}"))
}

/// The numbers of all databases, in order.
fn numbers(root: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        // Only names that we would give.
        numbers.extend(number.filter(|number| folder(root, *number).ends_with(&name)));
    }
    numbers.sort_unstable();
    Ok(numbers)
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
