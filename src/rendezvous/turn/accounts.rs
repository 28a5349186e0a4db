//! Who uses the TURN server, and how much.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Users that are known at once. Those that use nothing make room.
const MAX_USERS: usize = 10_000;
/// How long what a user has sent counts.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What everybody may have.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Addresses of one user at once.
    pub per_user: usize,
    /// Addresses of all users at once.
    pub in_all: usize,
    /// Bytes of one user in a day, both ways together.
    pub bytes_per_day: u64,
}

/// All users.
pub struct Accounts {
    quota: Quota,
    users: Mutex<HashMap<String, Arc<Account>>>,
    allocations: AtomicUsize,
    bytes: AtomicU64,
    refused: AtomicU64,
}

/// One user.
struct Account {
    allocations: AtomicUsize,
    day: Mutex<Day>,
}

struct Day {
    begun: Instant,
    bytes: u64,
}

impl Accounts {
    /// Nobody uses anything.
    pub fn new(quota: Quota) -> Arc<Self> {
        Arc::new(Self {
            quota,
            users: Mutex::default(),
            allocations: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// A place for one more address of a user; nothing when there is none, or it has had its
    /// share of today.
    pub fn take(self: &Arc<Self>, user: &str, now: Instant) -> Option<Place> {
        let account = self.account(user, now)?;
        if account.spent(now) >= self.quota.bytes_per_day {
            return None;
        }
        let more = |most: usize| move |n: usize| (n < most).then_some(n + 1);
        let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
        let all = &self.allocations;
        all.fetch_update(set, fetch, more(self.quota.in_all)).ok()?;
        let own = account
            .allocations
            .fetch_update(set, fetch, more(self.quota.per_user));
        if own.is_err() {
            all.fetch_sub(1, set);
            return None;
        }
        Some(Place {
            accounts: Arc::clone(self),
            account,
        })
    }

    fn account(&self, user: &str, now: Instant) -> Option<Arc<Account>> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = users.get(user) {
            return Some(Arc::clone(account));
        }
        if users.len() >= MAX_USERS {
            users.retain(|_, account| {
                account.allocations.load(Ordering::Acquire) > 0 || account.spent(now) > 0
            });
        }
        if users.len() >= MAX_USERS {
            return None;
        }
        let account = Arc::new(Account {
            allocations: AtomicUsize::new(0),
            day: Mutex::new(Day {
                begun: now,
                bytes: 0,
            }),
        });
        users.insert(user.to_owned(), Arc::clone(&account));
        Some(account)
    }

    /// Addresses that are given away now, bytes that were passed on, and datagrams that were not
    /// because of where they came from or should go to.
    pub fn totals(&self) -> (usize, u64, u64) {
        (
            self.allocations.load(Ordering::Acquire),
            self.bytes.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }
}

impl Account {
    fn day(&self, now: Instant) -> std::sync::MutexGuard<'_, Day> {
        let mut day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(day.begun) >= DAY {
            *day = Day {
                begun: now,
                bytes: 0,
            };
        }
        day
    }

    fn spent(&self, now: Instant) -> u64 {
        self.day(now).bytes
    }
}

/// An address of a user, given back when dropped.
pub struct Place {
    accounts: Arc<Accounts>,
    account: Arc<Account>,
}

impl Place {
    /// Counts bytes that are passed on. False when they are more than the user may have today.
    pub fn carry(&self, bytes: usize, now: Instant) -> bool {
        let mut day = self.account.day(now);
        let sum = day.bytes.saturating_add(bytes as u64);
        if sum > self.accounts.quota.bytes_per_day {
            return false;
        }
        day.bytes = sum;
        self.accounts
            .bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        true
    }

    /// Counts a datagram that is not passed on because of the address at its other end.
    pub fn refuse(&self) {
        self.accounts.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account.allocations.fetch_sub(1, Ordering::AcqRel);
        self.accounts.allocations.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(per_user: usize, in_all: usize, bytes_per_day: u64) -> Arc<Accounts> {
        Accounts::new(Quota {
            per_user,
            in_all,
            bytes_per_day,
        })
    }

    #[test]
    fn a_user_has_so_many_addresses_and_all_have_so_many_and_they_come_back() {
        let (accounts, now) = (accounts(2, 3, 1000), Instant::now());
        let first = accounts.take("ada", now).unwrap();
        let second = accounts.take("ada", now).unwrap();
        assert!(accounts.take("ada", now).is_none());
        let third = accounts.take("bob", now).unwrap();
        assert!(
            accounts.take("bob", now).is_none(),
            "there are three in all"
        );
        assert!(accounts.take("eve", now).is_none());
        drop(second);
        assert!(accounts.take("ada", now).is_some());
        drop((first, third));
        assert_eq!(accounts.totals().0, 0);
    }

    #[test]
    fn bytes_of_a_day_have_an_end_and_the_next_day_begins_anew() {
        let (accounts, now) = (accounts(9, 9, 1000), Instant::now());
        let place = accounts.take("ada", now).unwrap();
        assert!(place.carry(600, now) && place.carry(400, now) && !place.carry(1, now));
        assert!(
            accounts.take("ada", now).is_none(),
            "nothing is left of today"
        );
        assert!(accounts.take("bob", now).is_some());
        let tomorrow = now + DAY;
        assert!(place.carry(1000, tomorrow));
        assert_eq!(accounts.totals().1, 2000);
    }

    #[test]
    fn users_that_use_nothing_make_room() {
        let (accounts, now) = (accounts(9, 99_999, 1000), Instant::now());
        let held = accounts.take("held", now).unwrap();
        for n in 0..MAX_USERS + 5 {
            assert!(accounts.take(&n.to_string(), now).is_some(), "{n}");
        }
        let users = accounts.users.lock().unwrap();
        assert!(users.len() <= MAX_USERS && users.contains_key("held"));
        drop((users, held));
    }
}
