//! The token that requests must show.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of randomness in a new token.
const RANDOM: usize = 32;
/// Shortest token that is taken, in bytes.
const SHORTEST: usize = 16;
/// Bytes that are read of its file.
const MOST: u64 = 4096;

/// The token in a file, which is made where it is missing. An error says what is wrong, and what
/// to do.
pub(super) fn load_or_create(path: &Path) -> Result<String, String> {
    match OpenOptions::new().read(true).open(path) {
        Ok(mut file) => {
            let mode = file.metadata().map_err(|error| error.to_string())?.mode();
            // The group may read it: service managers hand out secrets like that.
            if mode & 0o027 != 0 {
                return Err(format!(
                    "others may use it (mode {:03o}); run `chmod 600` on it, or remove it to get \
                     a new one",
                    mode & 0o777
                ));
            }
            let mut text = String::new();
            let read = (&mut file).take(MOST).read_to_string(&mut text);
            read.map_err(|error| error.to_string())?;
            let token = text.lines().next().unwrap_or_default().trim();
            let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
            if token.len() < SHORTEST || !plain {
                return Err(format!(
                    "its first line must have at least {SHORTEST} letters, digits or signs; \
                     remove the file to get a new one"
                ));
            }
            Ok(token.to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path).map_err(|error| format!("it cannot be made: {error}"))
        }
        Err(error) => Err(format!("it cannot be read: {error}")),
    }
}

fn create(path: &Path) -> io::Result<String> {
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let token = data_encoding::BASE32_NOPAD.encode(&random).to_lowercase();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.token");
        let token = load_or_create(&path).unwrap();
        assert!(token.len() >= 50, "{token}");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(load_or_create(&path), Ok(token.clone()));
        std::fs::remove_file(&path).unwrap();
        assert_ne!(load_or_create(&path), Ok(token));
    }

    #[test]
    fn a_token_that_others_may_read_or_that_can_be_guessed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.token");
        let with = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            load_or_create(&path)
        };
        let good = "0123456789abcdef";
        assert_eq!(with(&format!("{good}\nmore\n"), 0o600), Ok(good.to_owned()));
        assert_eq!(with(good, 0o440), Ok(good.to_owned()));
        for mode in [0o604, 0o644, 0o620, 0o602] {
            assert!(
                with(good, mode).unwrap_err().contains("chmod 600"),
                "{mode:o}"
            );
        }
        for bad in [
            "",
            "\n",
            "short",
            "0123456789abcde",
            "0123456789 abcdef",
            "\u{1b}[2J0123456789abcdef",
        ] {
            assert!(with(bad, 0o600).is_err(), "{bad:?}");
        }
    }
}
