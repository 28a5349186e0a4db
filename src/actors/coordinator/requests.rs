//! What people and programs ask.

use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc;

use crate::dataplane::{SessionCommand, Stop};
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::identity::b64;
use crate::protocol::message::Code;
use crate::protocol::transfer::{Direction, Side, TransferEvent, TransferState};
use crate::store::{Authorization, GrantedBy};

use super::super::api::{Event, Request, exit};
use super::super::peer::{Command, unix_now};
use super::super::store::Job;
use super::sending::{Sending, fail};
use super::{Ask, Coordinator, Watcher};

impl Handler<Ask> for Coordinator {
    type Result = ();

    fn handle(&mut self, Ask { request, reply }: Ask, ctx: &mut Context<Self>) {
        match request {
            Request::Id => {
                let event = Event::Id {
                    device_id: self.identity.device_id(),
                    name: self.settings.device.name.clone(),
                    key: b64(self.identity.public_key().as_bytes()),
                };
                answer(&reply, [event]);
            }
            Request::Peers => {
                let mut devices = self.all_let_in();
                devices.extend(self.table.iter().map(|entry| entry.advert.id.clone()));
                let introduced = self.swarm.introductions.iter();
                devices.extend(introduced.map(|entry| entry.peer.clone()));
                devices.sort();
                devices.dedup();
                answer(
                    &reply,
                    devices.iter().map(|id| Event::Peer(self.peer_info(id))),
                );
            }
            Request::Authorize { device, name } => self.on_authorize(device, name, reply, ctx),
            Request::Revoke { device } => match self.find_device(&device) {
                Ok(device) => self.on_revoke(device, reply, ctx),
                Err(reason) => fail(&reply, &reason, exit::USAGE),
            },
            Request::Send { paths, to, wait_ms } => match self.resolve(&to) {
                Ok(devices) => {
                    let wait = wait_ms.map(Duration::from_millis);
                    self.send(
                        Sending {
                            paths,
                            to,
                            devices,
                            wait,
                            reply,
                        },
                        ctx,
                    );
                }
                Err((reason, code)) => fail(&reply, &reason, code),
            },
            Request::Transfers => {
                let mut records: Vec<_> = self.transfers.values().map(|t| &t.record).collect();
                records.sort_by_key(|record| (record.updated, record.id));
                let infos = records.iter().filter_map(|record| self.info_of(record.id));
                answer(&reply, infos.map(Event::Transfer));
            }
            Request::Pause { what } => self.each(&what, &reply, ctx, |coordinator, id| {
                coordinator.pause(id);
            }),
            Request::Resume { what } => self.each(&what, &reply, ctx, |coordinator, id| {
                coordinator.resume(id);
            }),
            Request::Cancel { what } => self.each(&what, &reply, ctx, |coordinator, id| {
                coordinator.cancel(id, Code::Cancelled, "cancelled by a person");
            }),
            Request::Watch => self.watchers.push(Watcher { events: reply }),
        }
    }
}

impl Coordinator {
    fn on_authorize(
        &mut self,
        device: DeviceId,
        name: String,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        if device == self.identity.device_id() {
            return fail(&reply, "that is this device itself", exit::USAGE);
        }
        let entry = Authorization {
            device: device.clone(),
            name,
            key: None,
            since: unix_now(),
            by: GrantedBy::Person,
            expires: None,
            roles: None,
            via: None,
        };
        let granted = self.grant(entry, None);
        ctx.spawn(
            granted
                .into_actor(self)
                .map(move |granted, coordinator, ctx| {
                    match granted {
                        Ok(()) => answer(&reply, [Event::Peer(coordinator.peer_info(&device))]),
                        Err(error) => fail(&reply, &error, exit::ERROR),
                    }
                    coordinator.drive(ctx);
                }),
        );
    }

    fn on_revoke(&mut self, device: DeviceId, reply: mpsc::Sender<Event>, ctx: &mut Context<Self>) {
        self.shut_out(&device);
        let revoked = device.clone();
        let stored = self
            .store
            .send(Job::new(move |store| store.revoke(&revoked)));
        ctx.spawn(stored.into_actor(self).map(move |stored, coordinator, _| match stored {
            Ok(Ok(_)) => {
                let mut events = vec![Event::Peer(coordinator.peer_info(&device))];
                if coordinator.is_authorized(&device) {
                    let text = "the config file authorizes it (trust.authorized): take it out \
                                there too, and restart";
                    events.push(Event::Note { text: text.to_owned() });
                }
                answer(&reply, events);
            }
            Ok(Err(error)) => fail(&reply, &error.to_string(), exit::ERROR),
            Err(error) => fail(&reply, &error.to_string(), exit::ERROR),
        }));
    }

    /// The one authorized or visible device that a word means: its id, the beginning of that, or
    /// its name.
    fn find_device(&self, word: &str) -> Result<DeviceId, String> {
        let mut known = self.all_let_in();
        known.extend(self.table.iter().map(|entry| entry.advert.id.clone()));
        known.extend(self.authorizations.keys().cloned());
        let introduced = self.swarm.introductions.iter();
        known.extend(introduced.map(|entry| entry.peer.clone()));
        known.sort();
        known.dedup();
        if let Some(exact) = known.iter().find(|id| id.as_str() == word) {
            return Ok(exact.clone());
        }
        let named: Vec<_> = known.iter().filter(|id| self.name_of(id) == word).collect();
        let begun: Vec<_> = known
            .iter()
            .filter(|id| word.len() >= 4 && id.as_str().starts_with(word))
            .collect();
        match (&named[..], &begun[..]) {
            ([one], _) | ([], [one]) => Ok((*one).clone()),
            ([], []) => Err(format!(
                "no device is called {word:?}: `handout peers` lists them"
            )),
            _ => Err(format!(
                "{word:?} means more than one device: use an id (`handout peers`)"
            )),
        }
    }

    /// The devices that `--to` means.
    fn resolve(&self, to: &[String]) -> Result<Vec<DeviceId>, (String, u8)> {
        let mut devices = Vec::new();
        for word in to {
            if word == "all" {
                let all = self.all_let_in();
                if all.is_empty() {
                    let reason = "no device is authorized yet: run `handout authorize DEVICE_ID` \
                                  for each receiver; `handout peers` shows who is here";
                    return Err((reason.to_owned(), exit::UNAUTHORIZED));
                }
                devices.extend(all);
                continue;
            }
            let device = self.find_device(word).or_else(|reason| {
                // An id that was never seen may still come.
                word.parse::<DeviceId>()
                    .ok()
                    .filter(|id| id.is_self_certifying())
                    .ok_or((reason, exit::USAGE))
            })?;
            if !self.is_let_in(&device) {
                let reason = format!(
                    "{device} is not authorized: if it should get files, run \
                     `handout authorize {device}`"
                );
                return Err((reason, exit::UNAUTHORIZED));
            }
            devices.push(device);
        }
        devices.sort();
        devices.dedup();
        Ok(devices)
    }

    /// Does something to every unfinished transfer that a word means, and answers with them.
    fn each(
        &mut self,
        what: &str,
        reply: &mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
        mut act: impl FnMut(&mut Self, TransferId),
    ) {
        let mut ids: Vec<TransferId> = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| !record.state.is_final())
            .filter(|record| {
                let of = record
                    .broadcast
                    .map(|id| id.to_string())
                    .unwrap_or_default();
                what == "all"
                    || (what.len() >= 4
                        && (record.id.to_string().starts_with(what) || of.starts_with(what)))
            })
            .map(|record| record.id)
            .collect();
        ids.sort();
        if ids.is_empty() {
            let reason = format!(
                "no unfinished transfer or broadcast begins with {what:?}: `handout transfers` \
                 lists them (at least 4 characters, or all)"
            );
            return fail(reply, &reason, exit::USAGE);
        }
        for id in &ids {
            act(self, *id);
        }
        let infos = ids
            .iter()
            .filter_map(|id| self.info_of(*id))
            .map(Event::Transfer);
        answer(reply, infos);
        self.drive(ctx);
        self.finish_broadcasts();
    }

    fn pause(&mut self, id: TransferId) {
        let (code, reason) = (Code::Paused, "paused by a person".to_owned());
        self.halt(Stop {
            id,
            code,
            reason,
            for_good: false,
        });
    }

    fn resume(&mut self, id: TransferId) {
        let record = &self.transfers[&id].record;
        let (peer, direction) = (record.peer.clone(), record.direction);
        if !matches!(record.state, TransferState::Paused { .. }) {
            return;
        }
        self.advance(id, TransferEvent::Resume { by: Side::Ours });
        self.advance(id, TransferEvent::Disconnect);
        if direction == Direction::Incoming {
            self.command(&peer, Command(SessionCommand::Resume(id)));
        }
    }

    pub(super) fn cancel(&mut self, id: TransferId, code: Code, reason: &str) {
        let reason = reason.to_owned();
        self.halt(Stop {
            id,
            code,
            reason,
            for_good: true,
        });
        self.discard_partial(id);
    }

    /// Records that our side stops a transfer, and has the other side told.
    fn halt(&mut self, stop: Stop) {
        let (by, code, reason) = (Side::Ours, stop.code, stop.reason.clone());
        let happened = if stop.for_good {
            TransferEvent::Cancel { by, code, reason }
        } else {
            TransferEvent::Pause { by, code, reason }
        };
        let peer = self.transfers[&stop.id].record.peer.clone();
        if self.advance(stop.id, happened) {
            self.end_reception(stop.id);
            self.command(&peer, Command(SessionCommand::Stop(stop)));
        }
    }
}

/// Answers with a list of any length, at the reader's pace.
fn answer(reply: &mpsc::Sender<Event>, events: impl IntoIterator<Item = Event>) {
    let mut events: Vec<Event> = events.into_iter().collect();
    events.push(Event::End { code: exit::OK });
    let reply = reply.clone();
    actix::spawn(async move {
        for event in events {
            if reply.send(event).await.is_err() {
                return;
            }
        }
    });
}
