//! Remembers the nonces of proofs, so that none is taken twice (PROTOCOL.md §4).

use std::collections::{BTreeSet, HashMap};

/// Most nonces remembered at once.
pub const MAX_NONCES: usize = 65_536;

/// A writer's key and the nonce it used. The key belongs to it, so that nobody can spend a
/// nonce that he saw in somebody else's proof.
pub type Spent = ([u8; 32], [u8; 16]);

/// Why a nonce is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Seen before.
    #[error("this proof has been used before")]
    Replayed,
    /// No room to remember it.
    #[error("too many proofs in a short time: try again in some minutes")]
    Full,
}

/// A bounded set of spent nonces, each kept until its proof has expired anyway.
///
/// When it is full of nonces that are still in force, new ones are refused. Forgetting one
/// instead would let whoever can fill the set replay the proof that was forgotten; refusing
/// costs a wait. Keep strangers from filling it: check that the peer is authorized before its
/// proof is verified.
#[derive(Debug, Clone)]
pub struct ReplayCache {
    until: HashMap<Spent, u64>,
    by_expiry: BTreeSet<(u64, Spent)>,
    capacity: usize,
}

impl Default for ReplayCache {
    fn default() -> Self {
        Self::new(MAX_NONCES)
    }
}

impl ReplayCache {
    /// A cache of at most `capacity` nonces.
    pub fn new(capacity: usize) -> Self {
        Self {
            until: HashMap::new(),
            by_expiry: BTreeSet::new(),
            capacity,
        }
    }

    /// Takes a nonce that must not come again up to and including `until` (Unix seconds).
    ///
    /// # Errors
    /// [`ReplayError::Replayed`] when it was spent before, [`ReplayError::Full`] when there is
    /// no room.
    pub fn spend(&mut self, nonce: Spent, until: u64, now: u64) -> Result<(), ReplayError> {
        while let Some(oldest) = self.by_expiry.first().copied().filter(|(t, _)| *t < now) {
            self.by_expiry.remove(&oldest);
            self.until.remove(&oldest.1);
        }
        if self.until.contains_key(&nonce) {
            return Err(ReplayError::Replayed);
        }
        if self.until.len() >= self.capacity {
            return Err(ReplayError::Full);
        }
        self.until.insert(nonce, until);
        self.by_expiry.insert((until, nonce));
        Ok(())
    }

    /// How many nonces are remembered.
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// True when nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(n: u8) -> Spent {
        ([0; 32], [n; 16])
    }

    #[test]
    fn a_nonce_is_refused_until_its_proof_has_expired() {
        let mut cache = ReplayCache::default();
        assert_eq!(cache.spend(nonce(1), 100, 50), Ok(()));
        assert_eq!(cache.spend(nonce(1), 100, 100), Err(ReplayError::Replayed));
        assert_eq!(cache.spend(nonce(1), 200, 101), Ok(()));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn the_same_nonce_of_another_key_is_another_nonce() {
        let mut cache = ReplayCache::default();
        assert_eq!(cache.spend(([1; 32], [7; 16]), 100, 50), Ok(()));
        assert_eq!(cache.spend(([2; 32], [7; 16]), 100, 50), Ok(()));
    }

    #[test]
    fn a_full_cache_refuses_new_nonces_and_forgets_none_that_is_in_force() {
        let mut cache = ReplayCache::new(2);
        assert_eq!(cache.spend(nonce(1), 100, 50), Ok(()));
        assert_eq!(cache.spend(nonce(2), 120, 50), Ok(()));
        assert_eq!(cache.spend(nonce(3), 500, 50), Err(ReplayError::Full));
        assert_eq!(cache.spend(nonce(1), 100, 50), Err(ReplayError::Replayed));
        assert_eq!(cache.spend(nonce(3), 500, 101), Ok(()));
    }
}
