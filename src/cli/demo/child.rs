//! The demo's processes: this program, run with a state folder of its own.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use crate::actors::api::{Event, exit};

/// Log lines kept of each process, for when something fails.
const KEPT_LINES: usize = 15;
/// Events that may wait to be looked at.
const EVENTS: usize = 1024;
/// How long a process may take to end when asked to.
const ENDING: Duration = Duration::from_secs(3);

/// How to run this program as one of the demo's devices.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its name for people.
    pub name: String,
    program: PathBuf,
    options: Vec<String>,
}

impl Device {
    /// A device with its state and destination in a folder of its own.
    pub fn new(program: &Path, home: &Path, config: &Path, name: &str) -> Self {
        let folder = home.join(name);
        let show = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut options = vec![
            "--json".to_owned(),
            format!("--config={}", config.display()),
            format!("--state={}", show(folder.join("state"))),
        ];
        for setting in [
            format!("device.name={name}"),
            format!("receive.destination={}", show(folder.join("received"))),
            "receive.reserve=0B".to_owned(),
            "discovery.loopback_only=true".to_owned(),
            "network.loopback=true".to_owned(),
            "signaling.bind=127.0.0.1".to_owned(),
            "log.level=info".to_owned(),
        ] {
            options.push(format!("--set={setting}"));
        }
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            options,
        }
    }

    /// Starts a verb.
    pub fn start(&self, verb: &[&str]) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            // What the person has configured is not for the demo's devices.
            if name.starts_with("HANDOUT_") || name == "RUST_LOG" {
                command.env_remove(&variable);
            }
        }
        let mut child = command
            .args(&self.options)
            .args(verb)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which then ends them.
            .process_group(0)
            .spawn()?;
        let (sender, events) = mpsc::channel(EVENTS);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let Ok(event) = serde_json::from_str(&line) else {
                        continue;
                    };
                    // Progress that nobody looks at must not hold up the process.
                    let sent = match event {
                        Event::Progress { .. } => {
                            let _ = sender.try_send(event);
                            Ok(())
                        }
                        event => sender.blocking_send(event),
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
        let log = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    if log.len() == KEPT_LINES {
                        log.pop_front();
                    }
                    log.push_back(line);
                }
            });
        }
        Ok(Process {
            name: self.name.clone(),
            child,
            events,
            log,
            peak: 0,
        })
    }

    /// Runs a verb until the process has ended; its events, without the last one.
    pub async fn complete(&self, verb: &[&str]) -> Result<Vec<Event>, String> {
        let say = |what: &str| format!("`handout {}` of {} {what}", verb.join(" "), self.name);
        let mut process = self
            .start(verb)
            .map_err(|error| say(&format!("does not start: {error}")))?;
        let mut seen = Vec::new();
        let mut code = None;
        // The process ends, and leaves its state folder, when there are no more events.
        while let Some(event) = process.events.recv().await {
            match event {
                Event::End { code: last } => code = Some(last),
                event => seen.push(event),
            }
        }
        let lines = process.last_lines().join("\n");
        match code {
            Some(exit::OK) => Ok(seen),
            Some(code) => Err(say(&format!("ends with exit code {code}\n{lines}"))),
            None => Err(say(&format!("gives no answer\n{lines}"))),
        }
    }
}

/// A running process. It does not outlive this value.
#[derive(Debug)]
pub struct Process {
    /// The device's name.
    pub name: String,
    /// What it says; ends when it does.
    pub events: mpsc::Receiver<Event>,
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    peak: u64,
}

impl Process {
    /// The most memory that it had so far, in bytes; 0 where the system does not say. Looked up
    /// while the process runs, remembered after that.
    pub fn peak_memory(&mut self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let peak = status.ok().and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        self.peak = self.peak.max(peak.unwrap_or(0) * 1024);
        self.peak
    }

    /// The last lines of its log.
    pub fn last_lines(&self) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().cloned().collect()
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Where it has ended already there is nobody to ask.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it has ended by itself; whoever takes too long is killed.
    pub async fn end(mut self) {
        // What is said after this is for nobody, and the pipe must not fill.
        let quiet = async { while self.events.recv().await.is_some() {} };
        let _ = tokio::time::timeout(ENDING, quiet).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An ended child keeps its id until it is waited for, so nobody else is hit.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
