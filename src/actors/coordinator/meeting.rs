//! Devices that are met at a rendezvous: who of those that may is there, and mail of theirs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::net::link::Path;
use crate::net::rendezvous::mail::{MailEvent, MailHandle};
use crate::protocol::id::{BroadcastId, DeviceId};
use crate::protocol::policy::Whom;
use crate::protocol::rate::Rate;
use crate::protocol::rendezvous::IceServers;
use crate::protocol::rendezvous::MAX_WATCHED;
use crate::protocol::signal::{Signal, SignalKind};

use super::super::api::Event;
use super::super::discovery::stream_of;
use super::super::peer::{Route, Signaled, unix_now};
use super::super::service;
use super::Coordinator;

/// Why we are not there before the first try has ended.
const NOT_YET: &str = "not connected yet";
/// How often it is looked whose coming matters.
const LOOK: Duration = Duration::from_secs(1);
/// How soon the rendezvous is asked again for STUN and TURN servers at most.
const AGAIN: Duration = Duration::from_secs(15);
/// Signals of devices that are let in that are heard in a while; the rendezvous is not ours.
const SIGNALS: (u32, Duration) = (512, Duration::from_secs(10));
/// Signals of others that are answered in a while.
const STRANGERS: (u32, Duration) = (32, Duration::from_secs(10));

/// Where we stand at a rendezvous.
pub(super) struct Meeting {
    mail: MailHandle,
    /// Whose coming and going we asked to hear of.
    watched: BTreeSet<DeviceId>,
    /// Those of them that are there, let in or not: who is let in next may be there already.
    present: BTreeSet<DeviceId>,
    /// Why we are not there; nothing while we are.
    absence: Option<String>,
    looked: Option<Instant>,
    rate: Rate,
    strangers: Rate,
    /// When the rendezvous is asked again for its STUN and TURN servers: their credentials expire.
    renewal: Option<Instant>,
}

impl Meeting {
    pub(super) fn new(
        mail: MailHandle,
        events: mpsc::Receiver<MailEvent>,
        ctx: &mut Context<Coordinator>,
    ) -> Self {
        ctx.add_stream(stream_of(events));
        Self {
            mail,
            watched: BTreeSet::new(),
            present: BTreeSet::new(),
            absence: Some(NOT_YET.to_owned()),
            looked: None,
            rate: Rate::new(SIGNALS.0, SIGNALS.1),
            strangers: Rate::new(STRANGERS.0, STRANGERS.1),
            renewal: None,
        }
    }
}

/// Asks whether this device is at its rendezvous; nothing where it has none.
#[derive(Message)]
#[rtype(result = "Option<Standing>")]
pub struct AtRendezvous;

/// Whether a device is at its rendezvous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    There,
    /// It is not, or no longer.
    Away {
        /// Why, for people.
        reason: String,
    },
}

impl Handler<AtRendezvous> for Coordinator {
    type Result = Option<Standing>;

    fn handle(&mut self, _: AtRendezvous, _: &mut Context<Self>) -> Self::Result {
        let meeting = self.meeting.as_ref()?;
        Some(match &meeting.absence {
            None => Standing::There,
            Some(reason) => Standing::Away {
                reason: reason.clone(),
            },
        })
    }
}

/// Asks whether a device has a link, or can be written to at the rendezvous.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct IsReachable(pub DeviceId);

impl Handler<IsReachable> for Coordinator {
    type Result = bool;

    fn handle(&mut self, IsReachable(device): IsReachable, _: &mut Context<Self>) -> bool {
        let slot = self.peers.get(&device);
        slot.is_some_and(|slot| slot.session.is_some()) || self.is_met(&device)
    }
}

/// Asks how the link to a device goes, where there is one.
#[derive(Message)]
#[rtype(result = "Option<Path>")]
pub struct PathTo(pub DeviceId);

impl Handler<PathTo> for Coordinator {
    type Result = Option<Path>;

    fn handle(&mut self, PathTo(device): PathTo, _: &mut Context<Self>) -> Self::Result {
        let slot = self.peers.get(&device)?;
        slot.session.as_ref().and(slot.path)
    }
}

/// Asks whether one of these words means a device: its id, a name that this side has given it, or a
/// group.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct IsMeant {
    /// Which device.
    pub device: DeviceId,
    /// The words.
    pub by: Vec<String>,
}

impl Handler<IsMeant> for Coordinator {
    type Result = bool;

    fn handle(&mut self, asked: IsMeant, _: &mut Context<Self>) -> bool {
        let groups = self.groups_of(&asked.device);
        let whom = Whom {
            id: asked.device.as_str(),
            names: self.trust.name_of(&asked.device).into_iter().collect(),
            groups: groups.iter().map(String::as_str).collect(),
            ..Whom::default()
        };
        whom.is_one_of(&asked.by)
    }
}

impl Coordinator {
    /// Whether mail reaches a device now.
    pub(super) fn is_met(&self, device: &DeviceId) -> bool {
        let meeting = self.meeting.as_ref();
        meeting.is_some_and(|meeting| meeting.present.contains(device))
    }

    /// Why this device is not at its rendezvous, where it has one and is not there.
    pub(super) fn why_away(&self) -> Option<&str> {
        self.meeting.as_ref()?.absence.as_deref()
    }

    /// Tells whoever begins a broadcast while it is known that we are not at the rendezvous.
    pub(super) fn tell_absence(&self, broadcast: BroadcastId) {
        if let Some(why) = self.why_away().filter(|why| *why != NOT_YET) {
            let reason = Some(why.to_owned());
            self.tell_broadcast(Some(broadcast), &Event::Rendezvous { reason });
        }
    }

    fn tell_senders(&self, event: &Event) {
        for id in self.broadcasts.keys() {
            self.tell_broadcast(Some(*id), event);
        }
    }

    /// Somebody may who could not a moment ago, and does not wait.
    pub(super) fn watch_at_once(&mut self) {
        if let Some(meeting) = &mut self.meeting {
            meeting.looked = None;
        }
        self.watch_who_may();
    }

    /// Tells the rendezvous of whom we want to hear.
    pub(super) fn watch_who_may(&mut self) {
        let recently = |looked: Instant| looked.elapsed() < LOOK;
        let Some(meeting) = &mut self.meeting else {
            return;
        };
        if meeting.looked.is_some_and(recently) {
            return;
        }
        meeting.looked = Some(Instant::now());
        let now = unix_now();
        let wanted = self.peers.iter().filter(|(_, slot)| slot.wanted);
        let wanted = wanted.map(|(device, _)| device);
        // The rendezvous takes so many: first those that somebody waits for.
        let mut first: Vec<_> = self.trust.vouched(now).chain(wanted).cloned().collect();
        let mut all = self.trust.all_let_in(now);
        first.sort();
        all.sort();
        let mut devices = BTreeSet::new();
        for device in first.into_iter().chain(all) {
            let fits = device.is_self_certifying() && device != self.identity.device_id();
            if fits && devices.len() < MAX_WATCHED {
                devices.insert(device);
            }
        }
        // Who is let in again within a moment has never left the list that the rendezvous has, and
        // it tells of changes alone. Of the others nothing is heard any more: whoever writes to
        // one that has gone is told so.
        if meeting.present.len() > 2 * MAX_WATCHED {
            meeting.present.retain(|device| devices.contains(device));
        }
        meeting.watched.clone_from(&devices);
        meeting.mail.watch(devices);
    }

    /// The servers hold for a time; half of it is left when they are asked for anew.
    fn take_helpers(&mut self, told: IceServers) {
        if let Some(meeting) = &mut self.meeting {
            let half = Duration::from_secs(told.ttl / 2).max(AGAIN);
            meeting.renewal = (told.ttl > 0)
                .then(|| Instant::now().checked_add(half))
                .flatten();
        }
        if let Some(context) = &self.context {
            context.take_ice_servers(told.usable());
        }
    }

    /// Asks for STUN and TURN servers whose credentials do not expire soon.
    pub(super) fn renew_helpers(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let Some(meeting) = &mut self.meeting else {
            return;
        };
        if meeting.absence.is_some() || meeting.renewal.is_none_or(|at| now < at) {
            return;
        }
        meeting.renewal = Some(now + AGAIN);
        let settings = self.settings.clone();
        let asking = self.data_plane.spawn(async move {
            match service::rendezvous(&settings) {
                Ok(Some(server)) => server.ice_servers().await.map_err(|e| e.to_string()),
                Ok(None) => Err("the settings name no rendezvous any more".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        ctx.spawn(asking.into_actor(self).map(|told, this, _| match told {
            Ok(Ok(told)) => this.take_helpers(told),
            Ok(Err(why)) => debug!(%why, "the rendezvous names no STUN and TURN servers now"),
            Err(failed) => debug!(%failed, "the rendezvous was not asked"),
        }));
    }

    fn hear_mail(&mut self, signal: Signal) {
        let device = signal.peer_id.clone();
        let is_let_in = self.is_let_in(&device);
        let Some(meeting) = &mut self.meeting else {
            return;
        };
        // Devices without a key have no place at a rendezvous: it would be its word alone.
        let fits = device.is_self_certifying() && device != self.identity.device_id();
        // Strangers never use up what those have that are let in.
        let rate = match is_let_in {
            true => &mut meeting.rate,
            false => &mut meeting.strangers,
        };
        if !fits || !rate.take(Instant::now()) {
            return debug!(%device, "mail is left unread");
        }
        let mail = meeting.mail.clone();
        if !is_let_in {
            if signal.kind == SignalKind::Offer {
                info!(%device, "a device that is not authorized writes over the rendezvous");
                let data = format!(
                    "not authorized there: on that device, run: handout authorize {device}"
                );
                let (kind, peer_id) = (SignalKind::Error, self.identity.device_id());
                mail.try_send(
                    &device,
                    &Signal {
                        kind,
                        peer_id,
                        data,
                    },
                );
            }
            return;
        }
        // A change of key is looked at where it is shown: on a network of our own.
        if signal.kind == SignalKind::Rotation {
            return;
        }
        let route = Route::Mail;
        if let Some(slot) = self.slot(&device)
            && let Err(error) = slot.actor.try_send(Signaled { signal, route })
        {
            debug!(%error, %device, "mail was dropped");
        }
    }
}

impl StreamHandler<MailEvent> for Coordinator {
    fn handle(&mut self, event: MailEvent, ctx: &mut Context<Self>) {
        let Some(meeting) = &mut self.meeting else {
            return;
        };
        match event {
            MailEvent::Open(ice) => {
                let absence = meeting.absence.take();
                if absence.is_some() {
                    info!("at the rendezvous");
                }
                self.take_helpers(ice);
                let event = Event::Rendezvous { reason: None };
                self.emit(&event);
                if absence.is_some_and(|why| why != NOT_YET) {
                    self.tell_senders(&event);
                }
            }
            MailEvent::Closed(reason) => {
                if meeting.absence.is_none() {
                    warn!(%reason, "the rendezvous is lost; it is tried again");
                }
                let before = meeting.absence.replace(reason.clone());
                let is_news = before.as_ref() != Some(&reason);
                meeting.present.clear();
                let event = Event::Rendezvous {
                    reason: Some(reason),
                };
                self.emit(&event);
                if is_news {
                    self.tell_senders(&event);
                }
            }
            MailEvent::Present(devices) => {
                let mut devices = devices;
                devices.retain(|device| meeting.watched.contains(device));
                meeting.present.extend(devices.iter().cloned());
                for device in devices {
                    if self.is_let_in(&device) {
                        self.seen(&device, ctx);
                    }
                }
            }
            MailEvent::Absent(devices) => {
                for device in devices {
                    meeting.present.remove(&device);
                }
            }
            MailEvent::Undeliverable(device) => {
                meeting.present.remove(&device);
            }
            MailEvent::Signal(signal) => self.hear_mail(signal),
        }
    }

    // The default would stop the coordinator.
    fn finished(&mut self, _: &mut Context<Self>) {}
}
