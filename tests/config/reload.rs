//! A service whose config file changes while it runs.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::{code, command, err, events, handout, named};

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Settings that keep a service on this machine.
pub const LOOPBACK: [&str; 4] = [
    "--set=discovery.enabled=false",
    "--set=discovery.loopback_only=true",
    "--set=network.loopback=true",
    "--set=signaling.bind=127.0.0.1",
];

/// A service, as a process, until it is dropped.
pub struct Service {
    child: Child,
    events: Receiver<Value>,
}

impl Service {
    /// Starts one with this file, and waits until it listens.
    pub fn start(home: &Path, file: &str) -> Self {
        let mut words = vec!["run", "--config", file, "--json"];
        words.extend(LOOPBACK);
        let mut child = command(home, &words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, events) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("a JSON line");
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let service = Self { child, events };
        service.next("listening");
        service
    }

    /// The next event of this name.
    pub fn next(&self, name: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let event = event.unwrap_or_else(|error| panic!("no {name}: {error}"));
            if event["event"] == name {
                return event;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-s", name, &id])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits until it has gone by itself.
    pub fn gone(mut self) {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it goes on");
            // Everything that it says ends with it.
            let _ = self.events.recv_timeout(Duration::from_millis(100));
        }
    }

    /// Ends it, and returns its exit code and what it said on stderr.
    pub fn end(mut self) -> (Option<i32>, String) {
        self.signal("TERM");
        let ended = self.child.wait().unwrap().code();
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        (ended, text)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The changes of an event as `key old new restart`.
fn changes(event: &Value) -> Vec<String> {
    let changes = event["changes"].as_array().unwrap().iter();
    changes
        .map(|change| {
            let word = |key: &str| change[key].as_str().unwrap_or("-").to_owned();
            let restart = if change["restart"] == true {
                " restart"
            } else {
                ""
            };
            format!("{} {} {}{restart}", word("key"), word("old"), word("new"))
        })
        .collect()
}

#[test]
fn a_changed_file_a_signal_and_the_verb_reload_what_can_be_and_name_what_cannot() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("my.toml");
    let file = path.to_str().unwrap();
    std::fs::write(
        &path,
        "[receive]\nmode = \"accept\"\n[log]\nlevel = \"warn\"\n",
    )
    .unwrap();
    let service = Service::start(home.path(), file);

    // As editors write: a new file takes the place of the old one.
    let new = home.path().join("my.toml.new");
    let text = "[receive]\nmode = \"ask\"\n[signaling]\nport = 7\n[log]\nlevel = \"info\"\n\
                [[receive.from]]\nwho = [\"staff\"]\nmode = \"accept\"\n";
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, &path).unwrap();
    let reloaded = service.next("reloaded");
    assert_eq!(reloaded["file"], file);
    let mut listed = changes(&reloaded);
    listed.sort();
    assert_eq!(
        listed,
        [
            "log.level \"warn\" \"info\"",
            "receive.from[1].mode - \"accept\"",
            "receive.from[1].who - [\"staff\"]",
            "receive.mode \"accept\" \"ask\"",
            "signaling.port 0 7 restart",
        ]
    );

    // A broken one changes nothing, and all of its mistakes are named.
    std::fs::write(
        &path,
        "[receive]\nmode = \"never\"\nquota = \"much\"\nmod = = 1\n",
    )
    .unwrap();
    let refused = service.next("not_reloaded");
    let lines: Vec<_> = refused["mistakes"].as_array().unwrap().iter().collect();
    let lines: Vec<_> = lines.iter().map(|m| m["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 4]);
    let mut words = vec!["reload", "--json", "--config", "/dev/null"];
    words.extend(LOOPBACK);
    let reload = handout(home.path(), &words);
    assert_eq!(code(&reload), 2, "{}", err(&reload));
    assert_eq!(named(&events(&reload), "not_reloaded").len(), 1);
    service.next("not_reloaded");

    // What is back as it was has not changed, except for what a restart would have brought.
    let text = text.replace("port = 7", "port = 0");
    std::fs::write(&path, &text).unwrap();
    assert_eq!(changes(&service.next("reloaded")), Vec::<String>::new());
    service.signal("HUP");
    assert_eq!(changes(&service.next("reloaded")), Vec::<String>::new());

    let (ended, log) = service.end();
    assert_eq!(ended, Some(0), "{log}");
    let told = |part: &str| log.lines().any(|line| line.contains(part));
    assert!(told("signaling.port: 0 -> 7"), "{log}");
    assert!(told("my.toml:2:1: receive.mode must be"), "{log}");
    // Only the new level shows that.
    assert!(told("nothing has changed"), "{log}");
}

#[test]
fn without_a_service_there_is_nothing_to_reload() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(code(&handout(home.path(), &["id"])), 0);
    let output = handout(home.path(), &["reload"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("config check"), "{}", err(&output));
}

#[test]
fn a_service_starts_with_the_file_of_every_role() {
    for role in ["teacher", "lab", "kiosk", "receiver"] {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("my.toml");
        let file = file.to_str().unwrap();
        let init = handout(home.path(), &["config", "init", role, "-o", file]);
        assert_eq!(code(&init), 0, "{role}: {}", err(&init));
        let service = Service::start(home.path(), file);
        let (ended, log) = service.end();
        assert_eq!(ended, Some(0), "{role}: {log}");
        assert!(!log.contains("ERROR"), "{role}: {log}");
    }
}
