//! Invites: a secret that lets so many devices in until a certain time, as a token that fits a
//! URL and a QR code (PROTOCOL.md §13).
//!
//! ```text
//! version u8 = 1 ‖ issuer's id (20 bytes) ‖ secret (16) ‖ expires u32 ‖ number of addresses u8 ‖
//! each: 4 ‖ IPv4 (4) ‖ port u16, or 6 ‖ IPv6 (16) ‖ port u16 ‖ checksum (4)
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::handshake::Binding;
use super::id::{DeviceId, InviteId};
use super::identity::{b64, statement, unb64};
use super::message::Code;
use super::roles::Roles;

/// Addresses in a token.
pub const MAX_ADDRESSES: usize = 8;
/// Uses of one invite.
pub const MAX_USES: u32 = 1000;
/// Characters of a token or URL; more are not looked at.
pub const MAX_TEXT: usize = 1024;
/// How long it is remembered that an invite has ended, in seconds: whoever holds it is told so.
pub const REMEMBERED: u64 = 24 * 3600;

const VERSION: u8 = 1;
const URL: &str = "handout://join/";

/// What lets in: 16 random bytes. Never printed but as part of a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret([u8; 16]);

impl Secret {
    /// From fresh random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// From a text that somebody keeps, such as a credential.
    pub fn of_text(text: &str) -> Self {
        let hash = Sha256::digest(statement("handout/kiosk-secret/1", &[text.as_bytes()]));
        let mut secret = [0; 16];
        secret.copy_from_slice(&hash[..16]);
        Self(secret)
    }

    /// Which invite it belongs to; tells nothing about the secret.
    pub fn id(&self) -> InviteId {
        let hash = Sha256::digest(statement("handout/invite-id/1", &[&self.0]));
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        InviteId(id)
    }

    /// That the joining device knows the secret, on this connection.
    pub fn join_mac(&self, binding: &Binding, joiner: &DeviceId, issuer: &DeviceId) -> [u8; 32] {
        self.mac("join", binding, joiner, issuer, b"")
    }

    /// That the issuer knows it, and has let the joiner into `group`.
    pub fn accepted_mac(
        &self,
        binding: &Binding,
        joiner: &DeviceId,
        issuer: &DeviceId,
        group: Option<&str>,
    ) -> [u8; 32] {
        let group = group.unwrap_or_default();
        self.mac("accepted", binding, joiner, issuer, group.as_bytes())
    }

    fn mac(
        &self,
        word: &str,
        binding: &Binding,
        joiner: &DeviceId,
        issuer: &DeviceId,
        group: &[u8],
    ) -> [u8; 32] {
        let key = Sha256::digest(statement("handout/invite-key/1", &[&self.0]));
        let said = statement(
            "handout/invite/1",
            &[
                word.as_bytes(),
                binding,
                joiner.as_str().as_bytes(),
                issuer.as_str().as_bytes(),
                group,
            ],
        );
        blake3::keyed_hash(&key.into(), &said).into()
    }
}

/// True when a text is b64 of these bytes. Takes the same time whatever it is.
pub fn is_mac(text: &str, expected: [u8; 32]) -> bool {
    let bytes = unb64(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.is_some_and(|bytes| blake3::Hash::from(expected) == bytes)
}

impl TryFrom<String> for Secret {
    type Error = TokenError;
    fn try_from(text: String) -> Result<Self, TokenError> {
        let bytes = unb64(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(TokenError::NotAToken)
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> String {
        b64(&secret.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret of {}", self.id())
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Who lets in.
    pub issuer: DeviceId,
    /// What lets in.
    pub secret: Secret,
    /// When it ends, in Unix seconds of the issuer's clock; for people, since the issuer checks it.
    pub expires: u32,
    /// Where the issuer listens, as far as it knew; at most [`MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
}

/// Why a text is no invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Other characters, or too many or too few of them.
    #[error(
        "that is not an invite: it is a long word of a-z and 2-7, or a URL that begins with \
         handout://join/; copy all of it"
    )]
    NotAToken,
    /// The checksum does not fit.
    #[error("the invite has a typing error, or a part of it is missing: copy all of it again")]
    Typo,
    /// Made by a later version of this program.
    #[error("the invite has version {0}, this program knows {VERSION}: update it")]
    Version(u8),
    /// The checksum fits, the content makes no sense.
    #[error("the invite makes no sense: ask for a new one")]
    Malformed,
}

impl Invite {
    /// Reads a token, or the URL that holds one. White space and capitals do not matter.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT {
            return Err(TokenError::NotAToken);
        }
        let text: String = text
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let token = text.strip_prefix(URL).unwrap_or(&text);
        let bytes = BASE32_NOPAD
            .decode(token.to_ascii_uppercase().as_bytes())
            .map_err(|_| TokenError::NotAToken)?;
        let (content, sum) = bytes.split_last_chunk().ok_or(TokenError::NotAToken)?;
        if checksum(content) != *sum {
            return Err(TokenError::Typo);
        }
        let mut reader = Reader(content);
        match reader.take::<1>()? {
            [VERSION] => {}
            [other] => return Err(TokenError::Version(other)),
        }
        let issuer = BASE32_NOPAD
            .encode(&reader.take::<20>()?)
            .to_ascii_lowercase();
        let issuer = issuer.parse().map_err(|_| TokenError::Malformed)?;
        let secret = Secret(reader.take()?);
        let expires = u32::from_be_bytes(reader.take()?);
        let [count] = reader.take()?;
        if usize::from(count) > MAX_ADDRESSES {
            return Err(TokenError::Malformed);
        }
        let addresses = (0..count)
            .map(|_| reader.address())
            .collect::<Result<_, _>>()?;
        if !reader.0.is_empty() {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            issuer,
            secret,
            expires,
            addresses,
        })
    }

    /// The token. Addresses above [`MAX_ADDRESSES`] are left out.
    pub fn token(&self) -> String {
        let mut out = vec![VERSION];
        let id = self.issuer.as_str().to_ascii_uppercase();
        // Only ids that hash a key are ever issued: 20 bytes.
        let id = BASE32_NOPAD.decode(id.as_bytes()).unwrap_or_default();
        out.extend(id);
        out.extend(self.secret.0);
        out.extend(self.expires.to_be_bytes());
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        out.push(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend(ip.octets());
                }
            }
            out.extend(address.port().to_be_bytes());
        }
        out.extend(checksum(&out));
        BASE32_NOPAD.encode(&out).to_ascii_lowercase()
    }

    /// The token as a URL.
    pub fn url(&self) -> String {
        format!("{URL}{}", self.token())
    }
}

fn checksum(content: &[u8]) -> [u8; 4] {
    let hash = Sha256::digest(statement("handout/invite-sum/1", &[content]));
    let mut sum = [0; 4];
    sum.copy_from_slice(&hash[..4]);
    sum
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(TokenError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn address(&mut self) -> Result<SocketAddr, TokenError> {
        let ip = match self.take::<1>()? {
            [4] => IpAddr::from(self.take::<4>()?),
            [6] => IpAddr::from(self.take::<16>()?),
            _ => return Err(TokenError::Malformed),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)))
    }
}

/// An invite as its issuer keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Which; follows from the secret.
    pub id: InviteId,
    /// What lets in.
    pub secret: Secret,
    /// When it was made, in Unix seconds.
    pub created: u64,
    /// When it ends, in Unix seconds.
    pub expires: u64,
    /// How many devices it lets in.
    pub uses: u32,
    /// Those that it has let in, or was about to.
    pub used: Vec<DeviceId>,
    /// The group that they come into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What they may do, where that is not for the group to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Roles>,
    /// A person has taken it back.
    #[serde(default)]
    pub revoked: bool,
    /// It stands for ever, and `uses` count anew each day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
}

/// What holds for an invite that stands for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The day, since 1970, that `used` is about.
    pub day: u64,
    /// For how many seconds a device that comes is let in.
    pub stay: u64,
}

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// Why an invite does not let a device in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotLetIn {
    /// Not known, or the mac is false: said in the same words, so that nobody learns which
    /// invites there are.
    #[error("this invite is not known here: ask for a new one")]
    Unknown,
    /// Its time is over.
    #[error("this invite has expired: ask for a new one")]
    Expired,
    /// As many devices as it was for have come.
    #[error("this invite is used up: ask for a new one")]
    UsedUp,
    /// A person has taken it back.
    #[error("this invite was revoked: ask for a new one")]
    Revoked,
    /// A person has shut this device out.
    #[error("this device was shut out here: its owner can let it in by hand")]
    ShutOut,
}

impl NotLetIn {
    /// The reason for programs.
    pub fn code(self) -> Code {
        match self {
            Self::UsedUp => Code::Quota,
            _ => Code::Unauthorized,
        }
    }
}

impl Issued {
    /// Why it lets nobody new in, if so. `now` is in Unix seconds, of the issuer's clock.
    pub fn fault(&self, now: u64) -> Option<NotLetIn> {
        if self.revoked {
            Some(NotLetIn::Revoked)
        } else if now >= self.expires && self.standing.is_none() {
            Some(NotLetIn::Expired)
        } else if self.left() == 0 {
            Some(NotLetIn::UsedUp)
        } else {
            None
        }
    }

    /// For one that stands, on another day than its last use: everybody counts anew. A clock that
    /// goes back is another day, too.
    pub fn turn(&mut self, now: u64) {
        if let Some(standing) = &mut self.standing
            && standing.day != now / DAY
        {
            standing.day = now / DAY;
            self.used.clear();
        }
    }

    /// When a device that comes in by it now has to go, in Unix seconds; nothing for never.
    pub fn stay(&self, now: u64) -> Option<u64> {
        let standing = self.standing.as_ref()?;
        Some(now.saturating_add(standing.stay))
    }

    /// How many devices it would still let in.
    pub fn left(&self) -> u32 {
        self.uses.saturating_sub(self.used.len() as u32)
    }

    /// True when holders are no longer told about it.
    pub fn is_forgotten(&self, now: u64) -> bool {
        self.standing.is_none() && now >= self.expires.saturating_add(REMEMBERED)
    }

    /// Uses it for a device that knows the secret. True when that took one of its uses, which must
    /// be on disk before anybody is told; the same device again takes none.
    ///
    /// # Errors
    /// When the device is not let in by it.
    pub fn redeem(
        &mut self,
        mac: &str,
        binding: &Binding,
        joiner: &DeviceId,
        issuer: &DeviceId,
        now: u64,
    ) -> Result<bool, NotLetIn> {
        if !is_mac(mac, self.secret.join_mac(binding, joiner, issuer)) {
            return Err(NotLetIn::Unknown);
        }
        self.turn(now);
        let again = self.used.contains(joiner);
        match self.fault(now) {
            Some(NotLetIn::UsedUp) if again => Ok(false),
            Some(fault) => Err(fault),
            None if again => Ok(false),
            None => {
                self.used.push(joiner.clone());
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests;
