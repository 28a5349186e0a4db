//! Buffers of one chunk each, used again and again. Taken from and given back to the allocator by
//! a dozen threads, they would leave the process three times as large as what it holds.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Unused buffers that are kept, in bytes.
const KEEP: usize = 4 * 1024 * 1024;

pub(super) struct Pool {
    size: usize,
    free: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer that goes back to its pool when the last who reads it is done.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl Pool {
    /// For chunks of at most `size` bytes.
    pub(super) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            size,
            free: Mutex::default(),
        })
    }

    /// A buffer of `len` bytes with anything in it.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        // A whole buffer for a small file would make the cache hold far less than it counts.
        if len != self.size {
            return Buffer {
                bytes: vec![0; len].into(),
                len,
                pool: None,
            };
        }
        let used = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let bytes = used.unwrap_or_else(|| vec![0; self.size].into());
        Buffer {
            bytes,
            len,
            pool: Some(Arc::clone(self)),
        }
    }
}

impl Buffer {
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        let mut free = pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if (free.len() + 1) * pool.size <= KEEP.max(pool.size) {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_reader_is_done_and_few_are_kept() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(1 << 20);
        buffer.as_mut().fill(7);
        let bytes = buffer.freeze();
        let part = bytes.slice(5..10);
        drop(bytes);
        assert!(pool.free.lock().unwrap().is_empty());
        assert_eq!(&part[..], [7; 5]);
        drop(part);
        assert_eq!(pool.free.lock().unwrap().len(), 1);
        let many: Vec<_> = (0..10).map(|_| pool.take(1 << 20)).collect();
        assert!(pool.free.lock().unwrap().is_empty());
        drop(many);
        assert_eq!(pool.free.lock().unwrap().len(), 4);
        drop(pool.take(99));
        assert_eq!(pool.free.lock().unwrap().len(), 4);
    }
}
