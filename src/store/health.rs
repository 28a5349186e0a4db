//! Whether the store still does what it is for.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::{Store, StoreError};

/// Bytes that are written to see whether the disk takes some: a block.
const PROBE: [u8; 4096] = [0; 4096];

impl Store {
    /// Writes something, and makes it durable: an error says why the state folder no longer takes
    /// what has to outlive the process.
    pub fn prove(&mut self) -> Result<(), StoreError> {
        // A folder that was removed, or replaced, is written to without any error.
        let lock = self.state_dir.join("lock");
        if !self.lock.is_at(&lock) {
            let gone = io::Error::new(
                io::ErrorKind::NotFound,
                "the state folder was removed or replaced while this process uses it; start the \
                 service again",
            );
            return Err(StoreError::io("find", &lock, gone));
        }
        let probe = self.state_dir.join("probe");
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&probe)?;
            file.write_all(&PROBE)?;
            file.sync_all()
        })();
        let _ = fs::remove_file(&probe);
        written.map_err(|source| StoreError::io("write", &probe, source))?;
        let now = super::now().to_be_bytes();
        let meta = self.database.tree("meta")?;
        self.database.guard(|| meta.insert("proven", &now))?;
        self.flush()
    }
}
