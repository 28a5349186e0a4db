//! What is done to each session, and what the man in the middle sees and keeps.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use handout::protocol::identity::Identity;
use handout::protocol::signal::{Signal, SignalKind};

use crate::impostor::{MASKS, Mask};
use crate::nodes::Rng;
use crate::tricks::{self, Trick};

/// Genuine descriptions that are kept for later.
const KEPT: usize = 8;

/// Everything that the man in the middle has seen in one session.
#[derive(Default)]
pub struct Tap(Mutex<Vec<u8>>);

impl Tap {
    pub fn hear(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }

    pub fn heard(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

/// Which of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Sender,
    Receiver,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Sender => Self::Receiver,
            Self::Receiver => Self::Sender,
        }
    }
}

/// What is done to one session.
pub struct Plan {
    pub number: u64,
    /// Nothing, in a session that is let through.
    pub tricks: Vec<Trick>,
    /// Which descriptions are touched.
    pub offer: bool,
    pub answer: bool,
    /// Error messages do not pass, so that both sides go on as far as they can.
    pub swallow: bool,
    /// The man in the middle is a device that both sides have authorized.
    pub insider: bool,
    pub mask: Mask,
    pub seed: u64,
    pub tap: Tap,
}

/// A genuine description that was seen.
#[derive(Clone)]
pub struct Seen {
    pub pair: usize,
    /// In which session.
    pub session: u64,
    pub signal: Signal,
    /// It never reached its reader.
    pub held_back: bool,
}

/// What the men in the middle of all pairs know and share.
pub struct Den {
    pub stranger: Identity,
    pub insider: Identity,
    seen: Mutex<VecDeque<Seen>>,
    /// The session that each pair is in.
    running: Mutex<HashMap<usize, u64>>,
    pairs: usize,
}

impl Den {
    pub fn new(stranger: Identity, insider: Identity, pairs: usize) -> Self {
        Self {
            stranger,
            insider,
            seen: Mutex::default(),
            running: Mutex::default(),
            pairs,
        }
    }

    /// A pair's former session is over.
    pub fn begin(&self, pair: usize, session: u64) {
        self.running.lock().unwrap().insert(pair, session);
    }

    /// Whether the session in which a description was seen is over. Until then it would be no false
    /// one for its reader, whichever way it takes: a sender waits for that very answer.
    pub fn is_over(&self, seen: &Seen) -> bool {
        self.running.lock().unwrap().get(&seen.pair) != Some(&seen.session)
    }

    /// Keeps a description for later sessions.
    pub fn keep(&self, seen: Seen) {
        let mut all = self.seen.lock().unwrap();
        if all.len() >= KEPT * self.pairs {
            all.pop_front();
        }
        all.push_back(seen);
    }

    /// The latest of those that fit.
    pub fn recall(&self, kind: SignalKind, fits: impl Fn(&Seen) -> bool) -> Option<Signal> {
        let all = self.seen.lock().unwrap();
        let mut found = all
            .iter()
            .rev()
            .filter(|s| s.signal.kind == kind && fits(s));
        found.next().map(|seen| seen.signal.clone())
    }
}

impl Plan {
    /// The plan of a session: the same for the same number and seed.
    pub fn of(number: u64, seed: u64, untouched: bool) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x1_0000_0001).wrapping_add(number));
        rng.next();
        let first = tricks::ALL[number as usize % tricks::ALL.len()];
        let mut tricks = vec![first];
        if first.is_edit() && rng.one_in(4) {
            let more = [
                Trick::Fingerprint,
                Trick::Ufrag,
                Trick::Pwd,
                Trick::Setup,
                Trick::To,
                Trick::Nonce,
                Trick::Signature,
                Trick::SecondUfrag,
                Trick::OtherLines,
            ];
            let second = *rng.pick(&more);
            let fits = first.harmless() == second.harmless() && first != Trick::ProofGone;
            if fits && first != second {
                tricks.push(second);
            }
        }
        if untouched {
            tricks.clear();
        }
        let (offer, answer) = *rng.pick(&[(true, false), (false, true), (true, true)]);
        Self {
            number,
            tricks,
            offer,
            answer,
            swallow: !untouched && rng.one_in(3),
            insider: rng.one_in(2),
            mask: *rng.pick(&MASKS),
            seed: rng.next(),
            tap: Tap::default(),
        }
    }
}
