//! What a broadcast may take for itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which broadcasts go first where not all can.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After all others.
    Low,
    /// In their order.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl Priority {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 3] = [
        ("low", Self::Low),
        ("normal", Self::Normal),
        ("high", Self::High),
    ];
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(_, priority)| priority == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(word, _)| *word == text);
        let found = found.map(|(_, priority)| *priority);
        found.ok_or_else(|| format!("{text:?} is not \"low\", \"normal\" or \"high\""))
    }
}

/// When a broadcast has its turn, how fast it goes, and to how many devices at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Share {
    /// Before and after which others.
    #[serde(default)]
    pub priority: Priority,
    /// Bytes per second to all its devices together; nothing for no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// To so many devices at a time; nothing for no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u32>,
}

impl Share {
    /// The lowest rate that can be set, in bytes per second: below it a transfer stands still for
    /// longer than the other side waits.
    pub const MIN_RATE: u64 = 16_000;

    /// The same, without what would let nothing through.
    pub fn checked(self) -> Self {
        Self {
            priority: self.priority,
            rate: self.rate.map(|rate| rate.max(Self::MIN_RATE)),
            at_most: self.at_most.map(|most| most.max(1)),
        }
    }
}
