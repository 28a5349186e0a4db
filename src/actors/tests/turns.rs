//! Whose turn it is, with real nodes: places, priorities, and who gives a place up.

use std::path::PathBuf;

use super::*;
use crate::actors::api::TransferInfo;
use crate::protocol::allowance::{Priority, Share};

/// A file of that many bytes.
fn file(folder: &Path, name: &str, bytes: usize) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, vec![name.len() as u8; bytes]).unwrap();
    path
}

fn sending(path: PathBuf, to: &[&DeviceId], share: Share) -> Request {
    Request::Send {
        paths: vec![path],
        to: to.iter().map(ToString::to_string).collect(),
        wait_ms: Some(600_000),
        share,
    }
}

/// One by which 9.6 MB would take ten minutes, and those of the lowest and the highest priority.
fn shares() -> (Share, [Share; 2]) {
    let slow = Share {
        rate: Some(16_000),
        ..Share::default()
    };
    let of = |priority| Share {
        priority,
        ..Share::default()
    };
    (slow, [of(Priority::Low), of(Priority::High)])
}

/// The next transfer that becomes what is looked for.
async fn next(
    happening: &mut tokio::sync::mpsc::Receiver<Event>,
    is: impl Fn(&TransferInfo) -> bool,
) -> TransferInfo {
    loop {
        match happening.recv().await.expect("the node goes on") {
            Event::Transfer(info) if is(&info) => return info,
            _ => {}
        }
    }
}

#[test]
fn one_place_goes_to_the_highest_priority_and_is_given_up_by_a_pause_and_not_held_by_the_absent() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let names = ["sender", "one", "two", "absent"];
    let [sender, one, two, absent] = names.map(|name| id_of(&at(name)));
    let first = Receiver::start(&at("one"), &sender);
    let second = Receiver::start(&at("two"), &sender);
    let reach = |id: &DeviceId, of: &Receiver| format!("{id}@127.0.0.1:{}", of.port);
    let more = [
        (
            "discovery.static_peers",
            format!("{},{}", reach(&one, &first), reach(&two, &second)),
        ),
        ("trust.authorized", format!("{one},{two},{absent}")),
        ("transfer.at_most", "1".to_owned()),
    ];
    let settings = settings(&at("sender"), &more);
    let (slow, [low, high]) = shares();
    let (long, early, late) = (
        file(folder.path(), "long", 9_600_000),
        file(folder.path(), "early", 5000),
        file(folder.path(), "late", 5000),
    );
    let code = run(settings, Mode::Send, move |node| async move {
        let mut happening = node.ask(Request::Watch);
        let active = |info: &TransferInfo| info.state.word() == "active";
        let _long = node.ask(sending(long, &[&absent, &one], slow));
        let holds = next(&mut happening, active).await;
        assert_eq!((&holds.device_id, holds.name.as_str()), (&one, "long"));

        let waits = |info: &TransferInfo| {
            let why = info.waits.as_deref().unwrap_or_default();
            assert!(
                !active(info),
                "{} begins while there is no place",
                info.name
            );
            why.contains("at most 1")
        };
        let _early = node.ask(sending(early, &[&two], low));
        assert_eq!(next(&mut happening, waits).await.name, "early");
        let _late = node.ask(sending(late, &[&two], high));
        assert_eq!(next(&mut happening, waits).await.name, "late");

        let what = holds.transfer.to_string();
        let mut paused = node.ask(Request::Pause { what });
        while paused.recv().await.is_some() {}
        let complete = |info: &TransferInfo| info.state.word() == "complete";
        assert_eq!(next(&mut happening, complete).await.name, "late");
        assert_eq!(next(&mut happening, complete).await.name, "early");
        exit::OK
    });
    assert_eq!(code.unwrap(), exit::OK);
}

#[test]
fn what_is_under_way_to_a_device_makes_way_for_something_more_urgent_and_then_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [sender, one] = ["sender", "one"].map(|name| id_of(&at(name)));
    let receiver = Receiver::start(&at("one"), &sender);
    let more = [
        (
            "discovery.static_peers",
            format!("{one}@127.0.0.1:{}", receiver.port),
        ),
        ("trust.authorized", one.to_string()),
    ];
    let settings = settings(&at("sender"), &more);
    let (slow, [low, high]) = shares();
    let names = ["long", "no more urgent", "high", "low"];
    let [long, alike, urgent, later] = names.map(|name| match name {
        "long" => file(folder.path(), name, 9_600_000),
        _ => file(folder.path(), name, 5000),
    });
    let code = run(settings, Mode::Send, move |node| async move {
        let mut happening = node.ask(Request::Watch);
        let is = |state: &'static str| {
            move |info: &TransferInfo| info.state.word() == state && info.name == "long"
        };
        let _long = node.ask(sending(long, &[&one], slow));
        next(&mut happening, is("active")).await;
        let _low = node.ask(sending(later, &[&one], low));
        let _high = node.ask(sending(urgent, &[&one], high));
        let mut order = Vec::new();
        // Nothing but the urgent one comes before the long one goes on.
        loop {
            let info = next(&mut happening, |_| true).await;
            match (info.name.as_str(), info.state.word()) {
                ("long", "paused") => order.push(format!("{:?}", info.state)),
                ("long", "active") => break,
                (name, "complete") => order.push(name.to_owned()),
                _ => {}
            }
        }
        assert_eq!(order.len(), 2, "{order:?}");
        assert!(order[0].contains("higher priority"), "{order:?}");
        assert_eq!(order[1], "high");
        let _alike = node.ask(sending(alike, &[&one], Share::default()));
        // It waits, and is no reason for the other one to rest.
        let mut waits = false;
        while !waits {
            let mut all = node.ask(Request::Transfers);
            while let Some(event) = all.recv().await {
                waits |= matches!(event, Event::Transfer(info)
                    if info.name == "no more urgent" && info.waits.is_some());
            }
        }
        // By its name, as it stands in a config file or on the command line.
        let what = "long".to_owned();
        let mut paused = node.ask(Request::Pause { what });
        while paused.recv().await.is_some() {}
        let rests = next(&mut happening, is("paused")).await;
        assert!(
            format!("{:?}", rests.state).contains("a person"),
            "{rests:?}"
        );
        let complete = |info: &TransferInfo| info.state.word() == "complete";
        let first = next(&mut happening, complete).await.name;
        assert_eq!(first, "no more urgent");
        assert_eq!(next(&mut happening, complete).await.name, "low");
        exit::OK
    });
    assert_eq!(code.unwrap(), exit::OK);
}
