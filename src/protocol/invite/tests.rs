//! What a token is, and whom an invite lets in.

use proptest::prelude::*;

use super::*;

fn device(n: u8) -> DeviceId {
    DeviceId::of_key(&[n; 32])
}

fn invite(addresses: Vec<SocketAddr>) -> Invite {
    Invite {
        issuer: device(1),
        secret: Secret::new([7; 16]),
        expires: 1_800_000_000,
        addresses,
    }
}

fn issued(uses: u32) -> Issued {
    let secret = Secret::new([7; 16]);
    Issued {
        id: secret.id(),
        secret,
        created: 1000,
        expires: 2000,
        uses,
        used: Vec::new(),
        group: Some("class-3b".to_owned()),
        roles: None,
        revoked: false,
        standing: None,
    }
}

const ON: Binding = [9; 32];

/// Device `n` shows the invite at `now`, with a mac that is right.
fn show(invite: &mut Issued, n: u8, now: u64) -> Result<bool, NotLetIn> {
    let mac = b64(&invite.secret.join_mac(&ON, &device(n), &device(1)));
    invite.redeem(&mac, &ON, &device(n), &device(1), now)
}

#[test]
fn a_token_fits_a_line_and_is_read_from_a_url_in_any_case_and_broken_over_lines() {
    let invite = invite(vec!["10.0.0.5:47800".parse().unwrap()]);
    let token = invite.token();
    assert!(token.len() <= 90, "{} characters", token.len());
    for text in [
        token.clone(),
        invite.url(),
        invite.url().to_ascii_uppercase(),
        format!(" {}\n  {}\n", &token[..40], &token[40..]),
    ] {
        assert_eq!(Invite::parse(&text).as_ref(), Ok(&invite), "{text}");
    }
}

#[test]
fn a_typing_error_is_told_as_such() {
    let token = invite(vec!["[fd00::5]:47800".parse().unwrap()]).token();
    for at in 0..token.len() {
        let wrong = if &token[at..=at] == "a" { "b" } else { "a" };
        let mut text = token.clone();
        text.replace_range(at..=at, wrong);
        let error = Invite::parse(&text).unwrap_err();
        // The last character holds spare bits, which must be zero.
        assert!(
            error == TokenError::Typo || at + 1 == token.len(),
            "{at}: {error}"
        );
    }
    assert_eq!(Invite::parse("hello!"), Err(TokenError::NotAToken));
    assert_eq!(Invite::parse(""), Err(TokenError::NotAToken));
    let long = "a".repeat(MAX_TEXT + 1);
    assert_eq!(Invite::parse(&long), Err(TokenError::NotAToken));
}

#[test]
fn of_a_long_text_nothing_is_read() {
    let token = invite(vec![]).token();
    let broken = |spaces| Invite::parse(&(token.clone() + &" ".repeat(spaces)));
    assert!(broken(MAX_TEXT - token.len()).is_ok());
    assert_eq!(
        broken(MAX_TEXT - token.len() + 1),
        Err(TokenError::NotAToken)
    );
}

#[test]
fn later_versions_and_nonsense_with_a_good_checksum_are_refused() {
    let sealed = |mut content: Vec<u8>| {
        content.extend(checksum(&content));
        Invite::parse(&BASE32_NOPAD.encode(&content))
    };
    let good = BASE32_NOPAD
        .decode(invite(vec![]).token().to_ascii_uppercase().as_bytes())
        .unwrap();
    let content = &good[..good.len() - 4];
    assert!(sealed(content.to_vec()).is_ok());
    let mut later = content.to_vec();
    later[0] = 2;
    assert_eq!(sealed(later), Err(TokenError::Version(2)));
    assert_eq!(sealed(content[..30].to_vec()), Err(TokenError::Malformed));
    let more = [content, &[0]].concat();
    assert_eq!(sealed(more), Err(TokenError::Malformed));
    let mut many = content.to_vec();
    many[41] = 9;
    many.extend([4, 1, 2, 3, 4, 0, 1].repeat(9));
    assert_eq!(sealed(many), Err(TokenError::Malformed));
}

#[test]
fn uses_are_counted_and_the_same_device_costs_one() {
    let mut invite = issued(2);
    assert_eq!(show(&mut invite, 2, 1500), Ok(true));
    assert_eq!(show(&mut invite, 2, 1500), Ok(false));
    assert_eq!(show(&mut invite, 3, 1500), Ok(true));
    assert_eq!(show(&mut invite, 4, 1500), Err(NotLetIn::UsedUp));
    assert_eq!(show(&mut invite, 3, 1500), Ok(false));
    assert_eq!((invite.left(), invite.used.len()), (0, 2));
}

#[test]
fn an_expired_or_revoked_invite_lets_nobody_in() {
    let mut invite = issued(2);
    assert_eq!(show(&mut invite, 2, 1999), Ok(true));
    assert_eq!(show(&mut invite, 3, 2000), Err(NotLetIn::Expired));
    assert_eq!(show(&mut invite, 2, 2000), Err(NotLetIn::Expired));
    invite.revoked = true;
    assert_eq!(show(&mut invite, 3, 1500), Err(NotLetIn::Revoked));
    assert_eq!(invite.left(), 1);
}

#[test]
fn only_the_secret_on_this_connection_by_this_device_counts_and_nothing_else_is_told() {
    let secret = Secret::new([7; 16]);
    let (joiner, issuer) = (device(2), device(1));
    let macs = [
        Secret::new([8; 16]).join_mac(&ON, &joiner, &issuer),
        secret.join_mac(&[8; 32], &joiner, &issuer),
        secret.join_mac(&ON, &device(3), &issuer),
        secret.join_mac(&ON, &joiner, &device(3)),
        secret.join_mac(&ON, &issuer, &joiner),
        secret.accepted_mac(&ON, &joiner, &issuer, None),
        [0; 32],
    ];
    let texts = macs.iter().map(|mac| b64(mac));
    for mac in texts.chain(["".to_owned(), "!".to_owned()]) {
        // Whether it has expired is for those who know the secret.
        for now in [1500, 2500] {
            let mut invite = issued(2);
            let shown = invite.redeem(&mac, &ON, &joiner, &issuer, now);
            assert_eq!(shown, Err(NotLetIn::Unknown));
            assert!(invite.used.is_empty());
        }
    }
    let group = secret.accepted_mac(&ON, &joiner, &issuer, Some("a"));
    let other = secret.accepted_mac(&ON, &joiner, &issuer, Some("b"));
    assert_ne!(group, other);
}

#[test]
fn the_secret_does_not_show_in_debug_output() {
    let secret = Secret::new([0x5a; 16]);
    let shown = format!("{:?}", issued(1)) + &format!("{secret:?}");
    assert!(!shown.contains("90, 90") && !shown.contains(&b64(&[0x5a; 16])));
}

fn addresses() -> impl Strategy<Value = Vec<SocketAddr>> {
    let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into());
    let v6 = (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into());
    proptest::collection::vec(prop_oneof![v4, v6], 0..=MAX_ADDRESSES)
}

proptest! {
    #[test]
    fn every_invite_is_read_as_it_was_written(
        key: [u8; 32], secret: [u8; 16], expires: u32, addresses in addresses()
    ) {
        let (issuer, secret) = (DeviceId::of_key(&key), Secret::new(secret));
        let invite = Invite { issuer, secret, expires, addresses };
        prop_assert_eq!(Invite::parse(&invite.token()), Ok(invite.clone()));
        prop_assert_eq!(Invite::parse(&invite.url()), Ok(invite));
    }

    #[test]
    fn whatever_is_read_is_written_the_same(text in "[ -~]{0,200}|[a-z2-7]{0,200}") {
        if let Ok(invite) = Invite::parse(&text) {
            prop_assert_eq!(Invite::parse(&invite.token()), Ok(invite));
        }
    }

    #[test]
    fn an_invite_never_lets_more_devices_in_than_it_is_for(
        uses in 1u32..6, shown in proptest::collection::vec((0u8..12, 1500u64..2500), 0..40)
    ) {
        let mut invite = issued(uses);
        let mut let_in = std::collections::HashSet::new();
        for (n, now) in shown {
            if show(&mut invite, n, now).is_ok() {
                let_in.insert(n);
            }
        }
        prop_assert!(let_in.len() <= uses as usize);
        prop_assert_eq!(let_in.len(), invite.used.len());
    }
}

#[test]
fn an_invite_that_stands_counts_anew_each_day_and_never_expires() {
    let mut invite = issued(2);
    invite.standing = Some(Standing { day: 0, stay: 60 });
    assert_eq!(show(&mut invite, 2, 100), Ok(true));
    assert_eq!(show(&mut invite, 3, 200), Ok(true));
    assert_eq!(show(&mut invite, 2, 300), Ok(false), "it is in already");
    assert_eq!(show(&mut invite, 4, 400), Err(NotLetIn::UsedUp));
    // Long after its time; and a clock that goes back.
    for now in [DAY, 4000 * DAY, 7 * DAY] {
        assert_eq!(show(&mut invite, 5, now), Ok(true));
        assert_eq!(show(&mut invite, 6, now), Ok(true));
        assert_eq!(show(&mut invite, 7, now), Err(NotLetIn::UsedUp));
        assert!(!invite.is_forgotten(now));
    }
    assert_eq!(invite.stay(100), Some(160));
    invite.revoked = true;
    assert_eq!(show(&mut invite, 8, 9 * DAY), Err(NotLetIn::Revoked));
}
