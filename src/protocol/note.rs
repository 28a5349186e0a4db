//! Meeting notes: where a device listens, for one other device that knows its id, put down where
//! anybody may look (PROTOCOL.md, "Meeting notes"). Found and read only by who knows both ids; believed only
//! with the writer's signature.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ring::{aead, hkdf};

use super::id::DeviceId;
use super::identity::{Identity, PublicKey, Signature, statement};

/// Most addresses in a note.
pub const MAX_ADDRESSES: usize = 8;
/// How long a note is good for, in seconds. It is written anew long before.
pub const LIFETIME: u64 = 2 * 60 * 60;
/// Bytes of a note, whatever is in it: BEP 44 has room for 1,000.
pub const SIZE: usize = NONCE + PLAIN + TAG;
/// Devices of which the newest note is remembered.
pub const MAX_REMEMBERED: usize = 4096;

const NONCE: usize = 12;
const TAG: usize = 16;
/// Version, key, two times, the number of addresses, the addresses, the signature, and room.
const PLAIN: usize = 320;
const VERSION: u8 = 1;
/// Kind, an IPv6 address, a port. IPv4 addresses take as much room.
const ADDRESS: usize = 1 + 16 + 2;
const HEAD: usize = 1 + 32 + 8 + 8 + 1;
const BODY: usize = HEAD + MAX_ADDRESSES * ADDRESS;
const DAY: u64 = 24 * 60 * 60;
const _: () = assert!(BODY + 64 <= PLAIN && SIZE < 1000);

/// Why a note is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It has another size, or is of somebody who does not know both ids.
    #[error("not a note of these two devices")]
    Unreadable,
    /// A later version, or nonsense.
    #[error("a note of a form that is not known here")]
    Malformed,
    /// Whoever wrote it is not who should have.
    #[error("the note is not signed by the device that it speaks for")]
    Forged,
    /// It is old, or from the future, or lasts longer than notes do.
    #[error("the note's time is over, or has not come")]
    NotNow,
}

/// Where the notes of one device for another lie on one day (in UTC). Who does not know both ids
/// cannot tell two days' places, or two devices, apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Corner {
    writer: DeviceId,
    reader: DeviceId,
    day: u64,
    /// Of the key pair that items are put under: it proves nothing, both devices can make it.
    pub seed: [u8; 32],
    key: [u8; 32],
}

/// Without what is secret.
impl std::fmt::Debug for Corner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Corner({} for {}, day {})",
            self.writer, self.reader, self.day
        )
    }
}

impl Corner {
    /// The place on the day of `now`, in Unix seconds.
    pub fn at(writer: &DeviceId, reader: &DeviceId, now: u64) -> Self {
        let day = now / DAY;
        let ids = statement(
            "handout/note/place/1",
            &[
                writer.as_str().as_bytes(),
                reader.as_str().as_bytes(),
                &day.to_be_bytes(),
            ],
        );
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"handout note 1").extract(&ids);
        Self {
            writer: writer.clone(),
            reader: reader.clone(),
            day,
            seed: expand(&secret, b"place"),
            key: expand(&secret, b"seal"),
        }
    }

    /// The places where a note may lie that holds at `now`: today's, and yesterday's while its last
    /// notes hold.
    pub fn now(writer: &DeviceId, reader: &DeviceId, now: u64) -> Vec<Self> {
        let mut corners = vec![Self::at(writer, reader, now)];
        if now % DAY < LIFETIME && now >= DAY {
            corners.push(Self::at(writer, reader, now - DAY));
        }
        corners
    }

    fn cipher(&self) -> Option<aead::LessSafeKey> {
        let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &self.key).ok()?;
        Some(aead::LessSafeKey::new(key))
    }
}

fn expand(secret: &hkdf::Prk, purpose: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let parts = [purpose];
    let made = secret.expand(&parts, hkdf::HKDF_SHA256);
    // 32 bytes are far less than the most that HKDF gives.
    if let Ok(made) = made {
        let _ = made.fill(&mut out);
    }
    out
}

/// Where a device listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// When it was written, in Unix seconds.
    pub issued: u64,
    /// Until when it is good.
    pub expires: u64,
    /// Its signaling listener.
    pub addresses: Vec<SocketAddr>,
}

impl Note {
    /// A note written at `now`. More addresses than fit are left out.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>, now: u64) -> Self {
        Self {
            issued: now,
            expires: now.saturating_add(LIFETIME),
            addresses: addresses.into_iter().take(MAX_ADDRESSES).collect(),
        }
    }

    fn head_and_addresses(&self, key: &PublicKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(PLAIN);
        out.push(VERSION);
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&self.issued.to_be_bytes());
        out.extend_from_slice(&self.expires.to_be_bytes());
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        // At most MAX_ADDRESSES.
        out.push(addresses.len() as u8);
        for address in addresses {
            let (kind, ip) = match address.ip().to_canonical() {
                IpAddr::V4(v4) => (4, v4.to_ipv6_mapped()),
                IpAddr::V6(v6) => (6, v6),
            };
            out.push(kind);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&address.port().to_be_bytes());
        }
        out.resize(BODY, 0);
        out
    }

    /// Signs and seals it for a corner. The nonce must be random. Nothing when the corner is
    /// another device's.
    pub fn seal(&self, corner: &Corner, identity: &Identity, nonce: [u8; 12]) -> Option<Vec<u8>> {
        let key = identity.public_key();
        if key.device_id() != corner.writer || self.issued / DAY != corner.day {
            return None;
        }
        let mut plain = self.head_and_addresses(&key);
        let signature = identity.sign(&said(corner, &plain));
        plain.extend_from_slice(&signature.0);
        plain.resize(PLAIN, 0);
        let seal = aead::Nonce::assume_unique_for_key(nonce);
        corner
            .cipher()?
            .seal_in_place_append_tag(seal, aead::Aad::empty(), &mut plain)
            .ok()?;
        let mut sealed = nonce.to_vec();
        sealed.append(&mut plain);
        Some(sealed)
    }

    /// Opens what lies in a corner and checks all of it. `skew` is how far clocks may differ, in
    /// seconds.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn open(sealed: &[u8], corner: &Corner, now: u64, skew: u64) -> Result<Self, NoteError> {
        let (nonce, rest) = sealed
            .split_first_chunk::<NONCE>()
            .filter(|_| sealed.len() == SIZE)
            .ok_or(NoteError::Unreadable)?;
        let mut rest = rest.to_vec();
        let cipher = corner.cipher().ok_or(NoteError::Unreadable)?;
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let plain = cipher
            .open_in_place(nonce, aead::Aad::empty(), &mut rest)
            .map_err(|_| NoteError::Unreadable)?;
        let (body, after) = plain.split_at_checked(BODY).ok_or(NoteError::Malformed)?;
        let (signature, room) = after.split_at_checked(64).ok_or(NoteError::Malformed)?;
        let mut read = Reading(body);
        if read.byte()? != VERSION || room.iter().any(|byte| *byte != 0) {
            return Err(NoteError::Malformed);
        }
        let key = PublicKey::from_bytes(&read.take::<32>()?).map_err(|_| NoteError::Forged)?;
        let issued = u64::from_be_bytes(read.take()?);
        let expires = u64::from_be_bytes(read.take()?);
        let count = usize::from(read.byte()?);
        if count > MAX_ADDRESSES {
            return Err(NoteError::Malformed);
        }
        let addresses = (0..count).map(|_| read.address());
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if read.0.iter().any(|byte| *byte != 0) {
            return Err(NoteError::Malformed);
        }
        let signature = Signature::from_bytes(signature).map_err(|_| NoteError::Forged)?;
        let signed = key.verify(&said(corner, body), &signature).is_ok();
        if !signed || key.device_id() != corner.writer {
            return Err(NoteError::Forged);
        }
        let lasts = expires.saturating_sub(issued) <= LIFETIME && issued <= expires;
        let begun = issued <= now.saturating_add(skew);
        let over = now > expires.saturating_add(skew);
        if !lasts || !begun || over || issued / DAY != corner.day {
            return Err(NoteError::NotNow);
        }
        Ok(Self {
            issued,
            expires,
            addresses,
        })
    }
}

fn said(corner: &Corner, body: &[u8]) -> Vec<u8> {
    let (writer, reader) = (corner.writer.as_str(), corner.reader.as_str());
    statement(
        "handout/note/1",
        &[writer.as_bytes(), reader.as_bytes(), body],
    )
}

struct Reading<'a>(&'a [u8]);

impl Reading<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoteError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(NoteError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, NoteError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn address(&mut self) -> Result<SocketAddr, NoteError> {
        let (kind, ip) = (self.byte()?, std::net::Ipv6Addr::from(self.take::<16>()?));
        let port = u16::from_be_bytes(self.take()?);
        let ip = match (kind, ip.to_ipv4_mapped()) {
            (4, Some(v4)) => IpAddr::V4(v4),
            (6, None) => IpAddr::V6(ip),
            _ => return Err(NoteError::Malformed),
        };
        Ok(SocketAddr::new(ip, port))
    }
}

/// The newest note of each device: what lies in a corner can be put back there by anybody who has
/// seen it, so an older one never counts.
#[derive(Debug, Default)]
pub struct Newest {
    issued: HashMap<DeviceId, u64>,
}

impl Newest {
    /// True when this is the newest of that device so far. Where no more devices are remembered,
    /// those whose notes are over make room.
    pub fn take(&mut self, device: &DeviceId, note: &Note, now: u64) -> bool {
        if let Some(last) = self.issued.get_mut(device) {
            let newer = note.issued > *last;
            *last = note.issued.max(*last);
            return newer;
        }
        if self.issued.len() >= MAX_REMEMBERED {
            // Such a note would not be opened any more.
            self.issued
                .retain(|_, issued| issued.saturating_add(2 * LIFETIME) >= now);
        }
        if self.issued.len() >= MAX_REMEMBERED {
            return false;
        }
        self.issued.insert(device.clone(), note.issued);
        true
    }
}

#[cfg(test)]
mod tests;
