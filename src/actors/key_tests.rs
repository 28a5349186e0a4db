//! Whole nodes over loopback: who changes its key is followed, who only says so is not, and one
//! key on two machines is noticed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::api::{Event, GroupRequest, PeerInfo, Request, exit};
use super::control::Client;
use super::service::renew;
use super::tests::{id_of, settings};
use super::trust_tests::{PATIENCE, Receiver, peers, put};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::Identity;
use crate::protocol::roles::Roles;
use crate::protocol::rotation::{self, Rotation};
use crate::protocol::signal::{Signal, SignalKind};
use crate::store::{Store, StoreError};

/// Some devices, and what they say to each other.
struct Room {
    folder: tempfile::TempDir,
    runtime: Runtime,
}

impl Room {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { folder, runtime }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the node that ran here has let go of its folder: its store's thread ends a
    /// moment after it.
    fn settle(&self, name: &str) {
        let (state, begun) = (self.at(name).join("state"), Instant::now());
        fs::create_dir_all(&state).unwrap();
        while matches!(Store::open(&state), Err(StoreError::Locked { .. })) {
            assert!(begun.elapsed() < PATIENCE, "{name} never ends");
            std::thread::yield_now();
        }
    }

    fn start(&self, name: &str, more: &[(&str, String)]) -> Receiver {
        self.settle(name);
        Receiver::start(&self.at(name), more)
    }

    fn id(&self, name: &str) -> DeviceId {
        self.settle(name);
        id_of(&self.at(name))
    }

    /// Changes the key of a device that does not run; its new id.
    fn rotate(&self, name: &str) -> DeviceId {
        self.settle(name);
        let renewed = renew(&settings(&self.at(name), &[]), true).unwrap();
        assert_eq!(self.id(name), renewed.device);
        renewed.device
    }

    fn ask(&self, node: &Receiver, request: Request) -> Vec<Event> {
        let asker = node.asker();
        let asked = async { timeout(PATIENCE, put(&asker, request)).await };
        self.runtime.block_on(asked).unwrap()
    }

    fn ok(&self, node: &Receiver, request: Request) -> Vec<Event> {
        let answer = self.ask(node, request);
        let ended = matches!(answer.last(), Some(Event::End { code: exit::OK }));
        assert!(ended, "{answer:?}");
        answer
    }

    /// What a node knows of a device.
    fn known(&self, node: &Receiver, device: &DeviceId) -> Option<PeerInfo> {
        let answer = self.ok(node, Request::Peers);
        peers(&answer)
            .into_iter()
            .find(|peer| peer.device_id == *device)
    }

    fn lets_in(&self, node: &Receiver, device: &DeviceId) -> bool {
        self.known(node, device).is_some_and(|peer| peer.authorized)
    }

    /// A node hands a small file to everybody, or else to whom is said; the exit code.
    fn send(&self, node: &Receiver, name: &str, to: &str) -> u8 {
        let path = self.at(name);
        fs::write(&path, name.repeat(1000)).unwrap();
        let answer = self.ask(
            node,
            Request::Send {
                paths: vec![path],
                to: vec![to.to_owned()],
                wait_ms: Some(30_000),
                share: Default::default(),
            },
        );
        match answer.last() {
            Some(Event::End { code }) => *code,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that happens at a node from now on.
    fn watch(&self, name: &str) -> tokio::sync::mpsc::Receiver<Event> {
        let state = self.at(name).join("state");
        self.runtime.block_on(async {
            let client = Client::connect(&state).await.expect("it runs");
            let events = client.ask(Request::Watch);
            // The listing comes back once the watcher stands: requests are served in order.
            let again = Client::connect(&state).await.expect("it runs");
            let mut listed = again.ask(Request::Id);
            while listed.recv().await.is_some() {}
            events
        })
    }

    fn until(
        &self,
        events: &mut tokio::sync::mpsc::Receiver<Event>,
        what: impl Fn(&Event) -> bool,
    ) -> Event {
        self.runtime.block_on(async {
            let search = async {
                loop {
                    let event = events.recv().await.expect("the node is there");
                    if what(&event) {
                        return event;
                    }
                }
            };
            timeout(PATIENCE, search).await.expect("it happens")
        })
    }
}

/// Lets a device in, in a group, and it may send alone.
fn authorize(device: &DeviceId) -> Request {
    Request::Authorize {
        device: device.clone(),
        name: "front desk".to_owned(),
        roles: Some(Roles::SEND),
        group: Some("staff".to_owned()),
        seconds: None,
    }
}

/// A node that knows where another one is, and lets it in.
fn towards(other: &DeviceId, port: u16) -> [(&'static str, String); 2] {
    [
        (
            "discovery.static_peers",
            format!("{other}@127.0.0.1:{port}"),
        ),
        ("trust.authorized", other.to_string()),
    ]
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_sender_with_a_new_key_is_followed_live_over_two_changes_and_after_restarts() {
    let room = Room::new();
    let (first, theirs) = (room.id("sender"), room.id("receiver"));
    let receiver = room.start("receiver", &[]);
    room.ok(&receiver, authorize(&first));
    let sender = room.start("sender", &towards(&theirs, receiver.port));
    assert_eq!(room.send(&sender, "one", "all"), exit::OK);
    drop(sender);

    // Live: the receiver does not even notice but by what it is shown.
    let second = room.rotate("sender");
    let mut events = room.watch("receiver");
    let sender = room.start("sender", &towards(&theirs, receiver.port));
    assert_eq!(room.send(&sender, "two", "all"), exit::OK);
    let news = room.until(&mut events, |e| matches!(e, Event::KeyChanged { .. }));
    let Event::KeyChanged {
        device_id,
        earlier,
        name,
    } = news
    else {
        unreachable!()
    };
    assert_eq!((device_id, earlier), (second.clone(), first.clone()));
    assert_eq!(name, "front desk");
    let peer = room.known(&receiver, &second).unwrap();
    assert!(peer.authorized && peer.roles == Roles::SEND);
    assert_eq!(peer.groups, ["staff"]);
    assert!(peer.why.contains(first.as_str()), "{}", peer.why);
    assert!(!room.lets_in(&receiver, &first));
    drop((sender, receiver));
    room.settle("receiver");

    // It was away for two more changes; and its database is lost.
    fs::remove_dir_all(room.at("receiver").join("state/db")).unwrap();
    let third = room.rotate("sender");
    let fourth = room.rotate("sender");
    let receiver = room.start("receiver", &[]);
    assert!(room.lets_in(&receiver, &second) && !room.lets_in(&receiver, &first));
    let sender = room.start("sender", &towards(&theirs, receiver.port));
    assert_eq!(room.send(&sender, "three", "all"), exit::OK);
    drop((sender, receiver));
    let receiver = room.start("receiver", &[]);
    assert!(room.lets_in(&receiver, &fourth));
    for given_up in [&first, &second, &third] {
        assert!(!room.lets_in(&receiver, given_up));
    }
    // A person may say the old id, and means the device.
    room.ok(
        &receiver,
        Request::Revoke {
            device: third.to_string(),
        },
    );
    assert!(!room.lets_in(&receiver, &fourth));
}

#[test]
fn a_receiver_with_a_new_key_is_found_at_its_old_place() {
    let room = Room::new();
    let (ours, first) = (room.id("sender"), room.id("receiver"));
    let by_config = [("trust.authorized", ours.to_string())];
    let receiver = room.start("receiver", &by_config);
    let sender = room.start("sender", &towards(&first, receiver.port));
    let add = GroupRequest::Add {
        group: "class".to_owned(),
        devices: vec![first.to_string()],
    };
    room.ok(&sender, Request::Group(add));
    assert_eq!(room.send(&sender, "one", "@class"), exit::OK);
    let port = receiver.port;
    drop(receiver);
    let second = room.rotate("receiver");
    let same_place = [
        ("trust.authorized", ours.to_string()),
        ("signaling.port", port.to_string()),
    ];
    let receiver = room.start("receiver", &same_place);
    // The sender does not know yet: it offers to the old id, and is shown the new one.
    assert_eq!(room.send(&sender, "two", "@class"), exit::OK);
    assert!(room.lets_in(&sender, &second) && !room.lets_in(&sender, &first));
    assert_eq!(room.send(&sender, "three", second.as_str()), exit::OK);
    drop(sender);
    // The config file still names the old id, its address with it.
    let sender = room.start("sender", &towards(&first, port));
    assert!(room.lets_in(&sender, &second) && !room.lets_in(&sender, &first));
    assert_eq!(room.send(&sender, "four", "@class"), exit::OK);
    for name in ["one", "two", "three", "four"] {
        assert!(room.at("receiver/received").join(name).exists(), "{name}");
    }
    drop(receiver);
}

#[test]
fn who_lost_what_it_had_put_down_follows_again_and_the_old_state_of_a_device_is_shut_out() {
    let room = Room::new();
    let (first, theirs) = (room.id("sender"), room.id("receiver"));
    let receiver = room.start("receiver", &[]);
    room.ok(&receiver, authorize(&first));
    drop(receiver);
    room.settle("receiver");
    copy_dir(&room.at("receiver"), &room.at("before"));
    copy_dir(&room.at("sender"), &room.at("old sender"));
    let second = room.rotate("sender");
    for receiver in ["receiver", "before"] {
        // The copy is the receiver as it was when it was killed before the change was on disk.
        let receiver = room.start(receiver, &[]);
        let sender = room.start("sender", &towards(&theirs, receiver.port));
        assert_eq!(room.send(&sender, "file", "all"), exit::OK);
        assert!(room.lets_in(&receiver, &second));
        drop(sender);
        // A backup of the sender's state does not roll that back.
        let old = room.start("old sender", &towards(&theirs, receiver.port));
        assert_eq!(room.send(&old, "other", "all"), exit::UNAUTHORIZED);
        let error = room.known(&old, &theirs).unwrap().error.unwrap();
        assert!(
            error.contains(second.as_str()) && error.contains("handout id new"),
            "{error}"
        );
        assert!(room.lets_in(&receiver, &second) && !room.lets_in(&receiver, &first));
    }
}

/// Says something to a node's signaling port, and waits until it has been read.
fn say(port: u16, signals: &[Signal]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for signal in signals {
        stream.write_all(signal.encode().as_bytes()).unwrap();
    }
    // Whatever came before is handled before this is refused.
    stream.write_all(b"nonsense\n").unwrap();
    let mut last = String::new();
    BufReader::new(stream).read_line(&mut last).unwrap();
    assert!(last.contains("error"), "{last}");
}

#[test]
fn false_changes_of_key_change_nothing_and_are_named() {
    let room = Room::new();
    let key = |n: u8| Identity::from_seed(&[n; 32]);
    let id = |n: u8| key(n).device_id();
    let receiver = room.start("receiver", &[]);
    for n in [1, 2, 3] {
        room.ok(&receiver, authorize(&id(n)));
    }
    let device = id(3).to_string();
    room.ok(&receiver, Request::Revoke { device });
    let mut events = room.watch("receiver");
    let signal = |chain: &[Rotation], n: u8| Signal {
        kind: SignalKind::Rotation,
        peer_id: id(n),
        data: rotation::encode(chain),
    };
    let change = |old: u8, new: u8| Rotation::sign(&key(old), &key(new), 1000);
    let half = Rotation {
        old_sig: change(9, 8).old_sig,
        ..change(1, 8)
    };
    let other_half = Rotation {
        new_sig: change(1, 9).new_sig,
        ..change(1, 8)
    };
    let true_one = change(2, 7);
    let refused = [
        (signal(&[half], 8), "signature"),
        (signal(&[other_half], 8), "signature"),
        (signal(&[change(1, 8)], 6), "do not lead"),
        (signal(&[change(3, 8)], 8), "revoked"),
        (signal(&[change(1, 2)], 2), "in use"),
    ];
    // The last is no lie by itself, but comes too late.
    say(receiver.port, &[signal(std::slice::from_ref(&true_one), 7)]);
    let late = [(signal(&[change(2, 8)], 8), "given up")];
    for (signal, expected) in refused.into_iter().chain(late) {
        say(receiver.port, std::slice::from_ref(&signal));
        let named = room.until(&mut events, |e| matches!(e, Event::KeyRefused { .. }));
        let Event::KeyRefused {
            reason, address, ..
        } = named
        else {
            unreachable!()
        };
        assert!(reason.contains(expected), "{expected}: {reason}");
        assert!(address.starts_with("127.0.0.1:"));
    }
    // Of devices that nobody knows, replays, and nonsense nothing follows either.
    say(
        receiver.port,
        &[
            signal(&[change(8, 9)], 9),
            signal(&[true_one], 7),
            Signal {
                data: "x".repeat(100_000),
                ..signal(&[change(1, 8)], 8)
            },
        ],
    );
    for n in [1, 7] {
        assert!(room.lets_in(&receiver, &id(n)), "{n}");
    }
    for n in [2, 3, 6, 8, 9] {
        assert!(!room.lets_in(&receiver, &id(n)), "{n}");
    }
    drop(receiver);
    room.settle("receiver");
    let store = Store::open(&room.at("receiver").join("state")).unwrap();
    assert_eq!(store.moves(), [(id(2), id(7))]);
    assert_eq!(store.authorizations().len(), 2);
}

#[test]
fn a_copied_state_folder_raises_an_alarm_and_a_new_key_for_the_copy_ends_it() {
    let room = Room::new();
    let (device, theirs) = (room.id("original"), room.id("receiver"));
    let receiver = room.start("receiver", &[]);
    room.ok(&receiver, authorize(&device));
    let towards = towards(&theirs, receiver.port);
    // Starting again, as often as one likes, is no clone.
    for name in ["one", "two", "three"] {
        let original = room.start("original", &towards);
        assert_eq!(room.send(&original, name, "all"), exit::OK);
        drop(original);
        assert_eq!(room.known(&receiver, &device).unwrap().clone, None);
    }
    room.settle("original");
    copy_dir(&room.at("original"), &room.at("copy"));
    let original = room.start("original", &towards);
    let copy = room.start("copy", &towards);
    assert_eq!(room.send(&original, "four", "all"), exit::OK);
    assert_eq!(room.send(&copy, "five", "all"), exit::OK);
    assert_eq!(room.known(&receiver, &device).unwrap().clone, None);
    let mut events = room.watch("receiver");
    assert_eq!(room.send(&original, "six", "all"), exit::OK);
    let alarm = room.until(&mut events, |e| matches!(e, Event::Cloned { .. }));
    let Event::Cloned {
        device_id,
        ours,
        clone,
        ..
    } = alarm
    else {
        unreachable!()
    };
    assert_eq!((&device_id, ours), (&device, false));
    assert!(clone.proven && clone.hint.contains("handout id new"));
    assert_eq!(clone.addresses, ["127.0.0.1"]);
    let listed = room.known(&receiver, &device).unwrap();
    assert_eq!(listed.clone, Some(clone));
    // Whoever begins to watch now hears of it, too.
    let mut late = room.watch("receiver");
    room.until(&mut late, |e| matches!(e, Event::Cloned { .. }));

    drop(copy);
    room.settle("copy");
    let renewed = renew(&settings(&room.at("copy"), &[]), false).unwrap();
    assert_eq!(renewed.earlier, device);
    let copy = room.start("copy", &towards);
    assert_eq!(room.send(&copy, "seven", "all"), exit::UNAUTHORIZED);
    assert!(room.lets_in(&receiver, &device) && !room.lets_in(&receiver, &renewed.device));
    assert_eq!(room.send(&original, "eight", "all"), exit::OK);
    room.ok(&receiver, authorize(&renewed.device));
    assert_eq!(room.send(&copy, "nine", "all"), exit::OK);
}
