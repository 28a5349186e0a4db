use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// One machine on virtual time. "aaa" is lower than "bbb".
struct One {
    machine: Negotiation,
    start: Instant,
}

impl One {
    fn new(initiator: Initiator, lower: bool) -> Self {
        let settings = Settings {
            initiator,
            ..Settings::default()
        };
        let (a, b): (DeviceId, DeviceId) = ("aaa".parse().unwrap(), "bbb".parse().unwrap());
        let (ours, theirs) = if lower { (a, b) } else { (b, a) };
        Self {
            machine: Negotiation::new(settings, ours, theirs),
            start: Instant::now(),
        }
    }

    /// Gives an input at `ms` and returns what came out.
    fn at(&mut self, ms: u64, input: Input) -> Vec<Output> {
        self.machine
            .handle(self.start + Duration::from_millis(ms), input);
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    /// Milliseconds until the next deadline, from the start.
    fn deadline(&self) -> Option<u64> {
        let at = self.machine.next_deadline()?;
        Some((at - self.start).as_millis() as u64)
    }

    /// Connects as the offerer, up to the answer.
    fn connect_by_offer(&mut self) {
        self.at(0, Input::Connect);
        self.at(0, local_offer(1));
        self.at(0, Input::Delivered { generation: 1 });
        self.at(100, Input::RemoteAnswer("answer".into()));
        assert_eq!(self.machine.phase(), Phase::Connecting);
    }
}

fn local_offer(generation: Generation) -> Input {
    Input::LocalOffer {
        generation,
        sdp: format!("offer {generation}"),
    }
}

fn remote_offer(text: &str) -> Input {
    Input::RemoteOffer(text.to_owned())
}

fn is_ignored(outputs: &[Output]) -> bool {
    matches!(outputs, [Output::Ignored { .. }])
}

#[test]
fn four_offers_go_out_at_the_times_of_the_protocol_and_then_it_gives_up() {
    let mut one = One::new(Initiator::Sender, true);
    let mut now = 0;
    let mut starts = Vec::new();
    let mut outputs = one.at(now, Input::Connect);
    let reason = loop {
        for output in std::mem::take(&mut outputs) {
            match output {
                Output::MakeOffer { generation } => {
                    starts.push(now);
                    let sent = one.at(now, local_offer(generation));
                    assert!(matches!(sent[..], [Output::SendOffer { .. }]));
                    one.at(now, Input::Delivered { generation });
                }
                Output::NotConnected { reason } => outputs.push(Output::NotConnected { reason }),
                _ => {}
            }
        }
        if let Some(Output::NotConnected { reason }) = outputs.pop() {
            break reason;
        }
        now = one.deadline().unwrap();
        outputs = one.at(now, Input::Tick);
    };
    assert_eq!(starts, [0, 11_000, 23_000, 37_000]);
    assert_eq!(now, 47_000);
    assert_eq!(reason, Failure::NoAnswer { tries: 4 });
    assert_eq!(one.deadline(), None);
}

#[test]
fn an_offer_that_cannot_be_delivered_is_a_failed_try() {
    let mut one = One::new(Initiator::Sender, true);
    one.at(0, Input::Connect);
    one.at(0, local_offer(1));
    let refused = Input::Undeliverable {
        generation: 1,
        reason: "refused".into(),
    };
    let outputs = one.at(50, refused.clone());
    let expected = Failure::Unreachable {
        tries: 1,
        reason: "refused".into(),
    };
    let [
        Output::CloseConnection { generation: 1 },
        Output::Retrying {
            attempt: 2, reason, ..
        },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(*reason, expected);
    assert_eq!(one.deadline(), Some(1050));
    assert!(is_ignored(&one.at(60, refused)));
    assert_eq!(
        one.at(1050, Input::Tick),
        [Output::MakeOffer { generation: 2 }]
    );
}

#[test]
fn the_offerer_connects_and_events_of_older_connections_change_nothing() {
    let mut one = One::new(Initiator::Sender, true);
    one.at(0, Input::Connect);
    one.at(0, local_offer(1));
    one.at(10_000, Input::Tick);
    one.at(11_000, Input::Tick);
    for late in [
        local_offer(1),
        Input::ChannelOpen { generation: 1 },
        Input::ConnectionLost {
            generation: 1,
            reason: String::new(),
        },
    ] {
        assert!(is_ignored(&one.at(11_001, late)));
    }
    assert!(is_ignored(
        &one.at(11_002, Input::RemoteAnswer("early".into()))
    ));
    one.at(11_003, local_offer(2));
    let applied = one.at(11_100, Input::RemoteAnswer("answer".into()));
    assert_eq!(
        applied,
        [Output::ApplyAnswer {
            generation: 2,
            sdp: "answer".into()
        }]
    );
    assert!(is_ignored(
        &one.at(11_101, Input::RemoteAnswer("again".into()))
    ));
    let open = one.at(11_200, Input::ChannelOpen { generation: 2 });
    assert_eq!(open, [Output::Connected { generation: 2 }]);
    assert_eq!(one.deadline(), None);
    let lost = one.at(
        20_000,
        Input::ConnectionLost {
            generation: 2,
            reason: "gone".into(),
        },
    );
    assert_eq!(
        lost,
        [
            Output::CloseConnection { generation: 2 },
            Output::NotConnected {
                reason: Failure::Lost("gone".into())
            },
        ]
    );
    assert_eq!(
        one.at(20_001, Input::Connect),
        [Output::MakeOffer { generation: 3 }]
    );
}

#[test]
fn the_channel_must_open_within_30_s() {
    let mut one = One::new(Initiator::Sender, true);
    one.connect_by_offer();
    assert_eq!(one.deadline(), Some(30_100));
    let outputs = one.at(30_100, Input::Tick);
    assert_eq!(
        outputs[1],
        Output::NotConnected {
            reason: Failure::NoChannel
        }
    );
}

#[test]
fn early_candidates_wait_for_the_descriptions_in_either_role_and_only_30_s() {
    let candidate = |n: u32| Input::RemoteCandidate(format!("candidate {n}"));
    let added = |outputs: &[Output]| -> Vec<String> {
        let text = |o: &Output| match o {
            Output::AddCandidate { text, .. } => Some(text.clone()),
            _ => None,
        };
        outputs.iter().filter_map(text).collect()
    };
    let mut offerer = One::new(Initiator::Sender, true);
    assert!(offerer.at(0, candidate(1)).is_empty());
    assert_eq!(offerer.deadline(), Some(30_000));
    offerer.at(29_000, Input::Connect);
    offerer.at(29_000, local_offer(1));
    offerer.at(29_500, candidate(2));
    let outputs = offerer.at(30_000, Input::RemoteAnswer("answer".into()));
    assert_eq!(added(&outputs), ["candidate 2"]);
    assert_eq!(added(&offerer.at(30_100, candidate(3))), ["candidate 3"]);

    let mut answerer = One::new(Initiator::Sender, true);
    answerer.at(0, candidate(1));
    answerer.at(10, remote_offer("o"));
    assert!(added(&answerer.at(20, candidate(2))).is_empty());
    let outputs = answerer.at(
        30,
        Input::LocalAnswer {
            generation: 1,
            sdp: "a".into(),
        },
    );
    assert_eq!(added(&outputs), ["candidate 1", "candidate 2"]);
}

#[test]
fn candidates_are_bounded_before_and_after_the_descriptions() {
    let mut one = One::new(Initiator::Sender, true);
    for n in 0..100u32 {
        let outputs = one.at(0, Input::RemoteCandidate(String::new()));
        assert_eq!(is_ignored(&outputs), n >= 32);
    }
    one.connect_by_offer();
    assert!(is_ignored(
        &one.at(200, Input::RemoteCandidate(String::new()))
    ));
}

#[test]
fn when_both_offer_the_lower_id_stands_and_the_higher_answers() {
    let mut lower = One::new(Initiator::Sender, true);
    let mut higher = One::new(Initiator::Sender, false);
    for one in [&mut lower, &mut higher] {
        one.at(0, Input::Connect);
        one.at(0, local_offer(1));
    }
    assert!(is_ignored(&lower.at(10, remote_offer("of the higher"))));
    assert_eq!(
        higher.at(10, remote_offer("of the lower")),
        [
            Output::CloseConnection { generation: 1 },
            Output::MakeAnswer {
                generation: 2,
                offer: "of the lower".into()
            },
        ]
    );
    assert!(lower.machine.we_offered() && !higher.machine.we_offered());
}

#[test]
fn an_offer_overtaken_by_the_answer_does_not_tear_the_new_connection_down() {
    let mut lower = One::new(Initiator::Sender, true);
    lower.connect_by_offer();
    assert!(is_ignored(&lower.at(200, remote_offer("stale"))));
    let later = lower.at(4_000, remote_offer("restarted"));
    assert_eq!(
        later[1],
        Output::MakeAnswer {
            generation: 2,
            offer: "restarted".into()
        }
    );
}

#[test]
fn an_offer_while_connected_means_that_the_peer_restarted() {
    let mut one = One::new(Initiator::Sender, false);
    one.connect_by_offer();
    one.at(200, Input::ChannelOpen { generation: 1 });
    assert_eq!(
        one.at(300, remote_offer("new")),
        [
            Output::CloseConnection { generation: 1 },
            Output::MakeAnswer {
                generation: 2,
                offer: "new".into()
            },
        ]
    );
}

#[test]
fn the_same_offer_again_is_answered_again_with_the_same_answer() {
    let mut one = One::new(Initiator::Sender, false);
    one.at(0, remote_offer("o"));
    assert!(is_ignored(&one.at(1, remote_offer("o"))));
    one.at(
        2,
        Input::LocalAnswer {
            generation: 1,
            sdp: "a".into(),
        },
    );
    let again = one.at(11_000, remote_offer("o"));
    assert_eq!(
        again,
        [Output::SendAnswer {
            generation: 1,
            sdp: "a".into()
        }]
    );
    one.at(11_100, Input::ChannelOpen { generation: 1 });
    assert!(is_ignored(&one.at(11_200, remote_offer("o"))));
}

#[test]
fn with_lower_id_only_the_lower_offers() {
    let mut lower = One::new(Initiator::LowerId, true);
    assert!(is_ignored(&lower.at(0, remote_offer("o"))));
    assert_eq!(
        lower.at(0, Input::Connect),
        [Output::MakeOffer { generation: 1 }]
    );

    let mut higher = One::new(Initiator::LowerId, false);
    assert!(higher.at(0, Input::Connect).is_empty());
    assert_eq!(higher.machine.phase(), Phase::WaitingForOffer);
    assert_eq!(higher.deadline(), Some(47_000));
    let outputs = higher.at(47_000, Input::Tick);
    assert_eq!(
        outputs,
        [Output::NotConnected {
            reason: Failure::NoOffer
        }]
    );
    let outputs = higher.at(48_000, remote_offer("o"));
    assert_eq!(
        outputs,
        [Output::MakeAnswer {
            generation: 1,
            offer: "o".into()
        }]
    );
}

#[test]
fn a_refusal_ends_it_without_further_tries() {
    let mut one = One::new(Initiator::Sender, true);
    assert!(is_ignored(&one.at(0, Input::Refused("x".into()))));
    one.at(0, Input::Connect);
    one.at(0, local_offer(1));
    assert_eq!(
        one.at(1, Input::Refused("not authorized".into())),
        [
            Output::CloseConnection { generation: 1 },
            Output::NotConnected {
                reason: Failure::Refused("not authorized".into())
            },
        ]
    );
    assert_eq!(one.deadline(), None);
}

/// Two machines, the network between them, and a driver that does what the outputs say.
struct World {
    start: Instant,
    now: u64,
    initiator: Initiator,
    machines: [Negotiation; 2],
    /// What happens next, by time and then by order.
    queue: BTreeMap<(u64, u64), Event>,
    count: u64,
    links: [HashMap<Generation, Link>; 2],
    last_offer: [String; 2],
    dice: Vec<u16>,
    rolled: usize,
    /// Until when messages may be lost.
    chaos_until: u64,
    max_delay: u64,
    given_up: usize,
}

/// A connection of one side: the offer and answer that it knows.
#[derive(Debug, Default, Clone, PartialEq)]
struct Link {
    offer: Option<String>,
    answer: Option<String>,
    closed: bool,
    opening: bool,
}

#[derive(Debug)]
enum Event {
    Input(usize, Input),
    /// An answer and the offer it belongs to, as the proof would show it.
    Answer(usize, String, String),
    /// Somebody wants a connection until there is one.
    Want(usize),
    Tick(usize),
}

impl World {
    fn new(initiator: Initiator, dice: Vec<u16>, chaos_until: u64, max_delay: u64) -> Self {
        let [a, b] = [true, false].map(|lower| One::new(initiator, lower).machine);
        Self {
            start: Instant::now(),
            now: 0,
            initiator,
            machines: [a, b],
            queue: BTreeMap::new(),
            count: 0,
            links: Default::default(),
            last_offer: Default::default(),
            dice,
            rolled: 0,
            chaos_until,
            max_delay,
            given_up: 0,
        }
    }

    fn roll(&mut self) -> u64 {
        self.rolled += 1;
        u64::from(self.dice[self.rolled % self.dice.len()])
    }

    fn delay(&mut self) -> u64 {
        let longest = if self.now < self.chaos_until {
            self.max_delay * 10
        } else {
            self.max_delay
        };
        self.roll() % longest + 1
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.count += 1;
        self.queue.insert((self.now + delay, self.count), event);
    }

    fn give(&mut self, side: usize, input: Input) {
        let at = self.start + Duration::from_millis(self.now);
        self.machines[side].handle(at, input);
        while let Some(output) = self.machines[side].poll_output() {
            self.obey(side, output);
        }
        if let Some(due) = self.machines[side].next_deadline() {
            let due = (due - self.start).as_millis() as u64;
            self.after(due.saturating_sub(self.now), Event::Tick(side));
        }
        let open = self.links[side].values().filter(|l| !l.closed).count();
        assert!(open <= 1, "side {side} holds {open} connections");
    }

    fn obey(&mut self, side: usize, output: Output) {
        let peer = 1 - side;
        match output {
            Output::MakeOffer { generation } => {
                let sdp = format!("offer {side} {generation}");
                let link = Link {
                    offer: Some(sdp.clone()),
                    ..Link::default()
                };
                self.links[side].insert(generation, link);
                self.after(5, Event::Input(side, Input::LocalOffer { generation, sdp }));
            }
            Output::MakeAnswer { generation, offer } => {
                let sdp = format!("answer {side} {generation}");
                let link = Link {
                    offer: Some(offer),
                    answer: Some(sdp.clone()),
                    ..Link::default()
                };
                self.links[side].insert(generation, link);
                self.after(
                    5,
                    Event::Input(side, Input::LocalAnswer { generation, sdp }),
                );
            }
            Output::SendOffer { generation, sdp } => {
                self.last_offer[side] = sdp.clone();
                self.send(
                    side,
                    generation,
                    Event::Input(peer, Input::RemoteOffer(sdp)),
                );
                let candidate = Input::RemoteCandidate("c".into());
                let delay = self.delay();
                self.after(delay, Event::Input(peer, candidate));
            }
            Output::SendAnswer { generation, sdp } => {
                let offer = self.links[side][&generation].offer.clone().unwrap();
                self.send(side, generation, Event::Answer(peer, sdp, offer));
            }
            Output::ApplyAnswer { generation, sdp } => {
                self.links[side].get_mut(&generation).unwrap().answer = Some(sdp);
                self.open_channels();
            }
            Output::CloseConnection { generation } => {
                let link = self.links[side].get_mut(&generation).unwrap();
                link.closed = true;
                let link = link.clone();
                let other = self.links[peer]
                    .iter()
                    .find(|(_, l)| !l.closed && l.opening && l.offer == link.offer);
                if let Some((generation, _)) = other {
                    let lost = Input::ConnectionLost {
                        generation: *generation,
                        reason: String::new(),
                    };
                    let delay = self.delay();
                    self.after(delay, Event::Input(peer, lost));
                }
            }
            Output::NotConnected { .. } => self.given_up += 1,
            Output::AddCandidate { .. }
            | Output::Retrying { .. }
            | Output::Connected { .. }
            | Output::Ignored { .. } => {}
        }
    }

    fn send(&mut self, side: usize, generation: Generation, event: Event) {
        let luck = if self.now < self.chaos_until {
            self.roll() % 4
        } else {
            0
        };
        let delay = self.delay();
        match luck {
            1 => {
                let failed = Input::Undeliverable {
                    generation,
                    reason: "x".into(),
                };
                return self.after(delay, Event::Input(side, failed));
            }
            2 => {} // written, and then lost
            _ => self.after(delay, event),
        }
        self.after(2, Event::Input(side, Input::Delivered { generation }));
    }

    fn open_channels(&mut self) {
        let mut opened = Vec::new();
        for (g, link) in &self.links[0] {
            for (h, other) in &self.links[1] {
                if link == other && !link.closed && !link.opening && link.answer.is_some() {
                    opened.push((*g, *h));
                }
            }
        }
        for (g, h) in opened {
            for (side, generation) in [(0, g), (1, h)] {
                self.links[side].get_mut(&generation).unwrap().opening = true;
                self.after(50, Event::Input(side, Input::ChannelOpen { generation }));
            }
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            match event {
                Event::Input(side, input) => self.give(side, input),
                Event::Answer(side, sdp, offer) if offer == self.last_offer[side] => {
                    self.give(side, Input::RemoteAnswer(sdp));
                }
                Event::Answer(..) => {}
                Event::Want(side) => {
                    if matches!(self.machines[side].phase(), Phase::Idle | Phase::Failed) {
                        self.give(side, Input::Connect);
                    }
                    self.after(1_000, Event::Want(side));
                }
                Event::Tick(side) => {
                    let now = self.start + Duration::from_millis(self.now);
                    if self.machines[side]
                        .next_deadline()
                        .is_some_and(|due| due <= now)
                    {
                        self.give(side, Input::Tick);
                    }
                }
            }
        }
        self.now = end;
    }

    /// The connection that both sides stand on.
    fn assert_connected(&self) {
        let phases = [0, 1].map(|side| self.machines[side].phase());
        assert_eq!(phases, [Phase::Connected; 2], "{:?}", self.links);
        let [a, b] = [0, 1].map(|side| &self.links[side][&self.machines[side].generation()]);
        assert_eq!(a, b);
        assert!(!a.closed);
        assert_ne!(self.machines[0].we_offered(), self.machines[1].we_offered());
        if self.initiator == Initiator::LowerId {
            assert!(self.machines[0].we_offered());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn through_any_loss_and_delay_both_end_on_the_same_offer_once_messages_flow(
        lower_id: bool,
        wants in 1usize..4,
        dice in proptest::collection::vec(any::<u16>(), 1..200),
        begin in proptest::collection::vec(0u64..30_000, 2),
        chaos in 0u64..120_000,
        disconnects in proptest::collection::vec((0u64..120_000, 0usize..2), 0..4),
    ) {
        let initiator = if lower_id { Initiator::LowerId } else { Initiator::Sender };
        let mut world = World::new(initiator, dice, chaos, 900);
        for (side, at) in begin.into_iter().enumerate() {
            // In lower-id the lower side has to want it, because only it may offer.
            if wants & (1 << side) != 0 || (lower_id && side == 0) {
                world.after(at, Event::Want(side));
            }
        }
        for (at, side) in disconnects {
            world.after(at, Event::Input(side, Input::Disconnect));
        }
        world.run_until(600_000);
        world.assert_connected();
    }

    #[test]
    fn without_loss_nobody_gives_up_however_the_offers_cross(
        lower_id: bool,
        wants in prop_oneof![1 => 1usize..3, 4 => Just(3usize)],
        dice in proptest::collection::vec(any::<u16>(), 1..200),
        begin in proptest::collection::vec(0u64..1_000, 2),
    ) {
        let initiator = if lower_id { Initiator::LowerId } else { Initiator::Sender };
        let mut world = World::new(initiator, dice, 0, 1_200);
        for (side, at) in begin.into_iter().enumerate() {
            if wants & (1 << side) != 0 || (lower_id && side == 0) {
                world.after(at, Event::Input(side, Input::Connect));
            }
        }
        world.run_until(60_000);
        world.assert_connected();
        prop_assert_eq!(world.given_up, 0);
    }

    #[test]
    fn any_inputs_in_any_order_never_panic(inputs in proptest::collection::vec((0u8..12, 0u64..4, 0u64..40_000), 0..60), lower: bool, lower_id: bool) {
        let mut one = One::new(if lower_id { Initiator::LowerId } else { Initiator::Sender }, lower);
        let mut now = 0;
        for (what, generation, wait) in inputs {
            now += wait;
            let text = || format!("{generation}");
            one.at(now, match what {
                0 => Input::Connect,
                1 => Input::Disconnect,
                2 => Input::LocalOffer { generation, sdp: text() },
                3 => Input::LocalAnswer { generation, sdp: text() },
                4 => Input::RemoteOffer(text()),
                5 => Input::RemoteAnswer(text()),
                6 => Input::RemoteCandidate(text()),
                7 => Input::Delivered { generation },
                8 => Input::Undeliverable { generation, reason: text() },
                9 => Input::ChannelOpen { generation },
                10 => Input::ConnectionLost { generation, reason: text() },
                _ => Input::Tick,
            });
            // A deadline that has passed would make its driver spin.
            one.at(now, Input::Tick);
            prop_assert!(one.deadline().is_none_or(|due| due > now));
        }
    }
}
