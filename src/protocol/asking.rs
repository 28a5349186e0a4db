//! How a device proves to whoever answers a request at a rendezvous that it is the one that asks
//! (PROTOCOL.md §19). What the rendezvous says about that is no proof: whoever may ask there names
//! any device that it likes.

use serde::{Deserialize, Serialize};

use super::id::DeviceId;
use super::identity::{Identity, KeyError, PublicKey, Signature, statement};

/// What the requester says in place of an SDP answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum AnswerData {
    #[serde(rename = "handout")]
    Proof(AskingProof),
}

/// The proof, for one session and one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskingProof {
    /// Who asks.
    pub device_id: DeviceId,
    /// Its public key.
    pub key: PublicKey,
    /// Over the session's id, the provider's and the requester's.
    pub signature: Signature,
}

/// Why an answer proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnprovenAsking {
    /// It is none, or cannot be read.
    #[error("what it answers is no proof of who asks")]
    NoProof,
    /// It is that of another device.
    #[error("what it answers proves another device than the one that is said to ask")]
    OtherDevice,
    /// The signature is wrong, or was made for something else.
    #[error(transparent)]
    Key(#[from] KeyError),
}

fn said(session: &str, provider: &DeviceId, requester: &DeviceId) -> Vec<u8> {
    let ids = [provider, requester].map(|id| id.as_str().as_bytes());
    let fields = [session.as_bytes(), ids[0], ids[1]];
    statement("handout/request/1", &fields)
}

/// The data of the answer by which a device says that it asks, in this session, this provider.
pub fn prove_asking(identity: &Identity, session: &str, provider: &DeviceId) -> String {
    let device_id = identity.device_id();
    let answer = AnswerData::Proof(AskingProof {
        key: identity.public_key(),
        signature: identity.sign(&said(session, provider, &device_id)),
        device_id,
    });
    // Texts alone, which are always JSON.
    serde_json::to_string(&answer).unwrap_or_default()
}

/// Checks such an answer's data: that `requester` itself asks `provider` in this session.
///
/// # Errors
/// [`UnprovenAsking`]
pub fn check_asking(
    data: &str,
    session: &str,
    provider: &DeviceId,
    requester: &DeviceId,
) -> Result<(), UnprovenAsking> {
    let AnswerData::Proof(proof) =
        serde_json::from_str(data).map_err(|_| UnprovenAsking::NoProof)?;
    if proof.device_id != *requester || proof.key.device_id() != *requester {
        return Err(UnprovenAsking::OtherDevice);
    }
    let said = said(session, provider, requester);
    Ok(proof.key.verify(&said, &proof.signature)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_device_itself_proves_that_it_asks_and_only_for_one_session_and_provider() {
        let [ours, other, provider] = [1, 2, 3].map(|seed| Identity::from_seed(&[seed; 32]));
        let (id, provider, stranger) = (ours.device_id(), provider.device_id(), other.device_id());
        let proof = prove_asking(&ours, "s", &provider);
        assert!(
            proof.starts_with(r#"{"type":"handout","device_id":""#),
            "{proof}"
        );
        assert_eq!(check_asking(&proof, "s", &provider, &id), Ok(()));
        let mismatch = Err(UnprovenAsking::Key(KeyError::Mismatch));
        assert_eq!(check_asking(&proof, "another", &provider, &id), mismatch);
        assert_eq!(check_asking(&proof, "s", &stranger, &id), mismatch);
        // Somebody else, in its own name and in ours; with its key, and with ours.
        let foreign = prove_asking(&other, "s", &provider);
        let not_ours = Err(UnprovenAsking::OtherDevice);
        assert_eq!(check_asking(&foreign, "s", &provider, &id), not_ours);
        let named = foreign.replace(stranger.as_str(), id.as_str());
        assert_eq!(check_asking(&named, "s", &provider, &id), not_ours);
        let keys = [&other, &ours].map(|one| String::from(one.public_key()));
        let keyed = named.replace(&keys[0], &keys[1]);
        assert_eq!(check_asking(&keyed, "s", &provider, &id), mismatch);
        let sdp = r#"{"type":"answer","sdp":"v=0"}"#;
        for none in ["", "{}", "null", sdp, &proof.replace("handout", "offer")] {
            let refused = check_asking(none, "s", &provider, &id);
            assert_eq!(refused, Err(UnprovenAsking::NoProof), "{none}");
        }
    }
}
