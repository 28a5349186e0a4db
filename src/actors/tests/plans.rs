//! Broadcasts of the config file between whole nodes, over loopback.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::super::api::{Event, PlanInfo, Request, exit};
use super::super::service::{Mode, Node, run};
use super::id_of;
use crate::config::Settings;
use crate::protocol::id::DeviceId;
use crate::store::{Store, StoreError};

/// After this long a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const SEATS: [&str; 3] = ["one", "two", "three"];

/// A folder with the states of a sender and three receivers, each with a port of its own.
struct Room {
    folder: tempfile::TempDir,
    sender: DeviceId,
    seats: [(DeviceId, u16); 3],
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sender = id_of(&folder.path().join("sender"));
        // Ports that are free now: a receiver that comes late must be found where it was said.
        let ports = SEATS.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let seats = [0, 1, 2].map(|n| {
            let port = ports[n].local_addr().unwrap().port();
            (id_of(&folder.path().join(SEATS[n])), port)
        });
        Self {
            folder,
            sender,
            seats,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, content: &[u8]) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn settings(&self, name: &str, text: &str) -> Settings {
        let file = self.at(&format!("{name}.toml"));
        fs::write(&file, text).unwrap();
        drop(self.store(name));
        let state = self.at(name).join("state");
        let all = [
            ("state.dir", state.display().to_string()),
            ("receive.reserve", "0".to_owned()),
            ("signaling.bind", "127.0.0.1".to_owned()),
            ("signaling.backoff", "100ms".to_owned()),
            ("discovery.enabled", "false".to_owned()),
            ("discovery.loopback_only", "true".to_owned()),
        ];
        let all = all.map(|(key, value)| (key.to_owned(), value));
        Settings::load(Some(&file), &all).unwrap()
    }

    /// A device's store. A node that has just ended may still be closing it.
    fn store(&self, name: &str) -> Store {
        let state = self.at(name).join("state");
        until("an unlocked store", || match Store::open(&state) {
            Err(StoreError::Locked { .. }) => None,
            opened => Some(opened.unwrap()),
        })
    }

    /// A receiver, until dropped.
    fn seat(&self, n: usize) -> Seat {
        let (name, port) = (SEATS[n], self.seats[n].1);
        let (sender, place) = (&self.sender, self.at(name).join("in"));
        let text = format!(
            "[receive]\ndestination = {place:?}\n[signaling]\nport = {port}\n\
             [trust]\nauthorized = [\"{sender} Teacher\"]\n"
        );
        let settings = self.settings(name, &text);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let work = |_: Node| async move {
                let _ = stopped.await;
                exit::OK
            };
            run(settings, Mode::Receive, work).unwrap()
        });
        Seat {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// What the sender's config file has besides its broadcasts: it knows where all seats are,
    /// and the group `class` has so many of them.
    fn class(&self, members: usize) -> String {
        let seats = self.seats.iter();
        let places = seats.map(|(id, port)| format!("\"{id}@127.0.0.1:{port}\""));
        let members = self.seats[..members].iter().zip(SEATS);
        let members = members.map(|((id, _), name)| format!("\"{id} {name}\""));
        format!(
            "[discovery]\nstatic_peers = [{}]\n[receive]\nenabled = false\n\
             [[group]]\nname = \"class\"\nmembers = [{}]\n",
            places.collect::<Vec<_>>().join(", "),
            members.collect::<Vec<_>>().join(", "),
        )
    }

    /// A service that needs no word but its config file.
    fn teacher(&self, text: &str) -> Teacher {
        let settings = self.settings("sender", text);
        let (requests, mut asked) = unbounded_channel::<(Request, mpsc::Sender<Vec<Event>>)>();
        let thread = std::thread::spawn(move || {
            let work = move |node: Node| async move {
                while let Some((request, reply)) = asked.recv().await {
                    let mut answer = node.ask(request);
                    let mut events = Vec::new();
                    while let Some(event) = answer.recv().await {
                        events.push(event);
                    }
                    let _ = reply.send(events);
                }
                exit::OK
            };
            run(settings, Mode::Run, work).unwrap()
        });
        Teacher {
            requests: Some(requests),
            thread: Some(thread),
        }
    }

    /// Waits until a seat has exactly this at a path.
    fn has(&self, n: usize, path: &str, content: &[u8]) {
        let path = self.at(SEATS[n]).join("in").join(path);
        until(&format!("{path:?}"), || {
            fs::read(&path).ok().filter(|found| found == content)
        });
    }

    fn arrived(&self, n: usize) -> Vec<String> {
        let entries = fs::read_dir(self.at(SEATS[n]).join("in"));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

struct Seat {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<u8>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Teacher {
    requests: Option<UnboundedSender<(Request, mpsc::Sender<Vec<Event>>)>>,
    thread: Option<JoinHandle<u8>>,
}

impl Teacher {
    /// The broadcasts of the config file, as `handout broadcasts` shows them.
    fn shows_all(&self) -> Vec<PlanInfo> {
        let events = self.ask(Request::Plans).into_iter();
        let infos = events.filter_map(|event| match event {
            Event::Plan(info) => Some(*info),
            _ => None,
        });
        infos.collect()
    }

    fn ask(&self, request: Request) -> Vec<Event> {
        let (reply, events) = mpsc::channel();
        let requests = self.requests.as_ref().unwrap();
        requests.send((request, reply)).unwrap();
        events.recv_timeout(PATIENCE).expect("an answer")
    }

    /// The only one.
    fn shows(&self) -> PlanInfo {
        let mut infos = self.shows_all();
        assert_eq!(infos.len(), 1, "{infos:?}");
        infos.remove(0)
    }

    /// Waits until so many devices have it, and shows it then.
    fn complete(&self, count: usize) -> PlanInfo {
        until("complete", || {
            let info = self.shows();
            let complete = info.receivers.iter().filter(|one| one.state == "complete");
            (complete.count() == count).then_some(info)
        })
    }

    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            assert_eq!(thread.join().unwrap(), exit::OK);
        }
    }
}

impl Drop for Teacher {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Polls for something that other threads bring about.
fn until<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(Instant::now() < end, "{what} never came");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn lessons(path: &Path, more: &str) -> String {
    format!(
        "[[broadcast]]\nname = \"lessons\"\npath = {path:?}\nto = [\"class\"]\n\
         settle = \"200ms\"\nrescan = \"2s\"\n{more}\n"
    )
}

#[test]
fn a_plan_reaches_who_is_there_and_who_comes_late_and_nobody_twice_over_restarts() {
    let room = Room::new();
    room.put("lessons/a.txt", b"first");
    let _one = room.seat(0);
    let _two = room.seat(1);
    let file = room.class(3) + &lessons(&room.at("lessons"), "");
    let teacher = room.teacher(&file);
    room.has(0, "lessons/a.txt", b"first");
    room.has(1, "lessons/a.txt", b"first");
    let before = teacher.complete(2);
    teacher.stop();
    // The third comes after the sender was restarted.
    let teacher = room.teacher(&file);
    let _three = room.seat(2);
    room.has(2, "lessons/a.txt", b"first");
    let after = teacher.complete(3);
    assert_eq!(
        before.version, after.version,
        "the same content is the same version"
    );
    assert_eq!(before.broadcast, after.broadcast);
    for one in &before.receivers {
        let same = after
            .receivers
            .iter()
            .find(|of| of.device_id == one.device_id);
        let asked_again = one.state == "complete" && same.unwrap().transfer != one.transfer;
        assert!(!asked_again, "{one:?}");
    }
}

#[test]
fn a_changed_file_is_a_new_version_for_all_and_takes_the_place_of_what_is_pending() {
    let room = Room::new();
    room.put("lessons/a.txt", b"first");
    let one = room.seat(0);
    let teacher = room.teacher(&(room.class(2) + &lessons(&room.at("lessons"), "")));
    room.has(0, "lessons/a.txt", b"first");
    let first = teacher.complete(1);
    // As long as it was: only its time tells.
    room.put("lessons/a.txt", b"other");
    room.has(0, "lessons/a.txt", b"other");
    let second = teacher.complete(1);
    assert!(second.version > first.version && second.broadcast != first.broadcast);
    // Who was not there gets the new one, and never hears of the old one.
    let _two = room.seat(1);
    room.has(1, "lessons/a.txt", b"other");
    teacher.complete(2);
    assert_eq!(room.arrived(1), ["lessons"]);
    drop(one);
}

#[test]
fn a_device_that_is_put_into_the_group_gets_it_and_what_is_taken_out_of_the_file_ends() {
    let room = Room::new();
    room.put("lessons/a.txt", b"first");
    let _one = room.seat(0);
    let plan = lessons(&room.at("lessons"), "");
    let teacher = room.teacher(&(room.class(1) + &plan));
    teacher.complete(1);
    teacher.stop();
    let teacher = room.teacher(&(room.class(3) + &plan));
    let _two = room.seat(1);
    room.has(1, "lessons/a.txt", b"first");
    teacher.complete(2);
    teacher.stop();
    // Nobody waits for the third any more.
    let teacher = room.teacher(&room.class(3));
    until("an end of all", || {
        teacher.shows_all().is_empty().then_some(())
    });
    teacher.stop();
    let store = room.store("sender");
    assert_eq!(store.plans(), []);
    let transfers = store.transfers();
    let third = transfers
        .iter()
        .find(|record| record.peer == room.seats[2].0);
    let state = format!("{:?}", third.unwrap().state);
    assert!(state.contains("taken out of the config file"), "{state}");
}

#[test]
fn outside_of_its_hours_and_before_its_time_nothing_is_handed_over() {
    let room = Room::new();
    room.put("lessons/a.txt", b"first");
    let _one = room.seat(0);
    for (more, state) in [
        ("start = \"9999-01-01 00:00\"", "waiting"),
        ("schedule = \"0 0 1 1 *\"", "waiting"),
        ("enabled = false", "off"),
        ("deadline = \"2000-01-01 00:00\"", "over"),
    ] {
        let teacher = room.teacher(&(room.class(1) + &lessons(&room.at("lessons"), more)));
        let info = until(state, || {
            Some(teacher.shows()).filter(|of| of.state == state)
        });
        assert_eq!((info.version, info.receivers.len()), (None, 0), "{more}");
        teacher.stop();
    }
    assert_eq!(room.arrived(0), [""; 0]);
}

#[test]
fn a_deadline_ends_the_waiting_with_its_reason() {
    let room = Room::new();
    room.put("lessons/a.txt", b"first");
    let _one = room.seat(0);
    let more = "deadline = \"3s\"";
    let teacher = room.teacher(&(room.class(2) + &lessons(&room.at("lessons"), more)));
    teacher.complete(1);
    let info = until("failed", || {
        let info = teacher.shows();
        let failed = info.receivers.iter().any(|one| one.state == "failed");
        failed.then_some(info)
    });
    assert_eq!(info.state, "over");
    let late = info.receivers.iter().find(|one| one.state == "failed");
    let reason = late.unwrap().reason.as_deref().unwrap();
    assert!(reason.contains("deadline"), "{reason}");
}

#[test]
fn what_a_person_pauses_by_its_name_stays_paused_over_a_new_version_until_it_is_resumed() {
    let room = Room::new();
    room.put("lessons/a.txt", b"first");
    let _one = room.seat(0);
    let teacher = room.teacher(&(room.class(2) + &lessons(&room.at("lessons"), "")));
    teacher.complete(1);
    let what = || "lessons".to_owned();
    let said = teacher.ask(Request::Pause { what: what() });
    assert!(matches!(said.last(), Some(Event::End { code: exit::OK })));
    room.put("lessons/a.txt", b"other");
    room.has(0, "lessons/a.txt", b"other");
    let info = teacher.complete(1);
    let _two = room.seat(1);
    let held = info.receivers.iter().find(|one| one.state == "paused");
    let reason = held.expect("a paused one").reason.as_deref().unwrap();
    assert!(reason.contains("a person"), "{reason}");
    assert_eq!(room.arrived(1), [""; 0]);
    teacher.ask(Request::Resume { what: what() });
    room.has(1, "lessons/a.txt", b"other");
    teacher.complete(2);
}

#[test]
fn changes_that_come_faster_than_a_version_do_not_starve_a_slow_receiver() {
    let room = Room::new();
    // No two chunks alike.
    let large = (0..600u32 << 10).map(|n| (n >> 14) as u8 ^ n as u8);
    let large: Vec<u8> = large.collect();
    room.put("lessons/large.bin", &large);
    room.put("lessons/a.txt", b"0");
    let _one = room.seat(0);
    let more = "rate = \"200kB/s\"";
    let teacher = room.teacher(&(room.class(1) + &lessons(&room.at("lessons"), more)));
    // Each version has time for a fraction of what there is.
    let (mut versions, mut begun) = (0, None);
    until("a version that is complete", || {
        let info = teacher.shows();
        let one = info.receivers.iter().find(|one| one.bytes > 0)?;
        if one.state == "complete" {
            return Some(());
        }
        let (version, from) = *begun.get_or_insert((info.version, one.bytes));
        if version != info.version {
            begun = None;
        } else if one.bytes >= from + (150 << 10) {
            versions += 1;
            room.put("lessons/a.txt", versions.to_string().as_bytes());
            until("the next one", || {
                Some(()).filter(|()| teacher.shows().version != version)
            });
            begun = None;
        }
        None
    });
    assert!(versions > 0, "it was never overtaken");
    room.has(0, "lessons/large.bin", &large);
    room.has(0, "lessons/a.txt", versions.to_string().as_bytes());
}

#[test]
fn a_missing_folder_is_waited_for() {
    let room = Room::new();
    let _one = room.seat(0);
    let teacher = room.teacher(&(room.class(1) + &lessons(&room.at("lessons"), "")));
    let lacks = || Some(teacher.shows()).filter(|of| of.state == "lacking");
    let why = until("lacking", lacks).why.unwrap();
    assert!(why.contains("cannot be read"), "{why}");
    room.put("lessons/a.txt", b"first");
    room.has(0, "lessons/a.txt", b"first");
}
