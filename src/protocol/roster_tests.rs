use proptest::prelude::*;

use super::*;

pub(crate) fn draft(group: &str, devices: &[u8]) -> Draft {
    let member = |n: &u8| Member {
        id: Identity::from_seed(&[*n; 32]).device_id(),
        name: format!("Seat {n}"),
        roles: None,
    };
    Draft {
        group: group.to_owned(),
        note: "term 2".to_owned(),
        roles: None,
        devices: devices.iter().map(member).collect(),
    }
}

fn terms() -> Terms {
    Terms {
        version: 7,
        issued: 1000,
        expires: 2000,
    }
}

fn admin() -> Identity {
    Identity::from_seed(&[200; 32])
}

fn sign(draft: Draft) -> Result<Roster, RosterError> {
    Roster::sign(draft, terms(), &admin())
}

#[test]
fn a_signed_roster_is_read_as_it_was_written() {
    let mut class = draft("class 3b", &[1, 2]);
    class.roles = Some(Roles::RECEIVE);
    class.devices[1].roles = Some(Roles::ALL);
    let signed = sign(class.clone()).unwrap();
    let read = Roster::read(signed.as_bytes()).unwrap();
    assert_eq!(read, signed);
    assert_eq!(read.admin, admin().device_id());
    assert_eq!((read.group.as_str(), read.terms), ("class 3b", terms()));
    let roles: Vec<_> = class
        .devices
        .iter()
        .map(|member| read.members[&member.id].roles)
        .collect();
    assert_eq!(roles, [Some(Roles::RECEIVE), Some(Roles::ALL)]);
    assert_eq!(Draft::read(class.to_text().as_bytes()), Ok(class));
}

#[test]
fn a_roster_that_was_changed_or_signed_by_another_key_is_refused() {
    let signed = sign(draft("class", &[1])).unwrap();
    let text = String::from_utf8(signed.as_bytes().to_vec()).unwrap();
    let later = text.replace("2000", "9000");
    assert_ne!(text, later);
    let bad = Roster::read(later.as_bytes());
    assert_eq!(bad, Err(RosterError::BadSignature(KeyError::Mismatch)));
    let mut envelope: Envelope = serde_json::from_str(&text).unwrap();
    envelope.key = Identity::from_seed(&[9; 32]).public_key();
    let stolen = serde_json::to_vec(&envelope).unwrap();
    let bad = Roster::read(&stolen);
    assert_eq!(bad, Err(RosterError::BadSignature(KeyError::Mismatch)));
}

#[test]
fn each_bound_has_its_own_error() {
    let mut twice = draft("class", &[1, 1]);
    let id = twice.devices[0].id.clone();
    assert_eq!(sign(twice.clone()), Err(RosterError::Twice(id)));
    twice.devices[1].id = "kiosk".parse().unwrap();
    assert!(matches!(sign(twice), Err(RosterError::BadDevice(_))));

    let mut many = draft("class", &[]);
    many.devices = (0..1001u32)
        .map(|n| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            Member {
                id: DeviceId::of_key(&key),
                name: String::new(),
                roles: None,
            }
        })
        .collect();
    assert_eq!(sign(many.clone()), Err(RosterError::TooManyDevices(1001)));
    many.devices.pop();
    assert_eq!(sign(many).unwrap().members.len(), 1000);

    for name in ["a\u{1b}[2Jb", "a\u{202e}b", &"x".repeat(65)] {
        let mut named = draft("class", &[1]);
        named.devices[0].name = name.to_owned();
        assert_eq!(sign(named), Err(RosterError::BadText("a name")));
    }
    for note in ["a\nb", &"x".repeat(257)] {
        let mut noted = draft("class", &[1]);
        noted.note = note.to_owned();
        assert_eq!(sign(noted), Err(RosterError::BadText("the note")));
    }
    assert!(matches!(
        sign(draft("all", &[1])),
        Err(RosterError::Group(_))
    ));
    let long = vec![b' '; MAX_ROSTER + 1];
    assert_eq!(Roster::read(&long), Err(RosterError::TooLong(long.len())));
    assert_eq!(Draft::read(&long), Err(RosterError::TooLong(long.len())));

    for bad in [
        Terms {
            expires: 1000,
            ..terms()
        },
        Terms {
            version: 0,
            ..terms()
        },
        Terms {
            version: MAX_VERSION + 1,
            ..terms()
        },
    ] {
        let refused = Roster::sign(draft("class", &[1]), bad, &admin());
        assert_eq!(refused, Err(RosterError::BadTerms));
    }
}

#[test]
fn another_format_is_refused_also_when_it_is_signed() {
    let roster = r#"{"v":2,"version":7,"issued":1,"expires":2,"group":"a","devices":[]}"#;
    let sig = admin().sign(&statement(PURPOSE, &[roster.as_bytes()]));
    let (roster, key) = (roster.to_owned(), admin().public_key());
    let file = serde_json::to_vec(&Envelope { roster, key, sig }).unwrap();
    assert_eq!(Roster::read(&file), Err(RosterError::Format(2)));
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_read_without_panic(bytes: Vec<u8>, text: String) {
        let _ = Roster::read(&bytes);
        let _ = Draft::read(text.as_bytes());
    }

    #[test]
    fn drafts_survive_signing(names in proptest::collection::vec("[a-zé ]{0,20}", 0..20)) {
        let mut class = draft("class", &(0..names.len() as u8).collect::<Vec<_>>());
        for (member, name) in class.devices.iter_mut().zip(names) {
            member.name = name.trim().to_owned();
        }
        let signed = sign(class.clone()).unwrap();
        let members: Vec<_> = class.devices.iter().map(|m| signed.members[&m.id].clone()).collect();
        prop_assert_eq!(members, class.devices);
    }
}
