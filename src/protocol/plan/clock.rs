//! Whether the machine's clock can be believed just now.

use std::time::Duration;

/// A difference between what the clock says has passed and what really has, from which on the
/// clock has jumped.
const JUMP: Duration = Duration::from_secs(30);
/// How long a clock that has jumped is not acted on: who sets a clock wrong often sets it again.
const CALM: Duration = Duration::from_secs(120);

/// A moment, told in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What the machine's clock says, in Unix seconds. It may be wrong, and may jump.
    pub unix: u64,
    /// Time since this process began, which only goes forward.
    pub mono: Duration,
    /// The clock has not jumped lately.
    pub steady: bool,
}

/// Compares the machine's clock with the time that really passes.
#[derive(Debug, Default)]
pub struct Clock {
    last: Option<(u64, Duration)>,
    jumped: Option<Duration>,
}

impl Clock {
    /// The moment, and by how many seconds the clock has jumped since the last one, if it has.
    pub fn tell(&mut self, unix: u64, mono: Duration) -> (Now, Option<i64>) {
        let jump = self.last.and_then(|(last, at)| {
            let passed = i128::from(mono.saturating_sub(at).as_secs());
            let off = i128::from(unix) - i128::from(last) - passed;
            let jumped = off.unsigned_abs() >= u128::from(JUMP.as_secs());
            jumped.then(|| i64::try_from(off).unwrap_or(i64::MAX))
        });
        self.last = Some((unix, mono));
        if jump.is_some() {
            self.jumped = Some(mono);
        }
        let steady = self.jumped.is_none_or(|at| mono.saturating_sub(at) >= CALM);
        (Now { unix, mono, steady }, jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_told_once_and_the_clock_is_not_believed_for_a_while() {
        let mut clock = Clock::default();
        let at = Duration::from_secs;
        assert!(clock.tell(1000, at(0)).0.steady);
        assert_eq!(
            clock.tell(1010, at(9)).1,
            None,
            "clocks are put right in small steps"
        );
        let (now, jump) = clock.tell(1_001_010, at(10));
        assert_eq!((now.steady, jump), (false, Some(999_999)));
        let (now, jump) = clock.tell(1_001_129, at(129));
        assert_eq!((now.steady, jump), (false, None));
        assert!(clock.tell(1_001_130, at(130)).0.steady);
        assert_eq!(clock.tell(0, at(131)).1, Some(-1_001_131));
    }
}
