//! The groups' second home, `<state>/groups.json`: all of them as one JSON line, and a line with
//! the hash of that. The database may lose its last records without a sign of damage, and a group
//! says who gets what and who may do what.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::files::replace;
use super::record::Group;

/// More than the groups that there may be take, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub(super) struct GroupsFile(PathBuf);

impl GroupsFile {
    pub(super) fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("groups.json"))
    }

    /// All groups, as they were written last; nothing where there is no file, or one that has
    /// changed since.
    pub(super) fn read(&self) -> Result<Option<Vec<Group>>, StoreError> {
        let mut text = String::new();
        let read =
            File::open(&self.0).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Not text: damaged.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(source) => return Err(StoreError::io("read", &self.0, source)),
        }
        let groups = text
            .strip_suffix('\n')
            .and_then(|text| text.split_once('\n'))
            .filter(|(groups, hash)| blake3::hash(groups.as_bytes()).to_hex().as_str() == *hash)
            .and_then(|(groups, _)| serde_json::from_str(groups).ok());
        if groups.is_none() {
            tracing::warn!(
                path = %self.0.display(),
                "the groups' file is damaged; what the database has of them is taken"
            );
        }
        Ok(groups)
    }

    /// Replaces the file, without waiting for the disk: after a power cut that comes too early the
    /// hash does not fit, and the database is what counts.
    pub(super) fn write(&self, groups: &[Group]) -> Result<(), StoreError> {
        let failed = |source| StoreError::io("write", &self.0, source);
        let groups = serde_json::to_string(groups).map_err(|error| failed(error.into()))?;
        let hash = blake3::hash(groups.as_bytes()).to_hex();
        replace(&self.0, format!("{groups}\n{hash}\n").as_bytes()).map_err(failed)
    }
}
