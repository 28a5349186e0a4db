//! The receiver's side of a bundle: verifies what comes, writes it, and gives it its final name.
//!
//! Synchronous: a sink lives on a thread of its own. Every step may be the last one before the
//! power goes; whoever opens the sink again carries on from what the disk really holds.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::fs::Dir;

use super::commit::Finished;
use super::pages::{PageLog, PageOutcome};
use super::sink_error::SinkError;
use super::source::SignedPage;
use super::staging::{DATA, FINISHING, HEAD, META, Meta, Staging, folder_name};
use super::tree::{self, Open};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::id::{BundleId, DeviceId, Root, TransferId};
use crate::protocol::identity::{PublicKey, Signature};
use crate::protocol::manifest::{
    ChunkHash, ChunkSpan, Head, Kind, Layout, Page, bundle_id, page_digest, page_statement,
    root_statement,
};
use crate::protocol::names::{BundlePath, STAGING};

/// Files that a sink keeps open.
const OPEN_FILES: usize = 16;
/// From this many files and folders on, the whole file system is synced instead of each.
const SYNC_EACH: usize = 64;

/// What a root says about the sink's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootOutcome {
    /// It is theirs: when all chunks are there, the bundle can be finished.
    Verified,
    /// It cannot be checked before these pages have come.
    MissingPages(Vec<u32>),
    /// It belongs to other pages: the origin made the bundle again, and its pages must be sent.
    Differs,
}

/// A bundle that is being received.
pub struct Sink {
    pub(super) head: Arc<Head>,
    pub(super) layout: Arc<Layout>,
    bundle: BundleId,
    pub(super) key: PublicKey,
    pub(super) dest_path: PathBuf,
    pub(super) dest: Dir,
    pub(super) staging_path: PathBuf,
    pub(super) staging: Staging,
    pub(super) data: Dir,
    pub(super) pages: PageLog,
    pub(super) have: ChunkSet,
    pub(super) root: Option<Root>,
    /// The bundle already has its final name.
    pub(super) finished: Option<Finished>,
    tree: Option<Dir>,
    files: Vec<(usize, File)>,
    dirty_files: BTreeSet<usize>,
    /// Folders below the tree with new names in them; the empty path is the tree itself.
    dirty_folders: BTreeSet<String>,
    created: BTreeSet<usize>,
    unsaved: u64,
}

impl Sink {
    /// Opens the bundle of `head_bytes` in the folder `dest`, new or where it was left, and
    /// verifies the pages that are already there. Chunks count as missing until
    /// [`Sink::recover`]. `dest` is made if it is not there.
    pub fn open(
        dest: &Path,
        origin: &DeviceId,
        origin_key: &PublicKey,
        transfer: TransferId,
        head_bytes: &[u8],
    ) -> Result<Self, SinkError> {
        let head = Head::decode(head_bytes)?;
        if origin_key.device_id() != *origin {
            return Err(SinkError::KeyMismatch);
        }
        let bundle = bundle_id(head_bytes);
        let layout = Layout::new(&head);
        let name = folder_name(origin, &bundle);
        let staging_path = dest.join(STAGING).join(&name);
        let room = || (layout.total_size(), free_space(dest).unwrap_or(0));
        let at_staging = |error| SinkError::of_io(&staging_path, error, room);
        let dir = fs::create_dir_all(dest).and_then(|()| tree::open_destination(dest));
        let dir = dir.map_err(|error| SinkError::of_io(dest, error, room))?;
        let staging = Staging::open(&dir, &name).map_err(at_staging)?;
        let staging = staging.ok_or_else(|| SinkError::InUse {
            path: staging_path.clone(),
        })?;
        let meta = Meta {
            v: 1,
            origin: origin.clone(),
            key: *origin_key,
            bundle,
            transfer,
        };
        let meta = serde_json::to_vec_pretty(&meta).unwrap_or_default();
        let parts = || -> io::Result<_> {
            staging.keep(META, &meta)?;
            staging.keep(HEAD, head_bytes)?;
            let data = tree::make_folder(&staging.dir, DATA, 0o777)?;
            tree::sync_folder(&staging.dir)?;
            Ok((
                data,
                PageLog::open(&staging.dir, &layout, &bundle, origin_key)?,
                staging.finishing()?,
            ))
        };
        let (data, pages, finishing) = parts().map_err(at_staging)?;
        let have = ChunkSet::new(layout.chunk_count());
        let mut sink = Self {
            head: Arc::new(head),
            layout: Arc::new(layout),
            bundle,
            key: *origin_key,
            dest_path: dest.to_owned(),
            dest: dir,
            staging_path,
            staging,
            data,
            pages,
            have,
            root: None,
            finished: None,
            tree: None,
            files: Vec::new(),
            dirty_files: BTreeSet::new(),
            dirty_folders: BTreeSet::new(),
            created: BTreeSet::new(),
            unsaved: 0,
        };
        if let Some(finishing) = finishing {
            sink.notice_finished(finishing)?;
        }
        Ok(sink)
    }

    /// The bundle's id.
    pub fn bundle(&self) -> BundleId {
        self.bundle
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Where the chunks lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The chunks that are written and verified. Only what [`Sink::checkpoint`] returned is sure
    /// to survive a power cut.
    pub fn have(&self) -> &ChunkSet {
        &self.have
    }

    /// Where the bundle is, if an earlier run was interrupted when it had already given it its
    /// final name.
    pub fn already_finished(&self) -> Option<&Finished> {
        self.finished.as_ref()
    }

    /// Bytes written since the last checkpoint.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.unsaved
    }

    /// Bytes of the chunks that are missing.
    pub fn missing_bytes(&self) -> u64 {
        self.have
            .iter_missing()
            .filter_map(|index| self.layout.chunk(index))
            .map(|span| u64::from(span.len))
            .sum()
    }

    /// Takes a page, if the origin signed it. A page that differs from the one before takes its
    /// changed chunks out of [`Sink::have`].
    pub fn put_page(
        &mut self,
        number: u32,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<PageOutcome, SinkError> {
        let page = self.check_page(number, bytes, signature)?;
        let outcome = self.pages.put(&self.staging.dir, page, bytes, *signature);
        let outcome = outcome.map_err(|error| self.io(&self.staging_path.join("pages"), error))?;
        let PageOutcome::Replaced { mut lost } = outcome else {
            return Ok(outcome);
        };
        self.root = None;
        if self.finished.take().is_some() {
            // What has the final name is the old bundle, and stays; the new one begins anew.
            lost = self.have.iter().collect();
            let removed = self.staging.dir.remove_file(FINISHING);
            removed.map_err(|error| self.io(&self.staging_path.join(FINISHING), error))?;
        }
        lost.retain(|&index| self.have.remove(index));
        Ok(PageOutcome::Replaced { lost })
    }

    /// Checks that the origin signed a page, and changes nothing.
    pub fn check_page(
        &self,
        number: u32,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<Page, SinkError> {
        if number >= self.layout.page_count() {
            return Err(SinkError::NoSuchPage(number));
        }
        let page = Page::decode(number, self.layout.page_bytes(number), bytes)?;
        let said = page_statement(&self.bundle, number, &page_digest(bytes));
        self.key
            .verify(&said, signature)
            .map_err(|_| SinkError::Signature {
                what: format!("page {number}"),
            })?;
        Ok(page)
    }

    /// Whether all pages are known.
    pub fn knows_all_pages(&self) -> bool {
        self.pages.missing().is_empty()
    }

    /// A page that is known, as the origin signed it.
    pub fn signed_page(&self, number: u32) -> Option<SignedPage> {
        self.pages.signed(number)
    }

    /// Whether the origin has replaced a chunk's page since we first had it.
    pub fn was_remade(&self, index: u32) -> bool {
        !self.pages.is_first(self.layout.page_of(index))
    }

    /// Verifies a chunk against its page and writes it. Nothing of a chunk that does not fit
    /// reaches the disk. A chunk that is already there is verified and not written again.
    pub fn write_chunk(&mut self, index: u32, bytes: &[u8]) -> Result<(), SinkError> {
        let span = self
            .layout
            .chunk(index)
            .ok_or(SinkError::NoSuchChunk(index))?;
        if bytes.len() != span.len as usize {
            return Err(SinkError::Length {
                index,
                expected: span.len,
                got: bytes.len(),
            });
        }
        let page = self.layout.page_of(index);
        let expected = self
            .pages
            .hash(index)
            .ok_or(SinkError::PageUnknown { index, page })?;
        let got = ChunkHash::of(bytes);
        if got.xxh3 != expected.xxh3 {
            return Err(SinkError::Corrupt { index });
        }
        if got.blake3 != expected.blake3 {
            return Err(SinkError::False { index });
        }
        if self.have.contains(index) {
            return Ok(());
        }
        let written = self
            .writable(span.file)
            .and_then(|file| file.write_all_at(bytes, span.offset));
        written.map_err(|error| self.io(&self.path_of(span.file), error))?;
        self.wrote(index, span);
        Ok(())
    }

    /// Notes that a chunk was written.
    pub(super) fn wrote(&mut self, index: u32, span: ChunkSpan) {
        self.dirty_files.insert(span.file);
        self.unsaved += u64::from(span.len);
        self.have.insert(index);
    }

    /// Makes everything written so far durable and returns the chunks that may now be recorded.
    /// After an error nothing is known about what was written since the last checkpoint: drop
    /// the sink, open it again and recover.
    pub fn checkpoint(&mut self) -> Result<ChunkSet, SinkError> {
        let synced = self.sync_dirty().and_then(|()| self.pages.sync());
        synced.map_err(|error| self.io(&self.staging_path, error))?;
        self.unsaved = 0;
        Ok(self.have.clone())
    }

    /// Checks the origin's signature of a root, and the root against the pages.
    pub fn check_root(
        &mut self,
        root: &Root,
        signature: &Signature,
    ) -> Result<RootOutcome, SinkError> {
        self.key
            .verify(&root_statement(&self.bundle, root), signature)
            .map_err(|_| SinkError::Signature {
                what: "the root".to_owned(),
            })?;
        Ok(match self.pages.root(&self.bundle) {
            None => RootOutcome::MissingPages(self.pages.missing()),
            Some(own) if own == *root => {
                self.root = Some(own);
                RootOutcome::Verified
            }
            Some(_) => RootOutcome::Differs,
        })
    }

    /// Whether the disk has room for what is missing and for `reserve` bytes more.
    pub fn check_space(&self, reserve: u64) -> Result<(), SinkError> {
        let needed = self.missing_bytes();
        let free = tree::free_in(&self.dest).map_err(|error| self.io(&self.dest_path, error))?;
        if needed > 0 && needed.saturating_add(reserve) > free {
            return Err(SinkError::DiskFull {
                needed: needed.saturating_add(reserve),
                free,
            });
        }
        Ok(())
    }

    /// Gives up: removes everything that came. A bundle that already has its final name stays.
    pub fn discard(self) -> Result<(), SinkError> {
        let path = self.staging_path.clone();
        let room = (self.missing_bytes(), tree::free_in(&self.dest).unwrap_or(0));
        self.staging
            .remove()
            .map_err(|error| SinkError::of_io(&path, error, || room))
    }

    /// The root of the pages, when all are known.
    pub(super) fn own_root(&self) -> Option<Root> {
        self.pages.root(&self.bundle)
    }

    pub(super) fn io(&self, path: &Path, error: io::Error) -> SinkError {
        SinkError::of_io(path, error, || {
            (self.missing_bytes(), tree::free_in(&self.dest).unwrap_or(0))
        })
    }

    /// Where the files of the head lie while the bundle grows.
    pub(super) fn tree(&mut self) -> io::Result<&Dir> {
        match &mut self.tree {
            Some(tree) => Ok(tree),
            empty => {
                let tree = match self.head.kind {
                    Kind::File => self.data.try_clone()?,
                    Kind::Folder => {
                        let tree = tree::make_folder(&self.data, self.head.name.as_str(), 0o777)?;
                        tree::sync_folder(&self.data)?;
                        tree
                    }
                };
                Ok(empty.insert(tree))
            }
        }
    }

    /// Where a file lies now, for messages.
    pub(super) fn path_of(&self, file: usize) -> PathBuf {
        let mut path = self.staging_path.join(DATA);
        if self.head.kind == Kind::Folder {
            path.push(self.head.name.as_str());
        }
        match self.head.files.get(file) {
            Some(entry) => path.join(entry.path.as_str()),
            None => path,
        }
    }

    /// A file of the head, open for writing; the folders on the way to it are made.
    pub(super) fn writable(&mut self, file: usize) -> io::Result<&File> {
        if let Some(at) = self.files.iter().position(|&(open, _)| open == file) {
            self.files[..=at].rotate_right(1);
        } else {
            let path = self.head.files[file].path.clone();
            let opened = tree::file_at(self.tree()?, &path, Open::Create)?;
            if self.created.insert(file) {
                self.mark_folders(&path);
            }
            self.files.truncate(OPEN_FILES - 1);
            self.files.insert(0, (file, opened));
        }
        Ok(&self.files[0].1)
    }

    /// Notes that the folders on the way to `path` may have new names in them.
    pub(super) fn mark_folders(&mut self, path: &BundlePath) {
        let mut path = path.as_str();
        while let Some((parent, _)) = path.rsplit_once('/') {
            self.dirty_folders.insert(parent.to_owned());
            path = parent;
        }
        self.dirty_folders.insert(String::new());
    }

    /// Notes that a file is to be synced.
    pub(super) fn mark_file(&mut self, file: usize) {
        self.dirty_files.insert(file);
    }

    /// Makes files and names durable that were written since the last time.
    pub(super) fn sync_dirty(&mut self) -> io::Result<()> {
        if self.dirty_files.is_empty() && self.dirty_folders.is_empty() {
            return Ok(());
        }
        if self.dirty_files.len() + self.dirty_folders.len() <= SYNC_EACH
            || !sync_file_system(&self.data)?
        {
            for file in self.dirty_files.clone() {
                self.writable(file)?.sync_all()?;
            }
            for folder in self.dirty_folders.clone() {
                let tree = self.tree()?;
                match BundlePath::new(folder) {
                    Ok(path) => {
                        let (parent, name) = tree::parent_of(tree, &path, false)?;
                        tree::sync_folder(&tree::folder(&parent, name)?)?;
                    }
                    Err(_) => tree::sync_folder(tree)?,
                }
            }
        }
        self.dirty_files.clear();
        self.dirty_folders.clear();
        Ok(())
    }

    /// Forgets open files and the tree, which is about to be, or was, moved.
    pub(super) fn release_tree(&mut self) {
        self.files.clear();
        self.tree = None;
        self.created.clear();
    }
}

/// Syncs everything on the file system of `dir`; false where that cannot be done.
#[cfg(target_os = "linux")]
fn sync_file_system(dir: &Dir) -> io::Result<bool> {
    rustix::fs::syncfs(dir)?;
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &Dir) -> io::Result<bool> {
    Ok(false)
}

/// Whether the disk below `dest` has room for `size` bytes and for `reserve` more.
pub fn check_space(dest: &Path, size: u64, reserve: u64) -> Result<(), SinkError> {
    let needed = size.saturating_add(reserve);
    let free = free_space(dest).map_err(|error| SinkError::of_io(dest, error, || (needed, 0)))?;
    if size > 0 && needed > free {
        return Err(SinkError::DiskFull { needed, free });
    }
    Ok(())
}

/// Bytes that may still be written below `dest`, or the nearest folder above it that exists.
pub fn free_space(dest: &Path) -> io::Result<u64> {
    let dest = std::path::absolute(dest)?;
    let there = dest
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"));
    tree::free_in(&tree::open_destination(there)?)
}

#[cfg(test)]
mod tests;
