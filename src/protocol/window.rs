//! How many payload bytes may be under way on a link (PROTOCOL.md §9, flow control).
//!
//! SCTP over a shallow switch queue collapses when the queue overflows, so the sender keeps the
//! queue short itself: delay is watched through ACKs, the window grows while delay stays within
//! 8 ms of its minimum and the window was what limited us, and shrinks when it does not. The
//! rule "under 1.5 times the minimum round trip" collapses, because the minimum depends on the
//! message size; a fixed allowance does not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::frame::MAX_MESSAGE;

/// Delay above the minimum that still counts as an empty queue.
const ALLOWANCE: Duration = Duration::from_millis(8);
/// The minimum round trip is forgotten after this long, so that a changed path is noticed.
const MINIMUM_LIFE: Duration = Duration::from_secs(10);

/// Bounds of a window, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowLimits {
    /// Never below this; two messages, or the link goes stop and wait.
    pub min: u64,
    /// Never above this.
    pub max: u64,
}

/// The window of one transfer on one link.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    size: u64,
    sent: u64,
    acked: u64,
    /// Marks: total bytes sent when an ACK was asked for, and when that was. Short, because
    /// only a few are asked for per window.
    marks: VecDeque<Mark>,
    last_mark: u64,
    minimum: Option<(Duration, Instant)>,
    /// Windows shrink at most once per round trip: not before this many bytes are acknowledged.
    hold_until: u64,
}

#[derive(Debug)]
struct Mark {
    at_bytes: u64,
    at: Instant,
    /// The window was full when this was sent.
    limited: bool,
}

impl Window {
    /// A window that starts at its minimum twice over.
    pub fn new(limits: WindowLimits) -> Self {
        let size = (limits.min * 2).min(limits.max);
        Self {
            limits,
            size,
            sent: 0,
            acked: 0,
            marks: VecDeque::new(),
            last_mark: 0,
            minimum: None,
            hold_until: 0,
        }
    }

    /// Whether a message of `bytes` may go now. An empty window takes a message of any size.
    pub fn admits(&self, bytes: u64) -> bool {
        let under_way = self.sent - self.acked;
        under_way == 0 || under_way + bytes <= self.size
    }

    /// Takes note that a message of `bytes` goes out now, and says whether it shall ask for an
    /// ACK: about four times per window.
    pub fn send(&mut self, bytes: u64, now: Instant) -> bool {
        self.sent += bytes;
        // Whenever the next message might have to wait, an ACK must be on its way.
        let limited = !self.admits(MAX_MESSAGE as u64);
        let ask = self.sent - self.last_mark >= self.size / 4 || limited;
        if ask {
            self.last_mark = self.sent;
            self.marks.push_back(Mark {
                at_bytes: self.sent,
                at: now,
                limited,
            });
        }
        ask
    }

    /// Takes the other side's count of bytes. A count that goes back, or is above what was sent,
    /// is false and changes nothing.
    pub fn acknowledge(&mut self, bytes: u64, now: Instant) {
        if bytes <= self.acked || bytes > self.sent {
            return;
        }
        self.acked = bytes;
        let mut newest = None;
        while self
            .marks
            .front()
            .is_some_and(|mark| mark.at_bytes <= bytes)
        {
            newest = self.marks.pop_front();
        }
        if let Some(mark) = newest {
            self.measure(now.saturating_duration_since(mark.at), mark.limited, now);
        }
    }

    fn measure(&mut self, round_trip: Duration, limited: bool, now: Instant) {
        let minimum = match self.minimum {
            Some((least, since)) if least <= round_trip && now - since < MINIMUM_LIFE => least,
            _ => {
                self.minimum = Some((round_trip, now));
                round_trip
            }
        };
        if round_trip > minimum + ALLOWANCE {
            if self.acked >= self.hold_until {
                self.size = (self.size * 3 / 4).max(self.limits.min);
                self.hold_until = self.sent;
            }
        } else if limited {
            self.size = (self.size + self.size / 8).min(self.limits.max);
        }
    }

    /// Bytes sent and not acknowledged.
    pub fn under_way(&self) -> u64 {
        self.sent - self.acked
    }

    /// The window's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: WindowLimits = WindowLimits {
        min: 128 << 10,
        max: 1 << 20,
    };
    const MESSAGE: u64 = 64 << 10;

    /// A link of `rate` bytes/s with `base` of round trip and a queue without end: returns the
    /// window after `seconds` and the longest round trip of the second half.
    fn run(rate: f64, base: Duration, seconds: f64) -> (u64, Duration) {
        let start = Instant::now();
        let (mut window, mut now) = (Window::new(LIMITS), start);
        let (mut free_at, mut worst) = (start, Duration::ZERO);
        let mut arriving: VecDeque<(Instant, u64, Instant)> = VecDeque::new();
        let mut total = 0;
        while (now - start).as_secs_f64() < seconds {
            while window.admits(MESSAGE) {
                total += MESSAGE;
                let asked = window.send(MESSAGE, now);
                free_at = free_at.max(now) + Duration::from_secs_f64(MESSAGE as f64 / rate);
                if asked {
                    arriving.push_back((free_at + base, total, now));
                }
            }
            let (at, bytes, sent_at) = arriving.pop_front().expect("a full window has asked");
            now = at;
            if (now - start).as_secs_f64() > seconds / 2.0 {
                worst = worst.max(now - sent_at);
            }
            window.acknowledge(bytes, now);
        }
        (window.size(), worst)
    }

    #[test]
    fn a_fast_link_gets_the_whole_window() {
        assert_eq!(run(400e6, Duration::from_micros(300), 1.0).0, LIMITS.max);
    }

    #[test]
    fn a_slow_link_keeps_its_queue_short() {
        // 100 Mbit/s and a 250 KB switch queue: the window must end well under the queue.
        let (size, worst) = run(12.5e6, Duration::from_micros(300), 5.0);
        assert!(size <= 250_000, "{size}");
        assert!(worst < Duration::from_millis(25), "{worst:?}");
    }

    #[test]
    fn an_empty_window_admits_a_message_larger_than_itself() {
        let window = Window::new(WindowLimits { min: 10, max: 10 });
        assert!(window.admits(64 << 10));
    }

    #[test]
    fn a_false_count_changes_nothing() {
        let now = Instant::now();
        let mut window = Window::new(LIMITS);
        window.send(MESSAGE, now);
        window.acknowledge(u64::MAX, now);
        assert_eq!(window.under_way(), MESSAGE);
        window.acknowledge(MESSAGE, now);
        window.acknowledge(1, now);
        assert_eq!(window.under_way(), 0);
    }

    proptest! {
        #[test]
        fn the_window_stays_in_its_limits_and_a_full_one_has_asked_for_an_ack(
            steps in proptest::collection::vec((any::<bool>(), 0u64..2_000_000, 0u64..50), 1..300)
        ) {
            let mut now = Instant::now();
            let mut window = Window::new(LIMITS);
            let mut asked_for = None;
            for (send, bytes, ms) in steps {
                now += Duration::from_millis(ms);
                if send {
                    if window.admits(MESSAGE) && window.send(MESSAGE, now) {
                        asked_for = Some(window.sent);
                    }
                } else {
                    window.acknowledge(bytes, now);
                }
                prop_assert!((LIMITS.min..=LIMITS.max).contains(&window.size()));
                if !window.admits(MESSAGE) {
                    prop_assert!(asked_for.is_some());
                }
            }
        }
    }
}
