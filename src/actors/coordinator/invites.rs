//! Invites: issuing them, letting in whoever shows one, and coming in by one.

use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::info;

use crate::dataplane::{Handled, PairThen};
use crate::protocol::id::{BroadcastId, DeviceId, InviteId};
use crate::protocol::identity::b64;
use crate::protocol::invite::{self, Invite, Issued, MAX_USES, NotLetIn, Secret};
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::pairing::{Ended, PairMessage, Parties};
use crate::protocol::roles::Roles;
use crate::protocol::trust::{MAX_GROUP_NAME, check_group_name};
use crate::store::{Authorization, GrantedBy, Store};

use super::super::api::{Event, InviteInfo, exit};
use super::super::network;
use super::super::peer::{random, unix_now};
use super::super::store::{Job, keep, on_disk};
use super::door::{has_gone, reject};
use super::pairing::Machine;
use super::requests::answer;
use super::sending::fail;
use super::{Coordinator, offer_event};

/// Longest life of an invite.
const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// How often in a row the issuer may turn us away before it is taken for its answer.
const REFUSALS: u8 = 5;

/// What an invite is to be like.
pub(super) struct Wish {
    pub(super) uses: u32,
    pub(super) life: Duration,
    pub(super) group: Option<String>,
    pub(super) roles: Option<Roles>,
    pub(super) addresses: Vec<SocketAddr>,
}

/// An invite that a device has shown, and that lets it in.
struct Shown {
    invite: InviteId,
    group: Option<String>,
    entry: Authorization,
    accepted: PairMessage,
    handled: Handled,
}

/// An invite that we are to come in by.
pub(super) struct Joining {
    invite: Invite,
    refusals: u8,
    reply: mpsc::Sender<Event>,
}

impl Joining {
    /// Who has issued it.
    pub(super) fn issuer(&self) -> &DeviceId {
        &self.invite.issuer
    }
}

impl Wish {
    fn check(&self) -> Result<(), String> {
        if !(1..=MAX_USES).contains(&self.uses) {
            return Err(format!("an invite is for 1 to {MAX_USES} devices"));
        }
        if self.life < Duration::from_secs(1) || self.life > MAX_LIFE {
            return Err("an invite lives between a second and a year".to_owned());
        }
        if self.addresses.len() > invite::MAX_ADDRESSES {
            let most = invite::MAX_ADDRESSES;
            return Err(format!("an invite holds at most {most} addresses"));
        }
        let group = self.group.as_deref().map_or(Ok(()), check_group_name);
        group.map_err(|error| error.to_string())
    }
}

impl Coordinator {
    pub(super) fn on_invite(
        &mut self,
        wish: Wish,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let Some(context) = &self.context else {
            return fail(&reply, "an invite needs the network", exit::ERROR);
        };
        if let Err(reason) = wish.check() {
            return fail(&reply, &reason, exit::USAGE);
        }
        let mut addresses = wish.addresses;
        if addresses.is_empty() {
            addresses = network::reachable(&self.settings, context.port);
            addresses.truncate(invite::MAX_ADDRESSES);
        }
        let secret = match random() {
            Ok(bytes) => Secret::new(bytes),
            Err(error) => return fail(&reply, &error.to_string(), exit::ERROR),
        };
        let now = unix_now();
        let issued = Issued {
            id: secret.id(),
            secret: secret.clone(),
            created: now,
            expires: now + wish.life.as_secs(),
            uses: wish.uses,
            used: Vec::new(),
            group: wish.group,
            roles: wish.roles,
            revoked: false,
            standing: None,
        };
        self.make_room_for_invite(now);
        let token = Invite {
            issuer: self.identity.device_id(),
            secret,
            expires: u32::try_from(issued.expires).unwrap_or(u32::MAX),
            addresses,
        };
        let kept = issued.clone();
        let stored = self
            .store
            .send(Job::new(move |store| store.put_invite(kept)));
        ctx.spawn(
            on_disk(stored)
                .into_actor(self)
                .map(move |stored, node, _| {
                    if let Err(error) = stored {
                        return fail(&reply, &error.reason, error.code);
                    }
                    let info = InviteInfo {
                        token: Some(token.token()),
                        url: Some(token.url()),
                        ..info_of(&issued)
                    };
                    node.door.invites.insert(issued.id, issued);
                    answer(&reply, [Event::Invite(info)]);
                }),
        );
    }

    /// The oldest invites that have ended make room for a new one.
    fn make_room_for_invite(&mut self, now: u64) {
        while self.door.invites.len() >= Store::invite_capacity() {
            let ended = self
                .door
                .invites
                .values()
                .filter(|i| i.fault(now).is_some() && i.standing.is_none());
            let Some(oldest) = ended.min_by_key(|i| i.created).map(|i| i.id) else {
                return;
            };
            self.forget_invite(oldest);
        }
    }

    pub(super) fn forget_invite(&mut self, id: InviteId) {
        self.door.invites.remove(&id);
        keep(&self.store, "an invite", move |store| {
            store.remove_invite(&id).map(|_| ())
        });
    }

    pub(super) fn invite_infos(&self) -> Vec<Event> {
        let mut all: Vec<&Issued> = self.door.invites.values().collect();
        all.sort_by_key(|invite| (invite.created, invite.id));
        all.into_iter().map(info_of).map(Event::Invite).collect()
    }

    pub(super) fn on_revoke_invite(
        &mut self,
        what: &str,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let mut meant = Vec::new();
        for invite in self.door.invites.values_mut() {
            let id = invite.id.to_string();
            if what == "all" || (what.len() >= 4 && id.starts_with(what)) {
                invite.revoked = true;
                meant.push(invite.clone());
            }
        }
        if meant.is_empty() {
            let reason = format!(
                "no invite begins with {what:?}: `handout invite list` lists them (at least 4 \
                 characters, or all)"
            );
            return fail(&reply, &reason, exit::USAGE);
        }
        let infos: Vec<Event> = meant.iter().map(info_of).map(Event::Invite).collect();
        let stored = self.store.send(Job::new(move |store| {
            meant
                .into_iter()
                .try_for_each(|invite| store.put_invite(invite))
        }));
        ctx.spawn(
            on_disk(stored)
                .into_actor(self)
                .map(move |stored, node, _| {
                    match stored {
                        Ok(()) => answer(&reply, infos),
                        Err(error) => fail(&reply, &error.reason, error.code),
                    }
                    node.finish_broadcasts();
                }),
        );
    }

    /// A device shows an invite. The use is on disk before anybody hears of it: a kill may lose
    /// one, and never gains one.
    pub(super) fn redeem(
        &mut self,
        device: &DeviceId,
        parties: &Parties,
        invite: InviteId,
        mac: &str,
        handled: Handled,
        ctx: &mut Context<Self>,
    ) {
        let ours = self.identity.device_id();
        let known = self.door.invites.get_mut(&invite);
        let shown = known.ok_or(NotLetIn::Unknown).and_then(|known| {
            known.redeem(mac, &parties.binding, device, &ours, unix_now())?;
            Ok(known.clone())
        });
        let issued = match shown {
            Ok(issued) => issued,
            Err(why) => return self.not_let_in(device, why),
        };
        let accepted = PairMessage::Accepted {
            mac: b64(&issued.secret.accepted_mac(
                &parties.binding,
                device,
                &ours,
                issued.group.as_deref(),
            )),
            group: issued.group.clone(),
        };
        let visitor = issued
            .standing
            .is_some()
            .then(|| self.visitor(device, false));
        let entry = visitor.flatten().unwrap_or_else(|| Authorization {
            roles: issued.roles,
            via: Some(invite.to_string()),
            ..self.admission(device, GrantedBy::Invite)
        });
        let shown = Shown {
            invite,
            group: issued.group.clone(),
            entry,
            accepted,
            handled,
        };
        let joiner = device.clone();
        // Also where it is the same device again: its first try may have failed at the disk.
        let used = self.store.send(Job::new(move |store| {
            if store.is_shut_out(&joiner) {
                return Ok(false);
            }
            store.put_invite(issued).map(|()| true)
        }));
        ctx.spawn(
            used.into_actor(self)
                .map(move |used, node, ctx| match used {
                    Ok(Ok(true)) => node.let_in(shown, ctx),
                    Ok(Ok(false)) => {
                        node.not_let_in(&shown.entry.device, NotLetIn::ShutOut);
                    }
                    Ok(Err(error)) => node.not_recorded(shown, &error.to_string()),
                    Err(error) => node.not_recorded(shown, &error.to_string()),
                }),
        );
    }

    /// The use is on disk: the device is let in, and told once that is on disk too.
    fn let_in(&mut self, shown: Shown, ctx: &mut Context<Self>) {
        let granted = self.grant(shown.entry.clone(), shown.group.as_deref());
        ctx.spawn(granted.into_actor(self).map(move |granted, node, ctx| {
            if let Err(error) = granted {
                return node.not_recorded(shown, &error.reason);
            }
            let Shown {
                invite,
                group,
                entry,
                accepted,
                handled,
            } = shown;
            let device = entry.device;
            node.tell_guest(&device, [accepted], PairThen::Admit);
            drop(handled);
            let left = node.door.invites.get(&invite).map_or(0, Issued::left);
            info!(%device, %invite, left, "joined");
            node.emit(&Event::Joined {
                device_id: device.clone(),
                name: entry.name,
                invite,
                group: group.clone(),
                left,
            });
            node.give_open_broadcasts(&device, group.as_deref());
            node.admit(&device, ctx);
        }));
    }

    fn not_recorded(&self, shown: Shown, error: &str) {
        let device = &shown.entry.device;
        tracing::error!(error, %device, "an invite's use could not be recorded");
        let no = reject(Code::DiskError, "it could not be written down: try again");
        self.tell_guest(device, [no], PairThen::Close);
    }

    fn not_let_in(&self, device: &DeviceId, why: NotLetIn) {
        info!(%device, %why, "not let in by an invite");
        let no = reject(why.code(), &why.to_string());
        self.tell_guest(device, [no], PairThen::Close);
    }

    /// Broadcasts to a group are also for those who come into it while they are open.
    pub(super) fn give_open_broadcasts(&mut self, device: &DeviceId, group: Option<&str>) {
        let Some(group) = group else { return };
        if !self.roles_of(device).allow(Roles::RECEIVE) {
            return;
        }
        let to_group = |to: &[String]| to.iter().any(|word| group_in(word) == group);
        let open: Vec<BroadcastId> = self
            .broadcasts
            .iter()
            .filter(|(_, broadcast)| to_group(&broadcast.record.to))
            .filter(|(id, _)| {
                let mut theirs = self.transfers.values().map(|transfer| &transfer.record);
                !theirs.any(|record| record.broadcast == Some(**id) && record.peer == *device)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            if let Err(error) = self.add_transfer(id, device.clone()) {
                tracing::error!(%error, %device, "it does not get an open broadcast");
            }
        }
    }

    /// True while devices may still join a group that a broadcast is for, within its wait.
    pub(super) fn awaits_joiners(&self, id: &BroadcastId) -> bool {
        let Some(broadcast) = self.broadcasts.get(id) else {
            return false;
        };
        let elapsed = broadcast.started.elapsed();
        let in_time = broadcast.wait.is_some_and(|wait| elapsed < wait);
        in_time
            && broadcast
                .record
                .to
                .iter()
                .any(|word| self.invites_to(group_in(word)))
    }

    /// True while somebody may still join this group by an invite.
    pub(super) fn invites_to(&self, group: &str) -> bool {
        let now = unix_now();
        let live = self
            .door
            .invites
            .values()
            .filter(|i| i.fault(now).is_none());
        live.filter_map(|i| i.group.as_deref())
            .any(|of| of == group)
    }

    /// Forgets invites that ended long ago, and a join that nobody waits for any more.
    pub(super) fn tend_invites(&mut self) {
        let now = unix_now();
        let forgotten = self.door.invites.values().filter(|i| i.is_forgotten(now));
        let forgotten: Vec<InviteId> = forgotten.map(|invite| invite.id).collect();
        for id in forgotten {
            self.forget_invite(id);
        }
        if let Some(joining) = self.door.joining.take_if(|j| has_gone(&j.reply)) {
            self.give_up_on(joining.issuer(), "it was given up on the other device");
            self.let_go(joining.issuer());
        }
    }

    pub(super) fn on_join(
        &mut self,
        text: &str,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let invite = match Invite::parse(text) {
            Ok(invite) => invite,
            Err(error) => return fail(&reply, &error.to_string(), exit::USAGE),
        };
        if invite.issuer == self.identity.device_id() {
            return fail(&reply, "this is the device's own invite", exit::USAGE);
        }
        if self.context.is_none() {
            return fail(&reply, "joining needs the network", exit::ERROR);
        }
        let other = self.door.joining.as_ref();
        if other.is_some_and(|joining| !has_gone(&joining.reply)) {
            let reason = "another invite is being used on this device: end that first";
            return fail(&reply, reason, exit::ERROR);
        }
        let issuer = invite.issuer.clone();
        let addresses = invite.addresses.clone();
        let via = Some(invite.secret.id().to_string());
        let known = self.trust.authorization(&issuer);
        if known.is_some_and(|entry| entry.via == via) && self.is_authorized(&issuer) {
            let event = Event::Paired {
                device_id: issuer.clone(),
                name: self.name_of(&issuer),
                by: GrantedBy::Invite,
                group: None,
            };
            self.emit(&event);
            answer(&reply, [event]);
            self.door.joined = Some(issuer.clone());
        } else {
            let refusals = 0;
            self.door.joining = Some(Joining {
                invite,
                refusals,
                reply,
            });
        }
        self.add_static_peer(issuer.clone(), addresses, ctx);
        self.want(&issuer, true);
        self.begin_pairing(&issuer);
    }

    /// The first message to the issuer of the invite that we come in by.
    pub(super) fn show_invite(
        &self,
        device: &DeviceId,
        parties: &Parties,
    ) -> Option<(Machine, PairMessage)> {
        let joining = self.door.joining.as_ref();
        let joining = joining.filter(|joining| joining.issuer() == device)?;
        let secret = &joining.invite.secret;
        let mac = secret.join_mac(&parties.binding, &self.identity.device_id(), device);
        let message = PairMessage::Invite {
            invite: secret.id(),
            mac: b64(&mac),
        };
        Some((Machine::Join, message))
    }

    /// What the issuer says to the invite that we have shown.
    pub(super) fn on_join_answer(
        &mut self,
        device: &DeviceId,
        message: PairMessage,
        handled: Handled,
        ctx: &mut Context<Self>,
    ) {
        let close = |no: Option<PairMessage>| (no, PairThen::Close);
        let joining = self.door.joining.as_ref();
        let Some(joining) = joining.filter(|joining| joining.issuer() == device) else {
            return self.tell_guest(device, None, PairThen::Close);
        };
        let (mac, group) = match message {
            PairMessage::Accepted { mac, group } => (mac, group),
            other => {
                let (why, again) = match other {
                    PairMessage::Reject { code, reason } => {
                        let again = matches!(code, Code::Busy | Code::DiskError);
                        (Ended::refused(code, &reason), again)
                    }
                    _ => (Ended::OutOfTurn, false),
                };
                let (no, then) = close(None);
                self.tell_guest(device, no, then);
                return match again {
                    true => {}
                    false => self.join_over(&format!("not let in: {why}")),
                };
            }
        };
        let secret = &joining.invite.secret;
        let via = secret.id().to_string();
        let binding = self.parties(device).map(|parties| parties.binding);
        let expected = binding.map(|binding| {
            let ours = self.identity.device_id();
            secret.accepted_mac(&binding, &ours, device, group.as_deref())
        });
        if !expected.is_some_and(|expected| invite::is_mac(&mac, expected)) {
            let reason = "the device that answered does not know the invite";
            let (no, then) = close(Some(reject(Code::Integrity, reason)));
            self.tell_guest(device, no, then);
            return self.join_over(reason);
        }
        let entry = Authorization {
            via: Some(via),
            ..self.admission(device, GrantedBy::Invite)
        };
        let (device, name) = (device.clone(), entry.name.clone());
        let granted = self.grant(entry, None);
        ctx.spawn(granted.into_actor(self).map(move |granted, node, ctx| {
            if let Err(error) = granted {
                node.tell_guest(&device, None, PairThen::Close);
                return node.join_over(&error.reason);
            }
            node.tell_guest(&device, None, PairThen::Admit);
            drop(handled);
            let event = Event::Paired {
                device_id: device.clone(),
                name,
                by: GrantedBy::Invite,
                group: group.map(|group| printable(&group).chars().take(MAX_GROUP_NAME).collect()),
            };
            node.door.joined = Some(device.clone());
            if let Some(joining) = node.door.joining.take() {
                offer_event(&joining.reply, &event);
                offer_event(&joining.reply, &Event::End { code: exit::OK });
            }
            node.emit(&event);
            node.admit(&device, ctx);
        }));
    }

    fn join_over(&mut self, reason: &str) {
        if let Some(joining) = self.door.joining.take() {
            fail(&joining.reply, reason, exit::UNAUTHORIZED);
            self.let_go(joining.issuer());
        }
    }

    /// There is no link to the issuer, so far.
    pub(super) fn join_failed(&mut self, device: &DeviceId, reason: &str) {
        let refused = self.peers.get(device).is_some_and(|slot| slot.refused);
        let Some(joining) = &mut self.door.joining else {
            return;
        };
        if joining.issuer() != device || !refused {
            return;
        }
        joining.refusals += 1;
        if joining.refusals >= REFUSALS {
            let reason = format!(
                "the device that issued the invite takes no one in now: {}; the invite may have \
                 ended long ago: ask for a new one",
                printable(reason)
            );
            self.join_over(&reason);
        }
    }
}

/// An invite, as it stands, without what lets in.
fn info_of(invite: &Issued) -> InviteInfo {
    let now = unix_now();
    InviteInfo {
        invite: invite.id,
        token: None,
        url: None,
        uses: invite.uses,
        left: invite.left(),
        expires: invite.expires,
        seconds: invite.expires.saturating_sub(now),
        each_day: invite.standing.is_some(),
        group: invite.group.clone(),
        roles: invite.roles,
        ended: invite.fault(now).map(|why| match why {
            NotLetIn::Revoked => "revoked".to_owned(),
            NotLetIn::Expired => "expired".to_owned(),
            _ => "used up".to_owned(),
        }),
    }
}

/// The group that a word of `--to` names, if it names one: `@class` is surely one.
fn group_in(word: &str) -> &str {
    word.strip_prefix('@').unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_life_addresses_and_the_name_of_the_group_have_bounds() {
        let fits = |change: fn(&mut Wish)| {
            let mut wish = Wish {
                uses: MAX_USES,
                life: MAX_LIFE,
                group: Some("class-3b".to_owned()),
                roles: None,
                addresses: vec![([10, 0, 0, 1], 1).into(); invite::MAX_ADDRESSES],
            };
            change(&mut wish);
            wish.check().is_ok()
        };
        assert!(fits(|_| ()));
        assert!(!fits(|wish| wish.uses = 0));
        assert!(!fits(|wish| wish.uses += 1));
        assert!(!fits(|wish| wish.life = Duration::from_millis(999)));
        assert!(!fits(|wish| wish.life += Duration::from_secs(1)));
        assert!(!fits(|wish| wish.addresses.push(([10, 0, 0, 2], 1).into())));
        // What would not be taken when a device joins is not taken now.
        assert!(!fits(|wish| wish.group = Some("a/b".to_owned())));
        assert!(!fits(|wish| wish.group = Some("all".to_owned())));
    }
}
