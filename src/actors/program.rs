//! A program that somebody here has named, run without a shell, with bounds on its time and on
//! what is kept of its output.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::protocol::names::printable;

/// Bytes of output that are kept; the rest is read and forgotten.
const MOST_OUTPUT: usize = 4096;
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(50);
/// Between asking it to end and killing it.
const GRACE: Duration = Duration::from_secs(2);

/// Which part of its output is kept.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Beginning,
    End,
}

/// A bound that a program is beyond.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Time,
    Size(u64),
    Stopped,
}

/// What is run.
#[derive(Debug)]
pub struct Program {
    /// Its absolute path.
    pub program: String,
    /// Its arguments, as they are.
    pub arguments: Vec<OsString>,
    /// Variables besides those of this process, of which none that begin with HANDOUT_ are passed.
    pub environment: Vec<(&'static str, OsString)>,
    /// The folder that it runs in.
    pub folder: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Duration,
    /// The setting that says so.
    pub setting: &'static str,
    /// What else bounds it; nothing for a program that is run after an arrival.
    pub confined: Option<Confined>,
}

/// Bounds of a program that works for somebody else.
#[derive(Debug)]
pub struct Confined {
    /// The file that it writes, and its most bytes.
    pub output: (PathBuf, u64),
    /// It is ended when this becomes true.
    pub stops: Arc<AtomicBool>,
}

/// What such a program gets of our environment.
const PASSED: [&str; 6] = ["PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR"];

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its path.
    pub program: String,
    /// Its exit code; nothing when it was killed or could not be started.
    pub code: Option<i32>,
    /// The same for people.
    pub how: String,
    /// How long it took.
    pub took: Duration,
    /// The beginning of what it wrote, of a confined one the end, made harmless.
    pub output: String,
}

/// A text with the path in its place: bytes that are no Unicode stay as they are.
pub fn with_path(text: &str, path: &Path) -> OsString {
    let mut parts = text.split("{path}").map(str::as_bytes);
    let mut whole = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        whole.extend_from_slice(path.as_os_str().as_bytes());
        whole.extend_from_slice(part);
    }
    OsString::from_vec(whole)
}

impl Program {
    /// Runs it to its end, on this thread.
    pub fn run(self) -> Ended {
        let begun = Instant::now();
        let mut output = Vec::new();
        let (code, how) = match self.start() {
            Ok(mut child) => match self.attend(&mut child, &mut output, begun) {
                Ok((status, Some(Bound::Time))) => (None, self.timed_out(status)),
                Ok((_, Some(Bound::Size(most)))) => {
                    (None, format!("ended: it wrote more than {most} bytes"))
                }
                Ok((_, Some(Bound::Stopped))) => (None, "ended: nobody waits for it".to_owned()),
                Ok((status, None)) => (status.code(), said(status)),
                Err(error) => (None, format!("it was lost: {error}")),
            },
            Err(error) => (None, format!("it could not be started: {error}")),
        };
        Ended {
            program: self.program,
            code,
            how,
            took: begun.elapsed(),
            output: printable(String::from_utf8_lossy(&output).trim_end()),
        }
    }

    fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        if self.confined.is_some() {
            command.env_clear();
            for name in PASSED {
                if let Some(value) = std::env::var_os(name) {
                    command.env(name, value);
                }
            }
        }
        for (name, _) in std::env::vars_os() {
            // Ours may be secrets.
            if name.as_bytes().starts_with(b"HANDOUT_") {
                command.env_remove(name);
            }
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
            .args(&self.arguments)
            .envs(
                self.environment
                    .iter()
                    .map(|(name, value)| (OsStr::new(name), value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that all of what it starts can be ended with it.
            .process_group(0)
            .spawn()
    }

    /// Reads what it writes until it has ended, or is beyond its bounds: then also which.
    fn attend(
        &self,
        child: &mut Child,
        output: &mut Vec<u8>,
        begun: Instant,
    ) -> io::Result<(ExitStatus, Option<Bound>)> {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let signal = |signal| {
            if let Some(group) = group {
                // Fails where nobody of the group is left.
                let _ = kill_process_group(group, signal);
            }
        };
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let keep = match self.confined {
            Some(_) => Keep::End,
            None => Keep::Beginning,
        };
        let mut asked: Option<(Bound, Instant)> = None;
        let status = loop {
            pass(&mut out, output, keep);
            pass(&mut err, output, keep);
            if let Some(status) = child.try_wait()? {
                break status;
            }
            match (asked, self.bound(begun)) {
                (Some((_, since)), _) if since.elapsed() >= GRACE => signal(Signal::KILL),
                // It fills the disk.
                (None, Some(bound @ Bound::Size(_))) => {
                    signal(Signal::KILL);
                    asked = Some((bound, Instant::now()));
                }
                (None, Some(bound)) => {
                    signal(Signal::TERM);
                    asked = Some((bound, Instant::now()));
                }
                _ => {}
            }
            wait_for(&out, &err);
        };
        // Nothing of it stays behind; what it has left in its pipes is read, if it is there.
        signal(Signal::KILL);
        pass(&mut out, output, keep);
        pass(&mut err, output, keep);
        Ok((status, asked.map(|(bound, _)| bound)))
    }

    /// The bound that it is beyond now.
    fn bound(&self, begun: Instant) -> Option<Bound> {
        if begun.elapsed() >= self.timeout {
            return Some(Bound::Time);
        }
        let Confined { output, stops } = self.confined.as_ref()?;
        let written = std::fs::symlink_metadata(&output.0).map_or(0, |meta| meta.len());
        match written > output.1 {
            true => Some(Bound::Size(output.1)),
            false => stops.load(Ordering::Relaxed).then_some(Bound::Stopped),
        }
    }

    fn timed_out(&self, status: ExitStatus) -> String {
        let (seconds, setting) = (self.timeout.as_secs(), self.setting);
        format!("ended after {seconds} s ({setting}): {}", said(status))
    }
}

/// Waits until there is something to read, or a little while.
fn wait_for(out: &Option<impl AsFd>, err: &Option<impl AsFd>) {
    let mut fds: Vec<PollFd<'_>> = Vec::new();
    fds.extend(out.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    fds.extend(err.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    let look = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: LOOK.as_nanos() as _,
    };
    // When that fails the next look comes at once, and says why.
    let _ = poll(&mut fds, Some(&look));
}

/// Reads what is there, without waiting, and closes the pipe at its end.
fn pass<P: Read + AsFd>(pipe: &mut Option<P>, output: &mut Vec<u8>, keep: Keep) {
    let mut part = [0; 4096];
    // A program that never stops writing is looked at again after this.
    for _ in 0..64 {
        let Some(open) = pipe else { return };
        let none = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let ready = poll(&mut [PollFd::new(open, PollFlags::IN)], Some(&none));
        if !matches!(ready, Ok(1..)) {
            return;
        }
        match open.read(&mut part) {
            Ok(0) | Err(_) => *pipe = None,
            Ok(read) => {
                let room = match keep {
                    Keep::Beginning => MOST_OUTPUT.saturating_sub(output.len()),
                    Keep::End => read,
                };
                output.extend_from_slice(&part[..read.min(room)]);
                let over = output.len().saturating_sub(MOST_OUTPUT);
                output.drain(..over);
            }
        }
    }
}

fn said(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, arguments: &[&str], timeout: Duration) -> Ended {
        let mut all: Vec<OsString> = vec!["-c".into(), script.into(), "sh".into()];
        all.extend(arguments.iter().map(OsString::from));
        Program {
            program: "/bin/sh".to_owned(),
            arguments: all,
            environment: vec![("HANDOUT_PATH", "/in/a b".into())],
            folder: None,
            timeout,
            setting: "receive.run_timeout",
            confined: None,
        }
        .run()
    }

    #[test]
    fn arguments_and_environment_arrive_as_they_are_and_the_output_is_harmless() {
        let minute = Duration::from_secs(60);
        let hostile = "-rf; $(reboot) `x` \"'\n\u{1b}[2J";
        let script = "printf '%s|%s' \"$1\" \"$HANDOUT_PATH\"; echo ouch >&2; exit 3";
        let ended = shell(script, &[hostile], minute);
        assert_eq!((ended.code, ended.how.as_str()), (Some(3), "exit code 3"));
        assert!(ended.output.contains("$(reboot) `x`"), "{}", ended.output);
        assert!(ended.output.contains("/in/a b") && ended.output.contains("ouch"));
        assert!(!ended.output.contains('\u{1b}'));
        let path = Path::new("/in/-rf {path}");
        assert_eq!(with_path("--file={path}", path), "--file=/in/-rf {path}");
    }

    #[test]
    fn whoever_takes_too_long_or_writes_without_end_is_bounded_with_all_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("survivor");
        let mark = mark.to_str().unwrap();
        let script = "trap '' TERM; (trap '' TERM; sleep 6; touch \"$1\") & yes";
        let ended = shell(script, &[mark], Duration::from_millis(300));
        assert_eq!(ended.code, None);
        assert!(ended.how.contains("run_timeout"), "{}", ended.how);
        assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
        assert!(ended.output.len() <= 6 * MOST_OUTPUT, "escaped at most");
        assert!(!Path::new(mark).exists());
        let ended = Program {
            program: "/no/such/program".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            timeout: Duration::from_secs(1),
            setting: "receive.run_timeout",
            confined: None,
        }
        .run();
        assert!(ended.how.contains("could not be started"), "{}", ended.how);
    }

    #[test]
    fn one_that_works_for_somebody_else_has_no_more_room_time_and_secrets_than_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let run = |script: &str, most: u64, timeout: u64, stops: bool| {
            let _ = std::fs::remove_file(&output);
            Program {
                program: "/bin/sh".to_owned(),
                arguments: ["-c", script, "sh", output.to_str().unwrap()]
                    .iter()
                    .map(OsString::from)
                    .collect(),
                environment: Vec::new(),
                folder: Some(folder.path().to_owned()),
                timeout: Duration::from_secs(timeout),
                setting: "provider.timeout",
                confined: Some(Confined {
                    output: (output.clone(), most),
                    stops: Arc::new(AtomicBool::new(stops)),
                }),
            }
            .run()
        };
        let told = run("env; echo hidden >&2; echo x > \"$1\"", 100, 60, false);
        assert_eq!(told.code, Some(0), "{}", told.output);
        // Cargo sets this one for tests.
        assert!(
            !told.output.contains("CARGO_MANIFEST_DIR"),
            "{}",
            told.output
        );
        assert!(told.output.contains("PATH=") && told.output.contains("hidden"));
        let end = run("yes | head -c 9000; echo; echo the end", 100, 60, false);
        assert!(end.output.ends_with("the end"), "{}", end.output);
        assert!(end.output.len() <= 6 * MOST_OUTPUT, "escaped at most");
        let large = run("yes > \"$1\"", 1_000_000, 60, false);
        assert!(
            large.how.contains("more than 1000000 bytes"),
            "{}",
            large.how
        );
        let late = run("sleep 600", 100, 1, false);
        assert!(late.how.contains("provider.timeout"), "{}", late.how);
        assert!(late.took < Duration::from_secs(20));
        let unwanted = run("sleep 600", 100, 60, true);
        assert!(unwanted.how.contains("nobody waits"), "{}", unwanted.how);
    }

    #[test]
    fn a_child_that_stays_in_the_background_holds_nobody_up() {
        let ended = shell("sleep 600 & exit 0", &[], Duration::from_secs(60));
        assert_eq!(ended.code, Some(0));
        assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    }
}
