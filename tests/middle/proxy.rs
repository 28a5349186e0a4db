//! The man in the middle of signaling: everything between one sender and one receiver passes
//! through him, and he does to it what the session's plan says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use handout::protocol::id::DeviceId;
use handout::protocol::identity::Identity;
use handout::protocol::sdp::attributes;
use handout::protocol::signal::{Signal, SignalKind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::impostor::Impostor;
use crate::nodes::Rng;
use crate::plan::{Den, Plan, Seen, Side};
use crate::tricks::{self, Bag, Trick, candidate, each_value, edit};
use crate::wire::{Wire, listen};

/// The man in the middle of one pair.
pub struct Proxy {
    pub port: u16,
    pair: usize,
    den: Arc<Den>,
    plan: Arc<Mutex<Option<Arc<Plan>>>>,
}

/// The two ends of a pair.
#[derive(Clone)]
pub struct Ends {
    pub pair: usize,
    pub sender: DeviceId,
    pub receiver: DeviceId,
    pub receiver_port: u16,
}

impl Proxy {
    pub async fn start(ends: Ends, den: Arc<Den>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan: Arc<Mutex<Option<Arc<Plan>>>> = Arc::default();
        let (current, pair, all) = (Arc::clone(&plan), ends.pair, Arc::clone(&den));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let plan = current.lock().unwrap().clone();
                if let Some(plan) = plan {
                    let (ends, den) = (ends.clone(), Arc::clone(&all));
                    tokio::spawn(serve(stream, ends, plan, den));
                }
            }
        });
        Self {
            port,
            pair,
            den,
            plan,
        }
    }

    /// What is done to connections from now on.
    pub fn begin(&self, plan: Arc<Plan>) {
        self.den.begin(self.pair, plan.number);
        *self.plan.lock().unwrap() = Some(plan);
    }
}

async fn serve(stream: TcpStream, ends: Ends, plan: Arc<Plan>, den: Arc<Den>) {
    let Ok(onward) = TcpStream::connect(("127.0.0.1", ends.receiver_port)).await else {
        return;
    };
    let (from_sender, mut to_sender) = stream.into_split();
    let (from_receiver, mut to_receiver) = onward.into_split();
    let mut from_sender = BufReader::new(from_sender).split(b'\n');
    let mut from_receiver = BufReader::new(from_receiver).split(b'\n');
    let mut middle = Middle::new(ends, plan, den);
    loop {
        let said = tokio::select! {
            line = from_sender.next_segment() => match line {
                Ok(Some(line)) => middle.on_line(Side::Sender, line).await,
                _ => return,
            },
            line = from_receiver.next_segment() => match line {
                Ok(Some(line)) => middle.on_line(Side::Receiver, line).await,
                _ => return,
            },
        };
        for (to, bytes) in said {
            let stream = match to {
                Side::Sender => &mut to_sender,
                Side::Receiver => &mut to_receiver,
            };
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

struct Middle {
    ends: Ends,
    plan: Arc<Plan>,
    den: Arc<Den>,
    rng: Rng,
    impostor: Option<Impostor>,
    wire: Option<Wire>,
}

impl Middle {
    fn new(ends: Ends, plan: Arc<Plan>, den: Arc<Den>) -> Self {
        let rng = Rng(plan.seed);
        Self {
            ends,
            plan,
            den,
            rng,
            impostor: None,
            wire: None,
        }
    }

    fn does(&self, trick: Trick) -> bool {
        self.plan.tricks.contains(&trick)
    }

    fn me(&self) -> &Identity {
        match self.plan.insider {
            true => &self.den.insider,
            false => &self.den.stranger,
        }
    }

    async fn on_line(&mut self, from: Side, mut line: Vec<u8>) -> Vec<(Side, Vec<u8>)> {
        line.push(b'\n');
        self.plan.tap.hear(&line);
        let Ok(signal) = Signal::parse(&line) else {
            panic!("not signaling: {}", String::from_utf8_lossy(&line));
        };
        let said = match signal.kind {
            SignalKind::Offer | SignalKind::Answer => self.description(from, &signal).await,
            SignalKind::Ice => self.ice(from, signal),
            SignalKind::Error if self.plan.swallow => vec![],
            SignalKind::Error | SignalKind::Rotation => {
                vec![(from.other(), signal.encode().into())]
            }
        };
        said.into_iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .collect()
    }

    /// Does what the plan says to an offer or answer.
    async fn description(&mut self, from: Side, signal: &Signal) -> Vec<(Side, Vec<u8>)> {
        let to = from.other();
        let touched = match signal.kind {
            SignalKind::Offer => self.plan.offer,
            _ => self.plan.answer,
        };
        let held_back = touched
            && [
                Trick::OldInstead,
                Trick::OtherPairInstead,
                Trick::HeldBackInstead,
                Trick::Impostor,
            ]
            .iter()
            .any(|trick| self.does(*trick));
        let (kind, pair, session) = (signal.kind, self.ends.pair, self.plan.number);
        let recall = |fits: &dyn Fn(&Seen) -> bool| self.den.recall(kind, fits);
        // A sender that begins anew within a session makes a second offer. Its answer, given to it
        // in place of the first one's, would be no old one: it is what the sender waits for.
        let of_old = |seen: &Seen| seen.pair == pair && seen.session != session;
        let old = recall(&of_old);
        let other_pair = recall(&|seen| seen.pair != pair && self.den.is_over(seen));
        let never_read = recall(&|seen| of_old(seen) && seen.held_back);
        self.den.keep(Seen {
            pair,
            session,
            signal: signal.clone(),
            held_back,
        });
        if self.does(Trick::Impostor) {
            return self.impersonate(from, signal).await;
        }
        if !touched {
            return vec![(to, signal.encode().into())];
        }
        let mut sdp = signal.data.clone();
        let reader = match to {
            Side::Sender => self.ends.sender.clone(),
            Side::Receiver => self.ends.receiver.clone(),
        };
        let tricks = self.plan.tricks.clone();
        for trick in &tricks {
            let me = self.me().clone();
            let bag = Bag {
                me: &me,
                reader: &reader,
                other: old.as_ref().map(|old| old.data.as_str()),
            };
            sdp = edit(*trick, &sdp, &mut self.rng, &bag);
            let unchanged = sdp == signal.data && trick.is_edit();
            assert!(!unchanged, "{trick:?} changed nothing of {sdp}");
        }
        let mut out = Signal {
            data: sdp,
            ..signal.clone()
        };
        let me = self.me().device_id();
        for trick in tricks {
            match trick {
                Trick::PeerId => {
                    let others = [me.clone(), reader.clone(), self.den.insider.device_id()];
                    out.peer_id = self.rng.pick(&others).clone();
                }
                Trick::Kind => {
                    let kinds = [SignalKind::Offer, SignalKind::Answer, SignalKind::Ice];
                    let kinds: Vec<_> = kinds.iter().filter(|k| **k != kind).collect();
                    out.kind = **self.rng.pick(&kinds);
                }
                Trick::Truncated if self.rng.one_in(2) => {
                    let end = tricks::end_of_facts(&out.data);
                    out.data.truncate(self.rng.below(end));
                }
                Trick::Truncated => {
                    let mut bytes = out.encode().into_bytes();
                    bytes.truncate(self.rng.below(bytes.len() - 2));
                    bytes.push(b'\n');
                    return vec![(to, bytes)];
                }
                Trick::Spliced => return vec![(to, self.splice(&out, old.as_ref()))],
                // Without an old one, nothing passes.
                Trick::OldInstead => return pass(to, old),
                Trick::OtherPairInstead => {
                    // As it was, or as if it came from this pair.
                    let mut other = other_pair;
                    if let Some(other) = other.as_mut().filter(|_| self.rng.one_in(2)) {
                        other.peer_id = out.peer_id;
                    }
                    return pass(to, other);
                }
                Trick::HeldBackInstead => return pass(to, never_read.or(old)),
                Trick::OldBeside => {
                    let mut both = pass(to, old);
                    both.push((to, out.encode().into()));
                    if self.rng.one_in(2) {
                        both.reverse();
                    }
                    return both;
                }
                Trick::Repeated => {
                    let times = 2 + self.rng.below(4);
                    return vec![(to, out.encode().into()); times];
                }
                Trick::Reflected => {
                    let line: Vec<u8> = out.encode().into();
                    return vec![(from, line.clone()), (to, line.clone()), (from, line)];
                }
                Trick::ErrorBeside => {
                    let error = Signal {
                        kind: SignalKind::Error,
                        peer_id: if self.rng.one_in(2) {
                            me.clone()
                        } else {
                            reader.clone()
                        },
                        data: "go away \u{1b}[2J".to_owned(),
                    };
                    let end = *self.rng.pick(&[from, to]);
                    let line = (to, out.encode().into());
                    return vec![(end, error.encode().into()), line];
                }
                Trick::Reordered => {
                    let early = attributes(&out.data)
                        .filter(|(name, _)| *name == "candidate")
                        .map(|(_, value)| Signal {
                            kind: SignalKind::Ice,
                            peer_id: out.peer_id.clone(),
                            data: format!("candidate:{value}"),
                        });
                    let mut all: Vec<_> = early.map(|ice| (to, ice.encode().into())).collect();
                    all.push((to, out.encode().into()));
                    return all;
                }
                Trick::Rewrapped => return vec![(to, rewrapped(&out, &mut self.rng))],
                Trick::CandidatesMine => {
                    let port = listen(&self.plan).await;
                    out.data = toward(&out.data, port);
                }
                Trick::Wiretapped => {
                    let port = self.wiretap(from, &out.data).await;
                    out.data = toward(&out.data, port);
                }
                _ => {}
            }
        }
        vec![(to, out.encode().into())]
    }

    fn ice(&mut self, from: Side, signal: Signal) -> Vec<(Side, Vec<u8>)> {
        let to = from.other();
        let line: Vec<u8> = signal.encode().into();
        if self.does(Trick::IceForged) {
            let forged = Signal {
                data: candidate(3, "127.0.0.1", 9),
                ..signal
            };
            let forged: Vec<u8> = forged.encode().into();
            return vec![(to, forged.clone()), (from, forged), (to, line)];
        }
        if self.does(Trick::Reflected) {
            return vec![(from, line.clone()), (to, line)];
        }
        // Where the paths are to be hidden, they are hidden everywhere.
        let hides = [
            Trick::IceGone,
            Trick::Wiretapped,
            Trick::CandidatesMine,
            Trick::CandidatesGone,
            Trick::CandidatesDead,
            Trick::Impostor,
        ];
        match hides.iter().any(|trick| self.does(*trick)) {
            true => vec![],
            false => vec![(to, line)],
        }
    }

    /// Two messages made into one: text for text, or byte for byte.
    fn splice(&mut self, signal: &Signal, old: Option<&Signal>) -> Vec<u8> {
        let Some(old) = old else { return vec![] };
        if self.rng.one_in(2) {
            // The proof of one, with the media section of the other.
            let (first, _) = signal.data.split_once("\r\nm=").unwrap();
            let (_, second) = old.data.split_once("\r\nm=").unwrap();
            let data = format!("{first}\r\nm={second}");
            return Signal {
                data,
                ..signal.clone()
            }
            .encode()
            .into();
        }
        let (one, two) = (signal.encode().into_bytes(), old.encode().into_bytes());
        // Within what both have signed, so that neither is left whole.
        let at = 200 + self.rng.below(200);
        [&one[..at], &two[at - 50..]].concat()
    }

    /// Stands between the two with connections of his own.
    async fn impersonate(&mut self, from: Side, signal: &Signal) -> Vec<(Side, Vec<u8>)> {
        let me = self.me().clone();
        let (plan, ends, rng) = (&self.plan, &self.ends, &self.rng);
        let impostor = self
            .impostor
            .get_or_insert_with(|| Impostor::new(me, Arc::clone(plan), ends.clone(), rng.clone()));
        impostor.on_description(from, signal).await
    }

    /// A socket that stands for the real one of the side `from`; what comes to it is heard and
    /// passed on.
    async fn wiretap(&mut self, from: Side, sdp: &str) -> u16 {
        if self.wire.is_none() {
            self.wire = Some(Wire::lay(Arc::clone(&self.plan)).await);
        }
        let wire = self.wire.as_ref().unwrap();
        let real = attributes(sdp)
            .find(|(name, _)| *name == "candidate")
            .unwrap()
            .1;
        let real: u16 = real.split(' ').nth(5).unwrap().parse().unwrap();
        wire.stand_for(from, SocketAddr::from(([127, 0, 0, 1], real)))
    }
}

fn pass(to: Side, signal: Option<Signal>) -> Vec<(Side, Vec<u8>)> {
    signal
        .map(|signal| (to, signal.encode().into()))
        .into_iter()
        .collect()
}

/// The text with all its candidates at a port of the man in the middle.
fn toward(sdp: &str, port: u16) -> String {
    each_value(sdp, "candidate", |_| {
        candidate(1, "127.0.0.1", port)["candidate:".len()..].to_owned()
    })
}

/// The same message in other bytes.
fn rewrapped(signal: &Signal, rng: &mut Rng) -> Vec<u8> {
    let mut value = serde_json::to_value(signal).unwrap();
    value["to"] = "somebody".into();
    value["more"] = serde_json::json!([{ "peer_id": "x" }, null, "}{"]);
    let text = match rng.one_in(2) {
        true => serde_json::to_string_pretty(&value).unwrap(),
        false => format!(" \r\n\t{value}"),
    };
    format!("{text}\n\n").into()
}
