use super::*;
use crate::content::scan::scan;
use crate::protocol::manifest::{DEFAULT_CHUNK_SIZE, PAGE_CHUNKS};
use std::fs;
use std::path::Path;

fn identity() -> Identity {
    Identity::from_seed(&[9; 32])
}

fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i / 251) as u8 ^ (i % 253) as u8 ^ seed)
        .collect()
}

fn source(path: &Path) -> Source {
    Source::new(
        scan(&[path.to_owned()], &Default::default()).unwrap(),
        identity(),
    )
}

/// Fetches and checks everything as a receiver would.
async fn fetch(source: &Source) -> Vec<Vec<u8>> {
    let mut files = vec![Vec::new(); source.head().files.len()];
    let layout = source.layout();
    for number in 0..layout.page_count() {
        let signed = source.page(number).await.unwrap();
        let said = page_statement(&source.bundle(), number, &page_digest(&signed.bytes));
        identity()
            .public_key()
            .verify(&said, &signed.signature)
            .unwrap();
        let page = Page::decode(number, layout.page_bytes(number), &signed.bytes).unwrap();
        for (index, hash) in layout.page_chunks(number).zip(page.hashes) {
            let chunk = source.chunk(index).await.unwrap();
            assert_eq!(ChunkHash::of(&chunk.bytes), hash);
            assert_eq!(chunk.xxh3, hash.xxh3);
            files[layout.chunk(index).unwrap().file].extend_from_slice(&chunk.bytes);
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_arrives_whole_at_receivers_in_step_and_its_memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let contents = [
        vec![],
        content(1, 5),
        content(2, 40 * 1024 * 1024 + 77),
        content(3, 262_144),
    ];
    for (name, content) in ["a", "b", "c", "d"].iter().zip(&contents) {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let source = source(dir.path());
    assert_eq!(source.known_root(), None);
    let receivers: Vec<_> = (0..4)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { fetch(&source).await })
        })
        .collect();
    for receiver in receivers {
        assert!(receiver.await.unwrap() == contents);
    }
    assert!(lock(&source.0.cache).used() <= CACHE_BYTES);
    let (root, signature) = source.root().await.unwrap();
    identity()
        .public_key()
        .verify(&root_statement(&source.bundle(), &root), &signature)
        .unwrap();
    assert_eq!(source.known_root(), Some((root, signature)));
}

#[tokio::test]
async fn the_root_is_the_same_whether_asked_for_first_or_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, content(7, 20 * 1024 * 1024)).unwrap();
    let (first, last) = (source(&path), source(&path));
    let root = first.root().await.unwrap();
    assert_eq!(
        lock(&first.0.cache).used(),
        0,
        "making the root keeps no chunks"
    );
    fetch(&last).await;
    assert_eq!(last.root().await.unwrap(), root);
    fetch(&first).await;
}

#[tokio::test]
async fn an_empty_file_has_a_root_and_no_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty");
    fs::write(&path, "").unwrap();
    let source = source(&path);
    assert_eq!(source.layout().chunk_count(), 0);
    assert_eq!(
        source.root().await.unwrap().0,
        root_of(&source.bundle(), [])
    );
    assert!(matches!(
        source.chunk(0).await,
        Err(SourceError::NoSuch { .. })
    ));
    assert!(matches!(
        source.page(0).await,
        Err(SourceError::NoSuch { .. })
    ));
}

#[tokio::test]
async fn a_file_that_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let changed = |result: Result<Chunk, SourceError>| match result {
        Err(SourceError::Changed { path: named }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    };
    let original = content(1, 1_000_000);
    for other in [content(1, 999_999), content(1, 1_000_001)] {
        fs::write(&path, &original).unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let source = source(&path);
        fs::write(&path, other).unwrap();
        changed(source.chunk(0).await);
        // Back again: the error was not kept.
        fs::write(&path, &original).unwrap();
        set_time(&path, time);
        source.chunk(0).await.unwrap();
    }
    let source = source(&path);
    source.root().await.unwrap();
    fs::write(&path, content(2, 1_000_000)).unwrap();
    changed(source.chunk(3).await);
    fs::remove_file(&path).unwrap();
    let gone = source.chunk(2).await.unwrap_err();
    assert!(matches!(gone, SourceError::Io { .. }));
    assert_eq!(gone.code(), Code::Changed);
}

fn set_time(path: &Path, time: SystemTime) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[tokio::test]
async fn a_bundle_is_never_made_of_what_was_there_before_and_after_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("f"), dir.path().join("other"));
    let size = (PAGE_CHUNKS as usize + 1) * DEFAULT_CHUNK_SIZE as usize;
    let replace = || {
        fs::write(&other, vec![2; size]).unwrap();
        set_time(&other, SystemTime::UNIX_EPOCH);
        fs::rename(&other, &path).unwrap();
    };
    let write = || {
        fs::write(&path, vec![2; size]).unwrap();
        set_time(&path, SystemTime::UNIX_EPOCH);
    };
    for change in [&replace as &dyn Fn(), &write] {
        fs::write(&path, vec![1; size]).unwrap();
        let source = source(&path);
        source.page_alone(0).await.unwrap();
        change();
        let second = source.page_alone(1).await;
        assert!(
            matches!(second, Err(SourceError::Changed { .. })),
            "{second:?}"
        );
        assert!(source.root().await.is_err());
    }
}

#[test]
fn a_change_in_a_file_that_is_open_shows_at_the_next_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, content(1, 1_000_000)).unwrap();
    let source = source(&path);
    let chunk = |index| source.layout().chunk(index).unwrap();
    let mut reader = Reader::default();
    reader.read(&source.0, chunk(0)).unwrap();
    fs::write(&path, content(2, 1_000_000)).unwrap();
    set_time(&path, SystemTime::UNIX_EPOCH);
    let read = reader.read(&source.0, chunk(1));
    assert!(matches!(read, Err(SourceError::Changed { .. })));
}

#[tokio::test]
async fn a_file_that_did_not_change_is_not_read_again_to_hash_it() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    fs::write(&old, content(1, 700_000)).unwrap();
    fs::write(&new, content(2, 700_000)).unwrap();
    // Times from long ago; only the system's own mark of the last change is from now.
    let settle = |path: &Path, age: u64| {
        let then = SystemTime::now() - std::time::Duration::from_secs(age);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(then)
            .unwrap();
    };
    settle(&old, 100);
    let root = source(dir.path()).root().await.unwrap();
    let seen = |path: &Path| Seen::of(&fs::metadata(path).unwrap(), DEFAULT_CHUNK_SIZE);
    assert_eq!(
        remembered().get(&seen(&old), 0),
        None,
        "it was made just now"
    );
    // As if it had been so for a while when it was read.
    let first = ChunkHash::of(&content(1, 700_000)[..DEFAULT_CHUNK_SIZE as usize]);
    remembered().put(&seen(&old), 0, first);
    assert_eq!(source(dir.path()).root().await.unwrap(), root);
    let lie = ChunkHash { xxh3: 1, ..first };
    remembered().put(&seen(&old), 0, lie);
    let other = source(dir.path());
    assert_ne!(other.root().await.unwrap(), root, "the memory was asked");
    // What is sent is compared with what was said of it.
    assert!(matches!(
        other.chunk(3).await,
        Err(SourceError::Changed { .. })
    ));
    settle(&old, 50);
    assert_eq!(source(dir.path()).root().await.unwrap(), root);
}
