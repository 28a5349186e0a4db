//! Rosters in force: files as their admins signed them, `<state>/rosters/<hash>.json`, each with a
//! copy, `<hash>.copy`, for when it is damaged or lost: it may be what lets a whole class in.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::StoreError;
use super::files::{create_private_dir, sync_dir, write_atomically};
use crate::protocol::identity::statement;
use crate::protocol::roster::{MAX_ROSTER, Roster};

const FILE: &str = "json";
const COPY: &str = "copy";

fn ends_with(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|end| end == extension)
}

/// The folder.
#[derive(Debug)]
pub(super) struct RosterFiles {
    dir: PathBuf,
}

impl RosterFiles {
    pub(super) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join("rosters");
        create_private_dir(&dir)
            .and_then(|()| sync_dir(state_dir))
            .map_err(|source| StoreError::io("create", &dir, source))?;
        Ok(Self { dir })
    }

    /// One file for each admin and group.
    fn path(&self, roster: &Roster) -> PathBuf {
        let parts = [roster.admin.as_str().as_bytes(), roster.group.as_bytes()];
        let hash = Sha256::digest(statement("handout/roster-file/1", &parts));
        self.dir
            .join(format!("{}.{FILE}", HEXLOWER.encode(&hash[..16])))
    }

    pub(super) fn put(&self, roster: &Roster) -> Result<(), StoreError> {
        for path in self.paths(roster) {
            write_atomically(&path, roster.as_bytes())
                .map_err(|source| StoreError::io("write", &path, source))?;
        }
        Ok(())
    }

    /// Makes the file and its copy whole again.
    pub(super) fn mend(&self, roster: &Roster) -> Result<(), StoreError> {
        let is_whole = |path: &PathBuf| fs::read(path).is_ok_and(|read| read == roster.as_bytes());
        match self.paths(roster).iter().all(is_whole) {
            true => Ok(()),
            false => self.put(roster),
        }
    }

    /// The file and its copy.
    fn paths(&self, roster: &Roster) -> [PathBuf; 2] {
        let path = self.path(roster);
        let copy = path.with_extension(COPY);
        [path, copy]
    }

    pub(super) fn remove(&self, roster: &Roster) -> Result<(), StoreError> {
        // The copy first: alone it would count.
        for path in self.paths(roster).iter().rev() {
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed
                    .and_then(|()| sync_dir(&self.dir))
                    .map_err(|source| StoreError::io("remove", path, source))?,
            }
        }
        Ok(())
    }

    /// All that can be read, files before their copies. Another is left where it is, with a
    /// warning.
    pub(super) fn all(&self) -> Result<Vec<Roster>, StoreError> {
        let failed = |source| StoreError::io("read", &self.dir, source);
        let mut rosters = Vec::new();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            paths.extend(ends_with(&path, FILE).then(|| (false, path.clone())));
            paths.extend(ends_with(&path, COPY).then_some((true, path)));
        }
        paths.sort();
        for (is_copy, path) in paths {
            match read(&path) {
                Ok(roster) if self.paths(&roster)[usize::from(is_copy)] == path => {
                    rosters.push(roster);
                }
                Ok(_) => tracing::warn!(path = %path.display(), "a roster under a wrong name"),
                Err(fault) => tracing::warn!(
                    path = %path.display(), fault,
                    "a roster cannot be read: import it again"
                ),
            }
        }
        Ok(rosters)
    }
}

fn read(path: &Path) -> Result<Roster, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_ROSTER as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Roster::read(&bytes).map_err(|error| error.to_string())
}
