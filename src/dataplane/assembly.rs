//! Frames put together into chunks.

use bytes::Bytes;

use crate::protocol::frame::ChunkHeader;

/// Pieces of one chunk: twice what the largest chunk takes in the smallest messages.
const MAX_PIECES: usize = 8192;

/// The chunk that is coming in under one handle, and how much has come.
pub(super) struct Assembler {
    chunk_size: u32,
    chunks: u32,
    partial: Option<Partial>,
    /// Payload bytes taken, as named in ACKs.
    pub(super) taken: u64,
}

/// A chunk whose frames are coming in.
struct Partial {
    first: ChunkHeader,
    parts: Vec<Bytes>,
    filled: u32,
}

impl Assembler {
    pub(super) fn new(chunk_size: u32, chunks: u32) -> Self {
        Self {
            chunk_size,
            chunks,
            partial: None,
            taken: 0,
        }
    }

    /// Takes a frame. Returns the pieces of the chunk when it is whole, or what is wrong.
    pub(super) fn take(
        &mut self,
        header: ChunkHeader,
        payload: Bytes,
    ) -> Result<Option<Vec<Bytes>>, &'static str> {
        if header.index >= self.chunks || header.length > self.chunk_size {
            return Err("a chunk outside the bundle");
        }
        self.taken += payload.len() as u64;
        let mut partial = self.partial.take().unwrap_or(Partial {
            first: header,
            parts: Vec::new(),
            filled: 0,
        });
        let first = partial.first;
        if (first.index, first.length, first.xxh3) != (header.index, header.length, header.xxh3)
            || header.offset != partial.filled
        {
            return Err("the pieces of a chunk are out of order");
        }
        if payload.is_empty() {
            return Err("an empty piece of a chunk");
        }
        if partial.parts.len() >= MAX_PIECES {
            return Err("a chunk in too many pieces");
        }
        partial.filled += payload.len() as u32;
        partial.parts.push(payload);
        if partial.filled == header.length {
            return Ok(Some(partial.parts));
        }
        self.partial = Some(partial);
        Ok(None)
    }
}
