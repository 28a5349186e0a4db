//! What becomes of something that has the bundle's name already.

use super::*;
use crate::content::check_name;

/// A folder of the bundle's name with other things in it.
fn old_lesson(dest: &Path) -> PathBuf {
    let old = dest.join("lesson");
    fs::create_dir_all(old.join("deep")).unwrap();
    fs::write(old.join("deep/old.txt"), "old").unwrap();
    old
}

#[test]
fn a_file_and_a_folder_take_the_place_of_what_is_there_where_that_is_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.txt"), "old and longer than what comes").unwrap();
    old_lesson(dir.path());
    for origin in [Origin::file("a.txt", content(1, 10)), Origin::folder()] {
        let finished = whole(&origin, dir.path())
            .finish(Collision::Overwrite)
            .unwrap();
        assert_eq!(finished.path, dir.path().join(origin.head.name.as_str()));
        origin.assert_at(&finished.path);
    }
    assert_eq!(names_in(dir.path()), ["a.txt", "lesson"]);
    assert!(!dir.path().join("lesson/deep/old.txt").exists());
    // And where nothing is, nothing is replaced.
    let origin = Origin::file("b.txt", content(1, 10));
    let finished = whole(&origin, dir.path())
        .finish(Collision::Overwrite)
        .unwrap();
    origin.assert_at(&finished.path);
}

#[test]
fn links_other_kinds_and_folders_with_partial_bundles_are_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), "mine").unwrap();
    let file = Origin::file("f", content(1, 10));
    let folder = Origin::new("f", Kind::Folder, vec![("x", content(2, 9), false)], &[]);
    let at = dir.path().join("f");
    let refused = |origin: &Origin| {
        let outcome = whole(origin, dir.path()).commit(Collision::Overwrite);
        assert!(
            matches!(outcome, Err(SinkError::Exists { .. })),
            "{outcome:?}"
        );
    };
    symlink(outside.path().join("precious"), &at).unwrap();
    refused(&file);
    fs::remove_file(&at).unwrap();
    symlink(outside.path(), &at).unwrap();
    refused(&folder);
    assert!(fs::symlink_metadata(&at).unwrap().is_symlink());
    fs::remove_file(&at).unwrap();
    fs::create_dir(&at).unwrap();
    refused(&file);
    fs::create_dir(at.join(STAGING)).unwrap();
    refused(&folder);
    fs::remove_dir_all(&at).unwrap();
    fs::write(&at, "mine").unwrap();
    refused(&folder);
    assert_eq!(fs::read(&at).unwrap(), b"mine");
    assert_eq!(fs::read(outside.path().join("precious")).unwrap(), b"mine");
}

#[test]
fn where_nothing_is_replaced_the_name_is_looked_at_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::file("f", content(1, 10));
    let dest = dir.path().join("not/there/yet");
    assert!(check_name(&dest, &path("f"), Collision::Refuse).is_ok());
    let sink = whole(&origin, dir.path());
    assert!(sink.check_name(Collision::Refuse).is_ok());
    symlink("/nowhere", dir.path().join("f")).unwrap();
    for collision in [Collision::KeepBoth, Collision::Overwrite] {
        assert!(check_name(dir.path(), &path("f"), collision).is_ok());
    }
    let refused = check_name(dir.path(), &path("f"), Collision::Refuse).unwrap_err();
    assert_eq!(refused.code(), Code::Declined);
    // The sender is told the name, and not where that is.
    let place = dir.path().to_str().unwrap();
    assert!(refused.to_string().contains("\"f\"") && !refused.to_string().contains(place));
    assert!(sink.check_name(Collision::Refuse).is_err());
    drop(sink);
    fs::remove_file(dir.path().join("f")).unwrap();
    // What got its name before an interruption does not stand in its own way.
    let mut sink = whole(&origin, dir.path());
    sink.commit(Collision::Refuse).unwrap();
    drop(sink);
    assert!(
        origin
            .open(dir.path())
            .check_name(Collision::Refuse)
            .is_ok()
    );
}

#[test]
fn an_interruption_around_the_exchange_leaves_the_old_or_the_new_whole() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let old = old_lesson(dir.path());
    let staged = origin.staging(dir.path()).join("data/lesson");
    let swap = || {
        let cwd = rustix::fs::CWD;
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(cwd, &staged, cwd, &old, flags).unwrap();
    };
    // Done, and the old one already removed: put it back beside what came, as before its removal.
    let mut sink = whole(&origin, dir.path());
    let finished = sink.commit(Collision::Overwrite).unwrap();
    drop(sink);
    assert!(!staged.exists());
    fs::create_dir_all(staged.join("deep")).unwrap();
    fs::write(staged.join("deep/old.txt"), "old").unwrap();

    // Before the exchange: announced, and the old one in its place.
    swap();
    let mut sink = origin.open(dir.path());
    assert_eq!(sink.already_finished(), None);
    assert!(sink.recover(None).is_full());
    assert!(old.join("deep/old.txt").exists());
    drop(sink);

    // After it: what lies in staging is the old one, and is never taken for what came.
    swap();
    let mut sink = origin.open(dir.path());
    assert_eq!(sink.already_finished(), Some(&finished));
    let full = ChunkSet::full(sink.layout().chunk_count());
    assert!(sink.recover(Some(&full)).is_full());
    assert!(!staged.exists());
    assert_eq!(sink.finish(Collision::Overwrite).unwrap(), finished);
    origin.assert_at(&old);
    assert_eq!(names_in(dir.path()), ["lesson"]);
}

#[test]
fn after_an_exchange_what_somebody_changed_stays_and_the_bundle_comes_anew() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let old = old_lesson(dir.path());
    let mut sink = whole(&origin, dir.path());
    sink.commit(Collision::Overwrite).unwrap();
    drop(sink);
    fs::write(old.join("leer.txt"), "notes").unwrap();
    let mut sink = origin.open(dir.path());
    assert_eq!(sink.already_finished(), None);
    assert!(sink.recover(None).is_empty());
    origin.send(&mut sink, 0..9);
    drop(sink);
    // What has come since is not mistaken for what was replaced.
    let mut sink = origin.open(dir.path());
    assert_eq!(sink.recover(None).len(), 9);
    drop(sink);
    let second = whole(&origin, dir.path())
        .finish(Collision::KeepBoth)
        .unwrap();
    origin.assert_at(&second.path);
    assert_eq!(fs::read(old.join("leer.txt")).unwrap(), b"notes");
}

#[test]
fn when_neither_of_the_two_is_where_it_was_left_nothing_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    old_lesson(dir.path());
    let mut sink = whole(&origin, dir.path());
    let finished = sink.commit(Collision::Overwrite).unwrap();
    drop(sink);
    let staged = origin.staging(dir.path()).join("data/lesson");
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("old.txt"), "old").unwrap();
    fs::rename(&finished.path, dir.path().join("elsewhere")).unwrap();
    let Err(error) = origin.try_open(dir.path()) else {
        panic!()
    };
    assert!(matches!(error, SinkError::Replaced { .. }), "{error}");
    assert!(staged.join("old.txt").exists());
}
