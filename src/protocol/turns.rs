//! Whose turn it is: at most so many transfers send at a time, in all and of each broadcast.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::allowance::{Priority, Share};
use super::id::BroadcastId;

/// What decides who goes before whom: the priority, then when the broadcast was made, then since
/// when the transfer has been as it is. Times are Unix seconds. The smallest goes first.
pub type Turn = (Reverse<Priority>, u64, u64);

/// The turn of a transfer.
pub fn turn(share: Share, created: u64, updated: u64) -> Turn {
    (Reverse(share.priority), created, updated)
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// So many of all broadcasts may send at a time, and do.
    InAll(usize),
    /// So many of this broadcast may, and do.
    OfBroadcast(u32),
}

/// The places that are taken.
#[derive(Debug, Clone)]
pub struct Places {
    /// How many there are; nothing for any number.
    most: Option<usize>,
    taken: usize,
    of: HashMap<BroadcastId, u32>,
}

impl Places {
    /// So many places, none of them taken.
    pub fn new(most: Option<usize>) -> Self {
        Self {
            most,
            taken: 0,
            of: HashMap::new(),
        }
    }

    /// Somebody has a place.
    pub fn take(&mut self, broadcast: Option<BroadcastId>) {
        self.taken += 1;
        if let Some(broadcast) = broadcast {
            *self.of.entry(broadcast).or_default() += 1;
        }
    }

    /// Why one more of that broadcast would be too many, when it would.
    pub fn full(&self, broadcast: BroadcastId, share: Share) -> Option<Full> {
        let of_it = self.of.get(&broadcast).copied().unwrap_or_default();
        if let Some(most) = share.at_most.filter(|most| of_it >= *most) {
            return Some(Full::OfBroadcast(most));
        }
        let most = self.most.filter(|most| self.taken >= *most)?;
        Some(Full::InAll(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(priority: Priority, at_most: Option<u32>) -> Share {
        Share {
            priority,
            at_most,
            ..Share::default()
        }
    }

    #[test]
    fn the_higher_priority_goes_first_then_the_older_broadcast_then_who_waits_longer() {
        let of = |priority, created, updated| turn(share(priority, None), created, updated);
        let (low, normal, high) = (Priority::Low, Priority::Normal, Priority::High);
        let mut all = [
            of(low, 1, 1),
            of(normal, 3, 4),
            of(normal, 3, 3),
            of(normal, 2, 9),
            of(high, 8, 9),
        ];
        all.sort();
        let order = [
            of(high, 8, 9),
            of(normal, 2, 9),
            of(normal, 3, 3),
            of(normal, 3, 4),
            of(low, 1, 1),
        ];
        assert_eq!(all, order);
    }

    #[test]
    fn a_broadcast_that_is_full_leaves_places_to_others() {
        let (one, two) = (BroadcastId([1; 16]), BroadcastId([2; 16]));
        let few = share(Priority::High, Some(1));
        let mut places = Places::new(Some(2));
        places.take(Some(one));
        assert_eq!(places.full(one, few), Some(Full::OfBroadcast(1)));
        assert_eq!(places.full(two, Share::default()), None);
        places.take(Some(two));
        assert_eq!(places.full(two, Share::default()), Some(Full::InAll(2)));
        assert_eq!(Places::new(None).full(one, Share::default()), None);
    }

    proptest! {
        #[test]
        fn never_more_than_the_places_and_none_stays_free_that_somebody_may_take(
            most in 1usize..6, limits in proptest::collection::vec(proptest::option::of(1u32..4), 3),
            wants in proptest::collection::vec(0usize..3, 0..20)
        ) {
            let mut places = Places::new(Some(most));
            let (mut begun, mut waiting) = (vec![0u32; 3], Vec::new());
            let id = |of: usize| BroadcastId([of as u8; 16]);
            for of in wants {
                match places.full(id(of), share(Priority::Normal, limits[of])) {
                    None => { places.take(Some(id(of))); begun[of] += 1; }
                    Some(_) => waiting.push(of),
                }
            }
            let all = begun.iter().sum::<u32>() as usize;
            prop_assert!(all <= most);
            for (count, limit) in begun.iter().zip(&limits) {
                prop_assert!(limit.is_none_or(|limit| *count <= limit));
            }
            for of in waiting {
                prop_assert!(all == most || limits[of] == Some(begun[of]));
            }
        }
    }
}
