//! Devices that are here: who is, who wants to know of whom, and what they say to each other.

mod socket;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::Shared;
use super::bus::MISSED;
use super::relay::part;
use super::routes::To;
use super::store::{Here, InstanceId, Mail, Refused};
use crate::protocol::id::DeviceId;
use crate::protocol::rendezvous::ServerSays;
pub(super) use socket::{UNREAD, open, pings};

/// Messages that may wait for a device.
pub(super) const ROOM: usize = 256;

/// How often is looked who is present, while devices come and go.
const ROUNDS: u32 = 5;

/// The devices whose sockets are open at this server.
#[derive(Debug)]
pub(super) struct Devices {
    /// This server, where several share a database.
    pub(super) ours: InstanceId,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    here: HashMap<DeviceId, Place>,
    /// Whom to tell of a device.
    watchers: HashMap<DeviceId, HashSet<DeviceId>>,
    last: u64,
    /// How often somebody came or went.
    moves: u64,
}

#[derive(Debug)]
struct Place {
    /// Tells one socket of a device from its next.
    number: u64,
    /// Nothing once the device has left too much unread: its socket ends then.
    queue: Option<mpsc::Sender<ServerSays>>,
    watched: Vec<DeviceId>,
    /// Which of them it believes to be there.
    told: HashSet<DeviceId>,
}

impl Place {
    fn tell(&mut self, says: ServerSays) {
        let sent = self.queue.as_ref().map(|queue| queue.try_send(says));
        if matches!(sent, Some(Err(_))) {
            self.queue = None;
        }
    }
}

impl Inner {
    /// Puts a message into a device's queue. A device that does not read loses its socket: what it
    /// misses it would never hear of.
    fn tell(&mut self, device: &DeviceId, says: ServerSays) {
        if let Some(place) = self.here.get_mut(device) {
            place.tell(says);
        }
    }

    /// Tells those who want to know of a device, and do not yet, that it came or went.
    fn tell_watchers(&mut self, of: &DeviceId, present: bool) {
        self.moves = self.moves.wrapping_add(1);
        for watcher in self.watchers.get(of).into_iter().flatten() {
            let Some(place) = self.here.get_mut(watcher) else {
                continue;
            };
            let device_ids = vec![of.clone()];
            if present && place.told.insert(of.clone()) {
                place.tell(ServerSays::Present { device_ids });
            } else if !present && place.told.remove(of) {
                place.tell(ServerSays::Absent { device_ids });
            }
        }
    }

    /// True where a device has this socket, and no newer one.
    fn is_at(&self, device: &DeviceId, number: u64) -> bool {
        let place = self.here.get(device);
        place.is_some_and(|place| place.number == number)
    }

    /// Takes a device out; its socket ends when its queue is dropped.
    fn remove(&mut self, device: &DeviceId) -> Option<Place> {
        let place = self.here.remove(device)?;
        for watched in &place.watched {
            self.unwatch(watched, device);
        }
        Some(place)
    }

    fn unwatch(&mut self, watched: &DeviceId, watcher: &DeviceId) {
        if let Some(watchers) = self.watchers.get_mut(watched) {
            watchers.remove(watcher);
            if watchers.is_empty() {
                self.watchers.remove(watched);
            }
        }
    }
}

/// What became of a signal.
#[derive(Debug, PartialEq, Eq)]
enum Delivery {
    /// It is in the device's queue.
    Done,
    /// The device does not take more.
    Full,
    /// It is not here.
    NotHere,
}

impl Devices {
    pub(super) fn new() -> Self {
        Self {
            ours: InstanceId::new(),
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device has come; an earlier socket of it ends. The number of its place.
    fn arrive(&self, device: &DeviceId, queue: mpsc::Sender<ServerSays>) -> u64 {
        let mut inner = self.inner();
        let again = inner.remove(device).is_some();
        inner.last += 1;
        let number = inner.last;
        let place = Place {
            number,
            queue: Some(queue),
            watched: Vec::new(),
            told: HashSet::new(),
        };
        inner.here.insert(device.clone(), place);
        if !again {
            inner.tell_watchers(device, true);
        }
        number
    }

    /// A socket has ended; the device may have a newer one, here or at another server.
    fn leave(&self, device: &DeviceId, number: u64) {
        let mut inner = self.inner();
        if inner.is_at(device, number) {
            inner.remove(device);
            inner.tell_watchers(device, false);
        }
    }

    /// All devices that are here, each with the number of its socket.
    fn all(&self) -> Vec<(DeviceId, u64)> {
        let inner = self.inner();
        let all = inner.here.iter();
        all.map(|(id, place)| (id.clone(), place.number)).collect()
    }

    /// From now on a device is told of these.
    fn watch(&self, device: &DeviceId, number: u64, ids: &[DeviceId]) {
        let mut inner = self.inner();
        if !inner.is_at(device, number) {
            return;
        }
        let before = inner.here.get_mut(device).map(|place| {
            place.told.clear();
            std::mem::replace(&mut place.watched, ids.to_vec())
        });
        for watched in before.iter().flatten() {
            inner.unwatch(watched, device);
        }
        for id in ids {
            let watchers = inner.watchers.entry(id.clone()).or_default();
            watchers.insert(device.clone());
        }
    }

    /// Those of some devices that are here, and how often somebody has come or gone.
    fn here(&self, ids: &[DeviceId]) -> (BTreeSet<DeviceId>, u64) {
        let inner = self.inner();
        let here = ids.iter().filter(|id| inner.here.contains_key(id));
        (here.cloned().collect(), inner.moves)
    }

    fn give(&self, to: &DeviceId, says: ServerSays) -> Delivery {
        let inner = self.inner();
        let Some(place) = inner.here.get(to) else {
            return Delivery::NotHere;
        };
        match place.queue.as_ref().map(|queue| queue.try_send(says)) {
            Some(Ok(())) => Delivery::Done,
            _ => Delivery::Full,
        }
    }

    /// Whom the devices here watch, each with their own list.
    fn lists(&self) -> Vec<(DeviceId, u64, Vec<DeviceId>)> {
        let inner = self.inner();
        let lists = inner.here.iter();
        lists
            .map(|(id, place)| (id.clone(), place.number, place.watched.clone()))
            .collect()
    }
}

/// Gives a signal to a device, wherever its socket is.
async fn send(shared: &Shared, from: &DeviceId, to: DeviceId, signal: serde_json::Value) {
    let here = shared.devices.give(
        &to,
        ServerSays::Signal {
            from: from.clone(),
            signal: signal.clone(),
        },
    );
    let arrived = match here {
        Delivery::Done => Ok(true),
        Delivery::Full => Ok(false),
        Delivery::NotHere => {
            let mail = Mail {
                to: to.clone(),
                from: from.clone(),
                signal: Some(signal),
            };
            shared.store.mail(&shared.devices.ours, &mail).await
        }
    };
    match arrived {
        Ok(true) => {
            shared.metrics.mails.inc();
            return;
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "a signal between devices is lost"),
    }
    shared
        .devices
        .inner()
        .tell(from, ServerSays::Undeliverable { to });
}

/// Tells a device who of its list is there.
async fn tell_presence(shared: &Shared, device: &DeviceId, number: u64, ids: Vec<DeviceId>) {
    shared.devices.watch(device, number, &ids);
    for round in 1.. {
        let (mut present, moves) = shared.devices.here(&ids);
        let rest: Vec<&DeviceId> = ids.iter().filter(|id| !present.contains(id)).collect();
        match shared.store.elsewhere(&shared.devices.ours, &rest).await {
            Ok(elsewhere) => present.extend(elsewhere),
            Err(error) => tracing::warn!(%error, "who is at other servers is not known now"),
        }
        let mut inner = shared.devices.inner();
        // Somebody came or went while the database was asked: it has to be asked again, unless
        // that never ends.
        if inner.moves != moves && round < ROUNDS {
            continue;
        }
        let ids: BTreeSet<DeviceId> = ids.into_iter().collect();
        let absent: Vec<_> = ids.difference(&present).cloned().collect();
        let place = inner.here.get_mut(device);
        let Some(place) = place.filter(|place| place.number == number) else {
            return;
        };
        place.told = present.iter().cloned().collect();
        if !present.is_empty() {
            let device_ids = present.into_iter().collect();
            place.tell(ServerSays::Present { device_ids });
        }
        if !absent.is_empty() {
            place.tell(ServerSays::Absent { device_ids: absent });
        }
        return;
    }
}

/// A sign of life for other servers. Where they took this one for gone, they are told again what is
/// here.
pub(super) async fn alive(shared: &Shared) -> Result<(), Refused> {
    let ours = &shared.devices.ours;
    let here = || Here {
        devices: shared.devices.all(),
        relays: shared.relays.keys(),
    };
    let told = shared.store.alive(ours, &shared.public_url, here).await?;
    let Some(Here { devices, relays }) = told else {
        return Ok(());
    };
    if !devices.is_empty() || !relays.is_empty() {
        tracing::warn!("other servers took this one for gone; they are told again what is here");
    }
    // Some may have left while that was written.
    for (device, number) in devices {
        if !shared.devices.inner().is_at(&device, number) {
            shared.store.device_left(ours, &device, number).await?;
        }
    }
    for relay in relays {
        part(shared, &relay).await;
    }
    Ok(())
}

/// Takes up what another server has told: a device that came or went (`d`), signals for devices
/// here (`m`), or that something may have been missed.
pub(super) async fn told(shared: &Shared, word: &str) {
    let done = match word.split_at_checked(1) {
        _ if word == MISSED => missed(shared).await,
        Some(("d", device)) => match device.parse() {
            Ok(device) => moved(shared, &device).await,
            Err(_) => Ok(()),
        },
        Some(("m", there)) if there == shared.devices.ours.as_str() => mails(shared).await,
        _ => Ok(()),
    };
    if let Err(error) = done {
        tracing::warn!(%error, "what another server has told is lost");
    }
}

async fn moved(shared: &Shared, device: &DeviceId) -> Result<(), Refused> {
    let devices = &shared.devices;
    let number = |inner: &Inner| inner.here.get(device).map(|place| place.number);
    let (before, watched) = {
        let inner = devices.inner();
        (number(&inner), inner.watchers.contains_key(device))
    };
    if before.is_none() && !watched {
        return Ok(());
    }
    let elsewhere = shared.store.elsewhere(&devices.ours, &[device]).await?;
    let elsewhere = elsewhere.contains(device);
    let mut inner = devices.inner();
    match (number(&inner), elsewhere) {
        // Its newer socket is there. One that came here in the meantime is newer still.
        (Some(now), true) if Some(now) == before => {
            inner.remove(device);
            inner.tell_watchers(device, true);
        }
        (Some(_), _) => {}
        (None, present) => inner.tell_watchers(device, present),
    }
    Ok(())
}

async fn mails(shared: &Shared) -> Result<(), Refused> {
    let ours = &shared.devices.ours;
    for mail in shared.store.take_mails(ours).await? {
        let Mail { to, from, signal } = mail;
        let Some(signal) = signal else {
            let says = ServerSays::Undeliverable { to: from };
            shared.devices.inner().tell(&to, says);
            continue;
        };
        let says = ServerSays::Signal {
            from: from.clone(),
            signal,
        };
        if shared.devices.give(&to, says) != Delivery::Done {
            // It has just gone. Its sender is told on the way back.
            let back = Mail {
                to: from,
                from: to,
                signal: None,
            };
            shared.store.mail(ours, &back).await?;
        }
    }
    Ok(())
}

async fn missed(shared: &Shared) -> Result<(), Refused> {
    mails(shared).await?;
    for (device, number, ids) in shared.devices.lists() {
        if !ids.is_empty() {
            tell_presence(shared, &device, number, ids).await;
        }
    }
    Ok(())
}

/// An open socket, for the numbers and the limit.
struct Open(To);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.devices.dec();
    }
}
