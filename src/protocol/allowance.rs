//! How fast bytes may go: one allowance that all links share.
//!
//! Limits stand one in another: the whole device, the rules that hold now, one broadcast, one
//! device. Each has a token bucket; a message takes its bytes from every bucket that it passes, at
//! once, or waits. So over any span of time no level lets through more than its rate times the
//! span and one [`burst`]; what one level has left is of no use to another.
//!
//! Whoever waits is served in the order of start-time fair queueing (Goyal, Vin, Cheng 1996): all
//! links get the same number of bytes, whatever the sizes of their messages. One that waits for a
//! bucket of its own does not hold up the others: they may take what will have come in again by
//! then, as in backfilling (Lifka 1995), and no more, so that nobody waits for ever.

mod share;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

pub use share::{Priority, Share};

use super::id::{BroadcastId, DeviceId};

/// Parts of a byte in which a bucket counts: what one byte per second brings in a nanosecond.
const BYTE: i128 = 1_000_000_000;
/// So many of those who wait for something else have their part of a bucket kept for them: the
/// first ones. Looking at more would make each message dearer.
const KEPT: usize = 8;
/// Lanes that are remembered besides those that wait, before the list is looked through.
const SPARE: usize = 64;

/// The most that may pass at once at a rate in bytes per second: what it brings in 50 ms, but 4 KiB
/// to 4 MiB.
pub fn burst(rate: u64) -> u64 {
    (rate / 20).clamp(4 << 10, 4 << 20)
}

/// What holds now. Rates are bytes per second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Everything together.
    pub whole: Option<u64>,
    /// Each device.
    pub per_device: Option<u64>,
    /// Rules that are in force, under a number that each keeps.
    pub rules: BTreeMap<usize, RuleLimit>,
    /// Single broadcasts.
    pub broadcasts: BTreeMap<BroadcastId, u64>,
}

impl Limits {
    /// True when nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A limit for some devices together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleLimit {
    /// Bytes per second.
    pub rate: u64,
    /// Which devices; nothing for all.
    pub who: Option<BTreeSet<DeviceId>>,
}

/// On whose account bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The device at the other end.
    pub device: DeviceId,
    /// The broadcast of ours that they belong to.
    pub broadcast: Option<BroadcastId>,
}

/// Somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Level {
    Whole,
    Rule(usize),
    Broadcast(BroadcastId),
    Device(DeviceId),
}

#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// What may pass, in [`BYTE`]s; below zero what is owed.
    level: i128,
    at: Instant,
}

impl Bucket {
    fn full(rate: u64, now: Instant) -> Self {
        let level = i128::from(burst(rate)) * BYTE;
        Self {
            rate,
            level,
            at: now,
        }
    }

    fn settle(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        let passed = i128::try_from(passed).unwrap_or(i128::MAX);
        let more = passed.saturating_mul(i128::from(self.rate));
        self.level = self.level.saturating_add(more).min(self.most());
        self.at = self.at.max(now);
    }

    fn most(&self) -> i128 {
        i128::from(burst(self.rate)) * BYTE
    }

    /// What must be there for `bytes` to go: more than a burst goes when the bucket is full.
    fn needs(&self, bytes: u64) -> i128 {
        (i128::from(bytes) * BYTE).min(self.most())
    }

    /// How long `bytes` have to wait.
    fn wait(&self, bytes: u64) -> Duration {
        let lacks = self.needs(bytes) - self.level;
        if lacks <= 0 {
            return Duration::ZERO;
        }
        let nanos = lacks.unsigned_abs().div_ceil(u128::from(self.rate.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct Waiting {
    lane: Lane,
    bytes: u64,
}

/// What those who wait, and are earlier in order, leave to the others of one bucket.
#[derive(Debug)]
enum Claim {
    /// Nothing: one of them goes as soon as there is enough here.
    All,
    /// After these times so much must be there, in [`BYTE`]s; the later ones include the earlier.
    Parts(Vec<(Duration, i128)>),
}

/// What may pass, and who waits for it.
#[derive(Debug, Default)]
pub struct Allowance {
    limits: Limits,
    buckets: HashMap<Level, Bucket>,
    /// By the virtual time at which each begins, then by age.
    waiting: BTreeMap<(u64, Ticket), Waiting>,
    tickets: u64,
    /// The virtual time, in bytes, and when each device's last message ends on it.
    clock: u64,
    ends: HashMap<DeviceId, u64>,
}

impl Allowance {
    /// Other limits hold from `now` on, also for whoever waits. What has passed before counts.
    pub fn set(&mut self, limits: Limits, now: Instant) {
        self.limits = limits;
        let limits = &self.limits;
        self.buckets.retain(|level, bucket| {
            bucket.settle(now);
            let rate = match level {
                Level::Whole => limits.whole,
                Level::Rule(number) => limits.rules.get(number).map(|rule| rule.rate),
                Level::Broadcast(id) => limits.broadcasts.get(id).copied(),
                Level::Device(_) => limits.per_device,
            };
            bucket.rate = rate.unwrap_or_default();
            bucket.level = bucket.level.min(bucket.most());
            rate.is_some()
        });
    }

    /// What holds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The most bytes that a message on that lane should have, `at_most` or less: the smallest
    /// burst on its way.
    pub fn message(&self, lane: &Lane, at_most: u64) -> u64 {
        let rates = self.levels(lane).map(|(_, rate)| burst(rate));
        rates.chain([at_most]).min().unwrap_or(at_most)
    }

    /// Somebody wants to send so many bytes. Whether it may is said by [`Allowance::poll`].
    pub fn ask(&mut self, lane: Lane, bytes: u64) -> Ticket {
        let last = self.ends.get(&lane.device).copied().unwrap_or_default();
        let begins = last.max(self.clock);
        self.ends.insert(lane.device.clone(), begins + bytes);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let waiting = Waiting { lane, bytes };
        self.waiting.insert((begins, ticket), waiting);
        ticket
    }

    /// Somebody no longer waits.
    pub fn withdraw(&mut self, ticket: Ticket) {
        self.waiting.retain(|(_, of), _| *of != ticket);
    }

    /// These bytes have passed without asking; others wait the longer.
    pub fn charge(&mut self, lane: &Lane, bytes: u64, now: Instant) {
        let levels: Vec<_> = self.levels(lane).collect();
        self.take(&levels, bytes, now);
    }

    /// Who may send at the time `now`, and after how long to ask again where somebody still waits.
    pub fn poll(&mut self, now: Instant) -> (Vec<Ticket>, Option<Duration>) {
        let (mut granted, mut next) = (Vec::new(), None);
        let mut claims = HashMap::new();
        let waiting = std::mem::take(&mut self.waiting);
        for (place, waits) in waiting {
            let levels: Vec<_> = match claims.get(&Level::Whole) {
                // Nobody passes, so nobody need be looked at.
                Some(Claim::All) => Vec::new(),
                _ => self.levels(&waits.lane).collect(),
            };
            let whole = matches!(claims.get(&Level::Whole), Some(Claim::All));
            if whole || !self.leaves_enough(&levels, waits.bytes, &claims, now) {
                self.waiting.insert(place, waits);
                continue;
            }
            let slowest = (levels.iter())
                .map(|(level, rate)| (self.settled(level, *rate, now).wait(waits.bytes), level))
                .max_by_key(|(wait, _)| *wait);
            match slowest {
                Some((wait, slowest)) if !wait.is_zero() => {
                    next = Some(next.map_or(wait, |next: Duration| next.min(wait)));
                    let slowest = slowest.clone();
                    self.claim(&levels, &slowest, (wait, waits.bytes), &mut claims);
                    self.waiting.insert(place, waits);
                }
                _ => {
                    let (begins, ticket) = place;
                    self.take(&levels, waits.bytes, now);
                    self.clock = self.clock.max(begins);
                    granted.push(ticket);
                }
            }
        }
        self.tidy(now);
        (granted, next)
    }

    /// Whether those before have what they need in time when these bytes go now.
    fn leaves_enough(
        &mut self,
        levels: &[(Level, u64)],
        bytes: u64,
        claims: &HashMap<Level, Claim>,
        now: Instant,
    ) -> bool {
        levels.iter().all(|(level, rate)| match claims.get(level) {
            None => true,
            Some(Claim::All) => false,
            Some(Claim::Parts(parts)) => {
                let left = self.settled(level, *rate, now).level - i128::from(bytes) * BYTE;
                parts.iter().all(|(wait, needs)| {
                    let comes = i128::try_from(wait.as_nanos()).unwrap_or(i128::MAX);
                    left.saturating_add(comes.saturating_mul(i128::from(*rate))) >= *needs
                })
            }
        })
    }

    /// Somebody waits for the slowest of these levels, and will need the others then.
    fn claim(
        &self,
        levels: &[(Level, u64)],
        slowest: &Level,
        (wait, bytes): (Duration, u64),
        claims: &mut HashMap<Level, Claim>,
    ) {
        for (level, _) in levels {
            if level == slowest {
                claims.insert(level.clone(), Claim::All);
                continue;
            }
            let claim = claims
                .entry(level.clone())
                .or_insert_with(|| Claim::Parts(Vec::new()));
            if let (Claim::Parts(parts), Some(bucket)) = (claim, self.buckets.get(level))
                && parts.len() < KEPT
            {
                let before = parts.last().map_or(0, |(_, needs)| *needs);
                parts.push((wait, before + bucket.needs(bytes)));
            }
        }
    }

    /// The limits that a lane's bytes pass, with their rates.
    fn levels<'a>(&'a self, lane: &'a Lane) -> impl Iterator<Item = (Level, u64)> {
        let limits = &self.limits;
        let of_rules = limits.rules.iter().filter(|(_, rule)| {
            let who = rule.who.as_ref();
            who.is_none_or(|who| who.contains(&lane.device))
        });
        let broadcast = lane.broadcast.and_then(|id| {
            let rate = limits.broadcasts.get(&id)?;
            Some((Level::Broadcast(id), *rate))
        });
        let whole = limits.whole.map(|rate| (Level::Whole, rate));
        let device = limits.per_device;
        let device = device.map(|rate| (Level::Device(lane.device.clone()), rate));
        let rules = of_rules.map(|(number, rule)| (Level::Rule(*number), rule.rate));
        whole
            .into_iter()
            .chain(rules)
            .chain(broadcast)
            .chain(device)
    }

    fn settled(&mut self, level: &Level, rate: u64, now: Instant) -> &mut Bucket {
        let bucket = self
            .buckets
            .entry(level.clone())
            .or_insert_with(|| Bucket::full(rate, now));
        bucket.settle(now);
        bucket
    }

    fn take(&mut self, levels: &[(Level, u64)], bytes: u64, now: Instant) {
        for (level, rate) in levels {
            self.settled(level, *rate, now).level -= i128::from(bytes) * BYTE;
        }
    }

    /// Forgets what says nothing: buckets that are full, and ends that have passed.
    fn tidy(&mut self, now: Instant) {
        if self.ends.len() > self.waiting.len() + SPARE {
            if self.waiting.is_empty() {
                let last = self.ends.values().copied().max();
                self.clock = self.clock.max(last.unwrap_or_default());
            }
            let clock = self.clock;
            self.ends.retain(|_, end| *end > clock);
        }
        if self.buckets.len() > self.waiting.len() + SPARE {
            self.buckets.retain(|_, bucket| {
                bucket.settle(now);
                bucket.level < bucket.most()
            });
        }
    }
}

#[cfg(test)]
mod tests;
