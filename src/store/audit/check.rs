//! Whether the audit log is as it was written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::entry::{Head, Line};
use super::{MAX_LINE, NAME, hash, older};

/// Faults that are named; further ones are only counted.
const MAX_NAMED: usize = 20;

/// What a look through the whole log has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files that there are.
    pub files: usize,
    /// Lines in them.
    pub lines: u64,
    /// Lines that were not written to their end, and are marked as such.
    pub torn: u64,
    /// When the first and the last line were written, as they say.
    pub span: Option<(String, String)>,
    /// The number of the last line.
    pub last: u64,
    /// What is wrong, the first of it.
    pub faults: Vec<Fault>,
    /// How much is wrong.
    pub wrong: u64,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which file.
    pub file: PathBuf,
    /// In which line, counted from 1.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

/// Reads the whole log of a state folder, the oldest file first. Lines that were cut off at the
/// very end, while nothing ran, cannot be seen: nothing that follows names them.
pub fn check(state_dir: &Path) -> io::Result<Checked> {
    let mut paths: Vec<PathBuf> = (1..)
        .map(|n| older(state_dir, n))
        .take_while(|path| path.exists())
        .collect();
    paths.reverse();
    let current = state_dir.join(NAME);
    if current.exists() {
        paths.push(current);
    }
    let mut walk = Walk::default();
    for path in &paths {
        walk.through(path)?;
    }
    if let Some((path, line)) = walk.unread.take() {
        walk.wrong(
            &path,
            line,
            "it cannot be read, and nothing after it says why",
        );
    }
    walk.found.files = paths.len();
    Ok(walk.found)
}

#[derive(Default)]
struct Walk {
    found: Checked,
    /// The hash of the line before.
    last: Option<String>,
    seq: Option<u64>,
    /// A line that cannot be read, about which the next one may say why.
    unread: Option<(PathBuf, u64)>,
    /// The line before had no end.
    cut: bool,
}

impl Walk {
    fn through(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            let most = MAX_LINE as u64 + 1;
            if (&mut reader).take(most).read_until(b'\n', &mut text)? == 0 {
                return Ok(());
            }
            self.cut = text.pop_if(|last| *last == b'\n').is_none();
            self.found.lines += 1;
            match Line::read(&text) {
                Some(head) => self.line(path, line, &head),
                None => {
                    if let Some((path, line)) = self.unread.replace((path.to_owned(), line)) {
                        self.wrong(&path, line, "it cannot be read");
                    }
                }
            }
            self.last = Some(hash(&text));
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, line: u64, head: &Head) {
        let torn = head.what == "torn";
        if let Some((path, line)) = self.unread.take() {
            match torn {
                true => self.found.torn += 1,
                false => self.wrong(&path, line, "it cannot be read"),
            }
            // Its number is not known.
            self.seq = self.seq.map(|seq| seq.max(head.seq.saturating_sub(1)));
        }
        match &self.last {
            Some(last) if *last != head.prev => {
                self.wrong(
                    path,
                    line,
                    "the line before is not the one that it was written after",
                );
            }
            None if head.seq == 1 && !head.prev.is_empty() => {
                self.wrong(path, line, "it is the first, and names one before it");
            }
            _ => {}
        }
        if let Some(seq) = self.seq
            && head.seq != seq + 1
        {
            let what = format!("it is number {} after number {seq}", head.seq);
            self.wrong(path, line, &what);
        }
        self.seq = Some(head.seq);
        self.found.last = head.seq;
        let first = self.found.span.take().map(|(first, _)| first);
        self.found.span = Some((
            first.unwrap_or_else(|| head.time.clone()),
            head.time.clone(),
        ));
    }

    fn wrong(&mut self, file: &Path, line: u64, what: &str) {
        self.found.wrong += 1;
        if self.found.faults.len() < MAX_NAMED {
            self.found.faults.push(Fault {
                file: file.to_owned(),
                line,
                what: what.to_owned(),
            });
        }
    }
}
