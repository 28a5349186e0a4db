//! How often a peer may say something.

use std::time::{Duration, Instant};

/// At most so many events in a span of time, counted from the first one of each span.
#[derive(Debug, Clone)]
pub struct Rate {
    most: u32,
    span: Duration,
    begun: Option<Instant>,
    count: u32,
}

impl Rate {
    /// At most `most` events per `span`.
    pub fn new(most: u32, span: Duration) -> Self {
        Self {
            most,
            span,
            begun: None,
            count: 0,
        }
    }

    /// Counts an event at the time `now`. False when it is one too many.
    pub fn take(&mut self, now: Instant) -> bool {
        let within = self
            .begun
            .is_some_and(|begun| now.saturating_duration_since(begun) < self.span);
        if !within {
            self.begun = Some(now);
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.count <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_in_one_span_is_taken_again_in_the_next() {
        let (start, span) = (Instant::now(), Duration::from_secs(10));
        let mut rate = Rate::new(2, span);
        assert!(rate.take(start) && rate.take(start));
        assert!(!rate.take(start + span / 2));
        assert!(rate.take(start + span) && rate.take(start + span));
        assert!(!rate.take(start + span));
    }
}
