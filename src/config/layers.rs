//! Where settings come from: the defaults, a file, the environment, the command line. Keys are
//! checked here, while it is still known who wrote them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use config::{Source, Value, ValueKind};

use super::document;
use super::error::ConfigError;
use super::limits;
use super::receive;
use super::surroundings::Surroundings;
use super::tables::{ITEMS, List};
use super::{broadcasts::BROADCASTS, groups::GROUPS, providers::PROVIDERS};

/// The defaults, with a comment for every key.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");
/// What a value from [`DEFAULTS`] names as its origin.
pub(super) const DEFAULT_ORIGIN: &str = "the defaults";
/// What a value from the command line names as its origin.
pub(super) const COMMAND_LINE: &str = "the command line";
/// The lists that stand at the top of a file.
const LISTS: [&List; 3] = [&GROUPS, &BROADCASTS, &PROVIDERS];
/// Lists of tables within sections, which have no default and stand in a file only.
const RULES: [&List; 2] = [&receive::LIST, &limits::LIST];
const PREFIX: &str = "HANDOUT_";
/// Config files are written by people.
const MAX_FILE: u64 = 1024 * 1024;

type Map = config::Map<String, Value>;

/// One source: sections with known keys, each value naming where it is from.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer(BTreeMap<String, Map>);

impl Layer {
    fn put(&mut self, section: &str, key: &str, origin: &str, kind: ValueKind) {
        self.0
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned(), Value::new(Some(&origin.to_owned()), kind));
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map, config::ConfigError> {
        let section = |(name, map): (&String, &Map)| (name.clone(), Value::new(None, map.clone()));
        Ok(self.0.iter().map(section).collect())
    }
}

/// All keys that there are: those of the defaults.
#[derive(Debug)]
pub(super) struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    /// Every key as `section.key`.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> {
        self.0
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
    }

    fn has(&self, section: &str, key: &str) -> bool {
        self.0.get(section).is_some_and(|keys| keys.contains(key))
    }

    fn unknown(&self, origin: &str, key: &str) -> ConfigError {
        let last = key.rsplit_once('.').map_or(key, |(_, last)| last);
        let lists = LISTS.iter().chain(&RULES);
        let lists = lists.map(|list| list.name.to_owned());
        let names = self.keys().chain(self.0.keys().cloned()).chain(lists);
        ConfigError::UnknownKey {
            origin: origin.to_owned(),
            key: key.chars().take(80).collect(),
            nearest: nearest(last, key, names),
        }
    }
}

/// The name that was meant, perhaps, where `key` was written, `last` without its section.
pub(super) fn nearest(
    last: &str,
    key: &str,
    names: impl Iterator<Item = String>,
) -> Option<String> {
    let own = key.strip_suffix(last).filter(|section| !section.is_empty());
    let how_far = |name: String| {
        // A key without its section, or in another one, is as near as can be.
        let misplaced = name
            .split_once('.')
            .is_some_and(|(_, known)| key == known || last == known);
        // What is the same section tells nothing about how near two keys are.
        let sibling = own.and_then(|section| name.strip_prefix(section));
        let (written, known) = match sibling {
            Some(known) => (last, known),
            None => (key, name.as_str()),
        };
        let begun = known.len() > 2 && !written.contains('.') && written.starts_with(known);
        let distance = match misplaced || begun {
            true => 1,
            false => strsim::damerau_levenshtein(written, known),
        };
        (distance <= 1 + written.len() / 4).then_some((distance, name))
    };
    names.filter_map(how_far).min().map(|(_, name)| name)
}

/// The defaults as a layer, and all keys.
pub(super) fn defaults() -> (Layer, Known) {
    let (tables, slips) = document::parse(DEFAULT_ORIGIN, DEFAULTS);
    debug_assert_eq!(slips, [], "the embedded defaults are TOML");
    let mut layer = Layer::default();
    let mut known = BTreeMap::<_, BTreeSet<_>>::new();
    let mut sections = Vec::from_iter(tables);
    while let Some((section, value)) = sections.pop() {
        let ValueKind::Table(table) = value.kind else {
            unreachable!("the embedded defaults consist of sections, as a test shows")
        };
        let keys = known.entry(section.clone()).or_default();
        for (key, value) in table {
            match value.kind {
                // No setting is a table, so it is a section within this one.
                ValueKind::Table(_) => sections.push((format!("{section}.{key}"), value)),
                kind => {
                    keys.insert(key.clone());
                    layer.put(&section, &key, DEFAULT_ORIGIN, kind);
                }
            }
        }
    }
    (layer, Known(known))
}

/// The text of a config file.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    Ok(text)
}

/// The config file: the one asked for, an absolute path, else the first that exists in the usual
/// places.
pub(super) fn find_file(
    asked: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let unreadable = |path: &Path, source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if let Some(path) = asked {
        let text = read_file(path).map_err(|source| unreadable(path, source))?;
        return Ok(Some((path.to_owned(), text)));
    }
    for path in surroundings.config_files() {
        match read_file(&path) {
            Ok(text) => return Ok(Some((path, text))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(source) => return Err(unreadable(&path, source)),
        }
    }
    Ok(None)
}

/// The file's layer.
pub(super) fn file(path: &Path, text: &str, known: &Known, errors: &mut Vec<ConfigError>) -> Layer {
    let mut layer = Layer::default();
    let (tables, slips) = document::parse(&path.display().to_string(), text);
    errors.extend(slips.into_iter().map(|slip| ConfigError::Syntax {
        origin: slip.place.to_string(),
        message: slip.message,
    }));
    // Sections within sections come into their places as they are found.
    let mut sections = BTreeMap::from_iter(tables);
    while let Some((section, value)) = sections.pop_first() {
        let origin = value.origin().unwrap_or_default().to_owned();
        if let Some(list) = LISTS.iter().find(|list| list.name == section) {
            let items = list.items_of(&value, errors);
            layer.put(&section, ITEMS, &origin, items);
            continue;
        }
        let has_section = known.0.contains_key(&section);
        match value.kind {
            ValueKind::Table(table) if has_section => {
                for (key, value) in BTreeMap::from_iter(table) {
                    let origin = value.origin().unwrap_or_default().to_owned();
                    let name = format!("{section}.{key}");
                    if let Some(list) = RULES.iter().find(|list| list.name == name) {
                        let rules = list.items_of(&value, errors);
                        layer.put(&section, &key, &origin, rules);
                    } else if known.0.contains_key(&name) {
                        sections.insert(name, value);
                    } else if known.has(&section, &key) {
                        let kind = match value.kind {
                            // Layers are merged table by table; no setting is one.
                            ValueKind::Table(_) => ValueKind::Array(vec![value]),
                            kind => kind,
                        };
                        layer.put(&section, &key, &origin, kind);
                    } else {
                        errors.push(known.unknown(&origin, &format!("{section}.{key}")));
                    }
                }
            }
            _ if has_section => errors.push(ConfigError::NotASection {
                origin,
                key: section,
            }),
            _ => errors.push(known.unknown(&origin, &section)),
        }
    }
    layer
}

/// The layer of the environment: `HANDOUT_SECTION__KEY`. Variables without the double underscore
/// are the command line's business, unless they are a key with one underscore missing.
pub(super) fn environment(
    surroundings: &Surroundings,
    known: &Known,
    errors: &mut Vec<ConfigError>,
) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in &surroundings.variables {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let rest = rest.to_ascii_lowercase();
        let Some((section, key)) = rest.rsplit_once("__") else {
            let meant = known.keys().find(|key| key.replace('.', "_") == rest);
            if let Some(meant) = meant {
                errors.push(ConfigError::UnknownKey {
                    origin: "the environment".to_owned(),
                    key: name.to_owned(),
                    nearest: Some(variable(&meant)),
                });
            }
            continue;
        };
        let section = &*section.replace("__", ".");
        let dotted = format!("{section}.{key}");
        if !known.has(section, key) {
            errors.push(known.unknown(name, &dotted));
            continue;
        }
        match value.to_str() {
            Some(text) => layer.put(section, key, name, ValueKind::String(text.to_owned())),
            None => errors.push(ConfigError::WrongValue {
                origin: name.to_owned(),
                key: dotted,
                allowed: "UTF-8 text".to_owned(),
                got: "other bytes".to_owned(),
                nearest: None,
            }),
        }
    }
    layer
}

/// The layer of the command line.
pub(super) fn command_line(
    overrides: &[(String, String)],
    known: &Known,
    errors: &mut Vec<ConfigError>,
) -> Layer {
    let mut layer = Layer::default();
    for (key, value) in overrides {
        match key.rsplit_once('.') {
            Some((section, name)) if known.has(section, name) => {
                let kind = ValueKind::String(value.clone());
                layer.put(section, name, COMMAND_LINE, kind);
            }
            _ => errors.push(known.unknown(COMMAND_LINE, key)),
        }
    }
    layer
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}
