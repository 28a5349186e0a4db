//! The messages of a device's socket, and how a device proves on it who it is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::id::DeviceId;
use super::super::identity::{Identity, KeyError, PublicKey, Signature};
use super::IceServers;

/// What a device says on its socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum DeviceSays {
    /// Who it is, after the challenge.
    Hello(Hello),
    /// Whose coming and going it wants to know, instead of the list before.
    Watch {
        /// At most [`super::MAX_WATCHED`].
        device_ids: Vec<DeviceId>,
    },
    /// A signal for another device.
    Signal {
        /// For whom.
        to: DeviceId,
        /// A signaling message (PROTOCOL.md §3), which the rendezvous does not look into.
        signal: Value,
    },
}

/// A device proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its id.
    pub device_id: DeviceId,
    /// Its public key.
    pub key: PublicKey,
    /// Its name for people.
    pub name: String,
    /// Over the purpose, the nonce and the id (PROTOCOL.md §17).
    pub signature: Signature,
}

/// Why a hello proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The id is not that of the key.
    #[error("the device id does not belong to the key")]
    ForeignId,
    /// The signature is wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Hello {
    /// What is signed: a purpose, the server's nonce, the device's id.
    fn statement(nonce: &[u8; 32], device_id: &DeviceId) -> Vec<u8> {
        let mut said = b"handout rendezvous hello 1\n".to_vec();
        said.extend_from_slice(nonce);
        said.extend_from_slice(device_id.as_str().as_bytes());
        said
    }

    /// The answer of a device to a challenge.
    pub fn new(identity: &Identity, name: &str, nonce: &[u8; 32]) -> Self {
        let device_id = identity.device_id();
        Self {
            key: identity.public_key(),
            name: name.to_owned(),
            signature: identity.sign(&Self::statement(nonce, &device_id)),
            device_id,
        }
    }

    /// Checks that it answers this challenge, by the key that the id belongs to.
    pub fn check(&self, nonce: &[u8; 32]) -> Result<(), HelloError> {
        if self.key.device_id() != self.device_id {
            return Err(HelloError::ForeignId);
        }
        let said = Self::statement(nonce, &self.device_id);
        Ok(self.key.verify(&said, &self.signature)?)
    }
}

/// What a rendezvous says on a device's socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerSays {
    /// The first message: prove who you are.
    Challenge {
        /// 64 hex digits.
        nonce: Nonce,
    },
    /// The proof is taken.
    Welcome(IceServers),
    /// These of the watched devices are there now.
    Present {
        /// Which.
        device_ids: Vec<DeviceId>,
    },
    /// These of them are not, or no longer.
    Absent {
        /// Which.
        device_ids: Vec<DeviceId>,
    },
    /// A signal of another device, which has proven its id to the rendezvous.
    Signal {
        /// Whose.
        from: DeviceId,
        /// What that device sent.
        signal: Value,
    },
    /// A signal could not be given to this device.
    Undeliverable {
        /// Whom it was for.
        to: DeviceId,
    },
    /// A rule was broken; where it is a grave one, the end of the socket follows.
    Error {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// On a relayed link, before anything else: the other one is there.
    Joined,
}

/// 32 random bytes, as hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub [u8; 32]);

impl TryFrom<String> for Nonce {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a nonce must have 64 hex digits")
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        data_encoding::HEXLOWER.encode(&nonce.0)
    }
}
