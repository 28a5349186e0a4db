//! Which devices are here, whom they want to know of, and what they were told of those.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::seats::{Limits, Seats};
use crate::protocol::id::DeviceId;
use crate::protocol::rendezvous::ServerSays;
use crate::rendezvous::store::InstanceId;

/// The devices whose sockets are open at this server.
#[derive(Debug)]
pub(in crate::rendezvous) struct Devices {
    /// This server, where several share a database.
    pub(in crate::rendezvous) ours: InstanceId,
    /// How many there may be.
    pub(in crate::rendezvous) seats: Arc<Seats>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) here: HashMap<DeviceId, Place>,
    /// Whom to tell of a device.
    pub(super) watchers: HashMap<DeviceId, HashSet<DeviceId>>,
    last: u64,
    /// How often somebody came or went: the time of what is told of them.
    moves: u64,
}

#[derive(Debug)]
pub(super) struct Place {
    /// Tells one socket of a device from its next.
    pub(super) number: u64,
    /// Nothing once the device has left too much unread: its socket ends then.
    queue: Option<mpsc::Sender<ServerSays>>,
    watched: Arc<[DeviceId]>,
    /// What it was told of them.
    told: HashMap<DeviceId, Told>,
    /// What it was told may be wrong: it has to be looked again.
    doubts: bool,
}

/// What a device was last told of another.
#[derive(Debug, Clone, Copy)]
struct Told {
    present: bool,
    /// After how many moves.
    at: u64,
}

/// Whom a device wants to know of, while the database is asked.
pub(super) struct Question {
    ids: Arc<[DeviceId]>,
    /// Those that are at this server.
    here: BTreeSet<DeviceId>,
    /// After how many moves: what is told later is newer than the answer.
    asked: u64,
}

impl Question {
    /// Those that may be at other servers.
    pub(super) fn rest(&self) -> Vec<&DeviceId> {
        let rest = self.ids.iter().filter(|id| !self.here.contains(*id));
        rest.collect()
    }
}

impl Place {
    /// Puts a message into the device's queue. A device that does not read loses its socket: what
    /// it misses it would never hear of.
    fn tell(&mut self, says: ServerSays) {
        let sent = self.queue.as_ref().map(|queue| queue.try_send(says));
        if matches!(sent, Some(Err(_))) {
            self.queue = None;
        }
    }

    /// Notes what it is to know of another. True where that is new to it.
    fn learns(&mut self, of: &DeviceId, present: bool, at: u64) -> bool {
        let before = self.told.insert(of.clone(), Told { present, at });
        before.is_none_or(|before| before.present != present)
    }
}

impl Inner {
    /// Tells those who want to know of a device, and do not yet, that it came or went.
    pub(super) fn tell_watchers(&mut self, of: &DeviceId, present: bool) {
        self.moves += 1;
        for watcher in self.watchers.get(of).into_iter().flatten() {
            let Some(place) = self.here.get_mut(watcher) else {
                continue;
            };
            if place.learns(of, present, self.moves) {
                let device_ids = vec![of.clone()];
                place.tell(match present {
                    true => ServerSays::Present { device_ids },
                    false => ServerSays::Absent { device_ids },
                });
            }
        }
    }

    /// True where a device has this socket, and no newer one.
    pub(super) fn is_at(&self, device: &DeviceId, number: u64) -> bool {
        let place = self.here.get(device);
        place.is_some_and(|place| place.number == number)
    }

    /// Takes a device out; its socket ends when its queue is dropped.
    pub(super) fn remove(&mut self, device: &DeviceId) -> Option<Place> {
        let place = self.here.remove(device)?;
        for watched in place.watched.iter() {
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
pub(super) enum Delivery {
    /// It is in the device's queue.
    Done,
    /// The device does not take more.
    Full,
    /// It is not here.
    NotHere,
}

impl Devices {
    pub(in crate::rendezvous) fn new(limits: Limits) -> Self {
        Self {
            ours: InstanceId::new(),
            seats: Seats::new(limits),
            inner: Mutex::default(),
        }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device has come; an earlier socket of it ends. The number of its place.
    pub(super) fn arrive(&self, device: &DeviceId, queue: mpsc::Sender<ServerSays>) -> u64 {
        let mut inner = self.inner();
        let again = inner.remove(device).is_some();
        inner.last += 1;
        let number = inner.last;
        let place = Place {
            number,
            queue: Some(queue),
            watched: [].into(),
            told: HashMap::new(),
            doubts: false,
        };
        inner.here.insert(device.clone(), place);
        if !again {
            inner.tell_watchers(device, true);
        }
        number
    }

    /// A socket has ended; the device may have a newer one, here or at another server.
    pub(super) fn leave(&self, device: &DeviceId, number: u64) {
        let mut inner = self.inner();
        if inner.is_at(device, number) {
            inner.remove(device);
            inner.tell_watchers(device, false);
        }
    }

    /// All devices that are here, each with the number of its socket.
    pub(super) fn all(&self) -> Vec<(DeviceId, u64)> {
        let inner = self.inner();
        let all = inner.here.iter();
        all.map(|(id, place)| (id.clone(), place.number)).collect()
    }

    /// From now on a device is told of these.
    pub(super) fn watch(&self, device: &DeviceId, number: u64, ids: &[DeviceId]) {
        let mut inner = self.inner();
        if !inner.is_at(device, number) {
            return;
        }
        let before = inner.here.get_mut(device).map(|place| {
            place.told.clear();
            std::mem::replace(&mut place.watched, ids.into())
        });
        for watched in before.iter().flat_map(|before| before.iter()) {
            inner.unwatch(watched, device);
        }
        for id in ids {
            let watchers = inner.watchers.entry(id.clone()).or_default();
            watchers.insert(device.clone());
        }
    }

    /// What the database has to be asked, for a device's list as it is now.
    pub(super) fn question(&self, device: &DeviceId, number: u64) -> Option<Question> {
        let inner = self.inner();
        let place = inner.here.get(device)?;
        let ids = Arc::clone(&place.watched);
        let here = ids.iter().filter(|id| inner.here.contains_key(id));
        let here = here.cloned().collect();
        let asked = inner.moves;
        (place.number == number).then_some(Question { ids, here, asked })
    }

    /// Tells a device what it does not know yet of those of its list, some of which are at other
    /// servers. Nothing there: the database did not say.
    pub(super) fn answer(
        &self,
        device: &DeviceId,
        number: u64,
        question: &Question,
        elsewhere: Option<&BTreeSet<DeviceId>>,
    ) {
        let mut inner = self.inner();
        let place = inner.here.get_mut(device);
        // With another list there is another question, too.
        let asks = |place: &&mut Place| {
            place.number == number && Arc::ptr_eq(&place.watched, &question.ids)
        };
        let Some(place) = place.filter(asks) else {
            return;
        };
        place.doubts |= elsewhere.is_none();
        let (mut present, mut absent) = (BTreeSet::new(), BTreeSet::new());
        for id in question.ids.iter() {
            let is_there = question.here.contains(id)
                || match elsewhere {
                    Some(elsewhere) => elsewhere.contains(id),
                    None => place.told.get(id).is_some_and(|told| told.present),
                };
            let newer = |told: &Told| told.at > question.asked;
            if place.told.get(id).is_some_and(newer) || !place.learns(id, is_there, question.asked)
            {
                continue;
            }
            match is_there {
                true => present.insert(id.clone()),
                false => absent.insert(id.clone()),
            };
        }
        if !present.is_empty() {
            let device_ids = present.into_iter().collect();
            place.tell(ServerSays::Present { device_ids });
        }
        if !absent.is_empty() {
            let device_ids = absent.into_iter().collect();
            place.tell(ServerSays::Absent { device_ids });
        }
    }

    /// Tells a device that its signal could not be given to another, which counts as absent for it
    /// from then on; so it is looked again whether that is there.
    pub(super) fn undeliverable(&self, from: &DeviceId, to: DeviceId) {
        let mut inner = self.inner();
        inner.moves += 1;
        let at = inner.moves;
        if let Some(place) = inner.here.get_mut(from) {
            if place.told.contains_key(&to) {
                place.learns(&to, false, at);
                place.doubts = true;
            }
            place.tell(ServerSays::Undeliverable { to });
        }
    }

    /// What those who watch a device were told may be wrong.
    pub(super) fn doubt(&self, device: &DeviceId) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        for watcher in inner.watchers.get(device).into_iter().flatten() {
            if let Some(place) = inner.here.get_mut(watcher) {
                place.doubts = true;
            }
        }
    }

    /// Those to whom something may be wrong; from now on it is not.
    pub(super) fn doubting(&self) -> Vec<(DeviceId, u64)> {
        let mut inner = self.inner();
        let all = inner.here.iter_mut();
        let doubting = all.filter_map(|(id, place)| {
            let doubts = std::mem::take(&mut place.doubts);
            doubts.then(|| (id.clone(), place.number))
        });
        doubting.collect()
    }

    pub(super) fn give(&self, to: &DeviceId, says: ServerSays) -> Delivery {
        let inner = self.inner();
        let Some(place) = inner.here.get(to) else {
            return Delivery::NotHere;
        };
        match place.queue.as_ref().map(|queue| queue.try_send(says)) {
            Some(Ok(())) => Delivery::Done,
            _ => Delivery::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ROOM;
    use super::*;
    use crate::protocol::identity::Identity;

    fn devices() -> Devices {
        let (all, of_user) = (200, 200);
        Devices::new(Limits { all, of_user })
    }

    fn id(number: u8) -> DeviceId {
        Identity::from_seed(&[number; 32]).device_id()
    }

    /// A device that watches others, and what it hears.
    fn watcher(devices: &Devices, ids: &[DeviceId]) -> (u64, mpsc::Receiver<ServerSays>) {
        let (queue, inbox) = mpsc::channel(ROOM);
        let number = devices.arrive(&id(1), queue);
        devices.watch(&id(1), number, ids);
        (number, inbox)
    }

    fn arrive(devices: &Devices, number: u8) {
        devices.arrive(&id(number), mpsc::channel(1).0);
    }

    #[test]
    fn what_happens_while_the_database_is_asked_is_newer_than_its_answer() {
        let devices = devices();
        let (number, mut inbox) = watcher(&devices, &[id(2), id(3)]);
        arrive(&devices, 3);
        let question = devices.question(&id(1), number).unwrap();
        assert_eq!(question.rest(), [&id(2)]);
        arrive(&devices, 2);
        devices.leave(&id(3), 2);
        for other in 10..100 {
            arrive(&devices, other);
        }
        let elsewhere = Some(&BTreeSet::new());
        devices.answer(&id(1), number, &question, elsewhere);
        let present = |number| ServerSays::Present {
            device_ids: vec![id(number)],
        };
        assert_eq!(inbox.try_recv(), Ok(present(3)));
        assert_eq!(inbox.try_recv(), Ok(present(2)));
        let device_ids = vec![id(3)];
        assert_eq!(inbox.try_recv(), Ok(ServerSays::Absent { device_ids }));
        assert!(inbox.try_recv().is_err(), "that is all there is to tell");
        assert!(devices.doubting().is_empty());
    }

    #[test]
    fn the_answer_for_an_old_list_changes_nothing_for_a_new_one() {
        let devices = devices();
        let (number, mut inbox) = watcher(&devices, &[id(2)]);
        let old = devices.question(&id(1), number).unwrap();
        devices.watch(&id(1), number, &[id(3)]);
        devices.answer(&id(1), number, &old, Some(&[id(2)].into()));
        arrive(&devices, 2);
        assert!(inbox.try_recv().is_err());
        let new = devices.question(&id(1), number).unwrap();
        assert_eq!(new.rest(), [&id(3)]);
    }

    #[test]
    fn where_the_database_does_not_answer_nobody_is_gone_and_it_is_asked_again() {
        let devices = devices();
        let (number, mut inbox) = watcher(&devices, &[id(2)]);
        let question = devices.question(&id(1), number).unwrap();
        devices.answer(&id(1), number, &question, Some(&[id(2)].into()));
        assert!(matches!(inbox.try_recv(), Ok(ServerSays::Present { .. })));
        devices.answer(&id(1), number, &question, None);
        assert!(inbox.try_recv().is_err());
        assert_eq!(devices.doubting(), [(id(1), number)]);
    }
}
