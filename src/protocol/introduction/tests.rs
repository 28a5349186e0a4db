use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;
const SKEW: u64 = 300;

fn who(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn id(seed: u8) -> DeviceId {
    who(seed).device_id()
}

fn bundle(n: u8) -> BundleId {
    BundleId([n; 32])
}

/// Device 1 introduces 2 and 3 to each other.
fn made() -> Introduction {
    Introduction::new(&who(1), bundle(7), &id(2), &id(3), NOW, 3600, [9; 16])
}

fn checked(
    introduction: &Introduction,
    change: impl FnOnce(&mut Terms<'_>),
) -> Result<(DeviceId, u64), IntroductionError> {
    checked_by(2, 1, introduction, change)
}

fn checked_by(
    ours: u8,
    from: u8,
    introduction: &Introduction,
    change: impl FnOnce(&mut Terms<'_>),
) -> Result<(DeviceId, u64), IntroductionError> {
    let mut terms = Terms {
        now: NOW,
        ours: &id(ours),
        from: &id(from),
        skew: SKEW,
        may_introduce: true,
        interested: true,
    };
    change(&mut terms);
    introduction.check(&terms)
}

#[test]
fn an_origin_introduces_two_receivers_to_each_other() {
    assert_eq!(checked(&made(), |_| ()), Ok((id(3), NOW + 3600)));
    assert_eq!(checked_by(3, 1, &made(), |_| ()), Ok((id(2), NOW + 3600)));
    let json = serde_json::to_string(&made()).unwrap();
    let read: Introduction = serde_json::from_str(&json).unwrap();
    assert_eq!(read, made());
}

#[test]
fn whoever_passes_an_introduction_of_somebody_else_on_is_not_believed() {
    assert_eq!(
        checked_by(2, 4, &made(), |_| ()),
        Err(IntroductionError::NotFromItsMaker)
    );
}

#[test]
fn an_introduction_of_other_devices_is_not_for_us() {
    assert_eq!(
        checked_by(4, 1, &made(), |_| ()),
        Err(IntroductionError::NotAboutUs)
    );
}

#[test]
fn nobody_is_introduced_to_himself_or_by_himself_or_without_a_key() {
    let again = |a: &DeviceId, b: &DeviceId| {
        let made = Introduction::new(&who(1), bundle(7), a, b, NOW, 3600, [9; 16]);
        checked(&made, |_| ())
    };
    let plain: DeviceId = "plain".parse().unwrap();
    for (a, b) in [(id(2), id(2)), (id(1), id(2)), (id(2), plain)] {
        assert_eq!(again(&a, &b), Err(IntroductionError::NotAPair));
    }
    let mut swapped = made();
    std::mem::swap(&mut swapped.first, &mut swapped.second);
    assert_eq!(checked(&swapped, |_| ()), Err(IntroductionError::NotAPair));
}

#[test]
fn a_device_that_was_itself_introduced_cannot_introduce() {
    assert_eq!(
        checked(&made(), |terms| terms.may_introduce = false),
        Err(IntroductionError::MayNot)
    );
}

#[test]
fn an_introduction_for_a_bundle_that_is_not_from_its_maker_is_refused() {
    assert_eq!(
        checked(&made(), |terms| terms.interested = false),
        Err(IntroductionError::OtherBundle)
    );
}

#[test]
fn an_introduction_holds_from_its_issue_to_its_end_and_a_day_at_most() {
    let late = |now| checked(&made(), |terms| terms.now = now);
    assert!(late(NOW - SKEW).is_ok());
    assert_eq!(late(NOW - SKEW - 1), Err(IntroductionError::NotNow));
    assert!(late(NOW + 3600 + SKEW - 1).is_ok());
    assert_eq!(late(NOW + 3600 + SKEW), Err(IntroductionError::NotNow));
    let lasting = |lifetime| {
        let made = Introduction::new(&who(1), bundle(7), &id(2), &id(3), NOW, lifetime, [9; 16]);
        checked(&made, |_| ())
    };
    assert!(lasting(MAX_LIFETIME).is_ok());
    assert_eq!(lasting(MAX_LIFETIME + 1), Err(IntroductionError::Lifetime));
    let mut backwards = made();
    backwards.expires = backwards.issued - 1;
    assert_eq!(
        checked(&backwards, |_| ()),
        Err(IntroductionError::Lifetime)
    );
}

#[test]
fn a_clock_that_is_behind_does_not_make_an_introduction_last_longer_than_signed() {
    let (_, until) = checked(&made(), |terms| terms.now = NOW - SKEW).unwrap();
    assert_eq!(until, NOW - SKEW + 3600);
}

#[test]
fn nothing_of_a_signed_introduction_can_be_changed() {
    let changes: [fn(&mut Introduction); 5] = [
        |made| made.bundle = bundle(8),
        |made| made.issued -= 1,
        |made| made.expires += 1,
        |made| made.nonce = b64(&[8; 16]),
        |made| made.sig.0[0] ^= 1,
    ];
    for change in changes {
        let mut changed = made();
        change(&mut changed);
        assert_eq!(checked(&changed, |_| ()), Err(IntroductionError::Signature));
    }
    let mut other = made();
    let (first, second) = ordered(&id(2), &id(5));
    (other.first, other.second) = (first, second);
    assert_eq!(checked(&other, |_| ()), Err(IntroductionError::Signature));
    let mut short = made();
    short.nonce = b64(&[9; 15]);
    assert_eq!(checked(&short, |_| ()), Err(IntroductionError::BadNonce));
}

fn entry(peer: u8, by: u8, of: u8, until: u64) -> Introduced {
    Introduced {
        peer: id(peer),
        by: id(by),
        bundle: bundle(of),
        until,
    }
}

fn bundles(book: &Introductions, peer: u8, now: u64) -> Vec<BundleId> {
    book.allowed(&id(peer), now)
        .map(|entry| entry.bundle)
        .collect()
}

#[test]
fn a_device_is_allowed_the_bundles_it_is_introduced_for_and_no_other() {
    let mut book = Introductions::default();
    assert!(book.add(entry(2, 1, 7, NOW + 10)));
    assert!(!book.add(entry(2, 1, 7, NOW + 20)), "said before");
    assert!(book.add(entry(3, 1, 8, NOW + 10)));
    assert_eq!(bundles(&book, 2, NOW + 19), [bundle(7)]);
    assert_eq!(bundles(&book, 2, NOW + 20), []);
    assert_eq!(bundles(&book, 3, NOW), [bundle(8)]);
    assert_eq!(bundles(&book, 4, NOW), []);
}

#[test]
fn no_introducer_can_crowd_out_the_others() {
    let mut book = Introductions::default();
    let peer = |n: usize| -> DeviceId { format!("peer{n}").parse().unwrap() };
    let by = |introducer: u8, n: usize| Introduced {
        peer: peer(n),
        by: id(introducer),
        bundle: bundle(7),
        until: NOW,
    };
    for n in 0..MAX_BY_ONE {
        assert!(book.add(by(1, n)));
    }
    assert!(!book.add(by(1, MAX_BY_ONE)));
    assert!(book.add(by(2, MAX_BY_ONE)));
}

#[test]
fn only_its_introducer_ends_an_introduction() {
    let mut book = Introductions::default();
    book.add(entry(2, 1, 7, NOW));
    assert!(!book.end(&id(4), &id(2), &bundle(7)));
    assert!(!book.end(&id(1), &id(2), &bundle(8)));
    assert!(book.end(&id(1), &id(2), &bundle(7)));
    assert_eq!(book.iter().count(), 0);
}

#[test]
fn introductions_end_with_their_time_and_with_the_interest_in_the_bundle() {
    let mut book = Introductions::default();
    book.add(entry(2, 1, 7, NOW + 10));
    book.add(entry(3, 1, 7, NOW + 20));
    book.add(entry(3, 1, 8, NOW + 20));
    book.retain(NOW + 10, |entry| entry.bundle == bundle(7));
    assert_eq!(book.iter().collect::<Vec<_>>(), [&entry(3, 1, 7, NOW + 20)]);
}

#[test]
fn a_revoked_device_is_neither_introduced_nor_an_introducer_until_it_is_let_in_again() {
    let mut book = Introductions::default();
    book.add(entry(2, 1, 7, NOW + 10));
    book.add(entry(3, 2, 8, NOW + 10));
    book.revoke(&id(2));
    assert_eq!(book.iter().count(), 0);
    assert!(!book.add(entry(2, 1, 7, NOW + 10)));
    book.unbar(&id(2));
    assert!(book.add(entry(2, 1, 7, NOW + 10)));
}

#[test]
fn a_liar_is_out_for_the_bundle_it_lied_about() {
    let mut book = Introductions::default();
    book.add(entry(2, 1, 7, NOW + 10));
    book.add(entry(2, 1, 8, NOW + 10));
    book.distrust(&id(2), &id(1), &bundle(7));
    assert_eq!(bundles(&book, 2, NOW), [bundle(8)]);
    assert!(!book.add(entry(2, 1, 7, NOW + 10)));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_the_books_stay_bounded(
        text in ".{0,300}",
        entries in proptest::collection::vec((0u8..40, 0u8..40, 0u8..40), 0..600),
    ) {
        let _ = serde_json::from_str::<Introduction>(&text);
        let mut book = Introductions::default();
        for (peer, by, of) in entries {
            book.add(Introduced {
                peer: format!("peer{peer}").parse().unwrap(),
                by: format!("by{by}").parse().unwrap(),
                bundle: bundle(of),
                until: NOW,
            });
            prop_assert!(book.iter().count() <= MAX_INTRODUCTIONS);
        }
        for n in 0..MAX_BARS + 10 {
            book.revoke(&format!("d{n}").parse().unwrap());
        }
        prop_assert_eq!(book.barred.len(), MAX_BARS);
    }
}
