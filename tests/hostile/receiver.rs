//! Receivers: devices that may receive from us, and lie about what they have, or stall.

use std::time::{Duration, Instant};

use handout::actors::api::{Event, Receiver, Request};
use handout::actors::service::Mode;
use handout::protocol::chunkset::ChunkSet;
use handout::protocol::exchange::Have;
use handout::protocol::frame::{Frame, Handle};
use handout::protocol::id::{DeviceId, Root};
use handout::protocol::message::{Acknowledgement, Code, Decision, Message, StartTransfer};
use tokio::net::TcpListener;

use crate::nodes::device::{Device, Heard, Wire};
use crate::nodes::{Running, id_of};
use crate::room::{Told, runtime, sender, status};

/// Bytes of what is broadcast: 23 chunks, and far above a window.
const SIZE: u32 = 6_000_001;
/// What all of it may add to the memory of this process, in KiB.
const MEMORY: u64 = 256 << 10;
/// How long a receiver may leave a full window unacknowledged.
const STALL: &str = "2s";

/// What a receiver does that no true one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    // False acknowledgements and haves.
    AcksTooMuch,
    AcksTheSame,
    NeedsForEver,
    HasItElsewhere,
    CompleteWithAnotherRoot,
    CompleteBeforeAnything,
    HasAnotherBitmap,
    HasItAllUnderAnotherRoot,
    // Endless messages.
    Chatter,
    Flapping,
    Unknown,
    // Stalls.
    NeverAcks,
    NeverReads,
}

use Deed::*;

const ALL: [Deed; 13] = [
    NeverReads,
    NeverAcks,
    AcksTooMuch,
    AcksTheSame,
    NeedsForEver,
    HasItElsewhere,
    CompleteWithAnotherRoot,
    CompleteBeforeAnything,
    HasAnotherBitmap,
    HasItAllUnderAnotherRoot,
    Chatter,
    Flapping,
    Unknown,
];

/// How a hostile receiver ends.
enum Fate {
    /// Its link is ended, and this is why.
    Dropped(&'static str),
    /// The same, after its transfer has been cancelled with `bad_request`.
    Cancelled(&'static str),
    /// It is believed about itself: there is nothing to check it against.
    Believed,
}

use Fate::{Believed, Cancelled, Dropped};

impl Deed {
    fn fate(self) -> Fate {
        match self {
            AcksTooMuch | AcksTheSame | NeverAcks | NeverReads => {
                Dropped("the other side has taken nothing for 2 s")
            }
            NeedsForEver | HasItElsewhere => {
                Cancelled("still misses chunks after they were sent again and again")
            }
            HasAnotherBitmap => Cancelled("sent a bitmap that does not fit the bundle"),
            HasItAllUnderAnotherRoot => Cancelled("says that it has it all, but not which"),
            CompleteWithAnotherRoot | Chatter => Dropped("more than 4096 messages within 10 s"),
            Flapping => Dropped("stopped and started more than 128 times"),
            Unknown => Dropped("unknown variant `STATUS`"),
            CompleteBeforeAnything => Believed,
        }
    }

    /// Does it, until the other side has had enough.
    async fn act(self, wire: &Wire) {
        let start = offered(wire).await;
        let handle = start.handle;
        let accept = accepted(handle);
        let false_root = Some(Root([9; 32]));
        match self {
            AcksTooMuch | AcksTheSame => {
                wire.say(&accept).await;
                let bytes = if self == AcksTheSame { 1 } else { u64::MAX };
                // As often as a true receiver would.
                while let Some(heard) = wire.hear().await {
                    let asked = match heard {
                        Heard::Sent(Frame::Chunk { header, .. }) => header.ack_now,
                        _ => false,
                    };
                    if asked {
                        wire.say(&Message::Ack { handle, bytes }).await;
                    }
                }
            }
            NeverAcks => {
                wire.say(&accept).await;
                wire.closed().await;
            }
            NeverReads => {
                wire.say(&accept).await;
            }
            NeedsForEver => {
                wire.say(&unpaced(handle)).await;
                while ended(wire).await {
                    wire.say(&Message::Need { handle, have: None }).await;
                }
            }
            HasItElsewhere => {
                wire.say(&unpaced(handle)).await;
                let have = Have {
                    handle,
                    bundle: start.bundle,
                    origin: start.origin.clone(),
                    have: ChunkSet::full(start.chunks).to_b64(),
                    root: None,
                    root_sig: None,
                };
                wire.say(&Message::Have(Box::new(have))).await;
                while ended(wire).await {
                    wire.say(&Message::Need { handle, have: None }).await;
                }
            }
            CompleteWithAnotherRoot => {
                wire.say(&unpaced(handle)).await;
                let complete = Message::TransferComplete {
                    handle,
                    root: false_root,
                };
                assert!(ended(wire).await);
                while wire.say(&complete).await {}
            }
            CompleteBeforeAnything => {
                wire.say(&unpaced(handle)).await;
                // The root is no secret: it is told at the end.
                let root = wire.wait_for(|message| match message {
                    Message::EndOfChunks { root, .. } => Some(root),
                    _ => None,
                });
                let root = Some(root.await.unwrap());
                wire.say(&Message::TransferComplete { handle, root }).await;
            }
            HasAnotherBitmap => {
                let have = ChunkSet::full(start.chunks + 9).to_b64();
                let ack = Acknowledgement {
                    have: Some(have),
                    ..acknowledgement(handle)
                };
                wire.say(&Message::StartTransferAcknowledged(ack)).await;
            }
            HasItAllUnderAnotherRoot => {
                let ack = Acknowledgement {
                    status: Decision::Complete,
                    root: false_root,
                    ..acknowledgement(handle)
                };
                let complete = Message::StartTransferAcknowledged(ack);
                wire.say(&complete).await;
                // The sender names its root, and asks again.
                let again = wire.wait_for(|message| match message {
                    Message::StartTransfer(start) => Some(start.root),
                    _ => None,
                });
                if again.await.is_some() {
                    wire.say(&complete).await;
                }
            }
            Chatter => {
                let need = Message::Need { handle, have: None };
                while wire.say(&need).await {}
            }
            Flapping => {
                let (code, reason) = (Code::Paused, "no\u{1b}[2J".to_owned());
                let pause = Message::Pause {
                    handle,
                    code,
                    reason,
                };
                while wire.say(&pause).await && wire.say(&Message::Resume { handle }).await {}
            }
            Unknown => while wire.text(r#"{"type":"STATUS","handle":1}"#).await {},
        }
    }
}

fn acknowledgement(handle: Handle) -> Acknowledgement {
    Acknowledgement {
        handle,
        status: Decision::Accepted,
        have: None,
        acks: true,
        pages_first: false,
        root: None,
        code: None,
        reason: None,
    }
}

fn accepted(handle: Handle) -> Message {
    Message::StartTransferAcknowledged(acknowledgement(handle))
}

/// Accepts, and promises no ACK.
fn unpaced(handle: Handle) -> Message {
    let acks = false;
    Message::StartTransferAcknowledged(Acknowledgement {
        acks,
        ..acknowledgement(handle)
    })
}

async fn offered(wire: &Wire) -> Box<StartTransfer> {
    let start = wire.wait_for(|message| match message {
        Message::StartTransfer(start) => Some(start),
        _ => None,
    });
    start.await.expect("an offer")
}

/// Waits for the end of the chunks. False when the channel is closed before.
async fn ended(wire: &Wire) -> bool {
    let end = wire.wait_for(|message| match message {
        Message::EndOfChunks { .. } => Some(true),
        // What it is told at last is looked at by whoever asks why it was dropped.
        Message::Cancel { .. } => Some(false),
        _ => None,
    });
    end.await == Some(true)
}

/// One hostile device does what it does, and is dropped for it.
async fn suffer(deed: Deed, seed: u8, listener: TcpListener, node: DeviceId, told: Told) {
    let device = Device::new(seed);
    let wire = match device.accept(&listener, &node).await {
        Ok(wire) => wire,
        Err(error) => panic!("{deed:?}: {error}; {}", told.dropped(&device.id()).await),
    };
    let begun = Instant::now();
    deed.act(&wire).await;
    match deed.fate() {
        Dropped(why) => {
            let reason = told.dropped(&device.id()).await;
            assert!(reason.contains(why), "{deed:?}: {reason}");
        }
        Cancelled(why) => {
            let reason = told.dropped(&device.id()).await;
            assert!(reason.contains(why), "{deed:?}: {reason}");
            let (code, because) = told.failed(&device.id()).await;
            assert_eq!(code, Code::BadRequest, "{deed:?}: {because}");
            assert!(because.contains(why), "{deed:?}: {because}");
        }
        Believed => told.completed(&device.id()).await,
    }
    println!("{deed:?}: {:.1} s", begun.elapsed().as_secs_f64());
}

#[test]
fn a_hostile_receiver_is_named_and_dropped_and_the_others_get_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (at, honest) = (folder.path().join("sender"), folder.path().join("honest"));
    let node_id = id_of(&at);
    let more = [("trust.authorized", node_id.to_string())];
    std::fs::create_dir_all(&honest).unwrap();
    let honest = Running::start(&honest, Mode::Receive, &more);
    let devices: Vec<_> = (0..ALL.len()).map(|n| Device::new(n as u8 + 101)).collect();
    let content: Vec<u8> = (0..SIZE).map(|n| (n ^ (n >> 9)) as u8).collect();
    let path = folder.path().join("lesson.bin");
    std::fs::write(&path, &content).unwrap();
    runtime().block_on(async {
        let mut listeners = Vec::new();
        let mut peers = vec![(honest.id.clone(), honest.port)];
        for device in &devices {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            peers.push((device.id(), listener.local_addr().unwrap().port()));
            listeners.push(listener);
        }
        let more = [("network.stall_timeout", STALL.to_owned())];
        let node = sender(&at, &peers, &more);
        let told = Told::by(&node.node);
        let before = (status("VmRSS"), status("Threads"));
        let suffering: Vec<_> = ALL
            .into_iter()
            .zip(listeners)
            .enumerate()
            .map(|(n, (deed, listener))| {
                let (id, told) = (node.id.clone(), told.clone());
                tokio::spawn(suffer(deed, n as u8 + 101, listener, id, told))
            })
            .collect();
        let mut events = node.node.ask(Request::Send {
            paths: vec![path],
            to: vec!["all".to_owned()],
            wait_ms: None,
            share: Default::default(),
        });
        let summing = tokio::spawn(async move {
            let mut summary = None;
            while let Some(event) = events.recv().await {
                match event {
                    Event::Summary { receivers, .. } => summary = Some(receivers),
                    Event::End { .. } => break,
                    _ => {}
                }
            }
            summary.expect("a summary")
        });
        let begun = Instant::now();
        told.completed(&honest.id).await;
        let took = begun.elapsed();
        for each in suffering {
            each.await.unwrap();
        }
        // Those that were dropped for what they may mend count as absent now: no more of that.
        let what = "all".to_owned();
        node.ask(Request::Cancel { what }).await;
        let receivers: Vec<Receiver> = tokio::time::timeout(Duration::from_secs(60), summing)
            .await
            .expect("the broadcast ends")
            .unwrap();
        let after = (status("VmRSS"), status("Threads"));
        println!(
            "{} hostile receivers; the honest one had all after {:.1} s; memory grew from {} to {} \
             KiB (at most {}), threads from {} to {}",
            ALL.len(),
            took.as_secs_f64(),
            before.0,
            after.0,
            status("VmHWM"),
            before.1,
            after.1,
        );
        assert!(after.0 < before.0 + MEMORY);
        assert!(std::fs::read(honest.received.join("lesson.bin")).unwrap() == content);
        for (deed, device) in ALL.iter().zip(&devices) {
            let of = receivers.iter().find(|of| of.device_id == device.id());
            let of = of.unwrap();
            let believed = matches!(deed.fate(), Believed);
            assert_eq!(of.state == "complete", believed, "{deed:?}: {of:?}");
            println!("{deed:?}: {} {:?}", of.state, of.reason);
        }
        let whole = receivers.iter().filter(|of| of.state == "complete");
        assert_eq!(whole.count(), 2, "{receivers:?}");
    });
}

/// It has promised no ACKs, so that the transport alone holds the sender back: some 16 MiB lie in
/// the receiver's own memory then.
#[test]
fn a_receiver_that_reads_nothing_at_all_is_dropped_and_costs_no_more_than_a_full_buffer() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("sender");
    std::fs::create_dir_all(&at).unwrap();
    let path = folder.path().join("long.bin");
    std::fs::write(&path, vec![7; 40_000_000]).unwrap();
    let device = Device::new(99);
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let node = sender(&at, &[(device.id(), port)], &[]);
        let told = Told::by(&node.node);
        let _events = node.node.ask(Request::Send {
            paths: vec![path],
            to: vec![device.id().to_string()],
            wait_ms: None,
            share: Default::default(),
        });
        let wire = device.accept(&listener, &node.id).await.unwrap();
        let start = offered(&wire).await;
        wire.say(&unpaced(start.handle)).await;
        let reason = told.dropped(&device.id()).await;
        assert!(
            reason.contains("the other side has taken nothing for 30 s"),
            "{reason}"
        );
    });
}
