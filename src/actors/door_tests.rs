//! Whole nodes in one process, over loopback, that nobody has introduced to each other: pairing
//! by code and by PIN, and invites.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::api::{Event, PairWay, Request, exit};
use super::service::{Mode, Node, run};
use crate::config::Settings;
use crate::protocol::id::DeviceId;
use crate::store::{Authorization, GrantedBy, Store, StoreError};

/// Everything here takes far less; it only keeps a fault from hanging the tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node on a thread of its own. It ends when this is dropped.
struct Device {
    folder: PathBuf,
    node: Node,
    id: DeviceId,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    fn start(folder: &Path, mode: Mode) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let empty = folder.join("empty.toml");
        std::fs::write(&empty, "").unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let at = |sub: &str| folder.join(sub).display().to_string();
        let settings = [
            ("device.name", name.to_owned()),
            ("state.dir", at("state")),
            ("receive.destination", at("received")),
            ("signaling.bind", "127.0.0.1".to_owned()),
            ("discovery.enabled", "false".to_owned()),
            ("discovery.loopback_only", "true".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let settings = Settings::load(Some(&empty), &settings).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let work = |node: Node| async move {
                ready.send(node).unwrap();
                let _ = stopped.await;
                exit::OK
            };
            assert_eq!(run(settings, mode, work).unwrap(), exit::OK);
        });
        let node: Node = is_ready.recv().unwrap();
        let Event::Listening {
            device_id, port, ..
        } = node.listening()
        else {
            panic!()
        };
        Self {
            folder: folder.to_owned(),
            node,
            id: device_id,
            port,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn pair(&self, with: Option<&Self>, way: PairWay) -> Answer {
        self.ask(Request::Pair {
            with: with.map(|other| other.id.to_string()),
            addresses: with
                .map(|other| ([127, 0, 0, 1], other.port).into())
                .into_iter()
                .collect(),
            way,
            for_ms: 30_000,
        })
    }

    fn ask(&self, request: Request) -> Answer {
        Answer {
            events: self.node.ask(request),
            seen: Vec::new(),
        }
    }

    async fn answer(&self, other: &Self, yes: bool) -> u8 {
        let device = other.id.clone();
        self.ask(Request::PairAnswer { device, yes }).end().await
    }

    /// Stops it; what it has on disk.
    fn stopped(mut self) -> Store {
        self.stop_now();
        // The store's own thread lets go of it a little later.
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            match Store::open(&self.folder.join("state")) {
                Err(StoreError::Locked { .. }) if std::time::Instant::now() < end => {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn stop_now(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// The events of a request.
struct Answer {
    events: mpsc::Receiver<Event>,
    seen: Vec<Event>,
}

impl Answer {
    /// The next event that `pick` wants.
    async fn until<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("too late; there were {:?}", self.seen));
            let event = event.unwrap_or_else(|| panic!("it ended after {:?}", self.seen));
            let picked = pick(&event);
            self.seen.push(event);
            if let Some(picked) = picked {
                return picked;
            }
        }
    }

    async fn end(&mut self) -> u8 {
        self.until(|event| match event {
            Event::End { code } => Some(*code),
            _ => None,
        })
        .await
    }

    async fn code(&mut self) -> String {
        self.until(|event| match event {
            Event::PairCode { code, .. } => Some(code.clone()),
            _ => None,
        })
        .await
    }

    async fn pin(&mut self) -> String {
        self.until(|event| match event {
            Event::PairPin { pin, .. } => Some(pin.clone()),
            _ => None,
        })
        .await
    }

    fn errors(&self) -> String {
        let errors = self.seen.iter().filter_map(|event| match event {
            Event::Error { message } => Some(message.as_str()),
            _ => None,
        });
        errors.collect::<Vec<_>>().join("; ")
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn on_this_thread<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

fn granted(store: &Store, device: &DeviceId) -> Option<GrantedBy> {
    store.authorization(device).map(|entry| entry.by)
}

#[test]
fn two_devices_pair_by_a_code_that_both_show() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|n| Device::start(&folder.path().join(n), Mode::Receive));
    on_this_thread(async {
        let mut waits = one.pair(None, PairWay::Code);
        let mut comes = two.pair(Some(&one), PairWay::Code);
        assert_eq!(waits.code().await, comes.code().await);
        assert_eq!(one.answer(&two, true).await, exit::OK);
        assert_eq!(two.answer(&one, true).await, exit::OK);
        assert_eq!((waits.end().await, comes.end().await), (exit::OK, exit::OK));
    });
    let (a, b) = (one.id.clone(), two.id.clone());
    let (one, two) = (one.stopped(), two.stopped());
    assert_eq!(granted(&one, &b), Some(GrantedBy::Code));
    assert_eq!(granted(&two, &a), Some(GrantedBy::Code));
    assert!(
        one.authorization(&b)
            .is_some_and(|entry| entry.key.is_some())
    );
}

#[test]
fn a_no_on_one_screen_leaves_both_devices_strangers() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|n| Device::start(&folder.path().join(n), Mode::Receive));
    on_this_thread(async {
        // Both call each other at once, as people do.
        let mut first = one.pair(Some(&two), PairWay::Code);
        let mut second = two.pair(Some(&one), PairWay::Code);
        assert_eq!(first.code().await, second.code().await);
        assert_eq!(one.answer(&two, true).await, exit::OK);
        assert_eq!(two.answer(&one, false).await, exit::OK);
        assert_eq!(first.end().await, exit::UNAUTHORIZED);
        assert_eq!(second.end().await, exit::UNAUTHORIZED);
    });
    let (a, b) = (one.id.clone(), two.id.clone());
    assert_eq!(granted(&one.stopped(), &b), None);
    assert_eq!(granted(&two.stopped(), &a), None);
}

#[test]
fn pairing_works_where_one_side_knows_the_other_already() {
    let folder = folder();
    for (n, knows) in ["the one that waits", "the one that comes"]
        .iter()
        .enumerate()
    {
        let at = |name: &str| folder.path().join(format!("{n}-{name}"));
        let [one, two] = ["one", "two"].map(|name| Device::start(&at(name), Mode::Receive));
        on_this_thread(async {
            let (knowing, known) = [(&one, &two), (&two, &one)][n];
            let request = Request::Authorize {
                device: known.id.clone(),
                name: "known".to_owned(),
                roles: None,
                group: None,
                seconds: None,
            };
            assert_eq!(knowing.ask(request).end().await, exit::OK);
            let mut waits = one.pair(None, PairWay::Code);
            let mut comes = two.pair(Some(&one), PairWay::Code);
            assert_eq!(waits.code().await, comes.code().await, "{knows}");
            assert_eq!(two.answer(&one, true).await, exit::OK);
            assert_eq!(one.answer(&two, true).await, exit::OK);
            assert_eq!((waits.end().await, comes.end().await), (exit::OK, exit::OK));
        });
        let (a, b) = (one.id.clone(), two.id.clone());
        assert!(granted(&one.stopped(), &b).is_some(), "{knows}");
        assert!(granted(&two.stopped(), &a).is_some(), "{knows}");
    }
}

#[test]
fn the_right_pin_lets_both_devices_in() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|n| Device::start(&folder.path().join(n), Mode::Receive));
    on_this_thread(async {
        let mut shows = one.pair(None, PairWay::ShowPin);
        let pin = shows.pin().await;
        let mut types = two.pair(Some(&one), PairWay::TypePin(pin));
        assert_eq!((types.end().await, shows.end().await), (exit::OK, exit::OK));
    });
    let (a, b) = (one.id.clone(), two.id.clone());
    assert_eq!(granted(&one.stopped(), &b), Some(GrantedBy::Pin));
    assert_eq!(granted(&two.stopped(), &a), Some(GrantedBy::Pin));
}

#[test]
fn after_three_wrong_pins_the_right_one_lets_nobody_in() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|n| Device::start(&folder.path().join(n), Mode::Receive));
    on_this_thread(async {
        let mut shows = one.pair(None, PairWay::ShowPin);
        let pin = shows.pin().await;
        let wrong = if pin == "000000" { "000001" } else { "000000" };
        for _ in 0..3 {
            let mut types = two.pair(Some(&one), PairWay::TypePin(wrong.to_owned()));
            assert_eq!(types.end().await, exit::UNAUTHORIZED, "{:?}", types.seen);
        }
        assert_eq!(shows.end().await, exit::UNAUTHORIZED);
        assert!(shows.errors().contains("three times"), "{}", shows.errors());
        // Another PIN is shown, so that there is somebody to talk to.
        let mut shows = one.pair(None, PairWay::ShowPin);
        assert_ne!(shows.pin().await, pin);
        let mut types = two.pair(Some(&one), PairWay::TypePin(pin));
        assert_eq!(types.end().await, exit::UNAUTHORIZED);
    });
    let (a, b) = (one.id.clone(), two.id.clone());
    assert_eq!(granted(&one.stopped(), &b), None);
    assert_eq!(granted(&two.stopped(), &a), None);
}

async fn invite(issuer: &Device, uses: u32, for_ms: u64) -> String {
    let request = Request::Invite {
        uses,
        for_ms,
        group: Some("class-3b".to_owned()),
        roles: None,
        addresses: Vec::new(),
    };
    let mut made = issuer.ask(request);
    made.until(|event| match event {
        Event::Invite(info) => info.token.clone(),
        _ => None,
    })
    .await
}

async fn join(device: &Device, token: &str) -> (u8, String) {
    let invite = token.to_owned();
    let mut joined = device.ask(Request::Join { invite });
    let code = joined.end().await;
    (code, joined.errors())
}

#[test]
fn an_invite_for_five_lets_five_of_eight_in_that_come_at_once() {
    let folder = folder();
    let issuer = Device::start(&folder.path().join("issuer"), Mode::Send);
    let joiners: Vec<Device> = (0..8)
        .map(|n| Device::start(&folder.path().join(format!("joiner-{n}")), Mode::Receive))
        .collect();
    let codes = on_this_thread(async {
        let token = invite(&issuer, 5, 60_000).await;
        let codes = join_all(joiners.iter().map(|joiner| join(joiner, &token))).await;
        // Whoever is in is in, also when it shows the invite again.
        let in_already = codes
            .iter()
            .position(|(code, _)| *code == exit::OK)
            .unwrap();
        assert_eq!(join(&joiners[in_already], &token).await.0, exit::OK);
        codes
    });
    let issued = issuer.id.clone();
    let store = issuer.stopped();
    let members = store.group("class-3b").unwrap().members.clone();
    assert_eq!((members.len(), store.authorizations().len()), (5, 5));
    assert_eq!(store.invites()[0].used.len(), 5);
    for (joiner, (code, errors)) in joiners.into_iter().zip(codes) {
        let id = joiner.id.clone();
        let theirs = joiner.stopped();
        if code == exit::OK {
            let ours: &Authorization = store.authorization(&id).unwrap();
            assert_eq!(ours.by, GrantedBy::Invite);
            assert!(ours.name.starts_with("joiner-") && members.contains(&id));
            assert_eq!(granted(&theirs, &issued), Some(GrantedBy::Invite));
        } else {
            assert_eq!(code, exit::UNAUTHORIZED);
            assert!(errors.contains("used up"), "{errors}");
            assert!(store.authorization(&id).is_none());
            assert_eq!(granted(&theirs, &issued), None);
        }
    }
}

#[test]
fn whoever_holds_an_invite_that_has_ended_is_told_how() {
    let folder = folder();
    let issuer = Device::start(&folder.path().join("issuer"), Mode::Send);
    let other = Device::start(&folder.path().join("other"), Mode::Receive);
    on_this_thread(async {
        let brief = invite(&issuer, 5, 1000).await;
        // It ends by the clock of the system, which is not ours to set.
        let mut list = issuer.ask(Request::Invites);
        while !list.seen.iter().any(|event| {
            matches!(event, Event::Invite(info) if info.ended.as_deref() == Some("expired"))
        }) {
            tokio::task::yield_now().await;
            list = issuer.ask(Request::Invites);
            list.end().await;
        }
        let (code, errors) = join(&other, &brief).await;
        assert_eq!(code, exit::UNAUTHORIZED);
        assert!(errors.contains("expired"), "{errors}");

        let taken_back = invite(&issuer, 5, 60_000).await;
        let what = "all".to_owned();
        let mut revoked = issuer.ask(Request::RevokeInvite { what });
        assert_eq!(revoked.end().await, exit::OK);
        let (code, errors) = join(&other, &taken_back).await;
        assert_eq!(code, exit::UNAUTHORIZED);
        assert!(errors.contains("revoked"), "{errors}");

        // The same issuer and addresses, another secret: it never was an invite.
        let mut forged = crate::protocol::invite::Invite::parse(&taken_back).unwrap();
        forged.secret = crate::protocol::invite::Secret::new([1; 16]);
        let (code, errors) = join(&other, &forged.token()).await;
        assert_eq!(code, exit::UNAUTHORIZED);
        assert!(errors.contains("not known"), "{errors}");
    });
    let id = other.id.clone();
    assert!(issuer.stopped().authorization(&id).is_none());
}

#[test]
fn an_invite_does_not_bring_back_whom_a_person_has_shut_out() {
    let folder = folder();
    let issuer = Device::start(&folder.path().join("issuer"), Mode::Send);
    let other = Device::start(&folder.path().join("other"), Mode::Receive);
    on_this_thread(async {
        let token = invite(&issuer, 5, 60_000).await;
        assert_eq!(join(&other, &token).await.0, exit::OK);
        let device = other.id.to_string();
        assert_eq!(issuer.ask(Request::Revoke { device }).end().await, exit::OK);
        let again = invite(&issuer, 5, 60_000).await;
        let (code, errors) = join(&other, &again).await;
        assert_eq!(code, exit::UNAUTHORIZED);
        assert!(errors.contains("shut out"), "{errors}");
    });
    let id = other.id.clone();
    assert!(issuer.stopped().authorization(&id).is_none());
}

#[test]
fn without_an_open_door_a_stranger_gets_a_line_and_nothing_else() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|n| Device::start(&folder.path().join(n), Mode::Receive));
    on_this_thread(async {
        let mut watched = one.ask(Request::Watch);
        let mut comes = two.pair(Some(&one), PairWay::Code);
        let stranger = watched
            .until(|event| match event {
                Event::Unauthorized { device_id, .. } => Some(device_id.clone()),
                _ => None,
            })
            .await;
        assert_eq!(stranger, two.id);
        comes
            .until(|event| match event {
                Event::Note { text } => text.contains("not authorized").then_some(()),
                _ => None,
            })
            .await;
        let mut peers = one.ask(Request::Peers);
        assert_eq!(peers.end().await, exit::OK);
        let known = peers
            .seen
            .iter()
            .any(|event| matches!(event, Event::Peer(_)));
        assert!(!known, "{:?}", peers.seen);
    });
}

#[test]
fn whoever_was_shut_out_is_told_so_when_it_sends_although_the_door_is_open() {
    let folder = folder();
    let [one, two] = ["one", "two"].map(|n| Device::start(&folder.path().join(n), Mode::Run));
    let file = folder.path().join("lesson.txt");
    std::fs::write(&file, "lesson").unwrap();
    on_this_thread(async {
        let token = invite(&one, 2, 60_000).await;
        assert_eq!(join(&two, &token).await.0, exit::OK);
        let device = two.id.to_string();
        let mut revoked = one.ask(Request::Revoke { device });
        assert_eq!(revoked.end().await, exit::OK);
        let mut sent = two.ask(Request::Send {
            paths: vec![file],
            to: vec![one.id.to_string()],
            wait_ms: Some(30_000),
            share: Default::default(),
        });
        assert_eq!(sent.end().await, exit::UNAUTHORIZED, "{:?}", sent.seen);
    });
}
