//! The broadcasts of the config file: what [`crate::protocol::plan`] says is done here.
//!
//! Each content of one is a broadcast of its series, and stands for as long as devices may still
//! come for it. Who has it is known from that broadcast's transfers, so that nobody is asked twice.
//! What is due is worked out anew once a second from where things stand, in `plans/standing.rs`.

mod show;
mod standing;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::*;
use tracing::{info, warn};

use crate::config::BroadcastRule;
use crate::content::{Watch, look};
use crate::protocol::id::BroadcastId;
use crate::protocol::message::Code;
use crate::protocol::plan::{Clock, Gate, Input, Memory, Now, Output, Plan};
use crate::protocol::series::SeriesName;
use crate::store::PlanRecord;

use super::super::peer::unix_now;
use super::super::store::keep;
use super::Coordinator;

/// How often it is worked out who still lacks what.
const STANDING: Duration = Duration::from_secs(1);
/// How often a folder is looked at of which the system does not tell changes, at least.
const POLL: Duration = Duration::from_secs(10);
/// Why transfers of an older version end.
const NEWER: &str = "a newer version takes its place";
/// Why those end that are for nobody any more.
const NOT_FOR: &str = "it is no longer for this device";
/// Why those of a broadcast end that the config file no longer has.
const TAKEN_OUT: &str = "its broadcast was taken out of the config file";
/// Why those of one that it has, but not to be handed out.
const SWITCHED_OFF: &str = "its broadcast is switched off in the config file";

/// True for reasons for which a transfer is over without having failed: what takes its place is
/// handed out, or a person has decided.
pub fn is_no_end(reason: &str) -> bool {
    [NEWER, NOT_FOR, TAKEN_OUT, SWITCHED_OFF].contains(&reason)
}

/// All broadcasts of the config file.
pub(super) struct Plans {
    /// This process hands them out; else they are only shown.
    runs: bool,
    began: Instant,
    clock: Clock,
    stood: Instant,
    /// As they were stored, where they do not run.
    records: BTreeMap<SeriesName, PlanRecord>,
    running: BTreeMap<SeriesName, Running>,
}

/// One that is handed out.
struct Running {
    rule: BroadcastRule,
    plan: Plan,
    /// The broadcast of the last version.
    broadcast: Option<BroadcastId>,
    /// What was last put into the store.
    stored: Option<PlanRecord>,
    watch: Arc<Mutex<Watch>>,
    stirred: Arc<AtomicBool>,
    polled: Instant,
    /// Its files are being taken up again, for devices that still lack them.
    opening: bool,
    /// The next look at its transfers tries again whatever failed.
    again: bool,
    /// Why there is nothing to hand out.
    lacks: Option<String>,
    /// Words of `to` that mean nobody yet, as far as that was said.
    unknown: BTreeSet<String>,
}

impl Plans {
    pub(super) fn new(records: Vec<PlanRecord>, runs: bool) -> Self {
        let records = records.into_iter().map(|of| (of.name.clone(), of));
        Self {
            runs,
            began: Instant::now(),
            clock: Clock::default(),
            stood: Instant::now(),
            records: records.collect(),
            running: BTreeMap::new(),
        }
    }

    fn now(&mut self) -> Now {
        let (now, jump) = self.clock.tell(unix_now(), self.began.elapsed());
        if let Some(seconds) = jump {
            warn!(
                seconds,
                "the clock has jumped; schedules and times wait until it has been steady for two \
                 minutes, deadlines go on as they were counted"
            );
        }
        now
    }

    /// True for a broadcast that is the last version of one of these: who has it must be known
    /// for as long as devices may come.
    pub(super) fn keeps(&self, broadcast: BroadcastId) -> bool {
        let running = self.running.values().filter_map(|of| of.broadcast);
        let stored = self.records.values().filter_map(|of| of.broadcast);
        running.chain(stored).any(|kept| kept == broadcast)
    }

    /// True while nothing of a broadcast may be handed over, because it is outside of its hours.
    pub(super) fn rests(&self, broadcast: BroadcastId) -> bool {
        let mut running = self.running.values();
        let of = running.find(|of| of.broadcast == Some(broadcast));
        of.is_some_and(|of| of.plan.gate() != Gate::Open)
    }
}

impl Running {
    fn record(&self) -> PlanRecord {
        PlanRecord {
            name: self.rule.name.clone(),
            memory: self.plan.memory().clone(),
            broadcast: self.broadcast,
        }
    }
}

impl Coordinator {
    /// Takes up the broadcasts of the config file, as they are in it now: those that are new,
    /// those that have changed, and those that are gone from it.
    pub(super) fn take_up_plans(&mut self, rules: &[BroadcastRule], ctx: &mut Context<Self>) {
        if !self.plans.runs {
            return;
        }
        let now = self.plans.now();
        let wanted: BTreeMap<&SeriesName, &BroadcastRule> = rules
            .iter()
            .filter(|rule| rule.enabled)
            .map(|rule| (&rule.name, rule))
            .collect();
        let gone: Vec<SeriesName> = self
            .plans
            .running
            .keys()
            .filter(|name| !wanted.contains_key(name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(running) = self.plans.running.remove(&name) {
                self.plans.records.insert(name, running.record());
            }
        }
        self.end_plans_that_are_gone(rules);
        for (name, rule) in wanted {
            let watch = || {
                let stirred = Arc::new(AtomicBool::new(false));
                let watch = Watch::new(rule.paths.clone(), Arc::clone(&stirred));
                (Arc::new(Mutex::new(watch)), stirred)
            };
            if let Some(running) = self.plans.running.get_mut(name) {
                if running.rule.paths != rule.paths {
                    (running.watch, running.stirred) = watch();
                }
                if running.rule != *rule {
                    info!(broadcast = %name, "its part of the config file has changed");
                    running.plan.change(rule.terms.clone(), now);
                    running.rule = rule.clone();
                    let broadcast = running.broadcast;
                    self.renew_broadcast(broadcast, rule);
                }
                continue;
            }
            let record = self.plans.records.remove(name);
            let memory = record
                .as_ref()
                .map_or_else(Memory::default, |of| of.memory.clone());
            let (watch, stirred) = watch();
            let running = Running {
                plan: Plan::new(rule.terms.clone(), memory, now),
                rule: rule.clone(),
                broadcast: record.as_ref().and_then(|of| of.broadcast),
                stored: record,
                watch,
                stirred,
                polled: Instant::now(),
                opening: false,
                again: false,
                lacks: None,
                unknown: BTreeSet::new(),
            };
            let broadcast = running.broadcast;
            self.plans.running.insert(name.clone(), running);
            self.renew_broadcast(broadcast, rule);
        }
        self.tick_plans(ctx);
    }

    /// Lets time pass for all of them.
    pub(super) fn tick_plans(&mut self, ctx: &mut Context<Self>) {
        if self.plans.running.is_empty() {
            return;
        }
        let now = self.plans.now();
        let mut stirred = Vec::new();
        for (name, running) in &mut self.plans.running {
            let told = match running.watch.try_lock() {
                Ok(watch) => watch.is_told(),
                // It is being looked at just now.
                Err(_) => true,
            };
            let polls = !told && running.polled.elapsed() >= POLL;
            let stirs = running.stirred.swap(false, Ordering::Relaxed);
            if polls || stirs {
                running.polled = Instant::now();
            }
            let input = if polls || stirs {
                Input::Stirred
            } else {
                Input::Tick
            };
            stirred.push((name.clone(), input));
        }
        for (name, input) in stirred {
            self.tell_plan(&name, input, now, ctx);
        }
        if self.plans.stood.elapsed() >= STANDING {
            self.plans.stood = Instant::now();
            self.stand_by_plans(ctx);
        }
    }

    fn tell_plan(&mut self, name: &SeriesName, input: Input, now: Now, ctx: &mut Context<Self>) {
        let Some(running) = self.plans.running.get_mut(name) else {
            return;
        };
        let outputs = running.plan.on(input, now);
        for output in outputs {
            self.do_plan(name, output, ctx);
        }
        self.remember_plan(name);
    }

    /// Tells a plan what was found out meanwhile.
    fn tell_plan_now(&mut self, name: &SeriesName, input: Input, ctx: &mut Context<Self>) {
        let now = self.plans.now();
        self.tell_plan(name, input, now, ctx);
    }

    fn remember_plan(&mut self, name: &SeriesName) {
        let Some(running) = self.plans.running.get_mut(name) else {
            return;
        };
        let record = running.record();
        if running.stored.as_ref() == Some(&record) || record.memory == Memory::default() {
            return;
        }
        running.stored = Some(record.clone());
        keep(
            &self.store,
            "a broadcast of the config file",
            move |store| {
                store.put_plan(record)?;
                store.flush()
            },
        );
    }

    fn do_plan(&mut self, name: &SeriesName, output: Output, ctx: &mut Context<Self>) {
        let Some(running) = self.plans.running.get_mut(name) else {
            return;
        };
        match output {
            Output::Look => self.look_at_plan(name, ctx),
            Output::Begin { version, digest } => self.take_version(name, version, digest, ctx),
            Output::Again { everybody } => {
                info!(broadcast = %name, everybody, "the schedule has fired; the content is the same");
                if everybody {
                    self.next_round(name, ctx);
                } else {
                    running.again = true;
                }
            }
            Output::Gate(gate) => {
                let rule = &running.rule;
                match gate {
                    Gate::Waiting(at) => info!(broadcast = %name, at, "waits for its time"),
                    Gate::Open => info!(broadcast = %name, "is open: whoever lacks it gets it"),
                    Gate::Closed(at) => {
                        let hours = rule.terms.hours.as_ref().map(ToString::to_string);
                        info!(broadcast = %name, hours, at, "rests outside of its hours");
                    }
                    Gate::Over => info!(broadcast = %name, "its deadline has passed"),
                }
                self.show_plan(name);
            }
            Output::Lacking(reason) => {
                warn!(broadcast = %name, reason, "has nothing to hand out; it is waited for");
                running.lacks = Some(reason);
                self.show_plan(name);
            }
            Output::Found => {
                info!(broadcast = %name, "has something to hand out again");
                running.lacks = None;
                self.show_plan(name);
            }
        }
    }

    fn look_at_plan(&mut self, name: &SeriesName, ctx: &mut Context<Self>) {
        let running = &self.plans.running[name];
        let (watch, name) = (Arc::clone(&running.watch), name.clone());
        let (patterns, watches) = (running.rule.paths.clone(), running.rule.terms.watch);
        let looking = self.data_plane.spawn_blocking(move || {
            let untold = match watches {
                // Watching begins before the look, so that nothing is missed in between.
                true => watch
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .refresh(),
                false => None,
            };
            (look(&patterns), untold)
        });
        ctx.spawn(looking.into_actor(self).map(move |looked, coordinator, ctx| {
            let (looked, untold) = looked.unwrap_or_else(|error| (Err(error.to_string()), None));
            if let Some(reason) = untold {
                info!(broadcast = %name, reason, "the system does not tell of changes: its files \
                                                  are looked at every 10 s instead");
            }
            let input = match looked {
                Ok(digest) => Input::Looked(digest),
                Err(reason) => Input::Missing(reason),
            };
            coordinator.tell_plan_now(&name, input, ctx);
        }));
    }

    fn end_plans_that_are_gone(&mut self, rules: &[BroadcastRule]) {
        for (name, id) in self.transfers_of_plans() {
            let reason = match rules.iter().find(|rule| rule.name == name) {
                Some(rule) if rule.enabled => continue,
                Some(_) => SWITCHED_OFF,
                None => TAKEN_OUT,
            };
            self.cancel(id, Code::Cancelled, reason);
        }
        let records = self.plans.records.keys();
        let gone = records.filter(|name| rules.iter().all(|rule| rule.name != **name));
        let gone: Vec<SeriesName> = gone.cloned().collect();
        for name in gone {
            info!(broadcast = %name, "was taken out of the config file");
            self.plans.records.remove(&name);
            keep(&self.store, "a broadcast that is gone", move |store| {
                store.remove_plan(&name).map(|_| ())
            });
        }
    }
}
