//! Devices: who is seen, who may, and their peer actors.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use crate::dataplane::Standing;
use crate::net::discovery::DiscoveryEvent;
use crate::protocol::handshake::Binding;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::identity::PublicKey;
use crate::protocol::names::printable;
use crate::protocol::negotiation::Initiator;
use crate::protocol::peers::{DeviceType, PeerAdvert, Source, Upserted};
use crate::protocol::transfer::{TransferEvent, TransferState};
use crate::store::{Authorization, Group};

use super::super::api::{Event, PeerInfo};
use super::super::discovery::Seen;
use super::super::peer::{Command, Disconnect, Peer, Signaled, Want, unix_now};
use super::super::signaling::Heard;
use super::super::store::{Job, keep};
use super::{Coordinator, PeerSlot, SessionInfo};

impl Coordinator {
    pub(super) fn is_authorized(&self, device: &DeviceId) -> bool {
        self.authorizations
            .get(device)
            .is_some_and(|entry| entry.is_valid_at(unix_now()))
            || self
                .settings
                .trust
                .authorized
                .iter()
                .any(|entry| entry.id == *device)
    }

    /// Authorized, or plain where the person has allowed plain peers.
    pub(super) fn is_let_in(&self, device: &DeviceId) -> bool {
        self.is_authorized(device)
            || (self.settings.trust.plain_peers && !device.is_self_certifying())
    }

    /// Everybody who may: by decision, by config, and plain peers that are here.
    pub(super) fn all_let_in(&self) -> Vec<DeviceId> {
        let now = unix_now();
        let decided = self
            .authorizations
            .values()
            .filter(|a| a.is_valid_at(now))
            .map(|a| &a.device);
        let configured = self.settings.trust.authorized.iter().map(|entry| &entry.id);
        // Static peers count as here before their host names are looked up.
        let named = self
            .settings
            .discovery
            .static_peers
            .iter()
            .map(|peer| &peer.id);
        let here = self.table.iter().map(|entry| &entry.advert.id).chain(named);
        let mut all: Vec<DeviceId> = decided.chain(configured).cloned().collect();
        all.extend(here.filter(|id| self.is_let_in(id)).cloned());
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
        let configured = self
            .settings
            .trust
            .authorized
            .iter()
            .find(|entry| entry.id == *device);
        let names = [
            session.map(|session| session.name.as_str()),
            self.table
                .get(device)
                .map(|entry| entry.advert.name.as_str()),
            self.authorizations
                .get(device)
                .map(|entry| entry.name.as_str()),
            configured.and_then(|entry| entry.name.as_deref()),
        ];
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        printable(name.unwrap_or_else(|| device.short()))
    }

    pub(super) fn peer_info(&self, device: &DeviceId) -> PeerInfo {
        let entry = self.table.get(device);
        let slot = self.peers.get(device);
        let session = slot.and_then(|slot| slot.session.as_ref());
        let advertised = entry.map(|e| e.advert.device_type.as_str());
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
            authorized: self.is_authorized(device),
            connected: session.is_some(),
            verified: session.is_some_and(|session| session.verified),
            error: slot.and_then(|slot| slot.error.clone()),
        }
    }

    fn addresses_of(&self, device: &DeviceId) -> Vec<SocketAddr> {
        self.table
            .get(device)
            .map(|entry| entry.advert.addrs.clone())
            .unwrap_or_default()
    }

    pub(super) fn add_static_peers(&mut self, ctx: &mut Context<Self>) {
        for peer in self.settings.discovery.static_peers.clone() {
            // Names are looked up off this thread; addresses come back at once.
            let (host, port) = (peer.host.clone(), peer.port);
            let resolving = self.data_plane.spawn_blocking(move || {
                (host.as_str(), port)
                    .to_socket_addrs()
                    .map(Iterator::collect::<Vec<_>>)
            });
            ctx.spawn(
                resolving
                    .into_actor(self)
                    .map(move |resolved, coordinator, ctx| match resolved {
                        Ok(Ok(addrs)) => coordinator.add_static_peer(peer.id, addrs, ctx),
                        failed => warn!(host = %peer.host, ?failed, "a static peer has no address"),
                    }),
            );
        }
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
        };
        let added = self
            .table
            .upsert(Instant::now(), advert, Source::Static, authorized);
        debug!(device = %id, ?added, "static peer");
        self.seen(&id, ctx);
    }

    /// A device has shown itself, or moved.
    fn seen(&mut self, device: &DeviceId, ctx: &mut Context<Self>) {
        let event = Event::Peer(self.peer_info(device));
        self.emit(&event);
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
            }
        }))
    }

    /// States to a peer actor whether a link is wanted, and where.
    pub(super) fn want(&mut self, device: &DeviceId, wanted: bool) {
        let addresses = self.addresses_of(device);
        if let Some(slot) = self.slot(device) {
            slot.wanted = wanted;
            // Without an address there is nothing to try: the device shows itself, or offers.
            let wanted = wanted && !addresses.is_empty();
            slot.actor.do_send(Want { addresses, wanted });
        }
    }

    /// In `lower-id`, devices connect as soon as they see each other.
    pub(super) fn connects_on_sight(&self) -> bool {
        self.settings.signaling.initiator == Initiator::LowerId
    }

    pub(super) fn on_up(
        &mut self,
        device: &DeviceId,
        session: SessionInfo,
        proven: Option<(PublicKey, Binding)>,
        reply: oneshot::Sender<Standing>,
    ) {
        let Some(standing) = self.standing_of(device, proven.is_some()) else {
            return self.disconnect(device);
        };
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
        info!(%device, name = %session.name, verified = session.verified, "connected");
        if let (Some(key), Some(entry)) = (key, self.authorizations.get_mut(device))
            && entry.key.is_none()
        {
            entry.key = Some(key);
            let entry = entry.clone();
            keep(&self.store, "an authorization's key", move |store| {
                store.authorize(entry)
            });
        }
        // A link that replaces another: what ran over the old one starts again.
        let left: Vec<_> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.record.peer == *device)
            .filter(|(_, transfer)| {
                let state = &transfer.record.state;
                matches!(state, TransferState::Offered | TransferState::Active)
            })
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
    /// on disk, and only then may anybody be told.
    pub(super) fn grant(
        &mut self,
        mut entry: Authorization,
        group: Option<&str>,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        let device = entry.device.clone();
        if entry.name.is_empty() {
            entry.name = self.name_of(&device);
        }
        self.authorizations.insert(device.clone(), entry.clone());
        let group = group.map(|name| {
            let group = self.groups.entry(name.to_owned()).or_insert_with(|| Group {
                name: name.to_owned(),
                members: Vec::new(),
            });
            if !group.members.contains(&device) {
                group.members.push(device.clone());
            }
            group.clone()
        });
        self.table.set_authorized(&device, true);
        let event = Event::Peer(self.peer_info(&device));
        self.emit(&event);
        let stored = self.store.send(Job::new(move |store| {
            store.authorize(entry)?;
            group.map_or(Ok(()), |group| store.put_group(group))?;
            store.flush()
        }));
        async move {
            match stored.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
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
        self.authorizations.remove(device);
        self.table.set_authorized(device, false);
        self.disconnect(device);
        let ids = self.unfinished_with(device);
        for id in ids {
            self.cancel(
                id,
                crate::protocol::message::Code::Unauthorized,
                "its authorization was revoked",
            );
        }
    }

    /// Hands something to a device's session, if there is one.
    pub(super) fn command(&self, device: &DeviceId, command: Command) {
        if let Some(slot) = self.peers.get(device) {
            slot.actor.do_send(command);
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
                let authorized = self.is_authorized(&device);
                let upserted =
                    self.table
                        .upsert(Instant::now(), advert, Source::Discovered, authorized);
                debug!(%device, ?upserted, "seen");
                if !matches!(upserted, Upserted::Unchanged | Upserted::Refused) {
                    self.seen(&device, ctx);
                }
            }
            DiscoveryEvent::Lost(device) => {
                self.table.remove(&device);
                self.emit(&Event::PeerGone { device_id: device });
            }
            DiscoveryEvent::Stopped(_) => {}
        }
    }
}

impl Handler<Heard> for Coordinator {
    type Result = ();

    fn handle(&mut self, Heard(heard): Heard, _: &mut Context<Self>) {
        let device = heard.signal.peer_id.clone();
        if device == self.identity.device_id() {
            return;
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
        let (signal, connection) = (heard.signal, heard.connection);
        if let Some(slot) = self.slot(&device)
            && let Err(error) = slot.actor.try_send(Signaled { signal, connection })
        {
            debug!(%error, %device, "a signaling message was dropped");
        }
    }
}
