//! What outlives the process: the device's key, whom it trusts, what it was doing.
//!
//! Everything is in one state folder, which one process at a time may have:
//!
//! ```text
//! lock                   held while the store is open; names the process
//! groups.json            the groups, a second time
//! identity.key           the device's secret, 0600, and how it came to that key; .copy for when
//!                        it is damaged
//! kiosk.secret           the secret of a kiosk's invite, 0600
//! authorizations.log     signed decisions, append-only, fsynced: what must never be lost
//! audit.jsonl            what happened, append-only, fsynced; older ones with numbers behind
//! rosters/               rosters in force, as their admins signed them
//! db/<number>/           sled: all records; a fresh one at every opening, from the last one
//! db.damaged-<time>/     the last three that were damaged
//! ```
//!
//! The API is synchronous: one thread owns the store.

mod again;
pub mod audit;
mod db;
mod error;
mod files;
mod generation;
mod groups;
mod health;
mod identity;
mod invites;
mod journal;
mod kiosk;
mod lock;
mod pieces;
mod plans;
mod record;
mod renewal;
mod rosters;
mod table;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod renewal_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use error::StoreError;
pub use record::{
    Account, After, Authorization, BroadcastRecord, BroadcastState, GrantedBy, Group, PlanRecord,
    Question, TransferRecord,
};
pub use renewal::Renewed;

use audit::{Audit, AuditLimits, Entry as AuditEntry};
use db::Database;
use groups::GroupsFile;
use identity::KeyFile;
use journal::{Change, Entries, Entry, Journal, Subject};
use lock::Lock;
use pieces::Pieces;
use rosters::RosterFiles;
use table::Table;

use crate::protocol::id::{BroadcastId, BundleId, DeviceId, TransferId};
use crate::protocol::identity::{Identity, PublicKey};
use crate::protocol::invite::Issued;
use crate::protocol::roster::Roster;
use crate::protocol::transfer::Direction;
use crate::protocol::trust::Floor;

/// How many devices may be authorized at once.
const MAX_AUTHORIZED: usize = 10_000;
/// How many revocations are remembered: those beyond it that are oldest are forgotten.
const REVOCATIONS_KEPT: usize = 10_000;
/// How many changes of other devices' keys are remembered.
const MAX_MOVED: usize = 10_000;
/// How many rosters there may be, those counted of which only the version is left.
const MAX_ROSTERS: usize = 1000;

/// The open store. Closing it (dropping it) flushes.
#[derive(Debug)]
pub struct Store {
    last_used: Option<u64>,
    state_dir: PathBuf,
    key: KeyFile,
    rebuilt: bool,
    entries: Entries,
    next_seq: u64,
    journal: Journal,
    audit: Audit,
    rosters: RosterFiles,
    authorizations: Pieces,
    broadcasts: Table<BroadcastRecord>,
    transfers: Table<TransferRecord>,
    groups: Table<Group>,
    groups_file: GroupsFile,
    invites: Table<Issued>,
    plans: Table<PlanRecord>,
    progress: Pieces,
    database: Database,
    /// Dropped last.
    lock: Lock,
}

impl Store {
    /// True where a store was opened before. Where that cannot be seen, too: opening says why.
    pub fn is_at(state_dir: &Path) -> bool {
        let there = |name: &&str| match state_dir.join(name).symlink_metadata() {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        };
        ["lock", "identity.key"].iter().any(there)
    }

    /// Opens the store in a state folder, which is created (0700) where it is missing.
    ///
    /// A damaged or lost database is no error: it is made anew, see [`Store::rebuilt`]. A damaged
    /// key file, a folder in use, a database of a newer version, and a disk that does not take
    /// files are errors.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        files::create_private_dir(state_dir)
            .map_err(|source| StoreError::io("create the state folder", state_dir, source))?;
        let last_used = files::newest_change(state_dir);
        let lock = Lock::take(state_dir)?;
        let (key, new_identity) = identity::load_or_create(state_dir)?;
        let signers = key.signers();
        let (mut journal, mut entries) = Journal::open(state_dir, &signers)?;
        let (database, new_database) = generation::open(state_dir)?;
        let authorizations = database.pieces("authorizations")?;
        reconcile(
            &signers,
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
            audit: Audit::new(state_dir),
            rosters: RosterFiles::open(state_dir)?,
            authorizations,
            broadcasts: Table::load(&database, "broadcasts")?,
            transfers: Table::load(&database, "transfers")?,
            groups: Table::load(&database, "groups")?,
            groups_file: GroupsFile::of(state_dir),
            invites: Table::load(&database, "invites")?,
            plans: Table::load(&database, "plans")?,
            progress: database.pieces("progress")?,
            state_dir: state_dir.to_owned(),
            last_used,
            key,
            database,
            lock,
        };
        if new_database {
            store.drop_invites()?;
        }
        store.adopt()?;
        store.reconcile_groups()?;
        for roster in store.rosters()? {
            store.rosters.mend(&roster)?;
        }
        store.flush()?;
        Ok(store)
    }

    /// The file of the groups is written after the database: where it is whole, it holds.
    fn reconcile_groups(&mut self) -> Result<(), StoreError> {
        let Some(kept) = self.groups_file.read()? else {
            return self.groups_file.write(&self.groups());
        };
        for group in self.groups() {
            if !kept.iter().any(|other| other.name == group.name) {
                self.groups.remove(&self.database, &group.name)?;
            }
        }
        for group in kept {
            if self.group(&group.name) != Some(&group) {
                self.groups.put(&self.database, group)?;
            }
        }
        Ok(())
    }

    /// When the state folder last changed before this opening, in Unix seconds, by the clock of
    /// that time.
    pub fn last_used(&self) -> Option<u64> {
        self.last_used
    }

    /// This device's key pair.
    pub fn identity(&self) -> &Identity {
        &self.key.identity
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

    /// When the audit log begins a new file, and how many it keeps.
    pub fn limit_audit(&mut self, limits: AuditLimits) {
        self.audit.limit(limits);
    }

    /// Writes something into the audit log that no record tells of. What is put, decided or
    /// removed here is written by itself.
    pub fn note(&mut self, entry: AuditEntry) {
        self.audit.note(entry, now());
    }

    /// Tries again to write what the disk has not taken; how many lines of the audit log still
    /// wait.
    pub fn catch_up(&mut self) -> u64 {
        self.audit.catch_up(now());
        self.audit.behind()
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

    /// Takes back whatever lets a device in; false where that was done before. On disk when this
    /// returns.
    pub fn revoke(&mut self, device: &DeviceId) -> Result<bool, StoreError> {
        if let Some(Change::Revoke { .. }) = self.change(device) {
            return Ok(false);
        }
        self.decide(Change::Revoke {
            device: device.clone(),
        })?;
        Ok(true)
    }

    /// Notes that a device has a new key, with its authorization under the new id, where it had
    /// one. On disk when this returns.
    pub fn move_device(
        &mut self,
        old: &DeviceId,
        new: &DeviceId,
        authorization: Option<Authorization>,
    ) -> Result<(), StoreError> {
        if self.moves().len() >= MAX_MOVED {
            return Err(StoreError::Full {
                what: "devices with changed keys",
                limit: MAX_MOVED,
            });
        }
        // In this order, so that a power cut in between leaves it authorized.
        if let Some(authorization) = authorization {
            self.decide(Change::Authorize(authorization))?;
        }
        let (device, to) = (old.clone(), new.clone());
        self.decide(Change::Move { device, to })
    }

    /// The ids that devices gave up, each with the next one.
    pub fn moves(&self) -> Vec<(DeviceId, DeviceId)> {
        let moved = self.changes().filter_map(|change| match change {
            Change::Move { device, to } => Some((device.clone(), to.clone())),
            _ => None,
        });
        moved.collect()
    }

    /// The devices that were revoked.
    pub fn revoked(&self) -> Vec<DeviceId> {
        let revoked = self.changes().filter_map(|change| match change {
            Change::Revoke { device } => Some(device.clone()),
            _ => None,
        });
        revoked.collect()
    }

    /// The highest version of each roster that was ever here.
    pub fn floors(&self) -> Vec<Floor> {
        let floors = self.changes().filter_map(|change| match change {
            Change::Roster(floor) => Some(floor.clone()),
            _ => None,
        });
        floors.collect()
    }

    /// Notes a roster's version; nothing lower comes after it. On disk when this returns.
    pub fn put_floor(&mut self, floor: Floor) -> Result<(), StoreError> {
        let subject = Subject::Roster(floor.admin.clone(), floor.group.clone());
        match self.entries.get(&subject).map(|entry| &entry.change) {
            Some(Change::Roster(known)) if known.version >= floor.version => return Ok(()),
            None if self.floors().len() >= MAX_ROSTERS => {
                return Err(StoreError::Full {
                    what: "rosters",
                    limit: MAX_ROSTERS,
                });
            }
            _ => {}
        }
        self.decide(Change::Roster(floor))
    }

    /// Puts a roster in the place of the one before it. On disk when this returns.
    pub fn put_roster(&mut self, roster: &Roster) -> Result<(), StoreError> {
        // The version comes last: without it the file is news, with it and without the file
        // nobody would be let in.
        let first = !self.floors().iter().any(|floor| floor.is_of(roster));
        if first && self.floors().len() >= MAX_ROSTERS {
            return Err(StoreError::Full {
                what: "rosters",
                limit: MAX_ROSTERS,
            });
        }
        self.rosters.put(roster)?;
        self.put_floor(Floor::of(roster))
    }

    /// The rosters that are here. One that does not fit the versions in the journal is left out,
    /// with a warning: it was put there by hand.
    pub fn rosters(&self) -> Result<Vec<Roster>, StoreError> {
        let floors = self.floors();
        let mut rosters = self.rosters.all()?;
        // A file and its copy.
        let mut known = std::collections::BTreeSet::new();
        rosters.retain(|roster| {
            let fits = floors.iter().any(|floor| {
                let newer = roster.terms.version > floor.version;
                floor.is_of(roster) && (newer || floor.digest == roster.digest)
            });
            if fits {
                return known.insert((roster.admin.clone(), roster.group.clone()));
            }
            tracing::warn!(
                group = roster.group, admin = %roster.admin, version = roster.terms.version,
                "a roster in the state folder was not imported, or is an old one; it counts for \
                 nothing"
            );
            false
        });
        Ok(rosters)
    }

    /// Forgets the rosters of a group; their versions stay.
    pub fn remove_rosters(&mut self, group: &str) -> Result<(), StoreError> {
        for roster in self.rosters.all()? {
            if roster.group == group {
                self.rosters.remove(&roster)?;
            }
        }
        Ok(())
    }

    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.entries.values().map(|entry| &entry.change)
    }

    fn change(&self, device: &DeviceId) -> Option<&Change> {
        let entry = self.entries.get(&Subject::Device(device.clone()))?;
        Some(&entry.change)
    }

    /// The authorization of a device, expired or not: see [`Authorization::is_valid_at`].
    pub fn authorization(&self, device: &DeviceId) -> Option<&Authorization> {
        authorized(self.change(device)?)
    }

    /// All authorizations, expired ones too, by device id.
    pub fn authorizations(&self) -> Vec<Authorization> {
        self.authorized().cloned().collect()
    }

    fn authorized(&self) -> impl Iterator<Item = &Authorization> {
        self.changes().filter_map(authorized)
    }

    fn decide(&mut self, change: Change) -> Result<(), StoreError> {
        let entry = Entry::seal(&self.key.identity, self.next_seq, change)?;
        // Before anybody is told, and before it is held to: a decision that is not in the audit
        // log was not made.
        let noted = match &entry.change {
            Change::Authorize(decided) => AuditEntry::of_authorization(decided),
            Change::Revoke { device } => AuditEntry::Revoked {
                device: device.clone(),
            },
            Change::Move { device, to } => AuditEntry::KeyChanged {
                device: device.clone(),
                to: to.clone(),
            },
            Change::Roster(floor) => AuditEntry::of_floor(floor),
        };
        self.note(noted);
        self.journal.append([&entry])?;
        self.next_seq = self.next_seq.saturating_add(1);
        let subject = entry.change.subject();
        // The decision is safe in the journal; the database catches up at the next opening.
        if let Err(error) = put_entry(&self.database, &self.authorizations, &entry) {
            tracing::warn!(%error, %subject, "the decision is in the journal, but not in the database");
        }
        self.entries.insert(subject, entry);
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
            .map(|entry| (entry.seq, entry.change.subject()))
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
        for (_, subject) in forgotten {
            self.entries.remove(subject);
        }
        self.journal.rewrite(self.entries.values())?;
        for (_, subject) in forgotten {
            self.authorizations
                .remove(&self.database, &subject.to_key())?;
        }
        Ok(())
    }

    /// Puts a broadcast. [`Store::flush`] makes it durable, as for all that follows.
    pub fn put_broadcast(&mut self, record: BroadcastRecord) -> Result<(), StoreError> {
        let before = self.broadcasts.get(&record.id).map(|before| before.state);
        if before != Some(record.state) {
            self.note(AuditEntry::of_broadcast(&record));
        }
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
        let before = self.transfers.get(&record.id);
        if record.state.is_final() && before.is_none_or(|before| !before.state.is_final()) {
            let known = self.authorization(&record.peer).cloned();
            self.note(AuditEntry::of_transfer(&record, known.as_ref()));
        }
        self.keep_transfer(record)
    }

    /// Puts a transfer, under another id than it had, that the audit log has told of when it came.
    pub fn put_aside(&mut self, record: TransferRecord) -> Result<(), StoreError> {
        self.keep_transfer(record)
    }

    fn keep_transfer(&mut self, record: TransferRecord) -> Result<(), StoreError> {
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
        if self.groups.get(&group.name) != Some(&group) {
            self.note(AuditEntry::of_group(&group));
        }
        self.groups.put(&self.database, group)?;
        self.groups_file.write(&self.groups())
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
        if let Some(group) = self.groups.get(&name.to_owned()) {
            let group = group.name.clone();
            self.note(AuditEntry::GroupRemoved { group });
        }
        let was_there = self.groups.remove(&self.database, &name.to_owned())?;
        self.groups_file.write(&self.groups())?;
        Ok(was_there)
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
        Ok(transfers.len() + self.prune_broadcasts(keep)?)
    }

    /// The same for broadcasts alone, and for progress that belongs to nothing.
    pub fn prune_broadcasts(&mut self, keep: usize) -> Result<usize, StoreError> {
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
        Ok(broadcasts.len())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "the last changes may not be on disk");
        }
    }
}

/// The time, in Unix seconds.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn authorized(change: &Change) -> Option<&Authorization> {
    match change {
        Change::Authorize(authorization) => Some(authorization),
        _ => None,
    }
}

fn put_entry(database: &Database, tree: &Pieces, entry: &Entry) -> Result<(), StoreError> {
    let key = entry.change.subject().to_key();
    tree.put(database, "an authorization", &key, entry.as_bytes())
}

/// Gives both homes of the authorizations the newest entry about each. Where both have an
/// entry with the same number, the journal's holds.
fn reconcile(
    keys: &[PublicKey],
    journal: &mut Journal,
    entries: &mut Entries,
    database: &Database,
    tree: &Pieces,
) -> Result<(), StoreError> {
    let mut missing = Vec::new();
    let mut current = std::collections::BTreeSet::new();
    for (stored_key, value) in tree.all(database, "authorizations")? {
        let entry = Entry::open(keys, &value)
            .ok()
            .filter(|entry| entry.change.subject().to_key() == stored_key);
        let Some(entry) = entry else {
            tracing::warn!(
                "an authorization in the database is not signed by this device; removed"
            );
            tree.remove(database, &stored_key)?;
            continue;
        };
        let subject = entry.change.subject();
        match entries.get(&subject) {
            Some(known) if *known == entry => {
                current.insert(subject);
            }
            Some(known) if known.seq >= entry.seq => {}
            _ => missing.push(entry),
        }
    }
    journal.append(&missing)?;
    for entry in missing {
        current.insert(entry.change.subject());
        entries.insert(entry.change.subject(), entry);
    }
    for (subject, entry) in entries.iter() {
        if !current.contains(subject) {
            put_entry(database, tree, entry)?;
        }
    }
    Ok(())
}
