//! The audit log: what happened, for whoever asks later. `audit.jsonl` in the state folder, one
//! JSON object per line, only ever appended to, each line on disk before the record that it tells
//! of: a kill in between tells a thing twice, never not at all.
//!
//! ```text
//! {"seq":7,"time":"2026-11-21T08:00:00Z","prev":"<hash>","what":"transfer", ...}
//! ```
//!
//! `prev` is the BLAKE3 hash of the line before, without its end, as 64 hex digits, also over the
//! border between two files; so a line that was changed or taken out is seen (`check`). A file
//! that is long or old becomes `audit.jsonl.1`, that one `audit.jsonl.2`, and so on.

mod check;
mod entry;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use check::{Checked, Fault, check};
pub use entry::Entry;
use entry::Line;

use super::files::sync_dir;

/// The file that is being written.
const NAME: &str = "audit.jsonl";
/// Longest line, in bytes. Entries cut what others send to a few hundred characters.
const MAX_LINE: usize = 64 << 10;
/// Lines that wait for a disk that takes none; further ones are counted, and that is told.
const MAX_WAITING: usize = 4096;

/// When the log begins a new file, and how many it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditLimits {
    /// Bytes of a file.
    pub max_size: u64,
    /// Seconds from the first line of a file to its last.
    pub max_age: u64,
    /// Files besides the one that is being written; at least 1.
    pub keep: usize,
}

impl Default for AuditLimits {
    fn default() -> Self {
        Self {
            max_size: 8 << 20,
            max_age: 90 * 24 * 3600,
            keep: 8,
        }
    }
}

/// The open log.
#[derive(Debug)]
pub(super) struct Audit {
    dir: PathBuf,
    limits: AuditLimits,
    open: Option<Open>,
    /// The number of the last line, and its hash; 0 where nothing was ever written.
    seq: u64,
    last: String,
    /// What is not on disk yet, with its time.
    waiting: VecDeque<(u64, Entry)>,
    /// What found no room there.
    lost: u64,
    complained: bool,
}

/// The file that is being written.
#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    /// When its first line was written, in Unix seconds.
    begun: u64,
}

impl Audit {
    /// A log in a state folder; nothing is read or written before the first entry.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            limits: AuditLimits::default(),
            open: None,
            seq: 0,
            last: String::new(),
            waiting: VecDeque::new(),
            lost: 0,
            complained: false,
        }
    }

    pub(super) fn limit(&mut self, limits: AuditLimits) {
        self.limits = AuditLimits {
            keep: limits.keep.max(1),
            ..limits
        };
    }

    /// Writes an entry. It is on disk when this returns, or it waits for the next one, in order.
    /// `now` is in Unix seconds.
    pub(super) fn note(&mut self, entry: Entry, now: u64) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((now, entry));
        } else {
            self.lost += 1;
        }
        self.catch_up(now);
    }

    /// Lines that are not on disk.
    pub(super) fn behind(&self) -> u64 {
        self.waiting.len() as u64 + self.lost
    }

    /// Tries again to write what waits.
    pub(super) fn catch_up(&mut self, now: u64) {
        match self.write_waiting(now) {
            Ok(()) => self.complained = false,
            Err(error) => {
                // What is there now is found out at the next try.
                self.open = None;
                if !self.complained {
                    self.complained = true;
                    let path = self.dir.join(NAME).display().to_string();
                    tracing::error!(
                        %error, path,
                        "the audit log cannot be written; its lines are kept in memory until it can"
                    );
                }
            }
        }
    }

    fn write_waiting(&mut self, now: u64) -> io::Result<()> {
        if self.waiting.is_empty() && self.lost == 0 {
            return Ok(());
        }
        self.be_open(now)?;
        while let Some((time, entry)) = self.waiting.front().cloned() {
            self.write(&entry, time)?;
            self.waiting.pop_front();
        }
        if self.lost > 0 {
            self.write(&Entry::Lost { lines: self.lost }, now)?;
            self.lost = 0;
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry, time: u64) -> io::Result<()> {
        let seq = self.seq + 1;
        let mut text = Line::new(seq, time, &self.last, entry).to_json()?;
        let hash = hash(text.as_bytes());
        text.push('\n');
        let size = text.len() as u64;
        self.begin_new_file_where_due(size, time)?;
        let Some(open) = &mut self.open else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        open.file.write_all(text.as_bytes())?;
        open.file.sync_data()?;
        open.length += size;
        (self.seq, self.last) = (seq, hash);
        Ok(())
    }

    /// Opens the file where it is not open, or is not the one of that name any more, and closes a
    /// line that was not written to its end.
    fn be_open(&mut self, now: u64) -> io::Result<()> {
        let path = self.dir.join(NAME);
        let there = fs::metadata(&path)
            .map(|stat| (stat.dev(), stat.ino()))
            .ok();
        if let Some(open) = &self.open {
            let stat = open.file.metadata()?;
            if there == Some((stat.dev(), stat.ino())) {
                return Ok(());
            }
        }
        let file = append_to(&path)?;
        sync_dir(&self.dir)?;
        let length = file.metadata()?.len();
        let end = End::of(&path, length)?;
        let begun = first_time(&path)?.unwrap_or(now);
        if self.seq == 0 {
            let end = match end.seq {
                None => self.end_of_older()?.unwrap_or_default(),
                Some(_) => end.clone(),
            };
            (self.seq, self.last) = (end.seq.unwrap_or(0), end.hash.unwrap_or_default());
        } else {
            // What this process has written counts, whatever became of the file.
            self.resume(&end);
        }
        let mut open = Open {
            file,
            length,
            begun,
        };
        if end.cut > 0 {
            open.file.write_all(b"\n")?;
            open.length += 1;
        }
        self.open = Some(open);
        if end.cut > 0 && !end.is_whole() {
            self.write(&Entry::Torn { bytes: end.cut }, now)?;
        }
        Ok(())
    }

    /// Finds out what became of the line whose writing failed.
    fn resume(&mut self, end: &End) {
        let whole = end.seq == Some(self.seq + 1) && end.follows.as_deref() == Some(&*self.last);
        if whole {
            // It is there: only its way to the disk failed.
            match end.what.as_deref() {
                Some("torn") => {}
                Some("lost") => self.lost = 0,
                _ => drop(self.waiting.pop_front()),
            }
        }
        if whole || (end.cut > 0 && !end.is_whole()) {
            self.seq += 1;
            self.last = end.hash.clone().unwrap_or_default();
        }
    }

    /// Where the newest of the files ends that are no longer written.
    fn end_of_older(&self) -> io::Result<Option<End>> {
        let path = older(&self.dir, 1);
        match fs::metadata(&path) {
            Ok(stat) => End::of(&path, stat.len()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn begin_new_file_where_due(&mut self, size: u64, now: u64) -> io::Result<()> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let long = open.length + size > self.limits.max_size;
        let old = now.saturating_sub(open.begun) > self.limits.max_age;
        if open.length == 0 || !(long || old) {
            return Ok(());
        }
        // Each moves into a place that is free, so that an interruption loses nothing.
        let free = (1..).find(|n| !older(&self.dir, *n).exists());
        let last = free.unwrap_or(1).min(self.limits.keep);
        for n in (1..last).rev() {
            fs::rename(older(&self.dir, n), older(&self.dir, n + 1))?;
        }
        let path = self.dir.join(NAME);
        fs::rename(&path, older(&self.dir, 1))?;
        // Fewer are kept than before.
        let mut n = self.limits.keep + 1;
        while fs::remove_file(older(&self.dir, n)).is_ok() {
            n += 1;
        }
        self.open = None;
        let file = append_to(&path)?;
        sync_dir(&self.dir)?;
        self.open = Some(Open {
            file,
            length: 0,
            begun: now,
        });
        Ok(())
    }
}

/// How a file ends.
#[derive(Debug, Clone, Default)]
struct End {
    /// The number of the last line that is one.
    seq: Option<u64>,
    /// The hash of the last line, whatever it is.
    hash: Option<String>,
    /// What the last line says of the one before it.
    follows: Option<String>,
    /// What the last line tells of.
    what: Option<String>,
    /// Bytes of a last line without an end.
    cut: u64,
}

impl End {
    fn of(path: &Path, length: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(length.saturating_sub(2 * MAX_LINE as u64)))?;
        let mut tail = Vec::new();
        file.take(2 * MAX_LINE as u64).read_to_end(&mut tail)?;
        let ended = tail.last() == Some(&b'\n');
        let body = tail.strip_suffix(b"\n").unwrap_or(&tail);
        if body.is_empty() {
            return Ok(Self::default());
        }
        let mut lines = body.rsplit(|byte| *byte == b'\n');
        let last = lines.next().unwrap_or_default();
        let parsed = Line::read(last);
        let seq = match &parsed {
            Some(line) => Some(line.seq),
            // Its number is not known: it is one after the last that is.
            None => Some(
                lines
                    .zip(1..)
                    .find_map(|(line, after)| Some(Line::read(line)?.seq + after))
                    .unwrap_or(1),
            ),
        };
        Ok(Self {
            seq,
            hash: Some(hash(last)),
            cut: if ended { 0 } else { last.len() as u64 },
            follows: parsed.as_ref().map(|line| line.prev.clone()),
            what: parsed.map(|line| line.what),
        })
    }

    /// The last line lacks nothing but, perhaps, its end.
    fn is_whole(&self) -> bool {
        self.what.is_some()
    }
}

/// When the first line of a file was written.
fn first_time(path: &Path) -> io::Result<Option<u64>> {
    let mut head = Vec::new();
    File::open(path)?
        .take(MAX_LINE as u64)
        .read_to_end(&mut head)?;
    let first = head.split(|byte| *byte == b'\n').next();
    Ok(first.and_then(Line::read).and_then(|line| line.at()))
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The path of an older file; 1 is the newest of them.
fn older(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("{NAME}.{n}"))
}

fn hash(line: &[u8]) -> String {
    blake3::hash(line).to_hex().to_string()
}

#[cfg(test)]
mod tests;
