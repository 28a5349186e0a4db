//! How many sockets of devices are open: in all, of each user, and of those that have not proven yet
//! whose they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rendezvous::problem::Problem;

/// Sockets whose devices have not proven who they are; they hold up no others.
pub(super) const UNPROVEN: usize = 1024;

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(in crate::rendezvous) struct Limits {
    /// Devices that have proven who they are.
    pub all: usize,
    /// Sockets of one user.
    pub of_user: usize,
}

/// All that are open at this server.
#[derive(Debug)]
pub(in crate::rendezvous) struct Seats {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    proven: usize,
    unproven: usize,
    of_users: HashMap<i64, usize>,
}

/// The place of one socket, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    user: i64,
    proven: bool,
}

/// Why there is no place for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    /// Too many in all.
    #[error("as many devices are here as this rendezvous takes; try again later")]
    All,
    /// Too many of one user.
    #[error("this user has {0} open sockets of devices already")]
    User(usize),
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        match full {
            Full::All => Self::unavailable(full.to_string()),
            Full::User(_) => Self::too_many(full.to_string(), Duration::from_secs(30)),
        }
    }
}

impl Seats {
    pub(in crate::rendezvous) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            inner: Mutex::default(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a socket that has to prove whose it is.
    pub(super) fn take(self: &Arc<Self>, user: i64) -> Result<Seat, Full> {
        let Limits { all, of_user } = self.limits;
        let mut inner = self.inner();
        if inner.proven >= all || inner.unproven >= UNPROVEN.min(all) {
            return Err(Full::All);
        }
        let of_this = inner.of_users.entry(user).or_default();
        if *of_this >= of_user {
            return Err(Full::User(of_user));
        }
        *of_this += 1;
        inner.unproven += 1;
        drop(inner);
        Ok(Seat {
            seats: Arc::clone(self),
            user,
            proven: false,
        })
    }

    /// Devices that have proven who they are.
    pub(in crate::rendezvous) fn proven(&self) -> usize {
        self.inner().proven
    }
}

impl Seat {
    /// The device has proven who it is.
    pub(super) fn prove(&mut self) -> Result<(), Full> {
        let mut inner = self.seats.inner();
        if inner.proven >= self.seats.limits.all {
            return Err(Full::All);
        }
        if !std::mem::replace(&mut self.proven, true) {
            inner.unproven -= 1;
            inner.proven += 1;
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.seats.inner();
        match self.proven {
            true => inner.proven -= 1,
            false => inner.unproven -= 1,
        }
        if let Some(count) = inner.of_users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                inner.of_users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_and_who_proves_nothing_takes_no_place_of_those_who_do() {
        let limits = Limits {
            all: UNPROVEN + 2,
            of_user: UNPROVEN,
        };
        let seats = Seats::new(limits);
        let silent: Vec<_> = (0..UNPROVEN).map(|_| seats.take(1).unwrap()).collect();
        assert_eq!(seats.take(2).unwrap_err(), Full::All);
        drop(silent);
        let prove = |user| {
            let mut seat = seats.take(user)?;
            seat.prove().map(|()| seat)
        };
        let first: Vec<_> = (0..UNPROVEN).map(|_| prove(1).unwrap()).collect();
        assert_eq!(prove(1).unwrap_err(), Full::User(UNPROVEN));
        let mut late = [
            seats.take(2).unwrap(),
            seats.take(3).unwrap(),
            seats.take(4).unwrap(),
        ];
        assert_eq!((late[0].prove(), late[1].prove()), (Ok(()), Ok(())));
        assert_eq!(late[2].prove(), Err(Full::All), "somebody else was faster");
        assert_eq!(seats.proven(), UNPROVEN + 2);
        drop((first, late));
        let inner = seats.inner();
        assert_eq!(
            (inner.proven, inner.unproven, inner.of_users.len()),
            (0, 0, 0)
        );
    }
}
