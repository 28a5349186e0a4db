//! The chunks that a sender keeps in memory.

use std::collections::{BTreeSet, HashMap};

use super::source::Chunk;

/// What an entry costs besides its bytes, so that a million tiny chunks are bounded too.
const OVERHEAD: usize = 512;
/// For how many further uses of the cache a chunk that nobody has asked for yet is kept in
/// preference to chunks that were already handed out: time for eight receivers to get through a
/// page and the next one.
const GRACE: u64 = 1024;

/// Chunks, bounded by bytes. What goes first is what was handed out longest ago: receivers run
/// through a bundle side by side, so a chunk that was handed out is soon of no use, and one that
/// was read ahead is about to be.
pub(super) struct Cache {
    capacity: usize,
    used: usize,
    clock: u64,
    chunks: HashMap<u32, (Chunk, u64)>,
    /// The same entries, by when they may go.
    order: BTreeSet<(u64, u32)>,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            used: 0,
            clock: 0,
            chunks: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Hands a chunk out.
    pub(super) fn get(&mut self, index: u32) -> Option<Chunk> {
        self.clock += 1;
        let (chunk, rank) = self.chunks.get_mut(&index)?;
        self.order.remove(&(*rank, index));
        *rank = self.clock;
        self.order.insert((self.clock, index));
        Some(chunk.clone())
    }

    /// Keeps a chunk that was read ahead, if that costs no chunk that is still wanted.
    pub(super) fn put_ahead(&mut self, index: u32, chunk: Chunk) {
        self.put(index, chunk, self.clock + GRACE, self.clock);
    }

    /// Keeps a chunk that is being handed out now.
    pub(super) fn put_used(&mut self, index: u32, chunk: Chunk) {
        self.clock += 1;
        self.put(index, chunk, self.clock, u64::MAX);
    }

    fn put(&mut self, index: u32, chunk: Chunk, rank: u64, evict_until: u64) {
        let cost = chunk.bytes.len() + OVERHEAD;
        if cost > self.capacity || self.chunks.contains_key(&index) {
            return;
        }
        while self.used + cost > self.capacity {
            match self.order.first() {
                Some(&(first, victim)) if first <= evict_until => {
                    self.order.remove(&(first, victim));
                    if let Some((gone, _)) = self.chunks.remove(&victim) {
                        self.used -= gone.bytes.len() + OVERHEAD;
                    }
                }
                _ => return,
            }
        }
        self.used += cost;
        self.chunks.insert(index, (chunk, rank));
        self.order.insert((rank, index));
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn chunk(len: usize) -> Chunk {
        Chunk {
            bytes: Bytes::from(vec![0; len]),
            xxh3: 0,
        }
    }

    #[test]
    fn what_is_read_ahead_drives_out_only_what_was_handed_out() {
        let mut cache = Cache::new(4 * 1512);
        (0..4).for_each(|i| cache.put_ahead(i, chunk(1000)));
        cache.put_ahead(4, chunk(1000));
        assert!(cache.get(4).is_none(), "chunk 0 to 3 are still wanted");
        assert!(cache.get(0).is_some());
        cache.put_ahead(4, chunk(1000));
        assert!(cache.get(0).is_none() && cache.get(1).is_some() && cache.get(4).is_some());
    }

    #[test]
    fn what_nobody_ever_fetched_goes_in_the_end() {
        let mut cache = Cache::new(4 * 1512);
        (0..4).for_each(|i| cache.put_ahead(i, chunk(1000)));
        (0..=GRACE).for_each(|_| drop(cache.get(99)));
        (10..14).for_each(|i| cache.put_ahead(i, chunk(1000)));
        assert!((10..14).all(|i| cache.get(i).is_some()));
    }

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        let mut cache = Cache::new(100_000);
        for i in 0..1000 {
            if i % 3 == 0 {
                cache.put_ahead(i, chunk(i as usize))
            } else {
                cache.put_used(i, chunk(i as usize * 7))
            }
            assert!(cache.used() <= 100_000);
        }
        cache.put_used(5000, chunk(100_001));
        assert!(cache.get(5000).is_none());
    }
}
