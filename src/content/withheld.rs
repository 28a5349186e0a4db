//! What is never handed out, whoever asks for it: the state folder, which has this device's key,
//! but for what was made to be handed out.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder in the state folder for what is made to be handed out.
pub const MADE: &str = "provided";
/// Entries of the state folder that are looked at; it has a few dozen.
const MOST: usize = 10_000;

/// The state folder, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Withheld {
    /// Without links.
    dir: Option<PathBuf>,
    /// The folder and the files in it, wherever else they can be seen: hard links, other mounts.
    inodes: HashSet<(u64, u64)>,
}

impl Withheld {
    /// Of a state folder. Blocks.
    pub fn state(dir: &Path) -> Self {
        let own = fs::metadata(dir).ok();
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let entries = entries.take(MOST).filter_map(|entry| entry.metadata().ok());
        Self {
            dir: dir.canonicalize().ok(),
            inodes: own.into_iter().chain(entries).map(|m| inode(&m)).collect(),
        }
    }

    /// True for a path that is, holds or lies in it, wherever links lead.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        let Some(dir) = &self.dir else { return false };
        let made = dir.join(MADE);
        path.canonicalize().is_ok_and(|path| {
            let is_made = path != made && path.starts_with(&made);
            (path.starts_with(dir) && !is_made) || dir.starts_with(&path)
        })
    }

    /// True for the folder itself, or something directly in it, under whatever name.
    pub(super) fn is(&self, meta: &Metadata) -> bool {
        self.inodes.contains(&inode(meta))
    }
}

fn inode(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}
