//! A PIN that stands: many devices may come in by it, one after another, and it changes by itself.
//! What is guessed wrong closes it for a while, each time for longer.

use std::time::{Duration, Instant};

use super::pin::TRIES;

/// How long it is closed after three wrong guesses, at first; each time twice as long.
pub const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// Why nothing can be tried now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StandingClosed {
    /// Others are at it.
    #[error("others are typing the PIN at this moment: try again in a few seconds")]
    Busy,
    /// It was guessed wrong.
    #[error("the PIN was typed wrong three times: a new one, or new tries, come in a while")]
    Closed,
}

/// A PIN, how long it stands, and how often it may still be guessed wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingPin {
    pin: String,
    every: Duration,
    tries: u8,
    closed: bool,
    /// When the next PIN comes, or the tries come back.
    until: Instant,
    pause: Duration,
}

impl StandingPin {
    /// A PIN that stands from now on; another takes its place each `every`.
    pub fn new(now: Instant, pin: String, every: Duration) -> Self {
        Self {
            pin,
            every,
            tries: TRIES,
            closed: false,
            until: now + every,
            pause: FIRST_PAUSE.min(every),
        }
    }

    /// The PIN while it can be used.
    pub fn pin(&self) -> Option<&str> {
        (!self.closed).then_some(self.pin.as_str())
    }

    /// How long until it is another one, or is open again.
    pub fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }

    /// Uses up a guess, before a share is answered; [`Self::succeeded`] gives it back.
    ///
    /// # Errors
    /// When no guess is allowed now.
    pub fn take(&mut self) -> Result<(), StandingClosed> {
        if self.closed {
            return Err(StandingClosed::Closed);
        }
        self.tries = self.tries.checked_sub(1).ok_or(StandingClosed::Busy)?;
        Ok(())
    }

    /// A guess was right: it does not count.
    pub fn succeeded(&mut self) {
        self.tries = (self.tries + 1).min(TRIES);
    }

    /// Closes it when all guesses are used up and nobody is at it any more. True when that is
    /// news.
    pub fn close_if_spent(&mut self, now: Instant, under_way: usize) -> bool {
        if self.closed || self.tries > 0 || under_way > 0 {
            return false;
        }
        self.closed = true;
        self.until = now + self.pause;
        self.pause = (self.pause * 2).min(self.every);
        true
    }

    /// True when [`Self::renew`] is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Stands again, with all tries. Where nothing was guessed wrong since the last time, the next
    /// pause is short again.
    pub fn renew(&mut self, now: Instant, pin: String) {
        if !self.closed && self.tries == TRIES {
            self.pause = FIRST_PAUSE.min(self.every);
        }
        self.pin = pin;
        self.tries = TRIES;
        self.closed = false;
        self.until = now + self.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn many_come_in_by_it_and_three_wrong_guesses_close_it_for_longer_each_time() {
        let mut now = Instant::now();
        let mut pin = StandingPin::new(now, "123456".to_owned(), HOUR);
        for _ in 0..1000 {
            pin.take().unwrap();
            pin.succeeded();
        }
        let (mut guesses, end) = (0, now + 24 * HOUR);
        while now < end {
            while pin.take().is_ok() {
                guesses += 1;
            }
            assert!(!pin.close_if_spent(now, 1), "one of them may be right");
            assert_eq!(pin.take(), Err(StandingClosed::Busy));
            assert!(pin.close_if_spent(now, 0) && !pin.close_if_spent(now, 0));
            assert_eq!(pin.take(), Err(StandingClosed::Closed));
            assert_eq!(pin.pin(), None);
            assert!(!pin.is_due(now));
            now += pin.left(now);
            assert!(pin.is_due(now));
            pin.renew(now, "654321".to_owned());
        }
        assert!((72..=100).contains(&guesses), "{guesses} guesses in a day");
    }

    #[test]
    fn after_a_time_without_a_wrong_guess_the_next_pause_is_short_again() {
        let now = Instant::now();
        let mut pin = StandingPin::new(now, "123456".to_owned(), HOUR);
        for _ in 0..2 {
            (0..TRIES).for_each(|_| pin.take().unwrap());
            assert!(pin.close_if_spent(now, 0));
            pin.renew(now, "1".to_owned());
        }
        assert_eq!(pin.pause, 4 * FIRST_PAUSE);
        pin.renew(now, "2".to_owned());
        assert_eq!((pin.pause, pin.pin()), (FIRST_PAUSE, Some("2")));
    }
}
