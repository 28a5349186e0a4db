//! How often somebody may ask, per user and per address; and how many connections an address has.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many are kept apart; what is beyond that shares one allowance.
const MOST: usize = 65_536;
/// Requests at once after a rest, as a multiple of those in a second.
const BURST: f64 = 10.0;

/// How often places of those who have rested are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// An allowance for each of many.
pub(super) struct Rates<K> {
    per_second: f64,
    inner: Mutex<Inner<K>>,
}

struct Inner<K> {
    each: HashMap<K, Bucket>,
    /// For all that find no place.
    rest: Bucket,
    /// When places were last looked for.
    looked: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// One less. How long to wait, where there is none.
    fn take(&mut self, per_second: f64, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * per_second).min(per_second * BURST);
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / per_second))
    }
}

impl<K: Eq + Hash> Rates<K> {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        let full = Bucket {
            left: per_second * BURST,
            at: now,
        };
        Self {
            per_second,
            inner: Mutex::new(Inner {
                each: HashMap::new(),
                rest: full,
                looked: None,
            }),
        }
    }

    /// Counts a request. How long to wait, where it is one too many.
    pub(super) fn take(&self, who: K, now: Instant) -> Result<(), Duration> {
        let rate = self.per_second;
        let full = Bucket {
            left: rate * BURST,
            at: now,
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.each.len() >= MOST && !inner.each.contains_key(&who) {
            // Whoever has not asked for that long has a full allowance, as newcomers have.
            let rested = Duration::from_secs_f64(BURST);
            let passed = |then: Instant| now.saturating_duration_since(then);
            if inner.looked.is_none_or(|then| passed(then) > LOOK) {
                inner.looked = Some(now);
                inner.each.retain(|_, bucket| passed(bucket.at) < rested);
            }
            if inner.each.len() >= MOST {
                return inner.rest.take(rate, now);
            }
        }
        inner.each.entry(who).or_insert(full).take(rate, now)
    }
}

/// What counts as one address: an IPv6 network of the size that one customer gets.
pub(super) fn whole(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = u128::from(v6) & (u128::MAX << 64);
            IpAddr::V6(bits.into())
        }
        v4 => v4,
    }
}

/// Connections, counted by address.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them, until it is dropped.
pub(super) struct Connection {
    all: Arc<Connections>,
    from: IpAddr,
}

impl Connections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let open = Mutex::default();
        Arc::new(Self { most, open })
    }

    /// One more; nothing where the address has enough.
    pub(super) fn open(self: &Arc<Self>, from: IpAddr) -> Option<Connection> {
        let from = whole(from);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(from).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        let all = Arc::clone(self);
        Some(Connection { all, from })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let open = self.all.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_an_allowance_of_their_own_that_comes_back() {
        let start = Instant::now();
        let rates = Rates::new(2, start);
        for _ in 0..20 {
            assert_eq!(rates.take("a", start), Ok(()));
        }
        assert_eq!(rates.take("a", start), Err(Duration::from_millis(500)));
        assert_eq!(rates.take("b", start), Ok(()));
        let later = start + Duration::from_millis(600);
        assert_eq!(rates.take("a", later), Ok(()));
        assert!(rates.take("a", later).is_err());
    }

    #[test]
    fn many_newcomers_share_one_allowance_until_somebody_has_rested() {
        let start = Instant::now();
        let rates = Rates::new(1, start);
        for number in 0..MOST {
            assert_eq!(rates.take(number, start), Ok(()));
        }
        let passed = (MOST..MOST + 100).filter(|number| rates.take(*number, start).is_ok());
        assert_eq!(passed.count(), 10);
        assert_eq!(rates.take(7, start), Ok(()), "who has a place keeps it");
        let later = start + Duration::from_secs(11);
        assert_eq!(rates.take(MOST, later), Ok(()));
        assert!(rates.inner.lock().unwrap().each.len() < 10);
    }

    #[test]
    fn an_address_has_so_many_connections_and_those_that_end_make_room() {
        let (one, other) = ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let connections = Connections::new(2);
        let first = connections.open(one);
        let _second = connections.open(one);
        assert!(first.is_some() && connections.open(one).is_none());
        assert!(connections.open(other).is_some(), "others are not hindered");
        drop(first);
        let third = connections.open("2001:db8::2".parse().unwrap());
        assert!(third.is_some() && connections.open(one).is_none());
        assert_eq!(connections.open.lock().unwrap().len(), 1, "nothing is left");
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let one = |text: &str| whole(text.parse().unwrap());
        assert_eq!(one("2001:db8::1"), one("2001:db8::ffff:2"));
        assert_ne!(one("2001:db8:0:1::1"), one("2001:db8:0:2::1"));
        assert_eq!(one("::ffff:10.0.0.1"), one("10.0.0.1"));
        assert_ne!(one("10.0.0.2"), one("10.0.0.1"));
    }
}
