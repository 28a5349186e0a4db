//! Devices: who is seen, who may, and their peer actors.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use crate::config::StaticPeer;
use crate::dataplane::Standing;
use crate::net::discovery::DiscoveryEvent;
use crate::protocol::handshake::Binding;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::identity::PublicKey;
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::negotiation::Initiator;
use crate::protocol::peers::{DeviceType, PeerAdvert, Source, Upserted};
use crate::protocol::roles::Roles;
use crate::protocol::signal::SignalKind;
use crate::protocol::transfer::TransferEvent;
use crate::store::{Authorization, Group};

use super::super::api::{Event, PeerInfo};
use super::super::discovery::Seen;
use super::super::peer::{Command, Disconnect, Flush, Peer, Route, Signaled, Want, unix_now};
use super::super::signaling::Heard;
use super::super::store::{Job, NotStored, keep, on_disk};
use super::{Coordinator, PeerSlot, SessionInfo};

/// What the last words to a device that is shut out may take.
const PARTING: Duration = Duration::from_secs(1);

/// The device and its place, of a word of `--to` that is written `ID@HOST:PORT`.
pub(super) fn place_in(word: &str) -> Option<StaticPeer> {
    let peer: StaticPeer = word.parse().ok()?;
    peer.id.is_self_certifying().then_some(peer)
}

impl Coordinator {
    pub(super) fn is_authorized(&self, device: &DeviceId) -> bool {
        self.trust.lets_in(device, unix_now())
    }

    pub(super) fn is_plain_and_welcome(&self, device: &DeviceId) -> bool {
        self.settings.trust.plain_peers && !device.is_self_certifying()
    }

    /// What a device may do now. Plain peers can only receive.
    pub(super) fn roles_of(&self, device: &DeviceId) -> Roles {
        match self.trust.roles(device, unix_now()) {
            Roles::NONE if self.is_plain_and_welcome(device) => Roles::RECEIVE,
            roles => roles,
        }
    }

    /// The groups that a device is in, by a person or by a roster.
    pub(super) fn groups_of(&self, device: &DeviceId) -> Vec<String> {
        self.trust.groups_of(device, unix_now())
    }

    /// Authorized, or plain where the person has allowed plain peers.
    pub(super) fn is_let_in(&self, device: &DeviceId) -> bool {
        self.is_authorized(device) || self.is_plain_and_welcome(device)
    }

    /// Everybody who may: by decision, by config, and plain peers that are here.
    pub(super) fn all_let_in(&self) -> Vec<DeviceId> {
        // Static peers count as here before their host names are looked up.
        let named = self
            .settings
            .discovery
            .static_peers
            .iter()
            .map(|peer| &peer.id);
        let here = self.table.iter().map(|entry| &entry.advert.id).chain(named);
        let mut all = self.trust.all_let_in(unix_now());
        all.extend(here.filter(|id| self.is_member(id)).cloned());
        all.sort();
        all.dedup();
        all.retain(|id| *id != self.identity.device_id());
        all
    }

    pub(super) fn name_of(&self, device: &DeviceId) -> String {
        let session = self
            .peers
            .get(device)
            .and_then(|slot| slot.session.as_ref());
        // What a person calls it comes first: its own name may be anybody's, and adverts are
        // not proven.
        let names = [
            self.trust.name_of(device),
            session.map(|session| session.name.as_str()),
            self.table
                .get(device)
                .map(|entry| entry.advert.name.as_str()),
        ];
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        printable(name.unwrap_or_else(|| device.short()))
    }

    pub(super) fn peer_info(&self, device: &DeviceId) -> PeerInfo {
        let entry = self.table.get(device);
        let slot = self.peers.get(device);
        let session = slot.and_then(|slot| slot.session.as_ref());
        let advertised = entry.map(|e| e.advert.device_type.as_str());
        let (why, expires) = self.trust.why(device, unix_now());
        PeerInfo {
            device_id: device.clone(),
            name: self.name_of(device),
            device_type: session
                .map(|session| session.device_type.as_str())
                .filter(|word| !word.is_empty())
                .or(advertised)
                .unwrap_or_default()
                .to_owned(),
            addresses: self
                .addresses_of(device)
                .iter()
                .map(SocketAddr::to_string)
                .collect(),
            authorized: self.trust.is_member(device, unix_now()),
            roles: self.roles_of(device),
            groups: self.groups_of(device),
            why,
            expires,
            connected: session.is_some(),
            path: slot
                .filter(|_| session.is_some())
                .and_then(|slot| Some(slot.path?.as_str().to_owned())),
            verified: session.is_some_and(|session| session.verified),
            introduced: self.introducers_of(device),
            error: slot.and_then(|slot| slot.error.clone()),
            clone: self.clone_of(device),
        }
    }

    pub(super) fn addresses_of(&self, device: &DeviceId) -> Vec<SocketAddr> {
        self.table
            .get(device)
            .map(|entry| entry.advert.addrs.clone())
            .unwrap_or_default()
    }

    /// Those of the settings, and those that broadcasts of earlier processes name.
    pub(super) fn add_static_peers(&mut self, ctx: &mut Context<Self>) {
        let named = self.broadcasts.values().flat_map(|b| &b.record.to);
        let named: Vec<StaticPeer> = named.filter_map(|word| place_in(word)).collect();
        let configured = self.settings.discovery.static_peers.clone();
        for peer in configured.into_iter().chain(named) {
            self.look_up_static_peer(peer, ctx);
        }
    }

    /// Names are looked up off this thread; addresses come back at once.
    pub(super) fn look_up_static_peer(&mut self, peer: StaticPeer, ctx: &mut Context<Self>) {
        let (host, port) = (peer.host.clone(), peer.port);
        let resolving = self.data_plane.spawn_blocking(move || {
            (host.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect::<Vec<_>>)
        });
        ctx.spawn(resolving.into_actor(self).map(
            move |resolved, coordinator, ctx| match resolved {
                Ok(Ok(addrs)) => {
                    // The config file may name an id that was given up since.
                    let id = coordinator.trust.current(&peer.id).clone();
                    coordinator.add_static_peer(id, addrs, ctx);
                }
                failed => warn!(host = %peer.host, ?failed, "a static peer has no address"),
            },
        ));
    }

    pub(super) fn add_static_peer(
        &mut self,
        id: DeviceId,
        addrs: Vec<SocketAddr>,
        ctx: &mut Context<Self>,
    ) {
        let authorized = self.is_authorized(&id);
        let device_type = DeviceType::Desktop;
        let advert = PeerAdvert {
            id: id.clone(),
            name: String::new(),
            device_type,
            addrs,
            proto: 1,
            run: None,
        };
        let added = self
            .table
            .upsert(Instant::now(), advert, Source::Static, authorized);
        debug!(device = %id, ?added, "static peer");
        self.seen(&id, ctx);
    }

    /// A device has shown itself, or moved.
    pub(super) fn seen(&mut self, device: &DeviceId, ctx: &mut Context<Self>) {
        let event = Event::Peer(self.peer_info(device));
        self.emit(&event);
        self.show_change(device);
        let wanted = self.peers.get(device).is_some_and(|slot| slot.wanted);
        if wanted || (self.connects_on_sight() && self.is_let_in(device)) {
            self.want(device, true);
        }
        self.drive(ctx);
    }

    /// The actor of a device, made if it is not there.
    pub(super) fn slot(&mut self, device: &DeviceId) -> Option<&mut PeerSlot> {
        let context = Arc::clone(self.context.as_ref()?);
        let stranger = !self.is_let_in(device);
        Some(self.peers.entry(device.clone()).or_insert_with(|| {
            let id = device.clone();
            PeerSlot {
                actor: Supervisor::start(move |_| Peer::new(context, id, stranger)),
                session: None,
                sending: None,
                absent_since: Instant::now(),
                error: None,
                refused: false,
                wanted: false,
                from: None,
                path: None,
                through: None,
            }
        }))
    }

    /// States to a peer actor whether a link is wanted, and where.
    pub(super) fn want(&mut self, device: &DeviceId, wanted: bool) {
        // Who is only introduced would refuse signaling over TCP, as we would; whom a person wants
        // to come to know is asked.
        let addresses = if self.is_let_in(device) || self.door.wants(device) {
            self.addresses_of(device)
        } else {
            Vec::new()
        };
        let through = self.way_through(device);
        let met = self.is_met(device);
        if let Some(slot) = self.slot(device) {
            slot.wanted = wanted;
            slot.through.clone_from(&through);
            // Without a way there is nothing to try: the device shows itself, or offers.
            let wanted = wanted && (!addresses.is_empty() || through.is_some() || met);
            slot.actor.do_send(Want {
                addresses,
                through,
                met,
                wanted,
            });
        }
    }

    /// In `lower-id`, devices connect as soon as they see each other.
    pub(super) fn connects_on_sight(&self) -> bool {
        self.settings.signaling.initiator == Initiator::LowerId
    }

    pub(super) fn on_up(
        &mut self,
        device: &DeviceId,
        mut session: SessionInfo,
        proven: Option<(PublicKey, Binding)>,
        reply: oneshot::Sender<Standing>,
    ) {
        let Some(standing) = self.standing_of(device, proven.is_some()) else {
            return self.disconnect(device);
        };
        session.standing = standing;
        let _ = reply.send(standing);
        let key = proven.map(|(key, _)| key);
        if let Some(session) = self.receive_guest(device, standing, session, proven) {
            self.welcome(device, session, key);
        }
        self.begin_pairing(device);
    }

    /// A device that is let in has a link now.
    pub(super) fn welcome(
        &mut self,
        device: &DeviceId,
        session: SessionInfo,
        key: Option<PublicKey>,
    ) {
        self.forget_told(device);
        self.shown.insert(device.clone());
        info!(%device, name = %session.name, verified = session.verified, "connected");
        if let Some(entry) = key.and_then(|key| self.trust.note_key(device, key)) {
            keep(&self.store, "an authorization's key", move |store| {
                store.authorize(entry)
            });
        }
        // A link that replaces another: what ran over the old one starts again.
        let left: Vec<_> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.record.peer == *device)
            .filter(|(_, transfer)| transfer.record.state.is_under_way())
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            self.advance(id, TransferEvent::Disconnect);
        }
        if let Some(slot) = self.peers.get_mut(device) {
            slot.session = Some(session);
            slot.sending = None;
            slot.error = None;
            slot.refused = false;
        }
        let event = Event::Peer(self.peer_info(device));
        self.emit(&event);
    }

    pub(super) fn on_down(&mut self, device: &DeviceId, reason: String) {
        if self.guest_gone(device, &reason) {
            return;
        }
        if let Some(slot) = self.peers.get_mut(device) {
            if slot.session.take().is_some() {
                slot.absent_since = Instant::now();
            }
            slot.sending = None;
            slot.error = Some(reason.clone());
        }
        let ids = self.unfinished_with(device);
        for id in &ids {
            self.advance(*id, TransferEvent::Disconnect);
        }
        let event = Event::NotConnected {
            device_id: device.clone(),
            reason,
        };
        self.emit(&event);
        let broadcasts: Vec<_> = ids
            .iter()
            .filter_map(|id| self.transfers[id].record.broadcast)
            .collect();
        for broadcast in broadcasts {
            self.tell_broadcast(Some(broadcast), &event);
        }
    }

    pub(super) fn disconnect(&mut self, device: &DeviceId) {
        self.door.shut(device);
        if let Some(slot) = self.peers.get_mut(device) {
            slot.session = None;
            slot.sending = None;
            slot.wanted = false;
            slot.absent_since = Instant::now();
            slot.actor.do_send(Disconnect);
        }
    }

    /// A panic leaves a peer's mailbox closed, and no supervisor notices. Whoever holds the
    /// address has to: the link is gone, a fresh actor takes over.
    pub(super) fn rebuild_dead_peers(&mut self) {
        let dead: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, slot)| !slot.actor.connected())
            .map(|(device, _)| device.clone())
            .collect();
        for device in dead {
            error!(%device, "its actor has failed; a fresh one takes over");
            let wanted = self.peers.remove(&device).is_some_and(|slot| slot.wanted);
            self.on_down(
                &device,
                "this device's part of the program failed; see the log".into(),
            );
            if wanted {
                self.want(&device, true);
            }
        }
    }

    /// Lets a device in, and puts it into a group. It holds at once; the answer comes when it is
    /// on disk, and only then may anybody be told. What a person revoked, only a person lets in.
    pub(super) fn grant(
        &mut self,
        mut entry: Authorization,
        group: Option<&str>,
    ) -> impl Future<Output = Result<(), NotStored>> + use<> {
        let device = entry.device.clone();
        if entry.name.is_empty() {
            // An id is no name: it stays free for one that the device shows later.
            let name = self.name_of(&device);
            if name != device.short() {
                entry.name = name;
            }
        }
        let granted = self.note_down(entry.clone(), group);
        let stored = granted.map(|group| {
            self.table.set_authorized(&device, true);
            self.swarm.introductions.unbar(&device);
            let event = Event::Peer(self.peer_info(&device));
            self.emit(&event);
            self.store.send(Job::new(move |store| {
                store.authorize(entry)?;
                group.map_or(Ok(()), |group| store.put_group(group))?;
                store.flush()
            }))
        });
        async move { on_disk(stored?).await }
    }

    /// Notes a decision in the book; the group that the device is in by it.
    fn note_down(
        &mut self,
        entry: Authorization,
        group: Option<&str>,
    ) -> Result<Option<Group>, String> {
        let device = entry.device.clone();
        let group = group
            .map(|name| self.group_with(name, [&device]))
            .transpose()?;
        if !self.trust.authorize(entry) {
            return Err(format!(
                "a person has revoked {device} on this device: to let it in again, run \
                 `handout authorize {device}`"
            ));
        }
        if let Some(group) = &group {
            self.trust.put_group(group.clone());
        }
        Ok(group)
    }

    fn unfinished_with(&self, device: &DeviceId) -> Vec<TransferId> {
        let records = self.transfers.values().map(|transfer| &transfer.record);
        records
            .filter(|record| record.peer == *device && !record.state.is_final())
            .map(|record| record.id)
            .collect()
    }

    /// Ends links and transfers of a device that may no longer.
    pub(super) fn shut_out(&mut self, device: &DeviceId) {
        let (reason, _) = self.trust.why(device, unix_now());
        info!(%device, reason, "shut out");
        self.table.set_authorized(device, false);
        self.end_introductions_of(device);
        self.clones.forget(device);
        for id in self.unfinished_with(device) {
            self.cancel(id, Code::Unauthorized, &reason);
        }
        self.part_with(device);
    }

    /// Ends a link once the other side has been told why, or could have been.
    pub(super) fn part_with(&mut self, device: &DeviceId) {
        self.door.shut(device);
        let Some(slot) = self.peers.get_mut(device) else {
            return;
        };
        if slot.session.take().is_none() {
            // A link that is only coming to be has nothing to say: it ends at once, and is not
            // there for whoever lets the device in again a moment later.
            slot.actor.do_send(Disconnect);
        }
        slot.sending = None;
        slot.wanted = false;
        slot.absent_since = Instant::now();
        let told = slot.actor.send(Flush);
        let coordinator = self.context.as_ref().map(|c| c.coordinator.clone());
        let device = device.clone();
        actix::spawn(async move {
            let _ = tokio::time::timeout(PARTING, told).await;
            if let Some(coordinator) = coordinator.and_then(|weak| weak.upgrade()) {
                coordinator.do_send(Parted(device));
            }
        });
    }

    /// Tells the table of seen devices what a roster has changed.
    pub(super) fn tell_table_who_may(&mut self) {
        let seen: Vec<_> = self.table.iter().map(|e| e.advert.id.clone()).collect();
        for device in seen {
            let authorized = self.is_authorized(&device);
            self.table.set_authorized(&device, authorized);
        }
    }

    /// An authorization or a roster may have expired, or a newer roster have come.
    pub(super) fn shut_out_whoever_may_no_longer(&mut self) {
        let out: Vec<_> = self
            .peers
            .iter()
            .filter(|(device, slot)| match &slot.session {
                None => false,
                // Its link ends with its introduction, which may be renewed: that is no verdict.
                Some(session) if session.standing == Standing::Neighbour => false,
                Some(_) => !self.is_let_in(device),
            })
            .map(|(device, _)| device.clone())
            .collect();
        for device in &out {
            self.shut_out(device);
            let event = Event::Peer(self.peer_info(device));
            self.emit(&event);
        }
    }

    /// Hands something to a device's session, if there is one.
    pub(super) fn command(&self, device: &DeviceId, command: Command) {
        if let Some(slot) = self.peers.get(device) {
            slot.actor.do_send(command);
        }
    }
}

/// A device that was shut out has heard why, or could have.
#[derive(Message)]
#[rtype(result = "()")]
struct Parted(DeviceId);

impl Handler<Parted> for Coordinator {
    type Result = ();

    fn handle(&mut self, Parted(device): Parted, _: &mut Context<Self>) {
        let Some(slot) = self.peers.get(&device) else {
            return;
        };
        // It may have been let in again meanwhile. What stands now can still have been begun
        // before, so it ends in any case; a link that is wanted is made anew.
        let again = slot.wanted || slot.session.is_some();
        slot.actor.do_send(Disconnect);
        if slot.session.is_some() {
            self.on_down(&device, "it was shut out, and is let in again".to_owned());
        }
        if again {
            self.want(&device, true);
        }
    }
}

impl Handler<Seen> for Coordinator {
    type Result = ();

    fn handle(&mut self, Seen(event): Seen, ctx: &mut Context<Self>) {
        match event {
            DiscoveryEvent::Found(advert) => {
                let device = advert.id.clone();
                if device == self.identity.device_id() {
                    return;
                }
                self.note_advert(&advert, 1);
                let authorized = self.is_authorized(&device);
                let upserted =
                    self.table
                        .upsert(Instant::now(), advert, Source::Discovered, authorized);
                debug!(%device, ?upserted, "seen");
                if !matches!(upserted, Upserted::Unchanged | Upserted::Refused) {
                    self.seen(&device, ctx);
                }
            }
            DiscoveryEvent::Copy { advert, number } => self.note_advert(&advert, number),
            DiscoveryEvent::CopyGone { id, number } => self.clones.on_advert_gone(&id, number),
            DiscoveryEvent::Lost(device) => {
                self.table.remove(&device);
                self.clones.on_advert_gone(&device, 1);
                // When it comes again it may have missed ours.
                let linked = self
                    .peers
                    .get(&device)
                    .is_some_and(|slot| slot.session.is_some());
                if !linked {
                    self.shown.remove(&device);
                }
                self.emit(&Event::PeerGone { device_id: device });
            }
            DiscoveryEvent::Stopped(_) => {}
        }
    }
}

impl Handler<Heard> for Coordinator {
    type Result = ();

    fn handle(&mut self, Heard(heard): Heard, ctx: &mut Context<Self>) {
        let device = heard.signal.peer_id.clone();
        if device == self.identity.device_id() {
            return;
        }
        if heard.signal.kind == SignalKind::Rotation {
            return self.hear_change(&heard, ctx);
        }
        if !self.is_let_in(&device)
            && let Err(reason) = self.knock(&heard)
        {
            return self.turn_away(&heard, reason);
        }
        let most = self.settings.discovery.max_peers;
        let members = self.peers.len().saturating_sub(self.door.guests());
        if !self.peers.contains_key(&device) && members >= most {
            debug!(%device, "too many devices at once");
            return;
        }
        let (signal, route) = (heard.signal, Route::Tcp(heard.connection));
        if let Some(slot) = self.slot(&device)
            && let Err(error) = slot.actor.try_send(Signaled { signal, route })
        {
            debug!(%error, %device, "a signaling message was dropped");
        }
    }
}
