//! A log file that never grows beyond its bound: when it is full it becomes `.1`, what was `.1`
//! becomes `.2`, and so on; the last one goes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A log file and those before it.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    max_size: u64,
    keep: usize,
    /// Nothing after a failure: it is opened again at the next line.
    file: Option<File>,
    size: u64,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

impl Rotating {
    /// Opens a log at `path`, which goes on where it was; its folder is made. It gets at most
    /// `max_size` bytes, and `keep` older ones stay beside it.
    pub fn open(path: &Path, max_size: u64, keep: usize) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut log = Self {
            path: path.to_owned(),
            max_size,
            keep,
            file: None,
            size: 0,
            lost: 0,
        };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<&mut File> {
        let mut options = OpenOptions::new();
        // What devices are called and do here is nobody else's business.
        let file = options
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)?;
        self.size = file.metadata()?.len();
        Ok(self.file.insert(file))
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        name.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for number in (1..self.keep).rev() {
            let moved = fs::rename(self.numbered(number), self.numbered(number + 1));
            if let Err(error) = moved
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        match self.keep {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, self.numbered(1))?,
        }
        Ok(())
    }

    /// Writes a line, whole or not at all as far as that can be. What cannot be written, because
    /// the disk is full, is counted, and the number written before the next line that can.
    pub fn line(&mut self, line: &[u8]) {
        let said = match self.lost {
            0 => Ok(()),
            lost => {
                let note = format!("{lost} lines before this one could not be written\n");
                self.put(note.as_bytes())
            }
        };
        match said.and_then(|()| self.put(line)) {
            Ok(()) => self.lost = 0,
            Err(_) => {
                self.lost += 1;
                self.file = None;
            }
        }
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        // A line that no file could hold is cut, so that the bound is one.
        let most = usize::try_from(self.max_size).unwrap_or(usize::MAX);
        let line = &line[..line.len().min(most)];
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.size + line.len() as u64 > self.max_size && self.size > 0 {
            self.rotate()?;
            self.reopen()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(folder: &Path) -> Vec<(String, u64)> {
        let mut found: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| {
                (
                    e.file_name().into_string().unwrap(),
                    e.metadata().unwrap().len(),
                )
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn the_log_and_those_before_it_never_hold_more_than_their_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/handout.log");
        let mut log = Rotating::open(&path, 1000, 2).unwrap();
        for n in 0..1000 {
            log.line(format!("line {n:04} with some text\n").as_bytes());
            let files = sizes(path.parent().unwrap());
            assert!(files.len() <= 3 && files.iter().all(|(_, size)| *size <= 1000));
        }
        let names: Vec<_> = sizes(path.parent().unwrap());
        let names: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["handout.log", "handout.log.1", "handout.log.2"]);
        let last = fs::read_to_string(&path).unwrap();
        assert!(last.ends_with("line 0999 with some text\n"));
        // The newest of the older ones ends where this one begins.
        let older = fs::read_to_string(path.with_extension("log.1")).unwrap();
        let number = |line: &str| line[5..9].parse::<u32>().unwrap();
        let first = number(last.lines().next().unwrap());
        assert_eq!(number(older.lines().last().unwrap()) + 1, first);
    }

    #[test]
    fn it_goes_on_after_a_restart_and_one_line_is_never_above_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        Rotating::open(&path, 1000, 0).unwrap().line(b"first\n");
        let mut log = Rotating::open(&path, 1000, 0).unwrap();
        log.line(b"second\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
        log.line(&[b'x'; 5000]);
        assert_eq!(sizes(folder.path()), [("log".to_owned(), 1000)]);
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_once_that_can_be_said() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        let path = logs.join("log");
        let mut log = Rotating::open(&path, 20, 1).unwrap();
        log.line(b"0123456789\n");
        // What is full has to be moved, and the folder is not there.
        fs::rename(&logs, folder.path().join("away")).unwrap();
        for _ in 0..3 {
            log.line(b"0123456789\n");
        }
        fs::create_dir(&logs).unwrap();
        let mut log = Rotating {
            max_size: 1000,
            ..log
        };
        log.line(b"again\n");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "3 lines before this one could not be written\nagain\n"
        );
    }
}
