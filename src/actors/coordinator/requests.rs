//! What people and programs ask.

use std::path::PathBuf;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc;

use crate::dataplane::{SessionCommand, Stop};
use crate::protocol::allowance::Share;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::identity::b64;
use crate::protocol::message::Code;
use crate::protocol::roles::Roles;
use crate::protocol::transfer::{Direction, Side, TransferEvent, TransferState};
use crate::store::{Authorization, GrantedBy, TransferRecord};

use super::super::api::{Event, Request, exit};
use super::super::peer::{Command, unix_now};
use super::super::store::{Job, on_disk};
use super::invites::Wish;
use super::people::place_in;
use super::sending::{Sending, fail};
use super::{Ask, Coordinator, Watcher, offer_event};

/// Which transfers a request is about.
struct Kind {
    called: &'static str,
    fits: fn(&TransferRecord) -> bool,
}

/// Why transfers rest that a person has paused.
pub(super) const BY_PERSON: &str = "paused by a person";

const UNFINISHED: Kind = Kind {
    called: "unfinished transfer or broadcast",
    fits: |record| !record.state.is_final(),
};
const ASKED: Kind = Kind {
    called: "offer that waits for a person",
    fits: TransferRecord::is_asked,
};

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
                let peers = devices.iter().map(|id| Event::Peer(self.peer_info(id)));
                answer(&reply, self.own_clone().into_iter().chain(peers));
            }
            Request::Authorize {
                device,
                name,
                roles,
                group,
                seconds,
            } => {
                let now = unix_now();
                let entry = Authorization {
                    device,
                    name,
                    key: None,
                    since: now,
                    by: GrantedBy::Person,
                    expires: seconds.map(|seconds| now.saturating_add(seconds)),
                    roles,
                    via: None,
                };
                self.on_authorize(entry, group.as_deref(), reply, ctx);
            }
            Request::Group(request) => self.on_group(request, reply, ctx),
            Request::Revoke { device } => match self.find_any_device(&device) {
                Ok(device) => self.on_revoke(device, reply, ctx),
                Err(reason) => fail(&reply, &reason, exit::USAGE),
            },
            Request::Send {
                paths,
                to,
                wait_ms,
                share,
            } => match self.resolve_places(&to, &paths, ctx) {
                Ok((devices, notes)) => {
                    for text in notes {
                        offer_event(&reply, &Event::Note { text });
                    }
                    let wait = wait_ms.map(Duration::from_millis);
                    self.send(
                        Sending {
                            paths,
                            to,
                            devices,
                            wait,
                            share,
                            series: None,
                            hand_in: false,
                            reply,
                        },
                        ctx,
                    );
                }
                Err((reason, code)) => fail(&reply, &reason, code),
            },
            Request::HandIn { paths, to, wait_ms } => {
                self.on_hand_in(paths, to, wait_ms.map(Duration::from_millis), reply, ctx)
            }
            Request::SendVersion {
                series,
                paths,
                to,
                wait_ms,
            } => match self.resolve(&to, &paths) {
                Ok((devices, _)) => {
                    let sending = Sending {
                        paths,
                        to,
                        devices,
                        wait: wait_ms.map(Duration::from_millis),
                        share: Share::default(),
                        series: Some(series),
                        hand_in: false,
                        reply,
                    };
                    self.send(sending, ctx);
                }
                Err((reason, code)) => fail(&reply, &reason, code),
            },
            Request::Versions => self.on_versions(reply, ctx),
            Request::RollBack { what, to } => self.on_roll_back(what, to, reply, ctx),
            Request::Transfers => {
                let mut records: Vec<_> = self.transfers.values().map(|t| &t.record).collect();
                records.sort_by_key(|record| (record.updated, record.id));
                let infos = records.iter().filter_map(|record| self.info_of(record.id));
                answer(&reply, infos.map(Event::Transfer));
            }
            Request::Broadcasts => self.on_broadcasts(reply, ctx),
            Request::Report { what, version } => self.on_report(what, version, reply, ctx),
            // The node looks at it from outside: see `Node::ask`.
            Request::Health | Request::Mode => {
                fail(&reply, "this is not for the coordinator", exit::ERROR)
            }
            Request::Plans => {
                let infos = self.plan_infos();
                answer(&reply, infos);
            }
            Request::Pause { what } => {
                self.each(&what, &UNFINISHED, &reply, ctx, Self::pause);
            }
            Request::Resume { what } => {
                self.each(&what, &UNFINISHED, &reply, ctx, |coordinator, id| {
                    // Going on is not the answer to a question; taking it is.
                    if !coordinator.transfers[&id].record.is_asked() {
                        coordinator.resume(id);
                    }
                });
            }
            Request::Cancel { what } => {
                self.each(&what, &UNFINISHED, &reply, ctx, |coordinator, id| {
                    coordinator.cancel(id, Code::Cancelled, "cancelled by a person");
                });
            }
            Request::Accept { what } => {
                self.each(&what, &ASKED, &reply, ctx, Self::take_offer);
            }
            Request::Refuse { what } => {
                self.each(&what, &ASKED, &reply, ctx, Self::decline_offer);
            }
            Request::Reload => self.on_reload(reply, ctx),
            // Answered before it comes here.
            Request::Fetch(_) => {}
            Request::Watch => {
                self.repeat_questions(&reply);
                self.repeat_alarms(&reply);
                self.watchers.push(Watcher { events: reply });
            }
            Request::Pair {
                with,
                addresses,
                way,
                for_ms,
            } => self.on_pair(
                with,
                addresses,
                way,
                Duration::from_millis(for_ms),
                reply,
                ctx,
            ),
            Request::PairAnswer { device, yes } => match self.on_pair_answer(&device, yes, ctx) {
                Ok(()) => answer(&reply, []),
                Err(reason) => fail(&reply, &reason, exit::USAGE),
            },
            Request::Invite {
                uses,
                for_ms,
                group,
                roles,
                addresses,
            } => {
                let life = Duration::from_millis(for_ms);
                let wish = Wish {
                    uses,
                    life,
                    group,
                    roles,
                    addresses,
                };
                self.on_invite(wish, reply, ctx);
            }
            Request::Invites => answer(&reply, self.invite_infos()),
            Request::RevokeInvite { what } => self.on_revoke_invite(&what, reply, ctx),
            Request::Join { invite } => self.on_join(&invite, reply, ctx),
        }
    }
}

impl Coordinator {
    fn on_authorize(
        &mut self,
        entry: Authorization,
        group: Option<&str>,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let device = entry.device.clone();
        if self.trust.is_ours(&device) {
            return fail(&reply, "that is this device itself", exit::USAGE);
        }
        let granted = self.grant(entry, group);
        ctx.spawn(
            granted
                .into_actor(self)
                .map(move |granted, coordinator, ctx| {
                    match granted {
                        Ok(()) => answer(&reply, [Event::Peer(coordinator.peer_info(&device))]),
                        Err(error) => fail(&reply, &error.reason, error.code),
                    }
                    coordinator.drive(ctx);
                }),
        );
    }

    fn on_revoke(&mut self, device: DeviceId, reply: mpsc::Sender<Event>, ctx: &mut Context<Self>) {
        self.trust.revoke(&device);
        self.shut_out(&device);
        let revoked = device.clone();
        let stored = self
            .store
            .send(Job::new(move |store| store.revoke(&revoked)));
        ctx.spawn(on_disk(stored).into_actor(self).map(
            move |stored, coordinator, _| match stored {
                Ok(_) => answer(&reply, [Event::Peer(coordinator.peer_info(&device))]),
                Err(error) => fail(&reply, &error.reason, error.code),
            },
        ));
    }

    /// The one authorized or visible device that a word means: its id, the beginning of that, or
    /// its name.
    pub(super) fn find_device(&self, word: &str) -> Result<DeviceId, String> {
        let mut known = self.all_let_in();
        known.extend(self.table.iter().map(|entry| entry.advert.id.clone()));
        known.extend(self.trust.decided().cloned());
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

    /// The same, or the id of a device that was never seen.
    pub(super) fn find_any_device(&self, word: &str) -> Result<DeviceId, String> {
        let found = self.find_device(word).or_else(|reason| {
            let unseen = word.parse::<DeviceId>().ok();
            unseen.filter(DeviceId::is_self_certifying).ok_or(reason)
        });
        // It may have another key by now.
        found.map(|device| self.trust.current(&device).clone())
    }

    /// The same as [`Self::resolve`], where words may also say where a device listens.
    fn resolve_places(
        &mut self,
        to: &[String],
        paths: &[PathBuf],
        ctx: &mut Context<Self>,
    ) -> Result<(Vec<DeviceId>, Vec<String>), (String, u8)> {
        let places: Vec<_> = to.iter().map(|word| place_in(word)).collect();
        let devices = to.iter().zip(&places).map(|(word, place)| match place {
            Some(place) => place.id.to_string(),
            None => word.clone(),
        });
        let resolved = self.resolve(&devices.collect::<Vec<_>>(), paths)?;
        for place in places.into_iter().flatten() {
            self.look_up_static_peer(place, ctx);
        }
        Ok(resolved)
    }

    /// The devices that `--to` means for these files, and notes about those that get nothing.
    pub(super) fn resolve(
        &self,
        to: &[String],
        paths: &[PathBuf],
    ) -> Result<(Vec<DeviceId>, Vec<String>), (String, u8)> {
        let (mut devices, mut notes) = (Vec::new(), Vec::new());
        for word in to {
            if word == "all" {
                let mut all = self.all_let_in();
                all.retain(|device| self.roles_of(device).allow(Roles::RECEIVE));
                if all.is_empty() {
                    let reason = "no device is authorized yet: run `handout pair` with each \
                                  receiver, or `handout invite` for many; `handout peers` shows who is here";
                    return Err((reason.to_owned(), exit::UNAUTHORIZED));
                }
                devices.extend(all);
                continue;
            }
            if let Some(members) = self.resolve_group(word, &mut notes)? {
                devices.extend(members);
                continue;
            }
            // An id that was never seen may still come.
            let device = self.find_any_device(word).map_err(|reason| {
                (
                    format!("{reason}, and `handout group list` the groups"),
                    exit::USAGE,
                )
            })?;
            if !self.may_receive(&device, paths) {
                let reason = match self.is_member(&device) {
                    false => format!("{device} is not authorized"),
                    true => format!("{device} may not receive (`handout peers` shows its roles)"),
                };
                let reason =
                    format!("{reason}: if it should get files, run `handout authorize {device}`");
                return Err((reason, exit::UNAUTHORIZED));
            }
            devices.push(device);
        }
        devices.sort();
        devices.dedup();
        Ok((devices, notes))
    }

    /// The receivers of the group that a word means, if it means one.
    fn resolve_group(
        &self,
        word: &str,
        notes: &mut Vec<String>,
    ) -> Result<Option<Vec<DeviceId>>, (String, u8)> {
        let (name, surely) = match word.strip_prefix('@') {
            Some(name) => (name, true),
            None => (word, false),
        };
        let invited = self.invites_to(name);
        let members = self.receivers_in(name, notes);
        let Some(members) = members.or_else(|| invited.then(Vec::new)) else {
            let reason = format!("no group is called {name:?}: `handout group list` lists them");
            return match surely {
                true => Err((reason, exit::USAGE)),
                false => Ok(None),
            };
        };
        if !surely && let Ok(device) = self.find_device(word) {
            let reason = format!(
                "{word:?} is a device and a group: write @{word} for the group, or {device}"
            );
            return Err((reason, exit::USAGE));
        }
        if members.is_empty() && !invited {
            let reason = format!(
                "nobody in the group {name} is authorized to receive: `handout group show {name}`"
            );
            return Err((reason, exit::UNAUTHORIZED));
        }
        Ok(Some(members))
    }

    /// Does something to every transfer of a kind that a word means, and answers with them.
    fn each(
        &mut self,
        what: &str,
        kind: &Kind,
        reply: &mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
        mut act: impl FnMut(&mut Self, TransferId),
    ) {
        let mut ids: Vec<TransferId> = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| (kind.fits)(record))
            .filter(|record| {
                let of = record
                    .broadcast
                    .map(|id| id.to_string())
                    .unwrap_or_default();
                what == "all"
                    || record.is_called(what)
                    || (what.len() >= 4
                        && (record.id.to_string().starts_with(what) || of.starts_with(what)))
            })
            .map(|record| record.id)
            .collect();
        ids.sort();
        if ids.is_empty() {
            let reason = format!(
                "no {} is called {what:?}, or has an id that begins so: `handout transfers` lists \
                 them (at least 4 characters of an id, a name, or all)",
                kind.called
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

    pub(super) fn pause(&mut self, id: TransferId) {
        self.rest(id, BY_PERSON);
    }

    /// Has a transfer rest, for a reason by which it is known again.
    pub(super) fn rest(&mut self, id: TransferId, reason: &str) {
        self.halt(Stop {
            id,
            code: Code::Paused,
            reason: reason.to_owned(),
            for_good: false,
        });
    }

    pub(super) fn resume(&mut self, id: TransferId) {
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
    pub(super) fn halt(&mut self, stop: Stop) {
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
pub(super) fn answer(reply: &mpsc::Sender<Event>, events: impl IntoIterator<Item = Event>) {
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
