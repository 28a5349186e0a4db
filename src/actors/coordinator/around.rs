//! What happens around the program and explains the rest of the log, in a line each: the machine's
//! addresses change or are gone, its clock has jumped while the program was off.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::super::network;
use super::Coordinator;

/// How often the addresses are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// A clock that is so far behind the last change of the state folder has gone back.
const BEHIND: Duration = Duration::from_secs(3600);
/// One that is so far ahead of it has been moved, or nobody has used this device for long.
const AHEAD: Duration = Duration::from_secs(365 * 24 * 3600);

/// The addresses that were last seen.
pub(super) struct Around {
    looked: Option<Instant>,
    addresses: Option<Vec<IpAddr>>,
    /// The clock was not where it can be when the program started.
    pub(super) odd_clock: bool,
}

impl Around {
    pub(super) fn new(odd_clock: bool) -> Self {
        Self {
            looked: None,
            addresses: None,
            odd_clock,
        }
    }
}

impl Coordinator {
    /// Says so when the addresses of this machine are others than before.
    pub(super) fn look_around(&mut self) {
        let recently = |looked: Instant| looked.elapsed() < LOOK;
        if self.context.is_none() || self.around.looked.is_some_and(recently) {
            return;
        }
        self.around.looked = Some(Instant::now());
        // Whoever makes a connection says why the system does not tell them.
        let Ok(now) = network::own_addresses(&self.settings) else {
            return;
        };
        let before = self.around.addresses.replace(now.clone());
        if before.as_ref() == Some(&now) {
            return;
        }
        match before {
            _ if now.is_empty() => warn!(
                "this machine has no network address that may be used: nothing goes or comes until \
                 it has one"
            ),
            None => info!(addresses = ?now, "addresses"),
            Some(before) => warn!(?before, ?now, "the addresses of this machine have changed"),
        }
    }
}

/// Says so, and gives true, when the clock is not where it can be: `used` is when the state folder
/// last changed, both in Unix seconds.
pub fn judge_clock(used: Option<u64>, now: u64) -> bool {
    let Some(used) = used else { return false };
    let days = |seconds: u64| seconds / (24 * 3600);
    if used > now + BEHIND.as_secs() {
        warn!(
            days = days(used - now),
            "the clock has gone back since the last run, or was ahead then; devices whose clocks \
             differ too much (signaling.max_clock_skew) refuse each other until it is right"
        );
    } else if now > used + AHEAD.as_secs() {
        warn!(
            days = days(now - used),
            "the clock is far ahead of the last run; if it is wrong, devices refuse each other until \
             it is right (signaling.max_clock_skew)"
        );
    } else {
        return false;
    }
    true
}
