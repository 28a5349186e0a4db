//! Whole nodes over loopback, and somebody who speaks the true wire by hand: what he can push has
//! an end, and what he may not he does not get.

mod local;
mod outsider;
mod roles;

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::api::{Event, Request, exit};
use super::service::Mode;
use super::swarm_tests::Running;
use crate::protocol::id::{BundleId, DeviceId, TransferId};
use crate::protocol::identity::{Identity, b64};
use crate::protocol::manifest::Kind;
use crate::protocol::message::{Acknowledgement, Code, Decision, Message, StartTransfer};
use crate::protocol::pairing::PairMessage;
use crate::protocol::roles::Roles;
use crate::protocol::sdp::example;
use crate::protocol::signal::SignalKind;
use outsider::{Line, Wire, outsider};

/// Everything here takes far less; it only keeps a fault from hanging the tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn on_this_thread<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("it takes too long") })
}

/// A node that takes what the outsider offers, if he is named; with more settings.
fn node(folder: &Path, lets_in: Option<&Identity>, more: &[(&str, String)]) -> Running {
    let named = lets_in.map(|who| who.device_id().to_string());
    let mut all = vec![("trust.authorized", named.unwrap_or_default())];
    all.extend(more.iter().cloned());
    all.retain(|(_, value)| !value.is_empty());
    Running::start(folder, Mode::Receive, &all)
}

async fn events_of(node: &Running, request: Request) -> Vec<Event> {
    let mut events = node.node.ask(request);
    let mut all = Vec::new();
    while let Some(event) = events.recv().await {
        let last = matches!(event, Event::End { .. });
        all.push(event);
        if last {
            break;
        }
    }
    all
}

fn offer(n: u8) -> StartTransfer {
    let me = outsider();
    StartTransfer {
        handle: 2 * u32::from(n) + 1,
        id: TransferId([n; 16]),
        bundle: BundleId([n; 32]),
        origin: me.device_id(),
        key: me.public_key(),
        name: format!("file-{n}"),
        kind: Kind::File,
        size: 1,
        files: 1,
        chunk_size: 65_536,
        chunks: 1,
        mime: String::new(),
        head_size: 100,
        root: None,
        root_sig: None,
        series: None,
        hand_in: false,
        pages_first: false,
    }
}

fn start(n: u8) -> Message {
    Message::StartTransfer(Box::new(offer(n)))
}

#[test]
fn whoever_strips_the_proof_or_has_none_gets_no_link() {
    let folder = tempfile::tempdir().unwrap();
    // Where plain peers are allowed, too: an id that belongs to a key is never taken without it.
    for (name, plain) in [("strict", "false"), ("plain", "true")] {
        let more = [("trust.plain_peers", plain.to_owned())];
        let at = folder.path().join(name);
        std::fs::create_dir(&at).unwrap();
        let node = node(&at, Some(&outsider()), &more);
        let answer = on_this_thread(async {
            let mut wire = Wire::to(&node).await;
            let stripped = example(0xab, "actpass", "ufrag", "0123456789abcdef012345");
            wire.say(outsider().device_id(), stripped).await;
            wire.hear().await
        });
        assert_eq!(answer.kind, SignalKind::Error, "{name}: {}", answer.data);
        assert!(answer.data.contains("unsigned"), "{}", answer.data);
    }
}

async fn open_a_door(node: &Running) {
    let request = Request::Invite {
        uses: 5,
        for_ms: 60_000,
        group: None,
        roles: None,
        addresses: Vec::new(),
    };
    let made = events_of(node, request).await;
    assert!(matches!(made.last(), Some(Event::End { code: exit::OK })));
}

#[test]
fn a_guest_that_says_anything_but_first_contact_is_sent_away_without_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), None, &[]);
    on_this_thread(async {
        open_a_door(&node).await;
        let line = Line::to(&node).await;
        line.say(&Message::Resume { handle: 1 }).await;
        // First contact would be answered, with a no.
        let no = PairMessage::Invite {
            invite: crate::protocol::invite::Secret::new([9; 16]).id(),
            mac: b64(&[0; 32]),
        };
        line.say(&Message::Pair(no)).await;
        assert_eq!(line.hear().await, None);
        let transfers = events_of(&node, Request::Transfers).await;
        assert!(
            matches!(transfers[..], [Event::End { .. }]),
            "{transfers:?}"
        );
    });
}

#[test]
fn a_guest_that_says_nothing_is_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), None, &[]);
    on_this_thread(async {
        open_a_door(&node).await;
        let line = Line::to(&node).await;
        // After ten seconds.
        assert_eq!(line.hear().await, None);
    });
}

#[test]
fn a_device_that_we_ask_to_let_us_in_says_at_most_sixteen_messages() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), None, &[]);
    let talk = |count: u8| {
        let node = &node;
        async move {
            let pairing = node.node.ask(Request::Pair {
                with: Some(outsider().device_id().to_string()),
                addresses: Vec::new(),
                way: super::api::PairWay::Code,
                for_ms: 60_000,
            });
            let line = Line::to(node).await;
            let begun = line.hear().await;
            assert!(
                matches!(begun, Some(Message::Pair(PairMessage::Commit { .. }))),
                "{begun:?}"
            );
            for handle in 0..u32::from(count) {
                line.say(&Message::Resume { handle }).await;
            }
            let nonce = b64(&[5; 32]);
            line.say(&Message::Pair(PairMessage::Nonce { nonce })).await;
            let answer = line.hear().await;
            drop(pairing);
            answer
        }
    };
    let answer = on_this_thread(talk(15));
    assert!(
        matches!(answer, Some(Message::Pair(PairMessage::Reveal { .. }))),
        "{answer:?}"
    );
    assert_eq!(on_this_thread(talk(16)), None);
}

#[test]
fn on_one_link_sixteen_transfers_are_taken_at_once_and_further_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), Some(&outsider()), &[]);
    on_this_thread(async {
        let line = Line::to(&node).await;
        for n in 1..=17 {
            line.say(&start(n)).await;
        }
        let mut taken = 0;
        loop {
            match line.hear().await {
                Some(Message::StartTransferAcknowledged(answer)) if answer.code.is_none() => {
                    taken += 1;
                }
                Some(Message::StartTransferAcknowledged(answer)) => {
                    assert_eq!((answer.handle, answer.code), (35, Some(Code::Busy)));
                    let reason = answer.reason.unwrap();
                    assert!(reason.contains("too many transfers"), "{reason}");
                    break;
                }
                other => panic!("{other:?}"),
            }
            assert!(taken <= 16);
        }
    });
}

#[test]
fn heads_on_their_way_have_room_for_two_of_the_largest() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), Some(&outsider()), &[]);
    on_this_thread(async {
        let line = Line::to(&node).await;
        for (n, code) in [(1, None), (2, None), (3, Some(Code::Busy))] {
            let mut large = offer(n);
            large.head_size = 32 << 20;
            line.say(&Message::StartTransfer(Box::new(large))).await;
            let Some(Message::StartTransferAcknowledged(answer)) = line.hear().await else {
                panic!()
            };
            assert_eq!(answer.code, code, "{answer:?}");
        }
    });
}

#[test]
fn refused_offers_are_put_on_record_sixteen_times_in_a_minute_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let more = [("receive.mode", "refuse".to_owned())];
    let node = node(folder.path(), Some(&outsider()), &more);
    on_this_thread(async {
        let line = Line::to(&node).await;
        for n in 1..=40 {
            line.say(&start(n)).await;
            let Some(Message::StartTransferAcknowledged(answer)) = line.hear().await else {
                panic!()
            };
            assert_eq!(answer.code, Some(Code::Declined));
        }
        let transfers = events_of(&node, Request::Transfers).await;
        assert_eq!(transfers.len(), 16 + 1, "{transfers:?}");
    });
}

#[test]
fn a_flood_of_messages_about_introductions_ends_the_link() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), Some(&outsider()), &[]);
    let talk = |count: usize| {
        let node = &node;
        async move {
            let line = Line::to(node).await;
            let (handle, chunks) = (2, vec![(0, 1)]);
            let want = Message::Want { handle, chunks };
            for _ in 0..count {
                line.say(&want).await;
            }
            let mut bad = offer(1);
            bad.head_size = 0;
            line.say(&Message::StartTransfer(Box::new(bad))).await;
            line.hear().await
        }
    };
    let answer = on_this_thread(talk(1024));
    assert!(
        matches!(answer, Some(Message::StartTransferAcknowledged(_))),
        "{answer:?}"
    );
    // One more would do, where they all come within the time.
    assert_eq!(on_this_thread(talk(4096)), None);
}

#[test]
fn plain_clients_under_ever_new_ids_get_as_many_places_as_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let more = [
        ("trust.plain_peers", "true".to_owned()),
        ("discovery.max_peers", "2".to_owned()),
    ];
    let node = node(folder.path(), None, &more);
    on_this_thread(async {
        let mut wire = Wire::to(&node).await;
        let offer = |n: u8| example(n, "actpass", &format!("ufrag{n}"), "0123456789abcdef012345");
        let plain = |n: u8| -> DeviceId { format!("plain-{n}").parse().unwrap() };
        wire.say(plain(1), offer(1)).await;
        let first = wire.hear().await;
        assert_eq!(first.kind, SignalKind::Answer, "{}", first.data);
        wire.say(plain(2), offer(2)).await;
        assert_ne!(wire.hear().await.data, first.data);
        // The third one is not even answered: the next answer is the first one's again.
        wire.say(plain(3), offer(3)).await;
        wire.say(plain(1), offer(1)).await;
        assert_eq!(wire.hear().await.data, first.data);
    });
}

#[test]
fn a_channel_on_which_nobody_shows_who_he_is_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), Some(&outsider()), &[]);
    on_this_thread(async {
        let (line, _, _) = Line::without_handshake(&node).await;
        assert!(matches!(line.hear().await, Some(Message::Hello(_))));
        // After ten seconds.
        assert_eq!(line.hear().await, None);
    });
}

fn authorize(device: &DeviceId, roles: Roles, group: Option<&str>) -> Request {
    Request::Authorize {
        device: device.clone(),
        name: String::new(),
        roles: Some(roles),
        group: group.map(str::to_owned),
        seconds: None,
    }
}

fn send(file: &Path, to: &str) -> Request {
    Request::Send {
        paths: vec![file.to_owned()],
        to: vec![to.to_owned()],
        wait_ms: Some(60_000),
        share: Default::default(),
    }
}

/// A node that can send, its folder, and a file to send.
fn node_with_file() -> (tempfile::TempDir, std::path::PathBuf, Running) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "content").unwrap();
    let node = Running::start(folder.path(), Mode::Run, &[]);
    (folder, file, node)
}

#[test]
fn a_receiver_that_asks_for_the_same_again_and_again_is_given_up() {
    let (_folder, file, node) = node_with_file();
    let device = outsider().device_id();
    on_this_thread(async {
        events_of(&node, authorize(&device, Roles::RECEIVE, None)).await;
        let _sending = node.node.ask(send(&file, device.as_str()));
        let line = Line::to(&node).await;
        let mut ends = 0;
        loop {
            match line.hear_text().await.expect("the link stands") {
                Message::StartTransfer(start) => {
                    let accepted = Acknowledgement {
                        handle: start.handle,
                        status: Decision::Accepted,
                        have: None,
                        acks: false,
                        pages_first: false,
                        root: None,
                        code: None,
                        reason: None,
                    };
                    line.say(&Message::StartTransferAcknowledged(accepted))
                        .await;
                }
                Message::EndOfChunks { handle, .. } => {
                    ends += 1;
                    assert!(ends <= 8, "it is sent without end");
                    line.say(&Message::Need { handle, have: None }).await;
                }
                Message::Cancel { code, reason, .. } => {
                    assert_eq!((ends, code), (8, Code::BadRequest), "{reason}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    });
}
