use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;
const SKEW: u64 = 300;

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn ids(a: u8, b: u8) -> (DeviceId, DeviceId) {
    (identity(a).device_id(), identity(b).device_id())
}

fn corner(a: u8, b: u8, now: u64) -> Corner {
    let (writer, reader) = ids(a, b);
    Corner::at(&writer, &reader, now)
}

fn note(now: u64) -> Note {
    let addresses = ["203.0.113.5:7000", "[2001:db8::5]:7000"];
    Note::new(addresses.map(|text| text.parse().unwrap()), now)
}

fn sealed(now: u64) -> Vec<u8> {
    let sealed = note(now).seal(&corner(1, 2, now), &identity(1), [9; 12]);
    sealed.unwrap()
}

#[test]
fn a_note_is_read_by_whoever_knows_both_ids_and_nobody_else() {
    let sealed = sealed(NOW);
    assert_eq!(sealed.len(), SIZE);
    assert_eq!(
        Note::open(&sealed, &corner(1, 2, NOW), NOW, SKEW),
        Ok(note(NOW))
    );
    for other in [
        corner(2, 1, NOW),
        corner(1, 3, NOW),
        corner(3, 2, NOW),
        corner(1, 2, NOW + DAY),
    ] {
        assert_eq!(
            Note::open(&sealed, &other, NOW, SKEW),
            Err(NoteError::Unreadable)
        );
        assert_ne!(other.seed, corner(1, 2, NOW).seed);
    }
    // What is in it does not show in its size.
    let empty = Note::new([], NOW).seal(&corner(1, 2, NOW), &identity(1), [9; 12]);
    assert_eq!(empty.unwrap().len(), SIZE);
    assert!(!format!("{:?}", corner(1, 2, NOW)).contains("seed"));
}

#[test]
fn only_the_writers_own_signature_counts() {
    let corner = corner(1, 2, NOW);
    // Whoever knows both ids can seal something, but not in the writer's name.
    assert_eq!(note(NOW).seal(&corner, &identity(3), [9; 12]), None);
    let seal = |mut plain: Vec<u8>| {
        plain.resize(PLAIN, 0);
        let nonce = aead::Nonce::assume_unique_for_key([9; 12]);
        let cipher = corner.cipher().unwrap();
        cipher
            .seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut plain)
            .unwrap();
        [vec![9; 12], plain].concat()
    };
    let body = |key: &Identity| note(NOW).head_and_addresses(&key.public_key());
    let signed = |body: &[u8], by: &Identity| {
        let signature = by.sign(&said(&corner, body)).0;
        [body, &signature].concat()
    };
    let open = |sealed: Vec<u8>| Note::open(&sealed, &corner, NOW, SKEW);
    let (own, foreign) = (body(&identity(1)), body(&identity(3)));
    assert_eq!(open(seal(signed(&own, &identity(1)))), Ok(note(NOW)));
    assert_eq!(
        open(seal(signed(&own, &identity(3)))),
        Err(NoteError::Forged)
    );
    assert_eq!(
        open(seal(signed(&foreign, &identity(3)))),
        Err(NoteError::Forged)
    );
    assert_eq!(open(seal(own.clone())), Err(NoteError::Forged));
    let mut later = own.clone();
    later[0] = 2;
    assert_eq!(
        open(seal(signed(&later, &identity(1)))),
        Err(NoteError::Malformed)
    );
    let mut many = own.clone();
    many[HEAD - 1] = MAX_ADDRESSES as u8 + 1;
    assert_eq!(
        open(seal(signed(&many, &identity(1)))),
        Err(NoteError::Malformed)
    );
    let mut more = signed(&own, &identity(1));
    more.push(1);
    assert_eq!(open(seal(more)), Err(NoteError::Malformed));
}

#[test]
fn a_note_holds_for_its_time_and_its_day_alone() {
    let opened = |now| Note::open(&sealed(NOW), &corner(1, 2, NOW), now, SKEW);
    for now in [NOW - SKEW, NOW, NOW + LIFETIME, NOW + LIFETIME + SKEW] {
        assert!(opened(now).is_ok(), "{now}");
    }
    for now in [0, NOW - SKEW - 1, NOW + LIFETIME + SKEW + 1, u64::MAX] {
        assert_eq!(opened(now), Err(NoteError::NotNow), "{now}");
    }
    let forever = Note {
        expires: NOW + LIFETIME + 1,
        ..note(NOW)
    };
    let sealed = forever.seal(&corner(1, 2, NOW), &identity(1), [9; 12]);
    let opened = Note::open(&sealed.unwrap(), &corner(1, 2, NOW), NOW, SKEW);
    assert_eq!(opened, Err(NoteError::NotNow));
    // Of another day: it would lie where it does not belong.
    assert_eq!(
        note(NOW).seal(&corner(1, 2, NOW + DAY), &identity(1), [9; 12]),
        None
    );
}

#[test]
fn yesterdays_corner_counts_while_its_last_note_may_hold() {
    let (writer, reader) = ids(1, 2);
    let midnight = NOW / DAY * DAY;
    let at = |now| Corner::now(&writer, &reader, now);
    let today = Corner::at(&writer, &reader, midnight);
    let yesterday = Corner::at(&writer, &reader, midnight - 1);
    assert_ne!(today.seed, yesterday.seed);
    assert_eq!(at(midnight), [today.clone(), yesterday.clone()]);
    assert_eq!(
        at(midnight + LIFETIME - 1),
        [today.clone(), yesterday.clone()]
    );
    assert_eq!(at(midnight + LIFETIME), [today]);
    assert_eq!(at(0).len(), 1);
}

#[test]
fn what_is_put_back_never_counts_again() {
    let mut newest = Newest::default();
    let (device, _) = ids(1, 2);
    assert!(newest.take(&device, &note(NOW), NOW));
    assert!(!newest.take(&device, &note(NOW), NOW), "the same again");
    assert!(!newest.take(&device, &note(NOW - 1), NOW), "an older one");
    assert!(newest.take(&device, &note(NOW + 1), NOW));
    assert!(!newest.take(&device, &note(NOW), NOW));
}

#[test]
fn so_many_devices_are_remembered_and_those_whose_notes_are_over_make_room() {
    let mut newest = Newest::default();
    let id = |n: u32| {
        DeviceId::of_key(&{
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            key
        })
    };
    for n in 0..MAX_REMEMBERED as u32 {
        assert!(newest.take(&id(n), &note(NOW), NOW));
    }
    assert!(!newest.take(&id(u32::MAX), &note(NOW), NOW));
    let later = NOW + 3 * LIFETIME;
    assert!(newest.take(&id(u32::MAX), &note(later), later));
    assert_eq!(newest.issued.len(), 1);
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(|ip| IpAddr::from(ip).to_canonical()),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn any_note_is_read_as_it_was_written(
        addresses in prop::collection::vec(address(), 0..12),
        now in DAY..u64::MAX / 2,
        nonce: [u8; 12],
    ) {
        let written = Note::new(addresses.clone(), now);
        let sealed = written.seal(&corner(1, 2, now), &identity(1), nonce).unwrap();
        let read = Note::open(&sealed, &corner(1, 2, now), now, 0).unwrap();
        prop_assert_eq!(&read, &written);
        prop_assert_eq!(&read.addresses[..], &addresses[..addresses.len().min(MAX_ADDRESSES)]);
    }

    #[test]
    fn a_note_that_was_changed_anywhere_is_not_read(at in 0..SIZE, by in 1..=255u8) {
        let mut changed = sealed(NOW);
        changed[at] ^= by;
        prop_assert_eq!(Note::open(&changed, &corner(1, 2, NOW), NOW, SKEW), Err(NoteError::Unreadable));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..SIZE + 8)) {
        let opened = Note::open(&bytes, &corner(1, 2, NOW), NOW, SKEW);
        prop_assert_eq!(opened, Err(NoteError::Unreadable));
    }
}
