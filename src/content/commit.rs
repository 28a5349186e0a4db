//! From a whole partial bundle to files under their final name, over something else only where
//! the policy says so.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;
use data_encoding::HEXLOWER;
use rustix::fs::{
    AtFlags, FileType, Mode, RenameFlags, linkat, mkdirat, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::sink::Sink;
use super::sink_error::SinkError;
use super::staging::{DATA, FINISHING, Finishing};
use super::tree::{self, inode};
use super::versions::{Own, Placing, Versions, Whole};
use crate::protocol::id::Root;
use crate::protocol::manifest::{Head, Kind};
use crate::protocol::names::{BundlePath, MAX_COMPONENT, STAGING};
use crate::protocol::policy::Collision;

/// `name (2)` up to this number.
const LAST_COPY: u32 = 9999;

/// A bundle under its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The file or folder.
    pub path: PathBuf,
    /// The root that was verified.
    pub root: Root,
    /// Its [`stat_digest`].
    pub stat: [u8; 32],
}

/// A digest over sizes and times of the files of a bundle that lies at `path`: while it stays the
/// same, nobody has touched them. An error when a file is missing or is no file.
pub fn stat_digest(path: &Path, head: &Head) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"handout stat 1");
    for file in &head.files {
        let meta = match head.kind {
            Kind::File => fs::symlink_metadata(path)?,
            Kind::Folder => fs::symlink_metadata(path.join(file.path.as_str()))?,
        };
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file"));
        }
        hasher.update(&meta.len().to_be_bytes());
        hasher.update(&meta.mtime().to_be_bytes());
        hasher.update(&meta.mtime_nsec().to_be_bytes());
    }
    if head.files.is_empty() && !fs::symlink_metadata(path)?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a folder"));
    }
    Ok(*hasher.finalize().as_bytes())
}

impl Sink {
    /// Gives the whole, verified bundle its final name in the destination and removes the
    /// staging folder. `collision` says what happens when something has that name; where the
    /// bundle is not to be placed, it stays where it is and the error says so.
    pub fn finish(mut self, collision: Collision) -> Result<Finished, SinkError> {
        let finished = self.commit(collision)?;
        if let Err(error) = self.discard() {
            tracing::warn!(%error, "the bundle is complete, but its staging folder could not be removed");
        }
        Ok(finished)
    }

    /// The first half of [`Sink::finish`]: for a caller that wants to record the result before
    /// [`Sink::discard`] removes the last trace of how it came about. Can be repeated.
    pub fn commit(&mut self, collision: Collision) -> Result<Finished, SinkError> {
        self.commit_into(collision, None)
    }

    /// The same for a version of a series: it takes the place of the one before, which is kept,
    /// whatever `collision` says, where that lies untouched under the name that it was given.
    pub(super) fn commit_into(
        &mut self,
        collision: Collision,
        mut series: Option<&mut Placing>,
    ) -> Result<Finished, SinkError> {
        if let Some(finished) = &self.finished {
            return Ok(finished.clone());
        }
        if !self.have.is_full() {
            return Err(SinkError::Unfinished {
                missing: self.have.count() - self.have.len(),
            });
        }
        let root = self.root.ok_or(SinkError::NotVerified)?;
        self.complete_tree()?;
        let at = |sink: &Self, error| sink.io(&sink.staging_path, error);
        let synced = self.sync_dirty().and_then(|()| self.pages.sync());
        synced.map_err(|error| at(self, error))?;
        let top = self.head.name.clone();
        let staged = self.staging_path.join(DATA).join(top.as_str());
        let stat = stat_digest(&staged, &self.head).map_err(|error| at(self, error))?;
        self.release_tree();
        let whole = Whole {
            staged: &staged,
            root,
            stat,
        };
        let own = match &mut series {
            Some(placing) => placing
                .begin(self, whole)
                .map_err(|error| at(self, error))?,
            None => Own::Nothing,
        };
        if let Own::Same(path) = own {
            return self.is_there_already(path, root, stat);
        }
        let names: Box<dyn Iterator<Item = String>> = match (&own, collision) {
            (Own::Replaced(name), _) => Box::new(std::iter::once(name.clone())),
            (_, Collision::KeepBoth) => Box::new(final_names(&top, self.head.kind)),
            (_, Collision::Overwrite | Collision::Refuse) => {
                Box::new(std::iter::once(top.as_str().to_owned()))
            }
        };
        for name in names {
            let path = self.dest_path.join(&name);
            let there = tree::exists(&self.dest, &name).map_err(|error| self.io(&path, error))?;
            let swaps = match collision {
                _ if matches!(own, Own::Replaced(_)) => inode_of(&self.data, top.as_str()),
                Collision::Overwrite if there => self.may_swap(&name),
                _ => Ok(None),
            };
            let swaps = swaps.map_err(|error| self.io(&path, error))?;
            if there && swaps.is_none() {
                continue;
            }
            let finishing = Finishing {
                name: name.clone(),
                root,
                stat: HEXLOWER.encode(&stat),
                swaps,
                series: series.as_ref().map(|placing| placing.folder().to_owned()),
            };
            let finishing = serde_json::to_vec(&finishing).unwrap_or_default();
            self.staging
                .keep(FINISHING, &finishing)
                .map_err(|error| at(self, error))?;
            if let Some(placing) = &mut series {
                let announced = placing.announce(&name);
                announced.map_err(|error| self.io(&path, error))?;
            }
            let (data, dest, kind) = (&self.data, &self.dest, self.head.kind);
            let moved = if let (Own::Replaced(_), Some(placing)) = (&own, &mut series) {
                placing.exchange(data, &name)
            } else if swaps.is_some() {
                exchange(data, top.as_str(), dest, &name, kind)
            } else {
                rename_without_overwriting(data, top.as_str(), dest, &name, kind)
            };
            match moved {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(self.io(&path, error.into())),
            }
            let synced = tree::sync_folder(&self.dest).and_then(|()| tree::sync_folder(&self.data));
            let synced = synced.and_then(|()| match &mut series {
                Some(placing) => placing.end(),
                None => Ok(()),
            });
            synced.map_err(|error| self.io(&path, error))?;
            if let Err(error) = tree::remove(&self.data, top.as_str()) {
                tracing::warn!(%error, "what was replaced could not be removed from the staging folder");
            }
            let finished = Finished { path, root, stat };
            self.finished = Some(finished.clone());
            return Ok(finished);
        }
        Err(SinkError::Exists {
            path: self.dest_path.join(top.as_str()),
        })
    }

    /// The same content is in its place, as an earlier version: what came is not needed.
    fn is_there_already(
        &mut self,
        path: PathBuf,
        root: Root,
        stat: [u8; 32],
    ) -> Result<Finished, SinkError> {
        let removed = tree::remove(&self.data, self.head.name.as_str());
        removed.map_err(|error| self.io(&self.staging_path, error))?;
        let stat = stat_digest(&path, &self.head).unwrap_or(stat);
        let finished = Finished { path, root, stat };
        self.finished = Some(finished.clone());
        Ok(finished)
    }

    /// Fails when something has the bundle's name and is not to be touched. Nothing is reserved:
    /// [`Sink::commit`] looks again.
    pub fn check_name(&self, collision: Collision) -> Result<(), SinkError> {
        if self.finished.is_some() {
            return Ok(());
        }
        check_name_in(&self.dest, &self.dest_path, &self.head.name, collision)
    }

    /// Device and inode of the staged bundle, if what has its final name may give way to it: a
    /// file to a file, a folder to a folder that holds no partial bundles. Links are not followed.
    fn may_swap(&self, name: &str) -> io::Result<Option<(u64, u64)>> {
        let there = statat(&self.dest, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let alike = match (self.head.kind, FileType::from_raw_mode(there.st_mode)) {
            (Kind::File, FileType::RegularFile) => true,
            (Kind::Folder, FileType::Directory) => {
                !tree::exists(&tree::folder(&self.dest, name)?, STAGING)?
            }
            _ => false,
        };
        let top = self.head.name.as_str();
        let ours = statat(&self.data, top, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(alike.then(|| inode(&ours)))
    }

    /// What the chunks do not bring: empty files and folders, lengths, permissions.
    fn complete_tree(&mut self) -> Result<(), SinkError> {
        for file in 0..self.head.files.len() {
            let (size, exec) = (self.head.files[file].size, self.head.files[file].exec);
            let short = self.complete_file(file, size, exec);
            if short.map_err(|error| self.io(&self.path_of(file), error))? {
                // Somebody else was at it: what is gone is to be received again.
                let lost = self.layout.file_chunks(file);
                let missing = lost.filter(|&index| self.have.remove(index)).count();
                return Err(SinkError::Unfinished {
                    missing: missing as u32,
                });
            }
        }
        for folder in self.head.dirs.clone() {
            let made = self.tree().and_then(|tree| {
                let (parent, name) = tree::parent_of(tree, &folder, true)?;
                tree::make_folder(&parent, name, 0o777)
            });
            made.map_err(|error| self.io(&self.path_of(usize::MAX).join(folder.as_str()), error))?;
            self.mark_folders(&folder);
        }
        self.tree()
            .map(drop)
            .map_err(|error| self.io(&self.path_of(usize::MAX), error))
    }

    /// True when the file is shorter than it must be.
    fn complete_file(&mut self, file: usize, size: u64, exec: bool) -> io::Result<bool> {
        let opened = self.writable(file)?;
        let meta = opened.metadata()?;
        if meta.len() < size {
            return Ok(true);
        }
        let mode = meta.permissions().mode();
        // May be run by whoever may read it.
        let wanted = if exec {
            mode | (mode & 0o444) >> 2
        } else {
            mode
        };
        let changed = meta.len() > size || wanted != mode || size == 0;
        if meta.len() > size {
            opened.set_len(size)?;
        }
        if wanted != mode {
            opened.set_permissions(fs::Permissions::from_mode(wanted))?;
        }
        if changed {
            self.mark_file(file);
        }
        Ok(false)
    }

    /// An earlier run was interrupted around the renaming: finds out on which side of it.
    pub(super) fn notice_finished(&mut self, finishing: Finishing) -> Result<(), SinkError> {
        if let Some(folder) = &finishing.series {
            // What was replaced is kept, before it could be taken for something to be removed.
            let settled = Versions::open_folder(&self.dest_path, folder);
            settled.map_err(|error| self.io(&self.dest_path, error))?;
        }
        let top = self.head.name.as_str();
        let staged =
            inode_of(&self.data, top).map_err(|error| self.io(&self.staging_path, error))?;
        let Ok(name) = BundlePath::single(finishing.name) else {
            return Ok(());
        };
        let path = self.dest_path.join(name.as_str());
        let there = || inode_of(&self.dest, name.as_str()).map_err(|error| self.io(&path, error));
        match (staged, finishing.swaps) {
            (None, _) => {}
            // It got its final name as a second one, and the first was still to be taken away.
            (Some(staged), None) if there()? == Some(staged) => {
                tree::remove(&self.data, top)
                    .map_err(|error| self.io(&self.staging_path, error))?;
            }
            (Some(staged), Some(ours)) if staged != ours => {
                if there()? != Some(ours) {
                    return Err(SinkError::Replaced {
                        path: self.staging_path.join(DATA).join(top),
                    });
                }
                // They have changed places: what lies here is what was replaced.
                tree::remove(&self.data, top)
                    .map_err(|error| self.io(&self.staging_path, error))?;
            }
            (Some(_), _) => return Ok(()),
        }
        let same = stat_digest(&path, &self.head)
            .is_ok_and(|stat| HEXLOWER.encode(&stat) == finishing.stat);
        if !same && finishing.swaps.is_some() {
            // What will come in its place must not be taken for what was replaced.
            let removed = self.staging.dir.remove_file(FINISHING);
            removed.map_err(|error| self.io(&self.staging_path, error))?;
        }
        if same && self.own_root() == Some(finishing.root) {
            let stat = stat_digest(&path, &self.head).map_err(|error| self.io(&path, error))?;
            self.root = Some(finishing.root);
            self.finished = Some(Finished {
                path,
                root: finishing.root,
                stat,
            });
        }
        Ok(())
    }
}

/// Device and inode of what has this name in a folder.
pub(super) fn inode_of(parent: &Dir, name: &str) -> io::Result<Option<(u64, u64)>> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(inode(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same as [`Sink::check_name`], for a bundle of which nothing has come yet.
pub fn check_name(dest: &Path, name: &BundlePath, collision: Collision) -> Result<(), SinkError> {
    match tree::open_destination(dest) {
        Ok(dir) => check_name_in(&dir, dest, name, collision),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SinkError::of_io(dest, error, || (0, 0))),
    }
}

fn check_name_in(
    dest: &Dir,
    dest_path: &Path,
    name: &BundlePath,
    collision: Collision,
) -> Result<(), SinkError> {
    let path = dest_path.join(name.as_str());
    if collision != Collision::Refuse {
        return Ok(());
    }
    match tree::exists(dest, name.as_str()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(SinkError::Exists { path }),
        Err(error) => Err(SinkError::of_io(&path, error, || (0, 0))),
    }
}

/// The names to try, in order: `name.ext`, `name (2).ext`, `name (3).ext`, …
pub(super) fn final_names(name: &BundlePath, kind: Kind) -> impl Iterator<Item = String> {
    let name = name.as_str().to_owned();
    (1..=LAST_COPY).map(move |copy| {
        if copy == 1 {
            return name.clone();
        }
        let dot = name
            .rfind('.')
            .filter(|&dot| dot > 0 && kind == Kind::File && name.len() - dot <= 32);
        let (stem, ext) = name.split_at(dot.unwrap_or(name.len()));
        let number = format!(" ({copy})");
        let mut end = stem.len().min(MAX_COMPONENT - number.len() - ext.len());
        while !stem.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{number}{ext}", &stem[..end])
    })
}

/// Moves `from` to `to`; [`Errno::EXIST`] when something has that name.
pub(super) fn rename_without_overwriting(
    old: &Dir,
    from: &str,
    new: &Dir,
    to: &str,
    kind: Kind,
) -> Result<(), Errno> {
    match renameat_with(old, from, new, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            claim_and_rename(old, from, new, to, kind)
        }
        other => other,
    }
}

/// Lets what has come and what has its name change places at once; [`Errno::EXIST`] where the
/// file system cannot. A file can also be renamed over another.
fn exchange(old: &Dir, from: &str, new: &Dir, to: &str, kind: Kind) -> Result<(), Errno> {
    match renameat_with(old, from, new, to, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match kind {
            Kind::File => renameat(old, from, new, to),
            Kind::Folder => Err(Errno::EXIST),
        },
        other => other,
    }
}

/// For file systems that cannot rename without overwriting: a hard link fails where something
/// is, and an empty folder of our own is all that a folder can be renamed over.
fn claim_and_rename(old: &Dir, from: &str, new: &Dir, to: &str, kind: Kind) -> Result<(), Errno> {
    match kind {
        Kind::File => {
            linkat(old, from, new, to, AtFlags::empty())?;
            unlinkat(old, from, AtFlags::empty())
        }
        Kind::Folder => {
            mkdirat(new, to, Mode::from_raw_mode(0o777))?;
            renameat(old, from, new, to).inspect_err(|_| {
                // Removes nothing but the empty folder just made.
                let _ = unlinkat(new, to, AtFlags::REMOVEDIR);
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_numbered_before_the_extension_and_stay_short_enough() {
        let second = |name: &str, kind| {
            final_names(&BundlePath::new(name).unwrap(), kind)
                .nth(1)
                .unwrap()
        };
        assert_eq!(second("a.txt", Kind::File), "a (2).txt");
        assert_eq!(second("a.txt", Kind::Folder), "a.txt (2)");
        assert_eq!(second(".profile", Kind::File), ".profile (2)");
        assert_eq!(second("README", Kind::File), "README (2)");
        let long = format!("{}.txt", "é".repeat(125));
        let copy = second(&long, Kind::File);
        assert!(copy.len() <= MAX_COMPONENT && copy.ends_with("é (2).txt"));
    }

    #[test]
    fn what_took_the_name_at_the_last_moment_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let parent = tree::open_destination(dir.path()).unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "ours").unwrap();
        std::fs::write(&b, "theirs").unwrap();
        let moved = rename_without_overwriting(&parent, "a", &parent, "b", Kind::File);
        assert_eq!(moved, Err(Errno::EXIST));
        assert_eq!(std::fs::read(&b).unwrap(), b"theirs");
        assert_eq!(std::fs::read(&a).unwrap(), b"ours");
    }

    #[test]
    fn without_help_from_the_file_system_nothing_is_overwritten_either() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind) in [("f", Kind::File), ("d", Kind::Folder)] {
            let (a, b) = (
                dir.path().join(name),
                dir.path().join(format!("new-{name}")),
            );
            match kind {
                Kind::File => fs::write(&a, "x").unwrap(),
                Kind::Folder => fs::create_dir_all(a.join("inner")).unwrap(),
            }
            let root = tree::open_destination(dir.path()).unwrap();
            let to = b.file_name().unwrap().to_str().unwrap();
            claim_and_rename(&root, name, &root, to, kind).unwrap();
            assert!(!a.exists() && b.exists());
            match kind {
                Kind::File => fs::write(&a, "y").unwrap(),
                Kind::Folder => fs::create_dir(&a).unwrap(),
            }
            assert_eq!(
                claim_and_rename(&root, name, &root, to, kind),
                Err(Errno::EXIST)
            );
            assert!(a.exists() && b.exists());
        }
    }
}
