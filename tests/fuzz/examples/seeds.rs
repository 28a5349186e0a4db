//! `cargo run --example seeds -- FOLDER`: writes real input for each target, made by the program's
//! own encoders, for the fuzzer to begin with. With them goes what once failed.

use std::path::Path;
use std::{fs, io};

use handout_fuzz::protocol::chunkset::ChunkSet;
use handout_fuzz::protocol::frame::{ChunkHeader, encode_hashes, encode_head};
use handout_fuzz::protocol::id::{BundleId, Root, TransferId};
use handout_fuzz::protocol::identity::{Signature, b64};
use handout_fuzz::protocol::manifest::{ChunkHash, FileEntry, Head, Kind, Page};
use handout_fuzz::protocol::message::{
    Acknowledgement, Code, Decision, Hello, Message, StartTransfer,
};
use handout_fuzz::protocol::names::BundlePath;
use handout_fuzz::protocol::pairing::PairMessage;
use handout_fuzz::protocol::proof::{Subject, Terms, attach};
use handout_fuzz::protocol::signal::{Signal, SignalKind};
use handout_fuzz::targets::{NOW, writer_and_reader};

const CANDIDATES: &[&str] = &[
    "candidate:1 1 udp 2130706431 192.168.1.9 50000 typ host",
    "candidate:2 1 UDP 5 10.1.2.3 50001 typ srflx raddr 0.0.0.0 rport 0 ufrag uuuu",
    "candidate:3 1 tcp 5 192.168.1.9 9 typ host tcptype active",
    "candidate:4 1 udp 5 0e9f7c8e-0000-4000-8000-1234567890ab.local 50002 typ host",
    "candidate:5 1 udp 5 ::ffff:192.168.1.9 50003 typ host generation 0",
    "a=candidate:6 1 udp 5 fe80::1 50004 typ prflx",
    r#"{"candidate":"candidate:7 1 udp 5 192.168.1.9 5 typ relay","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":"uuuu"}"#,
    "end-of-candidates",
];

const PATHS: &[&str] = &[
    "a.txt",
    "Übung 3/Lösung.pdf",
    "bin/tool",
    "宿題/三.txt",
    "..a",
    "COM10",
    "nul.txt",
    "a/../b",
    "/etc/passwd",
    "C:x",
    "a\\b",
    ".handout/x",
    "Straße",
    "STRASSE",
    "e\u{301}",
    "\u{e9}",
    "\u{212b}",
    "\u{ac00}",
    "\u{1100}\u{1161}",
    "x/",
    "a\u{202e}gpj.exe",
    "HANDOU~1",
    "com¹.txt",
    "file.txt:stream",
    "end. ",
    "🎒.zip",
];

/// Writes numbered files into a target's folder.
struct Seeds<'a>(&'a Path);

impl Seeds<'_> {
    fn write<T: AsRef<[u8]>>(
        &self,
        target: &str,
        seeds: impl IntoIterator<Item = T>,
    ) -> io::Result<()> {
        let dir = self.0.join(target);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds.into_iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:02}")), seed)?;
        }
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let to = std::env::args()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: seeds FOLDER"))?;
    let seeds = Seeds(Path::new(&to));
    let descriptions = descriptions();
    let prefixed = |prefix: &[u8], bytes: &[u8]| [prefix, bytes].concat();
    seeds.write(
        "signaling",
        streams(&descriptions)
            .iter()
            .map(|s| prefixed(&[7], s.as_bytes())),
    )?;
    let proofs = descriptions
        .iter()
        .map(String::as_str)
        .chain(CANDIDATES.iter().copied());
    seeds.write(
        "proof",
        proofs.map(|text| prefixed(&[0, 0, 0, 99, b'x'], text.as_bytes())),
    )?;
    let failed = [r#"{"type":"\u001b[2J"}"#].map(str::to_owned);
    seeds.write(
        "message",
        messages().iter().map(Message::encode).chain(failed),
    )?;
    seeds.write("frame", frames())?;
    let failed = ["{\"v\":1,\"kind\":\"f\u{7f}lder\"}"].map(Vec::from);
    seeds.write("manifest", heads().iter().map(Head::encode).chain(failed))?;
    let all = PATHS.join("\n");
    seeds.write("names", PATHS.iter().copied().chain([all.as_str()]))?;
    seeds.write("chunkset", chunk_sets())
}

/// Descriptions with a proof that is in force, and one without.
fn descriptions() -> Vec<String> {
    let (writer, reader) = writer_and_reader();
    let hex = vec!["AB"; 32].join(":");
    let candidates: Vec<String> = CANDIDATES[..6]
        .iter()
        .map(|c| format!("a={}\r\n", c.trim_start_matches("a=")))
        .collect();
    let sdp = |setup: &str| {
        format!(
            "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 {hex}\r\n\
             a=group:BUNDLE 0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
             c=IN IP4 0.0.0.0\r\na=setup:{setup}\r\na=mid:0\r\na=sctp-port:5000\r\n\
             a=max-message-size:262144\r\na=ice-ufrag:uuuu\r\na=ice-pwd:0123456789abcdef012345\r\n\
             {}a=end-of-candidates\r\n",
            candidates.concat()
        )
    };
    let session = [3; 16];
    let sign = |sdp: &str, subject| {
        let terms = Terms {
            to: &reader.device_id(),
            subject,
            nonce: [9; 16],
            issued: NOW,
            lifetime: 60,
        };
        attach(sdp, &writer, &terms)
            .map(|signed| signed.0)
            .unwrap_or_default()
    };
    let offer = sign(&sdp("actpass"), Subject::Offer { session });
    let answer = sign(
        &sdp("active"),
        Subject::Answer {
            session,
            offer: [5; 32],
        },
    );
    let lf = sign(
        &sdp("passive").replace("\r\n", "\n"),
        Subject::Offer { session },
    );
    vec![offer, answer, lf, sdp("actpass")]
}

/// What comes over signaling connections.
fn streams(descriptions: &[String]) -> Vec<String> {
    let (writer, _) = writer_and_reader();
    let signal = |kind, data: &str| {
        Signal {
            kind,
            peer_id: writer.device_id(),
            data: data.to_owned(),
        }
        .encode()
    };
    let mut out: Vec<String> = descriptions
        .iter()
        .map(|sdp| signal(SignalKind::Offer, sdp))
        .collect();
    out.push(signal(SignalKind::Answer, &descriptions[1]));
    out.push(
        CANDIDATES
            .iter()
            .map(|c| signal(SignalKind::Ice, c))
            .collect(),
    );
    out.push(signal(
        SignalKind::Error,
        "not authorized: run handout authorize",
    ));
    out.push("{\"kind\":\"ice\",\n \"peer_id\": \"abc_1\", \"v\": [{\"x\":null}],\r\n\"data\":\"}\\\"{\\u00e9\"} {}".to_owned());
    out
}

fn messages() -> Vec<Message> {
    let (writer, _) = writer_and_reader();
    let (handle, code, reason) = (3, Code::DiskFull, "no room: 5 MB free".to_owned());
    let (root, sig) = (Root([6; 32]), Signature([7; 64]));
    let have = Some(ChunkSet::full(70).to_b64());
    let key = writer.public_key();
    let ack = |status| Acknowledgement {
        handle,
        status,
        have: have.clone(),
        acks: true,
        root: Some(root),
        code: Some(code),
        reason: Some(reason.clone()),
    };
    let start = StartTransfer {
        handle,
        id: TransferId([1; 16]),
        bundle: BundleId([2; 32]),
        origin: writer.device_id(),
        key,
        name: "lesson-3".to_owned(),
        kind: Kind::Folder,
        size: 700_005,
        files: 2,
        chunk_size: 262_144,
        chunks: 4,
        mime: "inode/directory".to_owned(),
        head_size: 200,
        root: Some(root),
        root_sig: Some(sig),
    };
    let half = b64(&[5; 32]);
    let mut out = vec![
        Message::Hello(Hello {
            v: 1,
            id: writer.device_id(),
            key,
            nonce: half.clone(),
            name: "Room 12 / 3".to_owned(),
            device: "desktop".to_owned(),
            run: None,
        }),
        Message::Proof { sig },
        Message::StartTransfer(Box::new(start)),
        Message::Ack {
            handle,
            bytes: 1 << 40,
        },
        Message::EndOfChunks {
            handle,
            root,
            root_sig: sig,
        },
        Message::Need {
            handle,
            have: have.clone(),
        },
        Message::TransferComplete {
            handle,
            root: Some(root),
        },
        Message::Pause {
            handle,
            code,
            reason: reason.clone(),
        },
        Message::Resume { handle },
        Message::Cancel {
            handle,
            code,
            reason: reason.clone(),
        },
    ];
    let decisions = [
        Decision::Accepted,
        Decision::Complete,
        Decision::Refused,
        Decision::Paused,
    ];
    out.extend(decisions.map(|d| Message::StartTransferAcknowledged(ack(d))));
    let steps = [
        PairMessage::Commit {
            commit: half.clone(),
        },
        PairMessage::Nonce {
            nonce: half.clone(),
        },
        PairMessage::Reveal {
            nonce: half.clone(),
        },
        PairMessage::Confirm,
        PairMessage::Pin {
            share: b64(&[5; 33]),
        },
        PairMessage::PinProof { mac: half.clone() },
        PairMessage::Invite {
            invite: "abcd".to_owned(),
            mac: half.clone(),
        },
        PairMessage::Accepted {
            mac: Some(half),
            group: Some("class-3b".to_owned()),
        },
        PairMessage::Reject { code, reason },
    ];
    out.extend(steps.map(Message::Pair));
    out
}

fn frames() -> Vec<Vec<u8>> {
    let hashes = vec![ChunkHash::of(b"a"), ChunkHash::of(b"b")];
    let page = Page { number: 0, hashes }.encode();
    let chunk = |offset, payload: &[u8]| {
        let header = ChunkHeader {
            handle: 3,
            index: 69,
            offset,
            length: 5000,
            xxh3: 1 << 50,
            ack_now: offset > 0,
        };
        header.encode(payload).to_vec()
    };
    let head = encode_head(3, &heads()[0].encode())
        .map(|m| m.to_vec())
        .collect::<Vec<_>>();
    let mut out = vec![
        encode_hashes(3, 0, &Signature([7; 64]), &page).to_vec(),
        chunk(0, &[]),
        chunk(0, &[1; 100]),
        chunk(4900, &[2; 100]),
    ];
    out.extend(head);
    out
}

fn heads() -> Vec<Head> {
    let path = |path: &str| BundlePath::new(path).ok();
    let file = |at: &str, size, exec| {
        Some(FileEntry {
            path: path(at)?,
            size,
            exec,
        })
    };
    let head = |name: &str, kind, chunk_size, files: Vec<Option<FileEntry>>, dirs: &[&str]| {
        Some(Head {
            name: path(name)?,
            kind,
            chunk_size,
            files: files.into_iter().flatten().collect(),
            dirs: dirs.iter().copied().filter_map(path).collect(),
        })
    };
    let many = (0..70)
        .map(|i| file(&format!("{}/{i}.txt", i % 7), i * 9999, i % 3 == 0))
        .collect();
    let all = PATHS.iter().map(|path| file(path, 1, false)).collect();
    let lesson = vec![file("a.txt", 5, false), file("bin/tool", 700_000, true)];
    [
        head("lesson-3", Kind::Folder, 262_144, lesson, &["empty/folder"]),
        head(
            "a.iso",
            Kind::File,
            1 << 22,
            vec![file("a.iso", 512 << 30, false)],
            &[],
        ),
        head(
            "leer",
            Kind::File,
            65_536,
            vec![file("leer", 0, false)],
            &[],
        ),
        head("nothing", Kind::Folder, 65_536, vec![], &[]),
        head("many", Kind::Folder, 65_536, many, &[]),
        head("odd", Kind::Folder, 65_536, all, &["Übung 3/x", "宿題/四"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Sets of several kinds in all three forms.
fn chunk_sets() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for count in [0, 1, 64, 70, 1000] {
        let (mut half, mut odd) = (ChunkSet::new(count), ChunkSet::new(count));
        for index in 0..count / 2 {
            half.insert(index);
            odd.insert(index * 3);
        }
        for set in [ChunkSet::full(count), half, odd] {
            let forms = [
                set.to_bytes().to_vec(),
                set.to_stored(),
                set.to_b64().into_bytes(),
            ];
            out.extend(forms.map(|form| [&count.to_be_bytes()[..], &form].concat()));
        }
    }
    out
}
