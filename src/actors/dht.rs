//! Meeting notes in the DHT: ours are put down for each authorized device, those of devices that
//! are not here are looked for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::WeakAddr;
use futures::future::join_all;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::coordinator::{Acquaintance, Coordinator, Noted, WhoMay};
use super::network;
use super::peer::{random, unix_now};
use crate::config::Settings;
use crate::net::dht::{Dht, DhtOptions};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::Identity;
use crate::protocol::note::{Corner, Newest, Note};

/// How often it is looked what is due.
const LOOK: Duration = Duration::from_secs(2);
/// Notes that are put down, and that are looked for, at a time.
const AT_ONCE: usize = 8;
/// How often a note is written anew: it holds for four times as long.
const RENEWED: Duration = Duration::from_secs(30 * 60);
/// How soon it is tried again to put one down.
const AGAIN: Duration = Duration::from_secs(60);
/// How soon after the first look, and at most how long after each further one, the next follows.
const LOOKS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15 * 60));
/// The longest wait while something waits for the device.
const WANTED: Duration = Duration::from_secs(60);
/// Waits before joining is tried again.
const REJOIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// What the notes are about.
pub struct Notes {
    /// Who we are.
    pub identity: Identity,
    /// The port of our signaling listener.
    pub port: u16,
    /// What holds now.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Who knows everybody, and hears of who is found.
    pub coordinator: WeakAddr<Coordinator>,
}

/// Writes and reads notes until the coordinator is gone, on the runtime that this runs on.
pub async fn attend(notes: Notes) {
    let Some(dht) = join(&notes).await else {
        return;
    };
    info!("part of the DHT");
    let mut rounds = Rounds::default();
    let mut newest = Newest::default();
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(coordinator) = notes.coordinator.upgrade() else {
            return;
        };
        let Ok(known) = coordinator.send(WhoMay).await else {
            return;
        };
        drop(coordinator);
        let settings = Arc::clone(&notes.settings.borrow());
        let seen_at = dht.seen_at().await.map(IpAddr::V4);
        let ours = network::reachable_from_afar(&settings, notes.port, seen_at);
        let skew = settings.signaling.max_clock_skew.as_secs();
        let (puts, gets) = rounds.due(&known, &ours, unix_now(), Instant::now());
        let put = puts.iter().map(|device| put(&dht, &notes, device, &ours));
        let get = gets.iter().map(|device| get(&dht, &notes, device, skew));
        let (put, found) = tokio::join!(join_all(put), join_all(get));
        for (device, put) in puts.into_iter().zip(put) {
            if !put {
                rounds.not_put(&device, Instant::now());
            }
        }
        for (device, note) in gets.into_iter().zip(found) {
            let Some(note) = note else { continue };
            if newest.take(&device, &note, unix_now())
                && let Some(coordinator) = notes.coordinator.upgrade()
            {
                let addresses = note.addresses;
                coordinator.do_send(Noted { device, addresses });
            }
        }
    }
}

/// How the settings want to be part of it.
pub fn options(settings: &Settings) -> DhtOptions {
    let bootstrap = settings.dht.bootstrap.iter();
    DhtOptions {
        bootstrap: bootstrap.map(|node| node.as_str().to_owned()).collect(),
        loopback: settings.discovery.loopback_only,
    }
}

/// Joins the DHT, now or when there is a network.
async fn join(notes: &Notes) -> Option<Dht> {
    let mut wait = REJOIN.0;
    loop {
        let settings = Arc::clone(&notes.settings.borrow());
        let options = options(&settings);
        match tokio::task::spawn_blocking(move || Dht::start(&options)).await {
            Ok(Ok(dht)) => return Some(dht),
            Ok(Err(error)) => warn!(%error, "not part of the DHT; it is tried again"),
            Err(error) => {
                warn!(%error, "the DHT cannot be used");
                return None;
            }
        }
        tokio::time::sleep(wait).await;
        notes.coordinator.upgrade()?;
        wait = (wait * 2).min(REJOIN.1);
    }
}

async fn put(dht: &Dht, notes: &Notes, device: &DeviceId, ours: &[SocketAddr]) -> bool {
    let now = unix_now();
    let corner = Corner::at(&notes.identity.device_id(), device, now);
    let note = Note::new(ours.iter().copied(), now);
    let sealed = random().ok();
    let sealed = sealed.and_then(|nonce| note.seal(&corner, &notes.identity, nonce));
    let Some(sealed) = sealed else {
        return false;
    };
    // Of two notes in a corner the later one stays.
    let order = i64::try_from(now).unwrap_or(i64::MAX);
    match dht.put(&corner.seed, &sealed, order).await {
        Ok(()) => {
            debug!(%device, "a note is put down for it");
            true
        }
        Err(error) => {
            debug!(%device, %error, "no note could be put down for it");
            false
        }
    }
}

/// The newest note of a device for us that is to be believed.
async fn get(dht: &Dht, notes: &Notes, device: &DeviceId, skew: u64) -> Option<Note> {
    let now = unix_now();
    let corners = Corner::now(device, &notes.identity.device_id(), now);
    let looking = corners.iter().map(|corner| async move {
        let found = dht.get(&corner.seed).await;
        let opened = found.iter().filter_map(|sealed| {
            let opened = Note::open(sealed, corner, now, skew);
            opened
                .inspect_err(|why| debug!(%device, %why, "left alone"))
                .ok()
        });
        opened.max_by_key(|note| note.issued)
    });
    let found = join_all(looking).await.into_iter().flatten();
    found.max_by_key(|note| note.issued)
}

/// What is due when.
#[derive(Default)]
struct Rounds {
    puts: HashMap<DeviceId, Put>,
    looks: HashMap<DeviceId, Look>,
}

struct Put {
    next: Instant,
    /// What the last note said, and on which day it was written.
    said: (Vec<SocketAddr>, u64),
}

struct Look {
    next: Instant,
    wait: Duration,
}

impl Rounds {
    /// For whom a note is due now, and whose is looked for: a few at a time. They count as done.
    fn due(
        &mut self,
        known: &[Acquaintance],
        ours: &[SocketAddr],
        unix_now: u64,
        now: Instant,
    ) -> (Vec<DeviceId>, Vec<DeviceId>) {
        let is_known = |id: &DeviceId| known.iter().any(|one| one.device == *id);
        self.puts.retain(|id, _| is_known(id));
        // Who was here and is gone again is looked for at once.
        let is_away = |id: &DeviceId| known.iter().any(|one| one.away && one.device == *id);
        self.looks.retain(|id, _| is_away(id));
        let (mut puts, mut looks) = (Vec::new(), Vec::new());
        let said = (ours.to_vec(), unix_now / (24 * 60 * 60));
        for one in known {
            let last = self.puts.get(&one.device);
            let due = last.is_none_or(|last| last.next <= now || last.said != said);
            if due && !ours.is_empty() && puts.len() < AT_ONCE {
                let put = Put {
                    next: now + RENEWED,
                    said: said.clone(),
                };
                self.puts.insert(one.device.clone(), put);
                puts.push(one.device.clone());
            }
            if !one.away || looks.len() >= AT_ONCE {
                continue;
            }
            let look = self.looks.entry(one.device.clone()).or_insert(Look {
                next: now,
                wait: LOOKS.0,
            });
            if one.wanted {
                look.next = look.next.min(now + WANTED);
            }
            if look.next <= now {
                look.next = now + look.wait;
                look.wait = (look.wait * 2).min(LOOKS.1);
                looks.push(one.device.clone());
            }
        }
        (puts, looks)
    }

    /// A note could not be put down.
    fn not_put(&mut self, device: &DeviceId, now: Instant) {
        if let Some(put) = self.puts.get_mut(device) {
            put.next = now + AGAIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> DeviceId {
        DeviceId::of_key(&[n; 32])
    }

    fn known(n: u8, away: bool, wanted: bool) -> Acquaintance {
        Acquaintance {
            device: id(n),
            away,
            wanted,
        }
    }

    const DAY: u64 = 24 * 60 * 60;

    #[test]
    fn notes_are_written_anew_in_time_and_when_they_would_say_something_else() {
        let (mut rounds, start) = (Rounds::default(), Instant::now());
        let here = [known(1, false, false)];
        let (home, away) = ([([10, 0, 0, 1], 1).into()], [([10, 0, 0, 2], 1).into()]);
        let mut puts = |ours: &[SocketAddr], unix, after| {
            let due = rounds.due(&here, ours, unix, start + after);
            due.0.len()
        };
        let second = Duration::from_secs(1);
        assert_eq!(puts(&[], 5, second), 0, "there is nothing to say");
        assert_eq!(puts(&home, 5, second), 1);
        assert_eq!(puts(&home, 5, second * 2), 0);
        assert_eq!(puts(&away, 5, second * 3), 1, "the address is another");
        assert_eq!(puts(&away, 5, RENEWED + second * 2), 0);
        assert_eq!(puts(&away, 5, RENEWED + second * 3), 1);
        assert_eq!(puts(&away, 5 + DAY, RENEWED + second * 4), 1, "another day");
        rounds.not_put(&id(1), start);
        let (due, _) = rounds.due(&here, &away, 5 + DAY, start + AGAIN);
        assert_eq!(due, [id(1)]);
    }

    #[test]
    fn who_is_away_is_looked_for_ever_less_often_and_who_is_wanted_more_often() {
        let start = Instant::now();
        let count = |wanted| {
            let mut rounds = Rounds::default();
            let known = [known(1, true, wanted)];
            let looks = (0..1800).map(|second| {
                let at = start + Duration::from_secs(second);
                rounds.due(&known, &[], 5, at).1.len()
            });
            looks.sum::<usize>()
        };
        let (idle, wanted) = (count(false), count(true));
        assert!((5..=10).contains(&idle), "{idle} looks in half an hour");
        assert!(
            (25..=40).contains(&wanted),
            "{wanted} looks in half an hour"
        );
        // Who comes back and goes again is looked for at once.
        let mut rounds = Rounds::default();
        for (away, looks) in [(true, 1), (true, 0), (false, 0), (true, 1)] {
            let due = rounds.due(&[known(1, away, false)], &[], 5, start);
            assert_eq!(due.1.len(), looks, "{away}");
        }
    }

    #[test]
    fn so_many_are_done_at_a_time_and_the_others_after_them() {
        let (mut rounds, start) = (Rounds::default(), Instant::now());
        let all: Vec<_> = (0..20).map(|n| known(n, true, false)).collect();
        let ours = [([10, 0, 0, 1], 1).into()];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let (puts, looks) = rounds.due(&all, &ours, 5, start);
            assert!(puts.len() <= AT_ONCE && looks.len() <= AT_ONCE);
            seen.extend(looks);
        }
        assert_eq!(seen.len(), 20);
        // Who may no longer is forgotten.
        rounds.due(&[], &ours, 5, start);
        assert!(rounds.puts.is_empty() && rounds.looks.is_empty());
    }
}
