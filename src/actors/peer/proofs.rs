//! Signing our descriptions, and checking those of the other side.

use std::sync::PoisonError;

use tracing::debug;

use super::{Peer, Route, unix_now};
use crate::actors::network;
use crate::protocol::candidate::filter_sdp;
use crate::protocol::handshake::Role;
use crate::protocol::proof::{self, Expected, OfferHash, Session, Subject, Terms};
use crate::protocol::signal::{Signal, SignalKind};

/// How long a signed offer or answer is good for, in seconds.
const PROOF_LIFETIME: u64 = 300;

impl Peer {
    pub(super) fn sign(&mut self, role: Role, sdp: &str) -> Result<String, SignError> {
        let subject = match role {
            Role::Offerer => Subject::Offer { session: random()? },
            Role::Answerer => match self.standing.tied {
                Some((session, offer)) => Subject::Answer { session, offer },
                // A plain peer reads no proof.
                None => return Ok(sdp.to_owned()),
            },
        };
        let terms = Terms {
            to: &self.id,
            subject,
            nonce: random()?,
            issued: unix_now(),
            lifetime: PROOF_LIFETIME,
        };
        let (sdp, hash) = proof::attach(sdp, &self.context.identity, &terms)?;
        if let Subject::Offer { session } = subject {
            self.offered = Some((session, hash));
        }
        Ok(sdp)
    }

    pub(super) fn refuse(&self, route: &Route, reason: &str) {
        debug!(reason, "refused");
        let signal = Signal {
            kind: SignalKind::Error,
            peer_id: self.context.identity.device_id(),
            data: reason.to_owned(),
        };
        self.write_by(route, &signal);
    }

    /// Checks an offer or answer. `Ok` holds what it is tied to; nothing for a plain one.
    pub(super) fn verify(
        &self,
        sdp: &str,
        expected: Expected,
    ) -> Result<Option<(Session, OfferHash)>, String> {
        if !proof::has_proof(sdp) {
            // Never for a device that has a key: whoever strips a proof must gain nothing.
            return if self.context.live().plain_peers && !self.id.is_self_certifying() {
                Ok(None)
            } else {
                Err("unsigned offers and answers are not taken here: sign them \
                     (docs/PROTOCOL.md, section 4), or have the owner of this device allow \
                     plain peers (trust.plain_peers)"
                    .to_owned())
            };
        }
        let ours = self.context.identity.device_id();
        let mut spent = self
            .context
            .replay
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        proof::verify(
            sdp,
            &self.id,
            &ours,
            expected,
            unix_now(),
            self.context.live().skew,
            &mut spent,
        )
        .map(|verified| Some((verified.session, verified.offer)))
        .map_err(|error| error.to_string())
    }

    /// A description with only those candidates that are believed.
    pub(super) fn filter(&self, sdp: &str, route: &Route) -> String {
        let reach = self.reach_by(Some(route));
        let policy = network::candidate_policy(&self.context.live().settings, reach);
        filter_sdp(sdp, &policy)
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Sdp(#[from] crate::protocol::sdp::SdpError),
}

pub(in crate::actors) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
