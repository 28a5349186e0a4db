//! The proof that rides inside an SDP text (PROTOCOL.md §4).

use sha2::{Digest, Sha256};

use super::id::DeviceId;
use super::identity::{Identity, KeyError, PublicKey, Signature, b64, statement, unb64};
use super::replay::{ReplayCache, ReplayError};
use super::sdp::{self, SdpError, SdpFacts, Setup};

/// Most seconds that a proof may be in force.
pub const MAX_LIFETIME: u64 = 300;
/// Seconds that two clocks may differ, unless configured.
pub const DEFAULT_SKEW: u64 = 300;
const PURPOSE: &str = "handout/signal/1";
const ATTRIBUTE: &str = "handout-proof";

/// Random bytes that two devices agree on for one offer and its answer.
pub type Session = [u8; 16];
/// SHA-256 of an offer's statement: names exactly this offer.
pub type OfferHash = [u8; 32];

/// What a description is, and what ties an answer to its offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// An offer that begins a session.
    Offer {
        /// Its random session.
        session: Session,
    },
    /// The answer to an offer.
    Answer {
        /// The session of the offer.
        session: Session,
        /// The hash of the offer.
        offer: OfferHash,
    },
}

/// What the reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Any offer.
    Offer,
    /// The answer to our offer.
    Answer {
        /// The session that we began.
        session: Session,
        /// What [`attach`] returned for our offer.
        offer: OfferHash,
    },
}

/// Everything that [`attach`] needs besides the SDP text.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Who will read it.
    pub to: &'a DeviceId,
    /// Offer or answer.
    pub subject: Subject,
    /// Fresh random bytes.
    pub nonce: [u8; 16],
    /// Now, in Unix seconds.
    pub issued: u64,
    /// How long it is in force, in seconds; cut to [`MAX_LIFETIME`].
    pub lifetime: u64,
}

/// What a good proof says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The writer's key.
    pub key: PublicKey,
    /// The DTLS certificate that its connection must show (SHA-256).
    pub fingerprint: [u8; 32],
    /// The DTLS side that it takes.
    pub setup: Setup,
    /// Candidates of its connection carry this, where they carry one.
    pub ufrag: String,
    /// The session; an answer repeats it.
    pub session: Session,
    /// The hash of the offer that was verified, or that the answer belongs to.
    pub offer: OfferHash,
}

/// Why a description is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// No proof line: a plain client, or somebody took it out.
    #[error("the description carries no proof of who wrote it")]
    Absent,
    /// Two proofs, or one inside a media section.
    #[error("the description carries a proof in the wrong place, or more than one")]
    Misplaced,
    /// The proof line cannot be read.
    #[error("the proof cannot be read: {0}")]
    Malformed(&'static str),
    /// The SDP text around it cannot be read.
    #[error(transparent)]
    Sdp(#[from] SdpError),
    /// The key is not that of the device it claims to be.
    #[error("the proof is of {actual}, not of {claimed}")]
    OtherDevice {
        /// Who the message said wrote it.
        claimed: DeviceId,
        /// Whose key it is.
        actual: DeviceId,
    },
    /// Meant for another device.
    #[error("the description is meant for another device")]
    OtherReader,
    /// The writer says that it is no longer in force.
    #[error("the proof expired {0} s ago: check that the clocks of both devices are right")]
    Expired(u64),
    /// From the future.
    #[error(
        "the proof is {0} s ahead of our clock: check that the clocks of both devices are right"
    )]
    FromTheFuture(u64),
    /// In force for longer than allowed, or backwards.
    #[error("a proof may be in force for at most {MAX_LIFETIME} s")]
    BadLifetime,
    /// The answer belongs to another offer.
    #[error("the answer is to another offer than our last one")]
    OtherOffer,
    /// The signature does not fit.
    #[error("the proof does not fit the description: it was changed on the way, or is a forgery")]
    BadSignature,
    /// Used before, or too many.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// The fields of the proof line.
struct Line {
    key: PublicKey,
    to: DeviceId,
    nonce: [u8; 16],
    issued: u64,
    expires: u64,
    session: Session,
    signature: Signature,
}

/// True when the text has a line that looks like a proof, good or bad.
pub fn has_proof(sdp: &str) -> bool {
    sdp::attributes(sdp).any(|(name, _)| name.eq_ignore_ascii_case(ATTRIBUTE))
}

/// Adds the proof line to an SDP text of ours. Returns the text, and the hash of the offer that
/// it is or that it answers.
///
/// # Errors
/// [`SdpError`] when the text lacks what the proof signs.
pub fn attach(
    sdp: &str,
    identity: &Identity,
    terms: &Terms<'_>,
) -> Result<(String, OfferHash), SdpError> {
    let facts = SdpFacts::read(sdp)?;
    let key = identity.public_key();
    let (session, kind, about) = match terms.subject {
        Subject::Offer { session } => (session, Kind::Offer, None),
        Subject::Answer { session, offer } => (session, Kind::Answer, Some(offer)),
    };
    let expires = terms
        .issued
        .saturating_add(terms.lifetime.min(MAX_LIFETIME));
    let said = signed_bytes(&Said {
        kind,
        from: &identity.device_id(),
        to: terms.to,
        key: &key,
        facts: &facts,
        nonce: &terms.nonce,
        issued: terms.issued,
        expires,
        session: &session,
        offer: about.as_ref(),
    });
    let line = format!(
        "a={ATTRIBUTE}:1 key={} to={} nonce={} iat={} exp={expires} session={} sig={}",
        b64(key.as_bytes()),
        terms.to,
        b64(&terms.nonce),
        terms.issued,
        b64(&session),
        b64(&identity.sign(&said).0),
    );
    let offer = about.unwrap_or_else(|| Sha256::digest(&said).into());
    Ok((insert(sdp, &line), offer))
}

/// Puts `line` before the first `m=` line, with the line end that the text uses.
fn insert(sdp: &str, line: &str) -> String {
    let end = if sdp.contains("\r\n") { "\r\n" } else { "\n" };
    let at = match sdp.starts_with("m=") {
        true => 0,
        false => sdp.find("\nm=").map_or(sdp.len(), |at| at + 1),
    };
    let (before, after) = sdp.split_at(at);
    let gap = match before.chars().next_back() {
        None | Some('\n') => "",
        // Half of a line end: a second one after it would leave it within the line.
        Some('\r') => "\n",
        Some(_) => end,
    };
    format!("{before}{gap}{line}{end}{after}")
}

/// Checks the proof in a description that says it comes `from` a device, for us (`to`).
///
/// `now` is in Unix seconds, `skew` is how far the clocks may differ. A proof is good once: its
/// nonce goes into `spent`. Look up first whether `from` is authorized, so that strangers cannot
/// fill that cache.
///
/// # Errors
/// See [`ProofError`]; nothing is remembered of a proof that is not good.
#[allow(
    clippy::too_many_arguments,
    reason = "each one is a thing that must be checked"
)]
pub fn verify(
    sdp: &str,
    from: &DeviceId,
    to: &DeviceId,
    expected: Expected,
    now: u64,
    skew: u64,
    spent: &mut ReplayCache,
) -> Result<Verified, ProofError> {
    let line = Line::find(sdp)?;
    let facts = SdpFacts::read(sdp)?;
    let actual = line.key.device_id();
    if actual != *from {
        let claimed = from.clone();
        return Err(ProofError::OtherDevice { claimed, actual });
    }
    if line.to != *to {
        return Err(ProofError::OtherReader);
    }
    if !(line.issued..=line.issued.saturating_add(MAX_LIFETIME)).contains(&line.expires) {
        return Err(ProofError::BadLifetime);
    }
    let last = line.expires.saturating_add(skew);
    if now > last {
        return Err(ProofError::Expired(now - line.expires));
    }
    if now.saturating_add(skew) < line.issued {
        return Err(ProofError::FromTheFuture(line.issued - now));
    }
    let (kind, about) = match &expected {
        Expected::Offer => (Kind::Offer, None),
        Expected::Answer { session, offer } => {
            if *session != line.session {
                return Err(ProofError::OtherOffer);
            }
            (Kind::Answer, Some(offer))
        }
    };
    let said = signed_bytes(&Said {
        kind,
        from,
        to,
        key: &line.key,
        facts: &facts,
        nonce: &line.nonce,
        issued: line.issued,
        expires: line.expires,
        session: &line.session,
        offer: about,
    });
    line.key
        .verify(&said, &line.signature)
        .map_err(|_| ProofError::BadSignature)?;
    spent.spend((*line.key.as_bytes(), line.nonce), last, now)?;
    Ok(Verified {
        key: line.key,
        fingerprint: facts.fingerprint,
        setup: facts.setup,
        ufrag: facts.ufrag,
        session: line.session,
        offer: about
            .copied()
            .unwrap_or_else(|| Sha256::digest(&said).into()),
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Offer,
    Answer,
}

/// What the signature is over, in the order of PROTOCOL.md §4.
struct Said<'a> {
    kind: Kind,
    from: &'a DeviceId,
    to: &'a DeviceId,
    key: &'a PublicKey,
    facts: &'a SdpFacts,
    nonce: &'a [u8; 16],
    issued: u64,
    expires: u64,
    session: &'a Session,
    offer: Option<&'a OfferHash>,
}

fn signed_bytes(said: &Said<'_>) -> Vec<u8> {
    let kind: &[u8] = match said.kind {
        Kind::Offer => b"offer",
        Kind::Answer => b"answer",
    };
    statement(
        PURPOSE,
        &[
            kind,
            said.from.as_str().as_bytes(),
            said.to.as_str().as_bytes(),
            said.key.as_bytes(),
            &said.facts.fingerprint,
            said.facts.setup.as_str().as_bytes(),
            said.facts.ufrag.as_bytes(),
            &Sha256::digest(said.facts.pwd.as_bytes()),
            said.nonce,
            &said.issued.to_be_bytes(),
            &said.expires.to_be_bytes(),
            said.session,
            said.offer.map_or(&[][..], |hash| &hash[..]),
        ],
    )
}

impl Line {
    fn find(sdp: &str) -> Result<Self, ProofError> {
        let mut proofs = sdp::attributes(sdp).filter(|(n, _)| n.eq_ignore_ascii_case(ATTRIBUTE));
        let (_, value) = proofs.next().ok_or(ProofError::Absent)?;
        let session_level = sdp
            .split('\n')
            .take_while(|line| !line.trim_start().starts_with("m="))
            .any(|line| sdp::attribute(line).is_some_and(|(n, _)| n == ATTRIBUTE));
        if proofs.next().is_some() || !session_level {
            return Err(ProofError::Misplaced);
        }
        Self::parse(value)
    }

    fn parse(value: &str) -> Result<Self, ProofError> {
        let (version, fields) = value.split_once(' ').unwrap_or((value, ""));
        if version != "1" {
            return Err(ProofError::Malformed("its version is not 1"));
        }
        let field = |name: &'static str| {
            let mut found = fields
                .split_ascii_whitespace()
                .filter_map(|word| word.split_once('='))
                .filter(|(n, _)| *n == name);
            match (found.next(), found.next()) {
                (Some((_, value)), None) => Ok(value),
                _ => Err(ProofError::Malformed(name)),
            }
        };
        let sixteen = |name| -> Result<[u8; 16], ProofError> {
            unb64(field(name)?)
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(ProofError::Malformed(name))
        };
        let seconds = |name| -> Result<u64, ProofError> {
            let digits = field(name)?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            let number = plain.then(|| digits.parse().ok()).flatten();
            number.ok_or(ProofError::Malformed(name))
        };
        let bad = |name| move |_: KeyError| ProofError::Malformed(name);
        Ok(Self {
            key: PublicKey::try_from(field("key")?.to_owned()).map_err(bad("key"))?,
            to: field("to")?
                .parse()
                .map_err(|_| ProofError::Malformed("to"))?,
            nonce: sixteen("nonce")?,
            issued: seconds("iat")?,
            expires: seconds("exp")?,
            session: sixteen("session")?,
            signature: Signature::try_from(field("sig")?.to_owned()).map_err(bad("sig"))?,
        })
    }
}

#[cfg(test)]
mod tests;
