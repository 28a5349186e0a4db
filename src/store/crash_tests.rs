//! What a power cut, a kill or a failing disk may leave behind, and that the store still opens.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::tests::{authorization, device, transfer};
use super::*;
use crate::protocol::transfer::TransferState;

/// A state folder as it would be if the process were killed now.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The newest database of a closed store.
fn newest(state: &Path) -> std::path::PathBuf {
    let databases = fs::read_dir(state.join("db")).unwrap();
    let paths = databases.map(|entry| entry.unwrap().path());
    paths.max().unwrap()
}

/// A store with some history: two authorized devices, a revoked one, transfers and progress.
fn filled(state: &Path) -> Store {
    let mut store = Store::open(state).unwrap();
    for n in 1..=3 {
        store.authorize(authorization(n)).unwrap();
    }
    store.revoke(&device(3)).unwrap();
    for n in 0..50 {
        let record = transfer(n, 1, TransferState::Active);
        store.put_transfer(record.clone()).unwrap();
        store.put_progress(&record.id, &[n as u8; 9000]).unwrap();
    }
    store.flush().unwrap();
    store
}

fn assert_trust_is_whole(store: &Store) {
    assert_eq!(store.authorizations().len(), 2);
    assert!(store.authorization(&device(1)).is_some());
    assert!(store.authorization(&device(2)).is_some());
    assert!(store.authorization(&device(3)).is_none());
}

fn assert_usable(state: &Path) -> bool {
    let mut store = Store::open(state).unwrap();
    assert_trust_is_whole(&store);
    let record = transfer(77, 1, TransferState::Pending);
    store.put_transfer(record.clone()).unwrap();
    store.flush().unwrap();
    let rebuilt = store.rebuilt();
    drop(store);
    let store = Store::open(state).unwrap();
    assert_eq!(store.transfer(&record.id), Some(&record));
    rebuilt
}

#[test]
fn a_killed_process_loses_nothing_that_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("state"));
    let copy = dir.path().join("copy");
    copy_dir(&dir.path().join("state"), &copy);
    drop(store);
    let store = Store::open(&copy).unwrap();
    assert!(!store.rebuilt());
    assert_trust_is_whole(&store);
    assert_eq!(store.transfers().len(), 50);
    for record in store.transfers() {
        assert_eq!(store.progress(&record.id).unwrap().unwrap().len(), 9000);
    }
}

#[test]
fn a_database_cut_at_any_length_opens_and_nobody_is_authorized_or_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(&dir.path().join("state"));
    for round in 0..10 {
        for record in store.transfers() {
            store.put_progress(&record.id, &[round; 9000]).unwrap();
        }
        store.flush().unwrap();
    }
    drop(store);
    let length = fs::metadata(newest(&dir.path().join("state")).join("db"))
        .unwrap()
        .len();
    let mut rebuilt = 0;
    for step in 0..40 {
        let copy = dir.path().join(format!("copy{step}"));
        copy_dir(&dir.path().join("state"), &copy);
        // Whole sectors, and odd lengths.
        let cut = length * step / 40 + (step % 3) * 7;
        let file = fs::OpenOptions::new()
            .write(true)
            .open(newest(&copy).join("db"))
            .unwrap();
        file.set_len(cut).unwrap();
        rebuilt += usize::from(assert_usable(&copy));
        fs::remove_dir_all(&copy).unwrap();
    }
    assert!(rebuilt > 0);
}

#[test]
fn garbage_in_the_database_is_set_aside_and_only_three_such_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    for round in 0..5u8 {
        let garbage: Vec<u8> = (0..1 << 20u32)
            .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ round)
            .collect();
        for entry in fs::read_dir(newest(dir.path())).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::write(path, &garbage).unwrap();
            }
        }
        assert!(assert_usable(dir.path()), "round {round}");
    }
    let kept = fs::read_dir(dir.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("db.damaged-")
    });
    assert_eq!(kept.count(), 3);
}

#[test]
fn flipped_bytes_anywhere_do_not_stop_the_store() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(&dir.path().join("state")));
    let whole = fs::read(newest(&dir.path().join("state")).join("db")).unwrap();
    for step in 0..20 {
        let copy = dir.path().join(format!("copy{step}"));
        copy_dir(&dir.path().join("state"), &copy);
        let mut bytes = whole.clone();
        let at = bytes.len() * step / 20;
        for byte in bytes.iter_mut().skip(at).take(64) {
            *byte ^= 0xa5;
        }
        fs::write(newest(&copy).join("db"), bytes).unwrap();
        assert_usable(&copy);
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn leftovers_of_a_killed_opening_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let leftover = newest(dir.path()).join("snap.0000000000000001.generating");
    fs::write(&leftover, b"half").unwrap();
    fs::write(dir.path().join("identity.new"), b"half").unwrap();
    fs::write(dir.path().join("authorizations.new"), b"half").unwrap();
    // A copying that was interrupted.
    fs::create_dir_all(dir.path().join("db/00000009")).unwrap();
    assert!(!assert_usable(dir.path()));
    assert!(!leftover.exists());
    assert_eq!(newest(dir.path()), dir.path().join("db/00000011"));
}

#[test]
fn a_lost_database_is_filled_again_from_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    assert!(assert_usable(dir.path()));
    fs::remove_file(dir.path().join("authorizations.log")).unwrap();
    assert!(!assert_usable(dir.path()));
}

#[test]
fn lost_journals_are_filled_again_from_the_database() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    for journal in [journal::NAME, journal::COPY] {
        fs::remove_file(dir.path().join(journal)).unwrap();
    }
    assert!(!assert_usable(dir.path()));
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    assert!(assert_usable(dir.path()));
}

#[test]
fn the_copy_of_the_journal_serves_when_both_other_homes_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    fs::write(dir.path().join(journal::NAME), b"noise").unwrap();
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    assert!(assert_usable(dir.path()));
}

#[test]
fn an_old_journal_does_not_bring_a_revoked_device_back() {
    let dir = tempfile::tempdir().unwrap();
    let journals = [journal::NAME, journal::COPY].map(|name| dir.path().join(name));
    let mut store = Store::open(dir.path()).unwrap();
    store.authorize(authorization(1)).unwrap();
    let old = fs::read(&journals[0]).unwrap();
    store.revoke(&device(1)).unwrap();
    drop(store);
    for journal in &journals {
        fs::write(journal, &old).unwrap();
    }
    assert_eq!(Store::open(dir.path()).unwrap().authorizations(), []);
}

#[test]
fn decisions_of_another_device_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    for file in ["identity.key", "identity.key.copy"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.authorizations(), []);
    store.authorize(authorization(5)).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.authorizations(), [authorization(5)]);
}

#[test]
fn a_database_of_a_newer_version_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let meta = store.database.tree("meta").unwrap();
    meta.insert("schema/transfers", &7u32.to_be_bytes())
        .unwrap();
    drop((meta, store));
    match Store::open(dir.path()) {
        Err(error @ StoreError::Newer { found: 7, .. }) => {
            assert!(error.to_string().contains("newer version"));
        }
        other => panic!("{other:?}"),
    }
    assert!(newest(dir.path()).join("db").exists());
}

const CHILD_STATE: &str = "HANDOUT_TEST_CHILD_STATE";

/// Not a test of its own: the process that the next one kills. It authorizes and revokes for
/// ever, and says what it has done.
#[test]
fn child_that_is_killed() {
    let Some(state) = std::env::var_os(CHILD_STATE) else {
        return;
    };
    let mut store = Store::open(Path::new(&state)).unwrap();
    for since in 0.. {
        let n = (since % 200) as u8;
        let granted = Authorization {
            since,
            ..authorization(n)
        };
        store.authorize(granted).unwrap();
        println!("\ndone {n} {since}");
        let record = transfer(since as u32 % 100, since, TransferState::Active);
        store.put_transfer(record.clone()).unwrap();
        store.put_progress(&record.id, &[n; 9000]).unwrap();
    }
}

#[test]
fn a_process_killed_at_any_moment_has_kept_every_decision_that_it_reported() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::crash_tests::child_that_is_killed"])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD_STATE, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut reported = std::collections::BTreeMap::new();
        for line in lines.map_while(Result::ok) {
            if let Some(done) = line.strip_prefix("done ") {
                let (n, since) = done.split_once(' ').unwrap();
                let (n, since): (u8, u64) = (n.parse().unwrap(), since.parse().unwrap());
                reported.insert(n, since);
                if since == 3 + round * 37 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(!reported.is_empty());
        let store = Store::open(dir.path()).unwrap();
        for (n, since) in reported {
            let kept = store.authorization(&device(n)).unwrap().since;
            // One more may have been made after the last report.
            assert!(kept >= since, "round {round}: {n} at {kept}, not {since}");
        }
    }
}

#[test]
fn groups_outlive_the_database_and_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let group = |n: u8| Group {
        name: format!("class {n}"),
        members: vec![device(n), device(n + 1)],
        roles: None,
    };
    let mut store = Store::open(dir.path()).unwrap();
    for n in 1..=3 {
        store.put_group(group(n)).unwrap();
    }
    store.remove_group("class 2").unwrap();
    drop(store);
    fs::remove_dir_all(newest(dir.path())).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.groups(), [group(1), group(3)]);
    drop(store);

    let file = dir.path().join("groups.json");
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(25) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&file, damaged).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.groups(), [group(1), group(3)], "byte {at}");
        drop(store);
        assert_eq!(fs::read(&file).unwrap(), whole, "byte {at}");
    }
}

#[test]
fn a_database_takes_the_place_of_one_that_has_failed_with_all_that_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let group = Group {
        name: "class".to_owned(),
        members: vec![device(1)],
        roles: None,
    };
    store.put_group(group.clone()).unwrap();
    let before = newest(dir.path());
    store.go_on_after_failure().unwrap();
    assert_eq!(newest(dir.path()), before, "nothing has failed");

    store.database.fail();
    assert!(store.has_failed());
    store.go_on_after_failure().unwrap();
    assert!(!store.has_failed());
    assert_ne!(newest(dir.path()), before);
    assert!(!before.exists(), "one is enough");
    let record = transfer(77, 1, TransferState::Pending);
    store.put_transfer(record.clone()).unwrap();
    store.revoke(&device(2)).unwrap();
    drop(store);

    let store = Store::open(dir.path()).unwrap();
    assert!(!store.rebuilt(), "it is whole");
    assert!(store.authorization(&device(1)).is_some());
    assert!(store.authorization(&device(2)).is_none());
    assert_eq!(store.groups(), [group]);
    assert_eq!(store.transfers().len(), 51);
}
