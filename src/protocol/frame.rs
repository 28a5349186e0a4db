//! Binary messages of the native dialect (PROTOCOL.md §9).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::identity::Signature;

/// Largest data-channel message we send: what every WebRTC stack takes (RFC 8841 §6.1).
pub const MAX_MESSAGE: usize = 65_536;
/// Bytes before the payload of a CHUNK frame.
pub const CHUNK_HEADER: usize = 28;
const HEAD_HEADER: usize = 12;
const HASHES_HEADER: usize = 12 + 64;

const HEAD: u8 = 1;
const HASHES: u8 = 2;
const CHUNK: u8 = 3;
const ACK_NOW: u8 = 1;

/// The transfer's number on one link, chosen by the sender.
pub type Handle = u32;

/// A binary message, decoded. Payloads share the message's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of the bundle's head.
    Head {
        /// The transfer.
        handle: Handle,
        /// Where in the head the piece belongs, in bytes.
        offset: u32,
        /// The piece.
        bytes: Bytes,
    },
    /// A page of chunk hashes, signed by the origin.
    Hashes {
        /// The transfer.
        handle: Handle,
        /// The page's number.
        page: u32,
        /// The origin's signature.
        signature: Signature,
        /// The page's bytes.
        bytes: Bytes,
    },
    /// A piece of a chunk.
    Chunk {
        /// Which chunk, of which transfer.
        header: ChunkHeader,
        /// The piece.
        payload: Bytes,
    },
}

/// The fixed part of a CHUNK frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The transfer.
    pub handle: Handle,
    /// The chunk's number in the bundle.
    pub index: u32,
    /// Where in the chunk the payload belongs, in bytes.
    pub offset: u32,
    /// The whole chunk's length, in bytes.
    pub length: u32,
    /// XXH3-64 of the whole chunk.
    pub xxh3: u64,
    /// The sender wants an ACK now.
    pub ack_now: bool,
}

/// Why a binary message is not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its header.
    #[error("the frame ends before its header does")]
    Short,
    /// A type that this version does not know.
    #[error("frames of type {0} are unknown")]
    UnknownType(u8),
    /// The payload reaches past the chunk's stated length.
    #[error("the payload reaches past the end of the chunk")]
    PastEnd,
}

impl ChunkHeader {
    /// Writes a CHUNK frame into one message: the header and then `payload`.
    pub fn encode(&self, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::with_capacity(CHUNK_HEADER + payload.len());
        start(
            &mut out,
            CHUNK,
            if self.ack_now { ACK_NOW } else { 0 },
            self.handle,
        );
        out.put_u32(self.index);
        out.put_u32(self.offset);
        out.put_u32(self.length);
        out.put_u64(self.xxh3);
        out.extend_from_slice(payload);
        out
    }
}

fn start(out: &mut BytesMut, kind: u8, flags: u8, handle: Handle) {
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16(0);
    out.put_u32(handle);
}

/// The messages that carry a head of any length.
pub fn encode_head(handle: Handle, head: &[u8]) -> impl Iterator<Item = BytesMut> + '_ {
    let step = MAX_MESSAGE - HEAD_HEADER;
    head.chunks(step).enumerate().map(move |(i, piece)| {
        let mut out = BytesMut::with_capacity(HEAD_HEADER + piece.len());
        start(&mut out, HEAD, 0, handle);
        out.put_u32((i * step) as u32);
        out.extend_from_slice(piece);
        out
    })
}

/// The message that carries one page.
pub fn encode_hashes(handle: Handle, page: u32, signature: &Signature, bytes: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(HASHES_HEADER + bytes.len());
    start(&mut out, HASHES, 0, handle);
    out.put_u32(page);
    out.extend_from_slice(&signature.0);
    out.extend_from_slice(bytes);
    out
}

/// The pieces, as `(offset, length)`, in which a chunk of `length` bytes travels when messages
/// have at most `max_message` bytes: as few as possible, and all about equal, because a short
/// last message costs as much as a full one.
pub fn pieces(length: u32, max_message: usize) -> impl Iterator<Item = (u32, u32)> {
    let room = max_message.clamp(1024, MAX_MESSAGE) - CHUNK_HEADER;
    let count = (length as usize).div_ceil(room).max(1) as u32;
    let (each, extra) = (length / count, length % count);
    (0..count).map(move |i| (i * each + i.min(extra), each + u32::from(i < extra)))
}

impl Frame {
    /// The number that it was sent under.
    pub fn handle(&self) -> Handle {
        match self {
            Self::Head { handle, .. } | Self::Hashes { handle, .. } => *handle,
            Self::Chunk { header, .. } => header.handle,
        }
    }

    /// Reads one binary message.
    pub fn decode(mut message: Bytes) -> Result<Self, FrameError> {
        if message.len() < 8 {
            return Err(FrameError::Short);
        }
        let (kind, flags) = (message.get_u8(), message.get_u8());
        message.advance(2);
        let handle = message.get_u32();
        let need = |have: &Bytes, n: usize| {
            if have.len() < n {
                Err(FrameError::Short)
            } else {
                Ok(())
            }
        };
        match kind {
            HEAD => {
                need(&message, HEAD_HEADER - 8)?;
                let offset = message.get_u32();
                Ok(Self::Head {
                    handle,
                    offset,
                    bytes: message,
                })
            }
            HASHES => {
                need(&message, HASHES_HEADER - 8)?;
                let page = message.get_u32();
                let signature =
                    Signature::from_bytes(&message.split_to(64)).map_err(|_| FrameError::Short)?;
                Ok(Self::Hashes {
                    handle,
                    page,
                    signature,
                    bytes: message,
                })
            }
            CHUNK => {
                need(&message, CHUNK_HEADER - 8)?;
                let header = ChunkHeader {
                    handle,
                    index: message.get_u32(),
                    offset: message.get_u32(),
                    length: message.get_u32(),
                    xxh3: message.get_u64(),
                    ack_now: flags & ACK_NOW != 0,
                };
                if u64::from(header.offset) + message.len() as u64 > u64::from(header.length) {
                    return Err(FrameError::PastEnd);
                }
                Ok(Self::Chunk {
                    header,
                    payload: message,
                })
            }
            other => Err(FrameError::UnknownType(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(Bytes::from(bytes));
        }

        #[test]
        fn a_chunk_frame_survives_the_wire(handle: u32, index: u32, xxh3: u64, ack_now: bool,
                                           payload in proptest::collection::vec(any::<u8>(), 0..500), before in 0u32..1000) {
            let header = ChunkHeader { handle, index, offset: before, length: before + payload.len() as u32, xxh3, ack_now };
            let frame = Frame::decode(header.encode(&payload).freeze()).unwrap();
            prop_assert_eq!(frame, Frame::Chunk { header, payload: payload.into() });
        }

        #[test]
        fn pieces_cover_the_chunk_once_and_fit(length in 0u32..5_000_000, max in 1024usize..70_000) {
            let mut at = 0;
            for (offset, len) in pieces(length, max) {
                prop_assert_eq!(offset, at);
                prop_assert!(len as usize + CHUNK_HEADER <= max.min(MAX_MESSAGE));
                at += len;
            }
            prop_assert_eq!(at, length);
        }

        #[test]
        fn a_head_of_any_length_comes_together_again(len in 0usize..200_000) {
            let head: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut got = Vec::new();
            for message in encode_head(9, &head) {
                prop_assert!(message.len() <= MAX_MESSAGE);
                match Frame::decode(message.freeze()).unwrap() {
                    Frame::Head { handle: 9, offset, bytes } => {
                        prop_assert_eq!(offset as usize, got.len());
                        got.extend_from_slice(&bytes);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(got, head);
        }
    }

    #[test]
    fn a_payload_past_the_end_of_its_chunk_is_refused() {
        let header = ChunkHeader {
            handle: 1,
            index: 0,
            offset: 90,
            length: 100,
            xxh3: 0,
            ack_now: false,
        };
        assert_eq!(
            Frame::decode(header.encode(&[0; 11]).freeze()),
            Err(FrameError::PastEnd)
        );
        let last = ChunkHeader {
            offset: u32::MAX,
            length: u32::MAX,
            ..header
        };
        assert_eq!(
            Frame::decode(last.encode(&[0; 1]).freeze()),
            Err(FrameError::PastEnd)
        );
    }
}
