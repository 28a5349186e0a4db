//! The receive policy between whole nodes: what is refused leaves nothing and is told on both
//! sides, and what a person says counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::super::api::{Event, Receiver, Request, TransferInfo, exit};
use super::super::service::{Mode, Node, run};
use super::id_of;
use crate::config::Settings;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::names::STAGING;
use crate::protocol::transfer::TransferState;
use crate::store::{Store, StoreError};

/// After this long without an event a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a sender's and a receiver's state, and what is sent and received.
struct Room {
    folder: tempfile::TempDir,
    sender: DeviceId,
    receiver: DeviceId,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [sender, receiver] =
            ["sender", "receiver"].map(|name| id_of(&folder.path().join(name)));
        Self {
            folder,
            sender,
            receiver,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn file(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// What is in the destination, apart from staging folders that are still being removed.
    fn arrived(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("in")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != STAGING).collect();
        names.sort();
        names
    }

    /// Settings of a node: what all have in common, and the text of a config file.
    fn settings(&self, name: &str, text: &str, more: &[(&str, String)]) -> Settings {
        let file = self.file(&format!("{name}.toml"), text.as_bytes());
        // A node that has just ended may still be closing its store.
        let state = self.at(name).join("state");
        while matches!(Store::open(&state), Err(StoreError::Locked { .. })) {
            std::thread::yield_now();
        }
        let fixed = [
            (
                "state.dir",
                self.at(name).join("state").display().to_string(),
            ),
            ("receive.reserve", "0".to_owned()),
            ("signaling.bind", "127.0.0.1".to_owned()),
            ("discovery.enabled", "false".to_owned()),
            ("discovery.loopback_only", "true".to_owned()),
        ];
        let all = fixed.iter().chain(more);
        let all: Vec<_> = all
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        Settings::load(Some(&file), &all).unwrap()
    }

    /// Receives with these `[receive]` settings until dropped. Port 0 for any.
    fn receive(&self, policy: &str, port: u16) -> Receiving {
        self.start(Mode::Receive, policy, port)
    }

    fn start(&self, mode: Mode, policy: &str, port: u16) -> Receiving {
        let text = format!("[receive]\ndestination = \"in\"\n{policy}");
        let more = [
            ("device.name", "Room 12".to_owned()),
            ("signaling.port", port.to_string()),
            ("trust.authorized", format!("{} Teacher", self.sender)),
        ];
        let settings = self.settings("receiver", &text, &more);
        let (requests, mut asked) = unbounded_channel::<Request>();
        let (tell, events) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let work = move |node: Node| async move {
            let Event::Listening { port, .. } = node.listening() else {
                panic!()
            };
            let mut happening = node.ask(Request::Watch);
            ready.send(port).unwrap();
            loop {
                tokio::select! {
                    Some(event) = happening.recv() => {
                        let _ = tell.send(event);
                    }
                    request = asked.recv() => {
                        let Some(request) = request else { return exit::OK };
                        let mut answer = node.ask(request);
                        while answer.recv().await.is_some() {}
                    }
                }
            }
        };
        let thread = std::thread::spawn(move || run(settings, mode, work).unwrap());
        Receiving {
            port: is_ready.recv().unwrap(),
            requests: Some(requests),
            events,
            thread: Some(thread),
        }
    }

    /// Sends to the receiver until all is said: the exit code, and how it went.
    fn send(&self, path: &Path, port: u16) -> (u8, Receiver) {
        self.start_sending(path, port).join().unwrap()
    }

    fn start_sending(&self, path: &Path, port: u16) -> JoinHandle<(u8, Receiver)> {
        let at = format!("{}@127.0.0.1:{port}", self.receiver);
        let more = [
            ("discovery.static_peers", at),
            ("trust.authorized", self.receiver.to_string()),
        ];
        let settings = self.settings("sender", "", &more);
        let (paths, to) = (vec![path.to_owned()], vec!["all".to_owned()]);
        let wait_ms = Some(30_000);
        std::thread::spawn(move || {
            let (tell, told) = mpsc::channel();
            let code = run(settings, Mode::Send, move |node| async move {
                let mut events = node.ask(Request::Send {
                    paths,
                    to,
                    wait_ms,
                    share: Default::default(),
                });
                while let Some(event) = events.recv().await {
                    match event {
                        Event::Summary { receivers, .. } => tell.send(receivers).unwrap(),
                        Event::End { code } => return code,
                        _ => {}
                    }
                }
                exit::ERROR
            });
            (code.unwrap(), told.recv().unwrap().remove(0))
        })
    }
}

struct Receiving {
    port: u16,
    requests: Option<UnboundedSender<Request>>,
    events: mpsc::Receiver<Event>,
    thread: Option<JoinHandle<u8>>,
}

impl Receiving {
    /// Waits for an event.
    fn wait<T>(&self, of: impl Fn(Event) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(PATIENCE).expect("an event");
            if let Some(found) = of(event) {
                return found;
            }
        }
    }

    fn wait_for_question(&self) -> TransferId {
        self.wait(|event| match event {
            Event::Asked { transfer, .. } => Some(transfer),
            _ => None,
        })
    }

    fn wait_for_end(&self) -> TransferInfo {
        self.wait(|event| match event {
            Event::Transfer(info) if info.state.is_final() => Some(info),
            _ => None,
        })
    }

    fn ask(&self, request: Request) {
        self.requests.as_ref().unwrap().send(request).unwrap();
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The code and reason for which a transfer ended.
fn why(state: TransferState) -> (Code, String) {
    match state {
        TransferState::Failed { code, reason } | TransferState::Cancelled { code, reason, .. } => {
            (code, reason)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_that_is_here_for_a_request_is_busy_for_broadcasts_and_takes_them_later() {
    let room = Room::new();
    let file = room.file("class.bin", b"for the class");
    let asking = room.start(Mode::Fetch, "", 0);
    let (code, row) = room.send(&file, asking.port);
    assert_eq!((code, row.code), (exit::SOME_FAILED, Some(Code::Busy)));
    drop(asking);
    assert!(room.arrived().is_empty());
    let receiving = room.receive("", 0);
    let (code, _) = room.send(&file, receiving.port);
    assert_eq!(
        (code, room.arrived()),
        (exit::OK, vec!["class.bin".to_owned()])
    );
}

#[test]
fn a_folder_with_a_file_that_is_not_taken_is_refused_whole_and_both_sides_are_told_why() {
    let room = Room::new();
    room.file("lesson/a.pdf", b"fine");
    room.file("lesson/deep/setup.exe", b"not fine");
    let receiving = room.receive("types = [\"*.pdf\"]\n", 0);
    let (code, told) = room.send(&room.at("lesson"), receiving.port);
    assert_eq!(code, exit::SOME_FAILED);
    let (here, reason) = why(receiving.wait_for_end().state);
    assert!(
        reason.contains("only *.pdf") && reason.contains("setup.exe"),
        "{reason}"
    );
    assert_eq!((here, told.code), (Code::Declined, Some(Code::Declined)));
    assert_eq!(told.reason, Some(reason));
    // Not one byte was written, nor a folder made for it.
    assert!(!room.at("in").exists());
    // One file is refused as soon as it is offered.
    let (_, told) = room.send(&room.at("lesson/deep/setup.exe"), receiving.port);
    let (_, reason) = why(receiving.wait_for_end().state);
    assert_eq!(told.reason, Some(reason));
    let (code, _) = room.send(&room.at("lesson/a.pdf"), receiving.port);
    assert_eq!(code, exit::OK);
    assert_eq!(fs::read(room.at("in/a.pdf")).unwrap(), b"fine");
}

#[test]
fn a_quota_counts_over_several_bundles_and_restarts() {
    let room = Room::new();
    let policy = "[[receive.from]]\nwho = [\"Teacher\"]\nquota = \"1500B\"\n";
    let send = |name: &str, size: usize, receiving: &Receiving| {
        let content = vec![size as u8; size];
        room.send(&room.file(name, &content), receiving.port)
    };
    let receiving = room.receive(policy, 0);
    assert_eq!(send("one", 1000, &receiving).0, exit::OK);
    // What is here already is not taken again, and so does not count.
    assert_eq!(send("one", 1000, &receiving).0, exit::OK);
    let (code, told) = send("two", 501, &receiving);
    assert_eq!((code, told.code), (exit::DISK, Some(Code::Quota)));
    assert!(told.reason.unwrap().contains("only 500 are left"));
    drop(receiving);
    let receiving = room.receive(policy, 0);
    assert_eq!(send("three", 501, &receiving).1.code, Some(Code::Quota));
    assert_eq!(send("four", 500, &receiving).0, exit::OK);
    assert_eq!(send("five", 1, &receiving).1.code, Some(Code::Quota));
    assert_eq!(room.arrived(), ["four", "one"]);
}

#[test]
fn what_a_person_takes_arrives_also_after_a_restart_and_where_it_was_to_go() {
    let room = Room::new();
    let file = room.file("slides.pdf", b"slides");
    let receiving = room.receive("mode = \"ask\"\n", 0);
    let port = receiving.port;
    let sending = room.start_sending(&file, port);
    let asked = receiving.wait_for_question();
    drop(receiving);
    assert!(!room.at("in").exists());
    // Meanwhile the config file names another folder.
    let receiving = room.receive(
        "mode = \"ask\"\n[[receive.from]]\nwho = [\"Teacher\"]\ndestination = \"new\"\n",
        port,
    );
    assert_eq!(receiving.wait_for_question(), asked);
    // To go on is no answer.
    receiving.ask(Request::Resume {
        what: asked.to_string(),
    });
    receiving.ask(Request::Accept {
        what: asked.to_string(),
    });
    let (code, told) = sending.join().unwrap();
    assert_eq!((code, told.state.as_str()), (exit::OK, "complete"));
    assert_eq!(fs::read(room.at("in/slides.pdf")).unwrap(), b"slides");
    assert!(!room.at("new").exists());
}

#[test]
fn what_a_person_refuses_or_leaves_unanswered_is_cancelled_on_both_sides() {
    let room = Room::new();
    let file = room.file("slides.pdf", b"slides");
    let receiving = room.receive("mode = \"ask\"\n", 0);
    let sending = room.start_sending(&file, receiving.port);
    let what = receiving.wait_for_question().to_string();
    receiving.ask(Request::Refuse { what });
    let (code, told) = sending.join().unwrap();
    let end = why(receiving.wait_for_end().state);
    assert_eq!(
        end,
        (Code::Declined, "refused by a person at Room 12".to_owned())
    );
    assert_eq!(
        (code, told.code, told.reason),
        (exit::SOME_FAILED, Some(end.0), Some(end.1))
    );
    drop(receiving);

    let receiving = room.receive("mode = \"ask\"\nask_for = \"1s\"\n", 0);
    let (_, told) = room.send(&file, receiving.port);
    let end = why(receiving.wait_for_end().state);
    assert_eq!(
        end,
        (
            Code::Declined,
            "nobody at Room 12 answered in time".to_owned()
        )
    );
    assert_eq!(told.reason, Some(end.1));
    assert!(!room.at("in").exists());
}

#[test]
fn what_has_the_same_name_is_kept_or_replaced_or_stands_in_the_way() {
    let room = Room::new();
    room.file("in/a.txt", b"mine");
    let content = |name: &str| fs::read(room.at("in").join(name)).unwrap();
    let send = |policy: &str, content: &[u8]| {
        let receiving = room.receive(policy, 0);
        room.send(&room.file("a.txt", content), receiving.port)
    };
    assert_eq!(send("", b"first one").0, exit::OK);
    assert_eq!(
        (content("a.txt"), content("a (2).txt")),
        (b"mine".to_vec(), b"first one".to_vec())
    );
    let (code, told) = send("collision = \"refuse\"\n", b"second");
    assert_eq!((code, told.code), (exit::SOME_FAILED, Some(Code::Declined)));
    assert!(
        told.reason
            .unwrap()
            .contains("\"a.txt\" is already at the receiver")
    );
    assert_eq!(content("a.txt"), b"mine");
    assert_eq!(send("collision = \"overwrite\"\n", b"third").0, exit::OK);
    assert_eq!(
        (content("a.txt"), content("a (2).txt")),
        (b"third".to_vec(), b"first one".to_vec())
    );
    assert_eq!(room.arrived(), ["a (2).txt", "a.txt"]);
}
