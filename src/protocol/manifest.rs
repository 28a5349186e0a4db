//! Bundles: the head, how it lays out chunks, and the pages of hashes that the origin signs
//! (PROTOCOL.md §7).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::id::{BundleId, Root};
use super::identity::statement;
use super::names::{BundlePath, Conflict, NameError, PathSet, brief};

/// Chunks in a page.
pub const PAGE_CHUNKS: u32 = 64;
/// Smallest chunk size, in bytes.
pub const MIN_CHUNK_SIZE: u32 = 64 * 1024;
/// Largest chunk size, in bytes.
pub const MAX_CHUNK_SIZE: u32 = 4 * 1024 * 1024;
/// The chunk size where nothing speaks against it, in bytes.
pub const DEFAULT_CHUNK_SIZE: u32 = 256 * 1024;
/// Most chunks in a bundle.
pub const MAX_CHUNKS: u32 = 131_072;
/// Most files and folders in a bundle, folders that only paths name included.
pub const MAX_ENTRIES: usize = 100_000;
/// Longest head, in bytes.
pub const MAX_HEAD: usize = 32 * 1024 * 1024;
/// Bytes that a page has for each chunk.
pub const HASH_BYTES: usize = 40;

const VERSION: u32 = 1;

/// One file or a folder tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One file.
    File,
    /// A folder tree.
    Folder,
}

/// A file in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Where, relative to the bundle.
    pub path: BundlePath,
    /// Bytes.
    pub size: u64,
    /// Whether it may be run.
    pub exec: bool,
}

/// What a bundle consists of, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// One component: the file's or the folder's name.
    pub name: BundlePath,
    /// One file or a folder tree.
    pub kind: Kind,
    /// Bytes per chunk.
    pub chunk_size: u32,
    /// In the order of their chunks.
    pub files: Vec<FileEntry>,
    /// Folders that hold no file.
    pub dirs: Vec<BundlePath>,
}

/// Why a head is not taken.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// Above [`MAX_HEAD`].
    #[error("the bundle's head has {0} bytes, at most {MAX_HEAD} are allowed")]
    TooLong(usize),
    /// Not JSON, keys missing, or too many entries.
    #[error("the bundle's head cannot be read: {0}")]
    Malformed(String),
    /// Made by a later version.
    #[error("the bundle is of version {0}; this program knows version {VERSION}")]
    Version(u32),
    /// Not a power of two within the limits.
    #[error("the bundle's chunk size of {0} bytes is not allowed")]
    ChunkSize(u32),
    /// Sizes that add up to more than there can be.
    #[error("the bundle has more than {MAX_CHUNKS} chunks")]
    TooManyChunks,
    /// A name that is not harmless everywhere.
    #[error("the bundle has a name that cannot be used, \"{path}\": {source}", path = brief(path))]
    Name {
        /// The name.
        path: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// Two paths that cannot both be there.
    #[error("the bundle cannot be stored because of {path:?}: {source}")]
    Conflict {
        /// The path that came second.
        path: BundlePath,
        /// What is wrong with it.
        source: Conflict,
    },
    /// A file bundle must have one file of the bundle's name and nothing else.
    #[error("the bundle says it is one file but lists something else")]
    NotOneFile,
}

#[derive(Serialize, Deserialize)]
struct WireHead<'a> {
    v: u32,
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    kind: Kind,
    chunk_size: u32,
    #[serde(deserialize_with = "at_most_max_entries")]
    files: Vec<WireFile>,
    #[serde(
        default,
        deserialize_with = "at_most_max_entries",
        skip_serializing_if = "Vec::is_empty"
    )]
    dirs: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct WireFile {
    path: String,
    size: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    exec: bool,
}

#[derive(Deserialize)]
struct WireVersion {
    v: u32,
}

/// Reads a list, but stops where no valid head goes on, so that 32 MiB of `{}` stay small.
fn at_most_max_entries<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX_ENTRIES} entries")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut out = Vec::new();
            while let Some(entry) = list.next_element()? {
                if out.len() >= MAX_ENTRIES {
                    return Err(de::Error::invalid_length(out.len() + 1, &self));
                }
                out.push(entry);
            }
            Ok(out)
        }
    }
    from.deserialize_seq(Bounded(std::marker::PhantomData))
}

impl Head {
    /// The head's bytes: made once by the origin, and never made again from a decoded head.
    pub fn encode(&self) -> Vec<u8> {
        let wire = WireHead {
            v: VERSION,
            name: self.name.as_str().into(),
            kind: self.kind,
            chunk_size: self.chunk_size,
            files: self
                .files
                .iter()
                .map(|f| WireFile {
                    path: f.path.as_str().to_owned(),
                    size: f.size,
                    exec: f.exec,
                })
                .collect(),
            dirs: self.dirs.iter().map(|d| d.as_str().to_owned()).collect(),
        };
        serde_json::to_vec(&wire).expect("a head holds nothing that JSON cannot say")
    }

    /// Reads a head that someone else made, and checks everything about it.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() > MAX_HEAD {
            return Err(HeadError::TooLong(bytes.len()));
        }
        let wire: WireHead<'_> = match serde_json::from_slice(bytes) {
            Ok(wire) => wire,
            Err(error) => match serde_json::from_slice::<WireVersion>(bytes) {
                Ok(WireVersion { v }) if v != VERSION => return Err(HeadError::Version(v)),
                // Its text repeats words of the head.
                _ => return Err(HeadError::Malformed(brief(&error.to_string()))),
            },
        };
        if wire.v != VERSION {
            return Err(HeadError::Version(wire.v));
        }
        let name = BundlePath::single(wire.name.as_ref()).map_err(|source| HeadError::Name {
            path: wire.name.into_owned(),
            source,
        })?;
        let path = |path: String| {
            BundlePath::new(path.as_str()).map_err(|source| HeadError::Name { path, source })
        };
        let files = wire
            .files
            .into_iter()
            .map(|f| {
                Ok(FileEntry {
                    path: path(f.path)?,
                    size: f.size,
                    exec: f.exec,
                })
            })
            .collect::<Result<_, HeadError>>()?;
        let dirs = wire
            .dirs
            .into_iter()
            .map(path)
            .collect::<Result<_, HeadError>>()?;
        let head = Self {
            name,
            kind: wire.kind,
            chunk_size: wire.chunk_size,
            files,
            dirs,
        };
        head.check()?;
        Ok(head)
    }

    /// Checks what the types do not: chunk size and counts, paths that fall together, and that a
    /// file bundle is one file.
    pub fn check(&self) -> Result<(), HeadError> {
        if !self.chunk_size.is_power_of_two()
            || !(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&self.chunk_size)
        {
            return Err(HeadError::ChunkSize(self.chunk_size));
        }
        if chunks_of(self.files.iter().map(|f| f.size), self.chunk_size).is_none() {
            return Err(HeadError::TooManyChunks);
        }
        let mut paths = PathSet::new();
        let conflict = |path: &BundlePath| {
            let path = path.clone();
            move |source| HeadError::Conflict { path, source }
        };
        for file in &self.files {
            paths
                .insert_file(&file.path)
                .map_err(conflict(&file.path))?;
        }
        for dir in &self.dirs {
            paths.insert_folder(dir).map_err(conflict(dir))?;
        }
        let one_file = matches!(self.files.as_slice(), [file] if file.path == self.name)
            && self.dirs.is_empty();
        if self.kind == Kind::File && !one_file {
            return Err(HeadError::NotOneFile);
        }
        Ok(())
    }
}

/// Chunks that files of these sizes have; `None` above [`MAX_CHUNKS`].
fn chunks_of(mut sizes: impl Iterator<Item = u64>, chunk_size: u32) -> Option<u32> {
    sizes.try_fold(0u32, |count, size| {
        let more = u32::try_from(size.div_ceil(u64::from(chunk_size))).ok()?;
        count.checked_add(more).filter(|&count| count <= MAX_CHUNKS)
    })
}

/// The chunk size for files of these sizes: the default, doubled until there are few enough
/// chunks. `None` when even the largest size leaves too many.
pub fn choose_chunk_size(sizes: impl Iterator<Item = u64> + Clone) -> Option<u32> {
    std::iter::successors(Some(DEFAULT_CHUNK_SIZE), |size| size.checked_mul(2))
        .take_while(|&size| size <= MAX_CHUNK_SIZE)
        .find(|&size| chunks_of(sizes.clone(), size).is_some())
}

/// The name of a bundle: BLAKE3 of its head's bytes.
pub fn bundle_id(head_bytes: &[u8]) -> BundleId {
    BundleId(*blake3::hash(head_bytes).as_bytes())
}

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Which entry of [`Head::files`].
    pub file: usize,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How long, in bytes; at least 1.
    pub len: u32,
}

/// Where all the chunks of a bundle lie. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    /// For each file the number of its first chunk and its size.
    files: Arc<[(u32, u64)]>,
    chunk_size: u32,
    chunks: u32,
    total: u64,
}

impl Layout {
    /// The layout of a head that [`Head::check`] takes; with any other the numbers make no sense.
    pub fn new(head: &Head) -> Self {
        let chunk_size = head.chunk_size.max(1);
        let (mut chunks, mut total) = (0u32, 0u64);
        let files = head
            .files
            .iter()
            .map(|file| {
                let first = chunks;
                let own =
                    u32::try_from(file.size.div_ceil(u64::from(chunk_size))).unwrap_or(u32::MAX);
                chunks = chunks.saturating_add(own);
                total = total.saturating_add(file.size);
                (first, file.size)
            })
            .collect();
        Self {
            files,
            chunk_size,
            chunks,
            total,
        }
    }

    /// Chunks in the bundle.
    pub fn chunk_count(&self) -> u32 {
        self.chunks
    }

    /// Pages in the bundle.
    pub fn page_count(&self) -> u32 {
        self.chunks.div_ceil(PAGE_CHUNKS)
    }

    /// Bytes of all files.
    pub fn total_size(&self) -> u64 {
        self.total
    }

    /// Bytes per chunk.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Where a chunk lies; `None` behind the last.
    pub fn chunk(&self, index: u32) -> Option<ChunkSpan> {
        if index >= self.chunks {
            return None;
        }
        // Empty files share their number with the file behind them: the last one has the chunk.
        let file = self
            .files
            .partition_point(|&(first, _)| first <= index)
            .checked_sub(1)?;
        let (first, size) = self.files[file];
        let offset = u64::from(index - first) * u64::from(self.chunk_size);
        let len = size.saturating_sub(offset).min(u64::from(self.chunk_size)) as u32;
        Some(ChunkSpan { file, offset, len })
    }

    /// The chunks of a file; empty behind the last.
    pub fn file_chunks(&self, file: usize) -> Range<u32> {
        let first = |file: usize| {
            self.files
                .get(file)
                .map_or(self.chunks, |&(first, _)| first)
        };
        first(file)..first(file.saturating_add(1))
    }

    /// The page that a chunk belongs to.
    pub fn page_of(&self, index: u32) -> u32 {
        index / PAGE_CHUNKS
    }

    /// The chunks of a page; empty behind the last.
    pub fn page_chunks(&self, page: u32) -> Range<u32> {
        let first = page.saturating_mul(PAGE_CHUNKS).min(self.chunks);
        first..first.saturating_add(PAGE_CHUNKS).min(self.chunks)
    }

    /// The bytes of a page that is in the bundle.
    pub fn page_bytes(&self, page: u32) -> usize {
        self.page_chunks(page).len() * HASH_BYTES
    }
}

/// The two hashes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHash {
    /// Finds lies.
    pub blake3: [u8; 32],
    /// Finds accidents, and is ten times as fast.
    pub xxh3: u64,
}

impl ChunkHash {
    /// The hashes of a chunk's bytes.
    pub fn of(chunk: &[u8]) -> Self {
        Self {
            blake3: *blake3::hash(chunk).as_bytes(),
            xxh3: xxh3_64(chunk),
        }
    }
}

/// The hashes of up to [`PAGE_CHUNKS`] consecutive chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Which page of the bundle.
    pub number: u32,
    /// One for each chunk.
    pub hashes: Vec<ChunkHash>,
}

/// A page of the wrong size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page {number} must have {expected} bytes, not {got}")]
pub struct PageError {
    /// Which page.
    pub number: u32,
    /// Bytes that it must have.
    pub expected: usize,
    /// Bytes that came.
    pub got: usize,
}

impl Page {
    /// The page's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.hashes.len() * HASH_BYTES);
        for hash in &self.hashes {
            out.extend_from_slice(&hash.blake3);
            out.extend_from_slice(&hash.xxh3.to_be_bytes());
        }
        out
    }

    /// Reads the bytes of page `number`, which must be `expected_len` (see [`Layout::page_bytes`]).
    pub fn decode(number: u32, expected_len: usize, bytes: &[u8]) -> Result<Self, PageError> {
        if bytes.len() != expected_len
            || expected_len == 0
            || !expected_len.is_multiple_of(HASH_BYTES)
        {
            return Err(PageError {
                number,
                expected: expected_len,
                got: bytes.len(),
            });
        }
        let hashes = bytes.chunks_exact(HASH_BYTES).map(|hash| {
            let (mut blake3, mut xxh3) = ([0; 32], [0; 8]);
            blake3.copy_from_slice(&hash[..32]);
            xxh3.copy_from_slice(&hash[32..]);
            ChunkHash {
                blake3,
                xxh3: u64::from_be_bytes(xxh3),
            }
        });
        Ok(Self {
            number,
            hashes: hashes.collect(),
        })
    }
}

/// BLAKE3 of a page's bytes.
pub fn page_digest(page_bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(page_bytes).as_bytes()
}

/// What the origin signs for a page.
pub fn page_statement(bundle: &BundleId, number: u32, digest: &[u8; 32]) -> Vec<u8> {
    statement(
        "handout/page/1",
        &[bundle.as_bytes(), &number.to_be_bytes(), digest],
    )
}

/// The root of a bundle, from the digests of all its pages in order.
pub fn root_of(bundle: &BundleId, page_digests: impl IntoIterator<Item = [u8; 32]>) -> Root {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"handout root 1").update(bundle.as_bytes());
    for digest in page_digests {
        hasher.update(&digest);
    }
    Root(*hasher.finalize().as_bytes())
}

/// What the origin signs for the whole bundle.
pub fn root_statement(bundle: &BundleId, root: &Root) -> Vec<u8> {
    statement("handout/root/1", &[bundle.as_bytes(), root.as_bytes()])
}

#[cfg(test)]
mod tests;
