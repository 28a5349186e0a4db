use super::*;
use proptest::prelude::*;

fn path(path: &str) -> BundlePath {
    BundlePath::new(path).unwrap()
}

fn folder(files: &[(&str, u64)]) -> Head {
    Head {
        name: path("lesson-3"),
        kind: Kind::Folder,
        chunk_size: MIN_CHUNK_SIZE,
        files: files
            .iter()
            .map(|&(p, size)| FileEntry {
                path: path(p),
                size,
                exec: false,
            })
            .collect(),
        dirs: vec![],
    }
}

#[test]
fn the_head_of_the_protocol_page_is_read() {
    let text = br#"{ "v": 1, "name": "lesson-3", "kind": "folder", "chunk_size": 262144,
        "files": [ { "path": "a.txt", "size": 5 }, { "path": "bin/tool", "size": 700000, "exec": true } ],
        "dirs": [ "empty/folder" ], "later": [1, {"x": 2}] }"#;
    let head = Head::decode(text).unwrap();
    assert_eq!(
        (head.files.len(), head.files[1].exec, head.dirs.len()),
        (2, true, 1)
    );
    let layout = Layout::new(&head);
    assert_eq!(
        (
            layout.chunk_count(),
            layout.page_count(),
            layout.total_size()
        ),
        (4, 1, 700_005)
    );
    assert_eq!(Head::decode(&head.encode()).unwrap(), head);
}

#[test]
fn heads_that_would_do_harm_are_refused() {
    let decode = |name: &str, kind: &str, chunk: u32, files: &str, dirs: &str| {
        let text = format!(
            r#"{{"v":1,"name":"{name}","kind":"{kind}","chunk_size":{chunk},"files":[{files}],"dirs":[{dirs}]}}"#
        );
        Head::decode(text.as_bytes())
    };
    let f = |p: &str, size: u64| format!(r#"{{"path":"{p}","size":{size}}}"#);
    assert!(decode("x", "folder", 65_536, &f("a", 1), r#""b""#).is_ok());
    assert!(matches!(
        decode("..", "folder", 65_536, "", ""),
        Err(HeadError::Name { .. })
    ));
    assert!(matches!(
        decode("a/b", "folder", 65_536, "", ""),
        Err(HeadError::Name { .. })
    ));
    assert!(matches!(
        decode("x", "folder", 65_536, &f("../a", 1), ""),
        Err(HeadError::Name { .. })
    ));
    assert!(matches!(
        decode("x", "folder", 65_536, "", r#""a/../..""#),
        Err(HeadError::Name { .. })
    ));
    for size in [0, 1, 65_535, 65_537, 32_768, 8_388_608, u32::MAX] {
        assert!(matches!(
            decode("x", "folder", size, "", ""),
            Err(HeadError::ChunkSize(_))
        ));
    }
    for files in [
        f("a", u64::MAX),
        format!("{},{}", f("a", u64::MAX), f("b", u64::MAX)),
        f("a", 131_072 * 65_536 + 1),
    ] {
        assert!(matches!(
            decode("x", "folder", 65_536, &files, ""),
            Err(HeadError::TooManyChunks)
        ));
    }
    for files in [
        [f("a", 1), f("a", 1)],
        [f("a", 1), f("A", 1)],
        [f("a", 1), f("a/b", 1)],
        [f("a/b", 1), f("a", 1)],
    ] {
        assert!(matches!(
            decode("x", "folder", 65_536, &files.join(","), ""),
            Err(HeadError::Conflict { .. })
        ));
    }
    assert!(matches!(
        decode("x", "folder", 65_536, &f("a", 1), r#""a""#),
        Err(HeadError::Conflict { .. })
    ));
    assert!(matches!(
        decode("x", "folder", 65_536, "", r#""a","a""#),
        Err(HeadError::Conflict { .. })
    ));
    assert!(decode("x", "file", 65_536, &f("x", 1), "").is_ok());
    for (files, dirs) in [
        (String::new(), ""),
        (f("y", 1), ""),
        (f("x", 1), r#""d""#),
        (f("x", 1) + "," + &f("y", 1), ""),
    ] {
        assert!(matches!(
            decode("x", "file", 65_536, &files, dirs),
            Err(HeadError::NotOneFile)
        ));
    }
    assert!(matches!(
        Head::decode(br#"{"v":2,"entirely":"new"}"#),
        Err(HeadError::Version(2))
    ));
    assert!(matches!(
        Head::decode(&vec![b' '; MAX_HEAD + 1]),
        Err(HeadError::TooLong(_))
    ));
    let many = vec![r#""d""#; MAX_ENTRIES + 1].join(",");
    assert!(matches!(
        decode("x", "folder", 65_536, "", &many),
        Err(HeadError::Malformed(_))
    ));
}

#[test]
fn heads_beyond_their_length_or_number_of_entries_are_refused() {
    let mut head = folder(&[("a", 1)]).encode();
    head.resize(MAX_HEAD, b' ');
    assert!(Head::decode(&head).is_ok());
    head.push(b' ');
    assert!(matches!(Head::decode(&head), Err(HeadError::TooLong(_))));
    // Entries are counted while they are read, also such that could never be.
    let many = vec![r#"{"path":"","size":0}"#; MAX_ENTRIES + 1].join(",");
    let text =
        format!(r#"{{"v":1,"name":"x","kind":"folder","chunk_size":65536,"files":[{many}]}}"#);
    match Head::decode(text.as_bytes()) {
        Err(HeadError::Malformed(what)) => assert!(what.contains("100001"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_chunk_size_grows_with_the_bundle() {
    let of = |sizes: &[u64]| choose_chunk_size(sizes.iter().copied());
    const GIB: u64 = 1 << 30;
    assert_eq!(of(&[]), Some(262_144));
    assert_eq!(of(&[32 * GIB]), Some(262_144));
    assert_eq!(of(&[32 * GIB + 1]), Some(524_288));
    assert_eq!(of(&[512 * GIB]), Some(4_194_304));
    assert_eq!(of(&[512 * GIB, 1]), None);
    assert_eq!(of(&[u64::MAX, u64::MAX]), None);
    assert_eq!(of(&vec![1; 131_073]), None);
}

#[test]
fn a_page_of_another_length_is_refused() {
    let page = Page {
        number: 3,
        hashes: vec![ChunkHash::of(b"a"), ChunkHash::of(b"b")],
    };
    let bytes = page.encode();
    assert_eq!(Page::decode(3, 80, &bytes), Ok(page));
    assert!(Page::decode(3, 120, &bytes).is_err());
    assert!(Page::decode(3, 80, &bytes[..79]).is_err());
    assert!(Page::decode(3, 0, &[]).is_err());
}

#[test]
fn roots_and_statements_depend_on_everything_in_them() {
    let (a, b) = (BundleId([1; 32]), BundleId([2; 32]));
    let roots = [
        root_of(&a, []),
        root_of(&b, []),
        root_of(&a, [[3; 32]]),
        root_of(&a, [[3; 32], [4; 32]]),
        root_of(&a, [[4; 32], [3; 32]]),
    ];
    for (i, x) in roots.iter().enumerate() {
        assert!(roots[i + 1..].iter().all(|y| x != y));
    }
    assert_ne!(
        page_statement(&a, 1, &[0; 32]),
        page_statement(&a, 2, &[0; 32])
    );
    assert_ne!(
        page_statement(&a, 1, &[0; 32]),
        page_statement(&b, 1, &[0; 32])
    );
    assert_ne!(root_statement(&a, &roots[0]), root_statement(&a, &roots[1]));
}

#[test]
fn errors_repeat_little_of_a_head_and_nothing_that_a_terminal_acts_on() {
    let long = "x".repeat(100_000);
    for head in [
        format!(r#"{{"v":1,"name":"a","kind":"\u001b[2J{long}"}}"#),
        format!(
            r#"{{"v":1,"name":"\u001b[2J{long}","kind":"folder","chunk_size":65536,"files":[]}}"#
        ),
    ] {
        let error = Head::decode(head.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(r"\u{1b}[2J"), "{error}");
        assert!(error.len() < 400 && !error.contains('\u{1b}'), "{error}");
    }
}

proptest! {
    #[test]
    fn chunks_cover_every_file_once_and_in_order(sizes in proptest::collection::vec(0u64..400_000, 0..20)) {
        let names: Vec<String> = (0..sizes.len()).map(|i| format!("f{i}")).collect();
        let files: Vec<_> = names.iter().map(String::as_str).zip(sizes.iter().copied()).collect();
        let layout = Layout::new(&folder(&files));
        let mut reached = vec![0u64; sizes.len()];
        for index in 0..layout.chunk_count() {
            let span = layout.chunk(index).unwrap();
            prop_assert!(layout.file_chunks(span.file).contains(&index));
            prop_assert!(layout.page_chunks(layout.page_of(index)).contains(&index));
            prop_assert_eq!(span.offset, reached[span.file]);
            prop_assert!(span.len >= 1);
            reached[span.file] += u64::from(span.len);
        }
        prop_assert_eq!(&reached, &sizes);
        prop_assert_eq!(layout.chunk(layout.chunk_count()), None);
        let pages: u32 = (0..layout.page_count() + 2).map(|p| layout.page_chunks(p).len() as u32).sum();
        prop_assert_eq!(pages, layout.chunk_count());
    }

    #[test]
    fn arbitrary_bytes_never_make_the_head_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Head::decode(&bytes);
    }
}
