//! Introductions (PROTOCOL.md §12): the origin of a bundle vouches for two of its receivers to
//! each other, for that bundle and a time. Whoever was introduced cannot introduce anybody.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::id::{BundleId, DeviceId};
use super::identity::{Identity, PublicKey, Signature, b64, statement, unb64};

const PURPOSE: &str = "handout/introduction/1";
/// Longest life of an introduction, in seconds.
pub const MAX_LIFETIME: u64 = 24 * 60 * 60;
/// Introductions that a device keeps at once.
pub const MAX_INTRODUCTIONS: usize = 256;
/// Introductions by one device of them, so that none can crowd out the others.
pub const MAX_BY_ONE: usize = 64;
/// Devices, or devices for a bundle, that are kept out although they are introduced.
pub const MAX_BARS: usize = 1024;

/// The origin's word that two devices may exchange the chunks of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The introducer's key.
    pub key: PublicKey,
    /// Which of its bundles.
    pub bundle: BundleId,
    /// One of the two devices: that with the lower id.
    pub first: DeviceId,
    /// The other one.
    pub second: DeviceId,
    /// Since when it holds, in Unix seconds.
    pub issued: u64,
    /// Until when, at most 24 h after that.
    pub expires: u64,
    /// 16 random bytes, b64.
    pub nonce: String,
    /// The introducer's signature over all of this.
    pub sig: Signature,
}

/// Why an introduction is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntroductionError {
    /// The signer is not the device on whose link it came.
    #[error("it was not made by the device that it came from")]
    NotFromItsMaker,
    /// It is about other devices.
    #[error("it does not name this device")]
    NotAboutUs,
    /// Not two devices with keys, the lower id first, and neither of them the introducer.
    #[error("it does not name two receivers")]
    NotAPair,
    /// Its maker was introduced itself, or may not introduce.
    #[error("its maker may not introduce devices here (role: introduce)")]
    MayNot,
    /// We neither receive the bundle from its maker nor have it from there.
    #[error("the bundle is none that this device has from its maker")]
    OtherBundle,
    /// Longer than allowed, or ends before it begins.
    #[error("it holds for longer than {} h", MAX_LIFETIME / 3600)]
    Lifetime,
    /// Not valid now.
    #[error("it does not hold now: check the clocks of both devices")]
    NotNow,
    /// The nonce is not 16 bytes.
    #[error("its nonce cannot be read")]
    BadNonce,
    /// The signature does not fit.
    #[error("its signature is false")]
    Signature,
}

/// What an introduction is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Unix seconds.
    pub now: u64,
    /// This device.
    pub ours: &'a DeviceId,
    /// The device on whose link it came, which has proven its key.
    pub from: &'a DeviceId,
    /// How far clocks may differ, in seconds.
    pub skew: u64,
    /// A person, or the config, has let `from` in, and with the role to introduce. Never true for
    /// a device that is only introduced: introductions have a depth of one.
    pub may_introduce: bool,
    /// We are receiving the bundle from `from` as its origin, or have it from there.
    pub interested: bool,
}

impl Introduction {
    /// Vouches for `a` and `b` to each other from `now` on, for `lifetime` seconds.
    pub fn new(
        introducer: &Identity,
        bundle: BundleId,
        a: &DeviceId,
        b: &DeviceId,
        now: u64,
        lifetime: u64,
        nonce: [u8; 16],
    ) -> Self {
        let key = introducer.public_key();
        let (first, second) = ordered(a, b);
        let (issued, expires) = (now, now.saturating_add(lifetime));
        let said = said(&key, &bundle, &first, &second, issued, expires, &nonce);
        Self {
            key,
            bundle,
            first,
            second,
            issued,
            expires,
            nonce: b64(&nonce),
            sig: introducer.sign(&said),
        }
    }

    /// Checks it. Returns the device that is introduced to us, and until when (Unix seconds).
    pub fn check(&self, terms: &Terms<'_>) -> Result<(DeviceId, u64), IntroductionError> {
        use IntroductionError as E;
        if self.key.device_id() != *terms.from {
            return Err(E::NotFromItsMaker);
        }
        let pair = [&self.first, &self.second];
        if self.first >= self.second
            || pair.contains(&terms.from)
            || !pair.iter().all(|id| id.is_self_certifying())
        {
            return Err(E::NotAPair);
        }
        let other = if self.first == *terms.ours {
            &self.second
        } else if self.second == *terms.ours {
            &self.first
        } else {
            return Err(E::NotAboutUs);
        };
        if !terms.may_introduce {
            return Err(E::MayNot);
        }
        if !terms.interested {
            return Err(E::OtherBundle);
        }
        let lifetime = self.expires.checked_sub(self.issued).ok_or(E::Lifetime)?;
        if lifetime > MAX_LIFETIME {
            return Err(E::Lifetime);
        }
        if self.issued > terms.now.saturating_add(terms.skew)
            || self.expires.saturating_add(terms.skew) <= terms.now
        {
            return Err(E::NotNow);
        }
        let nonce = unb64(&self.nonce).and_then(|nonce| <[u8; 16]>::try_from(nonce).ok());
        let nonce = nonce.ok_or(E::BadNonce)?;
        let said = said(
            &self.key,
            &self.bundle,
            &self.first,
            &self.second,
            self.issued,
            self.expires,
            &nonce,
        );
        self.key
            .verify(&said, &self.sig)
            .map_err(|_| E::Signature)?;
        // By our clock, and never for longer than was signed.
        let until = self.expires.saturating_add(terms.skew);
        Ok((other.clone(), until.min(terms.now.saturating_add(lifetime))))
    }
}

fn said(
    key: &PublicKey,
    bundle: &BundleId,
    first: &DeviceId,
    second: &DeviceId,
    issued: u64,
    expires: u64,
    nonce: &[u8; 16],
) -> Vec<u8> {
    statement(
        PURPOSE,
        &[
            key.as_bytes(),
            bundle.as_bytes(),
            first.as_str().as_bytes(),
            second.as_str().as_bytes(),
            &issued.to_be_bytes(),
            &expires.to_be_bytes(),
            nonce,
        ],
    )
}

/// Two devices, the lower id first.
pub fn ordered(a: &DeviceId, b: &DeviceId) -> (DeviceId, DeviceId) {
    let (first, second) = if a < b { (a, b) } else { (b, a) };
    (first.clone(), second.clone())
}

/// A device that was introduced to us, for one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduced {
    /// The device.
    pub peer: DeviceId,
    /// Who introduced it: the bundle's origin.
    pub by: DeviceId,
    /// For which of its bundles.
    pub bundle: BundleId,
    /// Until when, in Unix seconds.
    pub until: u64,
}

impl Introduced {
    fn is_about(&self, by: &DeviceId, peer: &DeviceId, bundle: &BundleId) -> bool {
        self.by == *by && self.peer == *peer && self.bundle == *bundle
    }
}

/// Who was introduced to us. Nothing in it is ever written to disk: it ends with the process.
#[derive(Debug, Default)]
pub struct Introductions {
    entries: Vec<Introduced>,
    /// Devices that are kept out: for all bundles, or for one of an origin.
    barred: VecDeque<(DeviceId, Option<(DeviceId, BundleId)>)>,
}

impl Introductions {
    /// Takes what [`Introduction::check`] has passed. False when it says nothing new, the device
    /// is kept out, or there are too many.
    pub fn add(&mut self, introduced: Introduced) -> bool {
        let Introduced {
            peer, by, bundle, ..
        } = &introduced;
        if self.is_barred(peer, by, bundle) {
            return false;
        }
        let known = self
            .entries
            .iter_mut()
            .find(|entry| entry.is_about(by, peer, bundle));
        if let Some(known) = known {
            known.until = known.until.max(introduced.until);
            return false;
        }
        let by_it = self.entries.iter().filter(|entry| entry.by == *by).count();
        if self.entries.len() >= MAX_INTRODUCTIONS || by_it >= MAX_BY_ONE {
            return false;
        }
        self.entries.push(introduced);
        true
    }

    /// What `peer` is introduced for, at the time `now` (Unix seconds).
    pub fn allowed<'a>(
        &'a self,
        peer: &'a DeviceId,
        now: u64,
    ) -> impl Iterator<Item = &'a Introduced> {
        self.entries
            .iter()
            .filter(move |entry| entry.peer == *peer && entry.until > now)
    }

    /// Everybody who is introduced.
    pub fn iter(&self) -> impl Iterator<Item = &Introduced> {
        self.entries.iter()
    }

    /// The introducer takes it back. False when there was nothing of its own to take back.
    pub fn end(&mut self, by: &DeviceId, peer: &DeviceId, bundle: &BundleId) -> bool {
        let before = self.entries.len();
        self.entries
            .retain(|entry| !entry.is_about(by, peer, bundle));
        self.entries.len() < before
    }

    /// Ends whatever has expired, or that `lasts` does not want any more.
    pub fn retain(&mut self, now: u64, lasts: impl Fn(&Introduced) -> bool) {
        self.entries
            .retain(|entry| entry.until > now && lasts(entry));
    }

    /// A device may no longer: what it introduced ends, and what it is introduced for, and it
    /// cannot be introduced again before [`Introductions::unbar`].
    pub fn revoke(&mut self, device: &DeviceId) {
        self.entries
            .retain(|entry| entry.peer != *device && entry.by != *device);
        self.bar(device.clone(), None);
    }

    /// A device has served falsehoods: it is out for this bundle of this origin.
    pub fn distrust(&mut self, peer: &DeviceId, origin: &DeviceId, bundle: &BundleId) {
        self.end(origin, peer, bundle);
        self.bar(peer.clone(), Some((origin.clone(), *bundle)));
    }

    /// A person lets the device in again.
    pub fn unbar(&mut self, device: &DeviceId) {
        self.barred.retain(|(barred, _)| barred != device);
    }

    fn bar(&mut self, device: DeviceId, what: Option<(DeviceId, BundleId)>) {
        self.barred
            .retain(|bar| *bar != (device.clone(), what.clone()));
        if self.barred.len() == MAX_BARS {
            self.barred.pop_front();
        }
        self.barred.push_back((device, what));
    }

    fn is_barred(&self, peer: &DeviceId, by: &DeviceId, bundle: &BundleId) -> bool {
        self.barred.iter().any(|(device, what)| {
            device == peer
                && what
                    .as_ref()
                    .is_none_or(|(origin, of)| origin == by && of == bundle)
        })
    }
}

#[cfg(test)]
mod tests;
