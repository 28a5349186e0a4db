//! One plan, from the first look at its folder to the last device.
//!
//! What counts over restarts is [`Memory`]; the rest is found again. Nearly everything is decided
//! anew at each tick from where things stand, so that a clock that was wrong and is right again,
//! or a process that was killed anywhere, leaves nothing behind.

use std::time::Duration;

use super::calendar::opens;
use super::clock::Now;
use super::terms::{Deadline, Gate, Input, Memory, Output, Start, Terms};

/// By how much the clock may be behind what is remembered before that counts as wrong, in seconds:
/// a clock that was put back a little must not make a schedule fire twice.
const SLACK: u64 = 3600;

#[derive(Debug, Clone)]
struct Seen {
    digest: String,
    /// Since when it looks like this.
    since: Duration,
    /// Since when it is not what was last handed out.
    stirred: Duration,
}

/// The end of the waiting, in the time that only goes forward.
#[derive(Debug, Clone, Copy)]
struct End {
    at: Duration,
    /// It was reckoned from the machine's clock, after a restart.
    reckoned: bool,
}

/// The state machine of one plan.
#[derive(Debug)]
pub struct Plan {
    terms: Terms,
    memory: Memory,
    gate: Gate,
    /// A beginning that has not led to anything yet.
    due: bool,
    /// When the schedule fires next, in Unix seconds.
    next: Option<u64>,
    seen: Option<Seen>,
    lacks: bool,
    spoiled: bool,
    /// A look, or a beginning, has not been answered.
    busy: bool,
    look_at: Option<Duration>,
    looked_at: Option<Duration>,
    end: Option<End>,
    unsteady: bool,
}

impl Plan {
    /// A plan, as it is remembered.
    pub fn new(terms: Terms, memory: Memory, now: Now) -> Self {
        let mut plan = Self {
            gate: Gate::Waiting(None),
            due: false,
            next: None,
            seen: None,
            lacks: false,
            spoiled: false,
            busy: false,
            look_at: memory.began.map(|_| now.mono),
            looked_at: None,
            end: None,
            unsteady: false,
            terms,
            memory,
        };
        plan.end = plan.reckon(now);
        plan.next = plan.next_fire();
        plan
    }

    /// Other terms, from a file that was read again. What has begun goes on under them.
    pub fn change(&mut self, terms: Terms, now: Now) {
        let reckons = self.terms.deadline != terms.deadline;
        let elsewhere = self.terms.zone != terms.zone;
        if elsewhere || self.terms.start != terms.start {
            // Another schedule counts from now: what it would have fired before was not missed.
            self.memory.fired = None;
        }
        if matches!(self.gate, Gate::Closed(_)) && (elsewhere || self.terms.hours != terms.hours) {
            // When the former hours would have begun is nothing any more.
            self.gate = Gate::Closed(None);
        }
        self.terms = terms;
        if reckons {
            self.end = self.reckon(now);
        }
        self.next = self.next_fire();
        self.look_at = self.memory.began.map(|_| now.mono);
    }

    /// What is to be remembered.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether anything may be handed over.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// When something happens by the clock next, in Unix seconds.
    pub fn next_time(&self) -> Option<u64> {
        match self.gate {
            Gate::Waiting(at) => at,
            Gate::Closed(at) => at.into_iter().chain(self.next).min(),
            Gate::Open | Gate::Over => self.next,
        }
    }

    /// When the deadline passes, in Unix seconds.
    pub fn deadline(&self, now: Now) -> Option<u64> {
        match self.terms.deadline? {
            Deadline::At(at) => Some(at.unix(self.terms.zone)),
            Deadline::After(_) => {
                let left = self.end?.at.saturating_sub(now.mono);
                now.unix.checked_add(left.as_secs())
            }
        }
    }

    /// Tells it something; it says what is to be done.
    pub fn on(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Tick => {}
            Input::Stirred if self.terms.watch => {
                // A folder where something happens all the time is not looked at all the time.
                let next = self.looked_at.map_or(now.mono, |at| at + self.terms.settle);
                self.look_soon(next.max(now.mono));
            }
            Input::Stirred => {}
            Input::Looked(digest) => {
                self.busy = false;
                self.looked_at = Some(now.mono);
                self.looked(digest, now, &mut outputs);
            }
            Input::Missing(reason) => {
                self.busy = false;
                self.seen = None;
                self.look_soon(now.mono + self.terms.rescan);
                if !std::mem::replace(&mut self.lacks, true) {
                    outputs.push(Output::Lacking(reason));
                }
            }
            Input::Begun { version, digest } => {
                self.busy = false;
                self.spoiled = false;
                self.memory.version = version;
                self.memory.digest = Some(digest);
                self.seen = None;
                self.begin(now);
                if self.terms.watch {
                    // It may have changed since.
                    self.look_soon(now.mono + self.terms.settle);
                }
            }
            Input::Moved => {
                self.busy = false;
                self.look_soon(now.mono);
            }
            Input::Spoiled => {
                if !std::mem::replace(&mut self.spoiled, true) {
                    self.look_soon(now.mono);
                }
            }
        }
        self.tick(now, &mut outputs);
        outputs
    }

    fn tick(&mut self, now: Now, outputs: &mut Vec<Output>) {
        self.see_to_the_clock(now);
        let gate = self.gate_at(now);
        if std::mem::replace(&mut self.gate, gate) != gate {
            let looks = self.terms.watch || self.due || self.spoiled || self.lacks;
            if gate == Gate::Open && looks {
                // Nothing was looked at while it was closed.
                self.look_soon(now.mono);
            }
            outputs.push(Output::Gate(gate));
        }
        let wanted = self.due || self.memory.began.is_some();
        let in_time = self.look_at.is_some_and(|at| at <= now.mono);
        if wanted && in_time && !self.busy && !matches!(gate, Gate::Closed(_)) {
            self.busy = true;
            self.look_at = None;
            outputs.push(Output::Look);
        }
    }

    /// What the machine's clock makes happen; nothing while it is not to be believed.
    fn see_to_the_clock(&mut self, now: Now) {
        if !now.steady {
            self.unsteady = true;
            return;
        }
        if std::mem::replace(&mut self.unsteady, false) && self.end.is_some_and(|end| end.reckoned)
        {
            // It was reckoned from a clock that has been put right.
            self.end = self.reckon(now);
        }
        let due = match &self.terms.start {
            Start::Now => self.memory.began.is_none(),
            Start::At(at) => self.memory.began.is_none() && at.unix(self.terms.zone) <= now.unix,
            Start::Schedule(_) => self.fires(now),
        };
        if due && !std::mem::replace(&mut self.due, true) {
            self.look_soon(now.mono);
        }
    }

    /// True when the schedule has fired since it was last seen to: once, however often that was.
    fn fires(&mut self, now: Now) -> bool {
        let remembered = self.memory.fired;
        if remembered.is_none_or(|fired| fired > now.unix.saturating_add(SLACK)) {
            self.memory.fired = Some(now.unix);
            self.next = self.next_fire();
        }
        let fires = self.next.is_some_and(|next| next <= now.unix);
        if fires {
            self.memory.fired = Some(now.unix);
            self.next = self.next_fire();
        }
        fires
    }

    fn next_fire(&self) -> Option<u64> {
        match &self.terms.start {
            Start::Schedule(schedule) => schedule.next(self.memory.fired?, self.terms.zone),
            _ => None,
        }
    }

    fn gate_at(&self, now: Now) -> Gate {
        let terms = &self.terms;
        if !self.due && self.memory.began.is_none() {
            return Gate::Waiting(match &terms.start {
                Start::Now => None,
                Start::At(at) => Some(at.unix(terms.zone)),
                Start::Schedule(_) => self.next,
            });
        }
        let over = match terms.deadline {
            None => false,
            Some(Deadline::After(_)) => self.end.is_some_and(|end| end.at <= now.mono),
            Some(Deadline::At(_)) if !now.steady => self.gate == Gate::Over,
            Some(Deadline::At(at)) => at.unix(terms.zone) <= now.unix,
        };
        if over {
            return Gate::Over;
        }
        if !now.steady && matches!(self.gate, Gate::Open | Gate::Closed(_)) {
            return self.gate;
        }
        let Some(hours) = &terms.hours else {
            return Gate::Open;
        };
        let local = terms.zone.local(now.unix);
        if local.is_some_and(|local| hours.is_open(local)) {
            return Gate::Open;
        }
        match self.gate {
            // It is the same until it opens.
            Gate::Closed(Some(opens)) if opens > now.unix && opens - now.unix < 7 * 86_400 => {
                self.gate
            }
            _ => Gate::Closed(opens(hours, now.unix, terms.zone)),
        }
    }

    /// Above all earlier ones, also where the state folder was lost: then the clock counts on.
    fn next_version(&self, now: Now) -> u64 {
        now.unix.max(self.memory.version.saturating_add(1))
    }

    fn look_soon(&mut self, at: Duration) {
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    fn looked(&mut self, digest: String, now: Now, outputs: &mut Vec<Output>) {
        if std::mem::replace(&mut self.lacks, false) {
            outputs.push(Output::Found);
        }
        let terms = &self.terms;
        if terms.watch {
            let rescan = now.mono + terms.rescan;
            self.look_soon(rescan);
        }
        let same = self.memory.digest.as_ref() == Some(&digest);
        if same && !self.spoiled {
            self.seen = None;
            if self.due {
                let everybody = self.terms.always;
                self.begin(now);
                outputs.push(Output::Again { everybody });
            }
            return;
        }
        let before = self.seen.take();
        let seen = Seen {
            since: before
                .as_ref()
                .filter(|before| before.digest == digest)
                .map_or(now.mono, |before| before.since),
            stirred: before.map_or(now.mono, |before| before.stirred),
            digest,
        };
        // Between its times, a scheduled plan stays with what it has.
        let scheduled = matches!(self.terms.start, Start::Schedule(_));
        let wanted = self.due || self.spoiled || !scheduled;
        let over = self.gate == Gate::Over && matches!(self.terms.deadline, Some(Deadline::At(_)));
        if !wanted || over {
            self.seen = Some(seen);
            return;
        }
        // Something is wrong with files that look the same and are not: that is not tried in haste.
        let quiet = if same {
            self.terms.rescan
        } else {
            self.terms.settle
        };
        let settled = seen.since + quiet;
        let latest = (seen.stirred + self.terms.settle_max).max(seen.stirred + quiet);
        if now.mono >= settled.min(latest) {
            self.busy = true;
            outputs.push(Output::Begin {
                version: self.next_version(now),
                digest: seen.digest.clone(),
            });
        } else {
            self.look_soon(settled.min(latest));
        }
        self.seen = Some(seen);
    }

    /// A version, or a round, begins.
    fn begin(&mut self, now: Now) {
        self.due = false;
        self.memory.began = Some(now.unix);
        self.end = match self.terms.deadline {
            Some(Deadline::After(span)) => Some(End {
                at: now.mono + span,
                reckoned: false,
            }),
            _ => None,
        };
    }

    /// The end of what an earlier process began. It is never further away than it was then.
    fn reckon(&self, now: Now) -> Option<End> {
        let (Some(Deadline::After(span)), Some(began)) = (self.terms.deadline, self.memory.began)
        else {
            return None;
        };
        // A clock that is behind says nothing about how much has passed.
        let passed = Duration::from_secs(now.unix.saturating_sub(began));
        Some(End {
            at: now.mono + span.saturating_sub(passed),
            reckoned: true,
        })
    }
}
