//! Bundles made by hand, true ones first: a test changes what it lies about.

use std::ops::Range;

use bytes::BytesMut;
use handout::protocol::frame::{ChunkHeader, Handle, encode_hashes, encode_head, pieces};
use handout::protocol::id::{BundleId, Root, TransferId};
use handout::protocol::identity::{Identity, Signature};
use handout::protocol::manifest::{
    ChunkHash, FileEntry, Head, Kind, MIN_CHUNK_SIZE, PAGE_CHUNKS, Page, bundle_id, page_digest,
    page_statement, root_of, root_statement,
};
use handout::protocol::message::{Message, StartTransfer};
use handout::protocol::names::BundlePath;

use crate::nodes::Rng;

/// One file, and everything that is said about it.
#[derive(Clone)]
pub struct Bundle {
    pub identity: Identity,
    pub head: Vec<u8>,
    pub content: Vec<u8>,
    pub start: StartTransfer,
}

impl Bundle {
    /// A file of this name with content that depends on nothing but `seed`, offered under
    /// `handle`.
    pub fn new(identity: &Identity, handle: Handle, name: &str, size: usize, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let mut content: Vec<u8> = Vec::with_capacity(size + 8);
        while content.len() < size {
            content.extend(rng.next().to_be_bytes());
        }
        content.truncate(size);
        let path = BundlePath::single(name).unwrap();
        let head = Head {
            name: path.clone(),
            kind: Kind::File,
            chunk_size: MIN_CHUNK_SIZE,
            files: vec![FileEntry {
                path,
                size: size as u64,
                exec: false,
            }],
            dirs: vec![],
        };
        let head = head.encode();
        let start = StartTransfer {
            handle,
            id: TransferId(rng.bytes()),
            bundle: bundle_id(&head),
            origin: identity.device_id(),
            key: identity.public_key(),
            name: name.to_owned(),
            kind: Kind::File,
            size: size as u64,
            files: 1,
            chunk_size: MIN_CHUNK_SIZE,
            chunks: size.div_ceil(MIN_CHUNK_SIZE as usize) as u32,
            mime: "application/octet-stream".to_owned(),
            head_size: head.len() as u32,
            root: None,
            root_sig: None,
            series: None,
            hand_in: false,
            pages_first: false,
        };
        Self {
            identity: identity.clone(),
            head,
            content,
            start,
        }
    }

    pub fn id(&self) -> BundleId {
        self.start.bundle
    }

    pub fn offer(&self) -> Message {
        Message::StartTransfer(Box::new(self.start.clone()))
    }

    pub fn head_frames(&self) -> Vec<BytesMut> {
        encode_head(self.start.handle, &self.head).collect()
    }

    fn span(&self, index: u32) -> Range<usize> {
        let size = self.start.chunk_size as usize;
        let begin = index as usize * size;
        begin..(begin + size).min(self.content.len())
    }

    pub fn chunk(&self, index: u32) -> &[u8] {
        &self.content[self.span(index)]
    }

    pub fn pages(&self) -> u32 {
        self.start.chunks.div_ceil(PAGE_CHUNKS)
    }

    /// The bytes of a page.
    pub fn page(&self, number: u32) -> Vec<u8> {
        let first = number * PAGE_CHUNKS;
        let chunks = first..(first + PAGE_CHUNKS).min(self.start.chunks);
        let hashes = chunks.map(|index| ChunkHash::of(self.chunk(index)));
        let hashes = hashes.collect();
        Page { number, hashes }.encode()
    }

    /// A page of these bytes, signed.
    pub fn page_frame(&self, number: u32, bytes: &[u8]) -> BytesMut {
        let said = page_statement(&self.id(), number, &page_digest(bytes));
        let signature = self.identity.sign(&said);
        encode_hashes(self.start.handle, number, &signature, bytes)
    }

    /// A chunk with this content, in as few frames as can be.
    pub fn chunk_frames(&self, index: u32, content: &[u8]) -> Vec<BytesMut> {
        let xxh3 = ChunkHash::of(content).xxh3;
        self.frames(index, content, xxh3)
    }

    /// The same, with any number where the XXH3 belongs.
    pub fn frames(&self, index: u32, content: &[u8], xxh3: u64) -> Vec<BytesMut> {
        let length = content.len() as u32;
        let frame = |(offset, size): (u32, u32)| {
            let header = ChunkHeader {
                handle: self.start.handle,
                index,
                offset,
                length,
                xxh3,
                ack_now: false,
            };
            header.encode(&content[offset as usize..(offset + size) as usize])
        };
        pieces(length, 65_536).map(frame).collect()
    }

    pub fn root(&self) -> (Root, Signature) {
        let digests = (0..self.pages()).map(|page| page_digest(&self.page(page)));
        let root = root_of(&self.id(), digests);
        (root, self.identity.sign(&root_statement(&self.id(), &root)))
    }

    pub fn end(&self) -> Message {
        let (root, root_sig) = self.root();
        Message::EndOfChunks {
            handle: self.start.handle,
            root,
            root_sig,
        }
    }

    /// Everything between the offer's acceptance and END_OF_CHUNKS.
    pub fn all_frames(&self) -> Vec<BytesMut> {
        let mut frames = self.head_frames();
        for page in 0..self.pages() {
            frames.push(self.page_frame(page, &self.page(page)));
            let first = page * PAGE_CHUNKS;
            for index in first..(first + PAGE_CHUNKS).min(self.start.chunks) {
                frames.extend(self.chunk_frames(index, self.chunk(index)));
            }
        }
        frames
    }
}
