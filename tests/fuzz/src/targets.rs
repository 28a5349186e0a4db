//! What is tried with any bytes: one function for each decoder of what a peer sends.
//!
//! Each asserts more than that nothing panics: what is read can be written and read again, limits
//! hold, and what must not be believed is not. The fuzzer calls these functions through the
//! programs in `bin/`; `tests/corpora.rs` calls them with the committed corpora.
//!
//! A new target is a function here or in `targets/`, its line in [`ALL`], a file in `bin/`, and a corpus.

#[path = "targets/contact.rs"]
pub mod contact;
#[path = "targets/trust.rs"]
pub mod trust;

use std::net::IpAddr;
use std::path::{Component, Path};
use std::sync::LazyLock;

use bytes::Bytes;
use unicode_normalization::UnicodeNormalization;

use crate::protocol::candidate::{Candidate, CandidatePolicy, MAX_CANDIDATES, Reach, filter_sdp};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::frame::{CHUNK_HEADER, Frame, encode_hashes, encode_head, pieces};
use crate::protocol::framer::{JsonFramer, MAX_OBJECT};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::Identity;
use crate::protocol::manifest::{
    HASH_BYTES, Head, Layout, MAX_CHUNKS, MAX_ENTRIES, Page, choose_chunk_size,
};
use crate::protocol::message::Message;
use crate::protocol::names::{BundlePath, Conflict, MAX_COMPONENT, MAX_PATH, PathSet, printable};
use crate::protocol::peers::{MAX_NAME, display_name};
use crate::protocol::proof::{self, Expected, ProofError, Subject, Terms, attach, verify};
use crate::protocol::replay::{ReplayCache, ReplayError};
use crate::protocol::sdp::SdpFacts;
use crate::protocol::signal::Signal;

/// A target's name, which is also that of its program and of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: &[Target] = &[
    ("chunkset", chunkset),
    ("frame", frame),
    ("introduction", trust::introduction),
    ("invite", contact::invite),
    ("manifest", manifest),
    ("message", message),
    ("names", names),
    ("pairing", contact::pairing),
    ("proof", proof),
    ("roster", trust::roster),
    ("signaling", signaling),
];

/// The time at which the proofs in the corpus are in force, in Unix seconds.
pub const NOW: u64 = 1_800_000_000;

/// The identities of all seeds that are one byte again and again. Made once: it takes long.
static IDENTITIES: LazyLock<Vec<Identity>> =
    LazyLock::new(|| (0..=255).map(|n| Identity::from_seed(&[n; 32])).collect());
static IDS: LazyLock<Vec<DeviceId>> =
    LazyLock::new(|| IDENTITIES.iter().map(Identity::device_id).collect());

/// One of 256 identities; those of the corpus are among them.
pub fn who(n: u8) -> Identity {
    IDENTITIES[usize::from(n)].clone()
}

/// Its device id.
pub fn id(n: u8) -> DeviceId {
    IDS[usize::from(n)].clone()
}

/// Who wrote the descriptions in the corpus, and for whom.
pub fn writer_and_reader() -> (Identity, Identity) {
    (who(1), who(2))
}

/// What may stand in a log line or on a terminal.
fn assert_harmless(text: &str) {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.chars().any(harmful), "{text:?}");
}

/// The same of an error, which moreover must not repeat all that came.
fn assert_error(error: impl std::error::Error) {
    let text = error.to_string();
    assert_harmless(&text);
    assert!(text.len() <= 16 * 1024, "an error of {} bytes", text.len());
}

/// The bytes of a signaling connection. The first byte says in what pieces they come.
pub fn signaling(data: &[u8]) {
    let Some((&step, stream)) = data.split_first() else {
        return;
    };
    let read = |step: usize| {
        let (mut framer, mut objects) = (JsonFramer::new(MAX_OBJECT), Vec::new());
        for mut piece in stream.chunks(step) {
            loop {
                match framer.next_object(&mut piece) {
                    Ok(Some(object)) => objects.push(object),
                    Ok(None) => break,
                    Err(error) => return (objects, Some(error)),
                }
            }
        }
        (objects, None)
    };
    let whole = read(stream.len().max(1));
    assert_eq!(
        read(usize::from(step) + 1),
        whole,
        "the pieces make a difference"
    );
    for object in whole.0 {
        assert!(object.len() <= MAX_OBJECT);
        match Signal::parse(&object) {
            Ok(signal) => {
                let line = signal.encode();
                assert_eq!(line.find('\n'), Some(line.len() - 1));
                if line.len() <= MAX_OBJECT {
                    assert_eq!(Signal::parse(line.as_bytes()), Ok(signal));
                }
            }
            Err(error) => assert_error(error),
        }
    }
}

/// A description. The first five bytes say how somebody changes it on the way once it is signed.
pub fn proof(data: &[u8]) {
    let Some((change, text)) = data.split_first_chunk::<5>() else {
        return;
    };
    let Ok(sdp) = std::str::from_utf8(text) else {
        return;
    };
    let (writer, reader) = writer_and_reader();
    let (from, to) = (writer.device_id(), reader.device_id());
    let check = |sdp: &str, spent: &mut ReplayCache| {
        verify(sdp, &from, &to, Expected::Offer, NOW, 300, spent)
    };
    filter(sdp);

    // As it came: whoever wrote it had the key.
    let mut spent = ReplayCache::new(16);
    match check(sdp, &mut spent) {
        Ok(verified) => {
            assert_eq!(verified.key, writer.public_key());
            let facts = SdpFacts::read(sdp).expect("facts that were signed");
            assert_eq!(verified.fingerprint, facts.fingerprint);
            assert_eq!(verified.ufrag, facts.ufrag);
            let again = check(sdp, &mut spent);
            assert_eq!(again, Err(ProofError::Replay(ReplayError::Replayed)));
            let answer = Expected::Answer {
                session: verified.session,
                offer: verified.offer,
            };
            let spent = &mut ReplayCache::new(16);
            let taken = verify(sdp, &from, &to, answer, NOW, 300, spent);
            assert_eq!(
                taken,
                Err(ProofError::BadSignature),
                "an offer as an answer"
            );
            let spent = &mut ReplayCache::new(16);
            let echo = verify(sdp, &to, &from, Expected::Offer, NOW, 300, spent);
            assert!(echo.is_err(), "taken by its own writer");
        }
        Err(error) => assert_error(error),
    }

    // Signed by us, then changed in one place.
    let terms = Terms {
        to: &to,
        subject: Subject::Offer { session: [3; 16] },
        nonce: [9; 16],
        issued: NOW,
        lifetime: 60,
    };
    let Ok((signed, hash)) = attach(sdp, &writer, &terms) else {
        return;
    };
    let facts = SdpFacts::read(&signed).expect("the line that is added is no fact");
    assert_eq!(SdpFacts::read(sdp).as_ref(), Ok(&facts));
    match check(&signed, &mut ReplayCache::new(16)) {
        Ok(verified) => assert_eq!(verified.offer, hash),
        Err(error) => {
            // What is ours has no second proof, and no media line that begins with a space.
            assert_eq!(error, ProofError::Misplaced);
            assert!(proof::has_proof(sdp) || sdp.contains([' ', '\t']));
            return;
        }
    }
    let at = u32::from_be_bytes([change[0], change[1], change[2], change[3]]) as usize;
    let mut changed = signed.clone().into_bytes();
    let at = at % changed.len();
    changed[at] = change[4];
    let Ok(changed) = String::from_utf8(changed) else {
        return;
    };
    if let Ok(verified) = check(&changed, &mut ReplayCache::new(16)) {
        assert_eq!(SdpFacts::read(&changed), Ok(facts), "changed, and believed");
        assert_eq!((verified.offer, verified.session), (hash, [3; 16]));
    }
}

/// The candidates of a description, and one alone.
fn filter(sdp: &str) {
    let net = |ip: [u8; 4], bits| (IpAddr::from(ip), bits);
    let policy = CandidatePolicy {
        reach: Reach::Link,
        allow_loopback: false,
        on_link: vec![net([192, 168, 1, 5], 24)],
        networks: vec![net([10, 0, 0, 0], 8)],
    };
    let filtered = filter_sdp(sdp, &policy);
    assert_eq!(filter_sdp(&filtered, &policy), filtered);
    if let Ok(facts) = SdpFacts::read(sdp) {
        assert_eq!(
            SdpFacts::read(&filtered),
            Ok(facts),
            "a fact is gone, or new"
        );
    }
    let left = filtered
        .split('\n')
        .filter(|line| line.starts_with("a=candidate"))
        .map(|line| {
            policy
                .read(line, None)
                .expect("only what is allowed is left")
        });
    assert!(left.count() <= MAX_CANDIDATES);
    if let Ok(candidate) = Candidate::parse(sdp) {
        let written = candidate.to_string();
        assert_harmless(&written);
        let again = Candidate::parse(&written).expect("what we write we can read");
        assert_eq!(again.to_string(), written);
        assert_eq!(
            (again.address, again.port),
            (candidate.address, candidate.port)
        );
    }
}

/// A text message on the channel.
pub fn message(data: &[u8]) {
    let message = match Message::decode(data) {
        Ok(message) => message,
        Err(error) => return assert_error(error),
    };
    let text = message.encode();
    // Members that were left out are written with their defaults, and control characters longer.
    if let Ok(again) = Message::decode(text.as_bytes()) {
        assert_eq!(again, message);
        assert_eq!(again.encode(), text);
    } else {
        assert!(text.len() > crate::protocol::frame::MAX_MESSAGE, "{text}");
    }
}

/// A binary message on the channel.
pub fn frame(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    let Ok(frame) = Frame::decode(message) else {
        return;
    };
    let again = match &frame {
        Frame::Head {
            handle,
            offset,
            bytes,
        } => {
            assert_eq!(bytes.len(), data.len() - 12);
            if *offset != 0 || bytes.is_empty() {
                return;
            }
            let Some(first) = encode_head(*handle, bytes).next() else {
                return;
            };
            first
        }
        Frame::Hashes {
            handle,
            page,
            signature,
            bytes,
        } => {
            if let Ok(read) = Page::decode(*page, bytes.len(), bytes) {
                assert_eq!(read.encode(), bytes[..]);
                assert_eq!(read.hashes.len() * HASH_BYTES, bytes.len());
            }
            encode_hashes(*handle, *page, signature, bytes)
        }
        Frame::Chunk { header, payload } => {
            assert!(u64::from(header.offset) + payload.len() as u64 <= u64::from(header.length));
            let (length, max) = (header.length % (5 << 20), header.offset as usize % 70_000);
            let mut at = 0;
            for (offset, len) in pieces(length, max) {
                assert_eq!(offset, at);
                assert!(len as usize + CHUNK_HEADER <= max.clamp(1024, 65_536));
                at += len;
            }
            assert_eq!(at, length);
            header.encode(payload)
        }
    };
    assert!(again.len() <= data.len());
    if again.len() == data.len() {
        // Spare flags and the zero after them are not read.
        assert_eq!(again[4..], data[4..]);
        assert_eq!(Frame::decode(again.freeze()), Ok(frame));
    }
}

/// A bundle's head.
pub fn manifest(data: &[u8]) {
    let head = match Head::decode(data) {
        Ok(head) => head,
        Err(error) => return assert_error(error),
    };
    let bytes = head.encode();
    assert_eq!(
        Head::decode(&bytes).expect("what we write we can read"),
        head
    );
    assert!(head.files.len() + head.dirs.len() <= MAX_ENTRIES);
    let layout = Layout::new(&head);
    let count = layout.chunk_count();
    assert!(count <= MAX_CHUNKS);
    assert_eq!(
        layout.total_size(),
        head.files.iter().map(|f| f.size).sum::<u64>()
    );
    assert_eq!(layout.chunk(count), None);
    assert_eq!(layout.page_bytes(layout.page_count()), 0);
    assert!(choose_chunk_size(head.files.iter().map(|f| f.size)).is_some());
    // All chunks of a small bundle, some of a large one.
    let step = (count / 512).max(1) as usize;
    for index in (0..count).step_by(step) {
        let span = layout.chunk(index).expect("a chunk below the count");
        let size = head.files[span.file].size;
        assert!(span.len >= 1 && span.offset + u64::from(span.len) <= size);
        let own = layout.file_chunks(span.file);
        assert!(own.contains(&index));
        assert_eq!(
            span.offset,
            u64::from(index - own.start) * u64::from(head.chunk_size)
        );
        let last = index + 1 == own.end;
        assert!(last == (span.offset + u64::from(span.len) == size));
        let page = layout.page_of(index);
        assert!(page < layout.page_count() && layout.page_chunks(page).contains(&index));
        assert!(layout.page_bytes(page) <= 64 * HASH_BYTES);
    }
    if step == 1 {
        let spans = (0..count).filter_map(|index| layout.chunk(index));
        assert_eq!(
            spans.map(|span| u64::from(span.len)).sum::<u64>(),
            layout.total_size()
        );
    }
}

/// Paths of one bundle, one on each line; names of people's devices.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = printable(&text);
    assert_harmless(&shown);
    assert_eq!(printable(&shown), shown);
    let shown = display_name(&text);
    assert_harmless(&shown);
    assert!(shown.len() <= MAX_NAME && display_name(&shown) == shown);

    let (mut set, mut taken) = (PathSet::new(), Vec::<BundlePath>::new());
    for line in text.split('\n').take(64) {
        let path = match BundlePath::new(line) {
            Ok(path) => path,
            Err(error) => {
                assert_error(error);
                continue;
            }
        };
        assert_eq!(path.as_str(), line, "a name is taken as it is");
        assert_path(&path);
        match set.insert_file(&path) {
            Ok(()) => taken.push(path),
            Err(Conflict::TooMany) => return,
            Err(error) => assert_error(error),
        }
    }
    for (at, a) in taken.iter().enumerate() {
        assert_eq!(set.insert_file(a), Err(Conflict::Duplicate));
        assert!(set.insert_folder(a).is_err());
        for b in &taken[at + 1..] {
            let same =
                |a: &str, b: &str| a.to_lowercase() == b.to_lowercase() || a.nfd().eq(b.nfd());
            assert!(!same(a.as_str(), b.as_str()), "{a:?} and {b:?}");
            let inside = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|b| b.starts_with('/'));
            assert!(!inside(a.as_str(), b.as_str()) && !inside(b.as_str(), a.as_str()));
        }
    }
}

fn assert_path(path: &BundlePath) {
    let text = path.as_str();
    assert!(!text.is_empty() && text.len() <= MAX_PATH);
    assert!(!text.contains(['\\', ':']) && !text.chars().any(char::is_control));
    let parts: Vec<Component<'_>> = Path::new(text).components().collect();
    assert!(
        parts
            .iter()
            .all(|part| matches!(part, Component::Normal(_)))
    );
    assert_eq!(parts.len(), path.components().count());
    for part in path.components() {
        assert!((1..=MAX_COMPONENT).contains(&part.len()));
        assert!(!part.ends_with(['.', ' ']) && !part.to_lowercase().starts_with(".handout"));
        assert!(BundlePath::single(part).is_ok());
    }
    assert_harmless(&path.printable());
}

/// The chunks that a peer says it has, and what the database kept. The first four bytes say how
/// many chunks there are.
pub fn chunkset(data: &[u8]) {
    let Some((count, bytes)) = data.split_first_chunk::<4>() else {
        return;
    };
    let count = u32::from_be_bytes(*count) % (MAX_CHUNKS + 1);
    let text = std::str::from_utf8(bytes).ok();
    let sets = [
        ChunkSet::from_bytes(bytes, count),
        ChunkSet::from_stored(bytes, count),
        text.map_or_else(
            || ChunkSet::from_bytes(&[], count),
            |text| ChunkSet::from_b64(text, count),
        ),
    ];
    if let Ok(set) = &sets[0] {
        assert_eq!(set.to_bytes(), bytes);
    }
    if let (Ok(set), Some(text)) = (&sets[2], text)
        && !text.is_empty()
    {
        assert_eq!(set.to_b64(), text);
    }
    for set in sets.iter().flatten() {
        assert_eq!(set.count(), count);
        assert_eq!(
            ChunkSet::from_bytes(set.to_bytes(), count).as_ref(),
            Ok(set)
        );
        assert_eq!(ChunkSet::from_b64(&set.to_b64(), count).as_ref(), Ok(set));
        let stored = set.to_stored();
        assert!(stored.len() <= set.to_bytes().len() + 1);
        assert_eq!(ChunkSet::from_stored(&stored, count).as_ref(), Ok(set));
        assert_eq!(set.iter().count() as u32, set.len());
        assert_eq!(set.iter_missing().count() as u32, count - set.len());
        assert!(set.iter().all(|index| index < count && set.contains(index)));
        assert!(!set.contains(count) && set.is_full() == (set.len() == count));
        let (mut rest, mut whole) = (ChunkSet::full(count), set.clone());
        rest.subtract(set);
        assert!(rest.iter().eq(set.iter_missing()));
        whole.union_with(&rest);
        assert_eq!(whole, ChunkSet::full(count));
        rest.intersect_with(set);
        assert!(rest.is_empty());
    }
}
