//! One kind of record: in memory, and in the database. The tables are small and bounded, so that
//! reading never waits for the disk.

use std::collections::BTreeMap;

use super::StoreError;
use super::db::Database;
use super::pieces::Pieces;
use super::record::Record;

#[derive(Debug)]
pub(super) struct Table<R: Record> {
    records: BTreeMap<R::Key, R>,
    pieces: Pieces,
}

fn to_bytes<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record)
        .map_err(|error| StoreError::io("write", std::path::Path::new(R::WHAT), error.into()))
}

impl<R: Record> Table<R> {
    /// Reads all records. One that makes no sense is removed, with a warning.
    pub(super) fn load(database: &Database, tree: &'static str) -> Result<Self, StoreError> {
        let pieces = database.pieces(tree)?;
        let mut records = BTreeMap::new();
        for (key, value) in pieces.all(database, tree)? {
            match serde_json::from_slice::<R>(&value) {
                Ok(record) if R::key_bytes(&record.key()) == key => {
                    records.insert(record.key(), record);
                }
                other => {
                    let fault = other.err().map(|error| error.to_string());
                    tracing::warn!(tree, fault, "a record makes no sense; it is removed");
                    pieces.remove(database, &key)?;
                }
            }
        }
        Ok(Self { records, pieces })
    }

    /// How many records there may be.
    pub(super) fn capacity() -> usize {
        R::MOST
    }

    pub(super) fn lacks_room_for(&self, record: &R) -> bool {
        self.records.len() >= R::MOST && !self.records.contains_key(&record.key())
    }

    pub(super) fn put(&mut self, database: &Database, record: R) -> Result<(), StoreError> {
        if self.lacks_room_for(&record) {
            return Err(StoreError::Full {
                what: R::WHAT,
                limit: R::MOST,
            });
        }
        let value = to_bytes(&record)?;
        let key = record.key();
        // In memory in any case: a database that takes the place of one that fails has it, too.
        self.records.insert(key.clone(), record);
        self.pieces
            .put(database, R::WHAT, R::key_bytes(&key), &value)
    }

    /// Writes all records into another database, which is used once it is given to
    /// [`Self::go_on_in`].
    pub(super) fn copy_to(
        &self,
        database: &Database,
        tree: &'static str,
    ) -> Result<Pieces, StoreError> {
        let pieces = database.pieces(tree)?;
        for (key, record) in &self.records {
            let value = to_bytes(record)?;
            pieces.put(database, R::WHAT, R::key_bytes(key), &value)?;
        }
        Ok(pieces)
    }

    pub(super) fn go_on_in(&mut self, pieces: Pieces) {
        self.pieces = pieces;
    }

    pub(super) fn get(&self, key: &R::Key) -> Option<&R> {
        self.records.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &R> {
        self.records.values()
    }

    pub(super) fn remove(&mut self, database: &Database, key: &R::Key) -> Result<bool, StoreError> {
        if !self.records.contains_key(key) {
            return Ok(false);
        }
        self.records.remove(key);
        self.pieces.remove(database, R::key_bytes(key))?;
        Ok(true)
    }
}
