//! Versions of a series between whole nodes: what a new one costs, where it lies, and going back.

use std::fs;
use std::path::{Path, PathBuf};

use super::api::{Event, Receiver, Request, VersionInfo, exit};
use super::service::{Mode, Node};
use super::swarm_tests::{Room, Running};
use crate::protocol::message::Code;
use crate::protocol::series::Series;

/// Bytes of which no two chunks are alike.
fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i % 251) as u8 ^ (i >> 16) as u8 ^ seed.wrapping_mul(29))
        .collect()
}

/// A folder with forty small files and a large one.
fn lesson(folder: &Path) -> PathBuf {
    let at = folder.join("lesson");
    fs::create_dir_all(at.join("small")).unwrap();
    for n in 0..40 {
        fs::write(at.join("small").join(n.to_string()), content(n, 50_000)).unwrap();
    }
    fs::write(at.join("large"), content(99, 9_000_000)).unwrap();
    at
}

fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let sizes = entries.map(|entry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => size_of(&entry.path()),
        meta => meta.len(),
    });
    sizes.sum()
}

fn same(a: &Path, b: &Path) -> bool {
    fs::read_dir(a).unwrap().flatten().all(|entry| {
        let other = b.join(entry.file_name());
        match entry.metadata().unwrap().is_dir() {
            true => same(&entry.path(), &other),
            false => fs::read(entry.path()).unwrap() == fs::read(other).unwrap(),
        }
    })
}

/// Sends a version and waits until all is said.
fn send(node: &Node, path: &Path, version: u64) -> (u8, Vec<Receiver>) {
    let mut events = node.ask(Request::SendVersion {
        series: Series {
            name: "lessons".parse().unwrap(),
            version,
        },
        paths: vec![path.to_owned()],
        to: vec!["all".to_owned()],
        wait_ms: Some(60_000),
    });
    let mut told = Vec::new();
    let code = Running::wait(&mut events, |event| match event {
        Event::Summary { receivers, .. } => {
            told.clone_from(receivers);
            None
        }
        Event::End { code } => Some(*code),
        _ => None,
    });
    (code, told)
}

fn versions(node: &Node, request: Request) -> (u8, Vec<VersionInfo>) {
    let mut events = node.ask(request);
    let mut found = Vec::new();
    let code = Running::wait(&mut events, |event| match event {
        Event::Version(info) => {
            found.push(info.clone());
            None
        }
        Event::End { code } => Some(*code),
        _ => None,
    });
    (code, found)
}

/// Waits until what is on record of the places is what the disk says.
fn numbers(node: &Node) -> Vec<(u64, bool)> {
    let (_, found) = versions(node, Request::Versions);
    found
        .iter()
        .map(|one| (one.series.version, one.current))
        .collect()
}

#[test]
fn a_new_version_costs_what_changed_takes_the_place_and_can_be_gone_back_from() {
    let room = Room::new(&["a", "b"]);
    let receiver = room.receiver("b", &[]);
    let origin = room.origin("a", &[(&room.ids[1], receiver.port())]);
    let lesson = lesson(&room.at(""));
    let arrived = room.at("b").join("received").join("lesson");
    let (code, told) = send(&origin.node, &lesson, 1);
    assert_eq!((code, told[0].sent), (exit::OK, size_of(&lesson)));
    assert!(same(&lesson, &arrived));

    // One small file changes, another is moved, the large one grows.
    fs::write(lesson.join("small/7"), content(200, 50_000)).unwrap();
    fs::rename(lesson.join("small/8"), lesson.join("moved")).unwrap();
    let mut large = content(99, 9_000_000);
    large.extend(content(201, 1000));
    fs::write(lesson.join("large"), &large).unwrap();
    let (code, told) = send(&origin.node, &lesson, 2);
    assert_eq!(code, exit::OK);
    let share = told[0].sent as f64 / size_of(&lesson) as f64;
    assert!(
        told[0].sent >= 50_000 && share < 0.05,
        "{share} of it was sent"
    );
    assert!(same(&lesson, &arrived));
    assert!(!arrived.join("small/8").exists());
    assert_eq!(numbers(&receiver.node), [(2, true), (1, false)]);

    // A person goes back; what she went back from does not come again, however it is offered.
    let what = || "lessons".to_owned();
    let back = |to| versions(&receiver.node, Request::RollBack { what: what(), to });
    let (code, now) = back(None);
    assert_eq!((code, now[0].series.version), (exit::OK, 1));
    assert_eq!(
        fs::read(arrived.join("small/7")).unwrap(),
        content(7, 50_000)
    );
    let (_, told) = send(&origin.node, &lesson, 2);
    assert_eq!(told[0].sent, 0, "{told:?}");
    assert_eq!(
        fs::read(arrived.join("small/7")).unwrap(),
        content(7, 50_000)
    );
    assert_eq!(back(Some(9)).0, exit::ERROR);
    // A newer one is taken; an older one than that is not.
    fs::write(lesson.join("small/7"), content(202, 50_000)).unwrap();
    let (code, told) = send(&origin.node, &lesson, 3);
    assert_eq!(code, exit::OK);
    assert!(told[0].sent < size_of(&lesson) / 20, "{told:?}");
    assert!(same(&lesson, &arrived));
    fs::write(lesson.join("small/7"), content(203, 50_000)).unwrap();
    let (code, told) = send(&origin.node, &lesson, 2);
    assert_eq!(
        (code, told[0].code),
        (exit::SOME_FAILED, Some(Code::Declined))
    );
    assert_eq!(
        fs::read(arrived.join("small/7")).unwrap(),
        content(202, 50_000)
    );

    // What a person has worked on stays as it is; the next version lies beside it.
    fs::write(arrived.join("small/1"), "my own words").unwrap();
    let (code, _) = send(&origin.node, &lesson, 4);
    assert_eq!(code, exit::OK);
    assert_eq!(fs::read(arrived.join("small/1")).unwrap(), b"my own words");
    assert!(same(
        &lesson,
        &room.at("b").join("received").join("lesson (2)")
    ));
}

#[test]
fn receivers_that_help_each_other_switch_to_the_next_version_too() {
    let room = Room::new(&["a", "b", "c"]);
    let [_, b, c] = &room.ids[..] else { panic!() };
    let (first, second) = (room.receiver("b", &[]), room.receiver("c", &[]));
    let origin = room.origin("a", &[(b, first.port()), (c, second.port())]);
    let lesson = lesson(&room.at(""));
    for version in 1..=3u8 {
        fs::write(lesson.join("small/3"), content(version, 50_000)).unwrap();
        fs::write(lesson.join("added"), content(version ^ 0x55, 3_000_000)).unwrap();
        let (code, told) = send(&origin.node, &lesson, version.into());
        assert_eq!(code, exit::OK, "{told:?}");
        for (name, receiver) in [("b", &first), ("c", &second)] {
            let arrived = room.at(name).join("received").join("lesson");
            assert!(same(&lesson, &arrived), "{name}, version {version}");
            let now = numbers(&receiver.node);
            assert_eq!(now[0], (version.into(), true), "{name}");
        }
        let most = if version == 1 {
            size_of(&lesson)
        } else {
            3_200_000
        };
        assert!(told.iter().all(|of| of.sent <= most), "{told:?}");
    }
}

#[test]
fn what_one_origin_has_sent_says_nothing_about_it_to_another() {
    let room = Room::new(&["a", "b"]);
    let other = super::tests::id_of(&room.at("z"));
    let both = format!("{},{other}", room.ids[0]);
    let folder = room.at("b");
    let receiver = Running::start(&folder, Mode::Receive, &[("trust.authorized", both)]);
    let to_b = [(&room.ids[1], receiver.port())];
    let lesson = lesson(&room.at(""));
    let (code, _) = send(&room.origin("a", &to_b).node, &lesson, 1);
    assert_eq!(code, exit::OK);
    // Another device that is let in offers the same files under the same names.
    let (code, told) = send(&room.origin("z", &to_b).node, &lesson, 2);
    assert_eq!((code, told[0].sent), (exit::OK, size_of(&lesson)));
}
