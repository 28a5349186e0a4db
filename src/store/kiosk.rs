//! The secret of a kiosk's invite: it stands on paper somewhere, so it must outlive the database.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files::write_atomically;
use super::{Store, StoreError};
use crate::protocol::id::{DeviceId, InviteId};
use crate::protocol::invite::Secret;

/// The file: the id, which is a hash of the secret, shows that it is whole.
#[derive(Serialize, Deserialize)]
struct Kept {
    invite: InviteId,
    secret: Secret,
}

impl Store {
    fn kiosk_file(&self) -> PathBuf {
        self.state_dir.join("kiosk.secret")
    }

    /// The secret of the kiosk's invite, made where there is none, or a damaged one. On disk when
    /// this returns.
    pub fn kiosk_secret(&self) -> Result<Secret, StoreError> {
        let path = self.kiosk_file();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let kept = serde_json::from_slice::<Kept>(&bytes).ok();
                if let Some(kept) = kept.filter(|kept| kept.secret.id() == kept.invite) {
                    return Ok(kept.secret);
                }
                tracing::warn!(
                    path = %path.display(),
                    "the secret of the kiosk's invite was damaged: it gets a new one, and what \
                     was printed lets nobody in any more"
                );
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::io("read", &path, source)),
        }
        self.renew_kiosk_secret()
    }

    /// A new secret in the place of the old one. On disk when this returns.
    pub fn renew_kiosk_secret(&self) -> Result<Secret, StoreError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| StoreError::NoRandomness(error.to_string()))?;
        let secret = Secret::new(random);
        let kept = Kept {
            invite: secret.id(),
            secret,
        };
        let path = self.kiosk_file();
        serde_json::to_vec(&kept)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_atomically(&path, &bytes))
            .map_err(|source| StoreError::io("write", &path, source))?;
        Ok(kept.secret)
    }

    /// Forgets the authorizations of devices, as if they had never been; what else was decided
    /// about a device stays. On disk when this returns.
    pub fn forget(&mut self, devices: &[DeviceId]) -> Result<usize, StoreError> {
        // First the database for good, so that it holds nothing older than what the journal
        // forgets.
        self.flush()?;
        let mut forgotten = Vec::new();
        for device in devices {
            if self.authorization(device).is_some() {
                let subject = super::Subject::Device(device.clone());
                self.entries.remove(&subject);
                forgotten.push(subject);
            }
        }
        self.journal.rewrite(self.entries.values())?;
        for subject in &forgotten {
            self.authorizations
                .remove(&self.database, &subject.to_key())?;
        }
        self.flush()?;
        Ok(forgotten.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{authorization, device};
    use super::*;

    #[test]
    fn the_secret_stays_until_it_is_damaged_or_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.kiosk_secret().unwrap();
        drop(store);
        // The database is of no matter.
        std::fs::remove_dir_all(dir.path().join("db")).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.kiosk_secret().unwrap() == first);
        let second = store.renew_kiosk_secret().unwrap();
        assert!(second != first && store.kiosk_secret().unwrap() == second);
        let path = dir.path().join("kiosk.secret");
        let text = std::fs::read(&path).unwrap();
        for at in 0..text.len() {
            let mut flipped = text.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            let now = store.kiosk_secret().unwrap();
            // What is there then was made anew: never what the damage has made of it.
            assert!(
                now == second || std::fs::read(&path).unwrap() != flipped,
                "{at}"
            );
        }
        std::fs::write(&path, &text[..20]).unwrap();
        assert!(store.kiosk_secret().unwrap() != second);
    }

    #[test]
    fn whoever_is_forgotten_stays_so_and_others_are_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        for n in 0..4 {
            store.authorize(authorization(n)).unwrap();
        }
        store.revoke(&device(3)).unwrap();
        let gone = [device(1), device(2), device(3), device(9)];
        assert_eq!(store.forget(&gone).unwrap(), 2);
        for _ in 0..2 {
            assert!(store.authorization(&device(0)).is_some());
            assert!(store.authorization(&device(1)).is_none());
            assert!(store.is_shut_out(&device(3)));
            drop(store);
            store = Store::open(dir.path()).unwrap();
        }
    }
}
