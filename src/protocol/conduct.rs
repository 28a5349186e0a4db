//! What a device that is let in may do to us by talking: how much it may say in a while, and how
//! long it stays out after it has broken the protocol.

use std::time::{Duration, Instant};

use super::message::Message;
use super::rate::Rate;

/// Text messages of one link in [`SPAN`], ACKs that bring something left out. A series of tiny
/// bundles needs a few hundred.
const MOST_MESSAGES: u32 = 4096;
/// Of these, such as stop, resume or cancel a transfer, or are about first contact: each of them
/// may be written to the disk.
const MOST_TURNS: u32 = 128;
/// The time in which messages are counted.
const SPAN: Duration = Duration::from_secs(10);
/// How long a device stays out the first time; twice as long each further time,
const FIRST_BAR: Duration = Duration::from_secs(5);
/// but never longer than this.
const LONGEST_BAR: Duration = Duration::from_secs(80);
/// After this time without a fault, all is forgotten.
const FORGIVEN: Duration = Duration::from_secs(600);

/// What is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Messages of any kind.
    #[error("more than {MOST_MESSAGES} messages within {} s", SPAN.as_secs())]
    Messages,
    /// Messages that stop and start things.
    #[error(
        "transfers were stopped and started more than {MOST_TURNS} times within {} s",
        SPAN.as_secs()
    )]
    Turns,
}

/// Counts what is said on one link.
#[derive(Debug, Clone)]
pub struct Talk {
    messages: Rate,
    turns: Rate,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            messages: Rate::new(MOST_MESSAGES, SPAN),
            turns: Rate::new(MOST_TURNS, SPAN),
        }
    }
}

impl Talk {
    /// Counts a message that came at the time `now`.
    ///
    /// # Errors
    /// It is one too many.
    pub fn hear(&mut self, message: &Message, now: Instant) -> Result<(), TooMuch> {
        match message {
            // How many there may be depends on how much is sent: see `Talk::vain`.
            Message::Ack { .. } => Ok(()),
            Message::Pause { .. }
            | Message::Cancel { .. }
            | Message::Resume { .. }
            | Message::Pair(_) => {
                self.turn(now)?;
                self.vain(now)
            }
            _ => self.vain(now),
        }
    }

    /// Counts a message that is like any other: an ACK that acknowledges nothing.
    ///
    /// # Errors
    /// It is one too many.
    pub fn vain(&mut self, now: Instant) -> Result<(), TooMuch> {
        match self.messages.take(now) {
            true => Ok(()),
            false => Err(TooMuch::Messages),
        }
    }

    /// Counts that something was stopped, or begun anew.
    ///
    /// # Errors
    /// It is one too many.
    pub fn turn(&mut self, now: Instant) -> Result<(), TooMuch> {
        match self.turns.take(now) {
            true => Ok(()),
            false => Err(TooMuch::Turns),
        }
    }
}

/// The faults of one device, over all its links. Only what a proven device did counts: else
/// anybody could keep another one out.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    count: u32,
    last: Option<Instant>,
}

impl Faults {
    /// The device has broken the protocol, or lied, at the time `now`.
    pub fn add(&mut self, now: Instant) {
        if self.since(now).is_none_or(|since| since >= FORGIVEN) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// For how long it still stays out; nothing when it may come.
    pub fn bar(&self, now: Instant) -> Option<Duration> {
        let doubled = self.count.checked_sub(1)?.min(16);
        let bar = (FIRST_BAR * (1 << doubled)).min(LONGEST_BAR);
        bar.checked_sub(self.since(now)?)
            .filter(|left| !left.is_zero())
    }

    fn since(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.last?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resume() -> Message {
        Message::Resume { handle: 1 }
    }

    fn need() -> Message {
        Message::Need {
            handle: 1,
            have: None,
        }
    }

    #[test]
    fn a_flood_of_messages_is_too_much_and_a_long_talk_is_not() {
        let (start, mut talk) = (Instant::now(), Talk::default());
        for minute in 0..10 {
            let now = start + Duration::from_secs(60 * minute);
            (0..MOST_MESSAGES).for_each(|_| assert_eq!(talk.hear(&need(), now), Ok(())));
        }
        let now = start + Duration::from_secs(541);
        assert_eq!(talk.hear(&need(), now), Err(TooMuch::Messages));
        assert_eq!(talk.vain(now), Err(TooMuch::Messages));
        assert_eq!(
            talk.hear(
                &Message::Ack {
                    handle: 1,
                    bytes: 1
                },
                now
            ),
            Ok(())
        );
    }

    #[test]
    fn what_stops_and_starts_transfers_has_a_limit_of_its_own() {
        let (now, mut talk) = (Instant::now(), Talk::default());
        (0..MOST_TURNS).for_each(|_| assert_eq!(talk.hear(&resume(), now), Ok(())));
        assert_eq!(talk.hear(&resume(), now), Err(TooMuch::Turns));
        assert_eq!(talk.turn(now), Err(TooMuch::Turns));
        assert_eq!(talk.hear(&need(), now), Ok(()));
        assert_eq!(talk.hear(&resume(), now + SPAN), Ok(()));
    }

    #[test]
    fn whoever_breaks_the_protocol_again_stays_out_for_longer() {
        let (start, mut faults) = (Instant::now(), Faults::default());
        assert_eq!(faults.bar(start), None);
        faults.add(start);
        assert_eq!(faults.bar(start), Some(FIRST_BAR));
        assert_eq!(faults.bar(start + FIRST_BAR), None);
        let again = start + FIRST_BAR;
        faults.add(again);
        assert_eq!(faults.bar(again), Some(FIRST_BAR * 2));
        (0..100).for_each(|_| faults.add(again));
        assert_eq!(faults.bar(again), Some(LONGEST_BAR));
        assert_eq!(faults.bar(again + LONGEST_BAR), None);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (start, mut faults) = (Instant::now(), Faults::default());
        (0..5).for_each(|_| faults.add(start));
        faults.add(start + FORGIVEN);
        assert_eq!(faults.bar(start + FORGIVEN), Some(FIRST_BAR));
    }
}
