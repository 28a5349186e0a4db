//! Which sessions are attended to: none twice, and so many of one user.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Sessions of one user of the rendezvous at once: a quarter of all.
const MAX_OF_USER: usize = 16;
/// Sessions that are remembered, so that none is looked at twice.
const REMEMBERED: usize = 10_000;

/// Whose sessions are being attended to; each holds a place while it is.
#[derive(Default)]
pub(super) struct Places(HashMap<String, Arc<()>>);

impl Places {
    /// One for a session of this user; nothing where it has as many as it may.
    pub(super) fn take(&mut self, user: &str) -> Option<Arc<()>> {
        // This map holds each user's once itself.
        self.0.retain(|_, taken| Arc::strong_count(taken) > 1);
        let taken = self.0.entry(user.to_owned()).or_default();
        (Arc::strong_count(taken) <= MAX_OF_USER).then(|| Arc::clone(taken))
    }
}

/// Sessions that have been looked at.
#[derive(Default)]
pub(super) struct Known {
    all: HashSet<String>,
    order: VecDeque<String>,
}

impl Known {
    pub(super) fn is_new(&mut self, id: &str) -> bool {
        if !self.all.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_SESSIONS;
    use super::*;

    #[test]
    fn one_user_has_a_quarter_of_the_places_and_gets_them_back() {
        let mut places = Places::default();
        let mut taken: Vec<_> = std::iter::from_fn(|| places.take("one")).collect();
        assert_eq!(taken.len(), MAX_SESSIONS / 4);
        let other = places.take("other");
        assert!(other.is_some());
        taken.pop();
        taken.extend(places.take("one"));
        assert_eq!(taken.len(), MAX_SESSIONS / 4);
        assert!(places.take("one").is_none());
        drop((taken, other));
        assert!(places.take("third").is_some());
        assert_eq!(places.0.len(), 1, "nobody is remembered for nothing");
    }
}
