//! Identifiers: devices, transfers, bundles.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty, too long, or has characters outside the alphabet.
    #[error("{what} must be {expected}, not {got:?}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What it looks like.
        expected: &'static str,
        /// What came, cut to 80 characters.
        got: String,
    },
}

fn malformed(what: &'static str, expected: &'static str, got: &str) -> IdError {
    IdError::Malformed {
        what,
        expected,
        got: got.chars().take(80).collect(),
    }
}

/// The name of a device on the wire: a hash of its public key (PROTOCOL.md §1), or, for plain
/// clients without a key, whatever they call themselves (§11).
///
/// Always 1 to 64 characters of `A-Z a-z 0-9 _ -`, so it can go into a DNS label, a file name
/// or a log line as it is. The order is that of ASCII, which decides who offers in `lower-id`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// The id that belongs to an Ed25519 public key.
    pub fn of_key(public_key: &[u8; 32]) -> Self {
        let hash = Sha256::new()
            .chain_update(b"handout device 1")
            .chain_update(public_key);
        Self(
            BASE32_NOPAD
                .encode(&hash.finalize()[..20])
                .to_ascii_lowercase(),
        )
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight characters, for tables and bars.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(8)]
    }

    /// True when the id has the form of a key's hash. False for plain clients.
    pub fn is_self_certifying(&self) -> bool {
        self.0.len() == 32
            && self
                .0
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
    }
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        let fits = (1..=64).contains(&s.len())
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits {
            Ok(Self(s.to_owned()))
        } else {
            Err(malformed(
                "a device id",
                "1 to 64 characters of A-Z a-z 0-9 _ -",
                s,
            ))
        }
    }
}

impl TryFrom<String> for DeviceId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> String {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                HEXLOWER
                    .decode(s.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| malformed($what, $expected, s))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                HEXLOWER.encode(&id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }
    };
}

hex_id!(
    /// One broadcast: a bundle to a set of devices. Random.
    BroadcastId, 16, "a broadcast id", "32 hex digits"
);
hex_id!(
    /// One broadcast to one device. Random, and stable over reconnects and restarts.
    TransferId, 16, "a transfer id", "32 hex digits"
);
hex_id!(
    /// BLAKE3 of a bundle's head (PROTOCOL.md §7).
    BundleId, 32, "a bundle id", "64 hex digits"
);
hex_id!(
    /// BLAKE3 over the head and all pages (PROTOCOL.md §7): names the whole content.
    Root, 32, "a root", "64 hex digits"
);
hex_id!(
    /// One invite: a hash of its secret (PROTOCOL.md §13), which it does not tell.
    InviteId, 8, "an invite id", "16 hex digits"
);
hex_id!(
    /// One start of a device's program. Random; tells two machines with one key apart.
    RunId, 8, "the number of a run", "16 hex digits"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_is_a_hash_of_its_key_and_fits_a_dns_label() {
        let id = DeviceId::of_key(&[7; 32]);
        assert!(id.is_self_certifying());
        assert!(format!("Peer-{id}").len() <= 63);
        assert_ne!(id, DeviceId::of_key(&[8; 32]));
        assert_eq!(id, id.as_str().parse().unwrap());
    }

    #[test]
    fn ids_with_paths_escapes_or_wrong_lengths_are_refused() {
        for bad in ["", "a/b", "..", "a b", "\u{1b}[2J", "é", &"x".repeat(65)] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?}");
        }
        assert!("AB".repeat(16).parse::<TransferId>().is_err());
        assert!("ab".repeat(16).parse::<TransferId>().is_ok());
        assert!("ab".repeat(15).parse::<TransferId>().is_err());
    }
}
