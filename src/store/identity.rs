//! The device's key file, `<state>/identity.key`, and a copy of it, `<state>/identity.key.copy`.
//!
//! Its first line is the secret, 64 hex digits. Each further line is a JSON object: the last
//! changes of the key, as both keys have signed them; the key before this one for as long as there
//! may be decisions that only that one has signed; and a hash of all this, by which damage is
//! noticed. One file, replaced as a whole: whatever happens in between, either the old identity is
//! there or the new one. The copy is written after it and counts only where the file is damaged or
//! lost: without its key a device is a stranger to everybody, and nobody may be there to let it in.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::files::write_atomically;
use crate::protocol::identity::{Identity, PublicKey};
use crate::protocol::rotation::{self, MAX_CHAIN, Rotation};

/// Longest key file, in bytes: a change takes about 400.
const MAX_FILE: u64 = 8192;

/// What the key file holds.
#[derive(Debug, Clone)]
pub(super) struct KeyFile {
    /// The device's key pair.
    pub(super) identity: Identity,
    /// How it came to this key, oldest change first; what other devices are shown.
    pub(super) rotations: Vec<Rotation>,
    /// The key before this one, while decisions that it has signed may be on disk.
    pub(super) before: Option<PublicKey>,
}

/// A line after the first one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Rotation(Rotation),
    Before(PublicKey),
    /// Of all lines before this one.
    Hash(String),
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("identity.key")
}

fn copy_in(state_dir: &Path) -> PathBuf {
    state_dir.join("identity.key.copy")
}

/// What is at a key file's place.
enum Found {
    Nothing,
    /// Something that is no key file, or one that has changed since it was written.
    Damaged,
    /// A key file, and whether its secret could be checked.
    Whole(Box<KeyFile>, bool),
}

/// Reads the key file, or makes a new identity when there is none. `true` says that it was made
/// now.
///
/// A damaged file without a whole copy is an error: a new key would be a new device, which
/// everyone would have to authorize again, and that is for a person to decide.
pub(super) fn load_or_create(state_dir: &Path) -> Result<(KeyFile, bool), StoreError> {
    let (path, copy) = (path_in(state_dir), copy_in(state_dir));
    match (find(&path)?, find(&copy)?) {
        (Found::Nothing, Found::Nothing) => {
            let made = KeyFile {
                identity: fresh()?,
                rotations: Vec::new(),
                before: None,
            };
            made.write(state_dir)?;
            Ok((made, true))
        }
        (Found::Whole(file, true), there) => {
            // A change of the key may have been cut off before its copy was made.
            let same = match &there {
                Found::Whole(copy, true) => copy.text()? == file.text()?,
                _ => false,
            };
            if !same {
                file.write(state_dir)?;
            }
            Ok((*file, false))
        }
        (Found::Whole(file, false), Found::Nothing | Found::Damaged | Found::Whole(_, false)) => {
            file.write(state_dir)?;
            Ok((*file, false))
        }
        (_, Found::Whole(file, _)) => {
            tracing::warn!(
                path = %path.display(),
                "the device's key was damaged or lost; its copy takes its place"
            );
            file.write(state_dir)?;
            Ok((*file, false))
        }
        (Found::Damaged, _) => Err(StoreError::DamagedIdentity { path }),
        (Found::Nothing, Found::Damaged) => Err(StoreError::DamagedIdentity { path: copy }),
    }
}

fn find(path: &Path) -> Result<Found, StoreError> {
    let failed = |source| StoreError::io("read", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(source) => return Err(failed(source)),
    };
    tighten(path, &file)?;
    let mut text = String::new();
    match file.take(MAX_FILE).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Found::Damaged),
        Err(source) => return Err(failed(source)),
    }
    let read = KeyFile::read(&text);
    Ok(read.map_or(Found::Damaged, |(file, checked)| {
        Found::Whole(Box::new(file), checked)
    }))
}

/// A key that nobody has had before.
fn fresh() -> Result<Identity, StoreError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| StoreError::NoRandomness(error.to_string()))?;
    Ok(Identity::from_seed(&seed))
}

impl KeyFile {
    /// What a file says, and whether it ends with its hash; files of earlier versions do not.
    fn read(text: &str) -> Option<(Self, bool)> {
        let mut lines = text.split_inclusive('\n');
        let first = lines.next()?;
        let seed = HEXLOWER_PERMISSIVE.decode(first.trim_end().as_bytes());
        let seed: [u8; 32] = seed.ok()?.try_into().ok()?;
        let mut file = Self {
            identity: Identity::from_seed(&seed),
            rotations: Vec::new(),
            before: None,
        };
        let (mut read, mut checked) = (first.len(), false);
        for line in lines {
            match serde_json::from_str(line).ok()? {
                _ if checked => return None,
                Line::Hash(hash) if hash == hash_of(&text[..read]) => checked = true,
                Line::Hash(_) => return None,
                Line::Rotation(rotation) => file.rotations.push(rotation),
                Line::Before(key) => file.before = Some(key),
            }
            read += line.len();
        }
        if !file.rotations.is_empty() {
            rotation::ids(&file.rotations, &file.identity.device_id()).ok()?;
            rotation::verify(&file.rotations).ok()?;
        }
        Some((file, checked))
    }

    /// What is there once the key has been changed: nothing is on disk yet. With `followed`,
    /// others are shown that this is the same device; else it is another one. `now` is in Unix
    /// seconds.
    pub(super) fn next(&self, followed: bool, now: u64) -> Result<Self, StoreError> {
        let identity = fresh()?;
        let mut rotations = Vec::new();
        if followed {
            rotations.clone_from(&self.rotations);
            rotations.push(Rotation::sign(&self.identity, &identity, now));
            rotations.drain(..rotations.len().saturating_sub(MAX_CHAIN));
        }
        Ok(Self {
            identity,
            rotations,
            before: Some(self.identity.public_key()),
        })
    }

    /// Puts this in the place of what is on disk; the secret that was there is gone then.
    pub(super) fn write(&self, state_dir: &Path) -> Result<(), StoreError> {
        let text = self.text()?;
        for path in [path_in(state_dir), copy_in(state_dir)] {
            write_atomically(&path, text.as_bytes())
                .map_err(|source| StoreError::io("write", &path, source))?;
        }
        Ok(())
    }

    fn text(&self) -> Result<String, StoreError> {
        let mut text = format!("{}\n", HEXLOWER.encode(&self.identity.seed()));
        let rotations = self.rotations.iter().cloned().map(Line::Rotation);
        for line in rotations.chain(self.before.map(Line::Before)) {
            put_line(&mut text, &line)?;
        }
        let hash = Line::Hash(hash_of(&text));
        put_line(&mut text, &hash)?;
        Ok(text)
    }

    /// The keys whose signatures on this device's own decisions count.
    pub(super) fn signers(&self) -> Vec<PublicKey> {
        let ours = self.identity.public_key();
        std::iter::once(ours).chain(self.before).collect()
    }
}

fn hash_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn put_line(text: &mut String, line: &Line) -> Result<(), StoreError> {
    let failed = |error: serde_json::Error| {
        StoreError::io("write", Path::new("the device's key"), error.into())
    };
    *text += &serde_json::to_string(line).map_err(failed)?;
    text.push('\n');
    Ok(())
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
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next().map(str::len), Some(64));
        assert_eq!(fs::read_to_string(copy_in(dir.path())).unwrap(), text);
        let mode = fs::metadata(copy_in(dir.path())).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let (read, new) = load_or_create(dir.path()).unwrap();
        assert!(!new);
        assert_eq!(read.identity.device_id(), made.identity.device_id());
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
    fn a_changed_key_carries_its_last_changes_and_a_new_one_carries_none() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = load_or_create(dir.path()).unwrap();
        let mut ids = vec![file.identity.device_id()];
        for now in 0..6 {
            file = file.next(true, now).unwrap();
            file.write(dir.path()).unwrap();
            ids.push(file.identity.device_id());
            let (read, new) = load_or_create(dir.path()).unwrap();
            assert!(!new);
            assert_eq!(read.rotations, file.rotations);
            assert_eq!(read.before, file.before);
            assert_eq!(read.identity.device_id(), ids[ids.len() - 1]);
        }
        assert_eq!(file.rotations.len(), MAX_CHAIN);
        let led = rotation::ids(&file.rotations, &ids[6]);
        assert_eq!(led, Ok(ids[2..].to_vec()));
        let length = fs::metadata(path_in(dir.path())).unwrap().len();
        assert!(length < MAX_FILE / 2, "{length}");
        let mode = fs::metadata(path_in(dir.path())).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);

        let other = file.next(false, 9).unwrap();
        other.write(dir.path()).unwrap();
        let (read, _) = load_or_create(dir.path()).unwrap();
        assert!(read.rotations.is_empty() && !ids.contains(&read.identity.device_id()));
    }

    #[test]
    fn a_key_file_with_changes_that_lead_elsewhere_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = load_or_create(dir.path()).unwrap();
        let changed = file.next(true, 1).unwrap();
        let mut forged = changed.clone();
        forged.rotations[0].issued = 2;
        let elsewhere = KeyFile {
            rotations: changed.rotations.clone(),
            ..file
        };
        for bad in [forged, elsewhere] {
            bad.write(dir.path()).unwrap(); // The copy, too.
            let refused = load_or_create(dir.path());
            assert!(matches!(refused, Err(StoreError::DamagedIdentity { .. })));
        }
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

    #[test]
    fn a_key_file_that_has_changed_anywhere_is_not_believed_and_its_copy_is() {
        let dir = tempfile::tempdir().unwrap();
        let (made, _) = load_or_create(dir.path()).unwrap();
        let changed = made.next(true, 1).unwrap();
        changed.write(dir.path()).unwrap();
        let whole = changed.text().unwrap();
        let believed = |bytes: &[u8]| {
            let read = str::from_utf8(bytes).ok().and_then(KeyFile::read);
            read.is_some_and(|(_, checked)| checked)
        };
        assert!(believed(whole.as_bytes()));
        for at in 0..whole.len() - 1 {
            for bit in 0..8 {
                let mut bytes = whole.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(!believed(&bytes), "byte {at}, bit {bit}");
            }
            assert!(!believed(&whole.as_bytes()[..at]), "cut to {at} bytes");
        }
        for path in [path_in(dir.path()), copy_in(dir.path())] {
            for length in [0, 30, 64, 65, 200, whole.len() / 2] {
                fs::write(&path, &whole[..length]).unwrap();
                let (read, new) = load_or_create(dir.path()).unwrap();
                assert!(!new && read.text().unwrap() == whole, "cut to {length}");
            }
        }
    }

    #[test]
    fn a_lost_key_file_comes_back_and_one_of_an_earlier_version_gets_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (made, _) = load_or_create(dir.path()).unwrap();
        fs::remove_file(path_in(dir.path())).unwrap();
        let (read, new) = load_or_create(dir.path()).unwrap();
        assert!(!new);
        assert_eq!(read.identity.device_id(), made.identity.device_id());

        fs::remove_file(copy_in(dir.path())).unwrap();
        let seed = HEXLOWER.encode(&made.identity.seed());
        fs::write(path_in(dir.path()), format!("{seed}\n")).unwrap();
        load_or_create(dir.path()).unwrap();
        for path in [path_in(dir.path()), copy_in(dir.path())] {
            assert_eq!(fs::read_to_string(path).unwrap(), made.text().unwrap());
        }
    }

    #[test]
    fn after_a_change_that_was_cut_off_before_its_copy_the_new_key_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (made, _) = load_or_create(dir.path()).unwrap();
        let old = fs::read(copy_in(dir.path())).unwrap();
        let changed = made.next(true, 1).unwrap();
        changed.write(dir.path()).unwrap();
        fs::write(copy_in(dir.path()), old).unwrap();
        for _ in 0..2 {
            let (read, _) = load_or_create(dir.path()).unwrap();
            assert_eq!(read.identity.device_id(), changed.identity.device_id());
            // The second time from the copy.
            fs::write(path_in(dir.path()), "").unwrap();
        }
    }
}
