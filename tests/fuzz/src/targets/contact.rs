//! First contact: pairing and invites. The fuzzer plays the other side, which may say anything at
//! any time, also what an honest device would say, and what we have said ourselves.

use std::time::{Duration, Instant};

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use super::{NOW, assert_error, assert_harmless, id, writer_and_reader};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::{b64, statement};
use crate::protocol::invite::{Invite, Issued, MAX_ADDRESSES, MAX_TEXT, NotLetIn, Secret};
use crate::protocol::message::Message;
use crate::protocol::pairing::code::CodePairing;
use crate::protocol::pairing::pin::{PinDoor, PinExchange, TRIES};
use crate::protocol::pairing::{Ended, PairMessage, Parties, Step};

/// The PIN on our screen.
pub const PIN: &str = "314159";
const BINDING: [u8; 32] = [7; 32];
const OUR_NONCE: [u8; 32] = [0xaa; 32];
/// Steps of one pairing that are played.
const STEPS: usize = 24;

/// Our ends of the connection and the other side's.
fn ends(binding: [u8; 32]) -> (Parties, Parties) {
    let (other, us) = writer_and_reader();
    let (ours, theirs) = (us.public_key(), other.public_key());
    let turned = Parties {
        binding,
        ours: theirs,
        theirs: ours,
    };
    (
        Parties {
            binding,
            ours,
            theirs,
        },
        turned,
    )
}

/// A pairing. The first byte says by which way and who begins; then come lines, each a step.
pub fn pairing(data: &[u8]) {
    let Some((&way, script)) = data.split_first() else {
        return;
    };
    let script = String::from_utf8_lossy(script);
    let lines = script.split('\n').take(STEPS);
    match way % 4 {
        0 => by_code(lines, true),
        1 => by_code(lines, false),
        2 => at_the_shown_pin(lines),
        _ => with_a_typed_pin(lines),
    }
}

/// What a line says, where it says it in JSON: the whole message, as on the channel.
fn said(line: &str) -> Option<PairMessage> {
    match Message::decode(line.as_bytes()) {
        Ok(Message::Pair(message)) => Some(message),
        Ok(_) => None,
        Err(error) => {
            assert_error(error);
            None
        }
    }
}

/// An ended pairing tells no more than it should, and what it sends can be sent.
fn assert_end(say: Option<&PairMessage>, why: &Ended) {
    assert_harmless(&why.to_string());
    if let Ended::Refused { reason, .. } = why {
        assert!(reason.chars().count() <= 200, "{reason}");
        assert_eq!(say, None, "a refusal is not answered");
    }
    if let Some(say) = say {
        let text = Message::Pair(say.clone()).encode();
        assert_eq!(said(&text).as_ref(), Some(say));
        assert!(matches!(say, PairMessage::Reject { .. }));
    }
}

fn code_commit(binding: [u8; 32], nonce: [u8; 32]) -> PairMessage {
    CodePairing::begin(ends(binding).1, nonce).1
}

fn nonce_of(number: &str) -> [u8; 32] {
    [number.bytes().next().unwrap_or_default(); 32]
}

/// By a compared code, with what has really happened noted beside the machine.
fn by_code<'a>(lines: impl Iterator<Item = &'a str>, we_begin: bool) {
    let (us, them) = ends(BINDING);
    let mut ours = we_begin.then(|| CodePairing::begin(us, OUR_NONCE));
    let mut last = ours.as_ref().map(|(_, first)| first.clone());
    let mut committed = None;
    let (mut shown, mut over) = (false, false);
    let (mut we_agree, mut they_agree) = (false, false);
    for line in lines {
        let Some(op) = line.chars().next() else {
            continue;
        };
        let rest = &line[op.len_utf8()..];
        let message = match op {
            '{' => said(line),
            'c' => Some(code_commit(BINDING, nonce_of(rest))),
            // Made for another connection.
            'o' => Some(code_commit([8; 32], nonce_of(rest))),
            'n' => Some(PairMessage::Nonce {
                nonce: b64(&nonce_of(rest)),
            }),
            'r' => Some(PairMessage::Reveal {
                nonce: b64(&nonce_of(rest)),
            }),
            'f' => Some(PairMessage::Confirm),
            'e' => last.clone(),
            _ => None,
        };
        if let Some(PairMessage::Commit { commit }) = &message {
            committed.get_or_insert_with(|| commit.clone());
        }
        let step = match (&mut ours, &message, op) {
            (Some((machine, _)), None, 'y') => {
                let showing = machine.is_showing();
                let step = machine.answer(true);
                we_agree |= showing;
                step
            }
            (Some((machine, _)), None, 'x') => machine.answer(false),
            (Some((machine, _)), Some(message), _) => {
                they_agree |= machine.is_showing() && *message == PairMessage::Confirm;
                machine.on_message(message.clone())
            }
            (None, Some(PairMessage::Commit { commit }), _) => {
                match CodePairing::respond(us, commit, OUR_NONCE) {
                    Ok((machine, say)) => {
                        ours = Some((machine, say.clone()));
                        Step::Say(say)
                    }
                    Err(why) => return assert_end(None, &why),
                }
            }
            _ => continue,
        };
        assert!(
            !over || matches!(step, Step::Wait | Step::End { .. }),
            "{step:?}"
        );
        match step {
            Step::Say(say) => last = Some(say),
            Step::Wait => {}
            Step::Show { code, say } => {
                assert!(!shown, "a second code");
                assert!(code.len() == 6 && code.bytes().all(|c| c.is_ascii_digit()));
                shown = true;
                let say = say.inspect(|say| last = Some(say.clone()));
                match (&message, say) {
                    // We are bound to our nonce, and say it now.
                    (Some(PairMessage::Nonce { nonce }), Some(PairMessage::Reveal { .. })) => {
                        let PairMessage::Commit { commit } = code_of_ours(us) else {
                            unreachable!("it begins with a commitment")
                        };
                        assert_eq!(other_code_after_commit(them, &commit, nonce), Some(code));
                    }
                    // They are bound to theirs: the one that their first commitment was made of.
                    (Some(PairMessage::Reveal { nonce }), None) => {
                        let nonce = raw(nonce);
                        let PairMessage::Commit { commit } = code_commit(BINDING, nonce) else {
                            unreachable!("it begins with a commitment")
                        };
                        assert_eq!(committed, Some(commit), "not what was committed to");
                        let (mut honest, _) = CodePairing::begin(them, nonce);
                        let ours = b64(&OUR_NONCE);
                        let step = honest.on_message(PairMessage::Nonce { nonce: ours });
                        assert!(matches!(step, Step::Show { code: c, .. } if c == code));
                    }
                    other => panic!("a code after {other:?}"),
                }
            }
            Step::Grant { .. } => {
                assert!(shown && we_agree && they_agree, "let in by nobody");
                over = true;
            }
            Step::End { say, why } => {
                assert_end(say.as_ref(), &why);
                over = true;
            }
        }
    }
}

fn raw(text: &str) -> [u8; 32] {
    let bytes = crate::protocol::identity::unb64(text).expect("a nonce that was taken");
    bytes.try_into().expect("32 bytes")
}

fn code_of_ours(us: Parties) -> PairMessage {
    CodePairing::begin(us, OUR_NONCE).1
}

/// What an honest other side shows, which said this nonce of its own.
fn other_code_after_commit(them: Parties, commit: &str, nonce: &str) -> Option<String> {
    let (mut honest, _) = CodePairing::respond(them, commit, raw(nonce)).ok()?;
    match honest.on_message(PairMessage::Reveal {
        nonce: b64(&OUR_NONCE),
    }) {
        Step::Show { code, .. } => Some(code),
        _ => None,
    }
}

/// The PIN is on our screen; whoever types guesses it, at most three times. Each guess is a fresh
/// exchange, as on a fresh connection.
fn at_the_shown_pin<'a>(lines: impl Iterator<Item = &'a str>) {
    let (us, them) = ends(BINDING);
    let start = Instant::now();
    let life = Duration::from_secs(300);
    let mut door = PinDoor::open(start, life);
    let (mut now, mut guesses) = (start, 0);
    let mut guessing: Option<(PinExchange, PinExchange, &str)> = None;
    let mut answer = None;
    let mut ours: Option<PinExchange> = None;
    for line in lines {
        let Some(op) = line.chars().next() else {
            continue;
        };
        let rest = &line[op.len_utf8()..];
        // An honest typist with a guess, or a share of any kind.
        let share = match op {
            's' | 'o' => {
                let parties = if op == 's' { them } else { ends([8; 32]).1 };
                let (typist, share) = PinExchange::typed(rest, parties);
                Some((Some((typist, rest, op)), share))
            }
            '{' => match said(line) {
                Some(message @ PairMessage::Pin { .. }) => Some((None, message)),
                Some(message) => {
                    let machine = guessing.as_mut().map(|(_, shower, _)| shower);
                    if let Some(machine) = machine.or(ours.as_mut()) {
                        assert_no_grant(machine.on_message(message));
                    }
                    None
                }
                None => None,
            },
            'w' => {
                now += Duration::from_secs(u64::from(rest.bytes().next().unwrap_or_default()));
                None
            }
            // What is said of our own comes back.
            'e' => {
                if let (Some((_, shower, _)), Some(message)) = (&mut guessing, &answer) {
                    let message: &PairMessage = message;
                    assert_no_grant(shower.on_message(message.clone()));
                }
                None
            }
            'p' => {
                if let (Some((mut typist, mut shower, guess)), Some(message)) =
                    (guessing.take(), answer.take())
                {
                    let Step::Say(proof) = typist.on_message(message) else {
                        panic!("an honest typist cannot go on")
                    };
                    match shower.on_message(proof) {
                        Step::Grant {
                            say: Some(their_proof),
                        } => {
                            assert_eq!(guess, PIN, "let in by another PIN");
                            let end = typist.on_message(their_proof);
                            assert_eq!(end, Step::Grant { say: None });
                            let again = shower.on_message(PairMessage::Confirm);
                            assert!(matches!(again, Step::End { .. }));
                            return;
                        }
                        step => assert_no_grant(step),
                    }
                }
                None
            }
            _ => None,
        };
        let Some((typist, PairMessage::Pin { share })) = share else {
            continue;
        };
        let taken = door.take(now);
        let open = now < start + life && guesses < u32::from(TRIES);
        assert_eq!(taken.is_ok(), open, "guess {guesses}");
        if !open {
            continue;
        }
        guesses += 1;
        guessing = None;
        match PinExchange::answer(PIN, us, &share) {
            Ok((shower, say)) => match typist {
                Some((typist, guess, 's')) => {
                    guessing = Some((typist, shower, guess));
                    answer = Some(say);
                }
                // On another connection even the right PIN is worth nothing.
                Some((mut typist, ..)) => {
                    let mut shower = shower;
                    let Step::Say(proof) = typist.on_message(say) else {
                        panic!("an honest typist cannot go on")
                    };
                    assert_no_grant(shower.on_message(proof));
                }
                None => ours = Some(shower),
            },
            Err(why) => assert_end(None, &why),
        }
    }
}

/// The PIN is typed here; the other side does not know it.
fn with_a_typed_pin<'a>(lines: impl Iterator<Item = &'a str>) {
    let (us, them) = ends(BINDING);
    let (mut typist, first) = PinExchange::typed(PIN, us);
    let PairMessage::Pin { share: ours } = &first else {
        panic!("it begins with a share")
    };
    let mut last = first.clone();
    let mut other: Option<(PinExchange, &str)> = None;
    for line in lines {
        let Some(op) = line.chars().next() else {
            continue;
        };
        let rest = &line[op.len_utf8()..];
        let message = match op {
            '{' => said(line),
            'e' => Some(last.clone()),
            's' => PinExchange::answer(rest, them, ours).ok().map(|made| {
                other = Some((made.0, rest));
                made.1
            }),
            // The answer of an honest other side to what we said last. Nobody else can say it: it
            // is the only way to a grant here.
            'p' => {
                if let Some((mut shower, pin)) = other.take()
                    && let Step::Grant { say: Some(proof) } = shower.on_message(last.clone())
                {
                    assert_eq!(pin, PIN, "let in by another PIN");
                    let step = typist.on_message(proof);
                    assert!(matches!(step, Step::Grant { say: None } | Step::End { .. }));
                }
                None
            }
            _ => None,
        };
        let Some(message) = message else { continue };
        match typist.on_message(message) {
            Step::Say(say) => last = say,
            Step::End { say, why } => assert_end(say.as_ref(), &why),
            step => panic!("without the PIN: {step:?}"),
        }
    }
}

fn assert_no_grant(step: Step) {
    match step {
        Step::End { say, why } => assert_end(say.as_ref(), &why),
        step => panic!("{step:?}"),
    }
}

/// An invite. The first byte says what follows: a text that a person has pasted, what a token
/// holds without its checksum, or what devices do with an invite that we have issued.
pub fn invite(data: &[u8]) {
    let Some((&what, rest)) = data.split_first() else {
        return;
    };
    match what % 3 {
        0 => pasted(&String::from_utf8_lossy(rest)),
        1 => {
            let sum = Sha256::digest(statement("handout/invite-sum/1", &[rest]));
            let token = BASE32_NOPAD.encode(&[rest, &sum[..4]].concat());
            pasted(&token);
        }
        _ => redeemed(rest),
    }
}

fn pasted(text: &str) {
    let invite = match Invite::parse(text) {
        Ok(invite) => invite,
        Err(error) => return assert_error(error),
    };
    assert!(text.len() <= MAX_TEXT && invite.addresses.len() <= MAX_ADDRESSES);
    assert!(invite.issuer.is_self_certifying());
    for written in [invite.token(), invite.url()] {
        assert!(written.len() <= MAX_TEXT);
        assert_harmless(&written);
        assert_eq!(Invite::parse(&written).as_ref(), Ok(&invite));
        assert_eq!(
            Invite::parse(&format!(" {}\n", written.to_ascii_uppercase())),
            Ok(invite.clone())
        );
    }
    // The secret stays out of logs.
    let secret = String::from(invite.secret.clone());
    assert!(!format!("{invite:?}").contains(&secret));
}

/// Devices come with macs that are right or not, times go by, a person takes the invite back.
fn redeemed(script: &[u8]) {
    let Some((&uses, steps)) = script.split_first() else {
        return;
    };
    let issuer = id(0);
    let secret = Secret::new([5; 16]);
    let mut issued = Issued {
        id: secret.id(),
        secret: secret.clone(),
        created: NOW,
        expires: NOW + 600,
        uses: u32::from(uses % 5),
        used: Vec::new(),
        group: None,
        roles: None,
        revoked: false,
        standing: None,
    };
    let (mut now, mut inside) = (NOW, Vec::<DeviceId>::new());
    for (at, step) in steps.chunks_exact(3).enumerate().take(64) {
        let (who, other) = (id(step[1] % 7 + 1), id(step[2] % 7 + 1));
        let right = |binding: &[u8; 32], joiner: &DeviceId, issuer: &DeviceId| {
            b64(&secret.join_mac(binding, joiner, issuer))
        };
        let mac = match step[0] % 8 {
            0 => right(&BINDING, &who, &issuer),
            1 => right(&[step[2]; 32], &who, &issuer),
            2 => right(&BINDING, &other, &issuer),
            3 => right(&BINDING, &issuer, &who),
            4 => b64(&secret.accepted_mac(&BINDING, &who, &issuer, None)),
            5 => String::from_utf8_lossy(&steps[at * 3..]).into_owned(),
            6 => {
                now = now.saturating_add(u64::from(step[1]));
                continue;
            }
            _ => {
                issued.revoked |= step[1] == 255;
                continue;
            }
        };
        let known = mac == right(&BINDING, &who, &issuer);
        let before = issued.used.clone();
        let result = issued.redeem(&mac, &BINDING, &who, &issuer, now);
        let ends = if issued.revoked {
            Some(NotLetIn::Revoked)
        } else if now >= NOW + 600 {
            Some(NotLetIn::Expired)
        } else if inside.len() as u32 >= issued.uses && !inside.contains(&who) {
            Some(NotLetIn::UsedUp)
        } else {
            None
        };
        match (known, ends) {
            (false, _) => assert_eq!(result, Err(NotLetIn::Unknown)),
            (true, Some(why)) => assert_eq!(result, Err(why)),
            (true, None) => {
                assert_eq!(result, Ok(!inside.contains(&who)));
                if !inside.contains(&who) {
                    inside.push(who);
                }
            }
        }
        assert_eq!(issued.used, inside);
        assert!(result == Ok(true) || issued.used == before);
        assert!(issued.used.len() as u32 <= issued.uses);
        if let Err(why) = result {
            assert_error(why);
        }
    }
    let stored = serde_json::to_string(&issued).expect("it can be kept");
    let read: Issued = serde_json::from_str(&stored).expect("what we write we can read");
    assert_eq!(read, issued);
}
