//! One negotiation with one peer: who offers, who answers, when to try again, when to give up
//! (PROTOCOL.md §3). A pure state machine on whatever time it is given.
//!
//! Whoever drives it verifies offers and answers *before* they come in here: an answer must
//! belong to the offer sent last, and a refusal must come back on the connection that took the
//! offer.

mod events;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::candidate::MAX_CANDIDATES;
use super::id::DeviceId;
pub use events::{Failure, Generation, Initiator, Input, Output, Phase, Settings};

/// How far an offer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfferStep {
    Making,
    Sent,
    Delivered,
}

#[derive(Debug)]
enum State {
    Idle,
    /// Only in `lower-id`, on the side with the higher one.
    WaitingForOffer {
        deadline: Instant,
    },
    Offering {
        attempt: usize,
        step: OfferStep,
        deadline: Instant,
    },
    BackingOff {
        attempt: usize,
        until: Instant,
    },
    Answering {
        offer: String,
        deadline: Instant,
    },
    Connecting {
        origin: Origin,
        deadline: Instant,
    },
    Connected {
        origin: Origin,
    },
    Failed,
}

/// Whose offer a connection comes from.
#[derive(Debug)]
enum Origin {
    /// Ours, answered at this time.
    Ours { answered: Instant },
    /// Theirs, with the answer we gave.
    Theirs { offer: String, answer: String },
}

/// The negotiation with one peer. Give it inputs, then take all outputs.
#[derive(Debug)]
pub struct Negotiation {
    settings: Settings,
    ours: DeviceId,
    theirs: DeviceId,
    state: State,
    generation: Generation,
    /// Whether the driver holds a connection of this generation.
    open: bool,
    early: VecDeque<(Instant, String)>,
    /// Candidates taken for this generation.
    taken: usize,
    outputs: VecDeque<Output>,
}

impl Negotiation {
    /// A negotiation that waits for what happens.
    pub fn new(settings: Settings, ours: DeviceId, theirs: DeviceId) -> Self {
        Self {
            settings,
            ours,
            theirs,
            state: State::Idle,
            generation: 0,
            open: false,
            early: VecDeque::new(),
            taken: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Idle => Phase::Idle,
            State::WaitingForOffer { .. } => Phase::WaitingForOffer,
            State::Offering { .. } => Phase::Offering,
            State::BackingOff { .. } => Phase::BackingOff,
            State::Answering { .. } => Phase::Answering,
            State::Connecting { .. } => Phase::Connecting,
            State::Connected { .. } => Phase::Connected,
            State::Failed => Phase::Failed,
        }
    }

    /// The number of the latest connection; 0 before the first.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the connection that stands, or is being made, comes from our offer.
    pub fn we_offered(&self) -> bool {
        match &self.state {
            State::Offering { .. } => true,
            State::Connecting { origin, .. } | State::Connected { origin } => {
                matches!(origin, Origin::Ours { .. })
            }
            _ => false,
        }
    }

    /// When [`Input::Tick`] is due, if ever.
    pub fn next_deadline(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Offering { deadline, .. }
            | State::WaitingForOffer { deadline }
            | State::Answering { deadline, .. }
            | State::Connecting { deadline, .. } => Some(*deadline),
            State::BackingOff { until, .. } => Some(*until),
            State::Idle | State::Connected { .. } | State::Failed => None,
        };
        let early = self.early.front();
        let early = early.map(|(came, _)| *came + self.settings.early_candidates);
        state.into_iter().chain(early).min()
    }

    /// The next thing to do, in order. Take them all after each input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes an input at the time `now`, which must not run backwards.
    pub fn handle(&mut self, now: Instant, input: Input) {
        let kept = self.settings.early_candidates;
        let is_old = |came: Instant| now.saturating_duration_since(came) >= kept;
        while self.early.front().is_some_and(|(came, _)| is_old(*came)) {
            self.early.pop_front();
        }
        match input {
            Input::Connect => self.connect(now),
            Input::Disconnect => self.fail(Failure::Disconnected),
            Input::RemoteOffer(sdp) => self.remote_offer(now, sdp),
            Input::RemoteAnswer(sdp) => self.remote_answer(now, sdp),
            Input::RemoteCandidate(text) => self.remote_candidate(now, text),
            Input::Refused(reason) => self.refused(reason),
            Input::Tick => self.tick(now),
            Input::LocalOffer { generation, .. }
            | Input::LocalAnswer { generation, .. }
            | Input::Delivered { generation }
            | Input::Undeliverable { generation, .. }
            | Input::ChannelOpen { generation }
            | Input::ConnectionLost { generation, .. }
                if generation != self.generation || !self.open =>
            {
                self.ignore("it belongs to an earlier connection");
            }
            Input::LocalOffer { sdp, .. } => self.local_offer(now, sdp),
            Input::LocalAnswer { sdp, .. } => self.local_answer(now, sdp),
            Input::Delivered { .. } => {
                if let State::Offering { step, .. } = &mut self.state {
                    *step = OfferStep::Delivered;
                }
            }
            Input::Undeliverable { reason, .. } => self.undeliverable(now, reason),
            Input::ChannelOpen { .. } => self.channel_open(),
            Input::ConnectionLost { reason, .. } => match self.state {
                State::Offering { .. } => self.try_failed(now, Failure::Lost(reason)),
                _ => self.fail(Failure::Lost(reason)),
            },
        }
    }

    fn connect(&mut self, now: Instant) {
        match self.state {
            State::Idle | State::Failed => {}
            _ => return self.ignore("a connection is there or under way"),
        }
        if self.settings.initiator == Initiator::LowerId && !self.is_lower() {
            let backoffs: Duration = self.settings.backoffs.iter().sum();
            let tries = self.settings.backoffs.len() as u32 + 1;
            // As long as the other side would go on trying.
            let deadline = now + self.settings.answer_timeout * tries + backoffs;
            self.state = State::WaitingForOffer { deadline };
        } else {
            self.offer(now, 1);
        }
    }

    fn remote_offer(&mut self, now: Instant, offer: String) {
        if self.settings.initiator == Initiator::LowerId && self.is_lower() {
            return self.ignore("the device with the lower id offers, and that is us");
        }
        match &self.state {
            State::Offering { .. } if self.is_lower() => {
                return self.ignore("both sides offered, and the offer of the lower id stands");
            }
            State::Connecting { origin, .. } | State::Connected { origin } => match origin {
                Origin::Ours { answered }
                    if self.is_lower()
                        && now.saturating_duration_since(*answered) < self.settings.glare_guard =>
                {
                    return self.ignore("both sides offered, and ours has just been answered");
                }
                Origin::Theirs { offer: o, answer } if *o == offer => {
                    // A plain client that did not hear our answer asks again.
                    if matches!(self.state, State::Connecting { .. }) {
                        let (generation, sdp) = (self.generation, answer.clone());
                        self.out(Output::SendAnswer { generation, sdp });
                        return;
                    }
                    return self.ignore("this offer has been answered, and the channel is open");
                }
                _ => {}
            },
            State::Answering { offer: o, .. } if *o == offer => {
                return self.ignore("this offer is being answered");
            }
            _ => {}
        }
        let generation = self.fresh();
        self.state = State::Answering {
            offer: offer.clone(),
            deadline: now + self.settings.answer_timeout,
        };
        self.out(Output::MakeAnswer { generation, offer });
    }

    fn remote_answer(&mut self, now: Instant, sdp: String) {
        match self.state {
            State::Offering { step, .. } if step != OfferStep::Making => {
                self.state = State::Connecting {
                    origin: Origin::Ours { answered: now },
                    deadline: now + self.settings.connect_timeout,
                };
                let generation = self.generation;
                self.out(Output::ApplyAnswer { generation, sdp });
                self.add_early();
            }
            _ => self.ignore("no offer of ours waits for an answer"),
        }
    }

    fn remote_candidate(&mut self, now: Instant, text: String) {
        match self.state {
            State::Connecting { .. } | State::Connected { .. } => self.add_candidate(text),
            _ if self.early.len() < self.settings.max_early => self.early.push_back((now, text)),
            _ => self.ignore("too many candidates came before their description"),
        }
    }

    fn add_candidate(&mut self, text: String) {
        if self.taken == MAX_CANDIDATES {
            return self.ignore("too many candidates for one connection");
        }
        self.taken += 1;
        let generation = self.generation;
        self.out(Output::AddCandidate { generation, text });
    }

    fn add_early(&mut self) {
        while let Some((_, text)) = self.early.pop_front() {
            self.add_candidate(text);
        }
    }

    fn local_offer(&mut self, now: Instant, sdp: String) {
        match &mut self.state {
            State::Offering { step, deadline, .. } if *step == OfferStep::Making => {
                *step = OfferStep::Sent;
                *deadline = now + self.settings.answer_timeout;
                let generation = self.generation;
                self.out(Output::SendOffer { generation, sdp });
            }
            _ => self.ignore("no offer was asked for"),
        }
    }

    fn local_answer(&mut self, now: Instant, answer: String) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Answering { offer, .. } => {
                let (generation, sdp) = (self.generation, answer.clone());
                self.state = State::Connecting {
                    origin: Origin::Theirs { offer, answer },
                    deadline: now + self.settings.connect_timeout,
                };
                self.out(Output::SendAnswer { generation, sdp });
                self.add_early();
            }
            other => {
                self.state = other;
                self.ignore("no answer was asked for");
            }
        }
    }

    fn undeliverable(&mut self, now: Instant, reason: String) {
        match self.state {
            State::Offering { attempt: tries, .. } => {
                self.try_failed(now, Failure::Unreachable { tries, reason });
            }
            State::Connecting {
                origin: Origin::Theirs { .. },
                ..
            } => {
                self.fail(Failure::Unreachable { tries: 1, reason });
            }
            _ => self.ignore("what could not be delivered is no longer needed"),
        }
    }

    fn channel_open(&mut self) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Connecting { origin, .. } => {
                self.state = State::Connected { origin };
                let generation = self.generation;
                self.out(Output::Connected { generation });
            }
            other => {
                self.state = other;
                self.ignore("no channel is waited for");
            }
        }
    }

    fn refused(&mut self, reason: String) {
        match self.state {
            State::Offering { .. } | State::Connecting { .. } => {
                self.fail(Failure::Refused(reason));
            }
            _ => self.ignore("nothing of ours can be refused now"),
        }
    }

    fn tick(&mut self, now: Instant) {
        match self.state {
            State::Offering {
                attempt: tries,
                step,
                deadline,
            } if now >= deadline => {
                let reason = match step {
                    OfferStep::Making => Failure::NotMade,
                    OfferStep::Sent => Failure::Unreachable {
                        tries,
                        reason: "no signaling connection in time".to_owned(),
                    },
                    OfferStep::Delivered => Failure::NoAnswer { tries },
                };
                self.try_failed(now, reason);
            }
            State::BackingOff { attempt, until } if now >= until => self.offer(now, attempt + 1),
            State::WaitingForOffer { deadline } if now >= deadline => self.fail(Failure::NoOffer),
            State::Answering { deadline, .. } if now >= deadline => self.fail(Failure::NotMade),
            State::Connecting { deadline, .. } if now >= deadline => self.fail(Failure::NoChannel),
            _ => {}
        }
    }

    fn offer(&mut self, now: Instant, attempt: usize) {
        let generation = self.fresh();
        self.state = State::Offering {
            attempt,
            step: OfferStep::Making,
            deadline: now + self.settings.answer_timeout,
        };
        self.out(Output::MakeOffer { generation });
    }

    fn try_failed(&mut self, now: Instant, reason: Failure) {
        let State::Offering { attempt, .. } = self.state else {
            return;
        };
        let Some(wait) = self.settings.backoffs.get(attempt - 1) else {
            return self.fail(reason);
        };
        let until = now + *wait;
        self.close();
        self.state = State::BackingOff { attempt, until };
        self.out(Output::Retrying {
            attempt: attempt + 1,
            at: until,
            reason,
        });
    }

    fn fail(&mut self, reason: Failure) {
        if matches!(self.state, State::Idle | State::Failed) {
            return self.ignore("there is no connection");
        }
        self.close();
        self.state = State::Failed;
        self.out(Output::NotConnected { reason });
    }

    /// Closes what is open and begins the next generation.
    fn fresh(&mut self) -> Generation {
        self.close();
        self.generation += 1;
        self.open = true;
        self.taken = 0;
        self.generation
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            let generation = self.generation;
            self.out(Output::CloseConnection { generation });
        }
    }

    fn is_lower(&self) -> bool {
        self.ours < self.theirs
    }

    fn out(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn ignore(&mut self, reason: &'static str) {
        self.out(Output::Ignored { reason });
    }
}

#[cfg(test)]
mod tests;
