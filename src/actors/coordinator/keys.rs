//! The keys of devices over time: whoever shows that it has changed its key is followed, whoever
//! knew us under an earlier one is shown ours, and one key on two machines raises an alarm.

use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::net::signaling::SignalEvent;
use crate::protocol::clones::Alarm;
use crate::protocol::id::{DeviceId, RunId, TransferId};
use crate::protocol::peers::PeerAdvert;
use crate::protocol::rotation::{self, ChainError};
use crate::protocol::signal::{Signal, SignalKind};
use crate::protocol::transfer::TransferEvent;
use crate::protocol::trust::NotFollowed;
use crate::store::Group;

use super::super::api::{CloneInfo, Event};
use super::super::peer::unix_now;
use super::super::signaling::Dial;
use super::super::store::keep;
use super::{Coordinator, offer_event};

/// Changes of key that are looked at within [`CHANGES_SPAN`]: each may cost eight signatures.
pub(super) const MAX_CHANGES: u32 = 64;
/// See [`MAX_CHANGES`].
pub(super) const CHANGES_SPAN: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Somebody shows how a device came to its key. It proves itself, whoever brings it.
    pub(super) fn hear_change(&mut self, heard: &SignalEvent, ctx: &mut Context<Self>) {
        let device = &heard.signal.peer_id;
        if !self.changes.take(Instant::now()) {
            debug!(%device, address = %heard.from, "too many changes of key at once");
            return;
        }
        let considered = rotation::decode(&heard.signal.data)
            .map_err(NotFollowed::from)
            .and_then(|chain| self.trust.consider(&chain, device));
        match considered {
            Ok(moves) if moves.is_empty() => debug!(%device, "its change of key is known"),
            Ok(moves) => self.follow(&moves, ctx),
            // Strangers may say so as they like; nobody here knows any of these ids.
            Err(reason @ (NotFollowed::Unknown | NotFollowed::Chain(ChainError::Unreadable))) => {
                info!(%device, address = %heard.from, %reason, "a change of key counts for nothing");
            }
            Err(reason) => {
                let reason = reason.to_string();
                warn!(%device, address = %heard.from, %reason, "a change of key is refused");
                let event = Event::KeyRefused {
                    device_id: device.clone(),
                    address: heard.from.to_string(),
                    reason,
                };
                self.emit(&event);
            }
        }
    }

    /// A device has a new key: whatever was said of the old one holds for the new one.
    fn follow(&mut self, moves: &[(DeviceId, DeviceId)], ctx: &mut Context<Self>) {
        let (Some((first, _)), Some((_, last))) = (moves.first(), moves.last()) else {
            return;
        };
        let name = self.name_of(first);
        let member = |group: &&Group| moves.iter().any(|(old, _)| group.members.contains(old));
        let groups = self.trust.groups().filter(member);
        let groups: Vec<_> = groups.map(|group| group.name.clone()).collect();
        for (old, new) in moves {
            if !self.trust.follow(old, new, unix_now()) {
                warn!(%old, %new, "a change of key was not followed");
                return;
            }
        }
        self.put_down(moves, groups);
        for (old, _) in moves {
            self.move_over(old, last);
        }
        self.table
            .set_authorized(last, self.trust.lets_in(last, unix_now()));
        info!(device = %last, earlier = %first, %name, "a new key, signed by its old one");
        let event = Event::KeyChanged {
            device_id: last.clone(),
            earlier: first.clone(),
            name,
        };
        self.emit(&event);
        let event = Event::Peer(self.peer_info(last));
        self.emit(&event);
        self.drive(ctx);
    }

    /// Records a followed change.
    fn put_down(&self, moves: &[(DeviceId, DeviceId)], groups: Vec<String>) {
        let last = moves.last().map(|(_, new)| new.clone());
        let decision = last.and_then(|last| self.trust.authorization(&last).cloned());
        let groups = groups.iter().filter_map(|name| self.trust.group(name));
        let (moves, groups) = (moves.to_vec(), groups.cloned().collect::<Vec<_>>());
        keep(&self.store, "a change of key", move |store| {
            let mut decision = decision;
            for (old, new) in &moves {
                // With the first, so that no power cut leaves the device shut out.
                store.move_device(old, new, decision.take())?;
            }
            for group in groups {
                store.put_group(group)?;
            }
            store.flush()
        });
    }

    /// All that is going on with the old id goes on with the new one.
    fn move_over(&mut self, old: &DeviceId, new: &DeviceId) {
        let with = |id: &TransferId| self.transfers[id].record.peer == *old;
        let ids: Vec<_> = self.transfers.keys().copied().filter(with).collect();
        for id in &ids {
            self.advance(*id, TransferEvent::Disconnect);
            let unfinished = !self.transfers[id].record.state.is_final();
            let anew = unfinished && self.is_incoming(*id);
            if anew {
                // What has come is signed by the old key; the new one signs all of it again.
                self.end_reception(*id);
                self.discard_partial(*id);
            }
            if let Some(transfer) = self.transfers.get_mut(id) {
                let record = &mut transfer.record;
                record.peer = new.clone();
                if record.origin == *old {
                    record.origin = new.clone();
                }
                if anew {
                    record.bytes_done = 0;
                    transfer.progress.restart(0);
                }
                let (record, id) = (transfer.record.clone(), *id);
                keep(&self.store, "a transfer", move |store| {
                    store.put_transfer(record)?;
                    if anew {
                        store.drop_progress(&id)
                    } else {
                        Ok(())
                    }
                });
            }
        }
        self.end_introductions_of(old);
        if self.door.joined.as_ref() == Some(old) {
            self.door.joined = Some(new.clone());
        }
        self.table.follow(old, new);
        self.clones.forget(old);
        self.part_with(old);
    }

    /// Shows our change of key to a device that we let in, and that may know us under an earlier
    /// one; once while it is here. It needs no link for that, and no answer.
    pub(super) fn show_change(&mut self, device: &DeviceId) {
        let Some(context) = &self.context else {
            return;
        };
        let Some(signal) = context.change() else {
            return;
        };
        let addresses = self.addresses_of(device);
        if addresses.is_empty() || !self.is_authorized(device) || self.shown.contains(device) {
            return;
        }
        self.shown.insert(device.clone());
        let signaling = context.signaling.clone();
        let (device, coordinator) = (device.clone(), context.coordinator.clone());
        actix::spawn(async move {
            let told = match signaling.send(Dial { addresses }).await {
                Ok(Ok(connection)) => connection.deliver(&signal).await.is_ok(),
                _ => false,
            };
            debug!(%device, told, "our change of key");
            if !told && let Some(coordinator) = coordinator.upgrade() {
                coordinator.do_send(NotShown(device));
            }
        });
    }

    /// A device has proven its key on a link, in this run of its program.
    pub(super) fn note_run(&mut self, device: &DeviceId, run: Option<RunId>) {
        let from = self.peers.get(device).and_then(|slot| slot.from);
        let Some(run) = run.filter(|_| self.is_authorized(device)) else {
            return;
        };
        let raised = self.clones.on_link(Instant::now(), device, run, from);
        self.sound(raised);
    }

    /// A device advertises a run. Only those that we let in, and ourselves, are watched.
    pub(super) fn note_advert(&mut self, advert: &PeerAdvert, number: u32) {
        let watched = self.is_authorized(&advert.id) || advert.id == self.identity.device_id();
        if let (Some(run), true) = (advert.run, watched) {
            let places = advert.addrs.iter().map(std::net::SocketAddr::ip);
            let raised = self
                .clones
                .on_advert(Instant::now(), &advert.id, run, number, places);
            self.sound(raised);
        }
    }

    /// Raises the alarms that are due, and ends those that are over.
    pub(super) fn tend_clones(&mut self) {
        let (raised, over) = self.clones.tick(Instant::now());
        self.sound(raised);
        for device in over {
            info!(%device, "its key was seen on one machine only for a while");
            let event = Event::Peer(self.peer_info(&device));
            self.emit(&event);
        }
    }

    fn sound(&mut self, alarms: impl IntoIterator<Item = Alarm>) {
        for alarm in alarms {
            let event = self.alarm_event(&alarm);
            if let Event::Cloned { name, clone, .. } = &event {
                warn!(
                    device = %alarm.device, %name, at = clone.addresses.join(", "),
                    proven = alarm.proven, "its key is on two machines: {}", clone.hint
                );
            }
            self.emit(&event);
            if alarm.device != self.identity.device_id() {
                let event = Event::Peer(self.peer_info(&alarm.device));
                self.emit(&event);
            }
        }
    }

    fn alarm_event(&self, alarm: &Alarm) -> Event {
        let ours = alarm.device == self.identity.device_id();
        Event::Cloned {
            device_id: alarm.device.clone(),
            name: match ours {
                true => self.settings.device.name.clone(),
                false => self.name_of(&alarm.device),
            },
            ours,
            clone: clone_info(alarm),
        }
    }

    /// The alarm about a device, if there is one.
    pub(super) fn clone_of(&self, device: &DeviceId) -> Option<CloneInfo> {
        self.clones.alarm(device).map(clone_info)
    }

    /// The alarm about this device's own key, if there is one.
    pub(super) fn own_clone(&self) -> Option<Event> {
        let alarm = self.clones.alarm(&self.identity.device_id())?;
        Some(self.alarm_event(alarm))
    }

    /// Tells a new listener of the alarms that stand.
    pub(super) fn repeat_alarms(&self, listener: &mpsc::Sender<Event>) {
        for alarm in self.clones.alarms() {
            offer_event(listener, &self.alarm_event(alarm));
        }
    }
}

fn clone_info(alarm: &Alarm) -> CloneInfo {
    let hint = "on the machine that is the copy (its disk was cloned, or its state folder \
                copied), stop handout and run: handout id new";
    CloneInfo {
        addresses: alarm.places.iter().map(ToString::to_string).collect(),
        proven: alarm.proven,
        hint: hint.to_owned(),
    }
}

/// A device could not be shown our change of key.
#[derive(Message)]
#[rtype(result = "()")]
struct NotShown(DeviceId);

impl Handler<NotShown> for Coordinator {
    type Result = ();

    fn handle(&mut self, NotShown(device): NotShown, _: &mut Context<Self>) {
        self.shown.remove(&device);
    }
}

/// The signaling message that shows changes of key; nothing where there were none.
pub fn change_signal(ours: &DeviceId, chain: &[rotation::Rotation]) -> Option<Signal> {
    (!chain.is_empty()).then(|| Signal {
        kind: SignalKind::Rotation,
        peer_id: ours.clone(),
        data: rotation::encode(chain),
    })
}
