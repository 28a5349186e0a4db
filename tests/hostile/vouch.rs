//! An origin that has introduced two of its receivers takes that back: whoever was away when it
//! did hears of it on the next link.

use handout::actors::api::{Event, Request};
use handout::actors::service::Mode;
use handout::protocol::message::{Acknowledgement, Decision, Message};
use handout::protocol::roles::Roles;
use tokio::net::TcpListener;

use crate::nodes::Running;
use crate::nodes::device::{Device, PATIENCE, Wire};

/// Why one of the two may no longer have what the origin hands out.
#[derive(Debug, Clone, Copy)]
enum Why {
    Revoked,
    RoleTaken,
    Cancelled,
}

/// Takes the origin's link, and the bundle that it offers, and waits to be introduced to `other`.
async fn is_introduced(
    device: &Device,
    at: &TcpListener,
    origin: &Running,
    other: &Device,
) -> Wire {
    let wire = device.accept(at, &origin.id).await.unwrap();
    let offered = wire.wait_for(|message| match message {
        Message::StartTransfer(start) => Some(start),
        _ => None,
    });
    let handle = offered.await.unwrap().handle;
    let accepted = Message::StartTransferAcknowledged(Acknowledgement {
        handle,
        status: Decision::Accepted,
        have: None,
        acks: false,
        pages_first: false,
        root: None,
        code: None,
        reason: None,
    });
    assert!(wire.say(&accepted).await);
    let introduced = wire.wait_for(|message| match message {
        Message::Introduce(introduction) => Some([introduction.first, introduction.second]),
        _ => None,
    });
    assert!(introduced.await.unwrap().contains(&other.id()));
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_away_hears_that_another_one_may_no_longer() {
    for why in [Why::Revoked, Why::RoleTaken, Why::Cancelled] {
        let folder = tempfile::tempdir().unwrap();
        let [stays, goes] = [21, 22].map(Device::new);
        let at_stays = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at_goes = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let peers = [(&stays, &at_stays), (&goes, &at_goes)]
            .map(|(device, at)| format!("{}@127.0.0.1:{}", device.id(), port(at)));
        let origin = Running::start(
            folder.path(),
            Mode::Run,
            &[
                ("discovery.static_peers", peers.join(",")),
                ("swarm.neighbours", "4".to_owned()),
            ],
        );
        for device in [&stays, &goes] {
            origin
                .ask(Request::Authorize {
                    device: device.id(),
                    name: String::new(),
                    roles: None,
                    group: None,
                    seconds: None,
                })
                .await;
        }
        let file = folder.path().join("lesson.bin");
        std::fs::write(&file, vec![7; 200_000]).unwrap();
        let mut events = origin.node.ask(Request::Watch);
        let to = vec![stays.id().to_string(), goes.id().to_string()];
        let sending = origin.node.ask(Request::Send {
            paths: vec![file],
            to,
            wait_ms: None,
            share: Default::default(),
        });
        let (wire, _other) = tokio::join!(
            is_introduced(&stays, &at_stays, &origin, &goes),
            is_introduced(&goes, &at_goes, &origin, &stays),
        );
        drop(wire);
        let mut transfer = None;
        let gone = async {
            loop {
                match events.recv().await.expect("the events ended") {
                    Event::Transfer(info) if info.device_id == goes.id() => {
                        transfer = Some(info.transfer.to_string());
                    }
                    Event::NotConnected { device_id, .. } if device_id == stays.id() => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
        let device = goes.id();
        let done = origin
            .ask(match why {
                Why::Revoked => Request::Revoke {
                    device: device.to_string(),
                },
                Why::RoleTaken => Request::Authorize {
                    device,
                    name: String::new(),
                    roles: Some(Roles::RECEIVE),
                    group: None,
                    seconds: None,
                },
                Why::Cancelled => Request::Cancel {
                    what: transfer.unwrap(),
                },
            })
            .await;
        let ok = matches!(done.last(), Some(Event::End { code: 0 }));
        assert!(ok, "{why:?}: {done:?}");
        let wire = stays.accept(&at_stays, &origin.id).await.unwrap();
        let ended = wire.wait_for(|message| match message {
            Message::EndIntroduction { peer, .. } => Some(peer),
            Message::Introduce(again) => panic!("{why:?}: {again:?}"),
            _ => None,
        });
        assert_eq!(ended.await, Some(goes.id()), "{why:?}");
        drop(sending);
    }
}
