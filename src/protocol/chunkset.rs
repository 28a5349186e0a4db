//! Which chunks of a bundle are there: a bitmap, with its forms for the wire and the database.

use std::fmt;
use std::ops::Range;

use super::identity::{b64, unb64};

/// Why bytes or text are not a chunk set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkSetError {
    /// Not base64url.
    #[error("the chunk set is not base64url")]
    NotBase64,
    /// Not one bit per chunk.
    #[error("the chunk set does not fit a bundle of {count} chunks")]
    WrongLength {
        /// How many chunks the bundle has.
        count: u32,
    },
    /// Bits behind the last chunk.
    #[error("the chunk set names chunks behind the last")]
    StrayBits,
    /// Runs that end early, or a form that this version does not know.
    #[error("the stored chunk set is damaged")]
    Damaged,
}

/// A set of the chunks `0..count` of one bundle.
#[derive(Clone, PartialEq, Eq)]
pub struct ChunkSet {
    /// Bit 7 of byte 0 is chunk 0, as on the wire. Bits behind the last chunk are 0.
    bits: Vec<u8>,
    count: u32,
    len: u32,
}

/// First byte of the stored form.
const AS_RUNS: u8 = 0;
const AS_BITMAP: u8 = 1;

fn mask(index: u32) -> u8 {
    0x80 >> (index % 8)
}

impl ChunkSet {
    /// Nothing of `count` chunks.
    pub fn new(count: u32) -> Self {
        Self {
            bits: vec![0; count.div_ceil(8) as usize],
            count,
            len: 0,
        }
    }

    /// All of `count` chunks.
    pub fn full(count: u32) -> Self {
        let mut bits = vec![0xff; count.div_ceil(8) as usize];
        if let (Some(last), 1..) = (bits.last_mut(), count % 8) {
            *last <<= 8 - count % 8;
        }
        Self {
            bits,
            count,
            len: count,
        }
    }

    /// How many chunks the bundle has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many of them are in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// None of them.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them; true for a bundle without chunks.
    pub fn is_full(&self) -> bool {
        self.len == self.count
    }

    /// Whether a chunk is in the set; false behind the last.
    pub fn contains(&self, index: u32) -> bool {
        index < self.count && self.bits[index as usize / 8] & mask(index) != 0
    }

    /// Adds a chunk; true when it is new. Behind the last chunk nothing happens.
    pub fn insert(&mut self, index: u32) -> bool {
        let new = index < self.count && !self.contains(index);
        if new {
            self.bits[index as usize / 8] |= mask(index);
            self.len += 1;
        }
        new
    }

    /// Takes a chunk out; true when it was there.
    pub fn remove(&mut self, index: u32) -> bool {
        let there = self.contains(index);
        if there {
            self.bits[index as usize / 8] &= !mask(index);
            self.len -= 1;
        }
        there
    }

    /// The chunks in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.scan(0..self.count, 0)
    }

    /// The chunks not in the set, ascending.
    pub fn iter_missing(&self) -> impl Iterator<Item = u32> + '_ {
        self.scan(0..self.count, 0xff)
    }

    /// The chunks of a range that are not in the set, ascending.
    pub fn missing_in(&self, range: Range<u32>) -> impl Iterator<Item = u32> + '_ {
        self.scan(range.start..range.end.min(self.count), 0xff)
    }

    /// Chunks of `range` whose bit differs from that of `skip`; bytes equal to `skip` cost one step.
    fn scan(&self, range: Range<u32>, skip: u8) -> impl Iterator<Item = u32> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            while at < range.end {
                let byte = self.bits[at as usize / 8];
                if byte == skip {
                    at = (at / 8 + 1) * 8;
                    continue;
                }
                let index = at;
                at += 1;
                if (byte ^ skip) & mask(index) != 0 {
                    return Some(index);
                }
            }
            None
        })
    }

    /// Adds everything that is in `other`, as far as both count the same chunks.
    pub fn union_with(&mut self, other: &ChunkSet) {
        self.combine(other, |a, b| a | b);
    }

    /// Takes out everything that is in `other`.
    pub fn subtract(&mut self, other: &ChunkSet) {
        self.combine(other, |a, b| a & !b);
    }

    /// Leaves only what is also in `other`.
    pub fn intersect_with(&mut self, other: &ChunkSet) {
        self.combine(other, |a, b| a & b);
    }

    /// Sets of other bundles are treated as empty: nothing that a peer says makes this panic.
    fn combine(&mut self, other: &ChunkSet, with: impl Fn(u8, u8) -> u8) {
        let same = self.count == other.count;
        for (at, byte) in self.bits.iter_mut().enumerate() {
            *byte = with(*byte, if same { other.bits[at] } else { 0 });
        }
        self.recount();
    }

    fn recount(&mut self) {
        self.len = self.bits.iter().map(|b| b.count_ones()).sum();
    }

    /// The bitmap of the wire.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// Reads the bitmap of the wire for a bundle of `count` chunks.
    pub fn from_bytes(bytes: &[u8], count: u32) -> Result<Self, ChunkSetError> {
        if bytes.len() != count.div_ceil(8) as usize {
            return Err(ChunkSetError::WrongLength { count });
        }
        if let (Some(&last), 1..) = (bytes.last(), count % 8)
            && last << (count % 8) != 0
        {
            return Err(ChunkSetError::StrayBits);
        }
        let mut set = Self {
            bits: bytes.to_vec(),
            count,
            len: 0,
        };
        set.recount();
        Ok(set)
    }

    /// The text form of the wire (PROTOCOL.md §8).
    pub fn to_b64(&self) -> String {
        b64(&self.bits)
    }

    /// Reads the text form of the wire for a bundle of `count` chunks.
    pub fn from_b64(text: &str, count: u32) -> Result<Self, ChunkSetError> {
        // Longer text is refused before it is decoded.
        if text.len() != (count.div_ceil(8) as usize * 8).div_ceil(6) {
            return Err(ChunkSetError::WrongLength { count });
        }
        Self::from_bytes(&unb64(text).ok_or(ChunkSetError::NotBase64)?, count)
    }

    /// The form for the database: lengths of runs, absent and present in turn, as LEB128 numbers;
    /// the bitmap where that is shorter. A transfer in order takes a few bytes, and no set of the
    /// largest bundle more than 16 KiB and one byte.
    pub fn to_stored(&self) -> Vec<u8> {
        let mut runs = vec![AS_RUNS];
        let (mut present, mut from) = (false, 0);
        while from < self.count && runs.len() <= self.bits.len() {
            let skip = if present { 0xff } else { 0 };
            let to = self
                .scan(from..self.count, skip)
                .next()
                .unwrap_or(self.count);
            put_number(&mut runs, to - from);
            (present, from) = (!present, to);
        }
        if runs.len() <= self.bits.len() + 1 && from == self.count {
            return runs;
        }
        let mut out = Vec::with_capacity(1 + self.bits.len());
        out.push(AS_BITMAP);
        out.extend_from_slice(&self.bits);
        out
    }

    /// Reads the form of the database for a bundle of `count` chunks.
    pub fn from_stored(stored: &[u8], count: u32) -> Result<Self, ChunkSetError> {
        match stored.split_first() {
            Some((&AS_BITMAP, bits)) => Self::from_bytes(bits, count),
            Some((&AS_RUNS, mut runs)) => {
                let mut set = Self::new(count);
                let (mut present, mut from) = (false, 0u32);
                while !runs.is_empty() {
                    let run = take_number(&mut runs).ok_or(ChunkSetError::Damaged)?;
                    let to = from.checked_add(run).ok_or(ChunkSetError::Damaged)?;
                    if to > count || (run == 0 && from > 0) {
                        return Err(ChunkSetError::WrongLength { count });
                    }
                    if present {
                        (from..to).for_each(|index| {
                            set.insert(index);
                        });
                    }
                    (present, from) = (!present, to);
                }
                if from == count {
                    Ok(set)
                } else {
                    Err(ChunkSetError::WrongLength { count })
                }
            }
            _ => Err(ChunkSetError::Damaged),
        }
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(from: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for shift in [0, 7, 14, 21] {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

impl fmt::Debug for ChunkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkSet({} of {})", self.len, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn sets() -> impl Strategy<Value = (u32, BTreeSet<u32>)> {
        (0u32..300).prop_flat_map(|count| {
            (
                Just(count),
                proptest::collection::btree_set(0..count.max(1), 0..=count as usize),
            )
                .prop_map(|(count, set)| (count, set.into_iter().filter(|&i| i < count).collect()))
        })
    }

    fn of(count: u32, members: &BTreeSet<u32>) -> ChunkSet {
        let mut set = ChunkSet::new(count);
        members.iter().for_each(|&i| assert!(set.insert(i)));
        set
    }

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in((count, members) in sets()) {
            let set = of(count, &members);
            prop_assert_eq!(set.len() as usize, members.len());
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), members.clone());
            let missing: BTreeSet<u32> = (0..count).filter(|i| !members.contains(i)).collect();
            prop_assert_eq!(set.iter_missing().collect::<BTreeSet<_>>(), missing);
            prop_assert_eq!(set.is_full(), members.len() == count as usize);
        }

        #[test]
        fn every_form_brings_the_same_set_back((count, members) in sets()) {
            let set = of(count, &members);
            prop_assert_eq!(&ChunkSet::from_b64(&set.to_b64(), count).unwrap(), &set);
            prop_assert_eq!(&ChunkSet::from_bytes(set.to_bytes(), count).unwrap(), &set);
            prop_assert_eq!(&ChunkSet::from_stored(&set.to_stored(), count).unwrap(), &set);
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60), count in 0u32..400) {
            for set in [ChunkSet::from_stored(&bytes, count), ChunkSet::from_bytes(&bytes, count)].into_iter().flatten() {
                prop_assert_eq!(set.iter().count(), set.len() as usize);
                prop_assert!(set.iter().all(|i| i < count));
            }
        }

        #[test]
        fn union_and_difference_are_those_of_sets((count, a) in sets(), seed: u64) {
            let b: BTreeSet<u32> = (0..count).filter(|i| seed.rotate_left(*i) & 1 == 1).collect();
            let (x, y) = (of(count, &a), of(count, &b));
            for (op, want) in [
                (ChunkSet::union_with as fn(&mut ChunkSet, &ChunkSet), &a | &b),
                (ChunkSet::subtract, &a - &b),
                (ChunkSet::intersect_with, &a & &b),
            ] {
                let mut got = x.clone();
                op(&mut got, &y);
                prop_assert_eq!(got, of(count, &want));
            }
        }
    }

    #[test]
    fn full_sets_have_no_stray_bits() {
        for count in 0..40 {
            let full = ChunkSet::full(count);
            assert!(full.is_full());
            assert_eq!(
                ChunkSet::from_bytes(full.to_bytes(), count).as_ref(),
                Ok(&full)
            );
            assert_eq!(full.iter().count() as u32, count);
        }
    }

    #[test]
    fn wrong_lengths_and_stray_bits_are_refused() {
        assert_eq!(
            ChunkSet::from_bytes(&[0xff], 7),
            Err(ChunkSetError::StrayBits)
        );
        assert_eq!(
            ChunkSet::from_bytes(&[0, 0], 8),
            Err(ChunkSetError::WrongLength { count: 8 })
        );
        assert_eq!(
            ChunkSet::from_b64(&b64(&[0; 3]), 8),
            Err(ChunkSetError::WrongLength { count: 8 })
        );
        assert_eq!(ChunkSet::from_b64("!!", 8), Err(ChunkSetError::NotBase64));
        assert_eq!(
            ChunkSet::from_b64("gA", 8)
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            [0]
        );
    }

    #[test]
    fn the_stored_form_of_an_ordinary_transfer_is_a_few_bytes() {
        let mut set = ChunkSet::new(131_072);
        (0..100_000).for_each(|i| {
            set.insert(i);
        });
        (110_000..110_050).for_each(|i| {
            set.insert(i);
        });
        assert!(set.to_stored().len() < 32);
        let mut worst = ChunkSet::new(131_072);
        (0..131_072).step_by(2).for_each(|i| {
            worst.insert(i);
        });
        assert_eq!(worst.to_stored().len(), 131_072 / 8 + 1);
    }

    #[test]
    fn operations_with_the_set_of_another_bundle_do_not_panic() {
        let mut set = ChunkSet::full(10);
        set.union_with(&ChunkSet::full(99));
        assert!(set.is_full());
        assert!(!set.insert(10) && !set.remove(10) && !set.contains(u32::MAX));
    }
}
