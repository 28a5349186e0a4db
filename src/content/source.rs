//! The sender's view of a bundle: chunks, and the pages and the root that vouch for them.
//!
//! Nothing is hashed before it is wanted. A page is read once, hashed while its bytes are in
//! memory, and its chunks are kept for the receivers that are about to ask for them; meanwhile
//! the next page is made. So the first chunk leaves a few milliseconds after the start, and eight
//! receivers in step cost one pass over the disk.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use xxhash_rust::xxh3::xxh3_64;

use super::cache::Cache;
use super::hashes::{Seen, remembered};
use super::pool::{Buffer, Pool};
use super::scan::Scan;
use super::tree::open_named;
use crate::protocol::id::{BundleId, Root};
use crate::protocol::identity::{Identity, Signature};
use crate::protocol::manifest::{
    ChunkHash, ChunkSpan, HASH_BYTES, Head, Layout, Page, bundle_id, page_digest, page_statement,
    root_of, root_statement,
};
use crate::protocol::message::Code;

/// Bytes of chunks that one source keeps in memory. A page of the default chunk size (16 MiB) and
/// half of the next; a process with eight receivers then stays under 64 MB.
pub const CACHE_BYTES: usize = 24 * 1024 * 1024;
/// Threads that read and hash one page.
const WORKERS: u32 = 2;
/// Chunks that are read again from disk at the same time.
const REREADS: usize = 4;

/// A chunk, ready to be sent.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Its content.
    pub bytes: Bytes,
    /// XXH3-64 of it.
    pub xxh3: u64,
}

/// A page, ready to be sent.
#[derive(Debug, Clone)]
pub struct SignedPage {
    /// Which page.
    pub number: u32,
    /// Its bytes.
    pub bytes: Bytes,
    /// The origin's signature of it.
    pub signature: Signature,
}

/// Why a chunk, page or root could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file is not the one that the bundle was made from.
    #[error("{path:?} changed while it was being sent; send it again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file is gone or cannot be read.
    #[error("{path:?} cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no chunk or page of this number.
    #[error("the bundle has no {what} {number}")]
    NoSuch {
        /// `chunk` or `page`.
        what: &'static str,
        /// Its number.
        number: u32,
    },
    /// A reading thread died, or the program is ending.
    #[error("reading was interrupted: {0}")]
    Interrupted(#[from] JoinError),
}

impl SourceError {
    /// The word for it on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Changed { .. } => Code::Changed,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Code::Changed,
            Self::Io { .. } => Code::DiskError,
            Self::NoSuch { .. } => Code::BadRequest,
            Self::Interrupted(_) => Code::Shutdown,
        }
    }
}

/// A bundle that can be sent. Cheap to clone; all clones share hashes and memory. To be used
/// within a tokio runtime; files are read on its blocking threads.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    identity: Identity,
    head: Head,
    head_bytes: Bytes,
    bundle: BundleId,
    layout: Layout,
    sources: Vec<PathBuf>,
    /// When each was last written, as of the scan.
    times: Vec<Option<SystemTime>>,
    pages: Vec<OnceCell<SignedPage>>,
    root: OnceCell<(Root, Signature)>,
    cache: Mutex<Cache>,
    buffers: Arc<Pool>,
    /// Chunks being read again, so that those who want the same one wait for one read.
    reading: Mutex<HashMap<u32, Weak<OnceCell<Chunk>>>>,
    /// One page at a time: two threads on it keep two cores and any disk busy.
    hashing: Semaphore,
    rereading: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is a cache: after a panic elsewhere it is still right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// A source of what was scanned, signed by `identity` as its origin.
    pub fn new(scan: Scan, identity: Identity) -> Self {
        let head_bytes = Bytes::from(scan.head.encode());
        let layout = Layout::new(&scan.head);
        Self(Arc::new(Inner {
            identity,
            bundle: bundle_id(&head_bytes),
            pages: (0..layout.page_count()).map(|_| OnceCell::new()).collect(),
            root: OnceCell::new(),
            cache: Mutex::new(Cache::new(CACHE_BYTES)),
            buffers: Pool::new(layout.chunk_size() as usize),
            reading: Mutex::default(),
            hashing: Semaphore::new(1),
            rereading: Semaphore::new(REREADS),
            head: scan.head,
            sources: scan.sources,
            times: scan.times,
            head_bytes,
            layout,
        }))
    }

    /// The bundle's id.
    pub fn bundle(&self) -> BundleId {
        self.0.bundle
    }

    /// The head as it goes over the wire.
    pub fn head_bytes(&self) -> &Bytes {
        &self.0.head_bytes
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.0.head
    }

    /// Where the chunks lie.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// The device that signs: us.
    pub fn origin(&self) -> &Identity {
        &self.0.identity
    }

    /// A chunk, from memory or from disk. A file that is no longer what its page says is
    /// [`SourceError::Changed`].
    pub async fn chunk(&self, index: u32) -> Result<Chunk, SourceError> {
        let span = self.0.layout.chunk(index).ok_or(SourceError::NoSuch {
            what: "chunk",
            number: index,
        })?;
        let number = self.0.layout.page_of(index);
        let page = self.page(number).await?;
        if let Some(chunk) = lock(&self.0.cache).get(index) {
            return Ok(chunk);
        }
        let place = (index - self.0.layout.page_chunks(number).start) as usize;
        let cell = {
            let mut reading = lock(&self.0.reading);
            match reading.get(&index).and_then(Weak::upgrade) {
                Some(cell) => cell,
                None => {
                    reading.retain(|_, cell| cell.strong_count() > 0);
                    let cell = Arc::new(OnceCell::new());
                    reading.insert(index, Arc::downgrade(&cell));
                    cell
                }
            }
        };
        cell.get_or_try_init(|| self.read_again(index, span, stored_xxh3(&page.bytes, place)))
            .await
            .cloned()
    }

    async fn read_again(
        &self,
        index: u32,
        span: ChunkSpan,
        xxh3: u64,
    ) -> Result<Chunk, SourceError> {
        // Closed never: an error is as good as a permit.
        let _permit = self.0.rereading.acquire().await;
        let inner = Arc::clone(&self.0);
        spawn_blocking(move || {
            let bytes = Reader::default().read(&inner, span)?;
            if xxh3_64(bytes.as_ref()) != xxh3 {
                return Err(SourceError::Changed {
                    path: inner.sources[span.file].clone(),
                });
            }
            let chunk = Chunk {
                bytes: bytes.freeze(),
                xxh3,
            };
            lock(&inner.cache).put_used(index, chunk.clone());
            Ok(chunk)
        })
        .await?
    }

    /// A page with the origin's signature; hashes it if nobody has yet, and begins with the next.
    pub async fn page(&self, number: u32) -> Result<SignedPage, SourceError> {
        let cell = self.page_cell(number)?;
        if let Some(page) = cell.get() {
            return Ok(page.clone());
        }
        let page = self.make_page(number, true).await?;
        let next = number + 1;
        if self
            .0
            .pages
            .get(next as usize)
            .is_some_and(|cell| !cell.initialized())
        {
            let source = self.clone();
            tokio::spawn(async move {
                // Whoever wants that page will meet the same error.
                if let Err(error) = source.make_page(next, true).await {
                    tracing::debug!(page = next, %error, "reading ahead failed");
                }
            });
        }
        Ok(page)
    }

    fn page_cell(&self, number: u32) -> Result<&OnceCell<SignedPage>, SourceError> {
        self.0
            .pages
            .get(number as usize)
            .ok_or(SourceError::NoSuch {
                what: "page",
                number,
            })
    }

    async fn make_page(&self, number: u32, keep: bool) -> Result<SignedPage, SourceError> {
        let make = async || {
            let _permit = self.0.hashing.acquire().await;
            let next = Arc::new(AtomicU32::new(self.0.layout.page_chunks(number).start));
            let workers: Vec<_> = (0..WORKERS)
                .map(|_| {
                    let (inner, next) = (Arc::clone(&self.0), Arc::clone(&next));
                    spawn_blocking(move || inner.hash_chunks(number, &next, keep))
                })
                .collect();
            let mut hashes = Vec::new();
            for worker in workers {
                hashes.extend(worker.await??);
            }
            hashes.sort_unstable_by_key(|&(index, _)| index);
            let hashes = hashes.into_iter().map(|(_, hash)| hash).collect();
            let bytes = Bytes::from(Page { number, hashes }.encode());
            let said = page_statement(&self.0.bundle, number, &page_digest(&bytes));
            Ok::<_, SourceError>(SignedPage {
                number,
                bytes,
                signature: self.0.identity.sign(&said),
            })
        };
        self.page_cell(number)?.get_or_try_init(make).await.cloned()
    }

    /// The same, for somebody who wants all pages first: nothing of what is read is kept.
    pub async fn page_alone(&self, number: u32) -> Result<SignedPage, SourceError> {
        self.make_page(number, false).await
    }

    /// The root and the origin's signature of it; hashes all pages that are still to be hashed,
    /// without keeping their chunks in memory.
    pub async fn root(&self) -> Result<(Root, Signature), SourceError> {
        let make = async || {
            let mut digests = Vec::with_capacity(self.0.pages.len());
            for number in 0..self.0.layout.page_count() {
                digests.push(page_digest(&self.make_page(number, false).await?.bytes));
            }
            let root = root_of(&self.0.bundle, digests);
            let signature = self.0.identity.sign(&root_statement(&self.0.bundle, &root));
            Ok((root, signature))
        };
        self.0.root.get_or_try_init(make).await.copied()
    }

    /// The root, if it has been asked for before.
    pub fn known_root(&self) -> Option<(Root, Signature)> {
        self.0.root.get().copied()
    }
}

fn stored_xxh3(page_bytes: &[u8], place: usize) -> u64 {
    let at = place * HASH_BYTES + 32;
    let bytes = page_bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    u64::from_be_bytes(bytes.expect("a page has a hash for each of its chunks"))
}

impl Inner {
    /// Reads and hashes chunks of a page, sharing them with the other workers through `next`.
    fn hash_chunks(
        &self,
        page: u32,
        next: &AtomicU32,
        keep: bool,
    ) -> Result<Vec<(u32, ChunkHash)>, SourceError> {
        let mut reader = Reader::default();
        let mut hashes = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if !self.layout.page_chunks(page).contains(&index) {
                return Ok(hashes);
            }
            let Some(span) = self.layout.chunk(index) else {
                return Ok(hashes);
            };
            let seen = reader.look(self, span.file).cloned();
            let chunk = index - self.layout.file_chunks(span.file).start;
            let known = seen
                .as_ref()
                .ok()
                .and_then(|seen| remembered().get(seen, chunk));
            if let Some(hash) = known {
                hashes.push((index, hash));
                continue;
            }
            let read = seen.and_then(|seen| Ok((seen, reader.read(self, span)?)));
            let (seen, bytes) = read.inspect_err(|_| {
                // The other worker need not go on.
                next.store(self.layout.chunk_count(), Ordering::Relaxed);
            })?;
            let hash = ChunkHash::of(bytes.as_ref());
            if reader.may_remember() {
                remembered().put(&seen, chunk, hash);
            }
            if keep {
                lock(&self.cache).put_ahead(
                    index,
                    Chunk {
                        bytes: bytes.freeze(),
                        xxh3: hash.xxh3,
                    },
                );
            }
            hashes.push((index, hash));
        }
    }
}

/// Reads chunks; keeps the last file open, because the next chunk mostly lies there too.
#[derive(Default)]
struct Reader(Option<Opened>);

struct Opened {
    which: usize,
    file: File,
    seen: Seen,
    /// Whether a change after this would show in its times.
    settled: bool,
}

impl Reader {
    fn open(&mut self, inner: &Inner, which: usize) -> Result<&Opened, SourceError> {
        if self.0.as_ref().is_none_or(|open| open.which != which) {
            let (file, meta) = inner.open_unchanged(which)?;
            let seen = Seen::of(&meta, inner.layout.chunk_size());
            let settled = seen.is_settled(SystemTime::now());
            self.0 = Some(Opened {
                which,
                file,
                seen,
                settled,
            });
        }
        // Just made where it was not there.
        self.0.as_ref().ok_or_else(|| SourceError::NoSuch {
            what: "file",
            number: which as u32,
        })
    }

    /// How a file of the bundle is known to the memory of hashes.
    fn look(&mut self, inner: &Inner, which: usize) -> Result<&Seen, SourceError> {
        self.open(inner, which).map(|open| &open.seen)
    }

    fn may_remember(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.settled)
    }

    fn read(&mut self, inner: &Inner, span: ChunkSpan) -> Result<Buffer, SourceError> {
        let path = &inner.sources[span.file];
        let file = &self.open(inner, span.file)?.file;
        let mut bytes = inner.buffers.take(span.len as usize);
        read_at(file, bytes.as_mut(), span.offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => SourceError::Changed { path: path.clone() },
            _ => SourceError::Io {
                path: path.clone(),
                source,
            },
        })?;
        // What was written meanwhile may be in it.
        inner.unchanged(span.file, file)?;
        Ok(bytes)
    }
}

impl Inner {
    fn open_unchanged(&self, which: usize) -> Result<(File, Metadata), SourceError> {
        let file = open_named(&self.sources[which]).map_err(|source| self.failed(which, source))?;
        let meta = self.unchanged(which, &file)?;
        Ok((file, meta))
    }

    /// That a file is what it was when it was scanned, by its size and its time: pages that were
    /// hashed before and after a change would make one bundle of two.
    fn unchanged(&self, which: usize, file: &File) -> Result<Metadata, SourceError> {
        let meta = file
            .metadata()
            .map_err(|source| self.failed(which, source))?;
        let same = meta.is_file()
            && meta.len() == self.head.files[which].size
            && self.times[which].is_none_or(|time| meta.modified().ok() == Some(time));
        match same {
            true => Ok(meta),
            false => Err(SourceError::Changed {
                path: self.sources[which].clone(),
            }),
        }
    }

    fn failed(&self, which: usize, source: io::Error) -> SourceError {
        let path = self.sources[which].clone();
        SourceError::Io { path, source }
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

#[cfg(test)]
mod tests;
