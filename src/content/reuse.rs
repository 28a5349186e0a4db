//! Chunks of a bundle that are already here, in an earlier bundle of the same origin: they are
//! copied on this disk and need not be sent again. So is what has come of a version whose sender
//! went on to a newer one: a receiver that is slower than the changes has it all in the end.
//!
//! They are found by their hash, wherever in the earlier files they lie, so files that were
//! renamed or moved count too; but only at multiples of the chunk size from a file's beginning:
//! bytes put into the middle of a file shift all that follows, which is then sent again. Nothing
//! is believed: a chunk counts when its BLAKE3 is that of its signed page.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use cap_std::fs::Dir;
use rustix::fs::copy_file_range;

use super::sink::Sink;
use super::sink_error::SinkError;
use super::staging::{DATA, Staging, discard_partial, find_partial, folder_name};
use super::tree::{self, Open};
use super::{HeadShelf, stat_digest};
use crate::protocol::id::{BundleId, DeviceId};
use crate::protocol::manifest::{ChunkHash, ChunkSpan, Head, Kind};
use crate::protocol::names::BundlePath;

/// Where an earlier bundle of the same origin was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// The bundle.
    pub bundle: BundleId,
    /// The file or folder.
    pub path: PathBuf,
    /// The digest over sizes and times that its files had then.
    pub stat: [u8; 32],
    /// Its head, where that is not to be looked for on the shelf.
    pub head: Option<Head>,
}

/// Where a bundle lies that its sender gave up before it was whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// The destination in which it was begun.
    pub destination: PathBuf,
    /// Who made it.
    pub origin: DeviceId,
    /// The bundle.
    pub bundle: BundleId,
}

impl Abandoned {
    /// Whether anything of it is there.
    pub fn is_there(&self) -> bool {
        find_partial(&self.destination, &self.origin, &self.bundle).is_some()
    }

    /// Removes it. An error of kind `ResourceBusy` means that it is still being written.
    pub fn discard(&self) -> io::Result<()> {
        discard_partial(&self.destination, &self.origin, &self.bundle)
    }
}

/// What is here of which an offered bundle may be another version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// What has arrived, the newest first.
    pub arrived: Vec<Earlier>,
    /// What its sender gave up, the newest first.
    pub abandoned: Vec<Abandoned>,
}

/// A walk through an earlier bundle, one chunk at a time.
pub struct Reuse {
    /// Chunks that are missing, by their XXH3.
    wanted: Vec<(u64, u32)>,
    chunk_size: u32,
    parent: Dir,
    head: Head,
    /// All of it is there, in files as long as the head says.
    whole: bool,
    at: usize,
    offset: u64,
    open: Option<File>,
    buffer: Vec<u8>,
    /// Nobody else works in it meanwhile.
    _staging: Option<Staging>,
}

/// What one step has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of the bundle need not come any more; often none.
    Took(u64),
    /// There is no more.
    Over,
}

impl Reuse {
    /// Begins, if the earlier bundle lies where it was put and nobody has touched it since:
    /// what somebody else has written there is never looked at. Only chunks are looked for whose
    /// page `sink` knows.
    pub fn begin(sink: &Sink, earlier: &Earlier, heads: &HeadShelf) -> Option<Self> {
        let head = match &earlier.head {
            Some(head) => head.clone(),
            None => heads.get(&earlier.bundle)?,
        };
        if stat_digest(&earlier.path, &head).ok()? != earlier.stat {
            return None;
        }
        let parent = match head.kind {
            Kind::Folder => tree::open_destination(&earlier.path),
            Kind::File => tree::open_destination(earlier.path.parent()?),
        };
        let parent = parent.ok()?;
        let mut head = head;
        if head.kind == Kind::File {
            // It may have been given another name when it arrived.
            let name = earlier.path.file_name()?.to_str()?;
            head.files[0].path = BundlePath::single(name).ok()?;
        }
        Some(Self::through(sink, parent, head, None))
    }

    /// Begins with what has come of a bundle that was given up. An error of kind `ResourceBusy`
    /// means that it is still being written; others that there is nothing.
    pub fn begin_abandoned(sink: &Sink, abandoned: &Abandoned) -> io::Result<Self> {
        let nothing = || io::Error::from(io::ErrorKind::NotFound);
        let Abandoned {
            destination,
            origin,
            bundle,
        } = abandoned;
        let head = find_partial(destination, origin, bundle).ok_or_else(nothing)?;
        let head = Head::decode(&head).map_err(|_| nothing())?;
        let dest = tree::open_destination(destination)?;
        let staging = Staging::open(&dest, &folder_name(origin, bundle))?
            .ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?;
        let data = tree::folder(&staging.dir, DATA)?;
        let parent = match head.kind {
            Kind::Folder => tree::folder(&data, head.name.as_str())?,
            Kind::File => data,
        };
        Ok(Self::through(sink, parent, head, Some(staging)))
    }

    fn through(sink: &Sink, parent: Dir, head: Head, staging: Option<Staging>) -> Self {
        let mut wanted: Vec<(u64, u32)> = sink
            .have
            .iter_missing()
            .filter_map(|index| Some((sink.pages.hash(index)?.xxh3, index)))
            .collect();
        wanted.sort_unstable();
        Self {
            wanted,
            chunk_size: sink.layout.chunk_size(),
            parent,
            head,
            whole: staging.is_none(),
            at: 0,
            offset: 0,
            open: None,
            buffer: Vec::new(),
            _staging: staging,
        }
    }

    /// Looks at one chunk of the earlier bundle, and copies it to where it is missing. What
    /// cannot be read is passed over.
    pub fn step(&mut self, sink: &mut Sink) -> Result<Step, SinkError> {
        let Some(entry) = self.head.files.get(self.at) else {
            return Ok(Step::Over);
        };
        let (size, path) = (entry.size, entry.path.clone());
        let len = size
            .saturating_sub(self.offset)
            .min(u64::from(self.chunk_size));
        if len == 0 || self.wanted.is_empty() {
            self.next_file();
            return Ok(Step::Took(0));
        }
        if let Err(error) = self.read(&path, size, len as usize) {
            tracing::debug!(?path, %error, "a file of an earlier bundle is of no use");
            self.next_file();
            return Ok(Step::Took(0));
        }
        let took = self.give_to(sink)?;
        self.offset += len;
        if self.offset >= size {
            self.next_file();
        }
        Ok(Step::Took(took))
    }

    fn next_file(&mut self) {
        self.at += 1;
        self.offset = 0;
        self.open = None;
    }

    fn read(&mut self, path: &BundlePath, size: u64, len: usize) -> io::Result<()> {
        let file = match &self.open {
            Some(file) => file,
            None => {
                let file = tree::file_at(&self.parent, path, Open::Read)?;
                if self.whole && file.metadata()?.len() != size {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "it was changed"));
                }
                self.open.insert(file)
            }
        };
        self.buffer.resize(len, 0);
        file.read_exact_at(&mut self.buffer, self.offset)
    }

    /// Copies the chunk that was read to all places where it is missing.
    fn give_to(&mut self, sink: &mut Sink) -> Result<u64, SinkError> {
        let xxh3 = xxhash_rust::xxh3::xxh3_64(&self.buffer);
        let first = self.wanted.partition_point(|&(hash, _)| hash < xxh3);
        let alike = self.wanted[first..]
            .iter()
            .take_while(|&&(hash, _)| hash == xxh3);
        let alike: Vec<u32> = alike.map(|&(_, index)| index).collect();
        if alike.is_empty() {
            return Ok(0);
        }
        let hash = ChunkHash::of(&self.buffer);
        let Some(from) = &self.open else { return Ok(0) };
        let mut took = 0;
        for index in alike {
            if sink.have.contains(index) || sink.pages.hash(index) != Some(hash) {
                continue;
            }
            let Some(span) = sink
                .layout
                .chunk(index)
                .filter(|s| s.len as usize == self.buffer.len())
            else {
                continue;
            };
            sink.copy_chunk(index, span, &self.buffer, (from, self.offset))?;
            took += u64::from(span.len);
        }
        Ok(took)
    }
}

impl Sink {
    /// Puts a verified chunk into its place, from a file that holds it.
    fn copy_chunk(
        &mut self,
        index: u32,
        span: ChunkSpan,
        bytes: &[u8],
        from: (&File, u64),
    ) -> Result<(), SinkError> {
        let copied = self
            .writable(span.file)
            .and_then(|file| copy(file, span, bytes, from));
        copied.map_err(|error| self.io(&self.path_of(span.file), error))?;
        self.wrote(index, span);
        Ok(())
    }
}

/// Copies within the file system, where it can: some let both files share the place on the disk.
/// The file that is copied from can be written to meanwhile, so what has arrived is compared with
/// what was verified, which is written where that is not the same.
fn copy(to: &File, span: ChunkSpan, bytes: &[u8], (from, at): (&File, u64)) -> io::Result<()> {
    let (mut read, mut written) = (at, span.offset);
    let end = span.offset + bytes.len() as u64;
    while written < end {
        let left = (end - written) as usize;
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), left) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    if written == end {
        let mut arrived = vec![0; bytes.len()];
        to.read_exact_at(&mut arrived, span.offset)?;
        if arrived == bytes {
            return Ok(());
        }
    }
    to.write_all_at(bytes, span.offset)
}
