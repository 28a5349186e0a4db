use std::time::{Duration, Instant};

use super::*;

fn pattern(path: &Path) -> PathPattern {
    PathPattern::new(path.to_owned()).unwrap()
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn the_digest_changes_with_whatever_is_handed_out_and_with_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("lessons");
    let patterns = [pattern(&root)];
    assert!(look(&patterns).unwrap_err().contains("cannot be read"));
    fs::create_dir(&root).unwrap();
    assert_eq!(look(&patterns).unwrap_err(), "there are no files in it");
    put(&root.join("a/one.txt"), "one");
    put(&folder.path().join("beside.txt"), "beside");
    let mut seen = vec![look(&patterns).unwrap()];
    assert_eq!(look(&patterns).unwrap(), seen[0]);
    put(&folder.path().join("beside.txt"), "changed");
    assert_eq!(look(&patterns).unwrap(), seen[0]);
    let mut changed = |what: &str| {
        let digest = look(&patterns).unwrap();
        assert!(!seen.contains(&digest), "{what}");
        seen.push(digest);
    };
    put(&root.join("a/one.txt"), "longer");
    changed("size");
    let file = fs::File::open(root.join("a/one.txt")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    changed("time");
    put(&root.join("b.txt"), "");
    changed("a new file");
    fs::rename(root.join("b.txt"), root.join("c.txt")).unwrap();
    changed("a name");
    fs::create_dir(root.join("empty")).unwrap();
    changed("an empty folder");
}

#[test]
fn patterns_mean_what_fits_now() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one/a.pdf", "one/b.txt", "two/c.pdf", "two/.d.pdf"] {
        put(&folder.path().join(name), name);
    }
    let patterns = [pattern(&folder.path().join("*/*.pdf"))];
    let found = expand(&patterns).unwrap();
    assert_eq!(
        found,
        ["one/a.pdf", "two/c.pdf"].map(|name| folder.path().join(name))
    );
    let none = [pattern(&folder.path().join("*.doc"))];
    assert!(expand(&none).unwrap_err().contains("nothing fits"));
    // One file that fits is still a folder of what fits: its name does not change with the second.
    let single = [pattern(&folder.path().join("one/*.pdf"))];
    let taken = take(&single, "papers", &look(&single).unwrap(), &nothing()).unwrap();
    assert_eq!(taken.head.name.as_str(), "one");
    assert_eq!(taken.head.files[0].path.as_str(), "a.pdf");
}

#[test]
fn only_what_was_looked_at_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    put(&path, "a");
    let patterns = [pattern(&path)];
    let digest = look(&patterns).unwrap();
    assert_eq!(
        take(&patterns, "a", &digest, &nothing())
            .unwrap()
            .head
            .name
            .as_str(),
        "a.txt"
    );
    put(&path, "changed");
    assert_eq!(
        take(&patterns, "a", &digest, &nothing()).unwrap_err(),
        NotTaken::Moved
    );
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        take(&patterns, "a", &digest, &nothing()),
        Err(NotTaken::Missing(_))
    ));
}

/// Waits for the system to tell, or for long enough.
fn told(stirred: &AtomicBool) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while !stirred.swap(false, Ordering::Relaxed) {
        if Instant::now() > until {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn a_folder_is_watched_from_before_it_is_there_and_again_when_it_is_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("lessons");
    let stirred = Arc::new(AtomicBool::new(false));
    let mut watch = Watch::new(vec![pattern(&root)], Arc::clone(&stirred));
    assert_eq!((watch.refresh(), watch.is_told()), (None, true));
    fs::create_dir_all(root.join("deep/er")).unwrap();
    assert!(told(&stirred), "it has come to be");
    for _ in 0..2 {
        watch.refresh();
        put(&root.join("deep/er/a.txt"), "a");
        assert!(told(&stirred), "a file deep in it");
        fs::remove_dir_all(&root).unwrap();
        assert!(told(&stirred), "it is gone");
        fs::create_dir_all(root.join("deep/er")).unwrap();
        assert!(told(&stirred), "another one is in its place");
    }
}

fn nothing() -> Withheld {
    Withheld::default()
}

#[test]
fn a_path_that_has_become_a_link_to_the_state_folder_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("identity.key"), "secret").unwrap();
    std::os::unix::fs::symlink(&state, dir.path().join("lessons")).unwrap();
    for written in ["lessons", "less*", "lessons/*", "s*/identity.key"] {
        let patterns = [PathPattern::new(dir.path().join(written)).unwrap()];
        let digest = look(&patterns).unwrap();
        let taken = take(&patterns, "a", &digest, &Withheld::state(&state));
        match taken {
            Err(NotTaken::Missing(why)) => assert!(why.contains("device's key"), "{why}"),
            other => panic!("{written}: {other:?}"),
        }
        assert!(
            take(&patterns, "a", &digest, &nothing()).is_ok(),
            "{written}"
        );
    }
}
