use super::*;
use crate::protocol::sdp::example;
use proptest::prelude::*;

const PWD: &str = "0123456789abcdef012345";
const NOW: u64 = 1_800_000_000;
const SESSION: Session = [3; 16];

fn alice() -> Identity {
    Identity::from_seed(&[1; 32])
}

fn bob() -> DeviceId {
    Identity::from_seed(&[2; 32]).device_id()
}

fn offer() -> (String, OfferHash) {
    let terms = Terms {
        to: &bob(),
        subject: Subject::Offer { session: SESSION },
        nonce: [9; 16],
        issued: NOW,
        lifetime: 60,
    };
    attach(&example(0xab, "actpass", "ufrag", PWD), &alice(), &terms).unwrap()
}

fn answer(hash: OfferHash) -> String {
    let terms = Terms {
        to: &bob(),
        subject: Subject::Answer {
            session: SESSION,
            offer: hash,
        },
        nonce: [8; 16],
        issued: NOW,
        lifetime: 60,
    };
    let sdp = example(0xab, "active", "ufrag", PWD);
    attach(&sdp, &alice(), &terms).unwrap().0
}

fn check(sdp: &str, expected: Expected) -> Result<Verified, ProofError> {
    check_at(sdp, expected, NOW)
}

fn check_at(sdp: &str, expected: Expected, now: u64) -> Result<Verified, ProofError> {
    let spent = &mut ReplayCache::default();
    verify(sdp, &alice().device_id(), &bob(), expected, now, 300, spent)
}

/// The text with the value of one field of the proof line replaced.
fn with_field(sdp: &str, name: &str, value: &str) -> String {
    let start = sdp.find(&format!(" {name}=")).unwrap() + name.len() + 2;
    let end = start + sdp[start..].find([' ', '\r']).unwrap();
    format!("{}{value}{}", &sdp[..start], &sdp[end..])
}

#[test]
fn a_good_offer_and_its_answer_verify() {
    let (sdp, hash) = offer();
    let seen = check(&sdp, Expected::Offer).unwrap();
    assert_eq!(seen.key, alice().public_key());
    assert_eq!(seen.fingerprint, [0xab; 32]);
    assert_eq!((seen.ufrag.as_str(), seen.session), ("ufrag", SESSION));
    assert_eq!(seen.offer, hash);
    let expected = Expected::Answer {
        session: SESSION,
        offer: hash,
    };
    assert_eq!(check(&answer(hash), expected).unwrap().offer, hash);
}

#[test]
fn the_proof_is_at_session_level_and_found() {
    let (sdp, _) = offer();
    assert!(sdp.find("a=handout-proof:1 ").unwrap() < sdp.find("m=").unwrap());
    assert!(has_proof(&sdp));
    let plain = example(0xab, "actpass", "ufrag", PWD);
    assert!(!has_proof(&plain));
    assert_eq!(check(&plain, Expected::Offer), Err(ProofError::Absent));
    let moved = format!("{plain}{}\r\n", sdp.lines().find(|l| has_proof(l)).unwrap());
    assert_eq!(check(&moved, Expected::Offer), Err(ProofError::Misplaced));
    let twice = attach(
        &sdp,
        &alice(),
        &Terms {
            to: &bob(),
            subject: Subject::Offer { session: SESSION },
            nonce: [1; 16],
            issued: NOW,
            lifetime: 60,
        },
    );
    assert_eq!(
        check(&twice.unwrap().0, Expected::Offer),
        Err(ProofError::Misplaced)
    );
}

#[test]
fn changing_any_signed_fact_of_the_sdp_is_noticed() {
    let (sdp, _) = offer();
    let changes = [
        sdp.replace("AB:", "AC:").replace(":AB", ":AC"),
        sdp.replace("setup:actpass", "setup:active"),
        sdp.replace("ice-ufrag:ufrag", "ice-ufrag:ufraq"),
        sdp.replace(PWD, &PWD.replace('0', "1")),
    ];
    for changed in changes {
        assert_ne!(changed, sdp);
        assert_eq!(
            check(&changed, Expected::Offer),
            Err(ProofError::BadSignature)
        );
    }
}

#[test]
fn changing_any_field_of_the_proof_is_noticed() {
    let (sdp, _) = offer();
    let other = Identity::from_seed(&[3; 32]);
    let changes = [
        ("nonce", b64(&[1; 16])),
        ("session", b64(&[1; 16])),
        ("iat", (NOW + 1).to_string()),
        ("exp", (NOW + 61).to_string()),
        ("sig", b64(&[0; 64])),
    ];
    for (name, value) in changes {
        let changed = with_field(&sdp, name, &value);
        assert_eq!(
            check(&changed, Expected::Offer),
            Err(ProofError::BadSignature),
            "{name}"
        );
    }
    let key = with_field(&sdp, "key", &b64(other.public_key().as_bytes()));
    let error = check(&key, Expected::Offer).unwrap_err();
    assert!(matches!(error, ProofError::OtherDevice { .. }));
    let to = with_field(&sdp, "to", other.device_id().as_str());
    assert_eq!(check(&to, Expected::Offer), Err(ProofError::OtherReader));
    // Whoever it is forwarded to notices as well, though it can claim to be the reader.
    let spent = &mut ReplayCache::default();
    let (from, reader) = (alice().device_id(), other.device_id());
    let forwarded = verify(&to, &from, &reader, Expected::Offer, NOW, 300, spent);
    assert_eq!(forwarded, Err(ProofError::BadSignature));
    assert!(spent.is_empty());
}

/// An offer whose proof `signer` made and signed by hand, in the name of `from`, good until
/// `expires`.
fn forged(signer: &Identity, from: &DeviceId, expires: u64) -> String {
    let sdp = example(0xab, "actpass", "ufrag", PWD);
    let (key, nonce) = (signer.public_key(), [9; 16]);
    let said = signed_bytes(&Said {
        kind: Kind::Offer,
        from,
        to: &bob(),
        key: &key,
        facts: &SdpFacts::read(&sdp).unwrap(),
        nonce: &nonce,
        issued: NOW,
        expires,
        session: &SESSION,
        offer: None,
    });
    let line = format!(
        "a={ATTRIBUTE}:1 key={} to={} nonce={} iat={NOW} exp={expires} session={} sig={}",
        b64(key.as_bytes()),
        bob(),
        b64(&nonce),
        b64(&SESSION),
        b64(&signer.sign(&said).0),
    );
    insert(&sdp, &line)
}

#[test]
fn a_signature_by_another_key_in_the_name_of_a_device_is_refused() {
    let device = alice().device_id();
    let honest = forged(&alice(), &device, NOW + 60);
    assert!(check(&honest, Expected::Offer).is_ok());
    let stranger = Identity::from_seed(&[3; 32]);
    let seen = check(&forged(&stranger, &device, NOW + 60), Expected::Offer);
    let expected = ProofError::OtherDevice {
        claimed: device,
        actual: stranger.device_id(),
    };
    assert_eq!(seen, Err(expected));
}

#[test]
fn a_proof_that_is_signed_for_too_long_is_refused() {
    let until = |end| {
        check(
            &forged(&alice(), &alice().device_id(), end),
            Expected::Offer,
        )
    };
    assert!(until(NOW + MAX_LIFETIME).is_ok());
    for end in [NOW + MAX_LIFETIME + 1, u64::MAX] {
        assert_eq!(until(end), Err(ProofError::BadLifetime));
    }
}

#[test]
fn an_offer_is_no_answer_and_an_answer_belongs_to_its_offer() {
    let (sdp, hash) = offer();
    let expect = |session, offer| Expected::Answer { session, offer };
    assert_eq!(
        check(&sdp, expect(SESSION, hash)),
        Err(ProofError::BadSignature)
    );
    let answer = answer(hash);
    assert_eq!(
        check(&answer, Expected::Offer),
        Err(ProofError::BadSignature)
    );
    assert_eq!(
        check(&answer, expect(SESSION, [0; 32])),
        Err(ProofError::BadSignature)
    );
    assert_eq!(
        check(&answer, expect([0; 16], hash)),
        Err(ProofError::OtherOffer)
    );
}

#[test]
fn a_proof_is_good_within_its_time_and_the_skew_only() {
    let (sdp, _) = offer();
    for good in [NOW - 300, NOW, NOW + 60, NOW + 360] {
        assert!(check_at(&sdp, Expected::Offer, good).is_ok());
    }
    let early = check_at(&sdp, Expected::Offer, NOW - 301);
    assert_eq!(early, Err(ProofError::FromTheFuture(301)));
    let late = check_at(&sdp, Expected::Offer, NOW + 361);
    assert_eq!(late, Err(ProofError::Expired(301)));
    for (iat, exp) in [(NOW, NOW + 301), (NOW, NOW - 1), (0, u64::MAX)] {
        let changed = with_field(&sdp, "iat", &iat.to_string());
        let changed = with_field(&changed, "exp", &exp.to_string());
        assert_eq!(
            check(&changed, Expected::Offer),
            Err(ProofError::BadLifetime)
        );
    }
    for now in [0, u64::MAX] {
        assert!(check_at(&sdp, Expected::Offer, now).is_err());
    }
}

#[test]
fn a_proof_is_good_once() {
    let (sdp, _) = offer();
    let spent = &mut ReplayCache::default();
    let mut again = |now| {
        let from = alice().device_id();
        verify(&sdp, &from, &bob(), Expected::Offer, now, 300, spent).map(|_| ())
    };
    assert_eq!(again(NOW), Ok(()));
    assert_eq!(again(NOW + 360), Err(ReplayError::Replayed.into()));
}

#[test]
fn line_ends_and_trailing_spaces_do_not_matter() {
    let (sdp, _) = offer();
    let lf = sdp.replace("\r\n", "\n");
    let pasted = format!("\n{}  \n\n", lf.replace('\n', " \t\n"));
    for text in [&lf, &pasted, &lf.replace('\n', "\r\n")] {
        assert_eq!(check(text, Expected::Offer).map(|v| v.offer), Ok(offer().1));
    }
}

#[test]
fn candidates_may_be_filtered_without_breaking_the_proof() {
    let (sdp, _) = offer();
    let filtered = crate::protocol::candidate::filter_sdp(&sdp, &Default::default());
    assert!(!filtered.contains("a=candidate"));
    assert!(check(&filtered, Expected::Offer).is_ok());
}

proptest! {
    #[test]
    fn a_proof_with_any_byte_changed_panics_never_and_holds_never_for_other_facts(at in 0usize..2000, byte in 0x20u8..0x7f) {
        let (sdp, _) = offer();
        let mut bytes = sdp.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        if let Ok(seen) = check(&changed, Expected::Offer) {
            prop_assert_eq!(seen.fingerprint, [0xab; 32]);
            prop_assert_eq!(seen.ufrag.as_str(), "ufrag");
            prop_assert_eq!(seen.setup, Setup::ActPass);
        }
    }

    #[test]
    fn any_proof_line_is_refused_without_panic(text in "[ -~]{0,200}") {
        let sdp = format!("a=handout-proof:1 {text}\r\n{}", example(0xab, "actpass", "ufrag", PWD));
        prop_assert!(check(&sdp, Expected::Offer).is_err());
    }
}
