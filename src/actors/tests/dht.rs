//! Two devices that know nothing of each other but their ids, on the local net of the DHT's crate.

use std::time::{Duration, Instant};

use super::{Receiver, id_of, settings};
use crate::actors::api::{Event, Request, exit};
use crate::actors::service::{Mode, run};

#[test]
fn two_devices_without_a_server_find_each_other_by_notes_and_transfer_a_file() {
    let net = mainline::Testnet::builder(10).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [sender, receiver] = ["sender", "receiver"].map(|name| id_of(&at(name)));
    let dht = [
        ("dht.enabled", "true".to_owned()),
        ("dht.bootstrap", net.bootstrap.join(",")),
    ];
    let _receiver = Receiver::start_with(&at("receiver"), &sender, &dht);
    let file = at("file.bin");
    let content: Vec<u8> = (0..3_000_001u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    std::fs::write(&file, &content).unwrap();

    let authorized = ("trust.authorized", receiver.to_string());
    let more: Vec<_> = dht.into_iter().chain([authorized]).collect();
    let settings = settings(&at("sender"), &more);
    let begun = Instant::now();
    let code = run(settings, Mode::Send, move |node| async move {
        let (paths, to) = (vec![file], vec![receiver.to_string()]);
        let mut events = node.ask(Request::Send {
            paths,
            to,
            wait_ms: Some(90_000),
            share: Default::default(),
        });
        while let Some(event) = events.recv().await {
            if let Event::End { code } = event {
                return code;
            }
        }
        exit::ERROR
    })
    .unwrap();
    assert_eq!(code, exit::OK);
    let arrived = at("receiver").join("received").join("file.bin");
    assert!(std::fs::read(arrived).unwrap() == content);
    assert!(begun.elapsed() < Duration::from_secs(90));
    println!("found and sent within {:?}", begun.elapsed());
}
