//! Plans: what a `[[broadcast]]` of the config file does, and when, over months and restarts.
//!
//! [`calendar`] knows time zones, weekly hours and cron schedules; [`Clock`] notices when the
//! machine's clock jumps. [`Plan`] is the state machine of one such broadcast. It is told what is
//! in its folder and what time it is, and says when to look, when to begin a version, and whether
//! anything of it may be handed over now.

pub mod calendar;
mod clock;
mod machine;
mod paths;
mod terms;

#[cfg(test)]
mod tests;

pub use clock::{Clock, Now};
pub use machine::Plan;
pub use paths::{Part, PathPattern};
pub use terms::{Deadline, Gate, Input, Memory, Output, Start, Terms};
