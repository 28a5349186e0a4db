//! Keys, statements and signatures (PROTOCOL.md, notation and §1).

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::id::DeviceId;

/// The bytes that get signed for a purpose and its fields: each length-prefixed, so that no two
/// different lists of fields give the same bytes.
pub fn statement(purpose: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + fields.iter().map(|f| f.len() + 4).sum::<usize>());
    for field in std::iter::once(purpose.as_bytes()).chain(fields.iter().copied()) {
        out.extend_from_slice(&(field.len() as u32).to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// Why key material or a signature was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes, or not a point on the curve.
    #[error("not an Ed25519 public key")]
    BadKey,
    /// Not 64 bytes.
    #[error("not an Ed25519 signature")]
    BadSignature,
    /// The signature does not belong to this key and statement.
    #[error("the signature does not fit the key and the statement")]
    Mismatch,
}

/// An Ed25519 public key: a device's identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes 32 bytes that are a valid point.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError::BadKey)?;
        VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::BadKey)?;
        Ok(Self(bytes))
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The device id that this key certifies.
    pub fn device_id(&self) -> DeviceId {
        DeviceId::of_key(&self.0)
    }

    /// Checks `signature` over `statement` (RFC 8032, with the strict checks against weak keys).
    pub fn verify(&self, statement: &[u8], signature: &Signature) -> Result<(), KeyError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| KeyError::BadKey)?;
        key.verify_strict(
            statement,
            &ed25519_dalek::Signature::from_bytes(&signature.0),
        )
        .map_err(|_| KeyError::Mismatch)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;
    fn try_from(s: String) -> Result<Self, KeyError> {
        Self::from_bytes(&unb64(&s).ok_or(KeyError::BadKey)?)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        b64(&key.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&b64(&self.0))
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// Takes 64 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| KeyError::BadSignature)
    }
}

impl TryFrom<String> for Signature {
    type Error = KeyError;
    fn try_from(s: String) -> Result<Self, KeyError> {
        Self::from_bytes(&unb64(&s).ok_or(KeyError::BadSignature)?)
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> String {
        b64(&signature.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&b64(&self.0))
    }
}

/// A device's key pair. Never printed; zeroed when dropped.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// The identity of a 32-byte secret seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            key: SigningKey::from_bytes(seed),
        }
    }

    /// The secret seed, for the key file alone.
    pub fn seed(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    /// The id that others know us by.
    pub fn device_id(&self) -> DeviceId {
        self.public_key().device_id()
    }

    /// Signs a [`statement`].
    pub fn sign(&self, statement: &[u8]) -> Signature {
        Signature(self.key.sign(statement).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.device_id())
    }
}

/// base64url without padding, as everywhere on the wire.
pub fn b64(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// The reverse of [`b64`]; `None` for anything else.
pub fn unb64(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_and_statement_only() {
        let (a, b) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let said = statement("handout/test/1", &[b"x", b"y"]);
        let signature = a.sign(&said);
        assert_eq!(a.public_key().verify(&said, &signature), Ok(()));
        assert_eq!(
            b.public_key().verify(&said, &signature),
            Err(KeyError::Mismatch)
        );
        let other = statement("handout/test/1", &[b"xy", b""]);
        assert_eq!(
            a.public_key().verify(&other, &signature),
            Err(KeyError::Mismatch)
        );
    }

    #[test]
    fn the_secret_never_shows_in_debug_output() {
        let identity = Identity::from_seed(&[0x5a; 32]);
        assert_eq!(
            format!("{identity:?}"),
            format!("Identity({})", identity.device_id())
        );
    }
}
