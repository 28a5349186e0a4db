//! `cargo run --example seeds -- FOLDER`: writes real input for each target, made by the program's
//! own encoders, for the fuzzer to begin with. With them goes what once failed.

use std::path::Path;
use std::{fs, io};

use handout_fuzz::protocol::chunkset::ChunkSet;
use handout_fuzz::protocol::exchange::Have;
use handout_fuzz::protocol::frame::{ChunkHeader, encode_hashes, encode_head};
use handout_fuzz::protocol::id::{BundleId, Root, TransferId};
use handout_fuzz::protocol::identity::{Signature, b64};
use handout_fuzz::protocol::introduction::Introduction;
use handout_fuzz::protocol::invite::{Invite, Secret};
use handout_fuzz::protocol::manifest::{ChunkHash, FileEntry, Head, Kind, Page};
use handout_fuzz::protocol::message::{
    Acknowledgement, Code, Decision, Hello, Message, StartTransfer,
};
use handout_fuzz::protocol::names::BundlePath;
use handout_fuzz::protocol::pairing::PairMessage;
use handout_fuzz::protocol::proof::{Subject, Terms, attach};
use handout_fuzz::protocol::roles::Roles;
use handout_fuzz::protocol::roster::{self, Draft, Member, Roster};
use handout_fuzz::protocol::rotation::Rotation;
use handout_fuzz::protocol::series::Series;
use handout_fuzz::protocol::signal::{Signal, SignalKind};
use handout_fuzz::targets::trust::ADMIN;
use handout_fuzz::targets::{NOW, who, writer_and_reader};

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
    seeds.write("chunkset", chunk_sets())?;
    seeds.write("pairing", pairings())?;
    seeds.write("invite", invites())?;
    seeds.write("roster", rosters())?;
    seeds.write("introduction", introductions())
}

/// Pairings that go well, and some that do not: by which way, then a step on each line.
fn pairings() -> Vec<Vec<u8>> {
    let scripts = [
        "\0n1\ny\nf",
        "\0n1\nf\ny",
        "\0n1\nf\nf",
        "\0n1\ne\nx",
        "\0e\nr1",
        "\x01c1\nr1\nf\ny",
        "\x01c1\nr1\ny\ny\nf",
        "\x01c1\nr2",
        "\x01o1\nr1",
        "\x01c1\ne\nr1",
        "\x02s314159\np",
        "\x02s000000\np\ns111111\np\ns222222\np\ns314159\np",
        "\x02o314159",
        "\x02s314159\ne\np",
        "\x02w\x7f\nw\x7f\nw\x7f\ns314159\np",
        "\x03s314159\np",
        "\x03s000000\np",
        "\x03s314159\ne\np",
        "\x03e",
    ];
    let steps = messages()
        .into_iter()
        .filter(|message| matches!(message, Message::Pair(_)))
        .map(|message| message.encode())
        .collect::<Vec<_>>();
    let mut out: Vec<Vec<u8>> = scripts
        .iter()
        .map(|script| script.as_bytes().to_vec())
        .collect();
    for way in 0..4 {
        let line = |step: &String| [&[way], step.as_bytes()].concat();
        out.extend(steps.iter().map(line));
    }
    out
}

/// Invites as text and as the bytes in a token, and devices that use one.
fn invites() -> Vec<Vec<u8>> {
    let addresses = [
        vec![],
        vec!["192.168.1.5:7420"],
        vec!["[fd00::1]:7420", "10.0.0.1:1"],
        vec!["10.0.0.1:1"; 8],
    ];
    let mut out = Vec::new();
    for addresses in addresses {
        let invite = Invite {
            issuer: who(1).device_id(),
            secret: Secret::new([5; 16]),
            expires: NOW as u32,
            addresses: addresses
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
        };
        out.push([b"\0", invite.token().as_bytes()].concat());
        out.push([b"\0", invite.url().to_uppercase().as_bytes()].concat());
        let token = invite.token().to_ascii_uppercase();
        let bytes = data_encoding::BASE32_NOPAD.decode(token.as_bytes());
        let mut content = bytes.unwrap_or_default();
        content.truncate(content.len().saturating_sub(4));
        out.push([b"\x01", &content[..]].concat());
    }
    // Uses, then steps of three bytes: which mac, which device, which other.
    let scripts: [&[u8]; 7] = [
        &[2, 1, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 1, 0],
        &[2, 4, 0, 1, 0, 6, 255, 0, 6, 255, 0, 6, 255, 0, 0, 1, 0],
        &[2, 4, 0, 1, 0, 7, 255, 0, 0, 1, 0],
        &[2, 4, 1, 1, 7, 1, 1, 8, 2, 1, 2, 3, 1, 0, 4, 1, 0],
        &[2, 0, 0, 1, 0],
        &[2, 1, 5, 1, 0, 0, 1, 0],
        &[2, 3, 0, 6, 0, 0, 6, 0, 2, 6, 5, 2, 5, 6],
    ];
    out.extend(scripts.map(<[u8]>::to_vec));
    out
}

/// Drafts and signed rosters, behind what happens to them.
fn rosters() -> Vec<Vec<u8>> {
    let member = |n: u8, name: &str, roles| Member {
        id: who(n).device_id(),
        name: name.to_owned(),
        roles,
    };
    let draft = |group: &str, note: &str, roles, devices| Draft {
        group: group.to_owned(),
        note: note.to_owned(),
        roles,
        devices,
    };
    let seats = vec![
        member(1, "Seat 1", None),
        member(2, "Übung", Some(Roles::ALL)),
    ];
    let twice = vec![member(1, "", None), member(1, "", None)];
    let drafts = [
        draft("class 3b", "term 2", Some(Roles::RECEIVE), seats),
        draft("leer", "", None, vec![]),
        draft("a", "", Some(Roles::NONE), twice),
        draft(
            "all",
            "a\u{1b}[2Jb",
            None,
            vec![member(1, "a\u{202e}b", None)],
        ),
        draft("b", "a\u{202e}b", None, vec![]),
    ];
    let happens: [&[u8; 13]; 5] = [
        b"\0\0\0\x20x\0\x01\x02\x03\x40\x41\x42\x43",
        b"\0\0\0\x90 \x03\x02\x01\0\x43\x42\x41\x40",
        b"\0\0\0\xa02\x10\x11\x12\x13\x20\x21\x22\x23",
        b"\0\0\0\xff\"\x80\x81\x04\x08\x0c\x30\x34\x38",
        b"\0\0\x01\x40A\x01\x05\x45\x01\x3d\x3d\x0e\x0f",
    ];
    let mut out: Vec<Vec<u8>> = happens.iter().map(|happens| happens.to_vec()).collect();
    for (draft, happens) in drafts.into_iter().zip(happens) {
        out.push([happens, draft.to_text().as_bytes()].concat());
        for (version, expires) in [(1, NOW + 3600), (roster::MAX_VERSION, u64::MAX)] {
            let terms = roster::Terms {
                version,
                issued: NOW,
                expires,
            };
            if let Ok(signed) = Roster::sign(draft.clone(), terms, &who(ADMIN)) {
                out.push([happens, signed.as_bytes()].concat());
                let text = String::from_utf8_lossy(signed.as_bytes());
                for key in ["version\\\":", "issued\\\":", "expires\\\":"] {
                    let how = redated(&text, key);
                    out.push([&how, &happens[5..], signed.as_bytes()].concat());
                }
            }
        }
    }
    out
}

/// The change that makes the last digit of a number another one.
fn redated(text: &str, key: &str) -> [u8; 5] {
    let number = text.find(key).unwrap_or_default() + key.len();
    let digits = text.as_bytes()[number..]
        .iter()
        .take_while(|c| c.is_ascii_digit());
    let at = number + digits.count().saturating_sub(1);
    let digit = if text.as_bytes().get(at) == Some(&b'7') {
        b'8'
    } else {
        b'7'
    };
    let [a, b, c, d] = (at as u32).to_be_bytes();
    [a, b, c, d, digit]
}

/// Introductions, changes of key, what neighbours say, and steps of those who introduce.
fn introductions() -> Vec<Vec<u8>> {
    let introduce = |by: u8, a: u8, b: u8, issued, lifetime| {
        let (a, b) = (who(a).device_id(), who(b).device_id());
        let bundle = BundleId([7; 32]);
        let made = Introduction::new(&who(by), bundle, &a, &b, issued, lifetime, [9; 16]);
        Message::Introduce(Box::new(made)).encode()
    };
    let rotate = |old: u8, new: u8| Rotation::sign(&who(old), &who(new), NOW);
    let chain = |names: &[u8]| {
        let chain: Vec<_> = names
            .windows(2)
            .map(|pair| rotate(pair[0], pair[1]))
            .collect();
        serde_json::to_string(&chain).unwrap_or_default()
    };
    let have = |set: &ChunkSet| {
        let text = Message::Have(Box::new(Have {
            handle: 3,
            bundle: BundleId([7; 32]),
            origin: who(1).device_id(),
            have: set.to_b64(),
            root: Some(Root([6; 32])),
            root_sig: Some(Signature([7; 64])),
        }))
        .encode();
        [&[10], text.as_bytes()].concat()
    };
    let want = |chunks: &[(u32, u32)]| {
        let (handle, chunks) = (3, chunks.to_vec());
        [&[100], Message::Want { handle, chunks }.encode().as_bytes()].concat()
    };
    let mut half = ChunkSet::new(30);
    (0..15).for_each(|at| {
        half.insert(at * 2);
    });
    let mut out = Vec::new();
    for (what, bytes) in [
        (0, introduce(1, 2, 3, NOW, 3600).into_bytes()),
        (0, introduce(1, 2, 3, NOW - 4000, 3600).into_bytes()),
        (0, introduce(1, 2, 3, NOW, 100_000).into_bytes()),
        (0, introduce(1, 3, 4, NOW, 3600).into_bytes()),
        (0, introduce(4, 2, 3, NOW, 3600).into_bytes()),
        (0, introduce(1, 1, 2, NOW, 3600).into_bytes()),
        (1, chain(&[1, 2]).into_bytes()),
        (1, chain(&[1, 2, 3]).into_bytes()),
        (1, chain(&[1, 2, 3, 4, 5]).into_bytes()),
        (1, chain(&[1, 2, 3, 4, 5, 6]).into_bytes()),
        (1, b"\x01\x02\x03".to_vec()),
        (2, have(&ChunkSet::full(30))),
        (2, have(&half)),
        (2, have(&ChunkSet::new(30))),
        (2, want(&[(3, 2), (0, 1)])),
        (2, want(&[(0, 30), (0, 30)])),
        (2, want(&[(29, 1), (u32::MAX, 2)])),
        (2, want(&[(0, 65)])),
        (2, want(&[(0, 40), (100, 40)])),
        (
            3,
            [[0, 2, 1, 7], [0, 3, 1, 7], [1, 2, 1, 7], [0, 2, 1, 7]].concat(),
        ),
        (
            3,
            [
                [0, 2, 1, 7],
                [2, 2, 0, 0],
                [0, 2, 1, 7],
                [3, 2, 0, 0],
                [0, 2, 1, 7],
            ]
            .concat(),
        ),
        (
            3,
            [
                [6, 2, 1, 7],
                [4, 2, 1, 7],
                [6, 2, 1, 7],
                [6, 2, 1, 8],
                [5, 9, 0, 8],
            ]
            .concat(),
        ),
        (
            4,
            [
                [60, 2, 3, 1],
                [2, 2, 3, 1],
                [4, 2, 3, 1],
                [5, 4, 30, 1],
                [1, 2, 0, 0],
            ]
            .concat(),
        ),
        (
            4,
            [
                [2, 2, 3, 1],
                [60, 2, 3, 1],
                [0, 3, 4, 1],
                [5, 3, 0, 1],
                [2, 2, 3, 1],
            ]
            .concat(),
        ),
        (
            4,
            [[60, 2, 3, 1]]
                .into_iter()
                .chain([[2, 2, 3, 1]; 66])
                .collect::<Vec<_>>()
                .concat(),
        ),
    ] {
        out.push([b"\0\0\0\x40A", &[what][..], &bytes].concat());
    }
    let (first, second) = (who(2).device_id(), who(3).device_id());
    let bundle = BundleId([7; 32]);
    let made = Introduction::new(&who(1), bundle, &first, &second, NOW, 3600, [9; 16]);
    let text = serde_json::to_string(&made).unwrap_or_default();
    for key in ["\"issued\":", "\"expires\":"] {
        let message = Message::Introduce(Box::new(made.clone())).encode();
        out.push([&redated(&text, key)[..], &[0], message.as_bytes()].concat());
    }
    // The chain that the target signs itself; its first link's time is changed.
    let text = chain(&[1, 2]);
    let how = redated(&text, "\"issued\":");
    out.push([&how[..], &[1, 1, 2]].concat());
    // One signature of a link is that of another link.
    for (old, new) in [(3, 2), (1, 3)] {
        let mut link = rotate(1, 2);
        (link.old_sig, link.new_sig) = (rotate(old, 2).old_sig, rotate(1, new).new_sig);
        let text = serde_json::to_string(&[link]).unwrap_or_default();
        out.push([&how[..], &[1], text.as_bytes()].concat());
    }
    out
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
        pages_first: true,
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
        series: Some(Series {
            name: "lessons".parse().unwrap(),
            version: 7,
        }),
        hand_in: true,
        pages_first: true,
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
            invite: Secret::new([5; 16]).id(),
            mac: half.clone(),
        },
        PairMessage::Accepted {
            mac: half,
            group: Some("class-3b".to_owned()),
        },
        PairMessage::Reject { code, reason },
    ];
    out.extend(steps.map(Message::Pair));
    let (peer, bundle) = (who(3).device_id(), BundleId([2; 32]));
    out.push(Message::EndIntroduction {
        bundle,
        peer: peer.clone(),
        reason: "revoked".to_owned(),
    });
    out.push(Message::Signal {
        with: peer,
        passed: true,
        kind: SignalKind::Ice,
        data: CANDIDATES[0].to_owned(),
    });
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
