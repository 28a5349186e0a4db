//! Origins: devices that may send to us, and misuse it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use handout::actors::api::{Event, Request};
use handout::actors::service::Mode;
use handout::protocol::chunkset::ChunkSet;
use handout::protocol::frame::{ChunkHeader, encode_head};
use handout::protocol::id::{DeviceId, Root};
use handout::protocol::identity::Identity;
use handout::protocol::manifest::{ChunkHash, MAX_HEAD, Page};
use handout::protocol::message::{Acknowledgement, Code, Decision, Message};

use crate::bundle::Bundle;
use crate::nodes::device::{Device, Wire};
use crate::nodes::{Running, id_of};
use crate::room::{
    Told, false_bytes, finished_below, nothing_false_below, runtime, sender, status,
};

/// Nothing of the sender for four times as long ends a link.
const STALL: &str = "1s";
/// What all the floods together may add to the memory of this process, in KiB.
const MEMORY: u64 = 256 << 10;
/// Threads that they may add.
const THREADS: u64 = 100;
/// Whoever broke the protocol stays out for at least so long.
const BAR: Duration = Duration::from_secs(4);
/// Hostile devices at a time.
const AT_ONCE: usize = 6;

/// What an origin does that no true one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    // Wrong chunks.
    DamagedChunks,
    FalseChunks,
    ChunkOutside,
    ChunkBeforePage,
    MixedChunks,
    // Wrong manifest.
    HeadOfAnother,
    SizeOfAnother,
    LongHead,
    EmptyHead,
    PageOfAnother,
    ShortPage,
    PageOutside,
    EndlessPages,
    EndlessVersions,
    RootOfAnother,
    UnsignedRoot,
    LiesAboutWhatIsHere,
    // More bytes than said.
    LongChunk,
    PastItsEnd,
    SameChunkForEver,
    AfterTheEnd,
    // Endless control messages.
    Unknown,
    NotJson,
    Chatter,
    Acks,
    Flapping,
    SameOfferForEver,
    OneHandleForTwo,
    EndlessEnds,
    Offers,
    ManyAtOnce,
    LargeHeadsAtOnce,
    // Stalls.
    NothingAfterTheOffer,
    HalfAChunk,
    NoEnd,
    NothingAfterThePages,
}

use Deed::*;

const ALL: [Deed; 36] = [
    NothingAfterTheOffer,
    HalfAChunk,
    NoEnd,
    NothingAfterThePages,
    ManyAtOnce,
    LargeHeadsAtOnce,
    LiesAboutWhatIsHere,
    AfterTheEnd,
    DamagedChunks,
    FalseChunks,
    ChunkOutside,
    ChunkBeforePage,
    MixedChunks,
    HeadOfAnother,
    SizeOfAnother,
    LongHead,
    EmptyHead,
    PageOfAnother,
    ShortPage,
    PageOutside,
    EndlessPages,
    EndlessVersions,
    RootOfAnother,
    UnsignedRoot,
    LongChunk,
    PastItsEnd,
    SameChunkForEver,
    Unknown,
    NotJson,
    Chatter,
    Acks,
    Flapping,
    SameOfferForEver,
    OneHandleForTwo,
    EndlessEnds,
    Offers,
];

/// How a hostile origin ends.
enum Fate {
    /// Its link is ended, and this is why.
    Dropped(&'static str),
    /// The same, after its transfer has been cancelled with this code and for this reason.
    Cancelled(Code, &'static str),
}

use Fate::{Cancelled, Dropped};

impl Deed {
    fn fate(self) -> Fate {
        let (integrity, bad) = (Code::Integrity, Code::BadRequest);
        match self {
            DamagedChunks => Cancelled(integrity, "chunk 0 was damaged on its way"),
            FalseChunks | LiesAboutWhatIsHere => {
                Cancelled(integrity, "chunk 0 is not what the origin signed")
            }
            ChunkOutside => Dropped("a chunk outside the bundle"),
            ChunkBeforePage => Cancelled(bad, "chunk 0 came before page 0"),
            MixedChunks => Dropped("the pieces of a chunk are out of order"),
            HeadOfAnother => Cancelled(integrity, "the bundle is not the one that was offered"),
            SizeOfAnother => Cancelled(bad, "does not fit what was offered"),
            LongHead | EmptyHead => Dropped("the head's pieces do not fit"),
            PageOfAnother => Cancelled(integrity, "the signature of page 0 is not the origin's"),
            ShortPage => Cancelled(bad, "page 0 must have 200 bytes, not 160"),
            PageOutside => Cancelled(bad, "the bundle has no page 1"),
            EndlessPages | EndlessVersions => Dropped("more pages of hashes than the bundle has"),
            RootOfAnother => Cancelled(integrity, "the origin's root of the bundle"),
            UnsignedRoot => Cancelled(integrity, "the signature of the root is not the origin's"),
            LongChunk => Cancelled(bad, "chunk 4 must have 37856 bytes, not 37857"),
            PastItsEnd => Dropped("the payload reaches past the end of the chunk"),
            SameChunkForEver => Dropped("more bytes of chunks than the bundle has"),
            AfterTheEnd => Dropped("it goes on sending what nobody takes"),
            Unknown => Dropped("unknown variant `PING`"),
            NotJson => Dropped("not a message of this protocol"),
            Chatter | Acks => Dropped("more than 4096 messages within 10 s"),
            Flapping | SameOfferForEver => Dropped("stopped and started more than 128 times"),
            OneHandleForTwo => Dropped("handle 1 belongs to another transfer"),
            EndlessEnds => Dropped("more than 8 times the end of a transfer"),
            Offers => Dropped("more than 4096 messages within 10 s"),
            NothingAfterTheOffer | HalfAChunk | NoEnd | NothingAfterThePages | ManyAtOnce
            | LargeHeadsAtOnce => {
                Dropped("the other side has owed chunks of what it offered for 4 s")
            }
        }
    }

    /// Does it, until the other side has had enough.
    async fn act(self, wire: &Wire, mut bundle: Bundle) {
        let (handle, size) = (bundle.start.handle, bundle.content.len());
        let other = Identity::from_seed(&[0xee; 32]);
        match self {
            SizeOfAnother => bundle.start.size += 1,
            HeadOfAnother => bundle.head[20] ^= 1,
            _ => {}
        }
        // Floods that have nothing to do with a transfer come without one.
        if !matches!(self, Unknown | NotJson | Chatter | Acks) {
            accepted(wire, &bundle).await;
        }
        let page = bundle.page(0);
        let lie = false_bytes(bundle.chunk(0).len());
        let chunk = |index| bundle.chunk_frames(index, bundle.chunk(index));
        let opening = || {
            let mut frames = bundle.head_frames();
            frames.push(bundle.page_frame(0, &page));
            frames
        };
        match self {
            DamagedChunks => {
                send(wire, opening()).await;
                for _ in 0..4 {
                    let xxh3 = ChunkHash::of(bundle.chunk(0)).xxh3;
                    send(wire, bundle.frames(0, &lie, xxh3)).await;
                }
            }
            FalseChunks => {
                // It has signed a lie: its own two hashes of the chunk contradict each other.
                let mut hashes = Page::decode(0, page.len(), &page).unwrap();
                hashes.hashes[0].xxh3 = ChunkHash::of(&lie).xxh3;
                send(wire, bundle.head_frames()).await;
                wire.send(bundle.page_frame(0, &hashes.encode())).await;
                for _ in 0..4 {
                    send(wire, bundle.chunk_frames(0, &lie)).await;
                }
            }
            ChunkOutside => {
                send(wire, opening()).await;
                send(wire, bundle.chunk_frames(5, &lie)).await;
            }
            ChunkBeforePage => {
                send(wire, bundle.head_frames()).await;
                send(wire, bundle.chunk_frames(0, &lie)).await;
            }
            MixedChunks => {
                send(wire, opening()).await;
                send(wire, [chunk(0).remove(0), chunk(1).remove(0)]).await;
            }
            HeadOfAnother | SizeOfAnother => {
                send(wire, bundle.head_frames()).await;
            }
            LongHead => {
                let long = [&bundle.head[..], b" "].concat();
                send(wire, encode_head(handle, &long)).await;
            }
            EmptyHead => {
                send(wire, bundle.head_frames()).await;
                let mut empty = bundle.head_frames().remove(0);
                empty.truncate(12);
                while wire.send(empty.clone()).await {}
            }
            PageOfAnother => {
                send(wire, bundle.head_frames()).await;
                let mut liar = bundle.clone();
                liar.identity = other;
                wire.send(liar.page_frame(0, &page)).await;
            }
            ShortPage => {
                send(wire, bundle.head_frames()).await;
                wire.send(bundle.page_frame(0, &page[..160])).await;
            }
            PageOutside => {
                send(wire, bundle.head_frames()).await;
                wire.send(bundle.page_frame(1, &page)).await;
            }
            EndlessPages => {
                send(wire, opening()).await;
                while wire.send(bundle.page_frame(0, &page)).await {}
            }
            EndlessVersions => {
                send(wire, bundle.head_frames()).await;
                let mut version = page.clone();
                while wire.send(bundle.page_frame(0, &version)).await {
                    version[0] = version[0].wrapping_add(1);
                }
            }
            RootOfAnother => {
                send(wire, bundle.all_frames()).await;
                let root = Root([7; 32]);
                let said = handout::protocol::manifest::root_statement(&bundle.id(), &root);
                let root_sig = bundle.identity.sign(&said);
                let end = Message::EndOfChunks {
                    handle,
                    root,
                    root_sig,
                };
                wire.say(&end).await;
            }
            UnsignedRoot => {
                send(wire, bundle.all_frames()).await;
                let mut liar = bundle.clone();
                liar.identity = other;
                wire.say(&liar.end()).await;
            }
            LongChunk => {
                send(wire, opening()).await;
                send(wire, bundle.chunk_frames(4, &false_bytes(37_857))).await;
            }
            PastItsEnd => {
                send(wire, opening()).await;
                let header = ChunkHeader {
                    handle,
                    index: 0,
                    offset: 1,
                    length: 1000,
                    xxh3: 0,
                    ack_now: false,
                };
                wire.send(header.encode(&lie[..1000])).await;
            }
            SameChunkForEver => {
                send(wire, opening()).await;
                while send(wire, chunk(0)).await {}
            }
            AfterTheEnd => {
                send(wire, bundle.all_frames()).await;
                wire.say(&bundle.end()).await;
                let complete = wire.wait_for(|message| match message {
                    Message::TransferComplete { root, .. } => root,
                    _ => None,
                });
                assert_eq!(complete.await, Some(bundle.root().0));
                while send(wire, bundle.chunk_frames(0, &lie)).await {}
            }
            LiesAboutWhatIsHere | NothingAfterThePages => {
                send(wire, bundle.all_frames()).await;
                wire.say(&bundle.end()).await;
                let complete = wire.wait_for(|message| match message {
                    Message::TransferComplete { root, .. } => root,
                    _ => None,
                });
                assert_eq!(complete.await, Some(bundle.root().0));
                // Another one of that name, with the same bytes and some more.
                let name = bundle.start.name.clone();
                let longer = size + 65_536;
                let seed = ChunkHash::of(bundle.start.id.as_bytes()).xxh3;
                let mut next = Bundle::new(&bundle.identity, handle + 2, &name, longer, seed);
                next.content[..size].copy_from_slice(&bundle.content);
                next.start.pages_first = true;
                let answer = offer(wire, &next).await;
                assert!(answer.pages_first, "{answer:?}");
                let true_page = next.page(0);
                let mut page = Page::decode(0, true_page.len(), &true_page).unwrap();
                if self == LiesAboutWhatIsHere {
                    page.hashes
                        .iter_mut()
                        .for_each(|hash| hash.blake3 = [7; 32]);
                }
                send(wire, next.head_frames()).await;
                wire.send(next.page_frame(0, &page.encode())).await;
                let need = wire.wait_for(|message| match message {
                    Message::Need { have, .. } => have,
                    _ => None,
                });
                let have = need.await.expect("what it has");
                let have = ChunkSet::from_b64(&have, next.start.chunks).unwrap();
                let found = have.iter().collect::<Vec<_>>();
                if self == NothingAfterThePages {
                    assert_eq!(found, [0, 1, 2, 3]);
                    return;
                }
                assert_eq!(found, [0; 0]);
                for _ in 0..4 {
                    send(wire, next.chunk_frames(0, next.chunk(0))).await;
                }
            }
            Unknown => while wire.text(r#"{"type":"PING","n":1}"#).await {},
            NotJson => while wire.text("STATUS?\u{1b}[2J").await {},
            Chatter => {
                let need = Message::Need {
                    handle: 2,
                    have: None,
                };
                while wire.say(&need).await {}
            }
            Acks => {
                let bytes = u64::MAX;
                while wire.say(&Message::Ack { handle: 2, bytes }).await {}
            }
            Flapping => {
                let (code, reason) = (Code::Paused, String::new());
                let pause = Message::Pause {
                    handle,
                    code,
                    reason,
                };
                while wire.say(&pause).await && wire.say(&bundle.offer()).await {}
            }
            SameOfferForEver => while wire.say(&bundle.offer()).await {},
            OneHandleForTwo => {
                let second = Bundle::new(&bundle.identity, handle, "second.bin", size, 99);
                wire.say(&second.offer()).await;
            }
            EndlessEnds => {
                send(wire, opening()).await;
                while wire.say(&bundle.end()).await {}
            }
            Offers => {
                let (code, reason) = (Code::Cancelled, String::new());
                wire.say(&Message::Cancel {
                    handle,
                    code,
                    reason,
                })
                .await;
                bundle.start.head_size = MAX_HEAD as u32 + 1;
                // The answers are read, so that nothing but the limit slows it down.
                loop {
                    for _ in 0..64 {
                        bundle.start.handle += 2;
                        if !wire.say(&bundle.offer()).await {
                            return;
                        }
                    }
                    for _ in 0..64 {
                        let Some(answer) = answer(wire).await else {
                            return;
                        };
                        assert_eq!(answer.code, Some(Code::BadRequest));
                    }
                }
            }
            ManyAtOnce | LargeHeadsAtOnce => {
                let (most, why) = match self {
                    ManyAtOnce => (16, "too many transfers at once"),
                    _ => (2, "too many large bundles at once"),
                };
                let seed = ChunkHash::of(bundle.start.id.as_bytes()).xxh3;
                for n in 1..=most {
                    let name = format!("{n}.bin");
                    let mut next = Bundle::new(
                        &bundle.identity,
                        1 + 2 * n,
                        &name,
                        size,
                        seed ^ u64::from(n),
                    );
                    if self == LargeHeadsAtOnce {
                        next.start.head_size = MAX_HEAD as u32;
                    }
                    let answer = offer(wire, &next).await;
                    if n < most {
                        assert_eq!(answer.status, Decision::Accepted, "{n}: {answer:?}");
                    } else {
                        assert_eq!(answer.code, Some(Code::Busy));
                        assert!(answer.reason.unwrap().contains(why));
                    }
                }
            }
            NothingAfterTheOffer => {}
            HalfAChunk => {
                send(wire, opening()).await;
                let piece = lie[..lie.len() / 2].to_vec();
                let header = ChunkHeader {
                    handle,
                    index: 0,
                    offset: 0,
                    length: lie.len() as u32,
                    xxh3: 0,
                    ack_now: true,
                };
                wire.send(header.encode(&piece)).await;
            }
            NoEnd => {
                let mut frames = bundle.all_frames();
                frames.pop();
                send(wire, frames).await;
            }
        }
    }
}

/// Sends them one after another. False when the other side takes no more.
async fn send(wire: &Wire, frames: impl IntoIterator<Item = BytesMut>) -> bool {
    for frame in frames {
        if !wire.send(frame).await {
            return false;
        }
    }
    true
}

/// Offers it, and says how that was answered.
async fn offer(wire: &Wire, bundle: &Bundle) -> Acknowledgement {
    wire.say(&bundle.offer()).await;
    answer(wire).await.expect("an answer to the offer")
}

/// The next answer to an offer; nothing when the channel is closed.
async fn answer(wire: &Wire) -> Option<Acknowledgement> {
    wire.wait_for(|message| match message {
        Message::StartTransferAcknowledged(ack) => Some(ack),
        _ => None,
    })
    .await
}

async fn accepted(wire: &Wire, bundle: &Bundle) {
    let answer = offer(wire, bundle).await;
    assert_eq!(answer.status, Decision::Accepted, "{answer:?}");
}

/// A receiver that lets these devices in.
fn receiver(folder: &Path, may: &[DeviceId]) -> Running {
    let may: Vec<_> = may.iter().map(DeviceId::to_string).collect();
    let more = [
        ("trust.authorized", may.join(",")),
        ("network.stall_timeout", STALL.to_owned()),
    ];
    Running::start(folder, Mode::Receive, &more)
}

/// One hostile device does what it does, and is dropped for it.
async fn suffer(deed: Deed, seed: u8, node: &Running, told: &Told) {
    let device = Device::new(seed);
    let wire = device.connect(&node.id, node.port).await.unwrap();
    let name = format!("{deed:?}.bin");
    let bundle = Bundle::new(&device.identity, 1, &name, 300_000, u64::from(seed));
    let begun = std::time::Instant::now();
    deed.act(&wire, bundle).await;
    let said = wire.closed().await;
    println!("{deed:?}: {:.1} s", begun.elapsed().as_secs_f64());
    let reason = told.dropped(&device.id()).await;
    match deed.fate() {
        Dropped(why) => assert!(reason.contains(why), "{deed:?}: {reason}"),
        Cancelled(code, why) => {
            let (failed, because) = told.failed(&device.id()).await;
            assert_eq!(failed, code, "{deed:?}: {because}");
            assert!(because.contains(why), "{deed:?}: {because}");
            assert!(reason.contains(why), "{deed:?}: {reason}");
            let cancelled = said.iter().any(|message| match message {
                Message::Cancel { code, reason, .. } => *code == failed && reason.contains(why),
                _ => false,
            });
            assert!(cancelled, "{deed:?} was told {said:?}");
        }
    }
    assert!(!reason.contains('\u{1b}'), "{reason:?}");
    // Who only stalls may come back; whoever broke the protocol has to wait.
    let dropped = std::time::Instant::now();
    let again = device.connect(&node.id, node.port).await;
    let late = dropped.elapsed() > BAR;
    if matches!(deed.fate(), Dropped(why) if why.contains("owed")) {
        again.unwrap_or_else(|why| panic!("{deed:?} may come back, but {why}"));
    } else if !late {
        let refused = again.err().expect("it came back at once");
        assert!(refused.contains("broke the protocol"), "{refused}");
    }
}

#[test]
fn a_hostile_origin_is_named_and_dropped_and_nothing_false_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let honest = folder.path().join("honest");
    let mut may = vec![id_of(&honest)];
    may.extend((0..ALL.len()).map(|n| Device::new(n as u8 + 1).id()));
    let node = Arc::new(receiver(folder.path(), &may));
    let honest = sender(&honest, &[(node.id.clone(), node.port)], &[]);
    let before = (status("VmRSS"), status("Threads"));
    runtime().block_on(async {
        let told = Told::by(&node.node);
        let done = Arc::new(AtomicBool::new(false));
        let serving = serve_meanwhile(&honest, &node, folder.path(), Arc::clone(&done));
        let suffering = async {
            let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
            let each = ALL.iter().enumerate().map(|(n, deed)| {
                let (room, node, told) = (Arc::clone(&room), Arc::clone(&node), told.clone());
                tokio::spawn(async move {
                    let _place = room.acquire().await.unwrap();
                    suffer(*deed, n as u8 + 1, &node, &told).await;
                })
            });
            let mut failed = Vec::new();
            for (deed, each) in ALL.iter().zip(each.collect::<Vec<_>>()) {
                if each.await.is_err() {
                    failed.push(*deed);
                }
            }
            done.store(true, Ordering::Relaxed);
            failed
        };
        let (served, failed) = tokio::join!(serving, suffering);
        let after = (status("VmRSS"), status("Threads"));
        println!(
            "{} hostile origins dropped, {served} honest broadcasts meanwhile; memory grew from {} \
             to {} KiB (at most {}), threads from {} to {}",
            ALL.len(),
            before.0,
            after.0,
            status("VmHWM"),
            before.1,
            after.1,
        );
        assert!(failed.is_empty(), "{failed:?}");
        assert!(served > 0);
        assert!(status("VmHWM") < before.0 + MEMORY);
        assert!(after.1 < before.1 + THREADS);
        nothing_false_below(&node.received);
        let mut expected: Vec<_> = (0..served).map(|n| format!("honest-{n}.bin")).collect();
        // Those were true, until they were complete.
        let true_ones = [AfterTheEnd, LiesAboutWhatIsHere, NothingAfterThePages];
        expected.extend(true_ones.map(|deed| format!("{deed:?}.bin")));
        expected.sort();
        assert_eq!(finished_below(&node.received), expected);
    });
}

/// An honest sender sends one file after another until all is done. Returns how many arrived.
async fn serve_meanwhile(
    honest: &Running,
    node: &Running,
    folder: &Path,
    done: Arc<AtomicBool>,
) -> usize {
    let mut served = 0;
    while !done.load(Ordering::Relaxed) {
        let name = format!("honest-{served}.bin");
        let path = folder.join(&name);
        let content: Vec<u8> = (0..2_000_001_u32).map(|n| (n ^ (n >> 7)) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let events = honest.ask(Request::Send {
            paths: vec![path],
            to: vec![node.id.to_string()],
            wait_ms: Some(30_000),
            share: Default::default(),
        });
        let events = events.await;
        let whole = events.iter().any(|event| match event {
            Event::Summary { receivers, .. } => receivers[0].state == "complete",
            _ => false,
        });
        assert!(whole, "{events:?}");
        assert!(std::fs::read(node.received.join(&name)).unwrap() == content);
        served += 1;
    }
    served
}

#[test]
fn offers_of_connections_without_end_are_answered_for_a_while_only() {
    let folder = tempfile::tempdir().unwrap();
    let (device, other) = (Device::new(77), Device::new(78));
    let node = receiver(folder.path(), &[device.id(), other.id()]);
    runtime().block_on(async {
        let begun = std::time::Instant::now();
        let answers = device.offer_again_and_again(&node.id, node.port, 150).await;
        let answered = answers.iter().filter(|answer| answer.is_ok()).count();
        // A slow machine may see a second and a third span of ten seconds.
        let spans = 1 + begun.elapsed().as_secs() as usize / 10;
        assert!(answered <= 64 * spans, "{answered} were answered");
        let why = answers.into_iter().filter_map(Result::err);
        for why in why {
            assert!(why.contains("too many offers at once"), "{why}");
        }
        other.connect(&node.id, node.port).await.unwrap();
    });
}
