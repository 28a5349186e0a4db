//! Devices that change their key (PROTOCOL.md §15): what was said of the old id holds for the new
//! one.

use super::super::id::DeviceId;
use super::super::rotation::{self, ChainError, Rotation};
use super::{GrantedBy, MAX_MOVES, TrustBook, walk};

/// Why nothing follows from the changes of key that a device shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFollowed {
    /// They prove nothing.
    #[error("the change of key is not believed: {0}")]
    Chain(#[from] ChainError),
    /// None of the earlier ids means anything here.
    #[error("nothing here follows from a change of key of a device that was never let in")]
    Unknown,
    /// A person has revoked it under one of its ids.
    #[error("{0} was revoked here, and a new key does not change that")]
    Revoked(DeviceId),
    /// The earlier id has been given up for another one before.
    #[error(
        "{earlier} was given up for {next} before: a second change of that key counts for nothing"
    )]
    GivenUp {
        /// The earlier id.
        earlier: DeviceId,
        /// The one that followed it.
        next: DeviceId,
    },
    /// The new id is another device's, or ours.
    #[error("the new id {0} is in use already")]
    InUse(DeviceId),
}

impl TrustBook {
    /// Something here speaks of this id, so that it matters when it changes; not of one that was
    /// revoked or given up.
    pub fn follows(&self, old: &DeviceId) -> bool {
        !self.is_shut_out(old)
            && (self.authorizations.contains_key(old)
                || self.all_ids(old).any(|id| {
                    self.configured.contains_key(id)
                        || self.groups.values().any(|g| g.members.contains(id))
                        || self.rosters.values().any(|r| r.members.contains_key(id))
                        || self.floors.keys().any(|(admin, _)| admin == id)
                        || self.admins.contains(id)
                }))
    }

    /// A device has shown that it changed its key: all that was said of the old id holds for the
    /// new one, and the old one is no longer let in. False, and nothing done, where nothing
    /// follows from it: the old id means nothing here, or the new one is in use already.
    pub fn follow(&mut self, old: &DeviceId, new: &DeviceId, now: u64) -> bool {
        let taken = self.next.contains_key(new)
            || self.earlier.contains_key(new)
            || self.is_revoked(new)
            || self.is_ours(new)
            || walk(&self.earlier, old).count() >= MAX_MOVES;
        if taken || !self.follows(old) {
            return false;
        }
        if let Some(mut entry) = self.authorizations.remove(old) {
            entry.device = new.clone();
            entry.key = None;
            entry.by = GrantedBy::Rotation;
            entry.via = Some(old.to_string());
            entry.since = now;
            self.authorizations.entry(new.clone()).or_insert(entry);
        }
        for group in self.groups.values_mut() {
            if let Some(at) = group.members.iter().position(|id| id == old) {
                group.members.remove(at);
                if !group.members.contains(new) {
                    group.members.push(new.clone());
                }
            }
        }
        self.link(old.clone(), new.clone());
        true
    }

    /// What follows from the changes of key that `device` shows: the ids to be followed, oldest
    /// first; none when all of that is known. Changes nothing. The signatures are looked at only
    /// when one of the ids means something here.
    ///
    /// # Errors
    /// See [`NotFollowed`].
    pub fn consider(
        &self,
        chain: &[Rotation],
        device: &DeviceId,
    ) -> Result<Vec<(DeviceId, DeviceId)>, NotFollowed> {
        let ids = rotation::ids(chain, device)?;
        let (earlier, _) = ids.split_at(ids.len() - 1);
        let means = |id: &DeviceId| {
            self.next.contains_key(id) || self.follows(id) || self.revoked.contains(id)
        };
        if !earlier.iter().any(means) {
            return Err(NotFollowed::Unknown);
        }
        rotation::verify(chain)?;
        if let Some(revoked) = ids.iter().find(|id| self.is_revoked(id)) {
            return Err(NotFollowed::Revoked(revoked.clone()));
        }
        let mut moves: Vec<(DeviceId, DeviceId)> = Vec::new();
        for (old, new) in earlier.iter().zip(&ids[1..]) {
            match self.next.get(old) {
                Some(next) if next == new => continue,
                Some(next) => {
                    let (earlier, next) = (old.clone(), next.clone());
                    return Err(NotFollowed::GivenUp { earlier, next });
                }
                None if moves.is_empty() && !self.follows(old) => continue,
                None => {}
            }
            let taken = self.next.contains_key(new) || self.earlier.contains_key(new);
            if taken || self.is_ours(new) {
                return Err(NotFollowed::InUse(new.clone()));
            }
            moves.push((old.clone(), new.clone()));
        }
        Ok(moves)
    }
}
