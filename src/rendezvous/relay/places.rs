//! Where the two ends of relayed links find each other, and what a link has carried.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use actix_web::http::StatusCode;
use tokio::sync::{mpsc, oneshot, watch};

use super::outlet::Frame;
use crate::rendezvous::problem::Problem;

/// What holds for relayed links.
#[derive(Debug, Clone)]
pub(in crate::rendezvous) struct Terms {
    /// Open ones.
    pub most: usize,
    /// Those of one user.
    pub most_of_user: usize,
    /// Bytes of one.
    pub bytes: u64,
    /// Bytes of one user in a day.
    pub day: u64,
}

/// All relayed links of this server.
pub(in crate::rendezvous) struct Relays {
    pub(super) terms: Terms,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    places: HashMap<String, Place>,
    of_users: HashMap<i64, usize>,
}

struct Place {
    /// Gone as soon as neither end holds it.
    link: Weak<Link>,
    first: i64,
    outlet: mpsc::Sender<Frame>,
    /// Tells the first end of the second; nothing once there is one.
    join: Option<oneshot::Sender<mpsc::Sender<Frame>>>,
}

/// How a link came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    /// One end has closed it.
    Closed,
    /// One end is gone.
    Lost,
    /// It may not go on.
    Refused(String),
    /// The server stops.
    Stopping,
}

/// A link, held by its ends.
pub(super) struct Link {
    key: String,
    relays: Arc<Relays>,
    users: Mutex<Vec<i64>>,
    /// Its place is another's to take.
    released: AtomicBool,
    carried: AtomicU64,
    counted: AtomicU64,
    over: watch::Sender<Option<Over>>,
}

/// What one end finds.
pub(super) enum Found {
    /// Nobody; the other one comes over this.
    Nobody(oneshot::Receiver<mpsc::Sender<Frame>>),
    /// The other end.
    Other(mpsc::Sender<Frame>),
}

impl Relays {
    pub(in crate::rendezvous) fn new(terms: Terms) -> Self {
        Self {
            terms,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One end comes. Where `apart` is set, one user cannot be both: who comes again takes the
    /// place of their own earlier connection.
    pub(super) fn come(
        self: &Arc<Self>,
        key: &str,
        user: i64,
        outlet: &mpsc::Sender<Frame>,
        apart: bool,
    ) -> Result<(Arc<Link>, Found), Problem> {
        loop {
            // No link may end while the places are locked: it gives back its own.
            let (mut replaced, mut dropped) = (Vec::new(), Vec::new());
            let come = self.come_once(key, user, outlet, apart, &mut replaced, &mut dropped);
            drop(dropped);
            for link in replaced {
                link.end(Over::Refused("this user has come again".to_owned()));
            }
            if let Some(come) = come {
                return come;
            }
        }
    }

    fn come_once(
        self: &Arc<Self>,
        key: &str,
        user: i64,
        outlet: &mpsc::Sender<Frame>,
        apart: bool,
        replaced: &mut Vec<Arc<Link>>,
        dropped: &mut Vec<Arc<Link>>,
    ) -> Option<Result<(Arc<Link>, Found), Problem>> {
        let mut inner = self.inner();
        if let Some(place) = inner.places.get_mut(key)
            && let Some(link) = place.link.upgrade()
        {
            if apart && place.first == user && place.join.is_some() {
                replaced.push(link);
                return None;
            }
            let (first, other) = (place.first, place.outlet.clone());
            let Some(join) = place.join.take() else {
                dropped.push(link);
                let text = "this relayed link has two ends already";
                return Some(Err(Problem::new(StatusCode::CONFLICT, "taken", text)));
            };
            if first != user && !self.has_room(&inner, user) {
                dropped.push(link);
                // The first one goes on waiting.
                if let Some(place) = inner.places.get_mut(key) {
                    place.join = Some(join);
                }
                return Some(Err(self.too_many_of_user()));
            }
            // From the next step on the first one may put something in; nothing is in it yet.
            let _ = outlet.try_send(Frame::joined());
            if join.send(outlet.clone()).is_err() {
                // The first one has just gone.
                inner.places.remove(key);
                dropped.push(link);
                return None;
            }
            if first != user {
                link.add_user(&mut inner, user);
            }
            return Some(Ok((link, Found::Other(other))));
        }
        if inner.places.len() >= self.terms.most {
            let text = match self.terms.most {
                0 => "this rendezvous relays nothing",
                _ => "as many relayed links are open as this rendezvous takes; try again later",
            };
            return Some(Err(Problem::unavailable(text)));
        }
        if !self.has_room(&inner, user) {
            return Some(Err(self.too_many_of_user()));
        }
        let link = Arc::new(Link {
            key: key.to_owned(),
            relays: Arc::clone(self),
            users: Mutex::default(),
            released: AtomicBool::new(false),
            carried: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            over: watch::Sender::new(None),
        });
        link.add_user(&mut inner, user);
        let (join, joined) = oneshot::channel();
        let place = Place {
            link: Arc::downgrade(&link),
            first: user,
            outlet: outlet.clone(),
            join: Some(join),
        };
        inner.places.insert(key.to_owned(), place);
        Some(Ok((link, Found::Nobody(joined))))
    }

    fn has_room(&self, inner: &Inner, user: i64) -> bool {
        inner.of_users.get(&user).copied().unwrap_or(0) < self.terms.most_of_user
    }

    fn too_many_of_user(&self) -> Problem {
        let most = self.terms.most_of_user;
        let text = format!("this user has {most} relayed links already");
        Problem::too_many(text, std::time::Duration::from_secs(30))
    }

    /// True while somebody is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.inner().places.contains_key(key)
    }

    /// All of them.
    pub(in crate::rendezvous) fn keys(&self) -> Vec<String> {
        self.inner().places.keys().cloned().collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.inner().places.len()
    }
}

impl Link {
    fn add_user(&self, inner: &mut Inner, user: i64) {
        *inner.of_users.entry(user).or_default() += 1;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.push(user);
    }

    /// Whose it is.
    pub(super) fn users(&self) -> Vec<i64> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.clone()
    }

    /// Ends it, unless it has ended. Its place is free at once.
    pub(super) fn end(&self, over: Over) {
        self.over.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(over);
            }
            first
        });
        self.release();
    }

    fn release(&self) {
        let mut inner = self.relays.inner();
        if self.released.swap(true, Ordering::Relaxed) {
            return;
        }
        // Another link may have the place by now.
        let ours = |place: &Place| std::ptr::eq(place.link.as_ptr(), self);
        if inner.places.get(&self.key).is_some_and(ours) {
            inner.places.remove(&self.key);
        }
        for user in self.users() {
            if let Some(count) = inner.of_users.get_mut(&user) {
                *count -= 1;
                if *count == 0 {
                    inner.of_users.remove(&user);
                }
            }
        }
    }

    pub(super) fn over(&self) -> watch::Receiver<Option<Over>> {
        self.over.subscribe()
    }

    /// Counts bytes, and ends the link where they are too many.
    pub(super) fn carries(&self, bytes: usize) -> bool {
        let before = self.carried.fetch_add(bytes as u64, Ordering::Relaxed);
        let most = self.relays.terms.bytes;
        if before.saturating_add(bytes as u64) <= most {
            return true;
        }
        self.end(Over::Refused(format!(
            "a relayed link may carry {most} bytes at most"
        )));
        false
    }

    /// What it has carried since the last call.
    pub(super) fn since_last(&self) -> u64 {
        let carried = self.carried.load(Ordering::Relaxed);
        carried.saturating_sub(self.counted.swap(carried, Ordering::Relaxed))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relays() -> Arc<Relays> {
        Arc::new(Relays::new(Terms {
            most: 2,
            most_of_user: 1,
            bytes: 100,
            day: 100,
        }))
    }

    fn come(relays: &Arc<Relays>, key: &str, user: i64) -> Result<(Arc<Link>, Found), Problem> {
        relays.come(key, user, &mpsc::channel(1).0, true)
    }

    #[test]
    fn two_are_joined_a_third_is_not_and_the_place_is_free_at_the_end() {
        let relays = relays();
        let (first, Found::Nobody(mut joined)) = come(&relays, "a", 1).unwrap() else {
            panic!("nobody is there yet");
        };
        assert!(joined.try_recv().is_err());
        let (second, Found::Other(_)) = come(&relays, "a", 2).unwrap() else {
            panic!("somebody is there");
        };
        assert!(joined.try_recv().is_ok());
        assert!(come(&relays, "a", 3).is_err());
        assert!(come(&relays, "b", 1).is_err(), "one link of each user");
        drop((first, second));
        assert_eq!(relays.count(), 0);
        assert!(come(&relays, "a", 3).is_ok());
    }

    #[test]
    fn what_the_first_one_sends_comes_after_joined() {
        let relays = relays();
        let (_first, Found::Nobody(mut joined)) = come(&relays, "a", 1).unwrap() else {
            panic!("nobody is there yet");
        };
        let (outlet, _inbox) = mpsc::channel(1);
        let _second = relays.come("a", 2, &outlet, true).unwrap();
        let to_second = joined.try_recv().unwrap();
        assert!(to_second.try_send(Frame::joined()).is_err(), "it is there");
    }

    #[test]
    fn who_comes_again_takes_the_own_place() {
        let relays = relays();
        let (old, _) = come(&relays, "a", 1).unwrap();
        let new = come(&relays, "a", 1);
        assert!(matches!(new, Ok((_, Found::Nobody(_)))));
        assert!(matches!(*old.over().borrow(), Some(Over::Refused(_))));
        drop(old);
        assert_eq!(relays.count(), 1, "the place is the new one's");
    }

    #[test]
    fn a_link_ends_when_it_has_carried_enough() {
        let relays = relays();
        let (link, _) = come(&relays, "a", 1).unwrap();
        assert!(link.carries(60) && link.carries(40));
        assert_eq!(link.since_last(), 100);
        assert!(!link.carries(1));
        assert!(matches!(*link.over().borrow(), Some(Over::Refused(_))));
        assert_eq!(link.since_last(), 1);
    }
}
