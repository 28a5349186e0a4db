use super::super::identity::Identity;
use super::super::roster::{Draft, Member, Terms};
use super::super::rotation::{ChainError, Rotation};
use super::*;

const NOW: u64 = 10_000;
const SKEW: u64 = 300;

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn id(n: u8) -> DeviceId {
    identity(n).device_id()
}

fn entry(n: u8) -> Authorization {
    Authorization {
        device: id(n),
        name: format!("Room {n}"),
        key: None,
        since: 1,
        by: GrantedBy::Person,
        expires: None,
        roles: None,
        via: None,
    }
}

fn book(pages: Pages) -> TrustBook {
    TrustBook::new(id(0), pages)
}

/// A book with one decision.
fn with(entry: Authorization) -> TrustBook {
    book(Pages {
        authorizations: vec![entry],
        ..Pages::default()
    })
}

#[test]
fn one_purpose_lets_a_device_in_for_its_time_and_what_it_needs_and_never_a_revoked_one() {
    let mut book = with(entry(1));
    let vouched = |roles, until| Vouched {
        roles,
        until,
        why: "for one request".to_owned(),
    };
    let receives = vouched(Roles::RECEIVE, NOW + 10);
    let first = book.vouch(id(2), receives.clone(), NOW).unwrap();
    assert!(book.lets_in(&id(2), NOW) && !book.is_member(&id(2), NOW));
    assert_eq!(book.roles_for_purposes(&id(2), NOW), Roles::RECEIVE);
    assert_eq!(book.roles(&id(2), NOW), Roles::NONE, "and nothing else");
    assert_eq!(
        book.why(&id(2), NOW),
        ("for one request".to_owned(), Some(NOW + 10))
    );
    assert_eq!(
        book.all_let_in(NOW),
        [id(1)],
        "it is none of those who get what all get"
    );
    assert!(!book.lets_in(&id(2), NOW + 10), "it ends by itself");

    // Each purpose holds until it is over, and gives what it needs.
    let sends = vouched(Roles::SEND, NOW + 20);
    let second = book.vouch(id(2), sends, NOW).unwrap();
    let both = Roles::RECEIVE.union(Roles::SEND);
    assert_eq!(book.roles_for_purposes(&id(2), NOW), both);
    assert_eq!(book.roles_for_purposes(&id(2), NOW + 15), Roles::SEND);
    book.unvouch(&id(2), second);
    assert_eq!(book.roles_for_purposes(&id(2), NOW), Roles::RECEIVE);
    book.unvouch(&id(2), second);
    assert!(book.lets_in(&id(2), NOW), "another one is not ended by it");
    book.unvouch(&id(2), first);
    assert!(!book.lets_in(&id(2), NOW));

    // What a person decided stays as it is.
    let mut narrow = entry(3);
    narrow.roles = Some(Roles::SEND);
    book.authorize(narrow);
    book.vouch(id(3), receives.clone(), NOW).unwrap();
    assert_eq!(book.roles_for_purposes(&id(3), NOW), Roles::RECEIVE);
    assert_eq!(book.roles(&id(3), NOW), Roles::SEND);
    book.revoke(&id(3));
    assert!(book.vouch(id(3), receives.clone(), NOW).is_err());
    assert_eq!(book.roles_for_purposes(&id(3), NOW), Roles::NONE);
    book.vouch(id(4), receives, NOW).unwrap();
    book.revoke(&id(4));
    assert!(!book.lets_in(&id(4), NOW), "a person's word ends it");
}

#[test]
fn so_many_devices_are_let_in_for_one_purpose_and_those_that_are_over_make_room() {
    let mut book = book(Pages::default());
    let device = |n: u64| DeviceId::of_key(blake3::hash(&n.to_be_bytes()).as_bytes());
    let vouched = |until| Vouched {
        roles: Roles::RECEIVE,
        until,
        why: String::new(),
    };
    for n in 0..MAX_VOUCHED as u64 {
        book.vouch(device(n), vouched(NOW + 10), NOW).unwrap();
    }
    assert!(book.vouch(device(5000), vouched(NOW + 10), NOW).is_err());
    let one_more = book.vouch(device(0), vouched(NOW + 10), NOW);
    assert!(one_more.is_err(), "purposes count, also of one device");
    book.vouch(device(5000), vouched(NOW + 20), NOW + 10)
        .expect("the others are over");
}

/// A roster of the admin with this number.
fn roster(admin: u8, version: u64, devices: &[u8]) -> Roster {
    let terms = Terms {
        version,
        issued: NOW - 1000,
        expires: NOW + 1000,
    };
    roster_with(admin, terms, devices)
}

fn roster_with(admin: u8, terms: Terms, devices: &[u8]) -> Roster {
    let member = |n: &u8| Member {
        id: id(*n),
        name: format!("Seat {n}"),
        roles: None,
    };
    let draft = Draft {
        group: "class".to_owned(),
        note: String::new(),
        roles: None,
        devices: devices.iter().map(member).collect(),
    };
    Roster::sign(draft, terms, &identity(admin)).unwrap()
}

fn group(members: &[u8], roles: Option<Roles>) -> Group {
    Group {
        name: "class".to_owned(),
        members: members.iter().map(|n| id(*n)).collect(),
        roles,
    }
}

#[test]
fn a_stranger_may_nothing_and_an_authorized_device_everything() {
    let book = with(entry(1));
    assert_eq!(book.roles(&id(1), NOW), Roles::ALL);
    assert_eq!(book.roles(&id(2), NOW), Roles::NONE);
    assert_eq!(book.all_let_in(NOW), [id(1)]);
    assert_eq!(book.why(&id(1), NOW), ("by a person".to_owned(), None));
}

#[test]
fn a_decision_ends_when_it_expires() {
    let book = with(Authorization {
        expires: Some(NOW),
        ..entry(1)
    });
    assert!(book.lets_in(&id(1), NOW - 1));
    assert_eq!(book.why(&id(1), NOW - 1).1, Some(NOW));
    assert!(!book.lets_in(&id(1), NOW));
    assert_eq!(book.roles(&id(1), NOW), Roles::NONE);
    assert!(book.why(&id(1), NOW).0.contains("expired"));
}

#[test]
fn own_roles_count_before_those_of_groups_and_those_add_up() {
    let mut book = with(entry(1));
    book.put_group(group(&[1, 2], Some(Roles::RECEIVE)));
    assert_eq!(book.roles(&id(1), NOW), Roles::RECEIVE);
    // That it is in a group does not let it in.
    assert_eq!(book.roles(&id(2), NOW), Roles::NONE);
    book.put_group(Group {
        name: "helpers".to_owned(),
        ..group(&[1], Some(Roles::RELAY))
    });
    let both = Roles::RECEIVE.union(Roles::RELAY);
    assert_eq!(book.roles(&id(1), NOW), both);
    book.authorize(Authorization {
        roles: Some(Roles::SEND),
        ..entry(1)
    });
    assert_eq!(book.roles(&id(1), NOW), Roles::SEND);
    assert_eq!(book.groups_of(&id(1), NOW), ["class", "helpers"]);
}

#[test]
fn what_a_person_revoked_stays_out_until_a_person_authorizes_it_again() {
    let mut book = book(Pages {
        authorizations: vec![entry(1)],
        configured: vec![(id(1), None)],
        rosters: vec![roster(9, 1, &[1])],
        ..Pages::default()
    });
    assert_eq!(book.grounds(&id(1), NOW).len(), 3);
    book.revoke(&id(1));
    assert!(!book.lets_in(&id(1), NOW) && book.grounds(&id(1), NOW).is_empty());
    assert!(book.why(&id(1), NOW).0.contains("revoked"));
    for by in [GrantedBy::Invite, GrantedBy::Roster, GrantedBy::Rotation] {
        assert!(!book.authorize(Authorization { by, ..entry(1) }), "{by:?}");
        assert!(!book.lets_in(&id(1), NOW), "{by:?}");
    }
    book.put_roster(roster(9, 2, &[1]));
    assert!(!book.lets_in(&id(1), NOW));
    assert!(book.authorize(entry(1)));
    assert!(book.lets_in(&id(1), NOW));
}

#[test]
fn a_roster_lets_its_devices_in_until_it_expires_or_a_newer_one_drops_them() {
    let mut book = with(entry(2));
    book.put_roster(roster(9, 7, &[0, 1, 2]));
    assert_eq!(book.all_let_in(NOW).len(), 2, "never ourselves");
    assert_eq!(book.members("class", NOW).unwrap().len(), 2);
    assert_eq!(book.groups_of(&id(1), NOW), ["class"]);
    assert_eq!(book.name_of(&id(1)), Some("Seat 1"));
    let (why, until) = book.why(&id(1), NOW);
    assert_eq!(
        why,
        format!("by roster class of {}, version 7", id(9).short())
    );
    assert_eq!(until, Some(NOW + 1000));
    assert!(!book.lets_in(&id(1), NOW + 1000));
    assert!(book.why(&id(1), NOW + 1000).0.contains("expired"));
    book.put_roster(roster(9, 8, &[3]));
    assert!(!book.lets_in(&id(1), NOW));
    assert!(book.lets_in(&id(3), NOW));
    assert!(book.lets_in(&id(2), NOW), "its own decision still holds");
}

#[test]
fn a_roster_gives_its_roles() {
    let mut draft = Draft {
        group: "class".to_owned(),
        note: String::new(),
        roles: Some(Roles::RECEIVE),
        devices: Vec::new(),
    };
    for (n, roles) in [(1, None), (2, Some(Roles::SEND))] {
        let (id, name) = (id(n), String::new());
        draft.devices.push(Member { id, name, roles });
    }
    let terms = roster(9, 1, &[]).terms;
    let mut book = with(entry(3));
    book.put_roster(Roster::sign(draft, terms, &identity(9)).unwrap());
    assert_eq!(book.roles(&id(1), NOW), Roles::RECEIVE);
    assert_eq!(book.roles(&id(2), NOW), Roles::SEND);
}

#[test]
fn only_an_admin_that_somebody_named_may_bring_a_roster() {
    let class = roster(9, 1, &[1]);
    let unknown = Err(RosterError::UnknownAdmin {
        admin: id(9),
        group: "class".to_owned(),
    });
    // An authorized device is not an admin by that.
    let mut book = with(entry(9));
    assert_eq!(book.admit(&class, None, NOW, SKEW), unknown);
    let named = book.admit(&class, Some(&id(9)), NOW, SKEW);
    assert_eq!(named, Ok(Admission::New));
    let other = book.admit(&class, Some(&id(8)), NOW, SKEW);
    assert!(matches!(other, Err(RosterError::OtherAdmin { .. })));
    book.put_roster(class.clone());
    assert_eq!(
        book.admit(&roster(9, 2, &[]), None, NOW, SKEW),
        Ok(Admission::New)
    );
    let second = book.admit(&roster(8, 9, &[]), None, NOW, SKEW);
    assert!(matches!(second, Err(RosterError::UnknownAdmin { .. })));
    book.revoke(&id(9));
    assert_eq!(book.admit(&class, Some(&id(9)), NOW, SKEW), unknown);

    let by_config = TrustBook::new(
        id(0),
        Pages {
            admins: vec![id(9)],
            ..Pages::default()
        },
    );
    assert!(by_config.admit(&class, None, NOW, SKEW).is_ok());
    let by_itself = TrustBook::new(id(9), Pages::default());
    assert!(by_itself.admit(&class, None, NOW, SKEW).is_ok());
}

#[test]
fn a_roster_is_never_rolled_back_also_when_only_its_version_is_left() {
    let seven = roster(9, 7, &[1]);
    let mut book = with(entry(2));
    book.put_roster(seven.clone());
    let admit = |book: &TrustBook, roster: &Roster| book.admit(roster, None, NOW, SKEW);
    assert_eq!(admit(&book, &seven), Ok(Admission::Known));
    let rolled_back = Err(RosterError::RolledBack {
        version: 6,
        seen: 7,
    });
    assert_eq!(admit(&book, &roster(9, 6, &[1])), rolled_back);
    assert_eq!(
        admit(&book, &roster(9, 7, &[1, 2])),
        Err(RosterError::Forked(7))
    );
    assert_eq!(admit(&book, &roster(9, 8, &[1])), Ok(Admission::New));

    let floor = book.floor(&id(9), "class").unwrap().clone();
    assert_eq!(book.remove_group("class").len(), 1);
    assert!(!book.lets_in(&id(1), NOW));
    assert_eq!(admit(&book, &roster(9, 6, &[1])), rolled_back);
    assert_eq!(admit(&book, &seven), Ok(Admission::New));
    let later = TrustBook::new(
        id(0),
        Pages {
            floors: vec![floor],
            ..Pages::default()
        },
    );
    assert_eq!(admit(&later, &roster(9, 6, &[1])), rolled_back);
    assert_eq!(admit(&later, &seven), Ok(Admission::New));
}

#[test]
fn a_roster_that_is_over_or_from_the_future_is_refused() {
    let book = with(entry(2));
    let admit = |issued, expires| {
        let terms = Terms {
            version: 1,
            issued,
            expires,
        };
        book.admit(&roster_with(9, terms, &[1]), Some(&id(9)), NOW, SKEW)
    };
    assert_eq!(admit(1, NOW), Err(RosterError::Expired(0)));
    assert_eq!(admit(1, NOW + 1), Ok(Admission::New));
    assert_eq!(admit(NOW + SKEW, NOW + 9999), Ok(Admission::New));
    let ahead = Err(RosterError::FromTheFuture(SKEW + 1));
    assert_eq!(admit(NOW + SKEW + 1, NOW + 9999), ahead);
}

#[test]
fn everything_that_was_said_of_a_device_follows_its_new_key() {
    let mut book = book(Pages {
        authorizations: vec![Authorization {
            expires: Some(NOW + 5),
            roles: Some(Roles::SEND),
            ..entry(1)
        }],
        configured: vec![(id(2), Some("kiosk".to_owned()))],
        groups: vec![group(&[1, 2], None)],
        rosters: vec![roster(9, 7, &[3])],
        ..Pages::default()
    });
    for (old, new) in [(1, 11), (2, 12), (3, 13), (9, 19)] {
        assert!(book.follow(&id(old), &id(new), NOW), "{old}");
        assert!(!book.lets_in(&id(old), NOW), "{old}");
    }
    assert_eq!(book.roles(&id(11), NOW), Roles::SEND);
    let moved = book.authorization(&id(11)).unwrap();
    assert_eq!(
        (moved.expires, moved.by),
        (Some(NOW + 5), GrantedBy::Rotation)
    );
    assert_eq!(moved.via, Some(id(1).to_string()));
    assert!(book.lets_in(&id(12), NOW) && book.lets_in(&id(13), NOW));
    assert_eq!(book.name_of(&id(12)), Some("kiosk"));
    let mut members = vec![id(11), id(12), id(13)];
    members.sort();
    assert_eq!(book.members("class", NOW), Some(members.clone()));
    assert_eq!(book.all_let_in(NOW), members);
    // An admin's new key goes on where the old one was.
    let older = book.admit(&roster(19, 6, &[]), None, NOW, SKEW);
    assert!(matches!(older, Err(RosterError::RolledBack { .. })));
    assert!(book.admit(&roster(19, 8, &[]), None, NOW, SKEW).is_ok());
    book.put_roster(roster(19, 8, &[]));
    assert!(
        !book.lets_in(&id(13), NOW),
        "it took the place of the old one"
    );
}

#[test]
fn a_key_that_was_given_up_revoked_or_unknown_leads_nowhere() {
    let mut book = with(entry(1));
    book.authorize(entry(2));
    book.authorize(entry(3));
    assert!(!book.follow(&id(5), &id(6), NOW), "nobody knows it");
    assert!(book.follow(&id(1), &id(11), NOW));
    assert!(!book.follow(&id(1), &id(66), NOW), "it is given up");
    assert!(!book.follow(&id(2), &id(11), NOW), "the new one is in use");
    assert!(!book.follow(&id(11), &id(1), NOW), "no circles");
    book.revoke(&id(2));
    assert!(!book.follow(&id(2), &id(12), NOW) && !book.lets_in(&id(12), NOW));
    assert!(!book.follow(&id(3), &id(2), NOW), "the new one was revoked");
    assert!(!book.follow(&id(3), &id(0), NOW), "the new one is ours");
    book.revoke(&id(11));
    assert!(!book.lets_in(&id(11), NOW));
    assert!(book.authorize(entry(1)), "a person may mean the old one");
    assert!(book.lets_in(&id(1), NOW) && !book.lets_in(&id(11), NOW));
}

#[test]
fn names_that_would_mean_something_else_are_no_groups() {
    for good in ["class-3b", "Raum Süd", "3B", "a@b"] {
        assert_eq!(check_group_name(good), Ok(()));
    }
    let long = "x".repeat(MAX_GROUP_NAME + 1);
    for bad in [
        "",
        "all",
        "@a",
        "a,b",
        "a/b",
        " a",
        "a\n",
        "a\u{202e}b",
        &long,
    ] {
        assert!(check_group_name(bad).is_err(), "{bad:?}");
    }
}

fn change(old: u8, new: u8) -> Rotation {
    Rotation::sign(&identity(old), &identity(new), NOW)
}

/// Follows all that a chain shows.
fn shown(book: &mut TrustBook, chain: &[Rotation], device: u8) -> Result<usize, NotFollowed> {
    let moves = book.consider(chain, &id(device))?;
    for (old, new) in &moves {
        assert!(book.follow(old, new, NOW), "{old} to {new}");
    }
    Ok(moves.len())
}

#[test]
fn a_device_is_followed_over_several_keys_at_once_and_from_where_it_was_known() {
    let chain = [change(1, 2), change(2, 3), change(3, 4)];
    for known in 1..=3 {
        let mut book = with(entry(known));
        assert_eq!(shown(&mut book, &chain, 4), Ok(4 - usize::from(known)));
        assert!(book.lets_in(&id(4), NOW));
        assert!((1..4).all(|n| !book.lets_in(&id(n), NOW)));
        assert_eq!(shown(&mut book, &chain, 4), Ok(0), "all of it is known");
        let replayed = shown(&mut book, &chain[..2], 3);
        let unknown = Err(NotFollowed::Unknown);
        assert_eq!(replayed, if known == 3 { unknown } else { Ok(0) });
        assert!(book.lets_in(&id(4), NOW) && !book.lets_in(&id(3), NOW));
    }
}

#[test]
fn a_change_that_proves_nothing_or_may_not_count_changes_nothing() {
    let mut book = with(entry(1));
    book.authorize(entry(5));
    book.authorize(entry(7));
    book.revoke(&id(7));
    let by_thief = Rotation {
        old_sig: change(9, 2).old_sig,
        ..change(1, 2)
    };
    let without_consent = Rotation {
        new_sig: change(1, 9).new_sig,
        ..change(1, 2)
    };
    for forged in [by_thief, without_consent] {
        let refused = shown(&mut book, &[forged], 2);
        assert!(matches!(
            refused,
            Err(NotFollowed::Chain(ChainError::Signature(_)))
        ));
    }
    let chain = |book: &mut TrustBook, chain: &[Rotation], device| shown(book, chain, device);
    let never = chain(&mut book, &[change(8, 9)], 9);
    assert_eq!(never, Err(NotFollowed::Unknown));
    let revoked = chain(&mut book, &[change(7, 9)], 9);
    assert_eq!(revoked, Err(NotFollowed::Revoked(id(7))));
    let to_revoked = chain(&mut book, &[change(1, 7)], 7);
    assert_eq!(to_revoked, Err(NotFollowed::Revoked(id(7))));
    let through = chain(&mut book, &[change(1, 7), change(7, 9)], 9);
    assert_eq!(through, Err(NotFollowed::Revoked(id(7))));
    let to_ours = chain(&mut book, &[change(1, 0)], 0);
    assert_eq!(to_ours, Err(NotFollowed::InUse(id(0))));
    let borrowed = chain(&mut book, &[change(1, 2)], 3);
    assert_eq!(borrowed, Err(NotFollowed::Chain(ChainError::Broken)));
    assert!(book.lets_in(&id(1), NOW) && !book.lets_in(&id(2), NOW) && !book.lets_in(&id(9), NOW));

    assert_eq!(chain(&mut book, &[change(1, 2)], 2), Ok(1));
    let (earlier, next) = (id(1), id(2));
    let twice = chain(&mut book, &[change(1, 3)], 3);
    assert_eq!(twice, Err(NotFollowed::GivenUp { earlier, next }));
    let merged = chain(&mut book, &[change(5, 2)], 2);
    assert_eq!(merged, Err(NotFollowed::InUse(id(2))));
    let back = chain(&mut book, &[change(2, 1)], 1);
    assert_eq!(back, Err(NotFollowed::InUse(id(1))));
    assert!(book.lets_in(&id(2), NOW) && book.lets_in(&id(5), NOW));
}

#[test]
fn a_group_follows_when_only_the_change_of_key_was_put_down() {
    let book = book(Pages {
        authorizations: vec![entry(11)],
        groups: vec![group(&[1, 3], Some(Roles::RECEIVE))],
        moves: vec![(id(1), id(2)), (id(2), id(11))],
        ..Pages::default()
    });
    assert_eq!(book.groups_of(&id(11), NOW), ["class"]);
    assert_eq!(book.roles(&id(11), NOW), Roles::RECEIVE);
    assert_eq!(book.group("class").unwrap().members.len(), 2);
}
