//! Relayed links over a rendezvous that does what it is told to, also what it should not.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;
use crate::net::link::Link;
use crate::net::rendezvous::Server;

/// What a rendezvous does to the messages that it passes on from the first to the second one.
#[derive(Clone, Copy, PartialEq)]
enum Deed {
    Nothing,
    /// Changes a bit of the message with this number.
    Change(usize),
    /// Passes it on twice.
    Repeat(usize),
    /// Passes it on after the next one.
    Swap(usize),
    /// Keeps it.
    Drop(usize),
}

const WAIT: Duration = Duration::from_secs(20);

#[test]
fn a_description_has_the_facts_that_a_proof_signs_and_names_the_meeting_point() {
    let name = random_name().unwrap();
    let sdp = describe(&[0xab; 32], "actpass", &name).unwrap();
    assert_eq!(SdpFacts::read(&sdp).unwrap().fingerprint, [0xab; 32]);
    assert_eq!(meeting_point(&sdp), Some(name.as_str()));
    let other = sdp.replace(&name, "../../api/devices/socket?x=12345");
    assert_eq!(meeting_point(&other), None);
    assert_eq!(meeting_point(&sdp.replace(ATTRIBUTE, "x")), None);
}

#[tokio::test]
async fn messages_of_all_sizes_go_both_ways_whole_and_in_order() {
    let (a, b, _links) = pair(Deed::Nothing).await;
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.is_relayed() && b.is_relayed());
    let sizes = [0, 1, PIECE - 1, PIECE, PIECE + 1, 65_536, MAX_INCOMING];
    let there = async {
        for size in sizes {
            a.send(vec![7; size].as_slice().into()).await.unwrap();
        }
        a.send_text("an end").await.unwrap();
        a.flushed().await;
    };
    let back = async {
        for size in sizes {
            match b.receive().await {
                Some(Incoming::Binary(bytes)) => assert_eq!(bytes, vec![7; size]),
                other => panic!("{size}: {other:?}"),
            }
        }
        assert!(matches!(b.receive().await, Some(Incoming::Text(text)) if text == "an end"));
        b.send_text("thanks").await.unwrap();
        assert!(matches!(a.receive().await, Some(Incoming::Text(text)) if text == "thanks"));
    };
    timeout(WAIT, futures::future::join(there, back))
        .await
        .unwrap();
}

#[tokio::test]
async fn whoever_does_not_read_holds_the_sender_back() {
    let (a, b, _links) = pair(Deed::Nothing).await;
    let (a, _b) = (a.unwrap(), b.unwrap());
    let flood = async {
        for _ in 0..4096 {
            a.send(vec![0; 65_536].as_slice().into()).await.unwrap();
        }
    };
    let full = timeout(Duration::from_secs(5), flood).await;
    assert!(full.is_err(), "256 MiB went to somebody who reads nothing");
}

#[tokio::test]
async fn what_the_rendezvous_changes_repeats_swaps_or_keeps_ends_the_link() {
    // The first two messages of one side are the handshake.
    for deed in [
        Deed::Change(4),
        Deed::Repeat(4),
        Deed::Swap(4),
        Deed::Drop(4),
    ] {
        let (a, b, mut links) = pair(deed).await;
        let (a, b) = (a.unwrap(), b.unwrap());
        for n in 0..8u8 {
            let _ = a.send([n; 100].as_slice().into()).await;
        }
        let mut heard = Vec::new();
        while let Some(Incoming::Binary(bytes)) = timeout(WAIT, b.receive()).await.unwrap() {
            heard.push(bytes[0]);
        }
        let honest: Vec<u8> = (0..heard.len() as u8).collect();
        assert_eq!(heard, honest, "only what is whole, in order, and once");
        assert!(heard.len() < 8, "it was noticed");
        match timeout(WAIT, links.1.1.recv()).await.unwrap() {
            Some(LinkEvent::Lost(reason)) => assert!(reason.contains("changed"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_changed_handshake_opens_no_link() {
    for n in 0..2 {
        let (a, b, _links) = pair(Deed::Change(n)).await;
        assert!(a.is_err() || b.is_err(), "message {n}");
    }
}

#[tokio::test]
async fn somebody_else_at_the_meeting_point_is_noticed() {
    let server = rendezvous(Deed::Nothing).await;
    let options = options();
    let relay = || {
        Some(RelayOptions {
            server: server.clone(),
        })
    };
    let (offerer, offer, mut events) = Link::offer(&options, relay()).await.unwrap();
    // Somebody reads the offer on its way and answers in place of whom it was for; the answer
    // that comes to the offerer is the real one.
    let (_real, answer, _) = Relayed::make(
        &options,
        relay().unwrap(),
        meeting_point(&offer).unwrap().to_owned(),
        "active",
    )
    .unwrap();
    let (_impostor, _, mut other) = Link::answer(&options, relay(), offer).await.unwrap();
    offerer.apply_answer(answer).await.unwrap();
    match timeout(WAIT, events.recv()).await.unwrap() {
        Some(LinkEvent::Lost(reason)) => assert!(reason.contains("somebody else"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // The handshake is over for the impostor before it is found out, but nothing comes.
    if let Some(LinkEvent::Open(channel)) = timeout(WAIT, other.recv()).await.unwrap() {
        assert!(timeout(WAIT, channel.receive()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn dropping_one_end_ends_the_other() {
    let (a, b, links) = pair(Deed::Nothing).await;
    let (a, b) = (a.unwrap(), b.unwrap());
    drop((links.0, a));
    assert!(timeout(WAIT, b.receive()).await.unwrap().is_none());
}

type Opened = Result<Channel, String>;
type Half = (Link, mpsc::Receiver<LinkEvent>);

/// Two ends of one link, or why they did not open.
async fn pair(deed: Deed) -> (Opened, Opened, (Half, Half)) {
    let server = rendezvous(deed).await;
    let relay = || {
        Some(RelayOptions {
            server: server.clone(),
        })
    };
    let options = options();
    let (a, offer, mut a_events) = Link::offer(&options, relay()).await.unwrap();
    let (b, answer, mut b_events) = Link::answer(&options, relay(), offer).await.unwrap();
    a.apply_answer(answer).await.unwrap();
    let both = futures::future::join(opened(&mut a_events), opened(&mut b_events));
    let (a_open, b_open) = timeout(WAIT, both).await.unwrap();
    (a_open, b_open, ((a, a_events), (b, b_events)))
}

async fn opened(events: &mut mpsc::Receiver<LinkEvent>) -> Opened {
    match events.recv().await {
        Some(LinkEvent::Open(channel)) => Ok(channel),
        Some(LinkEvent::Lost(reason)) => Err(reason.into_owned()),
        other => Err(format!("{other:?}")),
    }
}

/// Passes messages on between the first two that come, with the deed.
async fn rendezvous(deed: Deed) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut sockets = Vec::new();
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            sockets.push(accept_async(stream).await.unwrap());
        }
        let mut ends = Vec::new();
        for mut socket in sockets {
            let joined = Message::Text(r#"{"type":"joined"}"#.into());
            socket.send(joined).await.unwrap();
            ends.push(socket.split());
        }
        let ((b_out, b_in), (a_out, a_in)) = (ends.pop().unwrap(), ends.pop().unwrap());
        // Which of them is the offerer is open: both directions get the deed.
        tokio::select! {
            () = pass(a_in, b_out, deed) => {}
            () = pass(b_in, a_out, deed) => {}
        }
    });
    let file = tempfile::NamedTempFile::new()
        .unwrap()
        .into_temp_path()
        .keep()
        .unwrap();
    std::fs::write(&file, "token").unwrap();
    Server::new(&format!("http://{address}"), &file, None).unwrap()
}

async fn pass(
    mut from: SplitStream<WebSocketStream<TcpStream>>,
    mut to: SplitSink<WebSocketStream<TcpStream>, Message>,
    deed: Deed,
) {
    let (mut number, mut kept) = (0, None);
    while let Some(Ok(message)) = from.next().await {
        let Message::Binary(bytes) = message else {
            continue;
        };
        let mut out = vec![bytes.clone()];
        match deed {
            Deed::Change(n) if n == number => {
                let mut changed = bytes.to_vec();
                let last = changed.len() - 1;
                changed[last] ^= 1;
                out = vec![changed.into()];
            }
            Deed::Repeat(n) if n == number => out.push(bytes),
            Deed::Swap(n) if n == number => {
                kept = Some(bytes);
                out.clear();
            }
            Deed::Drop(n) if n == number => out.clear(),
            _ => out.extend(kept.take()),
        }
        number += 1;
        for bytes in out {
            if to.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
    }
}

fn options() -> LinkOptions {
    LinkOptions {
        addresses: Vec::new(),
        ice: Vec::new(),
        loopback: true,
        udp_buffer: 1 << 20,
        mtu: 1400,
        send_buffer: 1 << 20,
        ice_disconnected: Duration::from_secs(5),
        ice_failed: Duration::from_secs(5),
    }
}
