//! Values of any size in a sled tree, in pieces that sled likes (below 4 KiB).
//!
//! ```text
//! key ‖ piece number u16 BE  →  piece 0: length of the value u32 BE ‖ bytes;  others: bytes
//! ```
//! A value is written in one batch, so it is there as a whole or not at all.

use std::collections::BTreeMap;

use super::StoreError;
use super::db::Database;

/// Bytes of a value in one piece.
const PIECE: usize = 3584;
/// Longest value, in bytes.
pub(super) const MAX_VALUE: usize = 256 * 1024;

/// A key and its value.
type KeyValue = (Vec<u8>, Vec<u8>);

/// One tree.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    tree: sled::Tree,
}

impl Pieces {
    pub(super) fn new(tree: sled::Tree) -> Self {
        Self { tree }
    }

    /// Writes a value; pieces that stay the same are not written again.
    pub(super) fn put(
        &self,
        database: &Database,
        what: &'static str,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        if value.len() > MAX_VALUE {
            return Err(StoreError::TooLarge {
                what,
                size: value.len(),
                limit: MAX_VALUE,
            });
        }
        let length = (value.len() as u32).to_be_bytes();
        let (first, rest) = value.split_at(value.len().min(PIECE));
        let first = [&length[..], first].concat();
        database.write(key.len() + value.len(), || {
            let before = self.count(key)?;
            let mut batch = sled::Batch::default();
            let mut number = 0;
            for piece in std::iter::once(&first[..]).chain(rest.chunks(PIECE)) {
                let key = piece_key(key, number);
                if self.tree.get(&key)?.as_deref() != Some(piece) {
                    batch.insert(key, piece);
                }
                number += 1;
            }
            for stale in number..before {
                batch.remove(piece_key(key, stale));
            }
            self.tree.apply_batch(batch)
        })
    }

    /// Reads a value; `None` where there is none, or not all of it.
    pub(super) fn get(
        &self,
        database: &Database,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let pieces = database.guard(|| {
            (0..self.count(key)?)
                .map(|number| self.tree.get(piece_key(key, number)))
                .collect::<sled::Result<Vec<_>>>()
        })?;
        let pieces: Option<Vec<_>> = pieces.into_iter().collect();
        Ok(pieces.and_then(|pieces| join(pieces.iter().map(|piece| &piece[..]))))
    }

    pub(super) fn remove(&self, database: &Database, key: &[u8]) -> Result<(), StoreError> {
        // A page of the tree may be written for it.
        database.write(PIECE, || {
            let mut batch = sled::Batch::default();
            for number in 0..self.count(key)?.max(1) {
                batch.remove(piece_key(key, number));
            }
            self.tree.apply_batch(batch)
        })
    }

    /// All whole values. What is not whole is removed, with a warning that names `what`.
    pub(super) fn all(
        &self,
        database: &Database,
        what: &'static str,
    ) -> Result<Vec<KeyValue>, StoreError> {
        let mut found: BTreeMap<Vec<u8>, Vec<(u16, sled::IVec)>> = BTreeMap::new();
        database.guard(|| {
            for item in self.tree.iter() {
                let (key, piece) = item?;
                match key.split_last_chunk::<2>() {
                    Some((key, number)) => found
                        .entry(key.to_vec())
                        .or_default()
                        .push((u16::from_be_bytes(*number), piece)),
                    None => {
                        self.tree.remove(&key)?;
                    }
                }
            }
            Ok(())
        })?;
        let mut values = Vec::with_capacity(found.len());
        for (key, pieces) in found {
            let in_order = (0..).zip(&pieces).all(|(at, (number, _))| at == *number);
            match join(pieces.iter().map(|(_, piece)| &piece[..])).filter(|_| in_order) {
                Some(value) => values.push((key, value)),
                None => {
                    tracing::warn!(what, "an entry of the database is not whole; it is removed");
                    database.guard(|| {
                        for (number, _) in &pieces {
                            self.tree.remove(piece_key(&key, *number))?;
                        }
                        Ok(())
                    })?;
                }
            }
        }
        Ok(values)
    }

    /// How many pieces the first one says there are.
    fn count(&self, key: &[u8]) -> sled::Result<u16> {
        let first = self.tree.get(piece_key(key, 0))?;
        let length = first.and_then(|piece| Some(u32::from_be_bytes(*piece.first_chunk()?)));
        Ok(length.map_or(0, |length| {
            (length as usize).min(MAX_VALUE).div_ceil(PIECE).max(1) as u16
        }))
    }
}

fn piece_key(key: &[u8], number: u16) -> Vec<u8> {
    [key, &number.to_be_bytes()].concat()
}

fn join<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (length, first) = pieces.next()?.split_first_chunk()?;
    let mut value = first.to_vec();
    pieces.for_each(|piece| value.extend_from_slice(piece));
    (value.len() == u32::from_be_bytes(*length) as usize).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_sizes_grow_shrink_and_vanish_without_touching_their_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::at(dir.path()).unwrap();
        let pieces = database.pieces("progress").unwrap();
        pieces.put(&database, "x", b"key\0", b"longer key").unwrap();
        pieces.put(&database, "x", b"ke", b"shorter key").unwrap();
        for size in [
            0,
            1,
            PIECE,
            PIECE + 1,
            5 * PIECE,
            20_000,
            PIECE,
            3,
            MAX_VALUE,
        ] {
            let value: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            pieces.put(&database, "x", b"key", &value).unwrap();
            assert_eq!(pieces.get(&database, b"key").unwrap(), Some(value));
            assert_eq!(pieces.all(&database, "x").unwrap().len(), 3);
        }
        pieces.remove(&database, b"key").unwrap();
        assert_eq!(pieces.get(&database, b"key").unwrap(), None);
        assert_eq!(pieces.tree.len(), 2);
        assert!(
            pieces
                .put(&database, "x", b"key", &vec![0; MAX_VALUE + 1])
                .is_err()
        );
    }

    #[test]
    fn a_value_that_is_not_whole_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::at(dir.path()).unwrap();
        let pieces = database.pieces("progress").unwrap();
        pieces.put(&database, "x", b"a", &[1; 3 * PIECE]).unwrap();
        pieces.tree.remove(piece_key(b"a", 1)).unwrap();
        pieces.tree.insert(b"?", b"").unwrap();
        pieces.tree.insert(piece_key(b"b", 0), b"12").unwrap();
        assert_eq!(pieces.get(&database, b"a").unwrap(), None);
        assert_eq!(pieces.all(&database, "x").unwrap(), []);
        assert!(pieces.tree.is_empty());
    }
}
