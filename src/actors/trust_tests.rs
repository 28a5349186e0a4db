//! Whole nodes over loopback: who is shut out is out, at once, and both sides know why.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::api::{Event, GroupRequest, PeerInfo, Request, TransferInfo, exit};
use super::coordinator::Vouch;
use super::service::{Mode, Node, run};
use super::tests::{id_of, settings};
use crate::protocol::id::DeviceId;
use crate::protocol::message::Code;
use crate::protocol::roles::Roles;
use crate::protocol::roster::{Draft, Member, Roster, Terms};
use crate::protocol::transfer::TransferState;
use crate::store::Store;

/// Only a hang takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Asks something of a node, and gets the answer.
pub(super) type Question = (Request, oneshot::Sender<Vec<Event>>);

/// A receiver on a thread of its own.
pub(super) struct Receiver {
    pub(super) port: u16,
    questions: Option<mpsc::UnboundedSender<Question>>,
    thread: Option<JoinHandle<u8>>,
}

impl Receiver {
    pub(super) fn start(folder: &Path, more: &[(&str, String)]) -> Self {
        let settings = settings(folder, more);
        let (questions, mut asked) = mpsc::unbounded_channel::<Question>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let work = move |node: Node| async move {
                let Event::Listening { port, .. } = node.listening() else {
                    panic!()
                };
                ready.send(port).unwrap();
                while let Some((request, reply)) = asked.recv().await {
                    let _ = reply.send(all(node.ask(request)).await);
                }
                exit::OK
            };
            run(settings, Mode::Receive, work).unwrap()
        });
        let port = is_ready.recv().unwrap();
        Self {
            port,
            questions: Some(questions),
            thread: Some(thread),
        }
    }

    pub(super) fn asker(&self) -> mpsc::UnboundedSender<Question> {
        self.questions.clone().unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.questions.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) async fn all(mut events: mpsc::Receiver<Event>) -> Vec<Event> {
    let mut answer = Vec::new();
    while let Some(event) = events.recv().await {
        let last = matches!(event, Event::End { .. });
        answer.push(event);
        if last {
            break;
        }
    }
    answer
}

pub(super) async fn put(to: &mpsc::UnboundedSender<Question>, request: Request) -> Vec<Event> {
    let (reply, answer) = oneshot::channel();
    assert!(to.send((request, reply)).is_ok());
    answer.await.unwrap()
}

pub(super) fn peers(events: &[Event]) -> Vec<PeerInfo> {
    let peers = events.iter().filter_map(|event| match event {
        Event::Peer(info) => Some(info.clone()),
        _ => None,
    });
    peers.collect()
}

/// Two devices that have each other's ids, and a file that takes a while.
struct Pair {
    folder: tempfile::TempDir,
    sender: DeviceId,
    receiver: DeviceId,
}

impl Pair {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [sender, receiver] =
            ["sender", "receiver"].map(|name| id_of(&folder.path().join(name)));
        let file = std::fs::File::create(folder.path().join("file.bin")).unwrap();
        file.set_len(1 << 30).unwrap();
        Self {
            folder,
            sender,
            receiver,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends the file, to whoever does not come for as long as it takes; when chunks move, the
    /// receiver is asked something. Returns how the transfer ended at the sender, once the link
    /// is gone, and the exit code.
    fn send_and_ask(&self, receiver: &Receiver, question: Request) -> (TransferInfo, u8) {
        let more = [
            (
                "discovery.static_peers",
                format!("{}@127.0.0.1:{}", self.receiver, receiver.port),
            ),
            ("trust.authorized", self.receiver.to_string()),
        ];
        let settings = settings(&self.at("sender"), &more);
        let (file, asker) = (self.at("file.bin"), receiver.asker());
        let (tell, told) = std::sync::mpsc::channel();
        let code = run(settings, Mode::Send, move |node| async move {
            let mut watched = node.ask(Request::Watch);
            let mut events = node.ask(Request::Send {
                paths: vec![file],
                to: vec!["all".to_owned()],
                wait_ms: None,
                share: Default::default(),
            });
            let (mut question, mut last) = (Some(question), None);
            let following = async {
                let code = loop {
                    match events.recv().await.unwrap() {
                        Event::Progress { .. } => {
                            if let Some(question) = question.take() {
                                put(&asker, question).await;
                            }
                        }
                        Event::Transfer(info) => last = Some(info),
                        Event::End { code } => break code,
                        _ => {}
                    }
                };
                // Everything that happened is in this stream, in order: the end of the link, too.
                let gone = |event: &Event| matches!(event, Event::NotConnected { .. });
                while !gone(&watched.recv().await.unwrap()) {}
                code
            };
            let code = tokio::time::timeout(PATIENCE, following).await.unwrap();
            let peers = peers(&all(node.ask(Request::Peers)).await);
            assert!(peers.iter().all(|peer| !peer.connected), "{peers:?}");
            tell.send(last.unwrap()).unwrap();
            code
        });
        (told.recv().unwrap(), code.unwrap())
    }

    /// Nothing of the file is in the destination under its name, and nothing else either once
    /// the receiver has ended.
    fn assert_nothing_arrived(&self) {
        assert!(!self.at("receiver").join("received/file.bin").exists());
    }
}

fn assert_unauthorized(info: &TransferInfo, why: &str) {
    match &info.state {
        TransferState::Cancelled { code, reason, .. } => {
            assert_eq!(*code, Code::Unauthorized);
            assert!(reason.contains(why), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(info.bytes < info.size);
}

#[test]
fn revoking_a_sender_ends_its_transfer_at_once_and_tells_it_why() {
    let pair = Pair::new();
    let by_config = [("trust.authorized", pair.sender.to_string())];
    let receiver = Receiver::start(&pair.at("receiver"), &by_config);
    let device = pair.sender.to_string();
    let (info, code) = pair.send_and_ask(&receiver, Request::Revoke { device });
    assert_unauthorized(&info, "revoked");
    assert_eq!(code, exit::UNAUTHORIZED);
    drop(receiver);
    pair.assert_nothing_arrived();

    // It stays out after a restart, also with the database lost, though the config names it.
    std::fs::remove_dir_all(pair.at("receiver").join("state/db")).unwrap();
    let receiver = Receiver::start(&pair.at("receiver"), &by_config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let answer = runtime.block_on(put(&receiver.asker(), Request::Peers));
    let known = peers(&answer);
    assert!(known.iter().all(|peer| !peer.authorized), "{known:?}");
}

fn roster(admin: &Path, version: u64, lifetime: u64, devices: &[&DeviceId]) -> String {
    let store = Store::open(&admin.join("state")).unwrap();
    let member = |id: &&DeviceId| Member {
        id: (*id).clone(),
        name: String::new(),
        roles: None,
    };
    let draft = Draft {
        group: "class".to_owned(),
        note: String::new(),
        roles: Some(Roles::ALL),
        devices: devices.iter().map(member).collect(),
    };
    let issued = super::peer::unix_now();
    let terms = Terms {
        version,
        issued,
        expires: issued + lifetime,
    };
    let signed = Roster::sign(draft, terms, store.identity()).unwrap();
    String::from_utf8(signed.as_bytes().to_vec()).unwrap()
}

fn import(roster: String) -> Request {
    Request::Group(GroupRequest::Import {
        roster,
        admin: None,
    })
}

#[test]
fn a_newer_roster_that_drops_a_device_ends_its_transfer() {
    let pair = Pair::new();
    let admin = id_of(&pair.at("admin"));
    let by_roster = [("trust.admins", admin.to_string())];
    let receiver = Receiver::start(&pair.at("receiver"), &by_roster);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let first = roster(&pair.at("admin"), 1, 3600, &[&pair.sender]);
    let answer = runtime.block_on(put(&receiver.asker(), import(first.clone())));
    assert!(
        matches!(answer.last(), Some(Event::End { code: exit::OK })),
        "{answer:?}"
    );

    let second = roster(&pair.at("admin"), 2, 3600, &[&pair.receiver]);
    let (info, _) = pair.send_and_ask(&receiver, import(second));
    assert_unauthorized(&info, "nothing authorizes it");
    let answer = runtime.block_on(put(&receiver.asker(), import(first.clone())));
    assert!(matches!(
        answer.last(),
        Some(Event::End {
            code: exit::UNAUTHORIZED
        })
    ));
    drop(receiver);
    pair.assert_nothing_arrived();

    // The version outlives the database and the roster's file.
    let state = pair.at("receiver").join("state");
    std::fs::remove_dir_all(state.join("db")).unwrap();
    std::fs::remove_dir_all(state.join("rosters")).unwrap();
    let receiver = Receiver::start(&pair.at("receiver"), &by_roster);
    let answer = runtime.block_on(put(&receiver.asker(), import(first)));
    assert!(matches!(
        answer.last(),
        Some(Event::End {
            code: exit::UNAUTHORIZED
        })
    ));
}

#[test]
fn an_authorization_that_expires_ends_the_transfer_that_runs() {
    let pair = Pair::new();
    let receiver = Receiver::start(&pair.at("receiver"), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let authorize = |seconds| Request::Authorize {
        device: pair.sender.clone(),
        name: String::new(),
        roles: None,
        group: None,
        seconds,
    };
    runtime.block_on(put(&receiver.asker(), authorize(None)));
    let (info, _) = pair.send_and_ask(&receiver, authorize(Some(1)));
    assert_unauthorized(&info, "expired");
    drop(receiver);
    pair.assert_nothing_arrived();
}

#[test]
fn a_device_that_may_only_receive_cannot_send_and_is_told_so() {
    let pair = Pair::new();
    let receiver = Receiver::start(&pair.at("receiver"), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let authorize = Request::Authorize {
        device: pair.sender.clone(),
        name: String::new(),
        roles: Some(Roles::RECEIVE),
        group: None,
        seconds: None,
    };
    runtime.block_on(put(&receiver.asker(), authorize));
    let more = [
        (
            "discovery.static_peers",
            format!("{}@127.0.0.1:{}", pair.receiver, receiver.port),
        ),
        ("trust.authorized", pair.receiver.to_string()),
    ];
    let settings = settings(&pair.at("sender"), &more);
    let file = pair.at("file.bin");
    let code = run(settings, Mode::Send, |node| async move {
        let sending = Request::Send {
            paths: vec![file],
            to: vec!["all".to_owned()],
            wait_ms: Some(60_000),
            share: Default::default(),
        };
        let events = tokio::time::timeout(PATIENCE, all(node.ask(sending))).await;
        match events.unwrap().last() {
            Some(Event::End { code }) => *code,
            _ => exit::ERROR,
        }
    });
    assert_eq!(code.unwrap(), exit::UNAUTHORIZED);
    drop(receiver);
    pair.assert_nothing_arrived();
}

#[test]
fn who_is_let_in_for_one_request_gets_the_answer_to_it_and_nothing_that_all_get() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [_, stranger] = ["ours", "stranger"].map(|name| id_of(&at(name)));
    // It is here, as if it had been seen.
    let peers = format!("{stranger}@127.0.0.1:9");
    let settings = settings(&at("ours"), &[("discovery.static_peers", peers)]);
    let answer = settings.state.dir.join("provided/1/answer.npz");
    let lesson = at("lesson.txt");
    for file in [&answer, &lesson] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "for whom?").unwrap();
    }
    let code = run(settings, Mode::Send, |node| async move {
        let vouch = Vouch {
            device: stranger.clone(),
            roles: Roles::RECEIVE,
            lasts: PATIENCE,
            why: "for one request".to_owned(),
        };
        let purpose = node.vouch(vouch).await.unwrap();
        let send = async |file: &Path, to: &str| {
            let events = all(node.ask(Request::Send {
                paths: vec![file.to_owned()],
                to: vec![to.to_owned()],
                wait_ms: Some(0),
                share: Default::default(),
            }));
            match events.await.last() {
                Some(Event::End { code }) => *code,
                _ => panic!("no end"),
            }
        };
        assert_eq!(send(&lesson, "all").await, exit::UNAUTHORIZED);
        assert_eq!(send(&lesson, stranger.as_str()).await, exit::UNAUTHORIZED);
        // Nobody listens there, so it does not arrive; but it may.
        assert_eq!(send(&answer, stranger.as_str()).await, exit::NO_RECEIVER);
        node.unvouch(stranger.clone(), purpose);
        assert_eq!(send(&answer, stranger.as_str()).await, exit::UNAUTHORIZED);
        exit::OK
    });
    assert_eq!(code.unwrap(), exit::OK);
}
