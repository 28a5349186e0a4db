//! From the merged layers to checked values, collecting every mistake on the way.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use config::{Value, ValueKind};

use super::Setting;
use super::error::{ConfigError, Place, Warning};
use super::layers::variable;
use super::shapes::{self, Shape, brief, show, text};
use super::surroundings::Surroundings;

/// Reads keys. A wrong value is noted and the default is read in its place, so that all mistakes
/// come to light at once.
pub(super) struct Reader<'a> {
    pub merged: config::Config,
    pub defaults: config::Config,
    pub surroundings: &'a Surroundings,
    /// The config file, where there is one: its relative paths start at its folder.
    pub file: Option<&'a Path>,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<Warning>,
    /// What was read, in order.
    pub settings: Vec<Setting>,
}

impl Reader<'_> {
    fn read<T>(&mut self, key: &'static str, shape: &Shape<'_, T>) -> T {
        let value = lookup(&self.merged, key);
        self.check(key.into(), &value, shape).unwrap_or_else(|| {
            (shape.parse)(&lookup(&self.defaults, key))
                .expect("the embedded defaults are right, as a test shows")
        })
    }

    /// Notes a value, and what it comes to, or that it is wrong.
    pub(super) fn check<T>(
        &mut self,
        key: Cow<'static, str>,
        value: &Value,
        shape: &Shape<'_, T>,
    ) -> Option<T> {
        let parsed = (shape.parse)(value);
        let origin = value.origin().unwrap_or_default();
        if parsed.is_none() {
            let mut wrong = shape.wrong_items(value);
            if wrong.is_empty() {
                wrong.push((origin.to_owned(), brief(value)));
            }
            for (origin, got) in wrong {
                self.errors.push(ConfigError::WrongValue {
                    origin,
                    key: key.clone().into_owned(),
                    allowed: shape.allowed.clone(),
                    got,
                    nearest: shape.nearest(value),
                });
            }
        }
        let place = Place::of(origin);
        self.settings.push(Setting {
            key,
            value: show(value),
            at: place.line.zip(place.column),
            source: place.source,
        });
        parsed
    }

    /// True where lines of the file are not TOML: what is not there may be on them.
    pub(super) fn has_slips(&self) -> bool {
        let slip = |error: &ConfigError| matches!(error, ConfigError::Syntax { .. });
        self.errors.iter().any(slip)
    }

    /// The items of a list of tables, as they are written; none where there is no such key.
    pub(super) fn tables(&self, key: &str) -> Vec<Value> {
        match lookup(&self.merged, key).kind {
            ValueKind::Array(tables) => tables,
            _ => Vec::new(),
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> bool {
        self.read(key, &shapes::boolean())
    }

    pub(super) fn number<T: TryFrom<u64> + Display>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> T {
        self.read(key, &shapes::number(range))
    }

    /// Bytes.
    pub(super) fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        self.read(key, &shapes::bytes(range))
    }

    /// `range` is written as durations are in the file.
    pub(super) fn duration(&mut self, key: &'static str, range: [&str; 2]) -> Duration {
        self.read(key, &shapes::span(range))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> T {
        self.read(key, &shapes::choice(choices))
    }

    /// Anything that is written as text.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &'static str, allowed: &str) -> T {
        self.read(key, &shapes::parsed(allowed))
    }

    /// A list of such. `allowed` is in the plural.
    pub(super) fn list<T: FromStr>(&mut self, key: &'static str, allowed: &str) -> Vec<T> {
        self.read(key, &shapes::list(allowed))
    }

    /// Anything else.
    pub(super) fn shaped<T>(&mut self, key: &'static str, shape: &Shape<'_, T>) -> T {
        self.read(key, shape)
    }

    /// Text, or something that depends on the surroundings where it is empty.
    pub(super) fn text_or(
        &mut self,
        key: &'static str,
        allowed: &str,
        fits: fn(&str) -> bool,
        otherwise: impl FnOnce(&Surroundings) -> String,
    ) -> String {
        let shape = Shape::new(allowed, |value| {
            text(value).filter(|text| fits(text)).map(str::to_owned)
        });
        let written = self.read(key, &shape);
        if written.is_empty() {
            let chosen = otherwise(self.surroundings);
            self.explain(&chosen);
            return chosen;
        }
        written
    }

    /// An absolute path, or one that depends on the surroundings where it is empty.
    pub(super) fn path_or(
        &mut self,
        key: &'static str,
        otherwise: impl FnOnce(&Surroundings) -> Option<PathBuf>,
    ) -> PathBuf {
        let shape = shapes::path(self.surroundings, self.file);
        self.place_or(key, &shape, otherwise)
    }

    /// The same, with places for names.
    pub(super) fn destination_or(
        &mut self,
        key: &'static str,
        otherwise: impl FnOnce(&Surroundings) -> Option<PathBuf>,
    ) -> PathBuf {
        let shape = shapes::destination(self.surroundings, self.file);
        self.place_or(key, &shape, otherwise)
    }

    fn place_or(
        &mut self,
        key: &'static str,
        shape: &Shape<'_, Option<PathBuf>>,
        otherwise: impl FnOnce(&Surroundings) -> Option<PathBuf>,
    ) -> PathBuf {
        let surroundings = self.surroundings;
        let path = self.read(key, shape);
        let path = path.or_else(|| otherwise(surroundings));
        match path {
            Some(path) => {
                self.explain(&path.display().to_string());
                path
            }
            None => {
                self.errors.push(ConfigError::NoHome {
                    key,
                    variable: variable(key),
                });
                PathBuf::new()
            }
        }
    }

    /// An absolute path; nothing where it is empty.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let (surroundings, file) = (self.surroundings, self.file);
        let path = self.read(key, &shapes::path(surroundings, file));
        if let Some(path) = &path {
            self.explain(&path.display().to_string());
        }
        path
    }

    /// Notes what the value just read comes to.
    pub(super) fn explain(&mut self, effective: &str) {
        if let Some(setting) = self.settings.last_mut() {
            setting.value = format!("{effective:?}");
        }
    }

    /// Notes that `key` is wrong because of the value of `at`, which has been read.
    pub(super) fn wrong(&mut self, at: &str, key: &str, allowed: String, got: String) {
        let set = self.settings.iter().find(|set| set.key == at);
        let origin = set.map_or_else(String::new, |set| set.place().to_string());
        self.errors.push(ConfigError::WrongValue {
            origin,
            key: key.to_owned(),
            allowed,
            got,
            nearest: None,
        });
    }

    /// Notes what is no mistake, about a value of `key` from `origin`.
    pub(super) fn warn(&mut self, origin: &str, key: impl Into<String>, text: impl Into<String>) {
        self.warnings.push(Warning {
            place: Place::of(origin),
            key: key.into(),
            text: text.into(),
        });
    }

    /// The same, about a setting that has been read.
    pub(super) fn warn_of(&mut self, key: &'static str, text: impl Into<String>) {
        let set = self.settings.iter().find(|set| set.key == key);
        if let Some(place) = set.map(Setting::place) {
            self.warn(&place.to_string(), key, text);
        }
    }

    /// Notes a mistake when `first`'s value is above `second`'s.
    pub(super) fn in_order<T: PartialOrd>(
        &mut self,
        (first, low): (&'static str, T),
        (second, high): (&'static str, T),
    ) {
        if low <= high {
            return;
        }
        let find = |key| self.settings.iter().find(|setting| setting.key == key);
        if let (Some(low), Some(high)) = (find(first), find(second)) {
            self.errors.push(ConfigError::Conflict {
                low: Box::new(low.clone()),
                high: Box::new(high.clone()),
            });
        }
    }
}

fn lookup(config: &config::Config, key: &str) -> Value {
    let found = key
        .split('.')
        .try_fold(&config.cache, |value, name| match &value.kind {
            ValueKind::Table(table) => table.get(name),
            _ => None,
        });
    found.cloned().unwrap_or_default()
}
