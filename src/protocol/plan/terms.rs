//! What a plan is told, by the config file and while it runs, what it remembers, and what it says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::calendar::{LocalTime, Schedule, Zone};
use crate::protocol::hours::Hours;

/// When a plan begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// As soon as it is known.
    Now,
    /// At a time.
    At(LocalTime),
    /// Again and again.
    Schedule(Schedule),
}

/// Until when devices are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// So long after the beginning of each version, or round.
    After(Duration),
    /// Until a time.
    At(LocalTime),
}

/// What the config file says of a plan, as far as time and content go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// When it begins.
    pub start: Start,
    /// The zone of all its times.
    pub zone: Zone,
    /// When anything of it is handed over; always where nothing is said.
    pub hours: Option<Hours>,
    /// How long devices are waited for; for ever where nothing is said.
    pub deadline: Option<Deadline>,
    /// Each firing of the schedule sends again, also to devices that have the content.
    pub always: bool,
    /// Changes are noticed and sent.
    pub watch: bool,
    /// How long nothing may change before a version begins.
    pub settle: Duration,
    /// After this long a version begins although it still changes.
    pub settle_max: Duration,
    /// How often the folder is looked at, whatever the system says of changes.
    pub rescan: Duration,
}

/// What is remembered of a plan over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The number of the last version that began, from the clock; 0 before the first.
    pub version: u64,
    /// What its content looked like.
    #[serde(default)]
    pub digest: Option<String>,
    /// When it last began to be handed out, in Unix seconds.
    #[serde(default)]
    pub began: Option<u64>,
    /// Up to when the schedule has been seen to, in Unix seconds.
    #[serde(default)]
    pub fired: Option<u64>,
}

/// Whether anything may be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing has begun; it does then, in Unix seconds, if that is known.
    Waiting(Option<u64>),
    /// Yes.
    Open,
    /// It is outside of its hours; they begin then, in Unix seconds, if they ever do.
    Closed(Option<u64>),
    /// Its deadline has passed.
    Over,
}

/// What a plan is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time passes.
    Tick,
    /// Something in its folder may have changed.
    Stirred,
    /// The answer to [`Output::Look`]: there is something, and it looks like this.
    Looked(String),
    /// The answer to [`Output::Look`], or to [`Output::Begin`]: there is nothing, for this reason.
    Missing(String),
    /// The answer to [`Output::Begin`]: this content is handed out from now on.
    Begun {
        /// Its number.
        version: u64,
        /// What it looks like.
        digest: String,
    },
    /// The answer to [`Output::Begin`]: it changed meanwhile.
    Moved,
    /// What is being handed out is no longer what is in the folder.
    Spoiled,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Look at the folder, and answer.
    Look,
    /// Take what is there as this version, and answer. Older ones are no longer handed out.
    Begin {
        /// Its number.
        version: u64,
        /// What it must look like.
        digest: String,
    },
    /// The content is what it was, and the schedule has fired: who did not get it is tried again,
    /// and where `everybody` is set who got it, too.
    Again {
        /// Also devices that have it.
        everybody: bool,
    },
    /// Whether anything may be handed over has changed.
    Gate(Gate),
    /// There is nothing to hand out, for this reason. Said once, until there is something.
    Lacking(String),
    /// There is something again.
    Found,
}
