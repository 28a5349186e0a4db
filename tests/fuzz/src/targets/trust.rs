//! What others have signed: rosters, introductions, changes of key. Nobody but the signer can say
//! any of it, and one changed byte makes it worthless.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{NOW, assert_error, assert_harmless, id, who};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::exchange::{self, MAX_WANTED, pick, wanted};
use crate::protocol::id::{BundleId, DeviceId};
use crate::protocol::identity::unb64;
use crate::protocol::introduction::{
    self, Introduced, Introduction, Introductions, MAX_INTRODUCTIONS, MAX_LIFETIME, ordered,
};
use crate::protocol::message::Message;
use crate::protocol::roles::Roles;
use crate::protocol::roster::{self, Draft, MAX_DEVICES, MAX_ROSTER, Member, Roster, RosterError};
use crate::protocol::rotation::{self, MAX_CHAIN, Rotation};
use crate::protocol::trust::{Admission, Pages, TrustBook};
use crate::protocol::vouching::{SIGNALS_PER_MINUTE, Vouching};

/// How far clocks may differ, in seconds.
const SKEW: u64 = 300;

/// Who has signed the rosters in the corpus. Introductions are signed by 1, changes of key by 1 to
/// 6.
pub const ADMIN: u8 = 200;

/// Changes the byte that four bytes point at to the fifth.
fn change(bytes: &mut [u8], how: &[u8; 5]) {
    if !bytes.is_empty() {
        let at = u32::from_be_bytes([how[0], how[1], how[2], how[3]]) as usize;
        bytes[at % bytes.len()] = how[4];
    }
}

/// What is left of something that is written, changed in one place and read again.
fn altered<T: Serialize + DeserializeOwned>(made: &T, how: &[u8; 5]) -> Option<T> {
    let mut text = serde_json::to_vec(made).expect("it can be written");
    change(&mut text, how);
    serde_json::from_slice(&text).ok()
}

/// A roster. The first five bytes say how somebody changes it once it is signed, the next eight
/// how time goes by and which versions come; then a draft or a signed one, or nothing.
pub fn roster(data: &[u8]) {
    let Some((how, rest)) = data.split_first_chunk::<5>() else {
        return;
    };
    let Some((steps, text)) = rest.split_first_chunk::<8>() else {
        return;
    };
    if text.is_empty() {
        return versions(steps);
    }
    let terms = roster::Terms {
        version: u64::from(how[4]) + 1,
        issued: NOW,
        expires: NOW + 3600,
    };
    match Draft::read(text) {
        Ok(draft) => {
            assert!(draft.devices.len() <= MAX_DEVICES && text.len() <= MAX_ROSTER);
            assert!(!draft.note.chars().any(char::is_control));
            assert_harmless(&draft.group);
            let again = Draft::read(draft.to_text().as_bytes());
            assert!(again.as_ref() == Ok(&draft) || matches!(again, Err(RosterError::TooLong(_))));
            match Roster::sign(draft, terms, &who(ADMIN)) {
                Ok(signed) => forged(&signed, how),
                Err(error) => {
                    let known = matches!(error, RosterError::Twice(_) | RosterError::TooLong(_));
                    assert!(known, "{error:?}");
                }
            }
        }
        Err(error) => assert_error(error),
    }
    match Roster::read(text) {
        Ok(read) => {
            assert_eq!(read.admin, id(ADMIN), "nobody else has signed anything");
            assert_eq!(Roster::read(read.as_bytes()).as_ref(), Ok(&read));
            assert!(read.members.len() <= MAX_DEVICES);
            assert!(read.members.iter().all(|(id, member)| *id == member.id));
            forged(&read, how);
        }
        Err(error) => assert_error(error),
    }
}

/// One byte of a signed roster is another: it says the same, or it is not believed.
fn forged(signed: &Roster, how: &[u8; 5]) {
    let mut file = signed.as_bytes().to_vec();
    change(&mut file, how);
    match Roster::read(&file) {
        Ok(read) => {
            let said = |roster: &Roster| {
                let Roster {
                    admin,
                    group,
                    terms,
                    note,
                    members,
                    digest,
                    ..
                } = roster.clone();
                (admin, group, terms, note, members, digest)
            };
            assert_eq!(said(&read), said(signed), "changed, and believed");
        }
        Err(error) => assert_error(error),
    }
}

/// Rosters of one admin come in any order while time goes by: nothing older than the newest is
/// taken again, nothing that is over lets anybody in.
fn versions(steps: &[u8; 8]) {
    let (admin, skew) = (who(ADMIN), SKEW);
    let mut book = TrustBook::new(
        id(1),
        Pages {
            admins: vec![admin.device_id()],
            ..Pages::default()
        },
    );
    let (mut now, mut newest) = (NOW, None::<Roster>);
    for step in steps {
        // Three bits each: which version; when it was signed and ends; how much later it is.
        let (version, life) = (u64::from(step & 3) + 1, u64::from(step >> 2 & 3));
        now += u64::from(step >> 4 & 3) * 600;
        let (seat, forger) = (step >> 6 & 1, step >> 7 == 1);
        let terms = roster::Terms {
            version,
            issued: NOW + life * 400,
            expires: NOW + 1000 + life * 700,
        };
        let draft = Draft {
            group: "class".to_owned(),
            note: String::new(),
            roles: Some(Roles::RECEIVE),
            devices: vec![Member {
                id: id(10 + seat),
                name: String::new(),
                roles: None,
            }],
        };
        let signer = if forger { who(201) } else { admin.clone() };
        let roster = Roster::sign(draft, terms, &signer).expect("a good roster");
        let result = book.admit(&roster, None, now, skew);
        let seen = newest.as_ref().map_or(0, |newest| newest.terms.version);
        let same = newest
            .as_ref()
            .is_some_and(|newest| newest.digest == roster.digest);
        match result {
            Ok(admission) => {
                assert!(!forger && now < terms.expires && terms.issued <= now + skew);
                assert!(version > seen || same, "version {version} after {seen}");
                assert_eq!(admission == Admission::Known, same);
                book.put_roster(roster.clone());
                newest = Some(roster);
            }
            Err(error) => {
                let fits = match error {
                    RosterError::UnknownAdmin { .. } => forger,
                    RosterError::Expired(_) => now >= terms.expires,
                    RosterError::FromTheFuture(_) => terms.issued > now + skew,
                    RosterError::RolledBack { .. } => version < seen,
                    RosterError::Forked(_) => version == seen && !same,
                    _ => false,
                };
                assert!(fits, "{error:?}");
                assert_error(error);
            }
        }
        for device in [10, 11].map(id) {
            let named = newest.as_ref().is_some_and(|newest| {
                now < newest.terms.expires && newest.members.contains_key(&device)
            });
            assert_eq!(book.lets_in(&device, now), named);
            let may = book.roles(&device, now);
            assert_eq!(may, if named { Roles::RECEIVE } else { Roles::NONE });
        }
    }
}

/// An introduction, a change of key, or what neighbours say. The first five bytes say how somebody
/// changes what is signed; the sixth which of them follows.
pub fn introduction(data: &[u8]) {
    let Some((how, rest)) = data.split_first_chunk::<5>() else {
        return;
    };
    let Some((&what, rest)) = rest.split_first() else {
        return;
    };
    match what % 5 {
        0 => introduced(rest, how),
        1 => rotated(rest, how),
        2 => neighbours(rest),
        3 => told(rest),
        _ => vouched(rest),
    }
}

/// Device 1 has introduced 2 and 3; we are 2.
fn checked(
    introduction: &Introduction,
    from: u8,
    may: (bool, bool),
) -> Result<(DeviceId, u64), introduction::IntroductionError> {
    introduction.check(&introduction::Terms {
        now: NOW,
        ours: &id(2),
        from: &id(from),
        skew: SKEW,
        may_introduce: may.0,
        interested: may.1,
    })
}

fn introduced(text: &[u8], how: &[u8; 5]) {
    // As it came: only its maker can have made it.
    match Message::decode(text) {
        Ok(Message::Introduce(introduction)) => match checked(&introduction, 1, (true, true)) {
            Ok((peer, until)) => {
                assert!(peer != id(2) && peer != id(1) && peer.is_self_certifying());
                assert!(until > NOW && until <= NOW + MAX_LIFETIME + SKEW);
                let lifetime = introduction.expires - introduction.issued;
                assert!(lifetime <= MAX_LIFETIME);
                let nonce = unb64(&introduction.nonce).and_then(|n| n.try_into().ok());
                let honest = Introduction::new(
                    &who(1),
                    introduction.bundle,
                    &introduction.first,
                    &introduction.second,
                    introduction.issued,
                    lifetime,
                    nonce.expect("a nonce that was taken"),
                );
                assert_eq!(*introduction, honest, "not by its maker, and believed");
                for (from, may) in [(4, (true, true)), (1, (false, true)), (1, (true, false))] {
                    let refused = checked(&introduction, from, may);
                    assert!(refused.is_err(), "from {from}, {may:?}");
                }
                let other = altered(&*introduction, how);
                if let Some(other) = other.filter(|o| checked(o, 1, (true, true)).is_ok()) {
                    assert_eq!(other, *introduction, "changed, and believed");
                }
            }
            Err(error) => assert_error(error),
        },
        Ok(_) => {}
        Err(error) => assert_error(error),
    }
    // Made by us of any bundle and time, then changed in one place.
    let mut bytes = text.iter().copied().chain(std::iter::repeat(0));
    let mut next = || bytes.next().unwrap_or_default();
    let (bundle, issued) = (BundleId([next(); 32]), NOW - u64::from(next()));
    let (lifetime, nonce) = (u64::from(next()) * 400 + 300, [next(); 16]);
    let made = Introduction::new(&who(1), bundle, &id(2), &id(3), issued, lifetime, nonce);
    assert_eq!(
        checked(&made, 1, (true, true)).is_ok(),
        lifetime <= MAX_LIFETIME
    );
    let other = altered(&made, how);
    if let Some(other) = other.filter(|other| checked(other, 1, (true, true)).is_ok()) {
        assert_eq!(other, made, "changed, and believed");
    }
}

fn rotated(text: &[u8], how: &[u8; 5]) {
    // As it came: both keys have signed each link, so the corpus's identities have.
    let proven = |chain: &[Rotation]| {
        let last = chain.last().map(|link| link.new.device_id());
        let ids = last.map(|last| rotation::ids(chain, &last));
        match ids {
            Some(Ok(ids)) => {
                assert!(chain.len() <= MAX_CHAIN && ids.len() == chain.len() + 1);
                assert!(rotation::ids(chain, &id(99)).is_err() || ids.last() == Some(&id(99)));
                rotation::verify(chain).is_ok()
            }
            Some(Err(error)) => {
                assert_error(error);
                false
            }
            None => false,
        }
    };
    if let Ok(chain) = serde_json::from_slice::<Vec<Rotation>>(text)
        && proven(&chain)
    {
        for link in &chain {
            let signer = |key| (1..=6).map(who).find(|who| who.public_key() == key);
            let (old, new) = (signer(link.old), signer(link.new));
            let (Some(old), Some(new)) = (old, new) else {
                panic!("signed by nobody: {link:?}")
            };
            assert_eq!(*link, Rotation::sign(&old, &new, link.issued));
        }
    }
    let names: Vec<u8> = text.iter().copied().take(MAX_CHAIN + 2).collect();
    let made: Vec<Rotation> = names
        .windows(2)
        .map(|pair| Rotation::sign(&who(pair[0]), &who(pair[1]), NOW))
        .collect();
    let circle = (1..names.len()).any(|at| names[..at].contains(&names[at]));
    let good = (1..=MAX_CHAIN).contains(&made.len()) && !circle;
    assert_eq!(proven(&made), good);
    if let Some(other) = altered(&made, how).filter(|other| proven(other)) {
        assert_eq!(other, made, "changed, and believed");
    }
}

/// HAVE and WANT, and what is made of them.
fn neighbours(text: &[u8]) {
    let Some((&count, text)) = text.split_first() else {
        return;
    };
    let count = u32::from(count) * 3;
    let mut ours = ChunkSet::new(count);
    (0..count).step_by(3).for_each(|at| {
        ours.insert(at);
    });
    match Message::decode(text) {
        Ok(Message::Want { chunks, .. }) => {
            let Some(wanted) = wanted(&chunks, count) else {
                return;
            };
            assert!((1..=MAX_WANTED as usize).contains(&wanted.len()));
            assert!(wanted.iter().all(|chunk| *chunk < count));
            let named: BTreeSet<u32> = wanted.iter().copied().collect();
            let again = exchange::wanted(&exchange::runs(&wanted), count).expect("our own runs");
            assert!(again.into_iter().eq(named));
        }
        Ok(Message::Have(have)) => {
            let Ok(theirs) = ChunkSet::from_b64(&have.have, count) else {
                return;
            };
            let asked: HashSet<u32> = (0..count).step_by(5).collect();
            for most in [0, 1, 64] {
                let picked = pick(&ours, &asked, &theirs, most);
                assert!(picked.len() <= most);
                assert!(picked.iter().all(|at| {
                    theirs.contains(*at) && !ours.contains(*at) && !asked.contains(at)
                }));
                let all = theirs
                    .iter()
                    .filter(|at| !ours.contains(*at) && !asked.contains(at));
                assert_eq!(
                    picked.len(),
                    all.count().min(most),
                    "there was more to ask for"
                );
                assert_eq!(picked.iter().collect::<BTreeSet<_>>().len(), picked.len());
            }
        }
        Ok(_) => {}
        Err(error) => assert_error(error),
    }
}

/// Whom others have introduced to us, beside what really happened.
fn told(script: &[u8]) {
    let mut book = Introductions::default();
    let mut model = BTreeMap::<(DeviceId, DeviceId, u8), u64>::new();
    let mut out = BTreeSet::<DeviceId>::new();
    let mut liars = BTreeSet::<(DeviceId, DeviceId, u8)>::new();
    let mut now = NOW;
    let ids: Vec<DeviceId> = (0..8).map(id).collect();
    for step in script.chunks_exact(4).take(400) {
        let (peer, by, of) = (
            &ids[usize::from(step[1] % 8)],
            &ids[usize::from(step[2] % 8)],
            step[3],
        );
        let (key, bundle) = ((peer.clone(), by.clone(), of), BundleId([of; 32]));
        match step[0] % 6 {
            0 => {
                let until = now + u64::from(step[0]);
                let new = book.add(Introduced {
                    peer: peer.clone(),
                    by: by.clone(),
                    bundle,
                    until,
                });
                let kept_out = out.contains(peer) || liars.contains(&key);
                let known = model.contains_key(&key);
                assert_eq!(new, !kept_out && !known && model.len() < MAX_INTRODUCTIONS);
                if !kept_out && (known || new) {
                    let entry = model.entry(key).or_default();
                    *entry = until.max(*entry);
                }
            }
            1 => assert_eq!(book.end(by, peer, &bundle), model.remove(&key).is_some()),
            2 => {
                book.revoke(peer);
                out.insert(peer.clone());
                model.retain(|(of, by, _), _| of != peer && by != peer);
            }
            3 => {
                book.unbar(peer);
                out.remove(peer);
                liars.retain(|(of, ..)| of != peer);
            }
            4 => {
                book.distrust(peer, by, &bundle);
                model.remove(&key);
                liars.insert(key);
            }
            _ => {
                now += u64::from(step[1]);
                book.retain(now, |entry| entry.bundle != bundle);
                model.retain(|(.., bundle), until| *until > now && *bundle != of);
            }
        }
        let expected = model
            .iter()
            .filter(|((of, ..), until)| of == peer && **until > now);
        assert_eq!(book.allowed(peer, now).count(), expected.count());
    }
    let kept: BTreeSet<_> = book
        .iter()
        .map(|entry| {
            (
                entry.peer.clone(),
                entry.by.clone(),
                entry.bundle.as_bytes()[0],
            )
        })
        .collect();
    assert!(kept.iter().eq(model.keys()) && kept.len() <= MAX_INTRODUCTIONS);
}

/// Whom we have introduced, and whose signaling we pass on.
fn vouched(script: &[u8]) {
    let mut book = Vouching::default();
    let mut model = BTreeMap::<(u8, (DeviceId, DeviceId)), u64>::new();
    let mut passed = BTreeMap::<(DeviceId, DeviceId), u32>::new();
    let (now, ids) = (Instant::now(), (0..6).map(id).collect::<Vec<_>>());
    let everybody: BTreeSet<DeviceId> = ids.iter().cloned().collect();
    for step in script.chunks_exact(4).take(128) {
        let (a, b, of) = (
            &ids[usize::from(step[1] % 6)],
            &ids[usize::from(step[2] % 6)],
            step[3] % 4,
        );
        let (pair, bundle) = (ordered(a, b), BundleId([of; 32]));
        match step[0] % 6 {
            0 if a != b => {
                let lifetime = u64::from(step[0]);
                let made = Introduction::new(&who(9), bundle, a, b, NOW, lifetime, [of; 16]);
                assert!(book.add(made));
                model.insert((of, pair), NOW + lifetime);
            }
            1 => {
                book.revoke(a, "no longer");
                model.retain(|(_, pair), _| pair.0 != *a && pair.1 != *a);
                assert!(!book.unwarned().contains(a), "a word for whom is shut out");
            }
            2 | 3 => {
                let later = Duration::from_secs(u64::from(step[0] == 255) * 30);
                let may = model
                    .iter()
                    .any(|((_, of), until)| *of == pair && *until > NOW);
                let passes = book.passes(a, b, NOW, now + later);
                assert!(may || !passes, "signaling between strangers");
                let count = passed.entry(pair).or_default();
                *count += u32::from(passes);
                assert!(*count <= SIGNALS_PER_MINUTE);
            }
            4 => {
                for made in book.untold(a, &bundle) {
                    assert!(made.first == *a || made.second == *a);
                    assert!(made.bundle == bundle);
                    let key = (of, ordered(&made.first, &made.second));
                    assert!(model.contains_key(&key), "told what was taken back");
                }
                assert!(book.untold(a, &bundle).is_empty(), "told twice");
            }
            5 => {
                let most = usize::from(step[1] % 5);
                for (first, second) in book.plan(&bundle, &everybody, most, NOW) {
                    assert!(first < second && everybody.contains(&first));
                }
                let entitled =
                    |of: &BundleId, id: &DeviceId| step[2] > 4 || *of != bundle || id != a;
                let handed_out = |bundle: &BundleId| bundle.as_bytes()[0] != of || step[2] > 9;
                book.retain(NOW, handed_out, entitled);
                model.retain(|(of, (first, second)), until| {
                    let of = BundleId([*of; 32]);
                    *until > NOW && handed_out(&of) && entitled(&of, first) && entitled(&of, second)
                });
                // A pair that is no longer introduced is forgotten, with what it has said.
                passed.retain(|pair, _| model.keys().any(|(_, of)| of == pair));
            }
            _ => {}
        }
        assert_eq!(
            book.holds(&bundle, a, b, NOW),
            model
                .get(&(of, ordered(a, b)))
                .is_some_and(|until| *until > NOW)
        );
    }
}
