//! Whole nodes in one process, over loopback: an origin and receivers that it introduces.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::api::{Event, Request, exit};
use super::service::{Mode, Node, run};
use super::tests::{id_of, settings};
use crate::protocol::id::DeviceId;
use crate::protocol::roles::Roles;

/// A node on a thread of its own, until it is told to stop.
pub(super) struct Running {
    pub(super) node: Node,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<u8>>,
}

impl Running {
    pub(super) fn start(folder: &Path, mode: Mode, more: &[(&str, String)]) -> Self {
        let settings = settings(folder, more);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let work = move |node: Node| async move {
                ready.send(node).unwrap();
                let _ = stopped.await;
                exit::OK
            };
            run(settings, mode, work).unwrap()
        });
        Self {
            node: is_ready.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(super) fn port(&self) -> u16 {
        let Event::Listening { port, .. } = self.node.listening() else {
            panic!()
        };
        port
    }

    /// Waits for an event; fails the test when it ends without it.
    pub(super) fn wait<T>(
        events: &mut tokio::sync::mpsc::Receiver<Event>,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> T {
        while let Some(event) = events.blocking_recv() {
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
        panic!("the events ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn content(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 9) ^ (i >> 17)) as u8).collect()
}

/// A room: an origin whose links are slow, and receivers that know nobody but it.
pub(super) struct Room {
    folder: tempfile::TempDir,
    pub(super) ids: Vec<DeviceId>,
}

impl Room {
    /// `names[0]` is the origin.
    pub(super) fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ids = names.iter().map(|name| id_of(&folder.path().join(name)));
        let ids = ids.collect();
        Self { folder, ids }
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn receiver(&self, name: &str, more: &[(&str, String)]) -> Running {
        let mut all = vec![("trust.authorized", self.ids[0].to_string())];
        all.extend(more.iter().cloned());
        Running::start(&self.at(name), Mode::Receive, &all)
    }

    pub(super) fn origin(&self, name: &str, receivers: &[(&DeviceId, u16)]) -> Running {
        let addresses = receivers
            .iter()
            .map(|(id, port)| format!("{id}@127.0.0.1:{port}"));
        let ids: Vec<String> = self.ids[1..].iter().map(ToString::to_string).collect();
        let more = [
            (
                "discovery.static_peers",
                addresses.collect::<Vec<_>>().join(","),
            ),
            ("trust.authorized", ids.join(",")),
            ("swarm.neighbours", "4".to_owned()),
            // Slow enough for neighbours to be of use.
            ("network.window_max", "64KiB".to_owned()),
            ("network.window_min", "64KiB".to_owned()),
        ];
        Running::start(&self.at(name), Mode::Run, &more)
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.at("file.bin");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn send(node: &Node, file: PathBuf, to: &[&DeviceId]) -> tokio::sync::mpsc::Receiver<Event> {
    node.ask(Request::Send {
        paths: vec![file],
        to: to.iter().map(ToString::to_string).collect(),
        wait_ms: None,
        share: Default::default(),
    })
}

#[test]
fn receivers_that_never_met_are_introduced_and_one_gives_chunks_to_the_other() {
    let room = Room::new(&["a", "b", "c"]);
    let [a, b, c] = &room.ids[..] else { panic!() };
    let bytes = content(96_000_001);
    let file = room.file(&bytes);
    let first = room.receiver("b", &[]);
    let late = room.receiver("c", &[]);
    let origin = room.origin("a", &[(b, first.port()), (c, late.port())]);
    // B has it all before C begins.
    let mut sent = send(&origin.node, file.clone(), &[b]);
    Running::wait(&mut sent, |event| {
        matches!(event, Event::End { code: 0 }).then_some(())
    });
    let mut heard = late.node.ask(Request::Watch);
    let mut sent = send(&origin.node, file, &[b, c]);
    Running::wait(&mut heard, |event| match event {
        Event::Introduced {
            device_id,
            introducer,
        } => {
            assert_eq!((device_id, &introducer.by), (b, a));
            assert_eq!(introducer.bundle_name, "file.bin");
            Some(())
        }
        _ => None,
    });
    let from_b = Running::wait(&mut heard, |event| match event {
        Event::Relayed {
            device_id, bytes, ..
        } => {
            assert_eq!(device_id, b);
            Some(*bytes)
        }
        Event::Received { .. } => panic!("nothing came from the neighbour"),
        _ => None,
    });
    assert!(from_b > 256 * 1024, "{from_b}");
    let receivers = Running::wait(&mut sent, |event| match event {
        Event::Summary { receivers, .. } => Some(receivers.clone()),
        _ => None,
    });
    let to_c = receivers.iter().find(|of| of.device_id == *c).unwrap();
    assert_eq!(to_c.state, "complete");
    assert!(
        to_c.sent + from_b / 2 < bytes.len() as u64 + from_b,
        "{to_c:?}"
    );
    let got = std::fs::read(room.at("c").join("received").join("file.bin")).unwrap();
    assert!(got == bytes);
}

/// Bytes of a file whose way takes longer than it takes to introduce somebody.
const LATE: u32 = if cfg!(debug_assertions) {
    48_000_001
} else {
    192_000_001
};

/// What C is told until it has a file that B has already; `before` is done with the origin and C at
/// the beginning.
fn heard_by_c(before: impl FnOnce(&Room, &Running, &Running)) -> Vec<Event> {
    let room = Room::new(&["a", "b", "c"]);
    let [_, b, c] = &room.ids[..] else { panic!() };
    let file = room.file(&content(LATE));
    let first = room.receiver("b", &[]);
    let late = room.receiver("c", &[]);
    let origin = room.origin("a", &[(b, first.port()), (c, late.port())]);
    before(&room, &origin, &late);
    let mut sent = send(&origin.node, file.clone(), &[b]);
    Running::wait(&mut sent, |event| {
        matches!(event, Event::End { code: 0 }).then_some(())
    });
    let mut heard = late.node.ask(Request::Watch);
    let _sent = send(&origin.node, file, &[b, c]);
    let mut all = Vec::new();
    Running::wait(&mut heard, |event| {
        all.push(event.clone());
        matches!(event, Event::Received { .. }).then_some(())
    });
    all
}

fn say_roles(node: &Running, device: &DeviceId, roles: Roles) {
    let mut said = node.node.ask(Request::Authorize {
        device: device.clone(),
        name: String::new(),
        roles: Some(roles),
        group: None,
        seconds: None,
    });
    Running::wait(&mut said, |event| {
        matches!(event, Event::End { code: 0 }).then_some(())
    });
}

fn introductions(heard: &[Event]) -> usize {
    let introduced = |event: &&Event| matches!(event, Event::Introduced { .. });
    heard.iter().filter(introduced).count()
}

#[test]
fn a_device_that_may_not_relay_is_introduced_to_nobody() {
    let heard = heard_by_c(|room, origin, _| say_roles(origin, &room.ids[1], Roles::RECEIVE));
    assert_eq!(introductions(&heard), 0, "{heard:?}");
}

#[test]
fn an_introduction_of_a_device_that_may_not_introduce_is_not_taken() {
    let heard = heard_by_c(|room, _, late| say_roles(late, &room.ids[0], Roles::SEND));
    assert_eq!(introductions(&heard), 0, "{heard:?}");
}

#[test]
fn with_all_roles_they_are_introduced() {
    let heard = heard_by_c(|room, origin, late| {
        say_roles(origin, &room.ids[1], Roles::ALL);
        say_roles(late, &room.ids[0], Roles::ALL);
    });
    assert_eq!(introductions(&heard), 1, "{heard:?}");
}
