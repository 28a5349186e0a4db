//! What a plan hands out, as it is written: a path, or a pattern for paths.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

/// A path, absolute, in which the names of files and folders may be patterns: `?` is one
/// character, `*` any number, `{a,b}` one of several, `[a-z]` one of a range.
#[derive(Debug, Clone)]
pub struct PathPattern {
    written: PathBuf,
    base: PathBuf,
    parts: Vec<Part>,
}

/// One name in a path, below its first pattern.
#[derive(Debug, Clone)]
pub struct Part {
    matcher: GlobMatcher,
    hidden: bool,
}

impl Part {
    /// Whether a name fits. One that begins with a dot only fits a pattern that does.
    pub fn fits(&self, name: &std::ffi::OsStr) -> bool {
        let hidden = name.as_encoded_bytes().first() == Some(&b'.');
        (self.hidden || !hidden) && self.matcher.is_match(Path::new(name))
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for PathPattern {}

impl PathPattern {
    /// A pattern from an absolute path; `None` where a name of it is no pattern, or is `**`: a
    /// folder is handed out with all that is in it.
    pub fn new(written: PathBuf) -> Option<Self> {
        let (mut base, mut parts) = (PathBuf::new(), Vec::new());
        for component in written.components() {
            let name = component.as_os_str();
            let text = name.to_str();
            let special = text.is_some_and(|text| text.contains(['*', '?', '[', '{']));
            match (component, text) {
                (Component::Normal(_), Some(text)) if special || !parts.is_empty() => {
                    if text.contains("**") {
                        return None;
                    }
                    let glob = GlobBuilder::new(text)
                        .literal_separator(true)
                        .build()
                        .ok()?;
                    parts.push(Part {
                        matcher: glob.compile_matcher(),
                        hidden: text.starts_with('.'),
                    });
                }
                // Below a pattern there is no telling what `..` would mean.
                (Component::ParentDir, _) | (_, None) if !parts.is_empty() => return None,
                _ => base.push(component),
            }
        }
        Some(Self {
            written,
            base,
            parts,
        })
    }

    /// As it is written.
    pub fn written(&self) -> &Path {
        &self.written
    }

    /// The folder below which it looks; the path itself, where it has no patterns.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The names below it, one after another; none where it is a path.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.written.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_begins_at_its_first_name_that_is_one() {
        let plain = PathPattern::new("/home/a/lessons".into()).unwrap();
        assert_eq!((plain.base(), plain.parts().len()), (plain.written(), 0));
        let pattern = PathPattern::new("/home/*/lessons/*.pdf".into()).unwrap();
        assert_eq!(pattern.base(), Path::new("/home"));
        let fits = |n: usize, name: &str| pattern.parts()[n].fits(name.as_ref());
        assert!(fits(0, "ana") && fits(1, "lessons") && fits(2, "a b.pdf"));
        assert!(!fits(1, "lesson") && !fits(2, "a.txt") && !fits(2, ".a.pdf"));
        for bad in ["/a/**", "/a/*/../b", "/a/[", "/a/{b"] {
            assert!(PathPattern::new(bad.into()).is_none(), "{bad}");
        }
    }
}
