//! Destinations with places for names, as `~/Lessons/{group}/{broadcast}`. Each place becomes a
//! part of one name, whatever somebody else has put into it: it never leads elsewhere.

use std::path::{Component, Path, PathBuf};

use super::names::safe_component;

/// What may stand between braces.
pub const PLACES: [&str; 4] = ["device", "group", "broadcast", "date"];

/// What is filled in.
#[derive(Debug, Clone, Copy)]
pub struct Filling<'a> {
    /// The name of the device that sends.
    pub device: &'a str,
    /// A group that it is in.
    pub group: Option<&'a str>,
    /// What it calls the broadcast, or the bundle.
    pub broadcast: &'a str,
    /// The day, as `2026-12-01`.
    pub date: &'a str,
}

/// What stands between braces and means nothing; `None` when all is known.
pub fn unknown_place(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((place, behind)) = after.split_once('}') else {
            return Some(after.to_owned());
        };
        if !PLACES.contains(&place) {
            return Some(place.to_owned());
        }
        rest = behind;
    }
    None
}

/// The folder above all that a destination with places can become.
pub fn fixed(path: &Path) -> PathBuf {
    let has_place = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains('{');
    path.components()
        .take_while(|part| !has_place(part))
        .collect()
}

/// The destination with its places filled in.
pub fn fill(path: &Path, with: &Filling<'_>) -> PathBuf {
    let filled = path.components().map(|part| {
        let Some(text) = part.as_os_str().to_str().filter(|text| text.contains('{')) else {
            return part.as_os_str().to_owned();
        };
        let group = with.group.unwrap_or("no group");
        let values = [with.device, group, with.broadcast, with.date];
        let mut name = text.to_owned();
        for (place, value) in PLACES.iter().zip(values) {
            // What is filled in has no braces, so it cannot be a place itself.
            name = name.replace(&format!("{{{place}}}"), &safe_component(value));
        }
        // Several parts may be too long together, or be a name that means something.
        safe_name(&name).into()
    });
    filled.collect()
}

/// A name as it is, where that can be a name.
fn safe_name(name: &str) -> String {
    match super::names::BundlePath::single(name) {
        Ok(_) => name.to_owned(),
        Err(_) => safe_component(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(path: &str, device: &str) -> PathBuf {
        let with = Filling {
            device,
            group: None,
            broadcast: "maps",
            date: "2026-12-01",
        };
        fill(Path::new(path), &with)
    }

    #[test]
    fn places_are_filled_with_one_name_each() {
        let path = filled("/in/{group}/{date} {device}/{broadcast}", "Ada");
        assert_eq!(path, Path::new("/in/no group/2026-12-01 Ada/maps"));
        for hostile in [
            "../../x",
            "/etc",
            "..",
            "a/b/c",
            "{date}/..",
            "\0",
            "é".repeat(900).as_str(),
        ] {
            let path = filled("/in/{device}", hostile);
            assert_eq!(path.components().count(), 3, "{path:?}");
            assert!(path.starts_with("/in"));
            let parts = path.components();
            assert!(!parts.into_iter().any(|part| part == Component::ParentDir));
        }
        assert_eq!(filled("/in/plain", "x"), Path::new("/in/plain"));
    }

    #[test]
    fn what_stands_between_braces_must_mean_something() {
        let unknown = |path: &str| unknown_place(Path::new(path));
        assert_eq!(unknown("/in/{device}/{date}"), None);
        assert_eq!(unknown("/in/{devise}").as_deref(), Some("devise"));
        assert_eq!(unknown("/in/{device").as_deref(), Some("device"));
        assert_eq!(unknown("/in/{}").as_deref(), Some(""));
        assert_eq!(fixed(Path::new("/in/a{date}/b")), Path::new("/in"));
    }
}
