//! Broadcasts: one bundle to a set of devices.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::content::{Scan, Source, Withheld, scan};
use crate::dataplane::{SendJob, SessionCommand};
use crate::protocol::allowance::Share;
use crate::protocol::id::{BroadcastId, DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::series::Series;
use crate::protocol::transfer::{Direction, Side, TransferEvent, TransferState};
use crate::store::{Account, BroadcastRecord, BroadcastState, TransferRecord};

use super::super::api::{Event, Receiver, exit};
use super::super::peer::{Command, unix_now};
use super::super::store::keep;
use super::turns::Waits;
use super::{Broadcast, Coordinator, Transfer, offer_event};

/// A request to send, resolved to devices.
pub(super) struct Sending {
    pub(super) paths: Vec<PathBuf>,
    pub(super) to: Vec<String>,
    pub(super) devices: Vec<DeviceId>,
    pub(super) wait: Option<Duration>,
    pub(super) share: Share,
    /// Of which series it is a version.
    pub(super) series: Option<Series>,
    /// It is given back to a device that hands out.
    pub(super) hand_in: bool,
    pub(super) reply: mpsc::Sender<Event>,
}

impl Coordinator {
    /// Looks at the files, off this thread, and begins.
    pub(super) fn send(&mut self, sending: Sending, ctx: &mut Context<Self>) {
        let (paths, state) = (sending.paths.clone(), self.settings.state.dir.clone());
        let scanning = self
            .data_plane
            .spawn_blocking(move || scan(&paths, &Withheld::state(&state)));
        ctx.spawn(
            scanning
                .into_actor(self)
                .map(move |scanned, coordinator, ctx| {
                    let scanned = match scanned {
                        Ok(Ok(scanned)) => scanned,
                        Ok(Err(error)) => {
                            return fail(&sending.reply, &error.to_string(), exit::ERROR);
                        }
                        Err(error) => return fail(&sending.reply, &error.to_string(), exit::ERROR),
                    };
                    match new_id() {
                        Ok(id) => coordinator.begin(BroadcastId(id), sending, scanned, ctx),
                        Err(error) => fail(&sending.reply, &error.to_string(), exit::ERROR),
                    }
                }),
        );
    }

    fn begin(&mut self, id: BroadcastId, sending: Sending, scanned: Scan, ctx: &mut Context<Self>) {
        let skipped = scanned.left_out();
        let source = Source::new(scanned, self.identity.clone());
        if let (true, Some(first)) = (source.head().files.is_empty(), skipped.first()) {
            let more = match skipped.len() {
                1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            };
            let reason = format!(
                "there is nothing to send, since everything in it was left out: {first}{more}"
            );
            return fail(&sending.reply, &reason, exit::ERROR);
        }
        let record = BroadcastRecord {
            id,
            paths: sending.paths,
            name: source.head().name.as_str().to_owned(),
            to: sending.to,
            created: unix_now(),
            state: BroadcastState::Active,
            bundle: Some(source.bundle()),
            size: source.layout().total_size(),
            share: sending.share.checked(),
            series: sending.series,
            hand_in: sending.hand_in,
        };
        let event = Event::Broadcast {
            broadcast: id,
            name: record.name.clone(),
            size: record.size,
            files: source.head().files.len() as u32,
            skipped,
        };
        info!(broadcast = %id, name = ?record.name, devices = sending.devices.len(), "begins");
        offer_event(&sending.reply, &event);
        self.emit(&event);
        let kept = record.clone();
        keep(&self.store, "a broadcast", move |store| {
            store.put_broadcast(kept)
        });
        let broadcast = Broadcast {
            record,
            source,
            wait: sending.wait,
            watcher: Some(sending.reply.clone()),
            started: Instant::now(),
        };
        self.broadcasts.insert(id, broadcast);
        self.tell_absence(id);
        for device in sending.devices {
            if let Err(error) = self.add_transfer(id, device) {
                fail(&sending.reply, &error.to_string(), exit::ERROR);
            }
        }
        // Whoever asked for it may see it begin, and the power go: then it goes on.
        keep(&self.store, "a broadcast", |store| store.flush());
        self.drive(ctx);
        self.finish_broadcasts();
    }

    /// The transfer of a broadcast to one device: the one that an interrupted broadcast of the
    /// same bundle left, or a new one.
    pub(super) fn add_transfer(
        &mut self,
        broadcast: BroadcastId,
        device: DeviceId,
    ) -> Result<(), getrandom::Error> {
        let Broadcast { source, record, .. } = &self.broadcasts[&broadcast];
        let (series, hand_in) = (record.series.clone(), record.hand_in);
        let (bundle, name) = (source.bundle(), source.head().name.as_str().to_owned());
        let size = source.layout().total_size();
        let running: HashSet<BroadcastId> = self.broadcasts.keys().copied().collect();
        let left = self.transfers.values_mut().find(|transfer| {
            let record = &transfer.record;
            record.direction == Direction::Outgoing
                && record.peer == device
                && record.bundle == bundle
                && !record.state.is_final()
                // Versions of a series are told apart by more than their bundle.
                && (record.series.is_none() || record.broadcast == Some(broadcast))
                && record
                    .broadcast
                    .is_none_or(|of| of == broadcast || !running.contains(&of))
        });
        let id = match left {
            Some(transfer) => {
                transfer.record.broadcast = Some(broadcast);
                transfer.record.series = series;
                transfer.record.hand_in = hand_in;
                // Whoever sends it anew means it to go on.
                if matches!(transfer.record.state, TransferState::Paused { .. }) {
                    transfer.record.state = TransferState::Pending;
                }
                transfer.record.id
            }
            None => {
                let record = TransferRecord {
                    id: TransferId(new_id()?),
                    direction: Direction::Outgoing,
                    broadcast: Some(broadcast),
                    peer: device.clone(),
                    origin: self.identity.device_id(),
                    bundle,
                    name,
                    size,
                    state: TransferState::Pending,
                    updated: unix_now(),
                    destination: None,
                    root: None,
                    stat_digest: None,
                    bytes_done: 0,
                    question: None,
                    series,
                    hand_in,
                    after: None,
                    account: Account::default(),
                };
                let id = record.id;
                self.transfers.insert(id, Transfer::of(record));
                id
            }
        };
        if let Some(slot) = self.slot(&device) {
            slot.absent_since = Instant::now();
        }
        let record = self.transfers[&id].record.clone();
        keep(&self.store, "a transfer", move |store| {
            store.put_transfer(record)
        });
        if let Some(info) = self.info_of(id) {
            self.tell_broadcast(Some(broadcast), &Event::Transfer(info));
        }
        Ok(())
    }

    /// Carries on with a broadcast of an earlier process.
    pub(super) fn reload(&mut self, record: BroadcastRecord) {
        let id = record.id;
        match scan(&record.paths, &Withheld::state(&self.settings.state.dir)) {
            Ok(scanned) => {
                let source = Source::new(scanned, self.identity.clone());
                if record
                    .bundle
                    .is_some_and(|bundle| bundle != source.bundle())
                {
                    warn!(broadcast = %id, "its files have changed; it goes on with what is there now");
                    let bundle = source.bundle();
                    for transfer in self.transfers.values_mut() {
                        if transfer.record.broadcast == Some(id) {
                            transfer.record.bundle = bundle;
                        }
                    }
                }
                info!(broadcast = %id, name = ?record.name, "goes on");
                let (wait, watcher, started) = (None, None, Instant::now());
                let broadcast = Broadcast {
                    record,
                    source,
                    wait,
                    watcher,
                    started,
                };
                self.broadcasts.insert(id, broadcast);
            }
            Err(error) => {
                warn!(broadcast = %id, %error, "cannot go on");
                let ids: Vec<_> = self
                    .transfers
                    .values()
                    .filter(|t| t.record.broadcast == Some(id) && !t.record.state.is_final())
                    .map(|t| t.record.id)
                    .collect();
                for transfer in ids {
                    let (code, reason) = (Code::Changed, error.to_string());
                    self.advance(transfer, TransferEvent::Fail { code, reason });
                }
                keep(&self.store, "a broadcast", move |store| {
                    store.put_broadcast(BroadcastRecord {
                        state: BroadcastState::Done,
                        ..record
                    })
                });
            }
        }
    }

    /// Sees to it that every device with something to get has a link, and that every link with
    /// something to send sends it.
    pub(super) fn drive(&mut self, _: &mut Context<Self>) {
        if self.context.is_none() {
            return;
        }
        self.come_back();
        let mut pending = self.pending_in_turn();
        pending.retain(|(device, id)| self.may_still_receive(device, *id));
        let mut wanting: HashSet<DeviceId> =
            pending.iter().map(|(device, _)| device.clone()).collect();
        wanting.extend(
            self.swarm
                .introductions
                .iter()
                .map(|entry| entry.peer.clone()),
        );
        let mut places = self.places();
        for (device, id) in pending {
            let Some(slot) = self.peers.get_mut(&device) else {
                self.want(&device, true);
                self.waits(id, Waits::Device);
                continue;
            };
            if slot.session.is_none() {
                if !slot.wanted {
                    self.want(&device, true);
                }
                self.waits(id, Waits::Device);
            } else if slot.is_neighbour() {
                // It has been let in since: as a member it needs a link of its own.
                self.disconnect(&device);
                self.waits(id, Waits::Device);
            } else if let Some(sending) = slot.sending {
                self.waits(id, Waits::Link);
                self.make_way(sending, id, &places);
            } else {
                let (broadcast, share) = self.share_of(id);
                if let Some(full) = places.full(broadcast, share) {
                    self.waits(id, Waits::Place(full));
                    continue;
                }
                places.take(Some(broadcast));
                if let Some(slot) = self.peers.get_mut(&device) {
                    slot.sending = Some(id);
                }
                self.hand_over(&device, id);
            }
        }
        self.release_idle_peers(&wanting);
    }

    /// Nothing is handed over to a device that may not receive (any more): that is said once.
    fn may_still_receive(&mut self, device: &DeviceId, id: TransferId) -> bool {
        // What is given back is this side's own wish, and the other one's to take.
        let gives_back = self.transfers[&id].record.hand_in && self.is_let_in(device);
        let of = self.transfers[&id].record.broadcast;
        let of = of.and_then(|of| self.broadcasts.get(&of));
        let paths = of.map_or(&[][..], |broadcast| &broadcast.record.paths);
        if gives_back || self.may_receive(device, paths) {
            return true;
        }
        let reason = match self.is_let_in(device) {
            true => "it may not receive from this device".to_owned(),
            false => self.trust.why(device, unix_now()).0,
        };
        let (by, code) = (Side::Ours, Code::Unauthorized);
        self.advance(id, TransferEvent::Cancel { by, code, reason });
        false
    }

    fn hand_over(&mut self, device: &DeviceId, id: TransferId) {
        let transfer = &self.transfers[&id];
        let source = transfer
            .record
            .broadcast
            .and_then(|of| self.broadcasts.get(&of));
        let Some(source) = source.map(|broadcast| broadcast.source.clone()) else {
            return;
        };
        let job = SendJob {
            id,
            source,
            series: transfer.record.series.clone(),
            hand_in: transfer.record.hand_in,
            progress: Arc::clone(&transfer.progress),
            broadcast: transfer.record.broadcast,
        };
        self.takes_place(id);
        // Not a byte goes before its limits hold.
        self.keep_limits();
        self.command(device, Command(SessionCommand::Send(job)));
        self.advance(id, TransferEvent::Offer);
    }

    /// A link that nobody wants stays while it stands, but is not made again.
    fn release_idle_peers(&mut self, wanting: &HashSet<DeviceId>) {
        let on_sight = self.connects_on_sight();
        let mut idle = Vec::new();
        for (device, slot) in &self.peers {
            let needed = wanting.contains(device) || self.door.wants(device);
            if slot.wanted && !on_sight && slot.sending.is_none() && !needed {
                idle.push(device.clone());
            }
        }
        for device in idle {
            self.want(&device, false);
        }
        // Actors of devices that are gone end with their last address.
        let (table, settings) = (&self.table, &self.settings);
        if self.peers.len() > settings.discovery.max_peers {
            self.peers.retain(|device, slot| {
                slot.wanted || slot.session.is_some() || table.get(device).is_some()
            });
        }
    }

    /// Devices that are not there for too long do without.
    pub(super) fn give_up_on_the_absent(&mut self) {
        let mut late = Vec::new();
        for (id, transfer) in &self.transfers {
            let record = &transfer.record;
            let waits =
                record.state == TransferState::Pending && record.direction == Direction::Outgoing;
            let broadcast = record.broadcast.and_then(|of| self.broadcasts.get(&of));
            let limit = broadcast.and_then(|broadcast| broadcast.wait);
            let (Some(limit), true) = (limit, waits) else {
                continue;
            };
            let slot = self.peers.get(&record.peer);
            let absent = slot
                .is_none_or(|slot| slot.session.is_none() && slot.absent_since.elapsed() > limit);
            if absent {
                let reason = slot.and_then(|slot| slot.error.clone());
                let seconds = limit.as_secs_f64();
                let reason = reason.unwrap_or_else(|| {
                    let away = self.why_away().map_or_else(String::new, |why| {
                        format!("; this device is not at the rendezvous: {why}")
                    });
                    format!(
                        "it was not seen within {seconds} s: check that it is on and receives{away}"
                    )
                });
                let refused = slot.is_some_and(|slot| slot.refused);
                let code = if refused {
                    Code::Unauthorized
                } else {
                    Code::NotConnected
                };
                late.push((*id, code, reason));
            }
        }
        for (id, code, reason) in late {
            self.advance(id, TransferEvent::Fail { code, reason });
        }
    }

    /// Broadcasts of which every transfer is over are summed up and let go.
    pub(super) fn finish_broadcasts(&mut self) {
        let open: HashSet<BroadcastId> = self
            .transfers
            .values()
            .filter(|transfer| {
                // What was decided here has to be told to the other side before we may end.
                let slot = self.peers.get(&transfer.record.peer);
                let telling = slot.is_some_and(|slot| slot.sending == Some(transfer.record.id));
                telling || !transfer.record.state.is_final()
            })
            .filter_map(|transfer| transfer.record.broadcast)
            .collect();
        let over: Vec<BroadcastId> = self
            .broadcasts
            .keys()
            .filter(|id| !open.contains(id) && !self.awaits_joiners(id))
            .copied()
            .collect();
        for id in over {
            let Some(broadcast) = self.broadcasts.remove(&id) else {
                continue;
            };
            let receivers = self.summary_of(id, &broadcast);
            let code = code_of(&receivers);
            info!(broadcast = %id, code, "is over");
            let record = BroadcastRecord {
                state: BroadcastState::Done,
                ..broadcast.record
            };
            let summary = Event::Summary {
                broadcast: id,
                name: record.name.clone(),
                size: record.size,
                receivers,
            };
            keep(&self.store, "a broadcast", move |store| {
                store.put_broadcast(record)
            });
            self.end_what_is_over();
            self.emit(&summary);
            if let Some(watcher) = broadcast.watcher {
                offer_event(&watcher, &summary);
                offer_event(&watcher, &Event::End { code });
            }
        }
    }

    fn summary_of(&self, id: BroadcastId, broadcast: &Broadcast) -> Vec<Receiver> {
        let mut receivers: Vec<Receiver> = self
            .transfers
            .values()
            .filter(|transfer| transfer.record.broadcast == Some(id))
            .map(|transfer| {
                let record = &transfer.record;
                let (code, reason) = match &record.state {
                    TransferState::Cancelled { code, reason, .. }
                    | TransferState::Failed { code, reason }
                    | TransferState::Paused { code, reason, .. } => {
                        (Some(*code), Some(reason.clone()))
                    }
                    _ => (None, None),
                };
                let complete = record.state == TransferState::Complete;
                let took = transfer.finished.filter(|_| complete);
                let session = self
                    .peers
                    .get(&record.peer)
                    .and_then(|slot| slot.session.as_ref());
                Receiver {
                    device_id: record.peer.clone(),
                    name: self.name_of(&record.peer),
                    state: record.state.word().to_owned(),
                    code,
                    reason,
                    bytes: transfer.progress.done().min(record.size),
                    sent: transfer.progress.moved(),
                    seconds: took.map(|at| {
                        let began = transfer.began.unwrap_or(broadcast.started);
                        (at - began).as_secs_f64()
                    }),
                    already: transfer.already,
                    verified: session.map_or(record.peer.is_self_certifying(), |s| s.verified),
                }
            })
            .collect();
        receivers.sort_by(|a, b| (&a.name, &a.device_id).cmp(&(&b.name, &b.device_id)));
        receivers
    }
}

/// How a broadcast went, as an exit code.
fn code_of(receivers: &[Receiver]) -> u8 {
    let failed: Vec<Option<Code>> = receivers
        .iter()
        .filter(|r| r.state != "complete")
        .map(|r| r.code)
        .collect();
    let all = |code: Code| failed.iter().all(|of| *of == Some(code));
    match failed.len() {
        0 if receivers.is_empty() => exit::NO_RECEIVER,
        0 => exit::OK,
        _ if failed.len() < receivers.len() => exit::SOME_FAILED,
        _ if all(Code::NotConnected) => exit::NO_RECEIVER,
        _ if all(Code::Unauthorized) => exit::UNAUTHORIZED,
        _ if all(Code::Integrity) => exit::INTEGRITY,
        _ if all(Code::DiskFull) || all(Code::DiskError) || all(Code::Quota) => exit::DISK,
        _ => exit::SOME_FAILED,
    }
}

/// Ends an answer with an error.
pub(super) fn fail(reply: &mpsc::Sender<Event>, message: &str, code: u8) {
    offer_event(
        reply,
        &Event::Error {
            message: message.to_owned(),
        },
    );
    offer_event(reply, &Event::End { code });
}

pub(super) fn new_id() -> Result<[u8; 16], getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
