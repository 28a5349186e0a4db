//! A new key keeps every decision, wherever the change is interrupted.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::tests::{authorization, device};
use super::*;
use crate::protocol::invite::Secret;
use crate::protocol::rotation;

fn filled(state: &Path) -> Store {
    let mut store = Store::open(state).unwrap();
    for n in 1..=3 {
        store.authorize(authorization(n)).unwrap();
    }
    store.revoke(&device(3)).unwrap();
    store
}

fn assert_trust_is_whole(store: &Store) {
    assert_eq!(store.authorizations().len(), 2);
    assert_eq!(store.authorization(&device(1)), Some(&authorization(1)));
    assert!(store.revoked().contains(&device(3)));
}

#[test]
fn decisions_outlive_a_new_key_in_the_journal_and_in_the_database() {
    for lost in [&["db"][..], &[journal::NAME, journal::COPY]] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = filled(dir.path());
        let first = store.identity().device_id();
        let renewed = store.rotate(7).unwrap();
        assert_eq!((&renewed.earlier, renewed.invites), (&first, 0));
        assert_eq!(renewed.device, store.identity().device_id());
        assert_ne!(renewed.device, first);
        assert_trust_is_whole(&store);
        drop(store);
        for lost in lost.iter().map(|name| dir.path().join(name)) {
            fs::remove_dir_all(&lost)
                .or_else(|_| fs::remove_file(&lost))
                .unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.identity().device_id(), renewed.device);
        assert_trust_is_whole(&store);
        assert_eq!(store.moves(), [(first, renewed.device)]);
    }
}

#[test]
fn an_interrupted_change_is_finished_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    // As if the process had been killed right after the key file was replaced.
    let (file, _) = identity::load_or_create(dir.path()).unwrap();
    file.next(true, 7).unwrap().write(dir.path()).unwrap();
    // And while the next one was being written.
    fs::write(dir.path().join("identity.new"), "ab").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_ne!(store.identity().device_id(), file.identity.device_id());
    assert_trust_is_whole(&store);
    drop(store);
    let (settled, _) = identity::load_or_create(dir.path()).unwrap();
    assert_eq!(settled.before, None);
    assert_trust_is_whole(&Store::open(dir.path()).unwrap());
}

#[test]
fn the_old_key_signs_nothing_here_once_all_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let journals = [journal::NAME, journal::COPY].map(|name| dir.path().join(name));
    let by_the_old_key = fs::read(&journals[0]).unwrap();
    store.rotate(7).unwrap();
    drop(store);
    for journal in &journals {
        fs::write(journal, &by_the_old_key).unwrap();
    }
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().authorizations(), []);
}

#[test]
fn a_new_device_keeps_whom_it_trusts_and_shows_no_way_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let secret = Secret::new([7; 16]);
    let invite = Issued {
        id: secret.id(),
        secret,
        created: 1,
        expires: 2,
        uses: 3,
        used: Vec::new(),
        group: None,
        roles: None,
        revoked: false,
        standing: None,
    };
    store.rotate(6).unwrap();
    store.put_invite(invite).unwrap();
    let renewed = store.become_new(7).unwrap();
    assert_eq!(renewed.invites, 1);
    assert_eq!((store.rotations(), store.invites().len()), (&[][..], 0));
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.identity().device_id(), renewed.device);
    assert_eq!((store.rotations(), store.invites().len()), (&[][..], 0));
    assert!(store.moves().iter().all(|(_, to)| *to != renewed.device));
    assert_trust_is_whole(&store);
}

const CHILD_STATE: &str = "HANDOUT_TEST_RENEWAL_STATE";

/// Not a test of its own: the process that the next one kills while it changes its key.
#[test]
fn child_that_is_killed_while_it_changes_its_key() {
    let Some(state) = std::env::var_os(CHILD_STATE) else {
        return;
    };
    let mut store = Store::open(Path::new(&state)).unwrap();
    for now in 0.. {
        println!("\nat {now}");
        store.rotate(now).unwrap();
        println!("\nid {}", store.identity().device_id());
    }
}

#[test]
fn a_process_killed_while_it_changes_its_key_leaves_one_identity_whole() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let mut interrupted = 0;
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--exact")
            .arg("store::renewal_tests::child_that_is_killed_while_it_changes_its_key")
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD_STATE, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut last, mut begun) = (None, 0);
        for line in lines.map_while(Result::ok) {
            if let Some(id) = line.strip_prefix("id ") {
                last = Some(id.to_owned());
            }
            if line.starts_with("at ") {
                begun += 1;
                if begun == 2 {
                    // Spread over what a change takes; where it hits does not matter to the test.
                    let (begun, wait) = (Instant::now(), Duration::from_micros(1200 * round));
                    while begun.elapsed() < wait {
                        std::thread::yield_now();
                    }
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let file = fs::read(dir.path().join("identity.key")).unwrap();
        interrupted += usize::from(file.windows(8).any(|word| word == b"\"before\""));
        let store = Store::open(dir.path()).unwrap();
        assert_trust_is_whole(&store);
        let (ours, chain) = (store.identity().device_id(), store.rotations());
        let ids = rotation::ids(chain, &ours).unwrap();
        assert_eq!(rotation::verify(chain), Ok(()));
        let last = last.expect("one change was reported");
        assert!(ids.iter().any(|id| id.as_str() == last), "round {round}");
    }
    println!("{interrupted} of 10 kills fell between the new key and what it has to sign");
}
