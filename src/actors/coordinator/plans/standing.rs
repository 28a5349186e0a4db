//! Who lacks the last version of a broadcast of the config file, and what is done about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use actix::prelude::*;
use tracing::{info, warn};

use crate::content::{NotTaken, Source, Withheld, take};
use crate::protocol::id::{BroadcastId, DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::plan::{Gate, Input};
use crate::protocol::roles::Roles;
use crate::protocol::series::{Series, SeriesName};
use crate::protocol::transfer::{Direction, Side, TransferEvent, TransferState};

use super::super::super::peer::unix_now;
use super::super::super::store::keep;
use super::super::Coordinator;
use super::versions::record_of;
use super::{NOT_FOR, SWITCHED_OFF};

/// How long what failed is left alone, in seconds.
const RETRY: u64 = 300;
/// How long one is left alone that takes nothing at the moment, in seconds.
const SOON: u64 = 5;
/// Why transfers rest.
const OUT_OF_HOURS: &str = "it rests outside of its hours";
/// Why those end that were not taken in time.
const TOO_LATE: &str = "the device did not come for it before the deadline";

impl Coordinator {
    /// Works out for each of them who lacks it.
    pub(super) fn stand_by_plans(&mut self, ctx: &mut Context<Self>) {
        let mut of_broadcast: HashMap<BroadcastId, Vec<TransferId>> = HashMap::new();
        for transfer in self.transfers.values() {
            let record = &transfer.record;
            if let (Direction::Outgoing, Some(of)) = (record.direction, record.broadcast) {
                of_broadcast.entry(of).or_default().push(record.id);
            }
        }
        let names: Vec<_> = self.plans.running.keys().cloned().collect();
        for name in names {
            let broadcast = self.plans.running[&name].broadcast;
            let Some(broadcast) = broadcast else { continue };
            let ids = of_broadcast.remove(&broadcast).unwrap_or_default();
            self.stand_by(&name, broadcast, ids, ctx);
        }
    }

    fn stand_by(
        &mut self,
        name: &SeriesName,
        broadcast: BroadcastId,
        ids: Vec<TransferId>,
        ctx: &mut Context<Self>,
    ) {
        let gate = self.plans.running[name].plan.gate();
        let targets = self.targets_of(name);
        let mut spoiled = false;
        let mut lacking = targets.clone();
        let mut waiting = false;
        let again = std::mem::take(&mut self.running(name).again);
        for id in ids {
            let record = &self.transfers[&id].record;
            let (peer, state) = (record.peer.clone(), record.state.clone());
            let updated = record.updated;
            spoiled |= matches!(
                &state,
                TransferState::Failed {
                    code: Code::Changed,
                    ..
                }
            );
            if !state.is_final() && !targets.contains(&peer) && self.is_let_in(&peer) {
                self.cancel(id, Code::Unauthorized, NOT_FOR);
                continue;
            }
            match gate {
                Gate::Over => self.end_late(id, &state),
                Gate::Closed(_) => self.lay_to_rest(id, &state),
                Gate::Open => self.wake(id, &state),
                Gate::Waiting(_) => {}
            }
            let state = &self.transfers[&id].record.state;
            waiting |= !state.is_final();
            if state.is_final() && targets.contains(&peer) && gate == Gate::Open {
                if *state == TransferState::Complete || !tries_again(state, updated, again) {
                    lacking.remove(&peer);
                } else {
                    self.forget_transfer(id);
                }
            } else {
                lacking.remove(&peer);
            }
        }
        if spoiled {
            self.tell_plan_now(name, Input::Spoiled, ctx);
        }
        let is_open = self.broadcasts.contains_key(&broadcast);
        if gate != Gate::Open || spoiled || (lacking.is_empty() && (is_open || !waiting)) {
            return;
        }
        if !is_open {
            // Devices that failed before have lost their transfers: they still lack it then.
            return self.open_again(name, broadcast, ctx);
        }
        for device in lacking {
            info!(series = %name, %device, "is to get it");
            if let Err(error) = self.add_transfer(broadcast, device) {
                warn!(series = %name, %error, "cannot be handed out");
            }
        }
        self.drive(ctx);
    }

    /// The devices that a plan is for now.
    fn targets_of(&mut self, name: &SeriesName) -> BTreeSet<DeviceId> {
        let to = self.plans.running[name].rule.to.clone();
        let (mut targets, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for word in to {
            match self.resolve(std::slice::from_ref(&word), &[]) {
                Ok((devices, _)) => targets.extend(devices),
                Err((reason, _)) => {
                    // Who is meant may still come to be known.
                    if !self.plans.running[name].unknown.contains(&word) {
                        info!(broadcast = %name, to = ?word, reason, "is for somebody who is not there yet");
                    }
                    unknown.insert(word);
                }
            }
        }
        self.running(name).unknown = unknown;
        targets.retain(|device| self.roles_of(device).allow(Roles::RECEIVE));
        targets
    }

    fn running(&mut self, name: &SeriesName) -> &mut super::Running {
        let running = self.plans.running.get_mut(name);
        running.expect("names are taken from the map, and none goes in between")
    }

    /// Unfinished transfers of ours that belong to a series, each with its name.
    pub(super) fn transfers_of_plans(&self) -> Vec<(SeriesName, TransferId)> {
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let ours = records
            .filter(|record| record.direction == Direction::Outgoing && !record.state.is_final());
        ours.filter_map(|record| Some((record.series.as_ref()?.name.clone(), record.id)))
            .collect()
    }

    fn end_late(&mut self, id: TransferId, state: &TransferState) {
        let (code, reason) = (Code::NotConnected, TOO_LATE.to_owned());
        match state {
            TransferState::Pending => {
                self.advance(id, TransferEvent::Fail { code, reason });
            }
            TransferState::Paused { .. } => self.cancel(id, code, TOO_LATE),
            // What is under way may be finished.
            _ => {}
        }
    }

    fn lay_to_rest(&mut self, id: TransferId, state: &TransferState) {
        if state.is_under_way() {
            self.rest(id, OUT_OF_HOURS);
        }
    }

    fn wake(&mut self, id: TransferId, state: &TransferState) {
        if state.rests_because(OUT_OF_HOURS) {
            self.resume(id);
        }
    }

    /// A transfer that failed makes way for another try.
    pub(super) fn forget_transfer(&mut self, id: TransferId) {
        self.transfers.remove(&id);
        keep(
            &self.store,
            "a transfer that is tried again",
            move |store| store.remove_transfer(&id).map(|_| ()),
        );
    }

    /// Takes up the files of the last version again, for devices that lack it: after a restart, or
    /// when somebody comes late.
    fn open_again(&mut self, name: &SeriesName, broadcast: BroadcastId, ctx: &mut Context<Self>) {
        let running = self.running(name);
        let memory = running.plan.memory().clone();
        let Some(digest) = memory.digest.filter(|_| !running.opening) else {
            return;
        };
        running.opening = true;
        let (name, patterns) = (name.clone(), running.rule.paths.clone());
        let (bundle_name, state) = (name.to_string(), self.settings.state.dir.clone());
        let taking = self.data_plane.spawn_blocking(move || {
            take(&patterns, &bundle_name, &digest, &Withheld::state(&state))
        });
        ctx.spawn(taking.into_actor(self).map(move |taken, coordinator, ctx| {
            let Some(running) = coordinator.plans.running.get_mut(&name) else {
                return;
            };
            running.opening = false;
            if running.broadcast != Some(broadcast) {
                return;
            }
            let taken = taken.unwrap_or_else(|error| Err(NotTaken::Missing(error.to_string())));
            let Ok(scan) = taken else {
                // It is another content now.
                return coordinator.tell_plan_now(&name, Input::Spoiled, ctx);
            };
            let source = Source::new(scan, coordinator.identity.clone());
            let version = memory.version;
            let mut record = record_of(
                broadcast,
                &running.rule,
                Series {
                    name: name.clone(),
                    version,
                },
                &source,
            );
            record.created = memory.began.unwrap_or_else(unix_now);
            info!(series = %name, version, %broadcast, "goes on");
            let kept = record.clone();
            keep(&coordinator.store, "a broadcast", move |store| {
                store.put_broadcast(kept)
            });
            coordinator.open_plan(record, source, Vec::new());
            coordinator.stand_by_plans(ctx);
        }));
    }

    /// Where each device stands with the last version.
    pub(super) fn states_of(&self, broadcast: BroadcastId) -> BTreeMap<DeviceId, TransferId> {
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let of = records.filter(|record| {
            record.direction == Direction::Outgoing && record.broadcast == Some(broadcast)
        });
        of.map(|record| (record.peer.clone(), record.id)).collect()
    }
}

/// Whether a device that did not get it is tried again by itself.
fn tries_again(state: &TransferState, updated: u64, again: bool) -> bool {
    match state {
        _ if again => true,
        TransferState::Cancelled {
            code: Code::Busy, ..
        } => unix_now().abs_diff(updated) >= SOON,
        TransferState::Cancelled { reason, .. } => {
            [NOT_FOR, SWITCHED_OFF, TOO_LATE].contains(&reason.as_str())
                || matches!(
                    state,
                    TransferState::Cancelled {
                        by: Side::Ours,
                        code: Code::Unauthorized,
                        ..
                    }
                )
        }
        TransferState::Failed { code, .. } => match code {
            // Somebody, or a policy, said no, or it cannot be.
            Code::Declined | Code::Unsupported | Code::Unauthorized => false,
            // It came too late, and there is time again.
            Code::NotConnected => true,
            // A new version follows.
            Code::Changed => false,
            Code::Busy => unix_now().abs_diff(updated) >= SOON,
            // The clock may have been moved since, either way.
            _ => unix_now().abs_diff(updated) >= RETRY,
        },
        _ => false,
    }
}
