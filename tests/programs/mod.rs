//! The program itself, each with a home of its own, over loopback.

#![allow(dead_code, reason = "each test uses its own part")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// One device: a home folder, and the program on it.
pub struct Program(pub tempfile::TempDir);

impl Program {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program with this home and loopback alone; nothing of this machine's counts.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handout"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HANDOUT_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.0.path())
            .env_remove("RUST_LOG")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_DOWNLOAD_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .args(words)
            .args([
                "--set=discovery.enabled=false",
                "--set=discovery.loopback_only=true",
                "--set=network.loopback=true",
                "--set=signaling.bind=127.0.0.1",
                "--set=receive.reserve=0",
            ]);
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the program starts")
    }

    pub fn id(&self) -> String {
        let output = self.run(&["id"]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The two let each other in.
    pub fn knows(&self, other: &Self) {
        expect(0, &self.run(&["authorize", &other.id()]));
        expect(0, &other.run(&["authorize", &self.id()]));
    }

    pub fn file(&self, name: &str, size: usize) -> String {
        std::fs::write(self.path(name), vec![7; size]).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

pub fn expect(code: i32, output: &Output) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A receiver that runs, until it is dropped.
pub struct Receiving {
    pub child: Child,
    pub out: BufReader<ChildStdout>,
    pub port: u64,
}

impl Receiving {
    /// `receive`, with more words.
    pub fn start(program: &Program, words: &[&str]) -> Self {
        Self::begin(program.command(&[&["receive", "--json"], words].concat()))
    }

    /// Any verb that says first that it listens.
    pub fn begin(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let port = 0;
        let mut receiving = Self { child, out, port };
        let said = receiving.next().expect("a line");
        assert_eq!(said["event"], "listening", "{said}");
        receiving.port = said["port"].as_u64().unwrap();
        receiving
    }

    /// The next event of that name.
    pub fn until(&mut self, name: &str) -> Value {
        loop {
            let event = self
                .next()
                .unwrap_or_else(|| panic!("it ended before {name}"));
            if event["event"] == name {
                return event;
            }
        }
    }

    pub fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Its exit code, once it has ended by itself; the last event says the same.
    pub fn code(mut self) -> i32 {
        let mut last = Value::Null;
        while let Some(event) = self.next() {
            last = event;
        }
        let code = self.child.wait().unwrap().code().unwrap();
        let mut errors = String::new();
        let stderr = self.child.stderr.take().unwrap();
        BufReader::new(stderr).read_to_string(&mut errors).unwrap();
        assert_eq!(
            last,
            serde_json::json!({"event": "end", "code": code}),
            "{errors}"
        );
        code
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn place(id: &str, port: u64) -> String {
    format!("{id}@127.0.0.1:{port}")
}

/// Nobody listens there; the system refuses at once.
pub fn nowhere(id: &str) -> String {
    place(id, 1)
}
