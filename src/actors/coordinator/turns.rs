//! Which transfer is handed over next, what the others wait for, and how fast all of them go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::protocol::allowance::{Limits, RuleLimit, Share};
use crate::protocol::id::{BroadcastId, DeviceId, TransferId};
use crate::protocol::transfer::{Direction, TransferState};
use crate::protocol::turns::{Full, Places, turn};

use super::super::api::Event;
use super::super::peer::unix_now;
use super::{Coordinator, Transfer};

/// A transfer whose bytes have not moved for so long takes no place: its receiver may be asleep,
/// or busy with what it has.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Why a transfer rests while another one goes to the same device.
const MAKES_WAY: &str = "a broadcast of higher priority goes first";

/// What a pending transfer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// The device is not connected.
    Device,
    /// Another transfer to the same device goes first.
    Link,
    /// All places are taken.
    Place(Full),
}

impl Transfer {
    /// What it waits for, for people.
    pub(super) fn waits_for(&self) -> Option<String> {
        let waits = self
            .waits
            .filter(|_| self.record.state == TransferState::Pending)?;
        Some(match waits {
            Waits::Device => "for the device, which is not connected".to_owned(),
            Waits::Link => "for another transfer to this device".to_owned(),
            Waits::Place(Full::InAll(most)) => {
                format!("for a place: at most {most} send at a time (transfer.at_most)")
            }
            Waits::Place(Full::OfBroadcast(most)) => {
                format!("for a place: at most {most} of this broadcast send at a time")
            }
        })
    }
}

impl Coordinator {
    /// What may be handed over, as soon as device and place are there, in its order.
    pub(super) fn pending_in_turn(&self) -> Vec<(DeviceId, TransferId)> {
        let outgoing = self.transfers.values().map(|transfer| &transfer.record);
        let pending = outgoing.filter(|record| {
            record.direction == Direction::Outgoing
                && record.state == TransferState::Pending
                && record.broadcast.is_none_or(|of| !self.plans.rests(of))
        });
        let mut pending: Vec<_> = pending
            .filter_map(|record| {
                let of = &self.broadcasts.get(&record.broadcast?)?.record;
                let turn = turn(of.share, of.created, record.updated);
                Some((turn, record.peer.clone(), record.id))
            })
            .collect();
        pending.sort();
        let in_turn = pending.into_iter();
        in_turn.map(|(_, device, id)| (device, id)).collect()
    }

    /// The places that are taken now.
    pub(super) fn places(&self) -> Places {
        let most = self.settings.transfer.at_most;
        let mut places = Places::new((most > 0).then_some(most));
        let sending = self.peers.values().filter_map(|slot| slot.sending);
        for transfer in sending.filter_map(|id| self.transfers.get(&id)) {
            if transfer.moved.elapsed() < STANDSTILL {
                places.take(transfer.record.broadcast);
            }
        }
        places
    }

    /// What is under way to a device rests while something more urgent waits for the same link. It
    /// goes on afterwards, with all that has come.
    pub(super) fn make_way(&mut self, sending: TransferId, pending: TransferId, places: &Places) {
        let (broadcast, share) = self.share_of(pending);
        let sends = self.transfers.get(&sending);
        let moves = sends.is_some_and(|transfer| transfer.record.state.is_under_way());
        // The place that is given up serves, unless its own broadcast has all that it may have.
        let may = !matches!(places.full(broadcast, share), Some(Full::OfBroadcast(_)));
        if moves && may && share.priority > self.share_of(sending).1.priority {
            self.rest(sending, MAKES_WAY);
        }
    }

    /// What made way goes on when nothing more urgent goes, or is about to go, to its device.
    pub(super) fn come_back(&mut self) {
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let due: Vec<TransferId> = records
            .filter(|record| record.state.rests_because(MAKES_WAY))
            .map(|record| record.id)
            .filter(|id| !self.something_goes_before(*id))
            .collect();
        for id in due {
            self.resume(id);
        }
    }

    fn something_goes_before(&self, id: TransferId) -> bool {
        let device = &self.transfers[&id].record.peer;
        let priority = self.share_of(id).1.priority;
        self.transfers.values().any(|other| {
            let record = &other.record;
            let is_open = record
                .broadcast
                .is_some_and(|of| self.broadcasts.contains_key(&of) && !self.plans.rests(of));
            let goes = match &record.state {
                TransferState::Pending => !matches!(other.waits, Some(Waits::Place(_))),
                state => state.is_under_way(),
            };
            record.direction == Direction::Outgoing
                && record.peer == *device
                && is_open
                && goes
                && self.share_of(record.id).1.priority > priority
        })
    }

    /// The broadcast of a transfer, and what it may take.
    pub(super) fn share_of(&self, id: TransferId) -> (BroadcastId, Share) {
        let broadcast = self.transfers.get(&id).and_then(|of| of.record.broadcast);
        let broadcast = broadcast.and_then(|of| self.broadcasts.get(&of));
        broadcast.map_or((BroadcastId([0; 16]), Share::default()), |of| {
            (of.record.id, of.record.share)
        })
    }

    /// A pending transfer waits for that. Who watches hears of places.
    pub(super) fn waits(&mut self, id: TransferId, waits: Waits) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        let before = transfer.waits.replace(waits);
        if before != Some(waits)
            && matches!(waits, Waits::Place(_))
            && let Some(info) = self.info_of(id)
        {
            let broadcast = info.broadcast;
            let event = Event::Transfer(info);
            self.emit(&event);
            self.tell_broadcast(broadcast, &event);
        }
    }

    /// A transfer is handed over: it has a place until it is over, or stands still.
    pub(super) fn takes_place(&mut self, id: TransferId) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.moved = Instant::now();
            transfer.waits = None;
        }
    }

    /// The rules that hold at this hour, with the devices that they mean.
    fn rules_in_force(&self) -> BTreeMap<usize, RuleLimit> {
        let now = unix_now();
        let rules = self.settings.limits.at.iter().enumerate();
        let mut in_force = BTreeMap::new();
        let mut named = Vec::new();
        for (number, rule) in rules.filter(|(_, rule)| rule.holds(now)) {
            let (rate, who) = (rule.rate, rule.who.as_ref().map(|_| BTreeSet::new()));
            in_force.insert(number, RuleLimit { rate, who });
            named.extend(rule.who.as_ref().map(|words| (number, words)));
        }
        if named.is_empty() {
            return in_force;
        }
        let linked = self.peers.iter().filter(|(_, slot)| slot.session.is_some());
        for (device, _) in linked {
            self.as_rules_name(device, "", |whom| {
                for (number, _) in named.iter().filter(|(_, words)| whom.is_one_of(words)) {
                    let rule = in_force.get_mut(number);
                    if let Some(who) = rule.and_then(|rule| rule.who.as_mut()) {
                        who.insert(device.clone());
                    }
                }
            });
        }
        in_force
    }

    /// Tells the data plane what holds now.
    pub(super) fn keep_limits(&self) {
        let Some(context) = &self.context else {
            return;
        };
        let limits = &self.settings.limits;
        let broadcasts = self.broadcasts.values().map(|of| &of.record);
        let broadcasts = broadcasts.filter_map(|of| Some((of.id, of.share.rate?)));
        context.upload.set(Limits {
            whole: limits.rate,
            per_device: limits.rate_per_device,
            rules: self.rules_in_force(),
            broadcasts: broadcasts.collect(),
        });
        context.download.set(Limits {
            whole: limits.receive_rate,
            ..Limits::default()
        });
    }
}
