//! Who is connected, and who has to go when there are too many.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::task::AbortHandle;

use super::ConnectionId;

/// The places of all connections. A place is given back when its [`Place`] is dropped.
#[derive(Debug, Clone)]
pub(super) struct Table {
    inner: Arc<Mutex<Inner>>,
    max: usize,
    per_address: usize,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Connections that others made, oldest first.
    incoming: BTreeMap<u64, Entry>,
    /// How many we made.
    outgoing: usize,
}

#[derive(Debug)]
struct Entry {
    network: IpAddr,
    /// Whether a valid message came: only then it is safe from eviction.
    spoken: bool,
    task: Option<AbortHandle>,
}

/// A connection's place in the table.
#[derive(Debug)]
pub(super) struct Place {
    table: Table,
    id: u64,
    incoming: bool,
}

impl Table {
    pub(super) fn new(max: usize, per_address: usize) -> Self {
        Self {
            inner: Arc::default(),
            max,
            per_address,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while the lock is held, and the counts stay right even then.
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn len(&self) -> usize {
        self.lock().incoming.len()
    }

    /// A place for a connection from `ip`. When there is none, the oldest connection that never
    /// said anything valid has to go: one from the same address when that address has too many,
    /// else any. `None` when all of them have spoken.
    pub(super) fn incoming(&self, ip: IpAddr) -> Option<Place> {
        let network = network_of(ip);
        let mut evicted = None;
        let mut inner = self.lock();
        let from_there = inner.incoming.values();
        let from_there = from_there.filter(|e| e.network == network).count();
        let crowded = from_there >= self.per_address;
        if crowded || inner.incoming.len() >= self.max {
            let silent = |e: &Entry| !e.spoken && (!crowded || e.network == network);
            let victim = inner.incoming.iter().find(|(_, e)| silent(e));
            let victim = *victim?.0;
            evicted = inner.incoming.remove(&victim);
        }
        inner.next += 1;
        let id = inner.next;
        let entry = Entry {
            network,
            spoken: false,
            task: None,
        };
        inner.incoming.insert(id, entry);
        drop(inner);
        if let Some(task) = evicted.and_then(|entry| entry.task) {
            task.abort();
        }
        Some(Place {
            table: self.clone(),
            id,
            incoming: true,
        })
    }

    /// A place for a connection that we make; `None` when there are too many.
    pub(super) fn outgoing(&self) -> Option<Place> {
        let mut inner = self.lock();
        if inner.outgoing >= self.max {
            return None;
        }
        inner.outgoing += 1;
        inner.next += 1;
        Some(Place {
            table: self.clone(),
            id: inner.next,
            incoming: false,
        })
    }

    /// Says which task is to be aborted when the connection has to go.
    pub(super) fn set_task(&self, id: ConnectionId, task: AbortHandle) {
        let mut inner = self.lock();
        if let Some(entry) = inner.incoming.get_mut(&id.0) {
            entry.task = Some(task);
            return;
        }
        drop(inner);
        // It was evicted, or has ended, before the task was known.
        task.abort();
    }
}

impl Place {
    pub(super) fn id(&self) -> ConnectionId {
        ConnectionId(self.id)
    }

    pub(super) fn is_incoming(&self) -> bool {
        self.incoming
    }

    /// A valid message came: the connection is not evicted.
    pub(super) fn spoke(&self) {
        self.set_spoken(true);
    }

    /// Nothing more will come: it may be evicted again.
    pub(super) fn finished(&self) {
        self.set_spoken(false);
    }

    fn set_spoken(&self, spoken: bool) {
        if let Some(entry) = self.table.lock().incoming.get_mut(&self.id) {
            entry.spoken = spoken;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.table.lock();
        if self.incoming {
            inner.incoming.remove(&self.id);
        } else {
            inner.outgoing -= 1;
        }
    }
}

/// What counts as one address: whoever has one IPv6 address usually has a whole /64 of them.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn the_oldest_silent_connection_makes_room_and_speakers_stay() {
        let table = Table::new(2, 2);
        let speaker = table.incoming(ip(1)).unwrap();
        speaker.spoke();
        let silent = table.incoming(ip(2)).unwrap();
        let newcomer = table.incoming(ip(3)).unwrap();
        assert_eq!(table.len(), 2);
        drop(silent);
        assert_eq!(table.len(), 2);
        newcomer.spoke();
        assert!(table.incoming(ip(4)).is_none());
        drop(speaker);
        assert!(table.incoming(ip(4)).is_some());
    }

    #[test]
    fn a_crowded_address_evicts_its_own_connections_only() {
        let table = Table::new(10, 2);
        let other = table.incoming(ip(9)).unwrap();
        let places: Vec<_> = (0..2).map(|_| table.incoming(ip(1)).unwrap()).collect();
        assert!(table.incoming("::ffff:10.0.0.1".parse().unwrap()).is_some());
        assert!(table.lock().incoming.contains_key(&other.id));
        assert!(!table.lock().incoming.contains_key(&places[0].id));
        let six = |s: &str| table.incoming(s.parse().unwrap());
        let kept: Vec<_> = ["2001:db8::1", "2001:db8::2"]
            .map(six)
            .into_iter()
            .flatten()
            .collect();
        kept.iter().for_each(Place::spoke);
        assert!(six("2001:db8::3").is_none());
        assert!(six("2001:db8:0:1::3").is_some());
    }

    #[test]
    fn outgoing_connections_are_counted_apart_and_given_back() {
        let table = Table::new(1, 1);
        let first = table.outgoing().unwrap();
        assert!(table.outgoing().is_none());
        assert!(table.incoming(ip(1)).is_some());
        drop(first);
        assert!(table.outgoing().is_some());
    }
}
