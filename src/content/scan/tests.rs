use super::{scan as scan_but, scan_as as scan_as_but, *};
use std::os::unix::fs::{PermissionsExt, symlink};

fn scan(paths: &[PathBuf]) -> Result<Scan, ScanError> {
    scan_but(paths, &Withheld::default())
}

fn scan_as(path: &Path, name: &str) -> Result<Scan, ScanError> {
    scan_as_but(&[path.to_owned()], Some(name), &Withheld::default())
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |p: &str| dir.path().join(p);
    fs::create_dir_all(at("lesson/bin")).unwrap();
    fs::create_dir_all(at("lesson/empty/deep")).unwrap();
    fs::write(at("lesson/z.txt"), "zz").unwrap();
    fs::write(at("lesson/Übung.txt"), "").unwrap();
    fs::write(at("lesson/bin/tool"), "#!").unwrap();
    fs::set_permissions(at("lesson/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn a_folder_becomes_a_bundle_of_its_files_in_a_fixed_order() {
    let dir = tree();
    let scan = scan(&[dir.path().join("lesson")]).unwrap();
    assert_eq!(
        (scan.head.name.as_str(), scan.head.kind),
        ("lesson", Kind::Folder)
    );
    let paths: Vec<_> = scan
        .head
        .files
        .iter()
        .map(|f| (f.path.as_str(), f.size, f.exec))
        .collect();
    assert_eq!(
        paths,
        [
            ("bin/tool", 2, true),
            ("z.txt", 2, false),
            ("Übung.txt", 0, false)
        ]
    );
    assert_eq!(scan.head.dirs, [BundlePath::new("empty/deep").unwrap()]);
    assert_eq!(scan.sources[1], dir.path().join("lesson/z.txt"));
    assert!(scan.skipped.is_empty());
    let again = self::scan(&[dir.path().join("lesson/.")]).unwrap();
    assert_eq!(again.head.encode(), scan.head.encode());
}

#[test]
fn one_file_becomes_a_file_bundle() {
    let dir = tree();
    let scan = scan(&[dir.path().join("lesson/z.txt")]).unwrap();
    assert_eq!(
        (
            scan.head.name.as_str(),
            scan.head.kind,
            scan.head.files.len()
        ),
        ("z.txt", Kind::File, 1)
    );
    let named = scan_as(&dir.path().join("lesson/z.txt"), "new.txt").unwrap();
    assert_eq!(named.head.files[0].path.as_str(), "new.txt");
    assert!(matches!(
        scan_as(&dir.path().join("lesson/z.txt"), "a/b"),
        Err(ScanError::Name { .. })
    ));
}

#[test]
fn several_paths_become_a_folder_named_after_theirs() {
    let dir = tree();
    let at = |p: &str| dir.path().join("lesson").join(p);
    let scan = scan(&[at("z.txt"), at("bin"), at("z.txt")]).unwrap();
    assert_eq!(
        (scan.head.name.as_str(), scan.head.kind),
        ("lesson", Kind::Folder)
    );
    let paths: Vec<_> = scan.head.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["bin/tool", "z.txt"]);
    fs::write(dir.path().join("z.txt"), "other").unwrap();
    let clash = self::scan(&[at("z.txt"), dir.path().join("z.txt")]);
    assert!(matches!(
        clash,
        Err(ScanError::Unusable {
            reason: SkipReason::Conflict(_),
            ..
        })
    ));
}

#[test]
fn what_cannot_be_sent_is_skipped_and_said() {
    let dir = tree();
    let at = |p: &str| dir.path().join("lesson").join(p);
    symlink("/etc/passwd", at("link")).unwrap();
    symlink("/etc", at("bin/etc")).unwrap();
    fs::write(at("a:b"), "").unwrap();
    fs::write(at("Z.TXT"), "").unwrap();
    fs::create_dir(at(".handout")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let scan = scan(&[dir.path().join("lesson")]).unwrap();
    let skipped: Vec<_> = scan
        .skipped
        .iter()
        .map(|(path, _)| {
            path.strip_prefix(dir.path().join("lesson"))
                .unwrap()
                .to_str()
                .unwrap()
        })
        .collect();
    // The order of names puts Z.TXT before z.txt, so that one is in.
    assert_eq!(
        skipped,
        [".handout", "a:b", "link", "socket", "z.txt", "bin/etc"]
    );
    assert_eq!(scan.skipped[2].1, SkipReason::Symlink);
    assert_eq!(scan.skipped[3].1, SkipReason::Special);
    assert!(Head::decode(&scan.head.encode()).is_ok());
}

#[test]
fn a_missing_path_is_an_error_that_names_it() {
    let error = scan(&[PathBuf::from("/nonexistent/x")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nonexistent/x"), "{error}");
    assert!(matches!(scan(&[]), Err(ScanError::Nothing)));
}

#[test]
fn the_state_folder_is_never_in_a_bundle_however_it_is_named() {
    let dir = tree();
    let at = |p: &str| dir.path().join(p);
    fs::create_dir_all(at("lesson/mine/rosters")).unwrap();
    fs::write(at("lesson/mine/identity.key"), "secret").unwrap();
    fs::write(at("lesson/mine/rosters/one"), "").unwrap();
    symlink(at("lesson/mine"), at("state")).unwrap();
    symlink(at("lesson/mine/rosters/one"), at("roster")).unwrap();
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other/file"), "").unwrap();
    // What is made to be handed out is in it, too.
    fs::create_dir_all(at("lesson/mine/provided/1")).unwrap();
    fs::write(at("lesson/mine/provided/1/made"), "").unwrap();
    symlink(
        at("lesson/mine/identity.key"),
        at("lesson/mine/provided/1/key"),
    )
    .unwrap();
    let withheld = Withheld::state(&at("state"));
    let refused = |paths: &[&str]| {
        let paths: Vec<_> = paths.iter().map(|path| at(path)).collect();
        match scan_but(&paths, &withheld) {
            Err(ScanError::Withheld { path }) => Some(path),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    };
    for bad in [
        "state",
        "lesson/mine",
        "lesson/mine/identity.key",
        "lesson/mine/rosters",
        "lesson/mine/rosters/one",
        "roster",
        "lesson",
        "",
        "lesson/bin/../mine",
        "lesson/mine/provided",
        "lesson/mine/provided/1/key",
        "lesson/mine/provided/../identity.key",
    ] {
        assert_eq!(refused(&[bad]), Some(at(bad)), "{bad}");
        assert_eq!(refused(&["other", bad]), Some(at(bad)), "{bad}");
    }
    assert_eq!(refused(&["lesson/bin", "lesson/z.txt", "other"]), None);
    assert_eq!(refused(&["lesson/mine/provided/1/made"]), None);
    // The key by another name, and found on the way.
    fs::hard_link(at("lesson/mine/identity.key"), at("other/key")).unwrap();
    assert_eq!(refused(&["other/key"]), Some(at("other/key")));
    assert_eq!(refused(&["other"]), Some(at("other/key")));
    // Links in folders are not followed anyway.
    fs::remove_file(at("other/key")).unwrap();
    symlink(at("lesson/mine"), at("other/link")).unwrap();
    assert_eq!(refused(&["other"]), None);
}
