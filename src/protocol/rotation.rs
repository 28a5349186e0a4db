//! A device that changes its key, and keeps what others decided about it (PROTOCOL.md §15).

use serde::{Deserialize, Serialize};

use super::id::DeviceId;
use super::identity::{Identity, KeyError, PublicKey, Signature, statement};

/// Most changes that a device shows, and that are looked at.
pub const MAX_CHAIN: usize = 4;
/// Longest chain as text, in bytes: one change takes about 400.
pub const MAX_TEXT: usize = 4096;
const PURPOSE: &str = "handout/rotation/1";

/// One change of key, which both keys have signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The key before.
    pub old: PublicKey,
    /// The key after.
    pub new: PublicKey,
    /// When, in Unix seconds.
    pub issued: u64,
    /// By the key before.
    pub old_sig: Signature,
    /// By the key after.
    pub new_sig: Signature,
}

/// Why a chain of changes is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not the text of a chain.
    #[error("it cannot be read")]
    Unreadable,
    /// None, or too many.
    #[error("it has {0} links, 1 to {MAX_CHAIN} are looked at")]
    Length(usize),
    /// Its links do not lead from key to key and to this device.
    #[error("its links do not lead to the device that shows them")]
    Broken,
    /// A signature does not fit.
    #[error(transparent)]
    Signature(#[from] KeyError),
}

impl Rotation {
    /// Signs a change with both keys. `issued` is in Unix seconds.
    pub fn sign(old: &Identity, new: &Identity, issued: u64) -> Self {
        let (old_key, new_key) = (old.public_key(), new.public_key());
        let said = signed(&old_key, &new_key, issued);
        Self {
            old: old_key,
            new: new_key,
            issued,
            old_sig: old.sign(&said),
            new_sig: new.sign(&said),
        }
    }

    fn verify(&self) -> Result<(), KeyError> {
        let said = signed(&self.old, &self.new, self.issued);
        self.old.verify(&said, &self.old_sig)?;
        self.new.verify(&said, &self.new_sig)
    }
}

fn signed(old: &PublicKey, new: &PublicKey, issued: u64) -> Vec<u8> {
    let issued = issued.to_be_bytes();
    statement(PURPOSE, &[old.as_bytes(), new.as_bytes(), &issued])
}

/// A chain as text, for signaling.
pub fn encode(chain: &[Rotation]) -> String {
    serde_json::to_string(chain).expect("changes hold nothing that JSON cannot say")
}

/// Reads the text of a chain. Nothing of it is checked but its length.
///
/// # Errors
/// [`ChainError::Unreadable`] and [`ChainError::Length`].
pub fn decode(text: &str) -> Result<Vec<Rotation>, ChainError> {
    if text.len() > MAX_TEXT {
        return Err(ChainError::Unreadable);
    }
    let chain: Vec<Rotation> = serde_json::from_str(text).map_err(|_| ChainError::Unreadable)?;
    let fits = (1..=MAX_CHAIN).contains(&chain.len());
    fits.then_some(())
        .ok_or(ChainError::Length(chain.len()))
        .map(|()| chain)
}

/// The ids that a chain leads through, oldest first, `device` last. Cheap: the signatures are for
/// [`verify`], once one of the ids turns out to matter.
///
/// # Errors
/// [`ChainError`] where it does not lead to `device`.
pub fn ids(chain: &[Rotation], device: &DeviceId) -> Result<Vec<DeviceId>, ChainError> {
    if !(1..=MAX_CHAIN).contains(&chain.len()) {
        return Err(ChainError::Length(chain.len()));
    }
    let joined = chain.windows(2).all(|pair| pair[0].new == pair[1].old);
    let mut ids: Vec<_> = chain.iter().map(|link| link.old.device_id()).collect();
    ids.extend(chain.last().map(|link| link.new.device_id()));
    let circle = ids
        .iter()
        .enumerate()
        .any(|(at, id)| ids[..at].contains(id));
    if !joined || circle || ids.last() != Some(device) {
        return Err(ChainError::Broken);
    }
    Ok(ids)
}

/// Checks the signatures of a chain.
///
/// # Errors
/// [`ChainError::Signature`] for the first that does not fit.
pub fn verify(chain: &[Rotation]) -> Result<(), ChainError> {
    chain
        .iter()
        .try_for_each(Rotation::verify)
        .map_err(ChainError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: u8) -> Identity {
        Identity::from_seed(&[n; 32])
    }

    fn link(old: u8, new: u8) -> Rotation {
        Rotation::sign(&identity(old), &identity(new), 1000)
    }

    #[test]
    fn a_chain_leads_from_the_first_id_to_the_last() {
        let chain = [link(1, 2), link(2, 3)];
        let expected = [1, 2, 3].map(|n| identity(n).device_id());
        assert_eq!(ids(&chain, &expected[2]), Ok(expected.to_vec()));
        assert_eq!(verify(&chain), Ok(()));
    }

    #[test]
    fn a_chain_survives_the_wire_and_other_texts_are_refused() {
        let chain: Vec<_> = (1..=4).map(|n| link(n, n + 1)).collect();
        let text = encode(&chain);
        assert!(text.len() < MAX_TEXT / 2, "{}", text.len());
        assert_eq!(decode(&text), Ok(chain.clone()));
        let five: Vec<_> = (1..=5).map(|n| link(n, n + 1)).collect();
        assert_eq!(decode(&encode(&five)), Err(ChainError::Length(5)));
        assert_eq!(decode("[]"), Err(ChainError::Length(0)));
        let padded = format!("{text}{}", " ".repeat(MAX_TEXT));
        for bad in ["", "{}", "[1]", &text[1..], &padded, &"[".repeat(4000)] {
            assert_eq!(decode(bad), Err(ChainError::Unreadable));
        }
    }

    #[test]
    fn a_change_that_one_of_the_keys_has_not_signed_is_refused() {
        let good = link(1, 2);
        let by_thief = Rotation {
            old_sig: link(3, 2).old_sig,
            ..good.clone()
        };
        let without_consent = Rotation {
            new_sig: link(1, 3).new_sig,
            ..good.clone()
        };
        let redated = Rotation {
            issued: 1001,
            ..good.clone()
        };
        for bad in [by_thief, without_consent, redated] {
            let refused = verify(&[good.clone(), bad]);
            assert_eq!(refused, Err(ChainError::Signature(KeyError::Mismatch)));
        }
    }

    #[test]
    fn a_chain_that_is_empty_long_broken_or_of_another_device_is_refused() {
        let id = |n: u8| identity(n).device_id();
        assert_eq!(ids(&[], &id(1)), Err(ChainError::Length(0)));
        let long: Vec<_> = (1..=5).map(|n| link(n, n + 1)).collect();
        assert_eq!(ids(&long, &id(6)), Err(ChainError::Length(5)));
        assert!(ids(&long[..4], &id(5)).is_ok());
        let torn = [link(1, 2), link(3, 4)];
        assert_eq!(ids(&torn, &id(4)), Err(ChainError::Broken));
        assert_eq!(ids(&[link(1, 2)], &id(3)), Err(ChainError::Broken));
        let circle = [link(1, 2), link(2, 1)];
        assert_eq!(ids(&circle, &id(1)), Err(ChainError::Broken));
    }
}
