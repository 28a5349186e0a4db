//! Child processes, their lines, and what they cost, all seen from outside.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Kernel ticks per second in `/proc/PID/stat`; 100 on every Linux that Rust runs on.
const TICKS: u32 = 100;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// The most memory it ever had resident, in bytes.
    pub peak: u64,
}

/// A running child. Dropping it kills it.
pub struct Process {
    child: Child,
    lines: Receiver<(Instant, String)>,
    peak: u64,
    name: String,
}

impl Process {
    /// Starts a command; its stdout comes as lines, its stderr goes to ours.
    pub fn start(name: String, command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{name} did not start: {e}"))?;
        let out = child.stdout.take().ok_or("no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            peak: 0,
            name,
        })
    }

    /// The next line for which `pick` gives something, and when it came. Fails when the process
    /// ends without one or takes longer than `limit`.
    pub fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<(Instant, T), String> {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(SAMPLE_EVERY) {
                Ok((at, line)) => {
                    if let Some(found) = pick(&line) {
                        return Ok((at, found));
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => self.sample(),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{} said nothing for {limit:?}", self.name));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{} ended too early", self.name));
                }
            }
        }
    }

    /// Notes the memory it has had so far.
    pub fn sample(&mut self) {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .and_then(|kb| kb.trim().parse::<u64>().ok());
        self.peak = self.peak.max(peak.unwrap_or(0) * 1024);
    }

    /// Waits for its end and gives what it used.
    pub fn finish(mut self, limit: Duration) -> Result<Usage, String> {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(SAMPLE_EVERY) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => self.sample(),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{} did not end within {limit:?}", self.name));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // Its stdout is closed, so it is ending. Until it is waited for, a process that has ended
        // stays in the table with its final times.
        let tick = channel::<()>().1;
        while self.state() != Some('Z') && Instant::now() < end {
            let _ = tick.recv_timeout(Duration::from_millis(1));
        }
        let cpu = self.cpu();
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("{} ended with {status}", self.name));
        }
        Ok(Usage {
            cpu,
            peak: self.peak,
        })
    }

    /// The fields of `/proc/PID/stat` after the name: the state is the first of them.
    fn stat(&self) -> Vec<String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').map(str::to_owned).collect()
    }

    fn state(&self) -> Option<char> {
        self.stat().first()?.chars().next()
    }

    fn cpu(&self) -> Duration {
        let fields = self.stat();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u32>().ok());
        let used = ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0);
        Duration::from_secs(1) * used / TICKS
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
