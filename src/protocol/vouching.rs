//! The origin's side of introductions: whom it has introduced to whom, which pairs it would
//! introduce next, and whose signaling it passes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::id::{BundleId, DeviceId};
use super::introduction::{Introduction, ordered};
use super::rate::Rate;

/// Pairs that one device vouches for at once.
pub const MAX_PAIRS: usize = 4096;
/// Longest `data` of a SIGNAL, in bytes.
pub const MAX_SIGNAL: usize = 16 * 1024;
/// SIGNAL messages that are passed on per pair and minute, both ways together.
pub const SIGNALS_PER_MINUTE: u32 = 64;

const MINUTE: Duration = Duration::from_secs(60);

type Pair = (DeviceId, DeviceId);

struct Vouched {
    introduction: Introduction,
    /// Who has heard of it on its present link.
    told: BTreeSet<DeviceId>,
}

/// The introductions that we have made.
#[derive(Default)]
pub struct Vouching {
    pairs: BTreeMap<(BundleId, Pair), Vouched>,
    signals: BTreeMap<Pair, Rate>,
}

impl Vouching {
    /// The introduction of two devices for a bundle, if it was made and holds until after `until`
    /// (Unix seconds).
    pub fn holds(&self, bundle: &BundleId, a: &DeviceId, b: &DeviceId, until: u64) -> bool {
        self.pairs
            .get(&(*bundle, ordered(a, b)))
            .is_some_and(|vouched| vouched.introduction.expires > until)
    }

    /// Remembers an introduction, in place of an earlier one of the same pair. False when there
    /// are too many.
    pub fn add(&mut self, introduction: Introduction) -> bool {
        let pair = ordered(&introduction.first, &introduction.second);
        let key = (introduction.bundle, pair);
        if self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(&key) {
            return false;
        }
        let told = BTreeSet::new();
        self.pairs.insert(key, Vouched { introduction, told });
        true
    }

    /// What `device` is to be told, once: it counts as told afterwards.
    pub fn untold(&mut self, device: &DeviceId, bundle: &BundleId) -> Vec<Introduction> {
        let mut untold = Vec::new();
        for ((of, (first, second)), vouched) in &mut self.pairs {
            let concerned = of == bundle && (first == device || second == device);
            if concerned && vouched.told.insert(device.clone()) {
                untold.push(vouched.introduction.clone());
            }
        }
        untold
    }

    /// The link to a device is gone: it is told again on the next one.
    pub fn forget_told(&mut self, device: &DeviceId) {
        for vouched in self.pairs.values_mut() {
            vouched.told.remove(device);
        }
    }

    /// Takes every introduction of a device back. Returns to whom, and for which bundle.
    pub fn revoke(&mut self, device: &DeviceId) -> Vec<(DeviceId, BundleId)> {
        let ended = self.take(|_, pair| pair.0 == *device || pair.1 == *device);
        let partner = |(bundle, (first, second)): (BundleId, Pair)| {
            let partner = if first == *device { second } else { first };
            (partner, bundle)
        };
        ended.into_iter().map(partner).collect()
    }

    /// Takes back what belongs to bundles that are not handed out any more, and what has expired
    /// at `now`. Returns the pairs of the former.
    pub fn retain(
        &mut self,
        now: u64,
        handed_out: impl Fn(&BundleId) -> bool,
    ) -> Vec<(BundleId, Pair)> {
        let ended = self.take(|bundle, _| !handed_out(bundle));
        self.pairs
            .retain(|_, vouched| vouched.introduction.expires > now);
        let pairs: BTreeSet<&Pair> = self.pairs.keys().map(|(_, pair)| pair).collect();
        self.signals.retain(|pair, _| pairs.contains(pair));
        ended
    }

    fn take(&mut self, which: impl Fn(&BundleId, &Pair) -> bool) -> Vec<(BundleId, Pair)> {
        let ended: Vec<_> = self
            .pairs
            .keys()
            .filter(|(bundle, pair)| which(bundle, pair))
            .cloned()
            .collect();
        for key in &ended {
            self.pairs.remove(key);
        }
        ended
    }

    /// Whether signaling from one device to another is passed on: only between devices that we
    /// have introduced to each other and not taken back, and not without end.
    pub fn passes(&mut self, from: &DeviceId, to: &DeviceId, unix: u64, now: Instant) -> bool {
        let pair = ordered(from, to);
        let vouched = self
            .pairs
            .iter()
            .any(|((_, of), vouched)| *of == pair && vouched.introduction.expires > unix);
        vouched
            && self
                .signals
                .entry(pair)
                .or_insert_with(|| Rate::new(SIGNALS_PER_MINUTE, MINUTE))
                .take(now)
    }

    /// Pairs to introduce for a bundle, so that each of `receivers` has up to `most` neighbours,
    /// those that have the fewest first. Pairs that hold beyond `until` count as there.
    pub fn plan(
        &self,
        bundle: &BundleId,
        receivers: &BTreeSet<DeviceId>,
        most: usize,
        until: u64,
    ) -> Vec<Pair> {
        let mut neighbours: BTreeMap<&DeviceId, BTreeSet<&DeviceId>> =
            receivers.iter().map(|id| (id, BTreeSet::new())).collect();
        let mut planned = Vec::new();
        for ((of, (first, second)), vouched) in &self.pairs {
            if of == bundle && receivers.contains(first) && receivers.contains(second) {
                neighbours.entry(first).or_default().insert(second);
                neighbours.entry(second).or_default().insert(first);
                if vouched.introduction.expires <= until {
                    planned.push((first.clone(), second.clone()));
                }
            }
        }
        for device in receivers {
            while neighbours[device].len() < most {
                let partner = receivers
                    .iter()
                    .filter(|other| *other != device && !neighbours[device].contains(other))
                    .filter(|other| neighbours[other].len() < most)
                    .min_by_key(|other| neighbours[other].len());
                let Some(partner) = partner else { break };
                neighbours.entry(device).or_default().insert(partner);
                neighbours.entry(partner).or_default().insert(device);
                planned.push(ordered(device, partner));
            }
        }
        planned
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;

    fn who(seed: u8) -> Identity {
        Identity::from_seed(&[seed; 32])
    }

    fn id(seed: u8) -> DeviceId {
        who(seed).device_id()
    }

    fn bundle(n: u8) -> BundleId {
        BundleId([n; 32])
    }

    fn introduce(book: &mut Vouching, of: u8, a: u8, b: u8) {
        let nonce = [0; 16];
        let made = Introduction::new(&who(1), bundle(of), &id(a), &id(b), 1000, 600, nonce);
        assert!(book.add(made));
    }

    #[test]
    fn signaling_is_passed_on_between_introduced_devices_and_no_others() {
        let (mut book, now) = (Vouching::default(), Instant::now());
        introduce(&mut book, 7, 2, 3);
        introduce(&mut book, 7, 3, 4);
        assert!(book.passes(&id(2), &id(3), 1000, now) && book.passes(&id(3), &id(2), 1000, now));
        assert!(!book.passes(&id(2), &id(4), 1000, now), "through nobody");
        assert!(!book.passes(&id(2), &id(3), 1600, now), "expired");
        assert_eq!(book.revoke(&id(3)).len(), 2);
        assert!(!book.passes(&id(2), &id(3), 1000, now), "taken back");
    }

    #[test]
    fn signaling_without_end_is_not_passed_on() {
        let (mut book, now) = (Vouching::default(), Instant::now());
        introduce(&mut book, 7, 2, 3);
        let passed = (0..500).filter(|_| book.passes(&id(2), &id(3), 1000, now));
        assert_eq!(passed.count(), SIGNALS_PER_MINUTE as usize);
        assert!(!book.passes(&id(3), &id(2), 1000, now));
        assert!(book.passes(&id(3), &id(2), 1000, now + MINUTE));
    }

    #[test]
    fn only_so_many_pairs_are_vouched_for_at_once() {
        let mut book = Vouching::default();
        // Signed once: whether it is true is for those who are told.
        let made = Introduction::new(&who(1), bundle(7), &id(2), &id(3), 1000, 600, [0; 16]);
        let numbered = |n: usize| {
            let mut made = made.clone();
            made.bundle.0[..8].copy_from_slice(&n.to_be_bytes());
            made
        };
        for n in 0..MAX_PAIRS {
            assert!(book.add(numbered(n)));
        }
        assert!(!book.add(numbered(MAX_PAIRS)));
        assert!(book.add(numbered(0)), "one that is there is renewed");
        assert_eq!(book.pairs.len(), MAX_PAIRS);
    }

    #[test]
    fn a_device_is_told_once_per_link_and_only_what_concerns_it() {
        let mut book = Vouching::default();
        introduce(&mut book, 7, 2, 3);
        introduce(&mut book, 7, 3, 4);
        introduce(&mut book, 8, 2, 3);
        assert_eq!(book.untold(&id(2), &bundle(7)).len(), 1);
        assert_eq!(book.untold(&id(2), &bundle(7)).len(), 0);
        assert_eq!(book.untold(&id(3), &bundle(7)).len(), 2);
        book.forget_told(&id(2));
        assert_eq!(book.untold(&id(2), &bundle(7)).len(), 1);
    }

    #[test]
    fn what_belongs_to_a_bundle_that_is_over_is_taken_back() {
        let mut book = Vouching::default();
        introduce(&mut book, 7, 2, 3);
        introduce(&mut book, 8, 2, 3);
        let ended = book.retain(1000, |of| *of == bundle(8));
        assert_eq!(ended, [(bundle(7), ordered(&id(2), &id(3)))]);
        assert!(book.holds(&bundle(8), &id(3), &id(2), 1599));
        assert!(!book.holds(&bundle(8), &id(3), &id(2), 1600));
        assert!(book.retain(1600, |_| true).is_empty());
        assert!(!book.holds(&bundle(8), &id(3), &id(2), 1000));
    }

    #[test]
    fn everybody_gets_neighbours_and_nobody_more_than_allowed() {
        for count in 0..40u8 {
            let receivers: BTreeSet<DeviceId> = (2..2 + count).map(id).collect();
            let planned = Vouching::default().plan(&bundle(7), &receivers, 4, 0);
            let of = |device: &DeviceId| {
                let with = planned.iter().filter(|(a, b)| a == device || b == device);
                with.count()
            };
            let wanted = 4.min(receivers.len().saturating_sub(1));
            let short = receivers.iter().filter(|id| of(id) < wanted).count();
            assert!(receivers.iter().all(|id| of(id) <= 4));
            assert!(short <= 1, "{short} of {count} have too few");
            assert!(planned.iter().all(|(a, b)| a < b));
        }
    }

    #[test]
    fn what_is_planned_joins_what_is_there_and_renews_what_ends_soon() {
        let mut book = Vouching::default();
        introduce(&mut book, 7, 2, 3);
        let receivers: BTreeSet<DeviceId> = [id(2), id(3), id(4)].into();
        let planned = book.plan(&bundle(7), &receivers, 2, 1000);
        assert_eq!(planned.len(), 2);
        assert!(!planned.contains(&ordered(&id(2), &id(3))));
        assert_eq!(book.plan(&bundle(7), &receivers, 2, 1600).len(), 3);
        assert_eq!(book.plan(&bundle(7), &receivers, 0, 1000).len(), 0);
    }
}
