//! How long is waited for what a neighbour was asked for. Only time in which we listened counts: a
//! disk of ours that stands still, or a machine that is too busy, must not make liars of others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Between two looks no more time than this counts.
const LOOK: Duration = Duration::from_secs(1);
/// So many times as long as for any chunk is waited for each of them.
const SLOW: u32 = 4;

/// What one neighbour was asked for, and since when.
pub(super) struct Patience {
    limit: Duration,
    /// Time in which we listened, and when it was last counted.
    clock: Duration,
    looked: Option<Instant>,
    /// When something that we asked for last came, or we began to ask, on that clock.
    moved: Duration,
    asked: HashMap<u32, Duration>,
}

impl Patience {
    /// Within `limit` something must come while something is asked for.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            clock: Duration::ZERO,
            looked: None,
            moved: Duration::ZERO,
            asked: HashMap::new(),
        }
    }

    fn look(&mut self, now: Instant) {
        let passed = self
            .looked
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.clock += passed.min(LOOK);
        self.looked = Some(now);
    }

    /// The chunks that were asked for and have not come.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.asked.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.asked.len()
    }

    /// These are asked for now.
    pub(super) fn ask(&mut self, chunks: &[u32], now: Instant) {
        self.look(now);
        if self.asked.is_empty() {
            self.moved = self.clock;
        }
        let since = self.clock;
        self.asked
            .extend(chunks.iter().map(|chunk| (*chunk, since)));
    }

    /// A chunk has come. False when nobody waits for it.
    pub(super) fn came(&mut self, chunk: u32, now: Instant) -> bool {
        self.look(now);
        let waited = self.asked.remove(&chunk).is_some();
        if waited {
            self.moved = self.clock;
        }
        waited
    }

    /// A chunk is not waited for any more.
    pub(super) fn take_back(&mut self, chunk: u32) {
        self.asked.remove(&chunk);
    }

    /// Why nothing more is to be expected, when that is so at the time `now`. To be asked more
    /// often than once in a second.
    pub(super) fn runs_out(&mut self, now: Instant) -> Option<&'static str> {
        self.look(now);
        let oldest = self.asked.values().min()?;
        if self.clock - self.moved > self.limit {
            return Some("it said that it has chunks, and did not send them");
        }
        (self.clock - *oldest > self.limit * SLOW)
            .then_some("it sends the chunks that it said it has far too slowly")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const TICK: Duration = Duration::from_millis(200);

    fn listen(
        patience: &mut Patience,
        now: &mut Instant,
        how_long: Duration,
    ) -> Option<&'static str> {
        let end = *now + how_long;
        while *now < end {
            *now += TICK;
            if let Some(reason) = patience.runs_out(*now) {
                return Some(reason);
            }
        }
        None
    }

    #[test]
    fn who_sends_nothing_is_given_up_after_the_limit_and_not_before() {
        let (mut patience, mut now) = (Patience::new(LIMIT), Instant::now());
        assert_eq!(
            listen(&mut patience, &mut now, 9 * LIMIT),
            None,
            "nothing is asked for"
        );
        patience.ask(&[1, 2], now);
        assert_eq!(listen(&mut patience, &mut now, LIMIT), None);
        let reason = listen(&mut patience, &mut now, 2 * TICK);
        assert!(reason.unwrap().contains("did not send"));
    }

    #[test]
    fn who_sends_a_little_now_and_then_is_given_up_in_the_end() {
        let (mut patience, mut now) = (Patience::new(LIMIT), Instant::now());
        patience.ask(&[0], now);
        let begun = now;
        let reason = (1..100).find_map(|chunk| {
            patience.ask(&[chunk], now);
            let reason = listen(&mut patience, &mut now, LIMIT - TICK);
            // Never the first one.
            assert!(patience.came(chunk, now));
            reason
        });
        assert!(reason.unwrap().contains("slowly"));
        assert!(now - begun <= (SLOW + 1) * LIMIT);
    }

    #[test]
    fn our_own_standstill_is_not_counted_against_a_neighbour() {
        let (mut patience, mut now) = (Patience::new(LIMIT), Instant::now());
        patience.ask(&[1], now);
        now += 10 * LIMIT;
        assert_eq!(patience.runs_out(now), None);
        assert!(patience.came(1, now));
        assert!(!patience.came(1, now), "once");
        patience.ask(&[2], now);
        patience.take_back(2);
        assert_eq!(listen(&mut patience, &mut now, 9 * LIMIT), None);
    }
}
