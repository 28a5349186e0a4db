//! Chunks that an earlier bundle of the same origin has.

use super::*;
use crate::content::{Abandoned, Earlier, HeadShelf, Reuse, Step};
use crate::protocol::manifest::Page;

/// An earlier bundle that has arrived, and what is kept of it.
struct Before {
    dir: tempfile::TempDir,
    heads: HeadShelf,
    earlier: Earlier,
}

impl Before {
    fn new(origin: &Origin) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let heads = HeadShelf::new(dir.path().join("heads"));
        let dest = dir.path().join("in");
        let mut sink = origin.open(&dest);
        origin.send_missing(&mut sink);
        let finished = origin.finish(sink);
        let bundle = bundle_id(&origin.bytes);
        heads.put(&bundle, &origin.head).unwrap();
        let (path, stat) = (finished.path, finished.stat);
        Self {
            dir,
            heads,
            earlier: Earlier {
                bundle,
                path,
                stat,
                head: None,
            },
        }
    }

    fn dest(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    /// Looks through what was there before; the bytes that need not come.
    fn take(&self, sink: &mut Sink) -> Option<u64> {
        let mut reuse = Reuse::begin(sink, &self.earlier, &self.heads)?;
        Some(take_all(&mut reuse, sink))
    }
}

fn take_all(reuse: &mut Reuse, sink: &mut Sink) -> u64 {
    let mut took = 0;
    loop {
        match reuse.step(sink).unwrap() {
            Step::Took(bytes) => took += bytes,
            Step::Over => return took,
        }
    }
}

fn large(seed: u8) -> Vec<u8> {
    // No two chunks alike.
    let chunks = (0..5u8).flat_map(|n| vec![seed.wrapping_mul(31).wrapping_add(n); CHUNK]);
    chunks.chain([seed; 100]).collect()
}

fn before() -> Origin {
    let files = vec![
        ("a.txt", content(1, 1000), false),
        ("deep/b.bin", large(1), false),
        ("c.bin", large(2), true),
    ];
    Origin::new("lesson", Kind::Folder, files, &[])
}

#[test]
fn what_was_renamed_moved_or_appended_to_is_found_wherever_it_lies() {
    let before = Before::new(&before());
    let mut appended = large(1);
    appended.extend(vec![9; CHUNK]);
    let files = vec![
        ("a.txt", content(3, 1000), false),
        ("b.bin", appended.clone(), false),
        ("other/name.bin", large(2), false),
        ("twice.bin", large(2), false),
    ];
    let origin = Origin::new("lesson", Kind::Folder, files, &[]);
    let mut sink = origin.open(&before.dest());
    origin.send_pages(&mut sink);
    let took = before.take(&mut sink).unwrap();
    let whole = 5 * CHUNK as u64;
    assert_eq!(
        took,
        whole + 2 * (whole + 100),
        "all but the end of b.bin and a.txt"
    );
    let missing: Vec<u32> = sink.have().iter_missing().collect();
    assert_eq!(missing, [0, 6, 7]);
    // It lasts like what was sent.
    sink.checkpoint().unwrap();
    drop(sink);
    let mut sink = origin.open(&before.dest());
    assert_eq!(
        sink.recover(None).iter_missing().collect::<Vec<_>>(),
        [0, 6, 7]
    );
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
    // A later change in place does not reach what was copied from it.
    fs::write(before.earlier.path.join("c.bin"), b"changed").unwrap();
    origin.assert_at(&before.dest().join("lesson (2)"));
}

#[test]
fn one_file_under_another_name_counts_too() {
    let before = Before::new(&Origin::file("a.bin", large(1)));
    let mut longer = large(1);
    longer.truncate(4 * CHUNK + 7);
    let origin = Origin::file("b.bin", longer);
    let mut sink = origin.open(&before.dest());
    origin.send_pages(&mut sink);
    assert_eq!(before.take(&mut sink), Some(4 * CHUNK as u64));
}

#[test]
fn what_somebody_has_changed_is_never_looked_at() {
    let origin = before();
    let before = Before::new(&origin);
    let again = Origin::new("new", Kind::Folder, vec![("x", large(1), false)], &[]);
    let mut sink = again.open(&before.dest());
    again.send_pages(&mut sink);
    fs::write(before.earlier.path.join("a.txt"), content(1, 1001)).unwrap();
    assert_eq!(before.take(&mut sink), None);
    // Nor what lies behind a link in its place.
    let elsewhere = before.dir.path().join("elsewhere");
    fs::rename(before.earlier.path.join("c.bin"), &elsewhere).unwrap();
    symlink(&elsewhere, before.earlier.path.join("c.bin")).unwrap();
    assert_eq!(before.take(&mut sink), None);
    assert!(sink.have().is_empty());
}

#[test]
fn pages_that_fit_nothing_and_pages_that_lie_bring_nothing() {
    let origin = before();
    let before = Before::new(&origin);
    let sign = |number: u32, page: &Page, bundle: &BundleId| {
        let bytes = page.encode();
        let said = page_statement(bundle, number, &page_digest(&bytes));
        (bytes, origin.identity.sign(&said))
    };
    let again = Origin::new("new", Kind::Folder, vec![("x", large(1), false)], &[]);
    let bundle = bundle_id(&again.bytes);
    let true_hash = |index| ChunkHash::of(again.chunk(index));
    let lies: [fn(ChunkHash) -> ChunkHash; 2] = [
        |hash| ChunkHash {
            blake3: [7; 32],
            ..hash
        },
        |hash| ChunkHash { xxh3: 7, ..hash },
    ];
    for lie in lies {
        let hashes = (0..again.layout().chunk_count()).map(|index| lie(true_hash(index)));
        let page = Page {
            number: 0,
            hashes: hashes.collect(),
        };
        let (bytes, signature) = sign(0, &page, &bundle);
        let mut sink = again.open(&before.dest());
        sink.put_page(0, &bytes, &signature).unwrap();
        assert_eq!(before.take(&mut sink), Some(0));
        assert!(sink.have().is_empty());
        sink.discard().unwrap();
    }
}

#[test]
fn what_has_come_of_a_bundle_that_was_given_up_is_found_as_soon_as_nobody_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let old = before();
    let abandoned = Abandoned {
        destination: dir.path().to_owned(),
        origin: old.identity.device_id(),
        bundle: bundle_id(&old.bytes),
    };
    // a.txt is chunk 0, b.bin 1 to 6, c.bin 7 to 12.
    let mut growing = old.open(dir.path());
    old.send(&mut growing, [0, 1, 2, 5, 7, 12]);
    let files = vec![
        ("a.txt", content(3, 1000), false),
        ("deep/b.bin", large(1), false),
        ("renamed.bin", large(2), true),
    ];
    let new = Origin::new("lesson", Kind::Folder, files, &[]);
    let mut sink = new.open(dir.path());
    new.send_pages(&mut sink);
    let busy = Reuse::begin_abandoned(&sink, &abandoned).err().unwrap();
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);
    growing.checkpoint().unwrap();
    drop(growing);
    // Somebody has written into one of them.
    let data = dir.path().join(".handout");
    let written = files_named(&data, "c.bin").pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(written).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 7).unwrap();
    let mut reuse = Reuse::begin_abandoned(&sink, &abandoned).unwrap();
    assert_eq!(take_all(&mut reuse, &mut sink), 3 * CHUNK as u64 + 100);
    let missing: Vec<u32> = sink.have().iter_missing().collect();
    assert_eq!(missing, [0, 3, 4, 6, 7, 8, 9, 10, 11]);
    let busy = abandoned.discard().unwrap_err();
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);
    drop(reuse);
    abandoned.discard().unwrap();
    assert!(!abandoned.is_there());
    let nothing = Reuse::begin_abandoned(&sink, &abandoned).err().unwrap();
    assert_eq!(nothing.kind(), std::io::ErrorKind::NotFound);
    new.send_missing(&mut sink);
    new.assert_at(&new.finish(sink).path);
}

/// Files of that name anywhere below a folder.
fn files_named(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let found = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => files_named(&entry.path(), name),
        false => vec![entry.path()],
    });
    found
        .filter(|path| path.file_name().unwrap() == name)
        .collect()
}
