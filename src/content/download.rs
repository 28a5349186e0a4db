//! A file that comes without a manifest: it grows aside, in the destination's staging folder, and
//! gets its name when all of it is there. It never takes the place of anything.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;
use rustix::fs::{FlockOperation, flock};

use super::commit::{final_names, rename_without_overwriting};
use super::sink_error::SinkError;
use super::tree::{self, Open};
use crate::protocol::manifest::Kind;
use crate::protocol::names::{BundlePath, STAGING, safe_component};
use rustix::io::Errno;

/// What the names of such files begin with, and end with.
const BEGIN: &str = "request-";
const END: &str = ".part";

/// A file that is being received. Dropped before it is finished, it is removed.
pub struct Download {
    dest_path: PathBuf,
    dest: Dir,
    staging: Dir,
    part: String,
    name: BundlePath,
    file: Option<BufWriter<File>>,
    size: u64,
    finished: bool,
}

impl Download {
    /// Begins a file in the folder `dest`, which is made if it is not there. `name` is what its
    /// sender calls it: what it is called here is made of that. `id` tells it from others that
    /// come at the same time. `reserve` bytes stay free on the disk.
    ///
    /// # Errors
    /// [`SinkError`]
    pub fn begin(
        dest: &Path,
        name: &str,
        id: &str,
        size: u64,
        reserve: u64,
    ) -> Result<Self, SinkError> {
        let room = || (size, super::free_space(dest).unwrap_or(0));
        let at_dest = |error| SinkError::of_io(dest, error, room);
        fs::create_dir_all(dest).map_err(at_dest)?;
        let dir = tree::open_destination(dest).map_err(at_dest)?;
        super::check_space(dest, size, reserve)?;
        let name = BundlePath::single(safe_component(name))
            .map_err(|error| at_dest(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let part = format!("{BEGIN}{}{END}", safe_component(id));
        let path = dest.join(STAGING).join(&part);
        let made = || -> io::Result<(Dir, File)> {
            let staging = tree::make_folder(&dir, STAGING, 0o700)?;
            sweep(&staging);
            if tree::exists(&staging, &part)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = tree::file(&staging, &part, Open::Create)?;
            // Whoever sweeps sees that somebody still writes; not every file system can do that.
            let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
            Ok((staging, file))
        };
        let (staging, file) = made().map_err(|error| SinkError::of_io(&path, error, room))?;
        Ok(Self {
            dest_path: dest.to_owned(),
            dest: dir,
            staging,
            part,
            name,
            file: Some(BufWriter::with_capacity(1 << 18, file)),
            size,
            finished: false,
        })
    }

    /// What it will be called, if nothing else has that name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`SinkError`]
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let written = match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|error| self.error(error))
    }

    /// Makes it durable and gives it its name: `name`, or `name (2)` where there is one already.
    /// Where `only` is set, that is an error. Returns its path.
    ///
    /// # Errors
    /// [`SinkError`]
    pub fn finish(mut self, only: bool) -> Result<PathBuf, SinkError> {
        let synced = match self.file.take() {
            Some(file) => file
                .into_inner()
                .map_err(io::Error::from)
                .and_then(|file| file.sync_all()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        synced.map_err(|error| self.error(error))?;
        for name in final_names(&self.name, Kind::File) {
            let part = self.part.as_str();
            match rename_without_overwriting(&self.staging, part, &self.dest, &name, Kind::File) {
                Ok(()) => {
                    self.finished = true;
                    let synced = tree::sync_folder(&self.dest);
                    synced.map_err(|error| self.error(error))?;
                    return Ok(self.dest_path.join(name));
                }
                Err(Errno::EXIST) if !only => {}
                Err(Errno::EXIST) => break,
                Err(error) => return Err(self.error(error.into())),
            }
        }
        Err(SinkError::Exists {
            path: self.dest_path.join(self.name.as_str()),
        })
    }

    fn error(&self, error: io::Error) -> SinkError {
        let path = self.dest_path.join(STAGING).join(&self.part);
        let room = || (self.size, tree::free_in(&self.dest).unwrap_or(0));
        SinkError::of_io(&path, error, room)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = tree::remove(&self.staging, &self.part)
        {
            let path = self.dest_path.join(STAGING).join(&self.part);
            tracing::warn!(%error, "what came of a file could not be removed: {}", path.display());
        }
        // Fails while something else is there, as it should.
        let _ = self.dest.remove_dir(STAGING);
    }
}

/// Removes what interrupted runs have left.
fn sweep(staging: &Dir) {
    let Ok(entries) = staging.entries() else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(BEGIN) || !name.ends_with(END) {
            continue;
        }
        let Ok(file) = tree::file(staging, name, Open::Read) else {
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = tree::remove(staging, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_whole_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("in");
        let mut download = Download::begin(&dest, "../../a.npz", "1", 5, 0).unwrap();
        assert_eq!(download.name(), "_.._a.npz");
        download.write(b"hello").unwrap();
        assert_eq!(names(&dest), [".handout"]);
        let path = download.finish(false).unwrap();
        assert_eq!(path, dest.join("_.._a.npz"));
        let mut again = Download::begin(&dest, "../../a.npz", "2", 5, 0).unwrap();
        again.write(b"other").unwrap();
        let second = again.finish(false).unwrap();
        assert_eq!(second, dest.join("_.._a (2).npz"));
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        let third = Download::begin(&dest, "../../a.npz", "3", 0, 0).unwrap();
        assert!(matches!(third.finish(true), Err(SinkError::Exists { .. })));
        assert_eq!(names(&dest), ["_.._a (2).npz", "_.._a.npz"]);
    }

    #[test]
    fn what_is_given_up_or_was_left_behind_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut download = Download::begin(dir.path(), "a", "1", 5, 0).unwrap();
        download.write(b"hel").unwrap();
        fs::write(dir.path().join(".handout/request-old.part"), "x").unwrap();
        let other = Download::begin(dir.path(), "a", "2", 5, 0).unwrap();
        let parts = names(&dir.path().join(".handout"));
        assert_eq!(parts, ["request-1.part", "request-2.part"]);
        drop((download, other));
        assert!(names(dir.path()).is_empty());
        let full = Download::begin(dir.path(), "a", "1", u64::MAX, 0);
        assert!(matches!(full.err(), Some(SinkError::DiskFull { .. })));
    }
}
