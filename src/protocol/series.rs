//! Series: the bundles that one origin hands out under one name, one after another, each taking
//! the place of the one before (PROTOCOL.md §8).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::printable;

/// Longest name, in bytes of UTF-8.
pub const MAX_SERIES: usize = 64;

/// The name of a series, as its origin calls it: 1 to [`MAX_SERIES`] bytes, each character of
/// which shows what it is. It is never part of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SeriesName(String);

/// Why a text is not the name of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeriesNameError {
    /// Nothing, or nothing but spaces.
    #[error("the name of a series is empty")]
    Empty,
    /// Above [`MAX_SERIES`].
    #[error("the name of a series has {0} bytes, at most {MAX_SERIES} are allowed")]
    TooLong(usize),
    /// It begins or ends with a space.
    #[error("the name of a series begins or ends with a space")]
    Space,
    /// Control, format and other characters that do not show.
    #[error("the name of a series has characters that do not show")]
    Invisible,
}

impl SeriesName {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, SeriesNameError> {
        let name = name.into();
        if name.len() > MAX_SERIES {
            return Err(SeriesNameError::TooLong(name.len()));
        }
        match name.trim() {
            "" => return Err(SeriesNameError::Empty),
            trimmed if trimmed != name => return Err(SeriesNameError::Space),
            _ => {}
        }
        if printable(&name) != name {
            return Err(SeriesNameError::Invisible);
        }
        Ok(Self(name))
    }

    /// The name. It needs no escaping for a terminal or a log; markup has rules of its own.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl TryFrom<String> for SeriesName {
    type Error = SeriesNameError;
    fn try_from(name: String) -> Result<Self, SeriesNameError> {
        Self::new(name)
    }
}

impl From<SeriesName> for String {
    fn from(name: SeriesName) -> String {
        name.0
    }
}

impl std::str::FromStr for SeriesName {
    type Err = SeriesNameError;
    fn from_str(name: &str) -> Result<Self, SeriesNameError> {
        Self::new(name)
    }
}

impl fmt::Display for SeriesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SeriesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Which bundle of a series one is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Series {
    /// The origin's name for it. Two origins may use the same one; their series have nothing to
    /// do with each other.
    pub name: SeriesName,
    /// Higher with each new content. A receiver refuses a lower one than it has, so an origin
    /// that may have lost its count goes on from its clock: the greater of the last version plus
    /// one and the Unix time.
    pub version: u64,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hide_something_or_have_no_end_are_not_taken() {
        for good in ["lessons", "Übungen 3b", "a/../b", "日本"] {
            assert_eq!(SeriesName::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(MAX_SERIES + 1);
        for bad in [
            "",
            " ",
            " a",
            "a ",
            "a\nb",
            "a\u{1b}[2J",
            "\u{202e}cod",
            "a\0",
            &long,
        ] {
            assert!(SeriesName::new(bad).is_err(), "{bad:?}");
            let json = serde_json::json!({ "name": bad, "version": 1 });
            assert!(serde_json::from_value::<Series>(json).is_err(), "{bad:?}");
        }
        assert!(SeriesName::new("x".repeat(MAX_SERIES)).is_ok());
    }
}
