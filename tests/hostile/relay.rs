//! Relays: devices that an origin has introduced to a receiver, with true keys, and that misuse it.
//! The origin is made by hand too: it says everything but the chunks until the relay is done.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use handout::actors::api::{Event, Request};
use handout::actors::service::Mode;
use handout::protocol::chunkset::ChunkSet;
use handout::protocol::exchange::Have;
use handout::protocol::frame::{ChunkHeader, Frame, Handle, encode_hashes};
use handout::protocol::id::DeviceId;
use handout::protocol::introduction::Introduction;
use handout::protocol::manifest::{page_digest, page_statement, root_statement};
use handout::protocol::message::{Code, Decision, Message};
use handout::protocol::signal::SignalKind;
use tokio::sync::mpsc;

use crate::bundle::Bundle;
use crate::nodes::device::{Device, Heard, PATIENCE, Wire};
use crate::nodes::{Running, files_below, id_of};

/// The number that the relay serves under. It makes the offer of its link, so it is odd.
const SERVES: Handle = 1;
/// What nobody gets to say: a flood ends long before.
const WITHOUT_END: usize = 200_000;
const SIZE: usize = 69 * 65_536 + 1000;

/// What a relay does, and what is said of it then.
const LIES: [(Lie, &str); 19] = [
    (Lie::FalseChunk, "damaged"),
    (Lie::ShortChunk, "must have"),
    (Lie::LongChunk, "outside the bundle"),
    (Lie::ChunkBehindTheLast, "outside the bundle"),
    (Lie::ChunkBeforeItsPage, "before page"),
    (Lie::PayloadPastTheEnd, "past the end"),
    (Lie::PiecesOutOfOrder, "out of order"),
    (Lie::ByteByByte, "too many pieces"),
    (Lie::UnaskedChunks, "nobody asked for"),
    (Lie::PageOfItsOwn, "signature of page"),
    (Lie::PagesWithoutEnd, "hashes again and again"),
    (Lie::Head, "heads come from"),
    (Lie::RootOfItsOwn, "signature of the root"),
    (Lie::HaveOfAnotherSize, "fits no such bundle"),
    (Lie::WantsEverything, "too much"),
    (Lie::HavesWithoutEnd, "far too many messages"),
    (Lie::WantsWithoutEnd, "far too many messages"),
    (Lie::SignalsWithoutEnd, "far too many messages"),
    (Lie::NoMessage, "not a message"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    FalseChunk,
    ShortChunk,
    LongChunk,
    ChunkBehindTheLast,
    ChunkBeforeItsPage,
    PayloadPastTheEnd,
    PiecesOutOfOrder,
    ByteByByte,
    UnaskedChunks,
    PageOfItsOwn,
    PagesWithoutEnd,
    Head,
    RootOfItsOwn,
    HaveOfAnotherSize,
    WantsEverything,
    HavesWithoutEnd,
    WantsWithoutEnd,
    SignalsWithoutEnd,
    NoMessage,
}

/// A receiver, the origin of what it receives, and devices that the origin may introduce to it.
struct Room {
    _folder: tempfile::TempDir,
    victim: Running,
    events: mpsc::Receiver<Event>,
    origin: Device,
    to_origin: Wire,
    bundle: Bundle,
    relay: Device,
    honest: Device,
}

impl Room {
    /// The receiver has accepted the bundle, and has its head.
    async fn new(stall: &str) -> Self {
        Self::after(stall, async |_, _| ()).await
    }

    /// The same, after something has happened at the receiver in an earlier run of its program.
    async fn after(stall: &str, before: impl AsyncFnOnce(&Path, &Device)) -> Self {
        let mut devices: Vec<Device> = (1..=250).map(Device::new).collect();
        devices.sort_by_key(Device::id);
        let [relay, honest] = [0, 1].map(|at: usize| devices[at].clone());
        let origin = devices[100].clone();
        // Of two devices that were introduced the one with the lower id offers.
        let folder = loop {
            let folder = tempfile::tempdir().unwrap();
            if id_of(folder.path()) > honest.id() {
                break folder;
            }
        };
        before(folder.path(), &relay).await;
        let settings = [
            ("trust.authorized", origin.id().to_string()),
            ("network.stall_timeout", stall.to_owned()),
        ];
        let victim = Running::start(folder.path(), Mode::Receive, &settings);
        let events = victim.node.ask(Request::Watch);
        let to_origin = origin.connect(&victim.id, victim.port).await.unwrap();
        let bundle = Bundle::new(&origin.identity, 1, "lesson.bin", SIZE, 5);
        let room = Self {
            _folder: folder,
            victim,
            events,
            origin,
            to_origin,
            bundle,
            relay,
            honest,
        };
        room.begin(&room.bundle).await;
        room
    }

    async fn begin(&self, bundle: &Bundle) {
        self.to_origin.say(&bundle.offer()).await;
        let accepted = self.to_origin.wait_for(|message| match message {
            Message::StartTransferAcknowledged(ack) => Some(ack.status),
            _ => None,
        });
        assert_eq!(accepted.await, Some(Decision::Accepted));
        for frame in bundle.head_frames() {
            assert!(self.to_origin.send(frame).await);
        }
    }

    /// The origin sends every chunk that is missing, until all is there.
    async fn finish(&self, bundle: &Bundle) {
        for frame in bundle.all_frames().split_off(bundle.head_frames().len()) {
            assert!(self.to_origin.send(frame).await);
        }
        assert!(self.to_origin.say(&bundle.end()).await);
        let complete = self.to_origin.wait_for(|message| match message {
            Message::TransferComplete { root, .. } => Some(root),
            Message::Need { .. } | Message::Cancel { .. } => panic!("{message:?}"),
            _ => None,
        });
        assert_eq!(complete.await, Some(Some(bundle.root().0)));
        let path = self.victim.received.join(&bundle.start.name);
        assert!(std::fs::read(path).unwrap() == bundle.content);
    }

    /// The only file there is what the origin sent.
    fn nothing_else_is_there(&self, names: &[&str]) {
        let there = files_below(&self.victim.received);
        let visible = there
            .iter()
            .map(|path| path.strip_prefix(&self.victim.received).unwrap())
            .filter(|path| !path.starts_with(".handout"))
            .map(|path| path.to_str().unwrap().to_owned());
        let mut visible: Vec<String> = visible.collect();
        visible.sort();
        assert_eq!(visible, names);
    }

    /// The origin introduces a device for a bundle, for so many seconds.
    async fn vouch(&self, device: &Device, bundle: &Bundle, seconds: u64) {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let (by, of) = (&self.origin.identity, bundle.id());
        let (one, two) = (device.id(), &self.victim.id);
        let made = Introduction::new(by, of, &one, two, now, seconds, [7; 16]);
        let introduce = Message::Introduce(Box::new(made));
        assert!(self.to_origin.say(&introduce).await);
    }

    /// The origin introduces a device, which then connects.
    async fn introduce(&self, device: &Device) -> Wire {
        self.vouch(device, &self.bundle, 600).await;
        let connected = device.connect_through(&self.to_origin, &self.victim.id);
        connected.await.unwrap()
    }

    fn have(&self, chunks: &ChunkSet) -> Have {
        Have {
            handle: SERVES,
            bundle: self.bundle.id(),
            origin: self.origin.id(),
            have: chunks.to_b64(),
            root: None,
            root_sig: None,
        }
    }

    fn everything(&self) -> Have {
        self.have(&ChunkSet::full(self.bundle.start.chunks))
    }

    /// The bundle as the relay serves it.
    fn served(&self) -> Bundle {
        let mut served = self.bundle.clone();
        served.start.handle = SERVES;
        served
    }

    /// The relay says that it has everything. Returns what it is asked for.
    async fn is_asked(&self, wire: &Wire) -> Vec<u32> {
        wire.say(&Message::Have(Box::new(self.everything()))).await;
        let wanted = wire.wait_for(|message| match message {
            Message::Want { handle, chunks } => {
                assert_eq!(handle, SERVES);
                let all = chunks.into_iter().flat_map(|(from, n)| from..from + n);
                Some(all.collect())
            }
            _ => None,
        });
        wanted.await.unwrap()
    }

    /// The next event that says that a device is dropped for a bundle.
    async fn distrusted(&mut self) -> (DeviceId, String) {
        let naming = async {
            while let Some(event) = self.events.recv().await {
                if let Event::Distrusted {
                    device_id,
                    introducer,
                    reason,
                } = event
                {
                    assert_eq!(introducer.by, self.origin.id());
                    assert_eq!(introducer.bundle, self.bundle.id());
                    return (device_id, reason);
                }
            }
            panic!("the events ended")
        };
        tokio::time::timeout(PATIENCE, naming)
            .await
            .expect("nobody is named")
    }

    async fn act(&self, wire: &Wire, lie: Lie) {
        let served = self.served();
        let page = |number: u32| served.page_frame(number, &served.page(number));
        match lie {
            Lie::FalseChunk => {
                let chunk = self.is_asked(wire).await[0];
                let mut content = served.chunk(chunk).to_vec();
                content[1000] ^= 1;
                wire.send(page(chunk / 64)).await;
                send_all(wire, served.chunk_frames(chunk, &content)).await;
            }
            Lie::ShortChunk => {
                let chunk = self.is_asked(wire).await[0];
                let content = &served.chunk(chunk)[1..];
                wire.send(page(chunk / 64)).await;
                send_all(wire, served.chunk_frames(chunk, content)).await;
            }
            Lie::LongChunk => {
                let chunk = self.is_asked(wire).await[0];
                send_all(wire, served.chunk_frames(chunk, &[7; 65_537])).await;
            }
            Lie::ChunkBehindTheLast => {
                self.is_asked(wire).await;
                send_all(wire, served.chunk_frames(70, b"one more")).await;
            }
            Lie::ChunkBeforeItsPage => {
                // The victim has no pages yet, and this relay sends none.
                let chunk = self.is_asked(wire).await[0];
                send_all(wire, served.chunk_frames(chunk, served.chunk(chunk))).await;
            }
            Lie::PayloadPastTheEnd => {
                let chunk = self.is_asked(wire).await[0];
                wire.send(piece(chunk, 0, 100, &[7; 101])).await;
            }
            Lie::PiecesOutOfOrder => {
                let chunk = self.is_asked(wire).await[0];
                wire.send(piece(chunk, 0, 65_536, &[7; 100])).await;
                wire.send(piece(chunk, 99, 65_536, &[7; 100])).await;
            }
            Lie::ByteByByte => {
                let chunk = self.is_asked(wire).await[0];
                for at in 0..65_536 {
                    if !wire.send(piece(chunk, at, 65_536, &[7])).await {
                        return;
                    }
                }
                panic!("a chunk came byte by byte");
            }
            Lie::UnaskedChunks => {
                let nothing = ChunkSet::new(self.bundle.start.chunks);
                let have = self.have(&nothing);
                wire.say(&Message::Have(Box::new(have))).await;
                wire.send(page(0)).await;
                without_end(wire, |n| {
                    let chunk = n as u32 % 64;
                    Said::Bytes(piece(chunk, 0, 65_536, served.chunk(chunk)))
                })
                .await;
            }
            Lie::PageOfItsOwn => {
                self.is_asked(wire).await;
                let said = page_statement(&served.id(), 0, &page_digest(&served.page(0)));
                let signature = self.relay.identity.sign(&said);
                wire.send(encode_hashes(SERVES, 0, &signature, &served.page(0)))
                    .await;
            }
            Lie::PagesWithoutEnd => {
                self.is_asked(wire).await;
                // Hashing them each time would keep the relay itself from doing anything else.
                let pages = [page(0), page(1)];
                without_end(wire, |n| Said::Bytes(pages[n % 2].clone())).await;
            }
            Lie::Head => {
                self.is_asked(wire).await;
                send_all(wire, served.head_frames()).await;
            }
            Lie::RootOfItsOwn => {
                let (root, _) = served.root();
                let said = root_statement(&served.id(), &root);
                let have = Have {
                    root: Some(root),
                    root_sig: Some(self.relay.identity.sign(&said)),
                    ..self.everything()
                };
                wire.say(&Message::Have(Box::new(have))).await;
            }
            Lie::HaveOfAnotherSize => {
                let have = self.have(&ChunkSet::full(700));
                wire.say(&Message::Have(Box::new(have))).await;
            }
            Lie::WantsEverything => {
                let handle = self.handle_of_victim(wire).await;
                let chunks = vec![(0, u32::MAX)];
                wire.say(&Message::Want { handle, chunks }).await;
            }
            Lie::HavesWithoutEnd => {
                // Under ever new numbers, about ever new bundles.
                without_end(wire, |n| {
                    let mut have = self.everything();
                    have.handle = 2 * n as u32 + 1;
                    have.bundle.0[..8].copy_from_slice(&n.to_be_bytes());
                    Said::Text(Message::Have(Box::new(have)).encode())
                })
                .await;
            }
            Lie::WantsWithoutEnd => {
                without_end(wire, |n| {
                    let (handle, chunks) = (2 * n as u32 + 1000, vec![(0, 1)]);
                    Said::Text(Message::Want { handle, chunks }.encode())
                })
                .await;
            }
            Lie::SignalsWithoutEnd => {
                without_end(wire, |_| Said::Text(self.signal().encode())).await;
            }
            Lie::NoMessage => {
                wire.text("{\"type\":\"\\u001b[2J\"}").await;
            }
        }
    }

    /// Under which number the victim serves its neighbour.
    async fn handle_of_victim(&self, wire: &Wire) -> Handle {
        let said = wire.wait_for(|message| match message {
            Message::Have(have) => Some(have.handle),
            _ => None,
        });
        said.await.unwrap()
    }

    /// Signaling for the origin, or by it: the relay's is neither.
    fn signal(&self) -> Message {
        Message::Signal {
            with: self.origin.id(),
            passed: true,
            kind: SignalKind::Offer,
            data: "v=0".to_owned(),
        }
    }
}

enum Said {
    Text(String),
    Bytes(BytesMut),
}

async fn without_end(wire: &Wire, say: impl Fn(usize) -> Said) {
    for n in 0..WITHOUT_END {
        let open = match say(n) {
            Said::Text(text) => wire.text(&text).await,
            Said::Bytes(bytes) => wire.send(bytes).await,
        };
        if !open {
            return;
        }
    }
    panic!("it could go on and on");
}

async fn send_all(wire: &Wire, frames: Vec<BytesMut>) {
    for frame in frames {
        wire.send(frame).await;
    }
}

fn piece(index: u32, offset: u32, length: u32, payload: &[u8]) -> BytesMut {
    let header = ChunkHeader {
        handle: SERVES,
        index,
        offset,
        length,
        xxh3: 0,
        ack_now: false,
    };
    header.encode(payload)
}

/// An honest neighbour takes all that the victim has, and counts what it was given.
async fn takes_all(room: &Room, wire: &Wire) -> usize {
    let count = room.bundle.start.chunks;
    let mut got: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut asked = ChunkSet::new(count);
    while got.len() < count as usize {
        match wire.hear().await.expect("its link is closed") {
            Heard::Said(Message::Have(have)) => {
                let mut new = ChunkSet::from_b64(&have.have, count).unwrap();
                new.subtract(&asked);
                for chunk in new.iter().take(32) {
                    asked.insert(chunk);
                    let (handle, chunks) = (have.handle, vec![(chunk, 1)]);
                    wire.say(&Message::Want { handle, chunks }).await;
                }
            }
            Heard::Said(_) => {}
            Heard::Sent(Frame::Chunk { header, payload }) => {
                let chunk = got.entry(header.index).or_default();
                assert_eq!(chunk.len(), header.offset as usize);
                chunk.extend_from_slice(&payload);
                let bytes = got.values().map(|chunk| chunk.len() as u64).sum();
                if header.ack_now {
                    let handle = header.handle;
                    wire.say(&Message::Ack { handle, bytes }).await;
                }
                // More is asked for as soon as what was asked for is there.
                if asked.len() as usize == got.len() && asked.len() < count {
                    for chunk in 0..count {
                        if asked.len() as usize - got.len() < 32 && asked.insert(chunk) {
                            let (handle, chunks) = (header.handle, vec![(chunk, 1)]);
                            wire.say(&Message::Want { handle, chunks }).await;
                        }
                    }
                }
            }
            Heard::Sent(_) => {}
        }
    }
    for (index, chunk) in &got {
        assert!(chunk == room.bundle.chunk(*index), "chunk {index} is false");
    }
    got.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_relay_does_it_is_named_and_dropped_and_the_bundle_comes_from_its_origin() {
    let mut failed = Vec::new();
    for some in LIES.chunks(4) {
        let told = some
            .iter()
            .map(|(lie, reason)| (lie, tokio::spawn(tell(*lie, reason))));
        for (lie, told) in told.collect::<Vec<_>>() {
            if told.await.is_err() {
                failed.push(lie);
            }
        }
    }
    assert!(failed.is_empty(), "these passed: {failed:?}");
}

/// One lie to a receiver of its own.
async fn tell(lie: Lie, reason: &str) {
    let mut room = Room::new("30s").await;
    let wire = room.introduce(&room.relay.clone()).await;
    room.act(&wire, lie).await;
    let (named, why) = room.distrusted().await;
    assert_eq!(named, room.relay.id(), "{lie:?}");
    assert!(why.contains(reason), "{lie:?}: {why}");
    assert!(!why.contains('\u{1b}'), "{lie:?}: {why:?}");
    wire.closed().await;
    room.finish(&room.bundle).await;
    room.nothing_else_is_there(&["lesson.bin"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_has_nothing_of_what_it_says_is_named_and_dropped() {
    let mut room = Room::new("2s").await;
    let wire = room.introduce(&room.relay.clone()).await;
    let wanted = room.is_asked(&wire).await;
    assert!(!wanted.is_empty());
    let (named, why) = room.distrusted().await;
    assert_eq!(named, room.relay.id());
    assert!(why.contains("did not send"), "{why}");
    wire.closed().await;
    room.finish(&room.bundle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_false_is_passed_on() {
    let mut room = Room::new("30s").await;
    let wire = room.introduce(&room.relay.clone()).await;
    let neighbour = room.introduce(&room.honest.clone()).await;
    let wanted = room.is_asked(&wire).await;
    let served = room.served();
    wire.send(served.page_frame(1, &served.page(1))).await;
    // A true one, which is passed on, and then false ones.
    let true_one = wanted.iter().find(|chunk| **chunk >= 64).unwrap();
    send_all(
        &wire,
        served.chunk_frames(*true_one, served.chunk(*true_one)),
    )
    .await;
    let said = neighbour.wait_for(|message| match message {
        Message::Have(have) => {
            let set = ChunkSet::from_b64(&have.have, 70).unwrap();
            (!set.is_empty()).then_some((have.handle, set))
        }
        _ => None,
    });
    let (handle, has) = said.await.unwrap();
    assert_eq!(has.iter().collect::<Vec<_>>(), [*true_one]);
    for chunk in wanted
        .iter()
        .filter(|chunk| **chunk >= 64 && *chunk != true_one)
    {
        send_all(&wire, served.chunk_frames(*chunk, &[9; 65_536])).await;
    }
    assert_eq!(room.distrusted().await.0, room.relay.id());
    // Asked for what it does not have, the victim sends nothing; then it has it from the origin.
    for chunk in wanted.iter().filter(|chunk| *chunk != true_one) {
        let chunks = vec![(*chunk, 1)];
        neighbour.say(&Message::Want { handle, chunks }).await;
    }
    room.finish(&room.bundle).await;
    assert_eq!(takes_all(&room, &neighbour).await, 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_introduced_device_can_do_nothing_but_exchange_chunks_of_that_bundle() {
    let room = Room::new("30s").await;
    // Something else that the victim has from the same origin.
    let other = Bundle::new(&room.origin.identity, 3, "exam.bin", SIZE, 6);
    room.begin(&other).await;
    room.finish(&other).await;
    let wire = room.introduce(&room.relay.clone()).await;
    let handle = room.handle_of_victim(&wire).await;

    let own = Bundle::new(&room.relay.identity, 11, "virus.exe", 1000, 7);
    let refused = async || {
        wire.say(&own.offer()).await;
        loop {
            match wire.hear().await.expect("its link is closed") {
                Heard::Said(Message::StartTransferAcknowledged(ack)) => return ack,
                Heard::Sent(frame) => panic!("it was sent something: {:?}", frame.handle()),
                Heard::Said(_) => {}
            }
        }
    };
    let ack = refused().await;
    assert_eq!(
        (ack.status, ack.code),
        (Decision::Refused, Some(Code::Unauthorized))
    );
    send_all(&wire, own.all_frames()).await;

    // It introduces somebody, in its own name and with the origin's word for another pair.
    let stranger = Device::new(251);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    for by in [&room.relay.identity, &room.origin.identity] {
        let (of, to) = (room.bundle.id(), &room.victim.id);
        let made = Introduction::new(by, of, &stranger.id(), to, now, 600, [8; 16]);
        wire.say(&Message::Introduce(Box::new(made))).await;
    }
    // It signals for others, and stops and ends what the origin does.
    wire.say(&room.signal()).await;
    let (code, reason) = (Code::Cancelled, "because".to_owned());
    for handle in [room.bundle.start.handle, handle] {
        let (code, reason) = (code, reason.clone());
        wire.say(&Message::Cancel {
            handle,
            code,
            reason,
        })
        .await;
    }
    wire.say(&Message::EndIntroduction {
        bundle: room.bundle.id(),
        peer: room.relay.id(),
        reason,
    })
    .await;
    wire.say(&room.bundle.end()).await;
    // It wants chunks of the other bundle, under every number that it could have.
    let mut have = room.everything();
    have.bundle = other.id();
    have.handle = 5;
    wire.say(&Message::Have(Box::new(have))).await;
    for handle in 0..64 {
        let chunks = vec![(0, 1)];
        wire.say(&Message::Want { handle, chunks }).await;
    }
    // Nothing of it has done anything, and the link stands: it is still a neighbour.
    for _ in 0..3 {
        assert_eq!(refused().await.status, Decision::Refused);
        tokio::time::timeout(Duration::from_millis(300), wire.channel.receive())
            .await
            .expect_err("the victim says something");
    }
    let peers = room.victim.ask(Request::Peers).await;
    let known: Vec<_> = peers
        .iter()
        .filter_map(|event| match event {
            Event::Peer(peer) => Some((&peer.device_id, peer.authorized, peer.connected)),
            _ => None,
        })
        .collect();
    assert!(known.contains(&(&room.relay.id(), false, true)));
    assert!(known.contains(&(&room.origin.id(), true, true)));
    assert_eq!(known.len(), 2, "{known:?}");
    room.finish(&room.bundle).await;
    room.nothing_else_is_there(&["exam.bin", "lesson.bin"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_bundle_leaves_unacknowledged_does_not_hold_up_another() {
    let room = Room::new("30s").await;
    let other = Bundle::new(&room.origin.identity, 3, "exam.bin", SIZE, 6);
    room.begin(&other).await;
    room.finish(&other).await;
    room.finish(&room.bundle).await;
    let wire = room.introduce(&room.relay.clone()).await;
    let handle = room.handle_of_victim(&wire).await;
    let chunks = vec![(0, 64)];
    wire.say(&Message::Want { handle, chunks }).await;
    let comes = async |of: Handle| loop {
        match wire.hear().await.expect("its link is closed") {
            Heard::Sent(Frame::Chunk { header, .. }) if header.handle == of => return,
            _ => {}
        }
    };
    // It is served as far as the window goes, and acknowledges nothing.
    comes(handle).await;
    room.vouch(&room.relay, &other, 600).await;
    let second = wire.wait_for(|message| match message {
        Message::Have(have) if have.bundle == other.id() => Some(have.handle),
        _ => None,
    });
    let second = second.await.unwrap();
    let end = Message::EndIntroduction {
        bundle: room.bundle.id(),
        peer: room.relay.id(),
        reason: "over".to_owned(),
    };
    room.to_origin.say(&end).await;
    let ended = wire.wait_for(|message| match message {
        Message::Have(have) if have.handle == handle => Some(have.have),
        _ => None,
    });
    assert_eq!(ended.await, Some(ChunkSet::new(70).to_b64()));
    let chunks = vec![(0, 1)];
    let handle = second;
    wire.say(&Message::Want { handle, chunks }).await;
    let begun = std::time::Instant::now();
    comes(second).await;
    // Not only when the first one counts as dead.
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_person_has_revoked_nobody_introduces() {
    // Nothing of introductions is kept over a restart, but a revocation is.
    let mut room = Room::after("30s", async |folder, relay| {
        let victim = Running::start(folder, Mode::Receive, &[]);
        let device = relay.id().to_string();
        let done = victim.ask(Request::Revoke { device }).await;
        assert!(matches!(done.last(), Some(Event::End { code: 0 })));
    })
    .await;
    room.vouch(&room.relay, &room.bundle, 600).await;
    room.vouch(&room.honest, &room.bundle, 600).await;
    let introduced = async {
        loop {
            match room.events.recv().await.expect("the events ended") {
                Event::Introduced { device_id, .. } => return device_id,
                _ => {}
            }
        }
    };
    let introduced = tokio::time::timeout(PATIENCE, introduced).await;
    assert_eq!(introduced.unwrap(), room.honest.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_ends_with_its_introduction_and_comes_again_with_the_next() {
    let room = Room::new("30s").await;
    room.vouch(&room.relay, &room.bundle, 2).await;
    let through = &room.to_origin;
    let connected = room.relay.connect_through(through, &room.victim.id).await;
    let begun = std::time::Instant::now();
    connected.unwrap().closed().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    room.introduce(&room.relay).await;
}
