use super::*;
use crate::content::commit::stat_digest;
use crate::content::staging::find_partial;
use crate::protocol::identity::Identity;
use crate::protocol::manifest::{FileEntry, MIN_CHUNK_SIZE, root_of};
use crate::protocol::message::Code;
use crate::protocol::policy::Collision;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

mod collision;
mod crash;
mod links;
mod races;
mod reuse;
mod trust;
mod versions;

const CHUNK: usize = MIN_CHUNK_SIZE as usize;

/// A bundle as its origin knows it.
struct Origin {
    identity: Identity,
    head: Head,
    bytes: Vec<u8>,
    files: Vec<Vec<u8>>,
}

fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i / 249) as u8 ^ (i % 251) as u8 ^ seed)
        .collect()
}

fn path(path: &str) -> BundlePath {
    BundlePath::new(path).unwrap()
}

impl Origin {
    fn new(name: &str, kind: Kind, files: Vec<(&str, Vec<u8>, bool)>, dirs: &[&str]) -> Self {
        let entry = |(at, bytes, exec): &(&str, Vec<u8>, bool)| FileEntry {
            path: path(at),
            size: bytes.len() as u64,
            exec: *exec,
        };
        let head = Head {
            name: path(name),
            kind,
            chunk_size: MIN_CHUNK_SIZE,
            files: files.iter().map(entry).collect(),
            dirs: dirs.iter().copied().map(path).collect(),
        };
        let bytes = head.encode();
        let files = files.into_iter().map(|(_, bytes, _)| bytes).collect();
        Self {
            identity: Identity::from_seed(&[4; 32]),
            head,
            bytes,
            files,
        }
    }

    /// 70 chunks in two pages, with everything that a folder can hold.
    fn folder() -> Self {
        let files = vec![
            ("bin/tool", content(1, 3 * CHUNK + 5), true),
            ("leer.txt", vec![], false),
            ("Übung/三 🎒.bin", content(2, 65 * CHUNK + 1), false),
        ];
        Self::new("lesson", Kind::Folder, files, &["empty/deep"])
    }

    fn file(name: &str, bytes: Vec<u8>) -> Self {
        Self::new(name, Kind::File, vec![(name, bytes, false)], &[])
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.head)
    }

    fn chunk(&self, index: u32) -> &[u8] {
        let span = self.layout().chunk(index).unwrap();
        &self.files[span.file][span.offset as usize..][..span.len as usize]
    }

    fn page(&self, number: u32) -> (Vec<u8>, Signature) {
        let hashes = self
            .layout()
            .page_chunks(number)
            .map(|index| ChunkHash::of(self.chunk(index)))
            .collect();
        let bytes = Page { number, hashes }.encode();
        let said = page_statement(&bundle_id(&self.bytes), number, &page_digest(&bytes));
        let signature = self.identity.sign(&said);
        (bytes, signature)
    }

    fn root(&self) -> (Root, Signature) {
        let bundle = bundle_id(&self.bytes);
        let root = root_of(
            &bundle,
            (0..self.layout().page_count()).map(|page| page_digest(&self.page(page).0)),
        );
        (root, self.identity.sign(&root_statement(&bundle, &root)))
    }

    fn try_open(&self, dest: &Path) -> Result<Sink, SinkError> {
        let key = self.identity.public_key();
        Sink::open(
            dest,
            &key.device_id(),
            &key,
            TransferId([5; 16]),
            &self.bytes,
        )
    }

    /// Opens it as its only user. A process that another test is just starting holds a copy of the
    /// lock that was let go here, until it has become that process.
    fn open(&self, dest: &Path) -> Sink {
        let begun = std::time::Instant::now();
        loop {
            match self.try_open(dest) {
                Err(SinkError::InUse { .. }) if begun.elapsed().as_secs() < 10 => {
                    std::thread::yield_now();
                }
                outcome => return outcome.unwrap(),
            }
        }
    }

    fn send_pages(&self, sink: &mut Sink) {
        for number in 0..self.layout().page_count() {
            let (bytes, signature) = self.page(number);
            sink.put_page(number, &bytes, &signature).unwrap();
        }
    }

    fn send(&self, sink: &mut Sink, chunks: impl IntoIterator<Item = u32>) {
        self.send_pages(sink);
        for index in chunks {
            sink.write_chunk(index, self.chunk(index)).unwrap();
        }
    }

    fn send_missing(&self, sink: &mut Sink) {
        let missing: Vec<u32> = sink.have().iter_missing().collect();
        self.send(sink, missing);
    }

    fn finish(&self, mut sink: Sink) -> Finished {
        let (root, signature) = self.root();
        assert_eq!(
            sink.check_root(&root, &signature).unwrap(),
            RootOutcome::Verified
        );
        sink.finish(Collision::KeepBoth).unwrap()
    }

    /// Whether the bundle lies at `at` as it should.
    fn assert_at(&self, at: &Path) {
        for (entry, bytes) in self.head.files.iter().zip(&self.files) {
            let file = match self.head.kind {
                Kind::File => at.to_owned(),
                Kind::Folder => at.join(entry.path.as_str()),
            };
            assert!(fs::read(&file).unwrap() == *bytes, "{file:?} differs");
            assert_eq!(
                fs::metadata(&file).unwrap().permissions().mode() & 0o100 != 0,
                entry.exec
            );
        }
        assert!(
            self.head
                .dirs
                .iter()
                .all(|dir| at.join(dir.as_str()).is_dir())
        );
    }

    fn staging(&self, dest: &Path) -> PathBuf {
        let id = self.identity.device_id();
        dest.join(STAGING)
            .join(folder_name(&id, &bundle_id(&self.bytes)))
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A bundle, whole and verified, before it is given its name.
fn whole(origin: &Origin, dest: &Path) -> Sink {
    let mut sink = origin.open(dest);
    sink.recover(None);
    origin.send_missing(&mut sink);
    let (root, signature) = origin.root();
    sink.check_root(&root, &signature).unwrap();
    sink
}

#[test]
fn a_folder_arrives_with_everything_in_it_and_leaves_no_trace_of_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("made/on/the/way");
    let origin = Origin::folder();
    let mut sink = origin.open(&dest);
    assert_eq!(sink.recover(None).len(), 0);
    origin.send(&mut sink, (0..70).rev());
    assert!(sink.have().is_full());
    assert_eq!(sink.bytes_since_checkpoint(), sink.layout().total_size());
    assert!(sink.checkpoint().unwrap().is_full());
    assert_eq!(sink.bytes_since_checkpoint(), 0);
    let finished = origin.finish(sink);
    assert_eq!(finished.path, dest.join("lesson"));
    assert_eq!(finished.root, origin.root().0);
    origin.assert_at(&finished.path);
    assert_eq!(names_in(&dest), ["lesson"]);
    assert_eq!(
        stat_digest(&finished.path, &origin.head).unwrap(),
        finished.stat
    );
    fs::write(finished.path.join("leer.txt"), "no longer").unwrap();
    assert_ne!(
        stat_digest(&finished.path, &origin.head).unwrap(),
        finished.stat
    );
}

#[test]
fn files_empty_ones_and_folders_with_nothing_in_them_arrive() {
    let dir = tempfile::tempdir().unwrap();
    for origin in [
        Origin::file("Übung 三.txt", content(1, 100)),
        Origin::file("leer", vec![]),
        Origin::new("nothing", Kind::Folder, vec![], &[]),
        Origin::new("exec", Kind::File, vec![("exec", vec![], true)], &[]),
    ] {
        let mut sink = origin.open(dir.path());
        origin.send_missing(&mut sink);
        let finished = origin.finish(sink);
        assert_eq!(finished.path, dir.path().join(origin.head.name.as_str()));
        origin.assert_at(&finished.path);
    }
}

#[test]
fn more_files_than_are_kept_open_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..200).map(|i| format!("{}/{i}", i % 7)).collect();
    let files = names
        .iter()
        .map(|name| (name.as_str(), content(3, name.len() * 999), false))
        .collect();
    let origin = Origin::new("many", Kind::Folder, files, &[]);
    let mut sink = origin.open(dir.path());
    let order: Vec<u32> = (0..sink.layout().chunk_count())
        .map(|i| i * 77 % 200)
        .collect();
    origin.send(&mut sink, order);
    sink.checkpoint().unwrap();
    origin.assert_at(&origin.finish(sink).path);
}

#[test]
fn a_bundle_is_not_finished_before_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let mut sink = origin.open(dir.path());
    origin.send(&mut sink, 0..69);
    let (root, signature) = origin.root();
    sink.check_root(&root, &signature).unwrap();
    assert!(matches!(
        sink.commit(Collision::KeepBoth),
        Err(SinkError::Unfinished { missing: 1 })
    ));
    origin.send(&mut sink, [69]);
    // Somebody cuts a file off behind our back.
    File::options()
        .write(true)
        .open(sink.path_of(0))
        .unwrap()
        .set_len(10)
        .unwrap();
    assert!(matches!(
        sink.commit(Collision::KeepBoth),
        Err(SinkError::Unfinished { missing: 4 })
    ));
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
}

#[test]
fn what_is_there_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.txt"), "mine").unwrap();
    symlink("/nowhere", dir.path().join("a (2).txt")).unwrap();
    let origin = Origin::file("a.txt", content(1, 10));
    let mut sink = origin.open(dir.path());
    origin.send_missing(&mut sink);
    let (root, signature) = origin.root();
    sink.check_root(&root, &signature).unwrap();
    assert!(matches!(
        sink.commit(Collision::Refuse),
        Err(SinkError::Exists { .. })
    ));
    assert_eq!(
        sink.finish(Collision::KeepBoth).unwrap().path,
        dir.path().join("a (3).txt")
    );
    assert_eq!(fs::read(dir.path().join("a.txt")).unwrap(), b"mine");
    origin.assert_at(&dir.path().join("a (3).txt"));

    let origin = Origin::folder();
    fs::create_dir(dir.path().join("lesson")).unwrap();
    let mut sink = origin.open(dir.path());
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
    assert_eq!(
        names_in(dir.path()),
        ["a (2).txt", "a (3).txt", "a.txt", "lesson", "lesson (2)"]
    );
    assert!(names_in(&dir.path().join("lesson")).is_empty());
}

#[test]
fn a_bundle_made_again_after_it_got_its_name_begins_anew_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let old = Origin::file("f", content(1, 100));
    let new = Origin::file("f", content(2, 100));
    let mut sink = old.open(dir.path());
    old.send_missing(&mut sink);
    sink.check_root(&old.root().0, &old.root().1).unwrap();
    sink.commit(Collision::KeepBoth).unwrap();
    drop(sink);
    let mut sink = new.open(dir.path());
    sink.recover(None);
    let (bytes, signature) = new.page(0);
    assert_eq!(
        sink.put_page(0, &bytes, &signature).unwrap(),
        PageOutcome::Replaced { lost: vec![0] }
    );
    new.send_missing(&mut sink);
    new.assert_at(&new.finish(sink).path);
    old.assert_at(&dir.path().join("f"));
    new.assert_at(&dir.path().join("f (2)"));
}

#[test]
fn one_bundle_is_received_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let sink = origin.open(dir.path());
    let second = origin.try_open(dir.path()).err().unwrap();
    assert!(matches!(second, SinkError::InUse { .. }));
    assert_eq!(second.code(), Code::Busy);
    let other = Origin::file("other", vec![]).open(dir.path());
    sink.discard().unwrap();
    let again = origin.open(dir.path());
    again.discard().unwrap();
    other.discard().unwrap();
    assert!(names_in(dir.path()).is_empty());
}

/// A file system of one MiB, gone with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Nothing where this user may not mount one, which is said; root must be able to.
    fn or_skipped() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(dir.path())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        assert!(
            !rustix::process::geteuid().is_root(),
            "root must be able to mount a tmpfs for this test"
        );
        eprintln!("SKIPPED: filling a disk needs the right to mount one");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn what_would_go_below_the_reserve_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let free = free_space(dir.path()).unwrap();
    let fails = |checked| matches!(checked, Err(SinkError::DiskFull { .. }));
    // What others write to this disk meanwhile is far less than this.
    let most = free / 2;
    assert!(check_space(dir.path(), 1000, most).is_ok());
    assert!(fails(check_space(dir.path(), 1000, free * 2)));
    assert!(fails(check_space(dir.path(), 1, u64::MAX)), "no overflow");
    assert!(
        fails(check_space(dir.path(), u64::MAX, most)),
        "no overflow"
    );
    let origin = Origin::folder();
    let sink = origin.open(dir.path());
    assert!(sink.check_space(most).is_ok());
    assert!(fails(sink.check_space(free * 2)));
    assert!(fails(sink.check_space(u64::MAX)), "no overflow");
}

#[test]
fn a_full_disk_is_named_with_numbers_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::or_skipped() else {
        return;
    };
    let dest = disk.0.path().join("in");
    fs::create_dir(&dest).unwrap();
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 600 * 1024]).unwrap();
    let origin = Origin::file("big", content(1, 10 * CHUNK));
    let mut sink = origin.open(&dest);
    origin.send_pages(&mut sink);
    let room = sink.check_space(0).unwrap_err();
    assert!(
        matches!(room, SinkError::DiskFull { needed: 655_360, free } if free < 500_000),
        "{room}"
    );
    let full = (0..10)
        .find_map(|index| sink.write_chunk(index, origin.chunk(index)).err())
        .unwrap();
    assert!(
        matches!(full, SinkError::DiskFull { needed, free } if needed > free),
        "{full}"
    );
    assert_eq!(full.code(), Code::DiskFull);
    let have = sink.checkpoint().unwrap();
    assert!(!have.is_full() && !have.is_empty());
    fs::remove_file(&ballast).unwrap();
    assert!(sink.check_space(0).is_ok());
    assert!(matches!(
        sink.check_space(1 << 20),
        Err(SinkError::DiskFull { .. })
    ));
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
    assert!(free_space(&dest.join("not/there/yet")).unwrap() < 1 << 20);
}
