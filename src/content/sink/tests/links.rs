//! Hard links: a file with a second name somewhere else is never written to.

use super::*;
use std::os::unix::fs::MetadataExt;

/// A destination, and a file outside that is as long as the first file of [`Origin::folder`].
struct Place {
    dir: tempfile::TempDir,
    outside: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            outside: tempfile::tempdir().unwrap(),
        };
        fs::write(place.victim(), safe()).unwrap();
        fs::set_permissions(place.victim(), fs::Permissions::from_mode(0o600)).unwrap();
        place
    }

    fn dest(&self) -> &Path {
        self.dir.path()
    }

    fn victim(&self) -> PathBuf {
        self.outside.path().join("victim")
    }

    /// Puts a link to the victim in the place of what is at `at`.
    fn plant(&self, at: &Path) {
        let _ = fs::remove_file(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::hard_link(self.victim(), at).unwrap();
    }

    fn assert_safe(&self) {
        let meta = fs::metadata(self.victim()).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert!(
            fs::read(self.victim()).unwrap() == safe(),
            "written through a link"
        );
    }
}

fn safe() -> Vec<u8> {
    content(9, 3 * CHUNK + 5)
}

fn assert_refused<T>(outcome: Result<T, SinkError>) {
    let error = outcome.err().expect("a refusal");
    assert!(error.to_string().contains("hard link"), "{error}");
}

#[test]
fn a_file_that_is_somebody_elses_by_another_name_is_not_written_to() {
    let place = Place::new();
    let origin = Origin::folder();
    let mut sink = origin.open(place.dest());
    origin.send_pages(&mut sink);
    place.plant(&sink.path_of(0));
    assert_refused(sink.write_chunk(0, origin.chunk(0)));
    place.assert_safe();
    // Where the chunks are there already, as far as anybody can see.
    fs::write(place.victim(), &origin.files[0]).unwrap();
    drop(sink);
    let mut sink = origin.open(place.dest());
    sink.recover(None);
    assert!(sink.have().contains(0));
    origin.send(&mut sink, 3..70);
    let (root, signature) = origin.root();
    sink.check_root(&root, &signature).unwrap();
    assert_refused(sink.commit(Collision::KeepBoth));
    let meta = fs::metadata(place.victim()).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600, "made to be run");
    fs::write(place.victim(), safe()).unwrap();
    // Out of the way, all goes well.
    fs::remove_file(sink.path_of(0)).unwrap();
    assert!(matches!(
        sink.commit(Collision::KeepBoth),
        Err(SinkError::Unfinished { missing: 4 })
    ));
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
    place.assert_safe();
}

#[test]
fn a_bundle_is_not_resumed_into_a_file_that_got_a_second_name() {
    let place = Place::new();
    let origin = Origin::folder();
    let mut sink = origin.open(place.dest());
    origin.send(&mut sink, [0, 1]);
    let checkpoint = sink.checkpoint().unwrap();
    let tool = sink.path_of(0);
    drop(sink);
    place.plant(&tool);
    let mut sink = origin.open(place.dest());
    // What was on the disk before is believed; nothing is added to it.
    sink.recover(Some(&checkpoint));
    assert_refused(sink.write_chunk(2, origin.chunk(2)));
    place.assert_safe();
}

#[test]
fn the_sinks_own_files_are_not_written_through_links_either() {
    let place = Place::new();
    let origin = Origin::folder();
    let staging = origin.staging(place.dest());
    for name in ["pages", "head.new", "meta.json.new"] {
        place.plant(&staging.join(name));
        let opened = origin.try_open(place.dest());
        assert_refused(opened);
        place.assert_safe();
        fs::remove_dir_all(&staging).unwrap();
    }
    let mut sink = origin.open(place.dest());
    origin.send_missing(&mut sink);
    let (root, signature) = origin.root();
    sink.check_root(&root, &signature).unwrap();
    place.plant(&staging.join("finishing.json.new"));
    assert_refused(sink.commit(Collision::KeepBoth));
    place.assert_safe();
    assert!(!place.dest().join("lesson").exists());
}

#[test]
fn what_is_replaced_loses_this_name_and_keeps_its_others() {
    for collision in [Collision::Overwrite, Collision::KeepBoth] {
        let place = Place::new();
        let origin = Origin::file("a.txt", content(1, 10));
        place.plant(&place.dest().join("a.txt"));
        let mut sink = origin.open(place.dest());
        origin.send_missing(&mut sink);
        let (root, signature) = origin.root();
        sink.check_root(&root, &signature).unwrap();
        let finished = sink.finish(collision).unwrap();
        origin.assert_at(&finished.path);
        assert_eq!(fs::metadata(&finished.path).unwrap().nlink(), 1);
        place.assert_safe();
    }
}

#[test]
fn a_bundle_that_has_its_final_name_and_still_its_first_one_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::file("a.txt", content(1, 10));
    let mut sink = origin.open(dir.path());
    origin.send_missing(&mut sink);
    let (root, signature) = origin.root();
    sink.check_root(&root, &signature).unwrap();
    let finished = sink.commit(Collision::KeepBoth).unwrap();
    let staged = sink.path_of(usize::MAX).join("a.txt");
    drop(sink);
    // Where names are given by linking, and the power went before the first was taken away.
    fs::hard_link(&finished.path, &staged).unwrap();
    let mut sink = origin.open(dir.path());
    assert_eq!(sink.already_finished(), Some(&finished));
    assert!(sink.recover(None).is_full() && !staged.exists());
    sink.finish(Collision::KeepBoth).unwrap();
    assert_eq!(names_in(dir.path()), ["a.txt"]);
}
