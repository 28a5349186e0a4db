//! Files that survive a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Replaces `path` with `bytes`, readable by the owner alone: either the old content or the new
/// one is there, whole, whatever happens in between. `path` must have a parent.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_in_place(path, bytes, true)?;
    sync_parent(path)
}

/// The same for whoever is killed; a power cut may leave something else.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_in_place(path, bytes, false)
}

fn put_in_place(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Created anew, so that the mode holds and nobody's link is followed.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)
}

/// When something directly in a directory last changed, in Unix seconds; nothing where nothing is
/// there.
pub(super) fn newest_change(dir: &Path) -> Option<u64> {
    let entries = fs::read_dir(dir).ok()?;
    let times = entries.flatten().filter_map(|entry| {
        let changed = entry.metadata().ok()?.modified().ok()?;
        let since = changed.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs())
    });
    times.max()
}

/// Makes the directory entry of `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory that only its owner may enter, with its parents.
pub(super) fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
