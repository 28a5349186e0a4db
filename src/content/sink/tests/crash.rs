//! Interruptions and damage on the disk.

use super::*;

#[test]
fn what_was_written_before_a_crash_is_found_again_without_any_record_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let mut sink = origin.open(dir.path());
    origin.send(&mut sink, [0, 2, 3, 10, 69]);
    drop(sink);
    let id = origin.identity.device_id();
    let head = find_partial(dir.path(), &id, &bundle_id(&origin.bytes)).unwrap();
    assert_eq!(head, origin.bytes);
    assert_eq!(find_partial(dir.path(), &id, &BundleId([0; 32])), None);
    let mut sink = origin.open(dir.path());
    assert!(sink.have().is_empty());
    // The pages are still known: nothing needs to be sent before this.
    assert_eq!(
        sink.recover(None).iter().collect::<Vec<_>>(),
        [0, 2, 3, 10, 69]
    );
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
}

const CHILD_DEST: &str = "HANDOUT_TEST_SINK_DEST";

#[test]
#[ignore = "run as a process of its own by a_killed_process_loses_nothing_that_it_wrote"]
fn child_that_kills_itself() {
    let Some(dest) = std::env::var_os(CHILD_DEST) else {
        return;
    };
    let origin = Origin::folder();
    let mut sink = origin.open(Path::new(&dest));
    sink.recover(None);
    let missing: Vec<u32> = sink.have().iter_missing().take(9).collect();
    origin.send(&mut sink, missing);
    if sink.have().is_full() {
        let (root, signature) = origin.root();
        sink.check_root(&root, &signature).unwrap();
        sink.commit(Collision::KeepBoth).unwrap();
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

#[test]
fn a_killed_process_loses_nothing_that_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    // 70 chunks, nine at a time; the eighth child is killed between the renaming and the cleaning.
    for lives in 1..=8 {
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "content::sink::tests::crash::child_that_kills_itself",
            ])
            .env(CHILD_DEST, dir.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "life {lives}"
        );
    }
    let origin = Origin::folder();
    let mut sink = origin.open(dir.path());
    assert!(sink.already_finished().is_some());
    assert!(sink.recover(None).is_full());
    assert_eq!(
        sink.finish(Collision::KeepBoth).unwrap().path,
        dir.path().join("lesson")
    );
    origin.assert_at(&dir.path().join("lesson"));
    assert_eq!(names_in(dir.path()), ["lesson"]);
}

#[test]
fn corrupted_and_truncated_data_is_found_and_only_that_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let mut sink = origin.open(dir.path());
    origin.send(&mut sink, 0..70);
    let checkpoint = sink.checkpoint().unwrap();
    let (tool, big) = (sink.path_of(0), sink.path_of(2));
    drop(sink);
    let mut bytes = fs::read(&tool).unwrap();
    bytes[CHUNK + 3] ^= 1;
    fs::write(&tool, bytes).unwrap();
    File::options()
        .write(true)
        .open(&big)
        .unwrap()
        .set_len(64 * CHUNK as u64 + 10)
        .unwrap();
    let mut sink = origin.open(dir.path());
    let have = sink.recover(None).clone();
    assert_eq!(have.iter_missing().collect::<Vec<_>>(), [1, 68, 69]);
    drop(sink);
    // With a record of them the bytes are trusted, but not those that are not there.
    let mut sink = origin.open(dir.path());
    assert_eq!(
        sink.recover(Some(&checkpoint))
            .iter_missing()
            .collect::<Vec<_>>(),
        [68, 69]
    );
    drop(sink);
    let mut sink = origin.open(dir.path());
    sink.recover(Some(&ChunkSet::full(7)));
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
}

#[test]
fn a_torn_or_forged_end_of_the_pages_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let mut sink = origin.open(dir.path());
    origin.send(&mut sink, 0..70);
    drop(sink);
    let pages = origin.staging(dir.path()).join("pages");
    let whole = fs::read(&pages).unwrap();
    let first = 9 + 64 + 64 * 40;
    for cut in [whole.len() - 1, first + 20, first, first - 1, 3, 0] {
        fs::write(&pages, &whole[..cut]).unwrap();
        let mut sink = origin.open(dir.path());
        let have = sink.recover(None).len();
        assert_eq!(have, if cut >= first { 64 } else { 0 }, "cut at {cut}");
    }
    // A flipped bit costs that page and no other.
    let mut forged = whole.clone();
    forged[200] ^= 1;
    fs::write(&pages, &forged).unwrap();
    let mut sink = origin.open(dir.path());
    assert_eq!(
        sink.recover(None).iter().collect::<Vec<_>>(),
        (64..70).collect::<Vec<_>>()
    );
    assert_eq!(
        sink.check_root(&origin.root().0, &origin.root().1).unwrap(),
        RootOutcome::MissingPages(vec![0])
    );
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
}

#[test]
fn an_interruption_around_the_renaming_makes_no_second_copy_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let whole = |dest: &Path| whole(&origin, dest);
    // Before it: the name is announced, but the data still lies in staging.
    let mut sink = whole(dir.path());
    let finished = sink.commit(Collision::KeepBoth).unwrap();
    drop(sink);
    let staged = origin.staging(dir.path()).join("data/lesson");
    fs::rename(&finished.path, &staged).unwrap();
    let sink = origin.open(dir.path());
    assert_eq!(sink.already_finished(), None);
    drop(sink);
    let finished = whole(dir.path()).commit(Collision::KeepBoth).unwrap();
    // After it.
    let sink = origin.open(dir.path());
    assert_eq!(sink.already_finished(), Some(&finished));
    drop(sink);
    // After it, and somebody has worked on the result: that is theirs now.
    fs::write(finished.path.join("leer.txt"), "notes").unwrap();
    let mut sink = origin.open(dir.path());
    assert_eq!(sink.already_finished(), None);
    assert!(sink.recover(None).is_empty());
    drop(sink);
    let second = whole(dir.path()).finish(Collision::KeepBoth).unwrap();
    assert_eq!(second.path, dir.path().join("lesson (2)"));
    origin.assert_at(&second.path);
    assert_eq!(fs::read(finished.path.join("leer.txt")).unwrap(), b"notes");
    // In the middle of the cleaning up.
    fs::create_dir_all(dir.path().join(".handout/0123.removed/data")).unwrap();
    origin.open(dir.path()).discard().unwrap();
    assert_eq!(names_in(dir.path()), ["lesson", "lesson (2)"]);
}
