//! The authorizations' second home: an append-only file that survives the database, and its copy,
//! so that damage to one file of the state folder, or to two, loses no decision.
//!
//! One JSON object per line, `{"seq": 7, "record": "<JSON text>", "sig": "<b64>"}`, where the
//! signature is our own device's, or that of its key before this one, over
//! `statement("handout/authorization/1", seq as u64, the bytes of record)`. For each device, and
//! for each admin's roster of a group, the line with the highest `seq` holds. The database keeps
//! the same signed entries.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::files::{sync_parent, write_atomically};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::{Identity, KeyError, PublicKey, Signature, statement};
use crate::protocol::trust::{Authorization, Floor};

/// Longest record, in bytes of JSON.
pub(super) const MAX_RECORD: usize = 4096;
/// Longest line: a record with every character escaped, and what is around it.
const MAX_LINE: u64 = 2 * MAX_RECORD as u64 + 256;

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(super) enum Change {
    /// The device is authorized from here on.
    Authorize(Authorization),
    /// It no longer is, whatever else says so, until a person authorizes it again.
    Revoke { device: DeviceId },
    /// It has a new key: the id after this one.
    Move { device: DeviceId, to: DeviceId },
    /// A roster was taken, or signed here: none with a lower version is from here on.
    Roster(Floor),
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Device(DeviceId),
    /// An admin's rosters for a group.
    Roster(DeviceId, String),
}

impl Subject {
    /// A key for the database. No device id has a slash in it.
    pub(super) fn to_key(&self) -> Vec<u8> {
        match self {
            Self::Device(device) => device.as_str().into(),
            Self::Roster(admin, group) => format!("{admin}/{group}").into(),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(device) => device.fmt(f),
            Self::Roster(admin, group) => write!(f, "roster {group} of {admin}"),
        }
    }
}

impl Change {
    pub(super) fn subject(&self) -> Subject {
        match self {
            Self::Authorize(authorization) => Subject::Device(authorization.device.clone()),
            Self::Revoke { device } | Self::Move { device, .. } => Subject::Device(device.clone()),
            Self::Roster(floor) => Subject::Roster(floor.admin.clone(), floor.group.clone()),
        }
    }
}

/// A decision with its place in the order and our signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub seq: u64,
    pub change: Change,
    line: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    seq: u64,
    record: String,
    sig: Signature,
}

fn signed(seq: u64, record: &str) -> Vec<u8> {
    statement(
        "handout/authorization/1",
        &[&seq.to_be_bytes(), record.as_bytes()],
    )
}

impl Entry {
    /// Signs a decision.
    pub(super) fn seal(identity: &Identity, seq: u64, change: Change) -> Result<Self, StoreError> {
        let json = |error: serde_json::Error| {
            StoreError::io("write", Path::new("an authorization"), error.into())
        };
        let record = serde_json::to_string(&change).map_err(json)?;
        if record.len() > MAX_RECORD {
            return Err(StoreError::TooLarge {
                what: "an authorization",
                size: record.len(),
                limit: MAX_RECORD,
            });
        }
        let sig = identity.sign(&signed(seq, &record));
        let line = serde_json::to_string(&Line { seq, record, sig }).map_err(json)?;
        Ok(Self { seq, change, line })
    }

    /// Reads an entry back, if it is ours and whole; else says what is wrong with it. `keys` are
    /// ours, the present one first.
    pub(super) fn open(keys: &[PublicKey], bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let said = signed(line.seq, &line.record);
        if !keys.iter().any(|key| key.verify(&said, &line.sig).is_ok()) {
            return Err(KeyError::Mismatch.to_string());
        }
        let change = serde_json::from_str(&line.record).map_err(|error| error.to_string())?;
        Ok(Self {
            seq: line.seq,
            change,
            line: text.to_owned(),
        })
    }

    /// The signed entry as text, without a line end.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.line.as_bytes()
    }
}

/// The newest entry about each.
pub(super) type Entries = BTreeMap<Subject, Entry>;

pub(super) const NAME: &str = "authorizations.log";
pub(super) const COPY: &str = "authorizations.log.copy";

/// One open file.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    /// Length of the part that is known to be whole, in bytes.
    length: u64,
    /// Lines in it, false ones too.
    lines: usize,
    false_lines: usize,
    /// An append failed half way: cut back to `length` before the next one.
    torn: bool,
}

/// The journal and its copy.
#[derive(Debug)]
pub(super) struct Journals {
    journal: Journal,
    copy: Journal,
}

impl Journals {
    /// Opens `<state>/authorizations.log` and `authorizations.log.copy`. The newest entry about each
    /// holds, wherever it stands, and both have it afterwards.
    pub(super) fn open(
        state_dir: &Path,
        keys: &[PublicKey],
    ) -> Result<(Self, Entries), StoreError> {
        let (mut journal, mut entries) = Journal::open(state_dir.join(NAME), keys)?;
        let (copy, copied) = Journal::open(state_dir.join(COPY), keys)?;
        let mut restored = Vec::new();
        let mut lacking: Vec<Entry> = entries
            .iter()
            .filter(|(subject, entry)| copied.get(subject).is_none_or(|of| of.seq < entry.seq))
            .map(|(_, entry)| entry.clone())
            .collect();
        for (subject, entry) in copied {
            let known = entries.get(&subject);
            if known.is_none_or(|known| known.seq < entry.seq) {
                restored.push(entry.clone());
                entries.insert(subject, entry);
            }
        }
        if !restored.is_empty() {
            tracing::warn!(
                count = restored.len(),
                "decisions that the journal of authorizations has lost are in its copy"
            );
        }
        journal.append(&restored)?;
        let mut journals = Self { journal, copy };
        lacking.sort_by_key(|entry| entry.seq);
        journals.copies(|copy| copy.append(&lacking));
        Ok((journals, entries))
    }

    /// Adds entries; they are on disk when this returns. The copy may be behind: it catches up at
    /// the next opening.
    pub(super) fn append<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry> + Clone,
    ) -> Result<(), StoreError> {
        self.journal.append(entries.clone())?;
        self.copies(|copy| copy.append(entries));
        Ok(())
    }

    /// True when most of it is history: `kept` entries would do.
    pub(super) fn is_mostly_history(&self, kept: usize) -> bool {
        self.journal.is_mostly_history(kept) || self.copy.is_mostly_history(kept)
    }

    /// Replaces both by these entries.
    pub(super) fn rewrite<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry> + Clone,
    ) -> Result<(), StoreError> {
        self.journal.rewrite(entries.clone())?;
        self.copies(|copy| copy.rewrite(entries));
        Ok(())
    }

    fn copies(&mut self, write: impl FnOnce(&mut Journal) -> Result<(), StoreError>) {
        if let Err(error) = write(&mut self.copy) {
            tracing::warn!(%error, "the copy of the journal of authorizations is behind");
        }
    }
}

impl Journal {
    /// Opens the file and reads it. A torn last line (the power was cut while it was written, so
    /// nobody was told that it is safe) is cut off; a false line is skipped.
    fn open(path: PathBuf, keys: &[PublicKey]) -> Result<(Self, Entries), StoreError> {
        let file =
            open_for_append(&path).map_err(|source| StoreError::io("open", &path, source))?;
        sync_parent(&path).map_err(|source| StoreError::io("sync", &path, source))?;
        let mut journal = Self {
            path,
            file,
            length: 0,
            lines: 0,
            false_lines: 0,
            torn: false,
        };
        let entries = journal
            .read(keys)
            .map_err(|source| StoreError::io("read", &journal.path, source))?;
        Ok((journal, entries))
    }

    fn read(&mut self, keys: &[PublicKey]) -> io::Result<Entries> {
        let mut entries = Entries::new();
        let mut first_fault = None;
        let mut reader = BufReader::new(File::open(&self.path)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                break;
            }
            let mut whole = line.last() == Some(&b'\n');
            if !whole && read == MAX_LINE {
                let (rest, ended) = skip_line(&mut reader)?;
                read += rest;
                whole = ended;
            }
            let entry = Entry::open(keys, line.trim_ascii_end());
            if !whole && entry.is_err() {
                self.torn = true;
                break;
            }
            self.length += read;
            self.lines += 1;
            match entry {
                Ok(entry) => {
                    let subject = entry.change.subject();
                    let newest = entries.get(&subject);
                    if newest.is_none_or(|newest| newest.seq <= entry.seq) {
                        entries.insert(subject, entry);
                    }
                }
                Err(fault) => {
                    self.false_lines += 1;
                    first_fault.get_or_insert((self.lines, fault));
                }
            }
            if !whole {
                self.file.write_all(b"\n")?;
                self.file.sync_all()?;
                self.length += 1;
            }
        }
        let path = self.path.display().to_string();
        if self.torn {
            tracing::warn!(
                path,
                "the last line was not written to its end; it is ignored"
            );
            self.mend()?;
        }
        if let Some((line, fault)) = first_fault {
            tracing::warn!(
                path,
                skipped = self.false_lines,
                first = line,
                fault,
                "skipped lines that this device did not sign as they are"
            );
        }
        Ok(entries)
    }

    /// Adds entries; they are on disk when this returns.
    fn append<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<(), StoreError> {
        let (text, lines) = text_of(entries);
        if lines == 0 {
            return Ok(());
        }
        let written = self.mend().and_then(|()| {
            self.torn = true;
            self.file.write_all(&text)?;
            self.file.sync_all()
        });
        match written {
            Ok(()) => {
                self.torn = false;
                self.length += text.len() as u64;
                self.lines += lines;
                Ok(())
            }
            Err(source) => {
                // Best effort now; tried again before the next append.
                let _ = self.mend();
                Err(StoreError::io("write", &self.path, source))
            }
        }
    }

    /// True when most of the file is history: `kept` entries would do.
    fn is_mostly_history(&self, kept: usize) -> bool {
        self.lines > 2 * kept + 256
    }

    /// Replaces the file by these entries. A file with lines that could not be read is kept
    /// beside it.
    fn rewrite<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<(), StoreError> {
        let (text, lines) = text_of(entries);
        let rewritten = (|| {
            if self.false_lines > 0 {
                let mut beside = self.path.clone().into_os_string();
                beside.push(".damaged");
                fs::copy(&self.path, beside)?;
            }
            write_atomically(&self.path, &text)?;
            open_for_append(&self.path)
        })();
        self.file = rewritten.map_err(|source| StoreError::io("rewrite", &self.path, source))?;
        self.length = text.len() as u64;
        self.lines = lines;
        self.false_lines = 0;
        self.torn = false;
        Ok(())
    }

    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.file.sync_all()?;
            self.torn = false;
        }
        Ok(())
    }
}

/// The lines of entries, and how many they are.
fn text_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> (Vec<u8>, usize) {
    let (mut text, mut lines) = (Vec::new(), 0);
    for entry in entries {
        text.extend_from_slice(entry.as_bytes());
        text.push(b'\n');
        lines += 1;
    }
    (text, lines)
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Reads on to the end of the line without keeping it: how many bytes, and whether it has an end.
fn skip_line(reader: &mut impl BufRead) -> io::Result<(u64, bool)> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok((skipped, false));
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(buffer.len(), |at| at + 1);
        reader.consume(used);
        skipped += used as u64;
        if end.is_some() {
            return Ok((skipped, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::trust::GrantedBy;

    fn identity() -> Identity {
        Identity::from_seed(&[3; 32])
    }

    fn device(n: u8) -> DeviceId {
        DeviceId::of_key(&[n; 32])
    }

    fn subject(n: u8) -> Subject {
        Subject::Device(device(n))
    }

    fn entry(seq: u64, n: u8) -> Entry {
        let change = Change::Authorize(Authorization {
            device: device(n),
            name: format!("Room {n} \"front\"\n"),
            key: None,
            since: 1,
            by: GrantedBy::Person,
            expires: None,
            roles: None,
            via: None,
        });
        Entry::seal(&identity(), seq, change).unwrap()
    }

    fn open(dir: &Path) -> (Journal, Entries) {
        Journal::open(dir.join(NAME), &[identity().public_key()]).unwrap()
    }

    fn write(dir: &Path, text: &[u8]) {
        fs::write(dir.join("authorizations.log"), text).unwrap();
    }

    fn text(entries: &[Entry]) -> Vec<u8> {
        let lines: Vec<_> = entries.iter().map(Entry::as_bytes).collect();
        [lines.join(&b'\n'), b"\n".to_vec()].concat()
    }

    #[test]
    fn what_one_file_has_lost_the_other_gives_back_and_a_revocation_is_never_undone() {
        let keys = [identity().public_key()];
        let dir = tempfile::tempdir().unwrap();
        let (mut journals, _) = Journals::open(dir.path(), &keys).unwrap();
        let revoke = Change::Revoke { device: device(2) };
        let revoked = Entry::seal(&identity(), 3, revoke).unwrap();
        let all = [entry(1, 1), entry(2, 2), revoked];
        journals.append(&all[..2]).unwrap();
        let before = fs::read(dir.path().join(COPY)).unwrap();
        journals.append(&all[2..]).unwrap();
        drop(journals);
        let same = |what: &str| {
            let (_, entries) = Journals::open(dir.path(), &keys).unwrap();
            assert_eq!(entries.len(), 2, "{what}");
            assert_eq!(entries[&subject(1)], all[0], "{what}");
            assert_eq!(entries[&subject(2)], all[2], "{what}");
            for name in [NAME, COPY] {
                let (_, kept) = Journal::open(dir.path().join(name), &keys).unwrap();
                assert_eq!(kept, entries, "{what}: {name}");
            }
        };
        same("whole");
        for name in [NAME, COPY] {
            fs::remove_file(dir.path().join(name)).unwrap();
            same("one is gone");
            fs::write(dir.path().join(name), b"\xff\xff\n{").unwrap();
            same("one is noise");
        }
        fs::write(dir.path().join(COPY), before).unwrap();
        same("the copy is older");
    }

    #[test]
    fn a_line_torn_anywhere_costs_only_itself_and_the_next_append_is_whole() {
        let whole = text(&[entry(1, 1)]);
        let torn = text(&[entry(2, 2)]);
        for cut in 0..torn.len() - 1 {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &[&whole[..], &torn[..cut]].concat());
            let (mut journal, entries) = open(dir.path());
            assert_eq!(entries.len(), 1, "cut at {cut}");
            journal.append([&entry(3, 3)]).unwrap();
            let (_, entries) = open(dir.path());
            assert_eq!(entries.len(), 2, "cut at {cut}");
        }
    }

    #[test]
    fn a_last_line_that_lacks_only_its_end_counts() {
        let dir = tempfile::tempdir().unwrap();
        let lines = text(&[entry(1, 1), entry(2, 2)]);
        write(dir.path(), &lines[..lines.len() - 1]);
        let (mut journal, entries) = open(dir.path());
        assert_eq!(entries.len(), 2);
        journal.append([&entry(3, 3)]).unwrap();
        assert_eq!(open(dir.path()).1.len(), 3);
    }

    #[test]
    fn lines_that_we_did_not_sign_as_they_are_are_skipped() {
        let stranger = Identity::from_seed(&[9; 32]);
        let foreign = Entry::seal(&stranger, 8, Change::Revoke { device: device(1) }).unwrap();
        let renumbered = entry(2, 2).line.replace("\"seq\":2", "\"seq\":9");
        let altered = entry(3, 3).line.replace("Room 3", "Room 1");
        let text = [
            &text(&[entry(1, 1)])[..],
            foreign.as_bytes(),
            b"\n\n\xff\xfe\n",
            renumbered.as_bytes(),
            b"\n",
            altered.as_bytes(),
            b"\n",
            &vec![b'['; 100_000],
            b"\n",
            &text(&[entry(4, 4)]),
        ]
        .concat();
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &text);
        let (mut journal, entries) = open(dir.path());
        assert_eq!(journal.false_lines, 6);
        assert_eq!(
            entries.keys().collect::<std::collections::BTreeSet<_>>(),
            [&subject(1), &subject(4)].into()
        );
        journal.rewrite(entries.values()).unwrap();
        assert_eq!(
            fs::read(dir.path().join("authorizations.log.damaged")).unwrap(),
            text
        );
        let (journal, entries) = open(dir.path());
        assert_eq!((journal.false_lines, entries.len()), (0, 2));
    }

    #[test]
    fn the_highest_number_holds_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let revoked = Entry::seal(&identity(), 5, Change::Revoke { device: device(1) }).unwrap();
        write(dir.path(), &text(&[revoked.clone(), entry(4, 1)]));
        assert_eq!(open(dir.path()).1.get(&subject(1)), Some(&revoked));
    }

    #[test]
    fn a_rewritten_journal_takes_further_entries() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        for seq in 0..300 {
            journal.append([&entry(seq, 1)]).unwrap();
        }
        assert!(journal.is_mostly_history(1));
        let (_, entries) = open(dir.path());
        journal.rewrite(entries.values()).unwrap();
        assert!(!journal.is_mostly_history(1));
        journal.append([&entry(300, 2)]).unwrap();
        let (journal, entries) = open(dir.path());
        assert_eq!((journal.lines, entries.len()), (2, 2));
        assert_eq!(entries[&subject(1)].seq, 299);
    }
}
