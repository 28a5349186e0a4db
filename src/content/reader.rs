//! Reading chunks back from a bundle that is being received, or just was, for those who lack
//! them. Nothing is given out that does not fit its signed page: the files are the user's once
//! they have their final name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;

use super::sink::Sink;
use super::source::{Chunk, SignedPage};
use super::tree::{self, Open};
use crate::protocol::manifest::{ChunkHash, Head, Kind, Layout, PAGE_CHUNKS, Page};

/// Reads chunks of one bundle. It holds the file, or the folder, itself and not its name, so it
/// goes on reading when the bundle gets its final name.
pub struct ChunkReader {
    head: Arc<Head>,
    layout: Arc<Layout>,
    tree: Tree,
}

enum Tree {
    File(File),
    Folder(Dir),
}

impl ChunkReader {
    /// The chunk, if what is on the disk is what `page` says; nothing when somebody has changed
    /// it since.
    pub fn read(&self, index: u32, page: &SignedPage) -> io::Result<Option<Chunk>> {
        let size = self.layout.page_bytes(page.number);
        let decoded = Page::decode(page.number, size, &page.bytes).ok();
        let expected = decoded
            .filter(|page| page.number == self.layout.page_of(index))
            .and_then(|page| page.hashes.get((index % PAGE_CHUNKS) as usize).copied());
        let (Some(expected), Some(span)) = (expected, self.layout.chunk(index)) else {
            return Ok(None);
        };
        let opened;
        let file = match &self.tree {
            Tree::File(file) => file,
            Tree::Folder(tree) => {
                opened = tree::file_at(tree, &self.head.files[span.file].path, Open::Read)?;
                &opened
            }
        };
        let mut bytes = vec![0; span.len as usize];
        file.read_exact_at(&mut bytes, span.offset)?;
        let fits = ChunkHash::of(&bytes) == expected;
        Ok(fits.then(|| Chunk {
            bytes: Bytes::from(bytes),
            xxh3: expected.xxh3,
        }))
    }
}

impl Sink {
    /// A reader of the chunks that are there. Of a file there must be at least one.
    pub fn reader(&mut self) -> io::Result<ChunkReader> {
        let tree = match self.head.kind {
            Kind::File => {
                let path = self.head.files[0].path.clone();
                Tree::File(tree::file_at(self.tree()?, &path, Open::Read)?)
            }
            Kind::Folder => Tree::Folder(self.tree()?.try_clone()?),
        };
        Ok(ChunkReader {
            head: Arc::clone(&self.head),
            layout: Arc::clone(&self.layout),
            tree,
        })
    }
}
