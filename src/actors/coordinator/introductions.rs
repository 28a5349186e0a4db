//! Introductions: as the origin of a broadcast we vouch for its receivers to each other and pass
//! their signaling on; as a receiver we let those in that an origin vouches for, as neighbours,
//! until it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tracing::{debug, info, warn};

use crate::dataplane::{BundleKey, RelayEvent, SessionCommand, Standing};
use crate::protocol::id::{BundleId, DeviceId, TransferId};
use crate::protocol::introduction::{Introduced, Introduction, Introductions, Terms};
use crate::protocol::message::Message;
use crate::protocol::names::printable;
use crate::protocol::rate::Rate;
use crate::protocol::roles::Roles;
use crate::protocol::signal::{Signal, SignalKind};
use crate::protocol::transfer::{Direction, TransferEvent, TransferState};
use crate::protocol::vouching::{Ending, MAX_SIGNAL, SIGNALS_PER_MINUTE, Vouching};
use crate::store::audit::Entry as Noted;

use super::super::api::{Event, Introducer};
use super::super::peer::{Command, Route, Signaled, unix_now};
use super::super::store::keep;
use super::{Coordinator, PeerSlot};

/// How long an introduction holds, in seconds. It is renewed while its broadcast goes on.
const LIFETIME: u64 = 60 * 60;
/// How often it is looked who should be introduced to whom.
const PLAN: Duration = Duration::from_secs(1);
/// Characters of a reason that are written down.
const MAX_REASON: usize = 200;

/// Both sides of introductions, of one device.
#[derive(Default)]
pub(super) struct Swarm {
    /// Who was introduced to us.
    pub(super) introductions: Introductions,
    /// Whom we have introduced.
    vouching: Vouching,
    planned: Option<Instant>,
    /// How much signaling of each introduced device has come.
    heard: HashMap<DeviceId, Rate>,
    /// What is exchanged on which link, as its session was last told.
    exchanges: HashMap<DeviceId, BTreeSet<BundleKey>>,
}

impl Swarm {
    /// A receiver has begun, or has it all: at the next tick it is looked who should be introduced
    /// to whom.
    pub(super) fn plan_soon(&mut self) {
        self.planned = None;
    }
}

/// Signaling that an introducer is to pass on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PassOn {
    /// The introducer.
    pub via: DeviceId,
    /// For whom it is.
    pub to: DeviceId,
    /// What to pass on.
    pub signal: Signal,
}

impl Handler<PassOn> for Coordinator {
    type Result = ();

    fn handle(&mut self, PassOn { via, to, signal }: PassOn, _: &mut Context<Self>) {
        let Signal { kind, data, .. } = signal;
        self.say(&via, signal_message(to, false, kind, data));
    }
}

impl PeerSlot {
    /// There is a link, and its device is only introduced.
    pub(super) fn is_neighbour(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.standing == Standing::Neighbour)
    }

    /// There is a link, and its device is let in and has shown who it is.
    fn is_proven_member(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.standing == Standing::Member && session.verified)
    }
}

impl Coordinator {
    /// Whether a device has a role here.
    fn may(&self, device: &DeviceId, role: Roles) -> bool {
        self.roles_of(device).allow(role)
    }

    fn say(&self, device: &DeviceId, message: Message) {
        let slot = self.peers.get(device);
        if !slot.is_some_and(PeerSlot::is_proven_member) {
            return;
        }
        self.command(device, Command(SessionCommand::Say(Box::new(message))));
    }

    /// What has to be done now and then about introductions.
    pub(super) fn tend_introductions(&mut self) {
        if self.swarm.planned.is_none_or(|at| at.elapsed() >= PLAN) {
            self.swarm.planned = Some(Instant::now());
            self.introduce();
        }
        self.end_what_is_over();
        self.tend_neighbours();
    }

    // As the origin.

    /// Introduces the receivers of each broadcast to each other.
    fn introduce(&mut self) {
        let most = self.settings.swarm.neighbours;
        let now = unix_now();
        let bundles: BTreeSet<BundleId> = self
            .broadcasts
            .values()
            .map(|broadcast| broadcast.source.bundle())
            .collect();
        for bundle in bundles {
            let (active, receivers) = self.receivers_of(&bundle);
            let planned = if active.is_empty() {
                Vec::new()
            } else {
                let soon = now + LIFETIME / 2;
                self.swarm.vouching.plan(&bundle, &receivers, most, soon)
            };
            for (first, second) in planned {
                // Two that have it all have nothing to say to each other.
                if (active.contains(&first) || active.contains(&second))
                    && self.swarm.vouching.has_room()
                {
                    self.vouch(bundle, &first, &second, now);
                }
            }
            for device in &receivers {
                for introduction in self.swarm.vouching.untold(device, &bundle) {
                    self.say(device, Message::Introduce(Box::new(introduction)));
                }
            }
        }
    }

    /// The receivers of a bundle that may be introduced: those that are receiving, and all that
    /// have links, are proven, and may relay.
    fn receivers_of(&self, bundle: &BundleId) -> (BTreeSet<DeviceId>, BTreeSet<DeviceId>) {
        let (mut active, mut all) = (BTreeSet::new(), BTreeSet::new());
        for transfer in self.transfers.values() {
            let record = &transfer.record;
            let runs = record.state == TransferState::Active;
            let current = record.broadcast.is_some_and(|of| {
                let broadcast = self.broadcasts.get(&of);
                broadcast.is_some_and(|broadcast| broadcast.source.bundle() == *bundle)
            });
            let here = self
                .peers
                .get(&record.peer)
                .is_some_and(PeerSlot::is_proven_member);
            if current
                && here
                && (runs || record.state == TransferState::Complete)
                && self.may(&record.peer, Roles::RELAY)
            {
                all.insert(record.peer.clone());
                if runs {
                    active.insert(record.peer.clone());
                }
            }
        }
        (active, all)
    }

    fn vouch(&mut self, bundle: BundleId, first: &DeviceId, second: &DeviceId, now: u64) {
        let mut nonce = [0; 16];
        if let Err(error) = getrandom::fill(&mut nonce) {
            return warn!(%error, "no random bytes: nobody is introduced");
        }
        let made = Introduction::new(&self.identity, bundle, first, second, now, LIFETIME, nonce);
        if self.swarm.vouching.add(made) {
            debug!(%first, %second, %bundle, "introduced to each other");
        }
    }

    /// Takes back what belongs to broadcasts that are over, and what devices have that may no
    /// longer: they lost a role, or what they were to get was cancelled.
    pub(super) fn end_what_is_over(&mut self) {
        // At every tick, and most devices introduce nobody.
        if self.swarm.vouching.is_empty() {
            return;
        }
        let mut handed_out = BTreeMap::new();
        for (id, broadcast) in &self.broadcasts {
            handed_out.insert(*id, broadcast.source.bundle());
        }
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let entitled: BTreeSet<(BundleId, &DeviceId)> = records
            .filter(|record| {
                !matches!(
                    record.state,
                    TransferState::Cancelled { .. } | TransferState::Failed { .. }
                )
            })
            .filter_map(|record| Some((*handed_out.get(&record.broadcast?)?, &record.peer)))
            .filter(|(_, device)| {
                self.may(device, Roles::RELAY) && self.may(device, Roles::RECEIVE)
            })
            .collect();
        let bundles: BTreeSet<BundleId> = handed_out.into_values().collect();
        self.swarm.vouching.retain(
            unix_now(),
            |bundle| bundles.contains(bundle),
            |bundle, device| entitled.contains(&(*bundle, device)),
        );
        self.warn_whoever_is_here();
    }

    /// Tells those that have a link what was taken back; the others hear it on their next one.
    fn warn_whoever_is_here(&mut self) {
        for device in self.swarm.vouching.unwarned() {
            let here = self
                .peers
                .get(&device)
                .is_some_and(PeerSlot::is_proven_member);
            if !here {
                continue;
            }
            for ending in self.swarm.vouching.endings(&device) {
                let Ending {
                    bundle,
                    peer,
                    reason,
                } = ending;
                self.say(&device, end_message(bundle, &peer, reason));
            }
        }
    }

    /// The link to a device is new: what was said on the last one is said again.
    pub(super) fn forget_told(&mut self, device: &DeviceId) {
        self.swarm.vouching.forget_told(device);
        self.swarm.exchanges.remove(device);
    }

    /// Signaling of one receiver for another.
    pub(super) fn pass_between(
        &mut self,
        from: &DeviceId,
        to: &DeviceId,
        kind: SignalKind,
        data: String,
    ) {
        let fits = data.len() <= MAX_SIGNAL;
        if fits
            && self
                .swarm
                .vouching
                .passes(from, to, unix_now(), Instant::now())
        {
            self.say(to, signal_message(from.clone(), true, kind, data));
        } else {
            debug!(%from, %to, "signaling is not passed on");
        }
    }

    /// A device may no longer: nobody is to believe that we vouch for it, and nobody who is
    /// vouched for by it is let in.
    pub(super) fn end_introductions_of(&mut self, device: &DeviceId) {
        let revoked = "its authorization was revoked";
        self.swarm.vouching.revoke(device, revoked);
        self.warn_whoever_is_here();
        self.swarm.introductions.revoke(device);
        self.tend_neighbours();
    }

    // As a receiver.

    /// Whether a device is introduced to us now.
    pub(super) fn is_introduced(&self, device: &DeviceId) -> bool {
        let mut allowed = self.swarm.introductions.allowed(device, unix_now());
        allowed.next().is_some()
    }

    /// Who introduced a device, and for what.
    pub(super) fn introducers_of(&self, device: &DeviceId) -> Vec<Introducer> {
        let allowed = self.swarm.introductions.allowed(device, unix_now());
        allowed.map(|entry| self.introducer(entry)).collect()
    }

    fn introducer(&self, introduced: &Introduced) -> Introducer {
        let name = self.name_of_bundle(&introduced.by, &introduced.bundle);
        Introducer {
            by: introduced.by.clone(),
            by_name: self.name_of(&introduced.by),
            bundle: introduced.bundle,
            bundle_name: name.unwrap_or_default(),
        }
    }

    /// The name of a bundle that we receive from its origin, or have from there.
    fn name_of_bundle(&self, origin: &DeviceId, bundle: &BundleId) -> Option<String> {
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let mut ours = records.filter(|record| {
            record.direction == Direction::Incoming
                && record.peer == *origin
                && record.origin == *origin
                && record.bundle == *bundle
                && !matches!(
                    record.state,
                    TransferState::Cancelled { .. } | TransferState::Failed { .. }
                )
        });
        ours.next().map(|record| record.name.clone())
    }

    /// A device introduces another one to us.
    pub(super) fn on_introduced(&mut self, from: &DeviceId, introduction: &Introduction) {
        if !self.settings.receive.relay {
            return;
        }
        let bundle = introduction.bundle;
        let ours = self.identity.device_id();
        let checked = introduction.check(&Terms {
            now: unix_now(),
            ours: &ours,
            from,
            skew: self.settings.signaling.max_clock_skew.as_secs(),
            may_introduce: self.may(from, Roles::INTRODUCE),
            interested: self.name_of_bundle(from, &bundle).is_some(),
        });
        let (peer, until) = match checked {
            Ok(checked) => checked,
            Err(reason) => return warn!(%from, %reason, "an introduction is not taken"),
        };
        if self.trust.is_shut_out(&peer) {
            return info!(%from, device = %peer, "introduced, but a person has revoked it here");
        }
        if self.is_authorized(&peer) {
            self.swarm.introductions.unbar(&peer);
        }
        let by = from.clone();
        let introduced = Introduced {
            peer,
            by,
            bundle,
            until,
        };
        if !self.swarm.introductions.add(introduced.clone()) {
            return;
        }
        let introducer = self.introducer(&introduced);
        let device_id = introduced.peer;
        info!(device = %device_id, by = %from, bundle = %introducer.bundle_name, "introduced");
        self.emit(&Event::Introduced {
            device_id,
            introducer,
        });
        self.tend_neighbours();
    }

    /// A device takes an introduction of its own back.
    pub(super) fn on_introduction_ended(
        &mut self,
        from: &DeviceId,
        peer: &DeviceId,
        bundle: &BundleId,
        reason: &str,
    ) {
        if self.swarm.introductions.end(from, peer, bundle) {
            let reason: String = printable(reason).chars().take(MAX_REASON).collect();
            info!(device = %peer, by = %from, %reason, "no longer introduced");
            self.tend_neighbours();
        }
    }

    /// Signaling of an introduced device, which its introducer passes on.
    pub(super) fn hear_through(
        &mut self,
        via: &DeviceId,
        device: DeviceId,
        kind: SignalKind,
        data: String,
    ) {
        let by_it = self
            .swarm
            .introductions
            .allowed(&device, unix_now())
            .any(|entry| entry.by == *via);
        if !by_it || data.len() > MAX_SIGNAL {
            return debug!(%via, %device, "signaling of a device that is not introduced");
        }
        let minute = Duration::from_secs(60);
        let rate = self
            .swarm
            .heard
            .entry(device.clone())
            .or_insert_with(|| Rate::new(SIGNALS_PER_MINUTE, minute));
        if !rate.take(Instant::now()) {
            return debug!(%device, "too much signaling");
        }
        let signal = Signal {
            kind,
            peer_id: device.clone(),
            data,
        };
        let route = Route::Through(via.clone());
        if let Some(slot) = self.slot(&device)
            && let Err(error) = slot.actor.try_send(Signaled { signal, route })
        {
            debug!(%error, %device, "a signaling message was dropped");
        }
    }

    /// Who introduced a device and has a link to us now: signaling can go that way.
    pub(super) fn way_through(&self, device: &DeviceId) -> Option<DeviceId> {
        let mut by = self
            .swarm
            .introductions
            .allowed(device, unix_now())
            .map(|entry| &entry.by)
            .filter(|by| self.peers.get(*by).is_some_and(PeerSlot::is_proven_member));
        by.next().cloned()
    }

    /// Ends introductions that no longer hold, with the links that stood on them, and sees to
    /// links for those that do.
    fn tend_neighbours(&mut self) {
        let mut book = mem::take(&mut self.swarm.introductions);
        book.retain(unix_now(), |entry| {
            self.may(&entry.by, Roles::INTRODUCE)
                && !self.trust.is_shut_out(&entry.peer)
                && self.name_of_bundle(&entry.by, &entry.bundle).is_some()
        });
        let introduced: BTreeSet<DeviceId> = book.iter().map(|entry| entry.peer.clone()).collect();
        self.swarm.introductions = book;
        self.swarm
            .heard
            .retain(|device, _| introduced.contains(device));
        let over: Vec<DeviceId> = self
            .peers
            .iter()
            .filter(|(device, slot)| slot.is_neighbour() && !introduced.contains(*device))
            .map(|(device, _)| device.clone())
            .collect();
        for device in over {
            info!(%device, "no longer introduced: its link ends");
            self.disconnect(&device);
        }
        let ours = self.identity.device_id();
        for device in introduced {
            let through = self.way_through(&device);
            let slot = self.peers.get(&device);
            let connected = slot.is_some_and(|slot| slot.session.is_some());
            let asked = slot.is_some_and(|slot| slot.wanted && slot.through == through);
            // Of each pair the device with the lower id offers.
            if ours < device && !connected && !asked && through.is_some() {
                self.want(&device, true);
            }
        }
        self.tend_exchanges();
    }

    /// Has sessions exchange what their devices are introduced for, and nothing else.
    fn tend_exchanges(&mut self) {
        let mut allowed: HashMap<DeviceId, BTreeSet<BundleKey>> = HashMap::new();
        for entry in self.swarm.introductions.iter() {
            let session = self
                .peers
                .get(&entry.peer)
                .and_then(|slot| slot.session.as_ref());
            let roles = !self.is_authorized(&entry.peer) || self.may(&entry.peer, Roles::RELAY);
            if session.is_some_and(|session| session.verified) && roles {
                let bundle = (entry.by.clone(), entry.bundle);
                allowed
                    .entry(entry.peer.clone())
                    .or_default()
                    .insert(bundle);
            }
        }
        let before = mem::take(&mut self.swarm.exchanges);
        let none = BTreeSet::new();
        for (device, bundles) in &before {
            for over in bundles.difference(allowed.get(device).unwrap_or(&none)) {
                let end = SessionCommand::EndExchange(over.clone());
                self.command(device, Command(end));
            }
        }
        for (device, bundles) in &allowed {
            for new in bundles.difference(before.get(device).unwrap_or(&none)) {
                let begin = SessionCommand::Exchange(new.clone());
                self.command(device, Command(begin));
            }
        }
        self.swarm.exchanges = allowed;
    }

    /// A bundle is not received any more, from whomever: somebody stopped it.
    pub(super) fn end_reception(&self, id: TransferId) {
        let record = self.transfers.get(&id).map(|transfer| &transfer.record);
        let incoming = record.filter(|record| record.direction == Direction::Incoming);
        if let (Some(record), Some(context)) = (incoming, &self.context) {
            context
                .receptions
                .end(&(record.origin.clone(), record.bundle));
        }
    }

    /// A neighbour is dropped for a bundle, and named.
    fn distrust(&mut self, peer: &DeviceId, origin: &DeviceId, bundle: BundleId, reason: String) {
        let introducer = self.introducer(&Introduced {
            peer: peer.clone(),
            by: origin.clone(),
            bundle,
            until: 0,
        });
        self.swarm.introductions.distrust(peer, origin, &bundle);
        let noted = Noted::distrusted(peer.clone(), origin.clone(), bundle, &reason);
        keep(&self.store, "who is distrusted", move |store| {
            store.note(noted);
            Ok(())
        });
        self.emit(&Event::Distrusted {
            device_id: peer.clone(),
            introducer,
            reason,
        });
    }

    /// Neighbours have brought something about.
    fn on_relay(&mut self, event: RelayEvent, ctx: &mut Context<Self>) {
        match event {
            RelayEvent::Received {
                id,
                root,
                path,
                stat,
            } => {
                // Its origin is not here to offer it again: this is as good as an offer.
                self.advance(id, TransferEvent::Offer);
                self.on_received(id, root, path, stat, None, ctx);
            }
            RelayEvent::Relayed { id, peer, bytes } => self.emit(&Event::Relayed {
                transfer: id,
                device_id: peer,
                bytes,
            }),
            RelayEvent::Distrusted {
                peer,
                bundle: (origin, bundle),
                reason,
            } => {
                self.distrust(&peer, &origin, bundle, reason);
                self.tend_neighbours();
            }
            RelayEvent::Broke { peer, reason } => {
                let introduced = self.swarm.introductions.iter();
                let of_it = introduced.filter(|entry| entry.peer == peer);
                let bundles: Vec<_> = of_it
                    .map(|entry| (entry.by.clone(), entry.bundle))
                    .collect();
                for (origin, bundle) in bundles {
                    self.distrust(&peer, &origin, bundle, reason.clone());
                }
                self.tend_neighbours();
            }
        }
    }
}

impl StreamHandler<RelayEvent> for Coordinator {
    fn handle(&mut self, event: RelayEvent, ctx: &mut Context<Self>) {
        self.on_relay(event, ctx);
    }

    // The default would stop the actor.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

fn signal_message(with: DeviceId, passed: bool, kind: SignalKind, data: String) -> Message {
    Message::Signal {
        with,
        passed,
        kind,
        data,
    }
}

fn end_message(bundle: BundleId, peer: &DeviceId, reason: &str) -> Message {
    Message::EndIntroduction {
        bundle,
        peer: peer.clone(),
        reason: reason.to_owned(),
    }
}
