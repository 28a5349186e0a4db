//! Folders and files below a destination, one name at a time and never through a link.
//!
//! cap-std keeps a path from leaving its folder; here, beyond that, no link is followed at all:
//! a link inside the destination could lead a file of ours over one of somebody else's.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cap_std::fs::Dir;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, fsync, mkdirat, openat, renameat, statat,
};
use rustix::io::Errno;

use crate::protocol::names::BundlePath;

/// How often it is looked whether a file has one name only.
const LOOKS: usize = 3;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// Reading what is there.
    Read,
    /// Reading and writing what is there.
    Write,
    /// The same, and it is made if it is not there.
    Create,
}

/// Opens a folder that a person chose; links in its path are theirs. Not with cap-std's own
/// function, whose `O_PATH` descriptors can be neither synced nor locked.
pub(super) fn open_destination(path: &Path) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::from_std_file(
        rustix::fs::open(path, flags, Mode::empty())?.into(),
    ))
}

/// Opens a file that a person named, for reading. Should it have become a pipe, that is found out
/// when its metadata is looked at, and not by waiting for a writer.
pub(super) fn open_named(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn one_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a single name",
        ));
    }
    Ok(())
}

/// Opens the folder `name` in `parent`.
pub(super) fn folder(parent: &Dir, name: &str) -> io::Result<Dir> {
    one_name(name)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Dir::from_std_file(
        openat(parent, name, flags, Mode::empty())?.into(),
    ))
}

/// The same, and it is made with `mode` (less the umask) if it is not there.
pub(super) fn make_folder(parent: &Dir, name: &str, mode: u32) -> io::Result<Dir> {
    one_name(name)?;
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => folder(parent, name),
        Err(error) => Err(error.into()),
    }
}

/// Opens the regular file `name` in `parent`; for writing only where that is its only name.
pub(super) fn file(parent: &Dir, name: &str, open: Open) -> io::Result<File> {
    one_name(name)?;
    // Without NONBLOCK a pipe in the file's place would stop us here for ever.
    let always = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if open == Open::Create {
        let new = always | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        match openat(parent, name, new, Mode::from_raw_mode(0o666)) {
            // What we have made ourselves is nobody else's.
            Ok(fd) => return Ok(fd.into()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let access = match open {
        Open::Read => OFlags::RDONLY,
        Open::Write | Open::Create => OFlags::RDWR,
    };
    let fd = openat(parent, name, always | access, Mode::empty())?;
    let opened = fstat(&fd)?;
    if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "something that is no file is in its place",
        ));
    }
    if open != Open::Read {
        only_here(parent, name, &opened)?;
    }
    Ok(fd.into())
}

/// Fails where a file has another name besides this one: then it may be somebody else's, linked
/// into our folder, and is not written to.
///
/// The system finds the file by its name first and counts its names then. Our name may be taken
/// away in between, so that only the other one is counted; it is not there any more at the next
/// look. Whoever hits that moment each time can write our user's files in any case.
fn only_here(parent: &Dir, name: &str, opened: &Stat) -> io::Result<()> {
    let mut alone = true;
    for _ in 0..LOOKS {
        let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        alone &= inode(&there) == inode(opened) && there.st_nlink <= 1;
    }
    if alone {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "the file has a second name somewhere else (a hard link), and is not written to; move it \
         away and try again",
    ))
}

/// Device and inode.
// These fields have other types on other systems.
#[allow(clippy::unnecessary_cast)]
pub(super) fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// The folder that `path` lies in, and its name there.
pub(super) fn parent_of<'a>(
    root: &Dir,
    path: &'a BundlePath,
    make: bool,
) -> io::Result<(Dir, &'a str)> {
    let mut at = root.try_clone()?;
    let mut components = path.components();
    let name = components.next_back().unwrap_or_default();
    for component in components {
        at = if make {
            make_folder(&at, component, 0o777)?
        } else {
            folder(&at, component)?
        };
    }
    Ok((at, name))
}

/// Opens the file at `path` below `root`; [`Open::Create`] makes the folders on the way too.
pub(super) fn file_at(root: &Dir, path: &BundlePath, open: Open) -> io::Result<File> {
    let (parent, name) = parent_of(root, path, open == Open::Create)?;
    file(&parent, name, open)
}

/// Whether anything of this name is in `parent`, a dangling link included.
pub(super) fn exists(parent: &Dir, name: &str) -> io::Result<bool> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the file or folder `name` in `parent`, with all that is in it. Nothing there is fine.
pub(super) fn remove(parent: &Dir, name: &str) -> io::Result<()> {
    one_name(name)?;
    let removed = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            parent.remove_dir_all(name)
        }
        Ok(_) => parent.remove_file(name),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(dir: &Dir) -> io::Result<()> {
    match fsync(dir) {
        // Some file systems have nothing to sync for a folder and say so.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads a file of at most `limit` bytes; `None` when it is not there.
pub(super) fn read_small(parent: &Dir, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let opened = match file(parent, name, Open::Read) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    opened.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Gives a small file new content, all or nothing, whatever happens in between.
pub(super) fn replace(parent: &Dir, name: &str, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let new = format!("{name}.new");
    let mut opened = file(parent, &new, Open::Create)?;
    opened.set_len(0)?;
    opened.write_all(bytes)?;
    opened.sync_all()?;
    renameat(parent, new.as_str(), parent, name)?;
    sync_folder(parent)
}

/// Bytes that this user may still write to the file system of `dir`.
pub(super) fn free_in(dir: &Dir) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
