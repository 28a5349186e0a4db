//! A new key for this device: what was decided under the old one stays, signed by the new one.

use super::identity::KeyFile;
use super::journal::{Change, Entry};
use super::{Store, StoreError, put_entry};
use crate::protocol::id::DeviceId;
use crate::protocol::rotation::Rotation;

/// What a new key has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The id before.
    pub earlier: DeviceId,
    /// The id from now on.
    pub device: DeviceId,
    /// Invites that ended: they name the old id.
    pub invites: usize,
}

impl Store {
    /// How this device came to its key, oldest change first; empty where it never changed.
    pub fn rotations(&self) -> &[Rotation] {
        &self.key.rotations
    }

    /// Changes the key. Other devices are shown the change, which both keys have signed, and go
    /// on as before. On disk when this returns, and the old secret is gone; on an error either
    /// key may be the one, and the next opening finds out. `now` is in Unix seconds.
    pub fn rotate(&mut self, now: u64) -> Result<Renewed, StoreError> {
        self.renew(true, now)
    }

    /// Makes this another device, with a key that has nothing to do with the old one. Whom it
    /// trusts stays; nobody trusts it. `now` is in Unix seconds.
    pub fn become_new(&mut self, now: u64) -> Result<Renewed, StoreError> {
        self.renew(false, now)
    }

    fn renew(&mut self, followed: bool, now: u64) -> Result<Renewed, StoreError> {
        let earlier = self.identity().device_id();
        let next = self.key.next(followed, now)?;
        next.write(&self.state_dir)?;
        self.key = next;
        self.adopt()?;
        let invites = self.invites().len();
        self.drop_invites()?;
        self.flush()?;
        Ok(Renewed {
            earlier,
            device: self.identity().device_id(),
            invites,
        })
    }

    /// Makes everything that the key before this one has signed our own. Until that is done the
    /// key file names that key, so that an interruption is made good at the next opening.
    pub(super) fn adopt(&mut self) -> Result<(), StoreError> {
        if self.key.before.is_none() {
            return Ok(());
        }
        let mut sealed = Vec::new();
        for entry in self.entries.values() {
            sealed.push(Entry::seal(
                self.identity(),
                entry.seq,
                entry.change.clone(),
            )?);
        }
        for entry in sealed {
            self.entries.insert(entry.change.subject(), entry);
        }
        self.journal.rewrite(self.entries.values())?;
        for entry in self.entries.values() {
            put_entry(&self.database, &self.authorizations, entry)?;
        }
        self.note_own_changes()?;
        self.flush()?;
        let settled = KeyFile {
            before: None,
            ..self.key.clone()
        };
        settled.write(&self.state_dir)?;
        self.key = settled;
        Ok(())
    }

    /// Our own earlier ids are remembered longer than they are shown: what they have signed, such
    /// as rosters, stays ours.
    fn note_own_changes(&mut self) -> Result<(), StoreError> {
        for rotation in self.key.rotations.clone() {
            let (old, new) = (rotation.old.device_id(), rotation.new.device_id());
            let known = matches!(self.change(&old), Some(Change::Move { to, .. }) if *to == new);
            if !known {
                self.move_device(&old, &new, None)?;
            }
        }
        Ok(())
    }
}
