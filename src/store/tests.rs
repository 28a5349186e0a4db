//! The records, and that they stay within bounds.

use std::path::PathBuf;

use super::journal::Subject;
use super::*;
use crate::protocol::id::InviteId;
use crate::protocol::id::Root;
use crate::protocol::identity::Identity;
use crate::protocol::invite::Secret;
use crate::protocol::message::Code;
use crate::protocol::roster::{Draft, Member, Terms};
use crate::protocol::transfer::{Side, TransferState};

pub(super) fn device(n: u8) -> DeviceId {
    DeviceId::of_key(&[n; 32])
}

pub(super) fn authorization(n: u8) -> Authorization {
    Authorization {
        device: device(n),
        name: format!("Room {n}"),
        key: None,
        since: 1_700_000_000,
        by: GrantedBy::Person,
        expires: None,
        roles: None,
        via: None,
    }
}

pub(super) fn transfer(n: u32, updated: u64, state: TransferState) -> TransferRecord {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    TransferRecord {
        id: TransferId(id),
        direction: Direction::Incoming,
        broadcast: None,
        peer: device(1),
        origin: device(1),
        bundle: BundleId([7; 32]),
        name: "lesson-3".into(),
        size: 1 << 40,
        state,
        updated,
        destination: Some(PathBuf::from("/srv/lesson-3")),
        root: Some(Root([9; 32])),
        stat_digest: None,
        bytes_done: 0,
        question: None,
        series: None,
        hand_in: false,
        after: None,
        account: Account::default(),
    }
}

fn broadcast(n: u8, state: BroadcastState) -> BroadcastRecord {
    BroadcastRecord {
        id: BroadcastId([n; 16]),
        paths: vec!["/srv/a".into()],
        name: "a".into(),
        to: vec!["all".into()],
        created: n.into(),
        state,
        bundle: None,
        size: 0,
        share: Default::default(),
        series: None,
        hand_in: false,
    }
}

#[test]
fn everything_put_is_there_after_closing_and_opening_again() {
    use std::os::unix::ffi::OsStringExt;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("new/state");
    let odd_path = PathBuf::from(std::ffi::OsString::from_vec(b"/srv/\xff\xfe".to_vec()));
    let mut sent = broadcast(1, BroadcastState::Active);
    sent.paths = (0..2000)
        .map(|i| format!("/srv/photos/{i}.jpg").into())
        .collect();
    sent.paths.push(odd_path.clone());
    let mut received = transfer(
        1,
        5,
        TransferState::Paused {
            by: Side::Theirs,
            code: Code::DiskFull,
            reason: "no room".into(),
        },
    );
    received.destination = Some(odd_path);
    let group = Group {
        name: "Raum Süd".into(),
        members: vec![device(1), device(2)],
        roles: None,
    };
    let chunks: Vec<u8> = (0..16_384).map(|i| (i % 253) as u8).collect();
    let id = {
        let mut store = Store::open(&state).unwrap();
        assert!(!store.rebuilt());
        store.authorize(authorization(1)).unwrap();
        store.put_broadcast(sent.clone()).unwrap();
        store.put_transfer(received.clone()).unwrap();
        store.put_progress(&received.id, &chunks).unwrap();
        store.put_group(group.clone()).unwrap();
        store.identity().device_id()
    };
    let store = Store::open(&state).unwrap();
    assert!(!store.rebuilt());
    assert_eq!(store.identity().device_id(), id);
    assert_eq!(store.authorizations(), [authorization(1)]);
    assert_eq!(store.broadcasts(), [sent]);
    assert_eq!(store.transfer(&received.id), Some(&received));
    assert_eq!(store.progress(&received.id).unwrap(), Some(chunks));
    assert_eq!(store.group("Raum Süd"), Some(&group));
}

#[test]
fn a_state_folder_in_use_is_refused_and_names_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let _store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { pid: Some(_), .. }));
    let pid = std::process::id().to_string();
    assert!(error.to_string().contains(&pid), "{error}");
}

#[test]
fn authorizing_again_changes_the_record_and_the_same_again_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("authorizations.log");
    let mut store = Store::open(dir.path()).unwrap();
    store.authorize(authorization(1)).unwrap();
    let length = std::fs::metadata(&journal).unwrap().len();
    store.authorize(authorization(1)).unwrap();
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), length);
    let renamed = Authorization {
        name: "Lab".into(),
        expires: Some(9),
        ..authorization(1)
    };
    store.authorize(renamed.clone()).unwrap();
    assert_eq!(store.authorization(&device(1)), Some(&renamed));
    assert!(renamed.is_valid_at(8) && !renamed.is_valid_at(9));
}

#[test]
fn a_key_of_another_device_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let key = Some(Identity::from_seed(&[4; 32]).public_key());
    let wrong = Authorization {
        key,
        ..authorization(1)
    };
    assert!(matches!(
        store.authorize(wrong),
        Err(StoreError::WrongKey { .. })
    ));
    assert!(store.authorizations().is_empty());
}

#[test]
fn the_journal_stays_short_however_often_decisions_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.authorize(authorization(1)).unwrap();
    for round in 0..400 {
        let changed = Authorization {
            since: round,
            ..authorization(2)
        };
        store.authorize(changed).unwrap();
        assert!(store.revoke(&device(2)).unwrap());
    }
    assert!(!store.revoke(&device(2)).unwrap());
    let journal = std::fs::read_to_string(dir.path().join("authorizations.log")).unwrap();
    assert!(journal.lines().count() < 300, "{}", journal.lines().count());
    assert_eq!(store.authorizations(), [authorization(1)]);
}

#[test]
fn an_unfinished_incoming_transfer_is_found_before_finished_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let (origin, bundle) = (device(1), BundleId([7; 32]));
    assert_eq!(store.find_incoming(&origin, &bundle), None);
    store
        .put_transfer(transfer(1, 9, TransferState::Complete))
        .unwrap();
    store
        .put_transfer(transfer(2, 3, TransferState::Pending))
        .unwrap();
    store
        .put_transfer(transfer(3, 2, TransferState::Active))
        .unwrap();
    let outgoing = TransferRecord {
        direction: Direction::Outgoing,
        ..transfer(4, 99, TransferState::Active)
    };
    store.put_transfer(outgoing).unwrap();
    let found = store.find_incoming(&origin, &bundle).unwrap();
    assert_eq!(found.updated, 3);
    assert_eq!(store.find_incoming(&device(2), &bundle), None);
}

#[test]
fn pruning_keeps_the_newest_final_records_and_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    for n in 0..10 {
        let record = transfer(n, u64::from(n), TransferState::Complete);
        store.put_transfer(record.clone()).unwrap();
        store.put_progress(&record.id, &[1; 5000]).unwrap();
        store
            .put_broadcast(broadcast(n as u8, BroadcastState::Done))
            .unwrap();
    }
    let active = transfer(10, 0, TransferState::Active);
    store.put_transfer(active.clone()).unwrap();
    store.put_progress(&active.id, &[2; 5000]).unwrap();
    store
        .put_broadcast(broadcast(10, BroadcastState::Active))
        .unwrap();
    assert_eq!(store.prune(3).unwrap(), 14);
    let left: Vec<_> = store
        .transfers()
        .iter()
        .map(|record| record.updated)
        .collect();
    assert_eq!(left, [0, 7, 8, 9]);
    assert_eq!(store.broadcasts().len(), 4);
    assert!(store.progress(&active.id).unwrap().is_some());
    assert_eq!(store.progress.all(&store.database, "").unwrap().len(), 4);
    assert_eq!(store.prune(3).unwrap(), 0);
}

#[test]
fn progress_needs_a_record_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let record = transfer(1, 1, TransferState::Active);
    assert!(matches!(
        store.put_progress(&record.id, b"x"),
        Err(StoreError::UnknownTransfer(_))
    ));
    store.put_transfer(record.clone()).unwrap();
    store.put_progress(&record.id, b"x").unwrap();
    assert!(store.remove_transfer(&record.id).unwrap());
    assert_eq!(store.progress(&record.id).unwrap(), None);
    assert!(!store.remove_transfer(&record.id).unwrap());
}

#[test]
fn a_roster_that_was_never_imported_or_is_an_old_one_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let roster = |version| {
        let terms = Terms {
            version,
            issued: 1000,
            expires: 2000,
        };
        let draft = Draft {
            group: "class".to_owned(),
            note: String::new(),
            roles: None,
            devices: Vec::new(),
        };
        Roster::sign(draft, terms, &Identity::from_seed(&[9; 32])).unwrap()
    };
    let mut store = Store::open(folder.path()).unwrap();
    store.put_roster(&roster(1)).unwrap();
    let file = || {
        let files = std::fs::read_dir(folder.path().join("rosters")).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        paths
            .find(|path| path.extension().unwrap() == "json")
            .unwrap()
    };
    let old = std::fs::read(file()).unwrap();
    store.put_roster(&roster(2)).unwrap();
    assert_eq!(store.rosters().unwrap(), [roster(2)]);
    // Somebody puts the old file back.
    std::fs::write(file(), &old).unwrap();
    assert_eq!(store.rosters().unwrap(), [roster(2)], "its copy is whole");
    std::fs::write(file().with_extension("copy"), &old).unwrap();
    assert_eq!(store.rosters().unwrap(), []);
    drop(store);
    // Or puts one into the folder of a device that has never seen it.
    let other = tempfile::tempdir().unwrap();
    let store = Store::open(other.path()).unwrap();
    std::fs::copy(
        file(),
        other
            .path()
            .join("rosters")
            .join(file().file_name().unwrap()),
    )
    .unwrap();
    assert_eq!(store.rosters().unwrap(), []);
}

#[test]
fn a_roster_that_was_damaged_or_lost_comes_back_from_its_copy_and_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let terms = Terms {
        version: 3,
        issued: 1000,
        expires: 2000,
    };
    let draft = Draft {
        group: "class".to_owned(),
        note: String::new(),
        roles: None,
        devices: vec![Member {
            id: device(1),
            name: "Room 1".to_owned(),
            roles: None,
        }],
    };
    let roster = Roster::sign(draft, terms, &Identity::from_seed(&[9; 32])).unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    store.put_roster(&roster).unwrap();
    drop(store);
    let files = || {
        let files = std::fs::read_dir(folder.path().join("rosters")).unwrap();
        files.map(|file| file.unwrap().path())
    };
    assert_eq!(files().count(), 2);
    for path in files() {
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(40) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            let store = Store::open(folder.path()).unwrap();
            assert_eq!(
                store.rosters().unwrap(),
                std::slice::from_ref(&roster),
                "byte {at}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), whole, "byte {at}");
        }
        std::fs::remove_file(&path).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.rosters().unwrap(), std::slice::from_ref(&roster));
    }
    let mut store = Store::open(folder.path()).unwrap();
    store.remove_rosters("class").unwrap();
    assert_eq!(files().count(), 0);
}

#[test]
fn so_many_devices_changed_keys_and_rosters_are_kept_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let key = store.identity().clone();
    let numbered = |n: usize| -> DeviceId { format!("device-{n}").parse().unwrap() };
    let full = |outcome: Result<(), StoreError>| match outcome {
        Err(StoreError::Full { limit, .. }) => limit,
        other => panic!("{other:?}"),
    };
    // Written once, and then only remembered: writing takes its time.
    let fill = |store: &mut Store, change: Change, most: usize| {
        let entry = Entry::seal(&key, 1, change).unwrap();
        for n in 0..most {
            let subject = match &entry.change {
                Change::Roster(_) => Subject::Roster(numbered(n), "class".to_owned()),
                _ => Subject::Device(numbered(n)),
            };
            store.entries.insert(subject, entry.clone());
        }
    };
    fill(
        &mut store,
        Change::Authorize(authorization(1)),
        MAX_AUTHORIZED,
    );
    assert_eq!(full(store.authorize(authorization(2))), MAX_AUTHORIZED);
    let change = Change::Move {
        device: numbered(1),
        to: numbered(2),
    };
    fill(&mut store, change, MAX_MOVED);
    let moved = store.move_device(&device(3), &device(4), None);
    assert_eq!(full(moved), MAX_MOVED);
    store.entries.clear();
    let floor = |n: usize| Floor {
        admin: numbered(n),
        group: "class".to_owned(),
        version: 1,
        digest: [0; 32],
    };
    fill(&mut store, Change::Roster(floor(0)), MAX_ROSTERS);
    assert_eq!(full(store.put_floor(floor(MAX_ROSTERS))), MAX_ROSTERS);
}

#[test]
fn so_many_groups_and_invites_are_kept_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let group = |n: usize| Group {
        name: format!("group {n}"),
        members: Vec::new(),
        roles: None,
    };
    for n in 0..1000 {
        store.put_group(group(n)).unwrap();
    }
    let full = store.put_group(group(1000));
    assert!(matches!(full, Err(StoreError::Full { limit: 1000, .. })));
    store.put_group(group(0)).unwrap();

    let invite = |n: u8, last: u8| {
        let secret = Secret::new([n; 16]);
        Issued {
            id: InviteId([n, last, 0, 0, 0, 0, 0, 0]),
            secret,
            created: 1,
            expires: 2,
            uses: 1,
            used: Vec::new(),
            group: None,
            roles: None,
            revoked: false,
            standing: None,
        }
    };
    for n in 0..200 {
        store.put_invite(invite(n, 0)).unwrap();
    }
    let full = store.put_invite(invite(0, 1));
    assert!(matches!(full, Err(StoreError::Full { limit: 200, .. })));
}

/// Bytes of everything below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_below(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[test]
fn the_state_folder_stays_small_however_long_one_process_writes_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    // Twenty transfers whose progress is made safe again and again: 320 KB each time, 96 MB in all.
    let mut most = 0;
    for round in 0..300_u64 {
        for n in 0..20 {
            let record = transfer(n, round, TransferState::Active);
            let id = record.id;
            store.put_transfer(record).unwrap();
            store
                .put_progress(&id, &vec![round as u8; 16 << 10])
                .unwrap();
        }
        if round % 10 == 0 {
            store.flush().unwrap();
            most = most.max(bytes_below(dir.path()));
        }
    }
    println!("at most {} KiB", most >> 10);
    assert!(most < 32 << 20, "{most} bytes");
}
