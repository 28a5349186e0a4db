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

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u32 = 65_536;

    fn header(index: u32, offset: u32, length: u32) -> ChunkHeader {
        ChunkHeader {
            handle: 1,
            index,
            offset,
            length,
            xxh3: 7,
            ack_now: false,
        }
    }

    fn bytes(len: usize) -> Bytes {
        vec![1; len].into()
    }

    fn fault(assembler: &mut Assembler, header: ChunkHeader, payload: Bytes) -> &'static str {
        match assembler.take(header, payload) {
            Err(what) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chunk_in_pieces_is_put_together() {
        let mut assembler = Assembler::new(CHUNK, 3);
        assert!(
            assembler
                .take(header(2, 0, 10), bytes(4))
                .unwrap()
                .is_none()
        );
        let parts = assembler.take(header(2, 4, 10), bytes(6)).unwrap().unwrap();
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), 10);
        assert_eq!(assembler.taken, 10);
    }

    #[test]
    fn chunks_outside_the_bundle_and_pieces_out_of_order_are_refused() {
        let mut assembler = Assembler::new(CHUNK, 3);
        let outside = "a chunk outside the bundle";
        assert_eq!(fault(&mut assembler, header(3, 0, 10), bytes(1)), outside);
        let longer = header(0, 0, CHUNK + 1);
        assert_eq!(fault(&mut assembler, longer, bytes(1)), outside);
        let order = "the pieces of a chunk are out of order";
        assert_eq!(fault(&mut assembler, header(0, 1, 10), bytes(1)), order);
        // A piece of another chunk, or of the same one with another length, in between.
        for other in [header(1, 4, 10), header(0, 4, 11), header(0, 0, 10)] {
            assembler.take(header(0, 0, 10), bytes(4)).unwrap();
            assert_eq!(fault(&mut assembler, other, bytes(1)), order);
        }
    }

    #[test]
    fn a_chunk_comes_in_so_many_pieces_and_none_is_empty() {
        let mut assembler = Assembler::new(CHUNK, 3);
        let empty = fault(&mut assembler, header(0, 0, 10), bytes(0));
        assert_eq!(empty, "an empty piece of a chunk");
        for offset in 0..MAX_PIECES as u32 {
            let taken = assembler.take(header(0, offset, CHUNK), bytes(1));
            assert!(taken.unwrap().is_none());
        }
        let one_more = header(0, MAX_PIECES as u32, CHUNK);
        let many = fault(&mut assembler, one_more, bytes(1));
        assert_eq!(many, "a chunk in too many pieces");
    }
}
