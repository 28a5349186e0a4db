//! Versions of a series: the switch, what is kept, going back, and interruptions of each.

use super::*;
use crate::content::{Listed, RollBackError, check_version, list, make_room, roll_back};
use crate::protocol::series::Series;

fn series(version: u64) -> Series {
    let name = "lessons".parse().unwrap();
    Series { name, version }
}

/// The bundle "lesson" as it is in one version: one file of it changes each time.
fn version(n: u8) -> Origin {
    let files = vec![
        ("same.txt", content(0, 1000), false),
        ("new.txt", content(n, 500 + usize::from(n)), false),
    ];
    Origin::new("lesson", Kind::Folder, files, &["empty"])
}

fn put_by(n: u8, dest: &Path, collision: Collision, keep: u32) -> Finished {
    let origin = version(n);
    let mut sink = whole(&origin, dest);
    let finished = sink
        .commit_version(collision, &series(n.into()), keep)
        .unwrap();
    sink.discard().unwrap();
    finished
}

fn put(n: u8, dest: &Path) -> Finished {
    put_by(n, dest, Collision::KeepBoth, 1)
}

/// Versions that are here, and whether they are in their place and as they were.
fn listed(dest: &Path) -> Vec<(u64, bool, bool)> {
    let one = |one: &Listed| (one.series.version, one.current, one.changed);
    list(dest).iter().map(one).collect()
}

fn back(dest: &Path, to: Option<u64>) -> Result<Listed, RollBackError> {
    let id = version(0).identity.device_id();
    roll_back(dest, &id, &series(0).name, to)
}

fn visible(dest: &Path) -> Vec<String> {
    let mut names = names_in(dest);
    names.retain(|name| name != STAGING);
    names
}

/// Staging folders that are left.
fn partial(dest: &Path) -> usize {
    let names = names_in(&dest.join(STAGING));
    names.iter().filter(|name| *name != "versions").count()
}

#[test]
fn the_next_version_takes_the_place_of_the_one_before_which_is_kept() {
    for collision in [Collision::KeepBoth, Collision::Refuse, Collision::Overwrite] {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path();
        assert_eq!(put_by(1, dest, collision, 2).path, dest.join("lesson"));
        for n in 2..=4 {
            assert_eq!(put_by(n, dest, collision, 2).path, dest.join("lesson"));
            version(n).assert_at(&dest.join("lesson"));
        }
        assert_eq!(visible(dest), ["lesson"]);
        let all = [(4, true, false), (3, false, false), (2, false, false)];
        assert_eq!(listed(dest), all);
        for one in list(dest) {
            version(one.series.version as u8).assert_at(&one.path);
        }
        assert_eq!(partial(dest), 0);
    }
}

#[test]
fn without_any_to_be_kept_nothing_is_left_of_the_version_before() {
    let dir = tempfile::tempdir().unwrap();
    put_by(1, dir.path(), Collision::KeepBoth, 0);
    put_by(2, dir.path(), Collision::KeepBoth, 0);
    assert_eq!(listed(dir.path()), [(2, true, false)]);
    let folder = fs::read_dir(dir.path().join(STAGING).join("versions")).unwrap();
    let folder = folder.flatten().next().unwrap().path();
    assert_eq!(names_in(&folder), ["2.head", "series.json"]);
}

#[test]
fn what_a_person_has_changed_or_added_to_is_never_replaced_nor_put_aside() {
    let changes: [fn(&Path); 3] = [
        |at| fs::write(at.join("same.txt"), "my own words").unwrap(),
        |at| fs::write(at.join("notes.txt"), "my own words").unwrap(),
        |at| fs::write(at.join("empty/notes.txt"), "my own words").unwrap(),
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path();
        let first = put(1, dest).path;
        change(&first);
        assert_eq!(put(2, dest).path, dest.join("lesson (2)"));
        let kept = first.join("same.txt");
        assert!(kept.exists() && names_in(&first).len() >= 3);
        // The next one takes the place of what came last, where that is.
        assert_eq!(put(3, dest).path, dest.join("lesson (2)"));
        version(3).assert_at(&dest.join("lesson (2)"));
        assert_eq!(visible(dest), ["lesson", "lesson (2)"]);
        assert_eq!(listed(dest), [(3, true, false), (2, false, false)]);
        // Where nothing may stand in the way, it is refused, and waits whole.
        fs::write(dest.join("lesson (2)/same.txt"), "mine").unwrap();
        let origin = version(4);
        let mut sink = whole(&origin, dest);
        let refused = sink.commit_version(Collision::Refuse, &series(4), 1);
        assert!(matches!(refused, Err(SinkError::Exists { .. })));
        assert_eq!(fs::read(dest.join("lesson (2)/same.txt")).unwrap(), b"mine");
    }
}

#[test]
fn a_person_goes_back_and_forth_and_what_was_left_does_not_come_again_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path();
    let id = version(0).identity.device_id();
    put(1, dest);
    assert!(matches!(
        back(dest, None),
        Err(RollBackError::NoVersion { .. })
    ));
    put(2, dest);
    let now = back(dest, None).unwrap();
    assert_eq!(
        (now.series.version, now.path.clone()),
        (1, dest.join("lesson"))
    );
    version(1).assert_at(&now.path);
    assert_eq!(listed(dest), [(2, false, false), (1, true, false)]);
    let again = check_version(dest, &id, &series(2)).unwrap_err();
    assert!(matches!(again, SinkError::RolledBack { .. }), "{again}");
    check_version(dest, &id, &series(1)).unwrap();
    check_version(dest, &id, &series(3)).unwrap();
    assert_eq!(back(dest, Some(2)).unwrap().series.version, 2);
    version(2).assert_at(&dest.join("lesson"));
    assert_eq!(back(dest, Some(1)).unwrap().series.version, 1);
    // A newer one is taken, and ends it.
    assert_eq!(put(3, dest).path, dest.join("lesson"));
    assert_eq!(listed(dest), [(3, true, false), (1, false, false)]);
    fs::write(dest.join("lesson/same.txt"), "mine").unwrap();
    assert!(matches!(
        back(dest, None),
        Err(RollBackError::Changed { .. })
    ));
    assert_eq!(fs::read(dest.join("lesson/same.txt")).unwrap(), b"mine");
    // Moved away, there is room for it.
    fs::rename(dest.join("lesson"), dest.join("mine")).unwrap();
    assert_eq!(back(dest, None).unwrap().series.version, 1);
    assert!(check_version(dest, &id, &series(3)).is_err());
    version(1).assert_at(&dest.join("lesson"));
}

#[test]
fn versions_do_not_go_backwards_also_when_an_older_one_is_whole_last() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path();
    let origin = version(2);
    put(1, dest);
    let mut late = whole(&origin, dest);
    put(3, dest);
    let refused = late.commit_version(Collision::KeepBoth, &series(2), 1);
    assert!(matches!(refused, Err(SinkError::Older { here: 3, .. })));
    drop(late);
    version(3).assert_at(&dest.join("lesson"));
    let id = origin.identity.device_id();
    assert!(check_version(dest, &id, &series(2)).is_err());
    check_version(dest, &id, &series(3)).unwrap();
    // Another origin's series of that name is another one.
    let other = Identity::from_seed(&[9; 32]).device_id();
    check_version(dest, &other, &series(1)).unwrap();
}

#[test]
fn the_same_content_as_a_higher_version_moves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = put(1, dir.path());
    let origin = version(1);
    let mut sink = whole(&origin, dir.path());
    let again = sink
        .commit_version(Collision::KeepBoth, &series(7), 1)
        .unwrap();
    sink.discard().unwrap();
    assert_eq!(again, first);
    assert_eq!(listed(dir.path()), [(7, true, false)]);
    let id = origin.identity.device_id();
    let root = origin.root().0;
    crate::content::renumber(dir.path(), &id, &series(9), &Root([1; 32])).unwrap();
    crate::content::renumber(dir.path(), &id, &series(6), &root).unwrap();
    assert_eq!(listed(dir.path()), [(7, true, false)]);
    crate::content::renumber(dir.path(), &id, &series(8), &root).unwrap();
    assert_eq!(listed(dir.path()), [(8, true, false)]);
    let other = put(9, dir.path());
    assert_eq!(other.path, first.path);
    assert_eq!(listed(dir.path()), [(9, true, false), (8, false, false)]);
}

#[test]
fn old_versions_make_room_the_oldest_first_and_only_where_that_helps() {
    let Some(disk) = SmallDisk::or_skipped() else {
        return;
    };
    let dest = disk.0.path();
    for n in 1..=3u8 {
        let origin = Origin::file("slides", content(n, 200_000));
        let mut sink = whole(&origin, dest);
        let placed = sink.commit_version(Collision::KeepBoth, &series(n.into()), 5);
        assert_eq!(placed.unwrap().path, dest.join("slides"));
        sink.discard().unwrap();
    }
    let versions = || {
        list(dest)
            .iter()
            .map(|one| one.series.version)
            .collect::<Vec<_>>()
    };
    let free = free_space(dest).unwrap();
    assert!(
        !make_room(dest, free + 700_000),
        "two of them are not enough"
    );
    assert_eq!(versions(), [3, 2, 1]);
    assert!(make_room(dest, free), "there is room");
    assert_eq!(versions(), [3, 2, 1]);
    assert!(make_room(dest, free + 100_000));
    assert_eq!(versions(), [3, 2]);
    assert!(make_room(dest, free + 300_000));
    assert_eq!(versions(), [3], "never the one in its place");
}

const CHILD_DEST: &str = "HANDOUT_TEST_VERSIONS_DEST";

#[test]
#[ignore = "run as a process of its own by a_process_killed_in_the_midst_of_a_switch_loses_nothing"]
fn child_that_switches_for_ever() {
    let Some(dest) = std::env::var_os(CHILD_DEST) else {
        return;
    };
    let dest = Path::new(&dest);
    let here = list(dest).iter().map(|one| one.series.version).max();
    for n in here.unwrap_or(0) as u8.. {
        put_by(n + 1, dest, Collision::KeepBoth, 2);
        if n % 4 == 3 {
            back(dest, None).unwrap();
        }
    }
}

#[test]
fn a_process_killed_in_the_midst_of_a_switch_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path();
    put(1, dest);
    put(2, dest);
    for life in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "content::sink::tests::versions::child_that_switches_for_ever",
            ])
            .env(CHILD_DEST, dest)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Killed at another moment each time, after something has moved.
        let before = fs::metadata(dest.join("lesson/new.txt"))
            .map(|meta| meta.len())
            .ok();
        let begun = std::time::Instant::now();
        while fs::metadata(dest.join("lesson/new.txt"))
            .map(|meta| meta.len())
            .ok()
            == before
        {
            assert!(begun.elapsed().as_secs() < 60, "it does nothing");
            std::thread::yield_now();
        }
        let until = std::time::Instant::now() + std::time::Duration::from_micros(life * 700);
        while std::time::Instant::now() < until {}
        child.kill().unwrap();
        child.wait().unwrap();
        let here = list(dest);
        let current: Vec<&Listed> = here.iter().filter(|one| one.current).collect();
        assert_eq!(current.len(), 1, "life {life}: {here:?}");
        assert!(here.len() >= 2, "life {life}: {here:?}");
        for one in &here {
            assert!(!one.changed, "life {life}: {here:?}");
            version(one.series.version as u8).assert_at(&one.path);
        }
        assert_eq!(visible(dest), ["lesson"], "life {life}");
    }
}

#[test]
fn an_interruption_on_either_side_of_the_exchange_is_brought_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path();
    let switched = |undo: bool| {
        put(1, dest);
        let origin = version(2);
        let mut sink = whole(&origin, dest);
        let staged = origin.staging(dest).join("data/lesson");
        let series_folder = fs::read_dir(dest.join(STAGING).join("versions")).unwrap();
        let record = series_folder
            .flatten()
            .next()
            .unwrap()
            .path()
            .join("series.json");
        let before = fs::read_to_string(&record).unwrap();
        let inode = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            let meta = fs::metadata(path).unwrap();
            serde_json::json!([meta.dev(), meta.ino()])
        };
        let (new, old) = (inode(&staged), inode(&dest.join("lesson")));
        sink.commit_version(Collision::KeepBoth, &series(2), 1)
            .unwrap();
        drop(sink);
        let after: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        // As it was when the two had just changed places, or were about to.
        let mut value: serde_json::Value = serde_json::from_str(&before).unwrap();
        value["next"] = serde_json::json!({
            "version": after["current"],
            "from": [origin.staging(dest).file_name().unwrap().to_str().unwrap(), "data"],
            "top": "lesson",
            "inode": new,
            "replaces": [value["current"], old],
        });
        let kept = record.with_file_name("1").join("lesson");
        if undo {
            fs::rename(dest.join("lesson"), &staged).unwrap();
            fs::rename(kept, dest.join("lesson")).unwrap();
        } else {
            fs::rename(kept, &staged).unwrap();
        }
        fs::write(&record, serde_json::to_vec(&value).unwrap()).unwrap();
        origin
    };
    // Before: the new one still waits.
    let origin = switched(true);
    assert_eq!(listed(dest), [(1, true, false)]);
    let mut sink = origin.open(dest);
    assert_eq!(sink.already_finished(), None);
    assert!(sink.recover(None).is_full());
    drop(sink);
    assert_eq!(put(2, dest).path, dest.join("lesson"));
    assert_eq!(listed(dest), [(2, true, false), (1, false, false)]);
    fs::remove_dir_all(dest.join(STAGING)).unwrap();
    fs::remove_dir_all(dest.join("lesson")).unwrap();
    // After, and the bundle is opened again: what was replaced is kept, not removed.
    let origin = switched(false);
    let sink = origin.open(dest);
    let finished = sink.already_finished().expect("it has its place").clone();
    assert_eq!(finished.path, dest.join("lesson"));
    sink.discard().unwrap();
    assert_eq!(listed(dest), [(2, true, false), (1, false, false)]);
    version(1).assert_at(&list(dest)[1].path);
    fs::remove_dir_all(dest.join(STAGING)).unwrap();
    fs::remove_dir_all(dest.join("lesson")).unwrap();
    // After, and the bundle is discarded or replaced by the next: the same.
    let origin = switched(false);
    let id = origin.identity.device_id();
    crate::content::discard_partial(dest, &id, &bundle_id(&origin.bytes)).unwrap();
    assert_eq!(listed(dest), [(2, true, false), (1, false, false)]);
    assert_eq!(put(3, dest).path, dest.join("lesson"));
}

#[test]
fn a_version_that_came_twice_is_kept_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path();
    let of = |seed: u8| {
        let files = vec![("a", content(seed, 700), false)];
        Origin::new("lesson", Kind::Folder, files, &[])
    };
    for (seed, number) in [(5, 5), (5, 5), (6, 6)] {
        let mut sink = whole(&of(seed), dest);
        let placed = sink.commit_version(Collision::KeepBoth, &series(number), 1);
        assert_eq!(placed.unwrap().path, dest.join("lesson"));
        sink.discard().unwrap();
    }
    assert_eq!(listed(dest), [(6, true, false), (5, false, false)]);
}
