//! The origin's side of introductions: whom it has introduced to whom, which pairs it would
//! introduce next, and whose signaling it passes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::id::{BundleId, DeviceId};
use super::introduction::{Introduction, ordered};
use super::rate::Rate;

/// Pairs that one device vouches for at once.
pub const MAX_PAIRS: usize = 4096;
/// Introductions taken back that one device remembers, for those who have not heard of it.
pub const MAX_ENDINGS: usize = 4096;
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

/// An introduction that was taken back, as one of the two is to hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// For which bundle.
    pub bundle: BundleId,
    /// The other device.
    pub peer: DeviceId,
    /// Why, for people.
    pub reason: &'static str,
}

struct Ended {
    reason: &'static str,
    /// When the introduction expires anyway, in Unix seconds.
    until: u64,
    /// It was said on the device's present link, on which it may yet have been lost.
    told: bool,
}

/// The introductions that we have made.
#[derive(Default)]
pub struct Vouching {
    pairs: BTreeMap<(BundleId, Pair), Vouched>,
    /// By whom is to hear it, and whom and what it is about.
    endings: BTreeMap<(DeviceId, DeviceId, BundleId), Ended>,
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

    /// Whether there is nothing to look after.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.endings.is_empty() && self.signals.is_empty()
    }

    /// Whether one more introduction can be remembered.
    pub fn has_room(&self) -> bool {
        self.pairs.len() < MAX_PAIRS
    }

    /// Remembers an introduction, in place of an earlier one of the same pair. False when there
    /// are too many.
    pub fn add(&mut self, introduction: Introduction) -> bool {
        let pair = ordered(&introduction.first, &introduction.second);
        let key = (introduction.bundle, pair);
        if !self.has_room() && !self.pairs.contains_key(&key) {
            return false;
        }
        let ((first, second), of) = (key.1.clone(), key.0);
        self.endings.remove(&(first.clone(), second.clone(), of));
        self.endings.remove(&(second, first, of));
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
        for ((to, ..), ended) in &mut self.endings {
            if to == device {
                ended.told = false;
            }
        }
    }

    /// Who has to hear that an introduction was taken back, and has not on its present link.
    pub fn unwarned(&self) -> BTreeSet<DeviceId> {
        let untold = self.endings.iter().filter(|(_, ended)| !ended.told);
        untold.map(|((to, ..), _)| to.clone()).collect()
    }

    /// What `device` is to hear of introductions that were taken back, once per link.
    pub fn endings(&mut self, device: &DeviceId) -> Vec<Ending> {
        let of_it = self.endings.iter_mut().filter(|((to, ..), _)| to == device);
        let untold = of_it.filter(|(_, ended)| !ended.told);
        untold
            .map(|((_, peer, bundle), ended)| {
                ended.told = true;
                Ending {
                    bundle: *bundle,
                    peer: peer.clone(),
                    reason: ended.reason,
                }
            })
            .collect()
    }

    /// Takes every introduction of a device back. The others are to hear it.
    pub fn revoke(&mut self, device: &DeviceId, reason: &'static str) {
        self.take_back(reason, |_, pair| pair.0 == *device || pair.1 == *device);
        // It has lost its link, and with it whatever we vouch for.
        self.endings.retain(|(to, ..), _| to != device);
    }

    /// Takes back what belongs to bundles that are not handed out any more, what devices have
    /// that are no longer `entitled` to a bundle, and what has expired at `now` (Unix seconds).
    pub fn retain(
        &mut self,
        now: u64,
        handed_out: impl Fn(&BundleId) -> bool,
        entitled: impl Fn(&BundleId, &DeviceId) -> bool,
    ) {
        self.pairs
            .retain(|_, vouched| vouched.introduction.expires > now);
        self.endings.retain(|_, ended| ended.until > now);
        self.take_back("the broadcast is over", |bundle, _| !handed_out(bundle));
        let may_not = "one of the two may no longer have it";
        self.take_back(may_not, |bundle, (first, second)| {
            !entitled(bundle, first) || !entitled(bundle, second)
        });
        let pairs: BTreeSet<&Pair> = self.pairs.keys().map(|(_, pair)| pair).collect();
        self.signals.retain(|pair, _| pairs.contains(pair));
    }

    fn take_back(&mut self, reason: &'static str, which: impl Fn(&BundleId, &Pair) -> bool) {
        let over = self.pairs.extract_if(.., |(of, pair), _| which(of, pair));
        for ((bundle, (first, second)), vouched) in over {
            let until = vouched.introduction.expires;
            for (to, peer) in [(&first, &second), (&second, &first)] {
                let told = false;
                let ended = Ended {
                    reason,
                    until,
                    told,
                };
                let about = (to.clone(), peer.clone(), bundle);
                self.endings.insert(about, ended);
            }
        }
        // Those first that would expire first; they are hours old where there are so many.
        let surplus = self.endings.len().saturating_sub(MAX_ENDINGS);
        if surplus > 0 {
            let mut all: Vec<_> = self.endings.keys().cloned().collect();
            all.sort_by_key(|key| self.endings[key].until);
            for key in all.drain(..surplus) {
                self.endings.remove(&key);
            }
        }
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
        book.revoke(&id(3), "why");
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
        book.retain(1000, |of| *of == bundle(8), |_, _| true);
        for (to, of) in [(2, 3), (3, 2)] {
            let [ending] = &book.endings(&id(to))[..] else {
                panic!()
            };
            assert_eq!((ending.bundle, &ending.peer), (bundle(7), &id(of)));
        }
        assert!(book.holds(&bundle(8), &id(3), &id(2), 1599));
        assert!(!book.holds(&bundle(8), &id(3), &id(2), 1600));
        book.retain(1600, |_| true, |_, _| true);
        assert!(!book.holds(&bundle(8), &id(3), &id(2), 1000));
        assert!(book.unwarned().is_empty(), "it has expired anyway");
    }

    #[test]
    fn whoever_was_away_hears_on_the_next_link_that_somebody_may_no_longer() {
        let mut book = Vouching::default();
        introduce(&mut book, 7, 2, 3);
        introduce(&mut book, 7, 2, 4);
        introduce(&mut book, 7, 3, 4);
        book.revoke(&id(2), "why");
        // Nobody says anything to the one that was revoked.
        assert_eq!(book.unwarned(), [id(3), id(4)].into());
        for told in 0..3 {
            let [ending] = &book.endings(&id(3))[..] else {
                panic!("{told}")
            };
            assert_eq!(
                (&ending.peer, ending.bundle, ending.reason),
                (&id(2), bundle(7), "why")
            );
            assert!(book.endings(&id(3)).is_empty(), "once per link");
            book.forget_told(&id(3));
        }
        // Who is introduced again is not taken back any more.
        introduce(&mut book, 7, 2, 3);
        assert!(book.endings(&id(3)).is_empty());
        assert_eq!(book.unwarned(), [id(4)].into());
    }

    #[test]
    fn who_is_no_longer_entitled_to_a_bundle_is_no_longer_introduced_for_it() {
        let mut book = Vouching::default();
        introduce(&mut book, 7, 2, 3);
        introduce(&mut book, 7, 3, 4);
        introduce(&mut book, 8, 2, 3);
        let entitled = |of: &BundleId, device: &DeviceId| (of, device) != (&bundle(7), &id(2));
        book.retain(1000, |_| true, entitled);
        assert!(!book.holds(&bundle(7), &id(2), &id(3), 1000));
        assert!(book.holds(&bundle(7), &id(3), &id(4), 1000));
        assert!(book.holds(&bundle(8), &id(2), &id(3), 1000));
        assert_eq!(book.endings(&id(3)).len(), 1);
    }

    #[test]
    fn what_is_remembered_of_introductions_taken_back_is_bounded() {
        let mut book = Vouching::default();
        let signed = Introduction::new(&who(1), bundle(7), &id(2), &id(3), 1000, 600, [0; 16]);
        let ids: Vec<DeviceId> = (2..32).map(id).collect();
        for round in 0..12u8 {
            for (at, first) in ids.iter().enumerate() {
                for second in &ids[at + 1..] {
                    let mut made = signed.clone();
                    made.bundle = bundle(round);
                    (made.first, made.second) = ordered(first, second);
                    assert!(book.add(made));
                }
            }
            book.retain(1000, |_| false, |_, _| true);
            assert!(book.endings.len() <= MAX_ENDINGS);
        }
        assert_eq!(book.endings.len(), MAX_ENDINGS);
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
