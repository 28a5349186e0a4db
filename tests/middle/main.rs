//! Somebody sits between two devices and tampers with their signaling. Whole nodes, real WebRTC,
//! over loopback: however he does it, not a byte of a file and not the name of one passes to him,
//! and nothing but genuine whole files comes to be at the receiver.
//!
//! `HANDOUT_TAMPERED_SESSIONS` says how many sessions are tampered with (240), and
//! `HANDOUT_TAMPERING_SEED` begins another row of them.

#[path = "../nodes/mod.rs"]
mod nodes;

mod impostor;
mod plan;
mod proxy;
mod tricks;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use handout::actors::api::{Event, Request};
use handout::actors::service::{Mode, Node};
use handout::protocol::id::DeviceId;
use handout::protocol::identity::Identity;

use nodes::{Rng, Running, contains, files_below, id_of};
use plan::{Den, Plan};
use proxy::{Ends, Proxy};
use tricks::Trick;

/// Two nodes send, each to its own receivers; every pair runs its sessions one after another.
const SENDERS: usize = 2;
const RECEIVERS_EACH: usize = 10;
/// Each so many sessions one is let through untouched, besides those that are counted.
const CONTROL_EVERY: u64 = 8;
/// Every name of a file, and each few bytes of its content, hold these.
const NAME_MARK: &str = "qx7confidentialz9";
const CONTENT_MARK: &[u8; 12] = b"\xf3\x9cTOPSECRET\xe1";
/// A session that nobody ends within this time hangs.
const HANGS: Duration = Duration::from_secs(30);
/// An untouched one may take longer on a busy machine, and try again.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// One sender and one receiver, with somebody in between.
struct Pair {
    sender: Node,
    sender_id: DeviceId,
    receiver: Node,
    receiver_id: DeviceId,
    received: PathBuf,
    proxy: Proxy,
    /// Where the sender's files lie.
    outbox: PathBuf,
    /// What has arrived, with its content.
    arrived: Mutex<HashMap<PathBuf, Vec<u8>>>,
}

/// How a session ended.
#[derive(Debug)]
enum Outcome {
    Delivered,
    Stopped(String),
}

impl Pair {
    async fn ask(&self, request: Request) {
        let mut events = self.sender.ask(request);
        let ended = async {
            while let Some(event) = events.recv().await {
                if matches!(event, Event::End { .. }) {
                    break;
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        ended.expect("the sender answers");
    }

    /// How things stand between the two, as the sender sees it, and as the receiver does.
    async fn about(&self) -> String {
        let sides = [
            (&self.sender, &self.receiver_id),
            (&self.receiver, &self.sender_id),
        ];
        let mut all = Vec::new();
        for (node, other) in sides {
            for request in [Request::Transfers, Request::Peers] {
                let mut found = Vec::new();
                let mut events = node.ask(request);
                while let Ok(Some(event)) = tokio::time::timeout(HANGS, events.recv()).await {
                    let ours = match &event {
                        Event::Transfer(info) => info.device_id == *other,
                        Event::Peer(info) => info.device_id == *other,
                        Event::End { .. } => break,
                        _ => true,
                    };
                    found.extend(ours.then(|| format!("{event:?}")));
                }
                let first = found.len().saturating_sub(2);
                all.extend(found.drain(first..));
            }
        }
        all.join("\n")
    }

    /// Sends one file through the man in the middle.
    async fn session(&self, plan: Arc<Plan>) -> Outcome {
        let untouched = plan.tricks.is_empty();
        let mut rng = Rng(!plan.seed);
        let name = format!("{NAME_MARK}-{}-{:016x}.bin", plan.number, rng.next());
        let size = 1 + rng.below(400_000);
        let mut content = Vec::with_capacity(size + 20);
        while content.len() < size {
            content.extend_from_slice(CONTENT_MARK);
            content.extend_from_slice(&rng.next().to_be_bytes());
        }
        let path = self.outbox.join(&name);
        std::fs::write(&path, &content).unwrap();
        self.proxy.begin(Arc::clone(&plan));
        // Not before: whatever comes to be while it is revoked is not of this session.
        self.ask(Request::Authorize {
            device: self.receiver_id.clone(),
            name: String::new(),
            roles: None,
            group: None,
            seconds: None,
        })
        .await;

        let wait = if untouched { PATIENCE } else { HANGS };
        let mut events = self.sender.ask(Request::Send {
            paths: vec![path.clone()],
            to: vec![self.receiver_id.to_string()],
            wait_ms: Some(wait.as_millis() as u64),
            share: Default::default(),
        });
        let (mut id, mut reason, mut delivered) = (None, None, false);
        let listening = async {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Broadcast { broadcast, .. } => id = Some(broadcast),
                    // One try is a session. An untouched one may try again.
                    Event::NotConnected { reason: why, .. } if !untouched => {
                        reason.get_or_insert(why);
                        let what = id.unwrap().to_string();
                        self.ask(Request::Cancel { what }).await;
                    }
                    Event::Summary { receivers, .. } => {
                        delivered = receivers[0].state == "complete";
                        let why = receivers[0].reason.clone();
                        reason = reason.take().or(why);
                    }
                    Event::Error { message } => panic!("{message}"),
                    Event::End { .. } => break,
                    _ => {}
                }
            }
        };
        let ended = tokio::time::timeout(wait + HANGS, listening).await;
        if ended.is_err() {
            let said = String::from_utf8_lossy(&plan.tap.heard()).into_owned();
            let about = self.about().await;
            panic!(
                "session {} {:?} hangs:\n{about}\n{said}",
                plan.number, plan.tricks
            );
        }
        std::fs::remove_file(&path).unwrap();
        if delivered {
            self.arrived
                .lock()
                .unwrap()
                .insert(self.received.join(&name), content);
        }
        self.look(&name, delivered, &plan);
        // The next session begins with a connection of its own.
        let device = self.receiver_id.to_string();
        self.ask(Request::Revoke { device }).await;
        if delivered {
            Outcome::Delivered
        } else {
            Outcome::Stopped(reason.unwrap_or_else(|| "nothing was said".to_owned()))
        }
    }

    /// The receiver has whole genuine files under their names, and nothing else.
    fn look(&self, name: &str, delivered: bool, plan: &Plan) {
        let about = || format!("session {} {:?}", plan.number, plan.tricks);
        let arrived = self.arrived.lock().unwrap();
        for file in files_below(&self.received) {
            let staged = file.starts_with(self.received.join(".handout"));
            if let Some(content) = arrived.get(&file) {
                if file.ends_with(name) {
                    assert!(std::fs::read(&file).unwrap() == *content, "{}", about());
                }
            } else if !staged {
                panic!("{}: {} should not be there", about(), file.display());
            } else if !delivered {
                // What is left of earlier sessions goes away by itself, and may just have gone.
                let bytes = std::fs::read(&file).unwrap_or_default();
                let told =
                    contains(&bytes, name.as_bytes()) || file.to_string_lossy().contains(name);
                assert!(!told, "{}: {} tells of it", about(), file.display());
            }
        }
        let there = self.received.join(name).exists();
        assert_eq!(there, delivered, "{}", about());
    }
}

/// What came of the sessions with one trick.
#[derive(Default)]
struct Tally {
    sessions: u64,
    delivered: u64,
    reasons: BTreeMap<String, u64>,
}

#[test]
fn nothing_passes_to_or_through_somebody_in_the_middle_of_signaling() {
    let sessions = number("HANDOUT_TAMPERED_SESSIONS", 240);
    let seed = number("HANDOUT_TAMPERING_SEED", 1);
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let begun = Instant::now();
    let tally = runtime.block_on(run(folder.path(), sessions, seed));
    let (mut harmful, mut harmless, mut delivered) = (0, 0, 0);
    for (trick, tally) in &tally {
        let reason = tally.reasons.iter().max_by_key(|(_, count)| **count);
        let reason = reason.map_or(String::new(), |(why, n)| format!("{n} x {why}"));
        println!(
            "{trick:?}: {} sessions, {} delivered; {reason}",
            tally.sessions, tally.delivered
        );
        if trick.harmless() {
            harmless += tally.sessions;
            delivered += tally.delivered;
        } else {
            harmful += tally.sessions;
        }
    }
    println!(
        "{} tampered sessions in {} s: {harmful} of them harmful, none delivered; {harmless} with \
         harmless tampering, {delivered} delivered; {} channels to the man in the middle as \
         himself, in {} of them he has proven it",
        harmful + harmless,
        begun.elapsed().as_secs(),
        impostor::CHANNELS.load(Ordering::Relaxed),
        impostor::PROVEN.load(Ordering::Relaxed),
    );
    assert_eq!(impostor::FALSE_CHANNELS.load(Ordering::Relaxed), 0);
    assert_eq!(harmful + harmless, sessions);
    assert!(harmful * 2 > sessions);
    assert!(delivered > 0, "the man in the middle can pass things on");
}

async fn run(folder: &Path, sessions: u64, seed: u64) -> BTreeMap<Trick, Tally> {
    let count = SENDERS * RECEIVERS_EACH;
    let stranger = Identity::from_seed(&[0x51; 32]);
    let insider = Identity::from_seed(&[0x1d; 32]);
    let den = Arc::new(Den::new(stranger, insider.clone(), count));
    let sender_folders: Vec<_> = (0..SENDERS).map(|n| folder.join(format!("s{n}"))).collect();
    let sender_ids: Vec<_> = sender_folders.iter().map(|f| id_of(f)).collect();
    let fast = [
        ("signaling.answer_timeout", "1500ms"),
        ("signaling.retries", "0"),
        ("network.channel_timeout", "2s"),
        ("network.udp_buffer", "1MiB"),
    ];
    let fast = fast.map(|(key, value)| (key, value.to_owned()));
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    let mut pairs = Vec::new();
    for (s, sender_folder) in sender_folders.iter().enumerate() {
        let mut proxies = Vec::new();
        let mut addresses = Vec::new();
        for r in 0..RECEIVERS_EACH {
            let at = folder.join(format!("r{s}-{r}"));
            let receiver_id = id_of(&at);
            let may = format!("{},{}", sender_ids[s], insider.device_id());
            let more = [&fast[..], &[("trust.authorized", may)]].concat();
            let receiver = Running::start(&at, Mode::Receive, &more);
            let ends = Ends {
                pair: s * RECEIVERS_EACH + r,
                sender: sender_ids[s].clone(),
                receiver: receiver_id.clone(),
                receiver_port: receiver.port,
            };
            let proxy = Proxy::start(ends, Arc::clone(&den)).await;
            addresses.push(format!("{receiver_id}@127.0.0.1:{}", proxy.port));
            let node = receiver.node.clone();
            proxies.push((receiver_id, node, receiver.received.clone(), proxy));
            receivers.push(receiver);
        }
        let may: Vec<_> = proxies.iter().map(|(id, ..)| id.to_string()).collect();
        let may = format!("{},{}", may.join(","), insider.device_id());
        let own = [
            ("discovery.static_peers", addresses.join(",")),
            ("trust.authorized", may),
        ];
        let sender = Running::start(sender_folder, Mode::Send, &[&fast[..], &own].concat());
        for (receiver_id, receiver, received, proxy) in proxies {
            pairs.push(Pair {
                sender: sender.node.clone(),
                sender_id: sender.id.clone(),
                receiver,
                receiver_id,
                received,
                proxy,
                outbox: sender_folder.clone(),
                arrived: Mutex::default(),
            });
        }
        senders.push(sender);
    }

    let next = Arc::new(AtomicU64::new(0));
    let tally: Arc<Mutex<BTreeMap<Trick, Tally>>> = Arc::default();
    let plans: Arc<Mutex<Vec<Arc<Plan>>>> = Arc::default();
    let controls = Arc::new(AtomicU64::new(0));
    let running: Vec<_> = pairs
        .into_iter()
        .map(|pair| {
            let (next, tally) = (Arc::clone(&next), Arc::clone(&tally));
            let (plans, controls) = (Arc::clone(&plans), Arc::clone(&controls));
            tokio::spawn(async move {
                let mut own = 0;
                let mut before: Option<Arc<Plan>> = None;
                loop {
                    // The first of a pair gives the man in the middle something to repeat.
                    let untouched = own % CONTROL_EVERY == 0;
                    own += 1;
                    let number = match untouched {
                        true => sessions + controls.fetch_add(1, Ordering::Relaxed),
                        false => next.fetch_add(1, Ordering::Relaxed),
                    };
                    if !untouched && number >= sessions {
                        return pair;
                    }
                    let plan = Arc::new(Plan::of(number, seed, untouched));
                    plans.lock().unwrap().push(Arc::clone(&plan));
                    let outcome = pair.session(Arc::clone(&plan)).await;
                    let before = before.replace(Arc::clone(&plan));
                    if untouched {
                        let well = matches!(outcome, Outcome::Delivered);
                        assert!(well, "an untouched session failed: {outcome:?}");
                        continue;
                    }
                    let mut tally = tally.lock().unwrap();
                    let tally = tally.entry(plan.tricks[0]).or_default();
                    tally.sessions += 1;
                    match outcome {
                        Outcome::Delivered => {
                            tally.delivered += 1;
                            let harmless = plan.tricks.iter().all(|trick| trick.harmless());
                            let of = |plan: &Plan| {
                                format!(
                                    "session {} {:?} (offer touched: {}, answer touched: {}):\n{}",
                                    plan.number,
                                    plan.tricks,
                                    plan.offer,
                                    plan.answer,
                                    String::from_utf8_lossy(&plan.tap.heard())
                                )
                            };
                            let before = || before.as_deref().map_or(String::new(), of);
                            assert!(harmless, "passed: {}\nbefore it: {}", of(&plan), before());
                        }
                        Outcome::Stopped(why) => *tally.reasons.entry(why).or_default() += 1,
                    }
                }
            })
        })
        .collect();
    let mut pairs = Vec::new();
    for pair in running {
        pairs.push(pair.await.unwrap());
    }
    println!(
        "{} untouched sessions, all delivered",
        controls.load(Ordering::Relaxed)
    );

    // What the receivers have on record is what has arrived; every name is in some pair's list.
    for (pair, receiver) in pairs.iter().zip(&receivers) {
        let arrived = pair.arrived.lock().unwrap().clone();
        for event in receiver.ask(Request::Transfers).await {
            if let Event::Transfer(info) = event {
                let path = pair.received.join(&info.name);
                assert!(arrived.contains_key(&path), "{} was offered", info.name);
            }
        }
        for (path, content) in arrived {
            assert!(std::fs::read(&path).unwrap() == content);
            assert!(contains(&content, CONTENT_MARK));
        }
    }
    drop(pairs);
    drop(senders);
    drop(receivers);
    let mut heard = 0;
    for plan in plans.lock().unwrap().iter() {
        let tapped = plan.tap.heard();
        heard += tapped.len();
        for mark in [NAME_MARK.as_bytes(), &CONTENT_MARK[..]] {
            let told = contains(&tapped, mark);
            assert!(
                !told,
                "session {} {:?} was overheard",
                plan.number, plan.tricks
            );
        }
    }
    println!("the man in the middle has read {heard} bytes, none of them of a file or its name");
    Arc::into_inner(tally).unwrap().into_inner().unwrap()
}
