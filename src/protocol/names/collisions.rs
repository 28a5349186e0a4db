//! Paths of one bundle that some disk would take for one.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

use super::{BundlePath, brief, folded, visible};
use crate::protocol::manifest::MAX_ENTRIES;

/// Why a path cannot be in a bundle together with the paths already there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The same path again.
    #[error("the path is there twice")]
    Duplicate,
    /// On a disk that ignores case they are the same.
    #[error("it differs from \"{other}\" only in upper and lower case", other = brief(.0))]
    Case(String),
    /// On a disk that composes or decomposes letters (those of a Mac) they are the same.
    #[error("it differs from \"{other}\" only in how Unicode writes its letters", other = brief(.0))]
    Normalization(String),
    /// On a disk that skips invisible characters they are the same.
    #[error("it differs from \"{other}\" only in characters that are invisible", other = brief(.0))]
    Invisible(String),
    /// A file where the other path needs a folder.
    #[error("it is a file in one place and a folder in another")]
    FileAndFolder,
    /// More than [`MAX_ENTRIES`] files and folders, those counted that only paths name.
    #[error("there are more than {MAX_ENTRIES} files and folders")]
    TooMany,
}

/// Why two different names fall together.
fn likeness(name: &str, other: &str) -> Conflict {
    let there = other.to_owned();
    if visible(name).eq(visible(other)) {
        Conflict::Invisible(there)
    } else if visible(name).nfd().eq(visible(other).nfd()) {
        Conflict::Normalization(there)
    } else {
        Conflict::Case(there)
    }
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
                    return Err(likeness(component, &entry.name));
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
        set.insert_file(&path("a/\u{e9}")).unwrap();
        assert_eq!(
            set.insert_file(&path("a/e\u{301}")),
            Err(Conflict::Normalization("\u{e9}".into()))
        );
        assert_eq!(
            set.insert_file(&path("a/E\u{301}")),
            Err(Conflict::Case("\u{e9}".into()))
        );
        let hidden = set.insert_file(&path("a/\u{e9}\u{200d}")).unwrap_err();
        assert_eq!(hidden, Conflict::Invisible("\u{e9}".into()));
        assert!(hidden.to_string().contains("invisible"), "{hidden}");
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
}
