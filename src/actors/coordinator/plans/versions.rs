//! A version of a broadcast of the config file, from the files to the first device.

use std::path::PathBuf;
use std::time::Instant;

use actix::prelude::*;
use tracing::{info, warn};

use crate::config::BroadcastRule;
use crate::content::{NotTaken, Scan, Source, Withheld, take};
use crate::protocol::id::{BroadcastId, DeviceId};
use crate::protocol::message::Code;
use crate::protocol::plan::Input;
use crate::protocol::series::{Series, SeriesName};
use crate::store::{BroadcastRecord, BroadcastState, PlanRecord};

use super::super::super::api::Event;
use super::super::super::peer::unix_now;
use super::super::super::store::{Job, keep, on_disk};
use super::super::requests::BY_PERSON;
use super::super::sending::new_id;
use super::super::{Broadcast, Coordinator};
use super::NEWER;

/// How many of the files that are left out a line of the log names.
const SKIPPED_SHOWN: usize = 5;

impl Coordinator {
    /// Takes what is there as a version. It is on record before anybody hears of it, so that its
    /// number is never another content's.
    pub(super) fn take_version(
        &mut self,
        name: &SeriesName,
        version: u64,
        digest: String,
        ctx: &mut Context<Self>,
    ) {
        let (name, patterns) = (name.clone(), self.plans.running[name].rule.paths.clone());
        let (bundle_name, looks) = (name.to_string(), digest.clone());
        let state = self.settings.state.dir.clone();
        let taking = self.data_plane.spawn_blocking(move || {
            take(&patterns, &bundle_name, &looks, &Withheld::state(&state))
        });
        ctx.spawn(taking.into_actor(self).map(move |taken, coordinator, ctx| {
            let taken = taken.unwrap_or_else(|error| Err(NotTaken::Missing(error.to_string())));
            match taken {
                Ok(scan) => coordinator.put_version(&name, version, digest, scan, ctx),
                Err(NotTaken::Moved) => coordinator.tell_plan_now(&name, Input::Moved, ctx),
                Err(NotTaken::Missing(reason)) => {
                    coordinator.tell_plan_now(&name, Input::Missing(reason), ctx);
                }
            }
        }));
    }

    pub(super) fn put_version(
        &mut self,
        name: &SeriesName,
        version: u64,
        digest: String,
        scan: Scan,
        ctx: &mut Context<Self>,
    ) {
        let Some(running) = self.plans.running.get_mut(name) else {
            return;
        };
        let id = match new_id() {
            Ok(id) => BroadcastId(id),
            Err(error) => {
                let reason = error.to_string();
                return self.tell_plan_now(name, Input::Missing(reason), ctx);
            }
        };
        let series = Series {
            name: name.clone(),
            version,
        };
        let skipped = scan.left_out();
        if !skipped.is_empty() {
            let some = &skipped[..skipped.len().min(SKIPPED_SHOWN)];
            warn!(series = %name, count = skipped.len(), ?some, "files of it are left out");
        }
        let source = Source::new(scan, self.identity.clone());
        let record = record_of(id, &running.rule, series, &source);
        let name = name.clone();
        let mut memory = running.plan.memory().clone();
        memory.version = version;
        memory.digest = Some(digest.clone());
        memory.began = Some(unix_now());
        let plan = PlanRecord {
            name: name.clone(),
            memory,
            broadcast: Some(id),
        };
        let kept = record.clone();
        let stored = self.store.send(Job::new(move |store| {
            store.put_broadcast(kept)?;
            store.put_plan(plan)?;
            store.flush()
        }));
        ctx.spawn(
            on_disk(stored)
                .into_actor(self)
                .map(move |stored, coordinator, ctx| {
                    if let Err(error) = stored {
                        let missing = Input::Missing(error.reason);
                        return coordinator.tell_plan_now(&name, missing, ctx);
                    }
                    coordinator.begin_version(&name, digest, record, (source, skipped), ctx);
                }),
        );
    }

    pub(super) fn begin_version(
        &mut self,
        name: &SeriesName,
        digest: String,
        record: BroadcastRecord,
        (source, skipped): (Source, Vec<String>),
        ctx: &mut Context<Self>,
    ) {
        let Some(running) = self.plans.running.get_mut(name) else {
            return;
        };
        let id = record.id;
        running.broadcast = Some(id);
        running.again = false;
        let version = record.series.as_ref().map_or(0, |series| series.version);
        info!(
            series = %name, version, broadcast = %id, files = source.head().files.len(),
            size = record.size, "a version begins"
        );
        self.open_plan(record, source, skipped);
        let held = self.held_of(name);
        self.end_others_of(name, id, NEWER);
        for device in held {
            self.hold(id, device);
        }
        self.tell_plan_now(name, Input::Begun { version, digest }, ctx);
        self.stand_by_plans(ctx);
        self.show_plan(name);
    }

    /// The last version goes on as the config file has it now: to whom, how fast, in which turn.
    pub(super) fn renew_broadcast(&mut self, id: Option<BroadcastId>, rule: &BroadcastRule) {
        let Some(id) = id else { return };
        let (to, share) = (rule.to.clone(), rule.share);
        if let Some(broadcast) = self.broadcasts.get_mut(&id) {
            broadcast.record.to.clone_from(&to);
            broadcast.record.share = share;
        }
        keep(&self.store, "a broadcast", move |store| {
            let Some(record) = store.broadcast(&id).cloned() else {
                return Ok(());
            };
            if record.to == to && record.share == share {
                return Ok(());
            }
            store.put_broadcast(BroadcastRecord {
                to,
                share,
                ..record
            })
        });
        self.keep_limits();
    }

    /// What has come anew of a broadcast can be sent from now on.
    pub(super) fn open_plan(
        &mut self,
        record: BroadcastRecord,
        source: Source,
        skipped: Vec<String>,
    ) {
        let event = Event::Broadcast {
            broadcast: record.id,
            name: record.name.clone(),
            size: record.size,
            files: source.head().files.len() as u32,
            skipped,
        };
        self.emit(&event);
        let broadcast = Broadcast {
            source,
            wait: None,
            watcher: None,
            started: Instant::now(),
            record,
        };
        self.broadcasts.insert(broadcast.record.id, broadcast);
        self.keep_limits();
    }

    /// The same content is handed out once more, to everybody. To whom it is still on its way
    /// from the round before, it goes on: beginning anew, it would never arrive where it takes
    /// longer than from one round to the next.
    pub(super) fn next_round(&mut self, name: &SeriesName, ctx: &mut Context<Self>) {
        let Some(broadcast) = self.plans.running.get(name).and_then(|of| of.broadcast) else {
            return;
        };
        let states = self.states_of(broadcast).into_values();
        let over = states.filter(|id| self.transfers[id].record.state.is_final());
        for id in over.collect::<Vec<_>>() {
            self.forget_transfer(id);
        }
        self.stand_by_plans(ctx);
    }

    /// For whom a person has paused a series.
    fn held_of(&self, name: &SeriesName) -> Vec<DeviceId> {
        let ours = self.transfers_of_plans().into_iter();
        let of_it = ours.filter(|(of, _)| of == name);
        let records = of_it.map(|(_, id)| &self.transfers[&id].record);
        let held = records.filter(|record| record.state.rests_because(BY_PERSON));
        held.map(|record| record.peer.clone()).collect()
    }

    /// What a person has paused stays paused, whatever version it is.
    fn hold(&mut self, broadcast: BroadcastId, device: DeviceId) {
        if let Err(error) = self.add_transfer(broadcast, device.clone()) {
            return warn!(%broadcast, %error, "cannot be handed out");
        }
        if let Some(id) = self.states_of(broadcast).get(&device) {
            self.pause(*id);
        }
    }

    /// Ends what is not complete of all broadcasts of a series but one.
    pub(super) fn end_others_of(&mut self, name: &SeriesName, but: BroadcastId, reason: &str) {
        let ours = self.transfers_of_plans();
        for (of, id) in ours {
            let record = &self.transfers[&id].record;
            if of == *name && record.broadcast != Some(but) {
                self.cancel(id, Code::Cancelled, reason);
            }
        }
    }
}

/// A broadcast of that version.
pub(super) fn record_of(
    id: BroadcastId,
    rule: &BroadcastRule,
    series: Series,
    source: &Source,
) -> BroadcastRecord {
    let paths = rule.paths.iter().map(|of| of.written().to_owned());
    BroadcastRecord {
        id,
        paths: paths.collect::<Vec<PathBuf>>(),
        name: source.head().name.as_str().to_owned(),
        to: rule.to.clone(),
        created: unix_now(),
        state: BroadcastState::Active,
        bundle: Some(source.bundle()),
        size: source.layout().total_size(),
        hand_in: false,
        share: rule.share,
        series: Some(series),
    }
}
