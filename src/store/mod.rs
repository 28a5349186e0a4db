//! What outlives the process: the device's key, whom it trusts, what it was doing.
//!
//! Everything is in one state folder, which one process at a time may have:
//!
//! ```text
//! lock                   held while the store is open; names the process
//! identity.key           the device's secret, 0600
//! authorizations.log     signed decisions, append-only, fsynced: what must never be lost
//! db/<number>/           sled: all records; a fresh one at every opening, from the last one
//! db.damaged-<time>/     the last three that were damaged
//! ```
//!
//! The API is synchronous: one thread owns the store.

mod db;
mod error;
mod files;
mod generation;
mod identity;
mod invites;
mod journal;
mod lock;
mod pieces;
mod record;
mod table;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use error::StoreError;
pub use record::{
    Authorization, BroadcastRecord, BroadcastState, GrantedBy, Group, TransferRecord,
};

use db::Database;
use journal::{Change, Entries, Entry, Journal};
use lock::Lock;
use pieces::Pieces;
use table::Table;

use crate::protocol::id::{BroadcastId, BundleId, DeviceId, TransferId};
use crate::protocol::identity::Identity;
use crate::protocol::invite::Issued;
use crate::protocol::transfer::Direction;

/// How many devices may be authorized at once.
const MAX_AUTHORIZED: usize = 10_000;
/// How many revocations are remembered, so that neither home of the authorizations can bring a
/// revoked device back when the other was lost.
const REVOCATIONS_KEPT: usize = 1024;

/// The open store. Closing it (dropping it) flushes.
#[derive(Debug)]
pub struct Store {
    identity: Identity,
    rebuilt: bool,
    entries: Entries,
    next_seq: u64,
    journal: Journal,
    authorizations: Pieces,
    broadcasts: Table<BroadcastRecord>,
    transfers: Table<TransferRecord>,
    groups: Table<Group>,
    invites: Table<Issued>,
    progress: Pieces,
    database: Database,
    /// Dropped last.
    _lock: Lock,
}

impl Store {
    /// Opens the store in a state folder, which is created (0700) where it is missing.
    ///
    /// A damaged or lost database is no error: it is made anew, see [`Store::rebuilt`]. A damaged
    /// key file, a folder in use, a database of a newer version, and a disk that does not take
    /// files are errors.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        files::create_private_dir(state_dir)
            .map_err(|source| StoreError::io("create the state folder", state_dir, source))?;
        let lock = Lock::take(state_dir)?;
        let (identity, new_identity) = identity::load_or_create(state_dir)?;
        let (mut journal, mut entries) = Journal::open(state_dir, &identity.public_key())?;
        let (database, new_database) = generation::open(state_dir)?;
        let authorizations = database.pieces("authorizations")?;
        reconcile(
            &identity,
            &mut journal,
            &mut entries,
            &database,
            &authorizations,
        )?;
        let last = entries.values().map(|entry| entry.seq).max();
        let mut store = Self {
            rebuilt: new_database && !new_identity,
            entries,
            next_seq: last.map_or(1, |seq| seq.saturating_add(1)),
            journal,
            authorizations,
            broadcasts: Table::load(&database, "broadcasts")?,
            transfers: Table::load(&database, "transfers")?,
            groups: Table::load(&database, "groups")?,
            invites: Table::load(&database, "invites")?,
            progress: database.pieces("progress")?,
            identity,
            database,
            _lock: lock,
        };
        if new_database {
            store.drop_invites()?;
        }
        store.flush()?;
        Ok(store)
    }

    /// This device's key pair.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// True when the database was damaged or missing and had to be made anew, though this device
    /// is not new: transfers must be found again from the files on disk.
    pub fn rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// Everything put so far is on disk when this returns, also after a power cut.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.database.flush()
    }

    /// Authorizes a device, or changes its authorization. On disk when this returns. Saying the
    /// same again writes nothing.
    pub fn authorize(&mut self, authorization: Authorization) -> Result<(), StoreError> {
        let device = &authorization.device;
        if authorization
            .key
            .is_some_and(|key| key.device_id() != *device)
        {
            return Err(StoreError::WrongKey {
                device: device.to_string(),
            });
        }
        match self.authorization(device) {
            Some(same) if *same == authorization => return Ok(()),
            None if self.authorized().count() >= MAX_AUTHORIZED => {
                return Err(StoreError::Full {
                    what: "authorized devices",
                    limit: MAX_AUTHORIZED,
                });
            }
            _ => {}
        }
        self.decide(Change::Authorize(authorization))
    }

    /// Takes an authorization back; false where there was none. On disk when this returns.
    pub fn revoke(&mut self, device: &DeviceId) -> Result<bool, StoreError> {
        if self.authorization(device).is_none() {
            return Ok(false);
        }
        self.decide(Change::Revoke {
            device: device.clone(),
        })?;
        Ok(true)
    }

    /// The authorization of a device, expired or not: see [`Authorization::is_valid_at`].
    pub fn authorization(&self, device: &DeviceId) -> Option<&Authorization> {
        authorized(self.entries.get(device)?)
    }

    /// All authorizations, expired ones too, by device id.
    pub fn authorizations(&self) -> Vec<Authorization> {
        self.authorized().cloned().collect()
    }

    fn authorized(&self) -> impl Iterator<Item = &Authorization> {
        self.entries.values().filter_map(authorized)
    }

    fn decide(&mut self, change: Change) -> Result<(), StoreError> {
        let entry = Entry::seal(&self.identity, self.next_seq, change)?;
        self.journal.append([&entry])?;
        self.next_seq = self.next_seq.saturating_add(1);
        let device = entry.change.device().clone();
        // The decision is safe in the journal; the database catches up at the next opening.
        if let Err(error) = put_entry(&self.database, &self.authorizations, &entry) {
            tracing::warn!(%error, %device, "the decision is in the journal, but not in the database");
        }
        self.entries.insert(device, entry);
        if let Err(error) = self.compact() {
            tracing::warn!(%error, "the journal of authorizations was not shortened");
        }
        Ok(())
    }

    /// Shortens the journal when it is mostly history, and forgets the oldest revocations.
    fn compact(&mut self) -> Result<(), StoreError> {
        let revoked = |entry: &Entry| matches!(entry.change, Change::Revoke { .. });
        let mut revocations: Vec<_> = self
            .entries
            .values()
            .filter(|entry| revoked(entry))
            .map(|entry| (entry.seq, entry.change.device().clone()))
            .collect();
        let live = self.entries.len() - revocations.len();
        let kept = live + revocations.len().min(REVOCATIONS_KEPT);
        if !self.journal.is_mostly_history(kept) {
            return Ok(());
        }
        // First the database for good, so that it holds nothing older than what the journal
        // forgets.
        self.flush()?;
        revocations.sort_unstable();
        let surplus = revocations.len().saturating_sub(REVOCATIONS_KEPT);
        let forgotten = &revocations[..surplus];
        for (_, device) in forgotten {
            self.entries.remove(device);
        }
        self.journal.rewrite(self.entries.values())?;
        for (_, device) in forgotten {
            self.authorizations
                .remove(&self.database, device.as_str().as_bytes())?;
        }
        Ok(())
    }

    /// Puts a broadcast. [`Store::flush`] makes it durable, as for all that follows.
    pub fn put_broadcast(&mut self, record: BroadcastRecord) -> Result<(), StoreError> {
        if self.broadcasts.lacks_room_for(&record) {
            self.prune(Table::<BroadcastRecord>::capacity() / 2)?;
        }
        self.broadcasts.put(&self.database, record)
    }

    /// A broadcast.
    pub fn broadcast(&self, id: &BroadcastId) -> Option<&BroadcastRecord> {
        self.broadcasts.get(id)
    }

    /// All broadcasts, oldest first.
    pub fn broadcasts(&self) -> Vec<BroadcastRecord> {
        let mut all: Vec<_> = self.broadcasts.iter().cloned().collect();
        all.sort_by_key(|record| (record.created, record.id));
        all
    }

    /// Forgets a broadcast; false where there was none. Its transfers stay.
    pub fn remove_broadcast(&mut self, id: &BroadcastId) -> Result<bool, StoreError> {
        self.broadcasts.remove(&self.database, id)
    }

    /// Puts a transfer.
    pub fn put_transfer(&mut self, record: TransferRecord) -> Result<(), StoreError> {
        if self.transfers.lacks_room_for(&record) {
            self.prune(Table::<TransferRecord>::capacity() / 2)?;
        }
        self.transfers.put(&self.database, record)
    }

    /// A transfer.
    pub fn transfer(&self, id: &TransferId) -> Option<&TransferRecord> {
        self.transfers.get(id)
    }

    /// All transfers, the least recently changed first.
    pub fn transfers(&self) -> Vec<TransferRecord> {
        let mut all: Vec<_> = self.transfers.iter().cloned().collect();
        all.sort_by_key(|record| (record.updated, record.id));
        all
    }

    /// Forgets a transfer and its progress; false where there was none.
    pub fn remove_transfer(&mut self, id: &TransferId) -> Result<bool, StoreError> {
        self.drop_progress(id)?;
        self.transfers.remove(&self.database, id)
    }

    /// The transfer by which we receive, or received, a bundle: one that is not final where there
    /// is one, and of several the most recently changed.
    pub fn find_incoming(&self, origin: &DeviceId, bundle: &BundleId) -> Option<&TransferRecord> {
        self.transfers
            .iter()
            .filter(|record| record.direction == Direction::Incoming)
            .filter(|record| record.origin == *origin && record.bundle == *bundle)
            .max_by_key(|record| (!record.state.is_final(), record.updated))
    }

    /// Puts the chunk set of a transfer, as bytes that mean nothing here. The data it speaks of
    /// must be on disk before. At most 256 KiB, and only for a transfer that has a record.
    pub fn put_progress(&mut self, id: &TransferId, chunks: &[u8]) -> Result<(), StoreError> {
        if self.transfers.get(id).is_none() {
            return Err(StoreError::UnknownTransfer(id.to_string()));
        }
        self.progress
            .put(&self.database, "a chunk set", id.as_bytes(), chunks)
    }

    /// The chunk set of a transfer. `None` also after the database was lost: then the file on
    /// disk says what is there.
    pub fn progress(&self, id: &TransferId) -> Result<Option<Vec<u8>>, StoreError> {
        self.progress.get(&self.database, id.as_bytes())
    }

    /// Forgets the chunk set of a transfer.
    pub fn drop_progress(&mut self, id: &TransferId) -> Result<(), StoreError> {
        self.progress.remove(&self.database, id.as_bytes())
    }

    /// Puts a group.
    pub fn put_group(&mut self, group: Group) -> Result<(), StoreError> {
        if group.name.len() > MAX_GROUP_NAME {
            return Err(StoreError::TooLarge {
                what: "a group's name",
                size: group.name.len(),
                limit: MAX_GROUP_NAME,
            });
        }
        self.groups.put(&self.database, group)
    }

    /// A group.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(&name.to_owned())
    }

    /// All groups, by name.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.iter().cloned().collect()
    }

    /// Forgets a group; false where there was none.
    pub fn remove_group(&mut self, name: &str) -> Result<bool, StoreError> {
        self.groups.remove(&self.database, &name.to_owned())
    }

    /// Forgets the oldest final transfers and the oldest broadcasts that are over, until at most
    /// `keep` of each are left, and progress that belongs to nothing. Returns how many records
    /// went.
    pub fn prune(&mut self, keep: usize) -> Result<usize, StoreError> {
        let mut transfers = self.transfers();
        transfers.retain(|record| record.state.is_final());
        let transfers = &transfers[..transfers.len().saturating_sub(keep)];
        for record in transfers {
            self.remove_transfer(&record.id)?;
        }
        let mut broadcasts = self.broadcasts();
        broadcasts.retain(|record| record.state != BroadcastState::Active);
        let broadcasts = &broadcasts[..broadcasts.len().saturating_sub(keep)];
        for record in broadcasts {
            self.remove_broadcast(&record.id)?;
        }
        for (key, _) in self.progress.all(&self.database, "progress")? {
            let id = key.as_slice().try_into().map(TransferId);
            if !id.is_ok_and(|id| self.transfers.get(&id).is_some()) {
                self.progress.remove(&self.database, &key)?;
            }
        }
        Ok(transfers.len() + broadcasts.len())
    }
}

/// Longest name of a group, in bytes.
const MAX_GROUP_NAME: usize = 256;

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "the last changes may not be on disk");
        }
    }
}

fn authorized(entry: &Entry) -> Option<&Authorization> {
    match &entry.change {
        Change::Authorize(authorization) => Some(authorization),
        Change::Revoke { .. } => None,
    }
}

fn put_entry(database: &Database, tree: &Pieces, entry: &Entry) -> Result<(), StoreError> {
    let key = entry.change.device().as_str().as_bytes();
    tree.put(database, "an authorization", key, entry.as_bytes())
}

/// Gives both homes of the authorizations the newest entry of each device. Where both have an
/// entry with the same number, the journal's holds.
fn reconcile(
    identity: &Identity,
    journal: &mut Journal,
    entries: &mut Entries,
    database: &Database,
    tree: &Pieces,
) -> Result<(), StoreError> {
    let key = identity.public_key();
    let mut missing = Vec::new();
    let mut current = std::collections::BTreeSet::new();
    for (stored_key, value) in tree.all(database, "authorizations")? {
        let entry = Entry::open(&key, &value)
            .ok()
            .filter(|entry| entry.change.device().as_str().as_bytes() == stored_key);
        let Some(entry) = entry else {
            tracing::warn!(
                "an authorization in the database is not signed by this device; removed"
            );
            tree.remove(database, &stored_key)?;
            continue;
        };
        match entries.get(entry.change.device()) {
            Some(known) if *known == entry => {
                current.insert(entry.change.device().clone());
            }
            Some(known) if known.seq >= entry.seq => {}
            _ => missing.push(entry),
        }
    }
    journal.append(&missing)?;
    for entry in missing {
        current.insert(entry.change.device().clone());
        entries.insert(entry.change.device().clone(), entry);
    }
    for (device, entry) in entries.iter() {
        if !current.contains(device) {
            put_entry(database, tree, entry)?;
        }
    }
    Ok(())
}
