//! Names of files and folders that come from someone else: which are taken, which of them would
//! fall together on some disk, and how they are shown.
//!
//! A bundle must unpack the same on every system, so a name is refused everywhere when it means
//! something special on any of them (Windows: reserved names, streams, trailing dots and spaces;
//! macOS: letters that its file systems ignore).

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::manifest::MAX_ENTRIES;

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
    /// `.` or `..`.
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
    if component == "." || component == ".." {
        return Err(NameError::Dots);
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
    // HFS+ ignores some format characters in names, and Windows has a short 8.3 name for ours.
    let seen: String = component
        .chars()
        .filter(|&c| !is_invisible(c))
        .flat_map(char::to_lowercase)
        .collect();
    if seen.starts_with(STAGING) || seen.starts_with("handou~") {
        return Err(NameError::Ours);
    }
    Ok(())
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

/// What two names have in common when a disk that ignores case takes them for one. Both ways
/// through the alphabet, because `ß` and `ſ` have a way up but none back.
pub(super) fn folded(component: &str) -> String {
    component
        .chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

/// Why a path cannot be in a bundle together with the paths already there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The same path again.
    #[error("the path is there twice")]
    Duplicate,
    /// On a disk that ignores case they are the same.
    #[error("it differs from {0:?} only in upper and lower case")]
    Case(String),
    /// A file where the other path needs a folder.
    #[error("it is a file in one place and a folder in another")]
    FileAndFolder,
    /// More than [`MAX_ENTRIES`] files and folders, those counted that only paths name.
    #[error("there are more than {MAX_ENTRIES} files and folders")]
    TooMany,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    File,
    /// A folder, and whether it was listed itself.
    Folder(bool),
}

struct Entry {
    id: u32,
    name: Box<str>,
    node: Node,
}

/// The paths of one bundle, kept apart as the least able disk would.
#[derive(Default)]
pub struct PathSet {
    entries: HashMap<(u32, String), Entry>,
}

impl PathSet {
    /// No paths yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file; a refused path leaves the set as it was, except at [`Conflict::TooMany`].
    pub fn insert_file(&mut self, path: &BundlePath) -> Result<(), Conflict> {
        self.insert(path, Node::File)
    }

    /// Adds a folder that is listed for itself.
    pub fn insert_folder(&mut self, path: &BundlePath) -> Result<(), Conflict> {
        self.insert(path, Node::Folder(true))
    }

    fn insert(&mut self, path: &BundlePath, last: Node) -> Result<(), Conflict> {
        let mut parent = 0;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let want = if components.peek().is_none() {
                last
            } else {
                Node::Folder(false)
            };
            let next = self.entries.len() as u32 + 1;
            let key = (parent, folded(component));
            if let Some(entry) = self.entries.get_mut(&key) {
                if *entry.name != *component {
                    return Err(Conflict::Case(entry.name.to_string()));
                }
                match (entry.node, want) {
                    (Node::Folder(_), Node::Folder(false)) => {}
                    (Node::Folder(false), Node::Folder(true)) => entry.node = want,
                    (Node::File, Node::File) | (Node::Folder(true), Node::Folder(true)) => {
                        return Err(Conflict::Duplicate);
                    }
                    _ => return Err(Conflict::FileAndFolder),
                }
                parent = entry.id;
            } else {
                if next as usize > MAX_ENTRIES {
                    return Err(Conflict::TooMany);
                }
                self.entries.insert(
                    key,
                    Entry {
                        id: next,
                        name: component.into(),
                        node: want,
                    },
                );
                parent = next;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_leave_the_bundle_or_mean_something_else_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "../x",
            "C:",
            "C:/x",
            "C:x",
            "\\\\host\\share",
            "//host/share",
            "a\\b",
            "..\\x",
            "a\0b",
            "a\nb",
            "a\u{1b}[2Jb",
            "a\u{85}b",
            "file.txt:stream",
            "a.",
            "a ",
            "a./b",
            "a /b",
            "CON",
            "con",
            "nul.txt",
            "Aux.tar.gz",
            "COM1",
            "com9.x",
            "LPT¹",
            "com².txt",
            "COM³",
            "x/PRN/y",
            "NUL .txt",
            "CONIN$",
            ".handout",
            ".handout-2",
            "a/.Handout/b",
            ".hand\u{200c}out",
            "HANDOU~1",
        ] {
            assert!(BundlePath::new(bad).is_err(), "{bad:?} was taken");
        }
        for long in ["x".repeat(256), "é".repeat(128), "a/".repeat(512) + "a"] {
            assert!(
                BundlePath::new(long.clone()).is_err(),
                "{} bytes were taken",
                long.len()
            );
        }
    }

    #[test]
    fn ordinary_names_of_all_languages_are_taken() {
        for good in [
            "a",
            "a.txt",
            "Übung 3/Lösung.pdf",
            "宿題/三.txt",
            "..a",
            "a..b",
            "...x",
            ".hidden",
            "COM",
            "COM10",
            "COM0",
            "console",
            "nulls.txt",
            "🎒.zip",
            "What? *really*.txt",
            &"x".repeat(255),
        ] {
            assert!(BundlePath::new(good).is_ok(), "{good:?} was refused");
        }
        assert_eq!(BundlePath::single("a/b"), Err(NameError::NotOneName));
    }

    #[test]
    fn nothing_that_moves_a_cursor_or_turns_text_around_is_printed() {
        assert_eq!(
            printable("a\u{1b}[2J\u{202e}gpj.exe\r\n\u{9b}\u{feff}"),
            r"a\u{1b}[2J\u{202e}gpj.exe\u{d}\u{a}\u{9b}\u{feff}"
        );
        assert_eq!(printable("Übung 🎒 三"), "Übung 🎒 三");
    }

    #[test]
    fn paths_that_some_disk_takes_for_one_do_not_go_into_one_bundle() {
        let path = |s: &str| BundlePath::new(s).unwrap();
        let mut set = PathSet::new();
        set.insert_file(&path("a/Straße")).unwrap();
        assert_eq!(set.insert_file(&path("a/Straße")), Err(Conflict::Duplicate));
        assert_eq!(
            set.insert_file(&path("a/STRASSE")),
            Err(Conflict::Case("Straße".into()))
        );
        assert_eq!(
            set.insert_file(&path("A/other")),
            Err(Conflict::Case("a".into()))
        );
        assert_eq!(set.insert_file(&path("a")), Err(Conflict::FileAndFolder));
        assert_eq!(
            set.insert_file(&path("a/Straße/x")),
            Err(Conflict::FileAndFolder)
        );
        set.insert_folder(&path("a")).unwrap();
        assert_eq!(set.insert_folder(&path("a")), Err(Conflict::Duplicate));
        set.insert_file(&path("a/other")).unwrap();
    }

    #[test]
    fn folders_that_only_paths_name_are_counted() {
        let mut set = PathSet::new();
        let mut refused = false;
        for i in 0..1000 {
            let deep = format!("{i}{}", "/x".repeat(400));
            refused |= set.insert_file(&BundlePath::new(deep).unwrap()) == Err(Conflict::TooMany);
        }
        assert!(refused);
        assert!(set.entries.len() <= MAX_ENTRIES);
    }

    proptest! {
        #[test]
        fn whatever_is_taken_stays_below_its_folder(path in "[a-zA-Z0-9./\\\\: ¹é-]{0,40}") {
            if let Ok(path) = BundlePath::new(path) {
                let joined = std::path::Path::new("root").join(path.as_str());
                prop_assert!(joined.components().skip(1).all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(joined.components().count(), 1 + path.components().count());
            }
        }

        #[test]
        fn printable_text_has_no_control_characters(text in any::<String>()) {
            prop_assert!(!printable(&text).chars().any(|c| c.is_control() || is_invisible(c)));
        }
    }
}
