//! Whether what was sent arrives at the other side's transport: a connection that stands, and on
//! which nothing moves any more, is of no use to anybody.

use std::time::{Duration, Instant};

/// What has arrived so far, and since when it has not become more.
#[derive(Debug)]
pub struct Standstill {
    limit: Duration,
    arrived: u64,
    since: Instant,
}

impl Standstill {
    /// Nothing was sent yet. A connection that delivers nothing for `limit`, though there is
    /// something to deliver, stands still.
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self {
            limit,
            arrived: 0,
            since: now,
        }
    }

    /// So many bytes were sent in all, and so many of them have not arrived. True when it stands
    /// still.
    pub fn look(&mut self, sent: u64, outstanding: u64, now: Instant) -> bool {
        let arrived = sent.saturating_sub(outstanding);
        if outstanding == 0 || arrived > self.arrived {
            self.arrived = self.arrived.max(arrived);
            self.since = now;
        }
        now.saturating_duration_since(self.since) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn only_what_is_under_way_and_does_not_arrive_is_a_standstill() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut link = Standstill::new(LIMIT, begun);
        // Nothing to say for an hour is none.
        assert!(!link.look(0, 0, at(3600)));
        assert!(!link.look(100, 100, at(3601)));
        // Slow is not still.
        assert!(!link.look(100, 99, at(3629)));
        assert!(!link.look(100, 98, at(3658)));
        // More that is sent brings none of it there.
        assert!(!link.look(500, 498, at(3687)));
        assert!(link.look(900, 898, at(3688)));
        // It moves again.
        assert!(!link.look(900, 400, at(3689)));
        assert!(!link.look(900, 0, at(9000)));
        assert!(!link.look(901, 1, at(9029)));
        assert!(link.look(901, 1, at(9030)));
    }

    #[test]
    fn a_count_that_is_behind_for_a_moment_is_no_news() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut link = Standstill::new(LIMIT, begun);
        assert!(!link.look(100, 50, at(1)));
        // The stack has counted a message that the sender has not yet.
        assert!(!link.look(100, 90, at(20)));
        assert!(link.look(140, 90, at(31)), "50 had arrived before");
    }
}
