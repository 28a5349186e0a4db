//! Whole nodes in one process, over loopback: what a panic costs, and what does not.

mod dht;
mod plans;
mod policy;
mod turns;

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::api::{Event, Request, exit};
use super::coordinator::{PanicPeer, PanicSelf};
use super::service::{Mode, Node, run};
use crate::config::Settings;
use crate::protocol::id::DeviceId;
use crate::store::Store;

pub(super) fn settings(folder: &Path, more: &[(&str, String)]) -> Settings {
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

pub(super) fn id_of(folder: &Path) -> DeviceId {
    Store::open(&folder.join("state"))
        .unwrap()
        .identity()
        .device_id()
}

/// A receiver on a thread of its own, until it is told to stop.
struct Receiver {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<u8>>,
}

impl Receiver {
    fn start(folder: &Path, sender: &DeviceId) -> Self {
        Self::start_with(folder, sender, &[])
    }

    fn start_with(folder: &Path, sender: &DeviceId, more: &[(&str, String)]) -> Self {
        let mut all = vec![("trust.authorized", sender.to_string())];
        all.extend(more.iter().cloned());
        let settings = settings(folder, &all);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let work = move |node: Node| async move {
                let Event::Listening { port, .. } = node.listening() else {
                    panic!()
                };
                ready.send(port).unwrap();
                let _ = stopped.await;
                exit::OK
            };
            run(settings, Mode::Receive, work).unwrap()
        });
        let port = is_ready.recv().unwrap();
        Self {
            port,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_peer_that_panics_is_built_anew_and_takes_nothing_else_along() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let names = ["sender", "one", "two"];
    let [sender, one, two] = names.map(|name| id_of(&at(name)));
    let receivers = [
        Receiver::start(&at("one"), &sender),
        Receiver::start(&at("two"), &sender),
    ];
    let file = at("file.bin");
    let content: Vec<u8> = (0..48_000_001u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    std::fs::write(&file, &content).unwrap();

    let peers = [(&one, &receivers[0]), (&two, &receivers[1])];
    let addresses = peers.map(|(id, receiver)| format!("{id}@127.0.0.1:{}", receiver.port));
    let more = [
        ("discovery.static_peers", addresses.join(",")),
        ("trust.authorized", format!("{one},{two}")),
    ];
    let settings = settings(&at("sender"), &more);
    let (tell, told) = mpsc::channel();
    let victim = one.clone();
    let code = run(settings, Mode::Send, move |node| async move {
        let (paths, to) = (vec![file], vec!["all".to_owned()]);
        let mut events = node.ask(Request::Send {
            paths,
            to,
            wait_ms: Some(30_000),
            share: Default::default(),
        });
        let mut panicked = false;
        while let Some(event) = events.recv().await {
            if let Event::Transfer(info) = &event {
                let active = info.state.word() == "active";
                if active && info.device_id == victim && !std::mem::replace(&mut panicked, true) {
                    node.coordinator.do_send(PanicPeer(victim.clone()));
                }
                tell.send((info.device_id.clone(), info.state.word()))
                    .unwrap();
            }
            if let Event::End { code } = event {
                return code;
            }
        }
        exit::ERROR
    })
    .unwrap();
    assert_eq!(code, exit::OK);
    let seen: Vec<(DeviceId, &str)> = told.iter().collect();
    let of = |id: &DeviceId| {
        seen.iter()
            .filter(|(of, _)| of == id)
            .map(|(_, w)| *w)
            .collect()
    };
    let (first, second): (Vec<&str>, Vec<&str>) = (of(&one), of(&two));
    assert_eq!(
        first,
        [
            "pending", "offered", "active", "pending", "offered", "active", "complete"
        ]
    );
    assert_eq!(second, ["pending", "offered", "active", "complete"]);
    for name in ["one", "two"] {
        let path = at(name).join("received").join("file.bin");
        assert!(std::fs::read(path).unwrap() == content, "{name}");
    }
}

#[test]
fn a_coordinator_that_panics_ends_the_process_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &[]);
    let code = run(settings, Mode::Offline, |node| async move {
        node.coordinator.do_send(PanicSelf);
        // Nothing here ends by itself: only the failure does.
        std::future::pending().await
    });
    assert_eq!(code.unwrap(), exit::ERROR);
}
