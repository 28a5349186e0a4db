//! Whole nodes in the test's process, over loopback, through the same doors as the program's verbs.

#![allow(dead_code, reason = "each test uses its own part")]

pub mod device;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use handout::actors::api::{Event, Request, exit};
use handout::actors::service::{Mode, Node, run};
use handout::config::Settings;
use handout::protocol::id::DeviceId;
use handout::store::Store;
use tokio::sync::oneshot;

/// Settings of a node whose state and destination are in `folder`, which finds others only where
/// it is told to.
pub fn settings(folder: &Path, more: &[(&str, String)]) -> Settings {
    let fixed = [
        ("state.dir", folder.join("state").display().to_string()),
        (
            "receive.destination",
            folder.join("received").display().to_string(),
        ),
        ("receive.reserve", "0".to_owned()),
        ("signaling.bind", "127.0.0.1".to_owned()),
        ("discovery.enabled", "false".to_owned()),
        ("discovery.loopback_only", "true".to_owned()),
    ];
    let all: Vec<(String, String)> = fixed
        .into_iter()
        .chain(more.iter().cloned())
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let empty = folder.join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    Settings::load(Some(&empty), &all).unwrap()
}

/// The id of the node whose state is in `folder`; its key is made if it has none.
pub fn id_of(folder: &Path) -> DeviceId {
    Store::open(&folder.join("state"))
        .unwrap()
        .identity()
        .device_id()
}

/// A node on a thread of its own, until it is dropped.
pub struct Running {
    pub node: Node,
    pub id: DeviceId,
    pub port: u16,
    pub received: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<u8>>,
}

impl Running {
    pub fn start(folder: &Path, mode: Mode, more: &[(&str, String)]) -> Self {
        let settings = settings(folder, more);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let work = move |node: Node| async move {
                ready.send(node).unwrap();
                let _ = stopped.await;
                exit::OK
            };
            run(settings, mode, work).unwrap()
        });
        let node = is_ready.recv().unwrap();
        let Event::Listening {
            port,
            device_id: id,
            ..
        } = node.listening()
        else {
            panic!("a node says first that it listens");
        };
        Self {
            node,
            id,
            port,
            received: folder.join("received"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Everything that the node answers to a request.
    pub async fn ask(&self, request: Request) -> Vec<Event> {
        let mut events = self.node.ask(request);
        let mut all = Vec::new();
        while let Some(event) = events.recv().await {
            let last = matches!(event, Event::End { .. });
            all.push(event);
            if last {
                break;
            }
        }
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                assert_eq!(ended.unwrap(), exit::OK, "a node failed");
            }
        }
    }
}

/// All files below a folder; none when it is not there.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// True when `needle` is somewhere in `haystack`.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|at| at == needle)
}

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}
