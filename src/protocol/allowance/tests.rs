//! On virtual time: what passes in any window, who gets how much, and that nobody waits for ever.

use proptest::prelude::*;

use super::*;

fn device(n: u8) -> DeviceId {
    DeviceId::of_key(&[n; 32])
}

fn broadcast(n: u8) -> BroadcastId {
    BroadcastId([n; 16])
}

fn lane(of: u8, broadcast_: u8) -> Lane {
    Lane {
        device: device(of),
        broadcast: (broadcast_ > 0).then(|| broadcast(broadcast_)),
    }
}

/// Links that each have one message waiting, as the data plane does.
struct Room {
    allowance: Allowance,
    now: Instant,
    /// Lane, and bytes of each message.
    links: Vec<(Lane, u64)>,
    waiting: HashMap<Ticket, usize>,
    /// When, which link, how much.
    passed: Vec<(Instant, usize, u64)>,
}

impl Room {
    fn new(limits: Limits, links: Vec<(Lane, u64)>) -> Self {
        let now = Instant::now();
        let mut allowance = Allowance::default();
        allowance.set(limits, now);
        let mut room = Self {
            allowance,
            now,
            links,
            waiting: HashMap::new(),
            passed: Vec::new(),
        };
        for link in 0..room.links.len() {
            room.ask(link);
        }
        room
    }

    fn ask(&mut self, link: usize) {
        let (lane, bytes) = self.links[link].clone();
        let bytes = self.allowance.message(&lane, bytes);
        let ticket = self.allowance.ask(lane, bytes);
        self.waiting.insert(ticket, link);
        self.links[link].1 = bytes;
    }

    /// Sends as fast as it may, until `end`.
    fn run_until(&mut self, end: Instant) {
        loop {
            let (granted, next) = self.allowance.poll(self.now);
            let some = !granted.is_empty();
            for ticket in granted {
                let link = self.waiting.remove(&ticket).expect("it waits");
                self.passed.push((self.now, link, self.links[link].1));
                self.ask(link);
            }
            if some {
                continue;
            }
            let wait = next.expect("somebody waits");
            assert!(!wait.is_zero(), "asked again at once: a busy loop");
            if self.now + wait > end {
                self.now = end;
                return;
            }
            self.now += wait;
        }
    }

    fn bytes(&self, links: impl Fn(usize) -> bool) -> u64 {
        let of = self.passed.iter().filter(|(_, link, _)| links(*link));
        of.map(|(_, _, bytes)| bytes).sum()
    }

    /// The worst of all windows: by how many bytes more than rate times time, and the burst,
    /// passed on these links.
    fn excess(&self, rate: u64, links: impl Fn(usize) -> bool) -> i128 {
        // Kadane's: the largest sum of bytes less what the time in between has brought.
        let (mut worst, mut owed, mut last) = (0, 0, self.passed.first().map(|p| p.0));
        for (at, _, bytes) in self.passed.iter().filter(|(_, link, _)| links(*link)) {
            let since = (*at - last.unwrap_or(*at)).as_nanos() as i128;
            owed = (owed - since * i128::from(rate)).max(0) + i128::from(*bytes) * BYTE;
            worst = worst.max(owed);
            last = Some(*at);
        }
        worst - i128::from(burst(rate)) * BYTE
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn whole(rate: u64) -> Limits {
    Limits {
        whole: Some(rate),
        ..Limits::default()
    }
}

fn some_limits() -> impl Strategy<Value = Limits> {
    let rate = || 16_000u64..40_000_000;
    let maybe = || proptest::option::of(rate());
    let who = || {
        proptest::option::of(proptest::collection::btree_set(
            (1u8..7).prop_map(device),
            1..5,
        ))
    };
    let rules = proptest::collection::btree_map(
        0usize..4,
        (rate(), who()).prop_map(|(rate, who)| RuleLimit { rate, who }),
        0..4,
    );
    let broadcasts = proptest::collection::btree_map((1u8..4).prop_map(broadcast), rate(), 0..3);
    (maybe(), maybe(), rules, broadcasts).prop_map(|(whole, per_device, rules, broadcasts)| {
        Limits {
            whole,
            per_device,
            rules,
            broadcasts,
        }
    })
}

fn some_links() -> impl Strategy<Value = Vec<(Lane, u64)>> {
    let link = (1u8..7, 0u8..4, 2000u64..65_536);
    let link = link.prop_map(|(of, broadcast, bytes)| (lane(of, broadcast), bytes));
    proptest::collection::vec(link, 1..10)
}

/// Every level of the limits: its rate, and whose bytes it counts.
type Counted<'a> = (u64, Box<dyn Fn(&Lane) -> bool + 'a>);

fn levels(limits: &Limits) -> Vec<Counted<'_>> {
    let mut all: Vec<Counted<'_>> = Vec::new();
    all.extend(
        limits
            .whole
            .map(|rate| (rate, Box::new(|_: &Lane| true) as _)),
    );
    for rule in limits.rules.values() {
        let within = |lane: &Lane| {
            rule.who
                .as_ref()
                .is_none_or(|who| who.contains(&lane.device))
        };
        all.push((rule.rate, Box::new(within)));
    }
    for (id, rate) in &limits.broadcasts {
        all.push((*rate, Box::new(|lane| lane.broadcast == Some(*id))));
    }
    if let Some(rate) = limits.per_device {
        for n in 1..7 {
            all.push((rate, Box::new(move |lane| lane.device == device(n))));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_level_ever_lets_through_more_than_its_rate_and_a_burst(
        mut limits in some_limits(), links in some_links(), pauses in proptest::collection::vec(0u64..900, 1..3)
    ) {
        limits.whole.get_or_insert(20_000_000);
        let mut room = Room::new(limits.clone(), links);
        for pause in pauses {
            // Time passes in which nobody looks, and buckets fill.
            room.now += Duration::from_millis(pause);
            room.run_until(room.now + Duration::from_millis(400));
        }
        for (rate, counts) in levels(&limits) {
            let excess = room.excess(rate, |link| counts(&room.links[link].0));
            prop_assert!(excess <= 0, "{} bytes too many at {rate} B/s", excess / BYTE);
        }
    }

    #[test]
    fn what_passed_before_a_change_counts_after_it(
        rates in proptest::collection::vec((16_000u64..40_000_000, 1u64..300), 1..12), links in some_links()
    ) {
        let mut room = Room::new(whole(rates[0].0), links);
        let (begun, mut brought) = (room.now, 0u128);
        let mut most = 0;
        for (rate, millis) in rates {
            room.allowance.set(whole(rate), room.now);
            most = most.max(burst(rate));
            room.run_until(room.now + Duration::from_millis(millis));
            brought += u128::from(rate) * u128::from(millis) / 1000;
        }
        // A message that waits when the rate falls may be larger than the new burst; it then
        // leaves the bucket in debt.
        let passed = u128::from(room.bytes(|_| true));
        prop_assert!(room.now > begun);
        prop_assert!(passed <= brought + u128::from(most) + 65_536, "{passed} of {brought}");
    }

    #[test]
    fn nobody_waits_for_ever_under_whatever_limits(limits in some_limits(), links in some_links()) {
        let mut limits = limits;
        limits.whole = Some(limits.whole.map_or(500_000, |rate| rate.min(500_000)));
        let mut room = Room::new(limits.clone(), links);
        for _ in 0..2 {
            let (before, start) = (room.passed.len(), room.now);
            room.run_until(start + 12 * SECOND);
            for link in 0..room.links.len() {
                let served = room.passed[before..].iter().any(|(_, of, _)| *of == link);
                prop_assert!(served, "link {link} of {:?} under {limits:?}", room.links);
            }
            room.passed.clear();
        }
    }
}

#[test]
fn a_limit_is_used_up_and_shared_by_bytes_not_by_messages() {
    let sizes = [65_536, 65_536, 1000, 30_000];
    let links = (1..)
        .zip(sizes)
        .map(|(n, size)| (lane(n, 0), size))
        .collect();
    let mut room = Room::new(whole(20_000_000), links);
    room.run_until(room.now + 10 * SECOND);
    let all = room.bytes(|_| true);
    assert!((199_000_000..=201_000_000).contains(&all), "{all}");
    for link in 0..4 {
        let bytes = room.bytes(|of| of == link);
        assert!(
            bytes.abs_diff(50_000_000) < 600_000,
            "link {link} has {bytes}"
        );
    }
}

#[test]
fn two_messages_of_one_device_do_not_make_two_shares() {
    // As a link that sends its own bundle and serves a neighbour at the same time.
    let links = vec![
        (lane(1, 0), 60_000),
        (lane(1, 1), 60_000),
        (lane(2, 0), 60_000),
    ];
    let mut room = Room::new(whole(10_000_000), links);
    room.run_until(room.now + 10 * SECOND);
    let second = room.bytes(|link| link == 2);
    assert!(second.abs_diff(50_000_000) < 600_000, "{second}");
}

#[test]
fn one_that_waits_for_its_own_limit_does_not_hold_up_the_others() {
    let slow = RuleLimit {
        rate: 16_000,
        who: Some([device(1)].into()),
    };
    let limits = Limits {
        rules: [(0, slow)].into(),
        ..whole(10_000_000)
    };
    let links = (1..4).map(|n| (lane(n, 0), 65_536)).collect();
    let mut room = Room::new(limits, links);
    room.run_until(room.now + 20 * SECOND);
    assert!(room.bytes(|_| true) > 199_000_000);
    let slow = room.bytes(|link| link == 0);
    assert!((300_000..=330_000).contains(&slow), "{slow}");
}

#[test]
fn many_that_share_a_slow_limit_do_not_hold_up_the_one_that_does_not() {
    let slow = RuleLimit {
        rate: 16_000,
        who: Some((1..30).map(device).collect()),
    };
    let limits = Limits {
        rules: [(0, slow)].into(),
        per_device: Some(8_000_000),
        ..whole(10_000_000)
    };
    let links = (1..31).map(|n| (lane(n, 0), 65_536)).collect();
    let mut room = Room::new(limits, links);
    room.run_until(room.now + 20 * SECOND);
    let free = room.bytes(|link| link == 29);
    assert!(free > 159_000_000, "{free}");
    for link in 0..29 {
        let slow = room.bytes(|of| of == link);
        assert!((8_000..=16_500).contains(&slow), "link {link} has {slow}");
    }
}

#[test]
fn one_that_needs_two_limits_is_not_starved_by_those_who_need_one_of_them() {
    let rule = RuleLimit {
        rate: 2_000_000,
        who: Some([device(1), device(3)].into()),
    };
    let limits = Limits {
        rules: [(0, rule)].into(),
        broadcasts: [(broadcast(1), 2_000_000)].into(),
        ..Limits::default()
    };
    let links = vec![(lane(1, 1), 65_536), (lane(2, 1), 1000), (lane(3, 0), 1000)];
    let mut room = Room::new(limits, links);
    room.run_until(room.now + 10 * SECOND);
    let of = [0, 1, 2].map(|link| room.bytes(|of| of == link));
    assert!(of[0] > 9_000_000, "{of:?}");
    assert!(
        of[0] + of[1] > 19_900_000 && of[0] + of[2] > 19_900_000,
        "{of:?}"
    );
}

#[test]
fn a_lower_limit_takes_hold_at_once_also_for_whoever_waits() {
    let mut room = Room::new(whole(40_000_000), vec![(lane(1, 1), 65_536)]);
    room.run_until(room.now + SECOND);
    room.passed.clear();
    let mut limits = whole(40_000_000);
    limits.broadcasts.insert(broadcast(1), 100_000);
    room.allowance.set(limits, room.now);
    room.run_until(room.now + SECOND);
    let bytes = room.bytes(|_| true);
    assert!(bytes < 100_000 + burst(100_000) + 65_536, "{bytes}");
    // And without limits nobody waits.
    room.allowance.set(Limits::default(), room.now);
    assert_eq!(room.allowance.poll(room.now).0.len(), 1);
    assert!(room.allowance.buckets.is_empty());
}

#[test]
fn a_new_link_is_not_owed_what_others_have_had() {
    let mut room = Room::new(whole(1_000_000), vec![(lane(1, 0), 10_000)]);
    room.run_until(room.now + 10 * SECOND);
    room.links.push((lane(2, 0), 10_000));
    room.ask(1);
    room.passed.clear();
    room.run_until(room.now + 2 * SECOND);
    let (old, new) = (room.bytes(|of| of == 0), room.bytes(|of| of == 1));
    assert!(old.abs_diff(new) < 50_000, "{old} and {new}");
}

#[test]
fn who_leaves_the_queue_takes_nothing_and_the_rest_goes_on() {
    let now = Instant::now();
    let mut allowance = Allowance::default();
    allowance.set(whole(20_000), now);
    let first = allowance.ask(lane(1, 0), 4096);
    assert_eq!(allowance.poll(now), (vec![first], None));
    let (second, third) = (
        allowance.ask(lane(1, 0), 4096),
        allowance.ask(lane(2, 0), 2000),
    );
    allowance.withdraw(second);
    let (granted, next) = allowance.poll(now);
    assert!(granted.is_empty());
    assert_eq!(next, Some(Duration::from_millis(100)));
    let later = now + Duration::from_millis(100);
    assert_eq!(allowance.poll(later), (vec![third], None));
    // What passes unasked counts all the same.
    allowance.charge(&lane(3, 0), 20_000, later);
    let fourth = allowance.ask(lane(1, 0), 1);
    assert!(allowance.poll(later).1 > Some(Duration::from_millis(900)));
    assert_eq!(allowance.poll(later + 2 * SECOND).0, [fourth]);
}

#[test]
fn devices_that_have_gone_are_forgotten() {
    let now = Instant::now();
    let mut allowance = Allowance::default();
    let limits = Limits {
        per_device: Some(1_000_000),
        ..whole(1_000_000_000)
    };
    allowance.set(limits, now);
    for n in 0..2000u32 {
        let now = now + Duration::from_millis(n.into());
        let device = DeviceId::of_key(
            &[n.to_le_bytes(), [7; 4]]
                .concat()
                .repeat(4)
                .try_into()
                .unwrap(),
        );
        let broadcast = None;
        allowance.ask(Lane { device, broadcast }, 50);
        assert_eq!(allowance.poll(now).0.len(), 1);
    }
    assert!(allowance.buckets.len() <= SPARE + 2);
    assert!(allowance.ends.len() <= SPARE + 2);
    assert!(allowance.waiting.is_empty());
}
