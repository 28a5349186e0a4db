//! Rosters: the devices of a group, signed by an admin (PROTOCOL.md §14). A file of one JSON
//! object, `{"roster": "<JSON text>", "key": "<b64>", "sig": "<b64>"}`, where the signature is over
//! `statement("handout/roster/1", the bytes of the text)`: nothing is serialised again in order
//! to be verified.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::id::DeviceId;
use super::identity::{Identity, KeyError, PublicKey, Signature, statement};
use super::peers::{MAX_NAME, display_name};
use super::roles::Roles;
use super::trust::{BadGroupName, check_group_name};

/// Longest roster file, in bytes.
pub const MAX_ROSTER: usize = 256 * 1024;
/// Most devices in a roster.
pub const MAX_DEVICES: usize = 1000;
/// Longest note of the admin, in bytes.
pub const MAX_NOTE: usize = 256;
/// Highest version: what every JSON reader can hold.
pub const MAX_VERSION: u64 = (1 << 53) - 1;
const PURPOSE: &str = "handout/roster/1";

/// One device of a roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The device.
    pub id: DeviceId,
    /// Its name for people; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it may do; `None` for what the roster says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Roles>,
}

/// A roster before it is signed: what a person may look at and edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// The group.
    pub group: String,
    /// A word of the admin; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What its devices may do; `None` for what each device's entry says, and else everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Roles>,
    /// The devices.
    pub devices: Vec<Member>,
}

/// What the admin adds by signing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Counts up with every roster of this admin for this group.
    pub version: u64,
    /// When it was signed, in Unix seconds.
    pub issued: u64,
    /// When it ends, in Unix seconds.
    pub expires: u64,
}

/// What gets signed, as JSON text.
#[derive(Serialize, Deserialize)]
struct Body {
    v: u32,
    #[serde(flatten)]
    terms: Terms,
    #[serde(flatten)]
    draft: Draft,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    roster: String,
    key: PublicKey,
    sig: Signature,
}

/// A roster whose signature is good. Whether its admin counts here, and whether it is the newest,
/// is for [`super::trust::TrustBook::admit`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// Who signed it.
    pub admin: DeviceId,
    /// The group.
    pub group: String,
    /// Version and times.
    pub terms: Terms,
    /// A word of the admin; may be empty.
    pub note: String,
    /// Its devices, with their roles: their own, else the roster's.
    pub members: BTreeMap<DeviceId, Member>,
    /// SHA-256 of what was signed.
    pub digest: [u8; 32],
    file: Vec<u8>,
}

/// Why a roster is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Too long.
    #[error("the roster has {0} bytes, at most {MAX_ROSTER} are read")]
    TooLong(usize),
    /// Not the JSON that it should be.
    #[error(
        "this is not a roster (line {line}, column {column}); `handout group {wanted}` makes one"
    )]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The verb that makes what is wanted.
        wanted: &'static str,
    },
    /// The signature does not fit.
    #[error("the roster was changed after it was signed, or is a forgery: {0}")]
    BadSignature(#[from] KeyError),
    /// Another version of the format.
    #[error("the roster has format {0}, this version reads 1: update this program")]
    Format(u32),
    /// The name of the group cannot be used.
    #[error(transparent)]
    Group(#[from] BadGroupName),
    /// Too many devices.
    #[error("the roster names {0} devices, at most {MAX_DEVICES} are taken")]
    TooManyDevices(usize),
    /// An id that no device can prove.
    #[error("the roster names {0}, which is no id that a device can prove")]
    BadDevice(DeviceId),
    /// A device stands there twice.
    #[error("the roster names {0} twice")]
    Twice(DeviceId),
    /// The note or a name is too long, or not harmless.
    #[error("{0} in the roster is too long or has control characters")]
    BadText(&'static str),
    /// It ends before it begins, or its version is out of range.
    #[error("the roster's version and times make no sense")]
    BadTerms,
    /// Nobody here has named its admin.
    #[error(
        "the roster is signed by {admin}, whom nobody has named as the admin of {group:?} here: \
         compare that id with the admin's `handout id`, and repeat with --admin {admin}"
    )]
    UnknownAdmin {
        /// Who signed it.
        admin: DeviceId,
        /// For which group.
        group: String,
    },
    /// The person named another admin.
    #[error("the roster is signed by {actual}, not by {named}")]
    OtherAdmin {
        /// Whom the person named.
        named: DeviceId,
        /// Who signed it.
        actual: DeviceId,
    },
    /// Over.
    #[error("the roster expired {0} s ago: ask its admin for a newer one")]
    Expired(u64),
    /// Not begun yet.
    #[error("the roster was signed {0} s ahead of our clock: check the clocks of both devices")]
    FromTheFuture(u64),
    /// There was a newer one.
    #[error("the roster has version {version}, but version {seen} was here: take the newest")]
    RolledBack {
        /// Its version.
        version: u64,
        /// The highest that was taken.
        seen: u64,
    },
    /// Two rosters with one version.
    #[error(
        "another roster with the same version {0} was here: its admin must sign again, with a \
         higher version"
    )]
    Forked(u64),
}

impl Draft {
    /// Reads what `handout group export` prints, and a person may have edited.
    ///
    /// # Errors
    /// Everything that [`Roster::read`] would refuse in a signed one, too.
    pub fn read(bytes: &[u8]) -> Result<Self, RosterError> {
        let draft: Self = parse(bytes, "export")?;
        draft.check()?;
        Ok(draft)
    }

    /// As text that a person can edit.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and lists are always valid JSON")
    }

    fn check(&self) -> Result<(), RosterError> {
        check_group_name(&self.group)?;
        if self.note.len() > MAX_NOTE || self.note.chars().any(char::is_control) {
            return Err(RosterError::BadText("the note"));
        }
        if self.devices.len() > MAX_DEVICES {
            return Err(RosterError::TooManyDevices(self.devices.len()));
        }
        for member in &self.devices {
            if !member.id.is_self_certifying() {
                return Err(RosterError::BadDevice(member.id.clone()));
            }
            if member.name.len() > MAX_NAME || display_name(&member.name) != member.name {
                return Err(RosterError::BadText("a name"));
            }
        }
        Ok(())
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], wanted: &'static str) -> Result<T, RosterError> {
    if bytes.len() > MAX_ROSTER {
        return Err(RosterError::TooLong(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|error| RosterError::Malformed {
        line: error.line(),
        column: error.column(),
        wanted,
    })
}

impl Roster {
    /// Signs a draft as its admin.
    ///
    /// # Errors
    /// What [`Roster::read`] would say about the result.
    pub fn sign(draft: Draft, terms: Terms, admin: &Identity) -> Result<Self, RosterError> {
        let body = Body { v: 1, terms, draft };
        let roster = serde_json::to_string(&body).expect("texts and lists are always valid JSON");
        let sig = admin.sign(&statement(PURPOSE, &[roster.as_bytes()]));
        let key = admin.public_key();
        let mut file = serde_json::to_vec(&Envelope { roster, key, sig })
            .expect("three texts are always valid JSON");
        file.push(b'\n');
        Self::read(&file)
    }

    /// Reads a signed roster and checks its signature, its bounds and its names.
    ///
    /// # Errors
    /// See [`RosterError`]; their texts hold nothing that a terminal could act on.
    pub fn read(bytes: &[u8]) -> Result<Self, RosterError> {
        let envelope: Envelope = parse(bytes, "sign")?;
        let text = envelope.roster.as_bytes();
        envelope
            .key
            .verify(&statement(PURPOSE, &[text]), &envelope.sig)?;
        let Body { v, terms, draft } = parse(text, "sign")?;
        if v != 1 {
            return Err(RosterError::Format(v));
        }
        draft.check()?;
        if terms.issued >= terms.expires || !(1..=MAX_VERSION).contains(&terms.version) {
            return Err(RosterError::BadTerms);
        }
        let mut members = BTreeMap::new();
        for mut member in draft.devices {
            member.roles = member.roles.or(draft.roles);
            if let Some(twice) = members.insert(member.id.clone(), member) {
                return Err(RosterError::Twice(twice.id));
            }
        }
        Ok(Self {
            admin: envelope.key.device_id(),
            group: draft.group,
            terms,
            note: draft.note,
            members,
            digest: Sha256::digest(text).into(),
            file: bytes.to_vec(),
        })
    }

    /// The signed file, as it was read.
    pub fn as_bytes(&self) -> &[u8] {
        &self.file
    }

    /// True until it expires. `now` is in Unix seconds.
    pub fn is_valid_at(&self, now: u64) -> bool {
        now < self.terms.expires
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
