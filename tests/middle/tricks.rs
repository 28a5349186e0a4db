//! What the man in the middle does to one session, and what may come of it.

use handout::protocol::id::DeviceId;
use handout::protocol::identity::{Identity, b64};
use handout::protocol::proof::{self, Subject, Terms};

use crate::nodes::Rng;

/// One way to tamper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trick {
    // What is signed.
    Fingerprint,
    Ufrag,
    Pwd,
    Setup,
    // The fields of the proof.
    Key,
    To,
    Nonce,
    Issued,
    Expires,
    SessionId,
    Signature,
    // The proof line.
    ProofGone,
    ProofTwice,
    ProofInMedia,
    ProofOfAnother,
    /// Another fingerprint, signed by the man in the middle under the victim's id.
    SignedByMe,
    // More than one thing of what there must be one of.
    SecondFingerprint,
    OtherHash,
    SecondUfrag,
    SecondPwd,
    SecondSection,
    ControlCharacter,
    // The message around it.
    PeerId,
    Kind,
    Truncated,
    Spliced,
    // Descriptions of other sessions in place of this one's.
    OldInstead,
    OtherPairInstead,
    HeldBackInstead,
    /// A man in the middle with a connection of his own.
    Impostor,
    // Harmless, see `harmless`.
    CandidatesGone,
    CandidatesDead,
    CandidatesMany,
    CandidatesMine,
    Wiretapped,
    IceGone,
    IceForged,
    Reflected,
    Reordered,
    Repeated,
    OldBeside,
    ErrorBeside,
    Rewrapped,
    OtherLines,
    SameAgain,
    LineEnds,
}

pub const ALL: &[Trick] = &[
    Trick::Fingerprint,
    Trick::Ufrag,
    Trick::Pwd,
    Trick::Setup,
    Trick::Key,
    Trick::To,
    Trick::Nonce,
    Trick::Issued,
    Trick::Expires,
    Trick::SessionId,
    Trick::Signature,
    Trick::ProofGone,
    Trick::ProofTwice,
    Trick::ProofInMedia,
    Trick::ProofOfAnother,
    Trick::SignedByMe,
    Trick::SecondFingerprint,
    Trick::OtherHash,
    Trick::SecondUfrag,
    Trick::SecondPwd,
    Trick::SecondSection,
    Trick::ControlCharacter,
    Trick::PeerId,
    Trick::Kind,
    Trick::Truncated,
    Trick::Spliced,
    Trick::OldInstead,
    Trick::OtherPairInstead,
    Trick::HeldBackInstead,
    Trick::Impostor,
    // Twice as often: there are many of him.
    Trick::Impostor,
    Trick::CandidatesGone,
    Trick::CandidatesDead,
    Trick::CandidatesMany,
    Trick::CandidatesMine,
    Trick::Wiretapped,
    Trick::IceGone,
    Trick::IceForged,
    Trick::Reflected,
    Trick::Reordered,
    Trick::Repeated,
    Trick::OldBeside,
    Trick::ErrorBeside,
    Trick::Rewrapped,
    Trick::OtherLines,
    Trick::SameAgain,
    Trick::LineEnds,
];

impl Trick {
    /// True when the offer and the answer of this very session both reach their reader with every
    /// signed value and the proof unchanged, under the ids of their writers; only hints (where to
    /// look for the other side), messages beside them, and bytes that nobody signs or reads are
    /// touched. Then the two devices may well connect, and only with each other: the keys of the
    /// connection are those of the signed certificates. Whatever else is done must end it.
    pub fn harmless(self) -> bool {
        self >= Self::CandidatesGone
    }

    /// True when the trick is done to the text of an offer or answer alone.
    pub fn is_edit(self) -> bool {
        self <= Self::ControlCharacter
            || matches!(
                self,
                Self::CandidatesGone
                    | Self::CandidatesDead
                    | Self::CandidatesMany
                    | Self::OtherLines
                    | Self::SameAgain
                    | Self::LineEnds
            )
    }
}

/// What the man in the middle has at hand.
pub struct Bag<'a> {
    /// His own key: of a stranger, or of a device that both sides have authorized.
    pub me: &'a Identity,
    /// Who will read the text.
    pub reader: &'a DeviceId,
    /// A genuine description of another session, where he has one.
    pub other: Option<&'a str>,
}

/// Does a trick to the text of an offer or answer.
pub fn edit(trick: Trick, sdp: &str, rng: &mut Rng, bag: &Bag<'_>) -> String {
    let forged = format!("sha-256 {}", hex_pairs(&rng.bytes::<32>()));
    match trick {
        Trick::Fingerprint if rng.one_in(2) => each_value(sdp, "fingerprint", |_| forged.clone()),
        Trick::Fingerprint => each_value(sdp, "fingerprint", |v| flip_hex(v, rng.below(64))),
        Trick::Ufrag => each_value(sdp, "ice-ufrag", |v| other_letter(v, rng.below(v.len()))),
        Trick::Pwd => each_value(sdp, "ice-pwd", |v| other_letter(v, rng.below(v.len()))),
        Trick::Setup => {
            let way = rng.below(2);
            each_value(sdp, "setup", |v| {
                let others = ["actpass", "active", "passive"];
                let others: Vec<_> = others.into_iter().filter(|o| *o != v).collect();
                others[way].to_owned()
            })
        }
        Trick::Key => proof_field(sdp, "key", |_| b64(bag.me.public_key().as_bytes())),
        Trick::To => proof_field(sdp, "to", |_| bag.me.device_id().to_string()),
        Trick::Nonce => proof_field(sdp, "nonce", |_| b64(&rng.bytes::<16>())),
        Trick::SessionId => proof_field(sdp, "session", |_| b64(&rng.bytes::<16>())),
        Trick::Issued => {
            let by = *rng.pick(&[-100_000i64, -1, 1, 299, 100_000]);
            proof_field(sdp, "iat", |v| shifted(v, by))
        }
        Trick::Expires => {
            let by = *rng.pick(&[-300i64, -1, 1, 100_000]);
            proof_field(sdp, "exp", |v| shifted(v, by))
        }
        Trick::Signature => {
            let bit = rng.below(512);
            proof_field(sdp, "sig", |v| {
                let mut bytes = handout::protocol::identity::unb64(v).unwrap();
                bytes[bit / 8] ^= 1 << (bit % 8);
                b64(&bytes)
            })
        }
        Trick::ProofGone => without(sdp, "handout-proof"),
        Trick::ProofTwice => {
            let line = match rng.below(3) {
                0 => line_of(sdp, "handout-proof"),
                1 => line_of(&resigned(sdp, bag, rng), "handout-proof"),
                _ => line_of(sdp, "handout-proof").replace("handout-proof", "Handout-Proof"),
            };
            insert(sdp, rng.one_in(2), &line)
        }
        Trick::ProofInMedia => {
            let line = line_of(sdp, "handout-proof");
            insert(&without(sdp, "handout-proof"), false, &line)
        }
        Trick::ProofOfAnother => {
            let other = bag.other.map(|other| line_of(other, "handout-proof"));
            let line = other.unwrap_or_else(|| line_of(&resigned(sdp, bag, rng), "handout-proof"));
            insert(&without(sdp, "handout-proof"), true, &line)
        }
        Trick::SignedByMe => {
            let mine = each_value(sdp, "fingerprint", |_| forged.clone());
            resigned(&mine, bag, rng)
        }
        Trick::SecondFingerprint => insert_hidden(sdp, "fingerprint", &forged, rng),
        Trick::OtherHash => {
            let function = *rng.pick(&["sha-1", "sha-512", "md5", "SHA-384"]);
            let value = format!("{function} {}", hex_pairs(&rng.bytes::<20>()));
            insert_hidden(sdp, "fingerprint", &value, rng)
        }
        Trick::SecondUfrag => insert_hidden(sdp, "ice-ufrag", "EvilEvil", rng),
        Trick::SecondPwd => insert_hidden(sdp, "ice-pwd", &"evil".repeat(8), rng),
        Trick::SecondSection => format!(
            "{sdp}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
             a=setup:active\r\na=mid:1\r\na=sctp-port:5000\r\na=ice-ufrag:EvilEvil\r\n\
             a=ice-pwd:{}\r\na=fingerprint:{forged}\r\n",
            "evil".repeat(8)
        ),
        Trick::ControlCharacter => {
            let odd = *rng.pick(&["\r", "\r\r", "\0", "\u{b}", "\u{85}", "\u{1b}"]);
            let line = *rng.pick(&["a=ice-ufrag:EvilEvil", "a=setup:passive", "a=x"]);
            sdp.replacen("s=-", &format!("s=-{odd}{line}"), 1)
        }
        Trick::CandidatesGone => without(sdp, "candidate"),
        Trick::CandidatesDead => {
            let port = *rng.pick(&[9, 1, 65535]);
            let address = *rng.pick(&["127.0.0.1", "192.0.2.1", "224.0.0.1", "x.local"]);
            each_value(sdp, "candidate", |_| {
                candidate(1, address, port)["candidate:".len()..].to_owned()
            })
        }
        Trick::CandidatesMany => (0..100).fold(sdp.to_owned(), |sdp, n| {
            insert(
                &sdp,
                false,
                &format!("a={}", candidate(n + 7, "127.0.0.1", 2 + n as u16)),
            )
        }),
        Trick::OtherLines => {
            let more = "a=extmap-allow-mixed\r\na=x-lies:fingerprint sha-256 AB\r\n\
                        a=x\u{2028}a=ice-ufrag:EvilEvil\r\n";
            let sdp = sdp.replacen("\r\nm=", &format!("\r\n{more}m="), 1);
            sdp.replacen("s=-", "s=handout", 1)
        }
        Trick::SameAgain => ["fingerprint", "ice-ufrag", "ice-pwd"]
            .iter()
            .fold(sdp.to_owned(), |sdp, name| {
                insert(&sdp, false, &line_of(&sdp, name))
            }),
        Trick::LineEnds => sdp.replace("\r\n", "\n"),
        _ => sdp.to_owned(),
    }
}

/// The text with a proof of the man in the middle's own.
pub fn resigned(sdp: &str, bag: &Bag<'_>, rng: &mut Rng) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let terms = Terms {
        to: bag.reader,
        subject: Subject::Offer {
            session: rng.bytes(),
        },
        nonce: rng.bytes(),
        issued: now.unwrap().as_secs(),
        lifetime: 300,
    };
    proof::attach(&without(sdp, "handout-proof"), bag.me, &terms)
        .unwrap()
        .0
}

/// Where the last signed value of a text ends.
pub fn end_of_facts(sdp: &str) -> usize {
    let names = [
        "handout-proof",
        "fingerprint",
        "setup",
        "ice-ufrag",
        "ice-pwd",
    ];
    let ends = names.iter().filter_map(|name| {
        let line = line_of(sdp, name);
        sdp.rfind(&line).map(|at| at + line.len())
    });
    ends.max().unwrap()
}

/// A candidate as it stands in an `ice` message.
pub fn candidate(foundation: usize, address: &str, port: u16) -> String {
    format!("candidate:{foundation} 1 udp 2130706431 {address} {port} typ host")
}

fn name_of(line: &str) -> Option<&str> {
    let body = line.strip_prefix("a=")?.trim_end_matches(['\r', '\n']);
    Some(body.split(':').next().unwrap_or(body))
}

/// The whole line of an attribute, without its line end.
pub fn line_of(sdp: &str, name: &str) -> String {
    let line = sdp.lines().find(|line| name_of(line) == Some(name));
    line.unwrap_or_else(|| panic!("no {name} in {sdp}"))
        .to_owned()
}

/// The text without the lines of an attribute.
pub fn without(sdp: &str, name: &str) -> String {
    let lines = sdp.split_inclusive('\n');
    lines.filter(|line| name_of(line) != Some(name)).collect()
}

/// The text with each value of an attribute replaced.
pub fn each_value(sdp: &str, name: &str, mut with: impl FnMut(&str) -> String) -> String {
    let mut out = String::new();
    for line in sdp.split_inclusive('\n') {
        let body = line.trim_end_matches(['\r', '\n']);
        match body.split_once(':') {
            Some((_, value)) if name_of(line) == Some(name) => {
                let end = &line[body.len()..];
                out.push_str(&format!("a={name}:{}{end}", with(value)));
            }
            _ => out.push_str(line),
        }
    }
    out
}

fn proof_field(sdp: &str, field: &str, mut with: impl FnMut(&str) -> String) -> String {
    each_value(sdp, "handout-proof", |value| {
        let words = value.split(' ').map(|word| match word.split_once('=') {
            Some((name, value)) if name == field => format!("{name}={}", with(value)),
            _ => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    })
}

/// The text with a line more: before the first media section, or at its end.
pub fn insert(sdp: &str, session_level: bool, line: &str) -> String {
    if session_level {
        sdp.replacen("\r\nm=", &format!("\r\n{line}\r\nm="), 1)
    } else {
        format!("{sdp}{line}\r\n")
    }
}

/// A second value of an attribute, in a spelling that a reader may see or not see.
fn insert_hidden(sdp: &str, name: &str, value: &str, rng: &mut Rng) -> String {
    let line = match rng.below(6) {
        0 | 1 => format!("a={name}:{value}"),
        2 => format!("a={}:{value}", name.to_uppercase()),
        3 => format!("a= {name}:{value}"),
        4 => format!(" a={name}:{value}"),
        _ => format!("a={name} : {value}"),
    };
    let other = match rng.below(3) {
        0 => insert(sdp, true, &line),
        1 => insert(sdp, false, &line),
        _ => sdp.replacen("s=-\r\n", &format!("s=-\r\n{line}\r\n"), 1),
    };
    assert_ne!(other, sdp);
    other
}

fn hex_pairs(bytes: &[u8]) -> String {
    let pairs: Vec<_> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    pairs.join(":")
}

/// `sha-256 AB:CD:…` with one digit changed.
fn flip_hex(value: &str, digit: usize) -> String {
    let mut bytes = value.as_bytes().to_vec();
    let at = bytes.iter().position(|b| *b == b' ').unwrap() + 1 + digit / 2 * 3 + digit % 2;
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    String::from_utf8(bytes).unwrap()
}

fn other_letter(value: &str, at: usize) -> String {
    let mut bytes = value.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
    String::from_utf8(bytes).unwrap()
}

fn shifted(number: &str, by: i64) -> String {
    let number: i64 = number.parse().unwrap();
    (number + by).to_string()
}
