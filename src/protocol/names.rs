//! Names of files and folders that come from someone else: which are taken, which of them would
//! fall together on some disk, and how they are shown.
//!
//! A bundle must unpack the same on every system, so a name is refused everywhere when it means
//! something special on any of them (Windows: reserved names, streams, trailing dots and spaces;
//! macOS: letters that its file systems ignore). A name that is taken stays as it is, byte for byte:
//! no form of Unicode is better than another, and those who send from a Mac have decomposed names.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

pub use collisions::{Conflict, PathSet};
pub use safe::safe_component;

mod collisions;
mod safe;

/// Longest path inside a bundle, in bytes of UTF-8.
pub const MAX_PATH: usize = 1024;
/// Longest component of a path, in bytes of UTF-8: what ext4, APFS and NTFS all take.
pub const MAX_COMPONENT: usize = 255;
/// Our staging folder in a destination; no component may begin with it.
pub const STAGING: &str = ".handout";

/// Why a name is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The path, or one of its components, is empty (`a//b`, a trailing `/`).
    #[error("it has an empty part")]
    Empty,
    /// More than [`MAX_PATH`] bytes.
    #[error("it has {0} bytes, at most {MAX_PATH} are allowed")]
    TooLong(usize),
    /// A component has more than [`MAX_COMPONENT`] bytes.
    #[error("a part of it has {0} bytes, at most {MAX_COMPONENT} are allowed")]
    ComponentTooLong(usize),
    /// Begins with `/`.
    #[error("it is absolute")]
    Absolute,
    /// A component without any visible character.
    #[error("a part of it has only characters that are invisible")]
    Invisible,
    /// `.` or `..`, also where invisible characters stand around the dots.
    #[error("it has a part that is only dots")]
    Dots,
    /// A character with a meaning of its own on some system: `\`, `:`, NUL, control characters.
    #[error("it contains {0:?}, which not every system can store")]
    Character(char),
    /// A device name of Windows.
    #[error("{0:?} is reserved on Windows")]
    Reserved(String),
    /// Windows drops dots and spaces at the end.
    #[error("a part of it ends with a dot or a space, which Windows drops")]
    TrailingDotOrSpace,
    /// Begins like our own staging folder.
    #[error("names that begin with {STAGING} are ours")]
    Ours,
    /// A path where one name is wanted.
    #[error("it must be one name, not a path")]
    NotOneName,
    /// Bytes that are not UTF-8.
    #[error("it is not valid Unicode")]
    NotUnicode,
}

/// A relative path, components separated by `/`, that is harmless on every system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BundlePath(String);

impl BundlePath {
    /// Checks a path.
    pub fn new(path: impl Into<String>) -> Result<Self, NameError> {
        let path = path.into();
        if path.len() > MAX_PATH {
            return Err(NameError::TooLong(path.len()));
        }
        if path.starts_with('/') {
            return Err(NameError::Absolute);
        }
        path.split('/').try_for_each(check_component)?;
        Ok(Self(path))
    }

    /// Checks a single name: a path of one component.
    pub fn single(name: impl Into<String>) -> Result<Self, NameError> {
        let path = Self::new(name)?;
        if path.0.contains('/') {
            return Err(NameError::NotOneName);
        }
        Ok(path)
    }

    /// The path as it is. For people use [`BundlePath::printable`].
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, outermost first; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The path for a terminal, a page or a log.
    pub fn printable(&self) -> String {
        printable(&self.0)
    }
}

impl TryFrom<String> for BundlePath {
    type Error = NameError;
    fn try_from(path: String) -> Result<Self, NameError> {
        Self::new(path)
    }
}

impl From<BundlePath> for String {
    fn from(path: BundlePath) -> String {
        path.0
    }
}

impl fmt::Debug for BundlePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.printable())
    }
}

fn check_component(component: &str) -> Result<(), NameError> {
    if component.is_empty() {
        return Err(NameError::Empty);
    }
    if component.len() > MAX_COMPONENT {
        return Err(NameError::ComponentTooLong(component.len()));
    }
    let seen = folded(component);
    match seen.as_str() {
        "" => return Err(NameError::Invisible),
        "." | ".." => return Err(NameError::Dots),
        _ => {}
    }
    if let Some(c) = component
        .chars()
        .find(|&c| matches!(c, '\\' | ':' | '/') || c.is_control())
    {
        return Err(NameError::Character(c));
    }
    if component.ends_with(['.', ' ']) {
        return Err(NameError::TrailingDotOrSpace);
    }
    if is_reserved(component) {
        return Err(NameError::Reserved(component.to_owned()));
    }
    if seen.starts_with(STAGING) || is_short_for_ours(&seen) {
        return Err(NameError::Ours);
    }
    Ok(())
}

/// FAT and NTFS give [`STAGING`] a second name of 8.3 characters: `HANDOU~1`, or, where all those
/// are used up, `HA`, four hex digits, and `~1`.
fn is_short_for_ours(seen: &str) -> bool {
    let Some((stem, number)) = seen.split_once('~') else {
        return false;
    };
    let hash = stem.strip_prefix("ha").unwrap_or_default();
    stem == "handou"
        || number.starts_with(|c: char| c.is_ascii_digit())
            && hash.len() == 4
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Windows takes the name before the first dot, without spaces at its end, and takes the
/// superscripts one to three for digits.
fn is_reserved(component: &str) -> bool {
    let stem = component
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end_matches(' ')
        .to_ascii_uppercase();
    if matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) {
        return true;
    }
    let number = stem
        .strip_prefix("COM")
        .or_else(|| stem.strip_prefix("LPT"));
    number.is_some_and(|n| {
        let mut chars = n.chars();
        matches!(
            (chars.next(), chars.next()),
            (Some('1'..='9' | '¹' | '²' | '³'), None)
        )
    })
}

/// Characters that show nothing, or change how their neighbours show: Unicode's format
/// characters (among them all bidirectional controls), separators of lines, and fillers.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A text from someone else, made harmless for a terminal, a page or a log: control, format and
/// bidirectional characters become `\u{…}`. Everything else, accents and emoji included, stays.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Most characters of someone else's text that an error repeats.
const BRIEF: usize = 120;
/// Most characters of a passage.
const PASSAGE: usize = 2000;

/// The beginning of a text from someone else, as [`printable`] makes it: for errors, which end in
/// log lines and in messages.
pub fn brief(text: &str) -> String {
    beginning(text, BRIEF)
}

/// The same for what a person is to read to its end: why somebody refuses, and what to do then.
pub fn passage(text: &str) -> String {
    beginning(text, PASSAGE)
}

fn beginning(text: &str, most: usize) -> String {
    let end = text
        .char_indices()
        .nth(most)
        .map_or(text.len(), |(at, _)| at);
    let dots = if end < text.len() { "…" } else { "" };
    format!("{}{dots}", printable(&text[..end]))
}

/// A name without what some file systems skip when they compare: HFS+ the format characters, ext4
/// with `casefold` also variation selectors.
fn visible(component: &str) -> impl Iterator<Item = char> {
    let skipped = |c| is_invisible(c) || matches!(c, '\u{fe00}'..='\u{fe0f}');
    component.chars().filter(move |&c| !skipped(c))
}

/// What two names have in common when some file system takes them for one: canonical caseless
/// matching (Unicode 3.13, D145). Three ways through the alphabet come as near to full case folding
/// as the standard library can: `ẞ` has only a way down, `ß` and `ſ` only one up.
pub(super) fn folded(component: &str) -> String {
    if component.is_ascii() {
        return component.to_ascii_lowercase();
    }
    visible(component)
        .nfd()
        .flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .nfd()
        .collect()
}

#[cfg(test)]
mod tests;
