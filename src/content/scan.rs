//! From paths that a person named to the head of a bundle.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::tree::open_named;
use super::withheld::Withheld;
use crate::protocol::manifest::{
    FileEntry, Head, HeadError, Kind, MAX_ENTRIES, MAX_HEAD, choose_chunk_size,
};
use crate::protocol::names::{BundlePath, Conflict, NameError, PathSet};

/// What was found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The bundle's head.
    pub head: Head,
    /// Where each file of the head lies, in the same order.
    pub sources: Vec<PathBuf>,
    /// When each of them was last written, where the system tells.
    pub times: Vec<Option<SystemTime>>,
    /// What is not in the bundle, and why; at most [`MAX_ENTRIES`], in the order of the walk.
    pub skipped: Vec<(PathBuf, SkipReason)>,
}

impl Scan {
    /// What is not in the bundle, and why, for people: harmless to show.
    pub fn left_out(&self) -> Vec<String> {
        let each = self.skipped.iter().map(|(path, why)| {
            let path = crate::protocol::names::printable(&path.to_string_lossy());
            format!("{path}: {why}")
        });
        each.collect()
    }
}

/// Why something is not in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// Links could lead anywhere.
    #[error("it is a symbolic link")]
    Symlink,
    /// A socket, a pipe or a device.
    #[error("it is neither a file nor a folder")]
    Special,
    /// No permission, or it went away.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Not every receiver could store it under this name.
    #[error("its name cannot be used: {0}")]
    Name(#[from] NameError),
    /// Not every receiver could store both.
    #[error("it cannot be sent together with another: {0}")]
    Conflict(#[from] Conflict),
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// No path at all.
    #[error("no file or folder was named")]
    Nothing,
    /// A path that was named itself cannot go into a bundle.
    #[error("{path:?} cannot be sent: {reason}")]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: SkipReason,
    },
    /// It has this device's key in it.
    #[error(
        "{path:?} cannot be sent: it is, holds or lies in the state folder, which has this \
         device's key; whoever has that key is this device. Keep what is handed out apart from it"
    )]
    Withheld {
        /// The path.
        path: PathBuf,
    },
    /// The name that the bundle was to have.
    #[error("the bundle cannot be named {name:?}: {source}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: NameError,
    },
    /// Above [`MAX_ENTRIES`].
    #[error("there are more than {MAX_ENTRIES} files and folders; send an archive of them instead")]
    TooMany,
    /// Above 512 GiB, or too many chunks.
    #[error("the files are too large or too many for one bundle; send them in several")]
    TooLarge,
    /// The head is not valid, although each part of it is.
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// Makes a bundle of one file, of one folder, or of several of either; the name is that of the
/// path, and for several that of the folder they all lie in. Links that are named themselves are
/// followed, links inside folders are skipped. Whatever touches what is `withheld` is an error as a
/// whole. Blocks.
pub fn scan(paths: &[PathBuf], withheld: &Withheld) -> Result<Scan, ScanError> {
    scan_as(paths, None, withheld)
}

/// As [`scan`], with a name for the bundle.
pub fn scan_as(
    paths: &[PathBuf],
    name: Option<&str>,
    withheld: &Withheld,
) -> Result<Scan, ScanError> {
    let mut walk = Walk::new(withheld);
    let (name, kind) = match paths {
        [] => return Err(ScanError::Nothing),
        [path] => {
            let name = match name {
                Some(name) => given(name)?,
                None => own_name(path)?,
            };
            let meta = walk.look(path)?;
            if meta.is_dir() {
                walk.folder(path, None)?;
                (name, Kind::Folder)
            } else {
                walk.named(path, name.clone(), &meta)?;
                (name, Kind::File)
            }
        }
        several => {
            let name = match name {
                Some(name) => given(name)?,
                None => shared_name(several, "files")?,
            };
            walk.set(several)?;
            (name, Kind::Folder)
        }
    };
    walk.finish(name, kind)
}

/// As [`scan`], but always a folder, however many paths there are. Its name is that of the folder
/// that they all lie in, else `otherwise`, or `files` where that cannot be one. Blocks.
pub fn scan_set(
    paths: &[PathBuf],
    otherwise: &str,
    withheld: &Withheld,
) -> Result<Scan, ScanError> {
    if paths.is_empty() {
        return Err(ScanError::Nothing);
    }
    let otherwise = match BundlePath::single(otherwise) {
        Ok(_) => otherwise,
        Err(_) => "files",
    };
    let mut walk = Walk::new(withheld);
    walk.set(paths)?;
    walk.finish(shared_name(paths, otherwise)?, Kind::Folder)
}

fn keep_back(path: &Path, withheld: bool) -> Result<(), ScanError> {
    match withheld {
        true => Err(ScanError::Withheld { path: path.into() }),
        false => Ok(()),
    }
}

fn given(name: &str) -> Result<BundlePath, ScanError> {
    BundlePath::single(name).map_err(|source| ScanError::Name {
        name: name.to_owned(),
        source,
    })
}

fn unusable(path: &Path, reason: impl Into<SkipReason>) -> ScanError {
    ScanError::Unusable {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

impl From<io::Error> for SkipReason {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// The last component; `.` and `..` are looked up first.
fn own_name(path: &Path) -> Result<BundlePath, ScanError> {
    let looked_up;
    let name = match path.file_name() {
        Some(name) => name,
        None => {
            looked_up = path.canonicalize().map_err(|error| unusable(path, error))?;
            looked_up.file_name().unwrap_or(OsStr::new("files"))
        }
    };
    single(name).map_err(|reason| unusable(path, reason))
}

fn single(name: &OsStr) -> Result<BundlePath, NameError> {
    BundlePath::single(name.to_str().ok_or(NameError::NotUnicode)?)
}

fn shared_name(paths: &[PathBuf], otherwise: &str) -> Result<BundlePath, ScanError> {
    let mut parents = paths.iter().map(|path| {
        std::path::absolute(path)
            .ok()
            .and_then(|path| Some(path.parent()?.to_owned()))
    });
    let first = parents.next().flatten();
    let shared = first.filter(|first| parents.all(|parent| parent.as_ref() == Some(first)));
    let name = shared
        .as_deref()
        .and_then(Path::file_name)
        .and_then(|name| single(name).ok());
    name.map_or_else(|| given(otherwise), Ok)
}

#[derive(Default)]
struct Walk {
    withheld: Withheld,
    files: Vec<(FileEntry, PathBuf, Option<SystemTime>)>,
    empty_folders: Vec<BundlePath>,
    paths: PathSet,
    skipped: Vec<(PathBuf, SkipReason)>,
}

impl Walk {
    fn new(withheld: &Withheld) -> Self {
        Self {
            withheld: withheld.clone(),
            ..Self::default()
        }
    }

    /// Something that a person named.
    fn look(&self, path: &Path) -> Result<Metadata, ScanError> {
        let meta = fs::metadata(path).map_err(|error| unusable(path, error))?;
        keep_back(
            path,
            self.withheld.is(&meta) || self.withheld.concerns(path),
        )?;
        Ok(meta)
    }

    /// Something that a person named: if it cannot be sent, that is an error.
    fn named(&mut self, path: &Path, name: BundlePath, meta: &Metadata) -> Result<(), ScanError> {
        if meta.is_dir() {
            self.folder(path, Some(name))
        } else {
            self.file(path, name, meta)
                .map_err(|reason| unusable(path, reason))
        }
    }

    fn set(&mut self, paths: &[PathBuf]) -> Result<(), ScanError> {
        for path in paths.iter().collect::<BTreeSet<_>>() {
            self.named(path, own_name(path)?, &self.look(path)?)?;
        }
        Ok(())
    }

    /// A folder and all below it, without recursion: folders can be nested deeper than a stack.
    fn folder(&mut self, path: &Path, at: Option<BundlePath>) -> Result<(), ScanError> {
        let root = path;
        let mut waiting = vec![(path.to_owned(), at)];
        while let Some((path, at)) = waiting.pop() {
            let mut entries =
                match fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
                    Ok(entries) => entries,
                    Err(error) if path == root => return Err(unusable(&path, error)),
                    Err(error) => {
                        self.skip(path, error)?;
                        continue;
                    }
                };
            entries.sort_by_key(fs::DirEntry::file_name);
            let before = (self.files.len(), waiting.len());
            for entry in entries {
                let path = entry.path();
                // Not following links, unlike `fs::metadata`.
                let meta = match entry.metadata() {
                    Ok(meta) => meta,
                    Err(error) => {
                        self.skip(path, error)?;
                        continue;
                    }
                };
                keep_back(&path, self.withheld.is(&meta))?;
                match self.entry(&entry, &meta, &path, at.as_ref()) {
                    Ok(Some(folder)) => waiting.push((path, Some(folder))),
                    Ok(None) => {}
                    Err(SkipReason::Conflict(Conflict::TooMany)) => return Err(ScanError::TooMany),
                    Err(reason) => self.skip(path, reason)?,
                }
            }
            if let Some(at) = at
                && before == (self.files.len(), waiting.len())
            {
                match self.paths.insert_folder(&at) {
                    Ok(()) => self.empty_folders.push(at),
                    Err(Conflict::TooMany) => return Err(ScanError::TooMany),
                    Err(conflict) => self.skip(path, conflict)?,
                }
            }
            if waiting.len() > MAX_ENTRIES {
                return Err(ScanError::TooMany);
            }
        }
        Ok(())
    }

    /// One entry of a folder; a folder comes back with its path in the bundle.
    fn entry(
        &mut self,
        entry: &fs::DirEntry,
        meta: &Metadata,
        path: &Path,
        parent: Option<&BundlePath>,
    ) -> Result<Option<BundlePath>, SkipReason> {
        if meta.is_symlink() {
            return Err(SkipReason::Symlink);
        }
        let name = single(&entry.file_name())?;
        let at = match parent {
            Some(parent) => BundlePath::new(format!("{}/{}", parent.as_str(), name.as_str()))?,
            None => name,
        };
        if meta.is_dir() {
            return Ok(Some(at));
        }
        self.file(path, at, meta)?;
        Ok(None)
    }

    fn file(&mut self, path: &Path, at: BundlePath, meta: &Metadata) -> Result<(), SkipReason> {
        if !meta.is_file() {
            return Err(SkipReason::Special);
        }
        // To find out now, and not in the middle of a transfer, what may not be read.
        open_named(path)?;
        self.paths.insert_file(&at)?;
        let entry = FileEntry {
            path: at,
            size: meta.len(),
            exec: is_executable(meta),
        };
        let time = meta.modified().ok();
        self.files.push((entry, path.to_owned(), time));
        Ok(())
    }

    fn skip(&mut self, path: PathBuf, reason: impl Into<SkipReason>) -> Result<(), ScanError> {
        if self.skipped.len() >= MAX_ENTRIES {
            return Err(ScanError::TooMany);
        }
        self.skipped.push((path, reason.into()));
        Ok(())
    }

    fn finish(mut self, name: BundlePath, kind: Kind) -> Result<Scan, ScanError> {
        self.files.sort_by(|(a, ..), (b, ..)| a.path.cmp(&b.path));
        self.empty_folders.sort();
        let (mut files, mut sources, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for (file, source, time) in self.files {
            files.push(file);
            sources.push(source);
            times.push(time);
        }
        let chunk_size =
            choose_chunk_size(files.iter().map(|file| file.size)).ok_or(ScanError::TooLarge)?;
        let head = Head {
            name,
            kind,
            chunk_size,
            files,
            dirs: self.empty_folders,
        };
        head.check()?;
        let head_size = head.encode().len();
        if head_size > MAX_HEAD {
            return Err(HeadError::TooLong(head_size).into());
        }
        Ok(Scan {
            head,
            sources,
            times,
            skipped: self.skipped,
        })
    }
}

#[cfg(unix)]
fn is_executable(meta: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests;
