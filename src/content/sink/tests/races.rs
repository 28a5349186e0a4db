//! Somebody who may write in the destination puts links in the sink's way while it works. Whatever
//! becomes of the bundle, nothing outside the destination is written, removed or changed.

use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many rounds; the environment can say another number.
const ROUNDS: &str = "HANDOUT_TEST_RACE_ROUNDS";

/// A few numbers that look random, the same on each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// Everything about a file that a sink could change.
type Thing = (u32, i64, i64, Vec<u8>);

/// What is outside: files and folders of the same names as the bundle's, so that whatever follows
/// a link finds something to harm.
struct Outside(PathBuf, BTreeMap<PathBuf, Thing>);

impl Outside {
    fn make(at: PathBuf) -> Self {
        for folder in ["bin", "empty/deep", "data/lesson/bin", "lesson/bin"] {
            fs::create_dir_all(at.join(folder)).unwrap();
        }
        for file in [
            "victim",
            "tool",
            "bin/tool",
            "leer.txt",
            "head",
            "pages",
            "meta.json",
            "meta.json.new",
            "finishing.json",
            "data/lesson/bin/tool",
            "lesson/bin/tool",
            "empty/deep/x",
        ] {
            fs::write(at.join(file), "not yours").unwrap();
        }
        let things = things(&at);
        Self(at, things)
    }

    fn assert_untouched(&self, round: u64) {
        let now = things(&self.0);
        let paths = self.1.keys().chain(now.keys());
        let changed: BTreeMap<_, _> = paths
            .filter(|path| self.1.get(*path) != now.get(*path))
            .map(|path| (path, (self.1.get(path), now.get(path))))
            .collect();
        assert!(changed.is_empty(), "round {round}: {changed:?}");
    }
}

fn things(at: &Path) -> BTreeMap<PathBuf, Thing> {
    let mut things = BTreeMap::new();
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        things.insert(
            path.clone(),
            (meta.mode(), meta.mtime(), meta.mtime_nsec(), content),
        );
        if meta.is_dir() {
            things.extend(self::things(&path));
        }
    }
    things
}

/// The one who puts links in the way. Each trick is undone before the next: his own doings never
/// go through a link of his.
struct Attacker<'a> {
    dest: &'a Path,
    staging: PathBuf,
    outside: &'a Path,
    dice: Dice,
}

impl Attacker<'_> {
    fn trick(&mut self) {
        let tree = self.staging.join("data/lesson");
        let folders = [
            self.dest.join(STAGING),
            self.staging.clone(),
            self.staging.join("data"),
            tree.clone(),
            tree.join("bin"),
            self.dest.join("lesson"),
        ];
        let files = [
            tree.join("bin/tool"),
            tree.join("leer.txt"),
            self.staging.join("data/tool"),
            self.staging.join("pages"),
            self.staging.join("meta.json.new"),
            self.staging.join("head.new"),
            self.staging.join("finishing.json.new"),
            self.dest.join("tool"),
        ];
        let folder = &folders[self.dice.roll(folders.len())];
        let file = &files[self.dice.roll(files.len())];
        let aside = self.dest.join("aside");
        match self.dice.roll(4) {
            // A folder on the way becomes a link to the outside.
            0 => {
                let moved = fs::rename(folder, &aside);
                let planted = symlink(self.outside, folder);
                self.wait();
                if planted.is_ok() {
                    unlink(folder);
                }
                if moved.is_ok() && fs::rename(&aside, folder).is_err() {
                    let _ = fs::remove_dir_all(&aside);
                }
            }
            // It is somewhere else for a while.
            1 => {
                if fs::rename(folder, &aside).is_ok() {
                    self.wait();
                    if fs::rename(&aside, folder).is_err() {
                        let _ = fs::remove_dir_all(&aside);
                    }
                }
            }
            // A file is a link to one outside: by its path, or by being it.
            kind => {
                if self.dice.roll(2) == 0 {
                    unlink(file);
                }
                let victim = self.outside.join("victim");
                let planted = match kind {
                    // Also to where nothing is yet.
                    2 if self.dice.roll(2) == 0 => symlink(self.outside.join("new"), file),
                    2 => symlink(&victim, file),
                    _ => fs::hard_link(&victim, file),
                };
                self.wait();
                if planted.is_ok() && self.dice.roll(2) == 0 {
                    unlink(file);
                }
            }
        }
    }

    /// As long as it takes the other side to do something, or nothing.
    fn wait(&mut self) {
        for _ in 0..self.dice.roll(4) * 20 {
            std::thread::yield_now();
        }
    }
}

/// Removes a name that is no folder's.
fn unlink(at: &Path) {
    let _ = fs::remove_file(at);
}

/// Receives, resumes, finishes or gives up; any step may fail.
fn receive(
    origin: &Origin,
    signed: &Signed,
    dest: &Path,
    dice: &mut Dice,
) -> Result<(), SinkError> {
    let mut sink = origin.try_open(dest)?;
    sink.put_page(0, &signed.page.0, &signed.page.1)?;
    sink.write_chunk(0, origin.chunk(0))?;
    if dice.roll(2) == 0 {
        sink.checkpoint()?;
        drop(sink);
        sink = origin.try_open(dest)?;
        sink.recover(None);
        sink.put_page(0, &signed.page.0, &signed.page.1)?;
    }
    if dice.roll(8) == 0 {
        return sink.discard();
    }
    for index in 0..sink.layout().chunk_count() {
        sink.write_chunk(index, origin.chunk(index))?;
    }
    sink.check_root(&signed.root.0, &signed.root.1)?;
    let collision = [Collision::KeepBoth, Collision::Overwrite, Collision::Refuse];
    sink.finish(collision[dice.roll(3)]).map(drop)
}

/// What the origin has signed, made once: it takes long.
struct Signed {
    page: (Vec<u8>, Signature),
    root: (Root, Signature),
}

#[test]
fn links_that_come_and_go_while_a_bundle_is_written_lead_nothing_out() {
    let rounds = std::env::var(ROUNDS)
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    let rounds: u64 = rounds.unwrap_or(if cfg!(debug_assertions) { 300 } else { 10_000 });
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let base = base.unwrap();
    let tool = || content(1, CHUNK + 5);
    let origins = [
        Origin::file("tool", tool()),
        Origin::new(
            "lesson",
            Kind::Folder,
            vec![("bin/tool", tool(), true), ("leer.txt", vec![], false)],
            &["empty/deep"],
        ),
    ];
    let signed = origins.each_ref().map(|origin| Signed {
        page: origin.page(0),
        root: origin.root(),
    });
    let outside = Outside::make(base.path().join("outside"));
    let (mut finished, mut hindered, mut tricks) = (0, 0, 0);
    for round in 0..rounds {
        let dest = base.path().join("dest");
        fs::create_dir(&dest).unwrap();
        let mut dice = Dice(round * 2 + 0x9e37_79b9_7f4a_7c15);
        let which = dice.roll(2);
        let origin = &origins[which];
        if dice.roll(2) == 0 {
            // Something has the final name.
            fs::write(dest.join("tool"), "old").unwrap();
            fs::create_dir_all(dest.join("lesson/bin")).unwrap();
        }
        let mut attacker = Attacker {
            dest: &dest,
            staging: origin.staging(&dest),
            outside: &outside.0,
            dice: Dice(round * 2 + 0x2545_f491_4f6c_dd1d),
        };
        let (over, begin) = (AtomicBool::new(false), Barrier::new(2));
        std::thread::scope(|scope| {
            let tricking = scope.spawn(|| {
                begin.wait();
                let mut done = 0u64;
                loop {
                    attacker.trick();
                    done += 1;
                    if over.load(Ordering::Relaxed) {
                        return done;
                    }
                }
            });
            begin.wait();
            for _ in 0..2 {
                match receive(origin, &signed[which], &dest, &mut dice) {
                    Ok(()) => finished += 1,
                    Err(_) => hindered += 1,
                }
            }
            over.store(true, Ordering::Relaxed);
            tricks += tricking.join().unwrap();
        });
        outside.assert_untouched(round);
        fs::remove_dir_all(&dest).unwrap();
        outside.assert_untouched(round);
    }
    eprintln!("{rounds} rounds, {tricks} tricks: {finished} went well, {hindered} were hindered");
    // Else nothing was tried.
    assert!(tricks >= rounds && finished > rounds / 20 && hindered > rounds / 20);
}
