//! The device's key file.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE;

use super::StoreError;
use super::files::write_atomically;
use crate::protocol::identity::Identity;

/// Reads `<state>/identity.key`, or makes a new identity when there is none. `true` says that
/// it was made now.
///
/// A damaged file is an error: a new key would be a new device, which everyone would have to
/// authorize again, and that is for a person to decide.
pub(super) fn load_or_create(state_dir: &Path) -> Result<(Identity, bool), StoreError> {
    let path = state_dir.join("identity.key");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return create(&path).map(|identity| (identity, true));
        }
        Err(source) => return Err(StoreError::io("read", &path, source)),
    };
    tighten(&path, &file)?;
    let mut text = String::new();
    let damaged = || StoreError::DamagedIdentity { path: path.clone() };
    match file.take(100).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged()),
        Err(source) => return Err(StoreError::io("read", &path, source)),
    }
    let seed: [u8; 32] = HEXLOWER_PERMISSIVE
        .decode(text.trim_end().as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(damaged)?;
    Ok((Identity::from_seed(&seed), false))
}

fn create(path: &Path) -> Result<Identity, StoreError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| StoreError::NoRandomness(error.to_string()))?;
    let text = format!("{}\n", data_encoding::HEXLOWER.encode(&seed));
    write_atomically(path, text.as_bytes())
        .map_err(|source| StoreError::io("write", path, source))?;
    Ok(Identity::from_seed(&seed))
}

fn tighten(path: &Path, file: &File) -> Result<(), StoreError> {
    let mode = file
        .metadata()
        .map_err(|source| StoreError::io("read", path, source))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            "the device key could be read by others (mode {:o}); it is now 600. If somebody may \
             have copied it, remove the file to become a new device",
            mode & 0o777
        );
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(|source| StoreError::io("change the permissions of", path, source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_identity_is_private_and_the_same_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let (made, new) = load_or_create(dir.path()).unwrap();
        assert!(new);
        let path = dir.path().join("identity.key");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap().len(), 65);
        let (read, new) = load_or_create(dir.path()).unwrap();
        assert!(!new);
        assert_eq!(read.device_id(), made.device_id());
    }

    #[test]
    fn permissions_that_are_too_wide_are_tightened() {
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path()).unwrap();
        let path = dir.path().join("identity.key");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        load_or_create(dir.path()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let long = "ab".repeat(33);
        for damage in [
            &b""[..],
            b"abcd\n",
            long.as_bytes(),
            &[0xff; 64],
            &[b'z'; 64],
        ] {
            fs::write(&path, damage).unwrap();
            match load_or_create(dir.path()) {
                Err(error @ StoreError::DamagedIdentity { .. }) => {
                    assert!(error.to_string().contains("identity.key"));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(fs::read(&path).unwrap(), damage);
        }
    }
}
