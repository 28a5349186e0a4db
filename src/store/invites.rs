//! Invites that this device has issued.

use super::audit::Entry;
use super::journal::{Change, Subject};
use super::{Store, StoreError, Table};
use crate::protocol::id::{DeviceId, InviteId};
use crate::protocol::invite::Issued;

impl Store {
    /// Puts an invite. On disk when this returns: a use must be, before anybody is let in.
    pub fn put_invite(&mut self, invite: Issued) -> Result<(), StoreError> {
        if self.invites.get(&invite.id) != Some(&invite) {
            self.note(Entry::Invite {
                invite: invite.id,
                uses: invite.uses,
                used: invite.used.len(),
                group: invite.group.clone(),
                expires: invite.expires,
                revoked: invite.revoked,
            });
        }
        self.invites.put(&self.database, invite)?;
        self.flush()
    }

    /// All invites on record.
    pub fn invites(&self) -> Vec<Issued> {
        self.invites.iter().cloned().collect()
    }

    /// How many may be on record.
    pub fn invite_capacity() -> usize {
        Table::<Issued>::capacity()
    }

    /// After damage: what could be read may be older than what was flushed, and a use must never
    /// come back.
    pub(super) fn drop_invites(&mut self) -> Result<(), StoreError> {
        for invite in self.invites() {
            self.remove_invite(&invite.id)?;
        }
        Ok(())
    }

    /// Forgets an invite; false where there was none.
    pub fn remove_invite(&mut self, id: &InviteId) -> Result<bool, StoreError> {
        self.invites.remove(&self.database, id)
    }

    /// True when a person has shut the device out, and nobody has let it in since.
    pub fn is_shut_out(&self, device: &DeviceId) -> bool {
        let entry = self.entries.get(&Subject::Device(device.clone()));
        entry.is_some_and(|entry| matches!(entry.change, Change::Revoke { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{authorization, device};
    use super::*;
    use crate::protocol::invite::Secret;

    #[test]
    fn uses_of_an_invite_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::new([7; 16]);
        let invite = Issued {
            id: secret.id(),
            secret,
            created: 1,
            expires: 2,
            uses: 1000,
            used: (0..200).map(device).collect(),
            group: Some("class-3b".to_owned()),
            roles: None,
            revoked: false,
            standing: None,
        };
        let mut store = Store::open(dir.path()).unwrap();
        store.put_invite(invite.clone()).unwrap();
        drop(store);
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(store.invites(), std::slice::from_ref(&invite));
        assert!(store.remove_invite(&invite.id).unwrap());
        assert!(!store.remove_invite(&invite.id).unwrap());
        drop(store);
        assert_eq!(Store::open(dir.path()).unwrap().invites(), []);
    }

    #[test]
    fn whoever_was_shut_out_stays_so_until_somebody_lets_it_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        assert!(!store.is_shut_out(&device(1)));
        store.authorize(authorization(1)).unwrap();
        store.revoke(&device(1)).unwrap();
        assert!(store.is_shut_out(&device(1)));
        drop(store);
        let mut store = Store::open(dir.path()).unwrap();
        assert!(store.is_shut_out(&device(1)));
        store.authorize(authorization(1)).unwrap();
        assert!(!store.is_shut_out(&device(1)));
    }
}
