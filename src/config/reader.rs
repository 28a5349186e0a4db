//! From the merged layers to checked values, collecting every mistake on the way.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use config::{Value, ValueKind};

use super::Setting;
use super::error::ConfigError;
use super::layers::variable;
use super::surroundings::Surroundings;
use super::units::{duration, show_duration, show_size, size};

/// Reads keys. A wrong value is noted and the default is read in its place, so that all mistakes
/// come to light at once.
pub(super) struct Reader<'a> {
    pub merged: config::Config,
    pub defaults: config::Config,
    pub surroundings: &'a Surroundings,
    /// The config file, where there is one: its relative paths start at its folder.
    pub file: Option<&'a Path>,
    pub errors: Vec<ConfigError>,
    /// What was read, in order.
    pub settings: Vec<Setting>,
}

impl Reader<'_> {
    /// Reads a key with `parse`; `allowed` says to a person what it takes.
    fn read<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> T {
        let value = lookup(&self.merged, key);
        let parsed = parse(&value);
        let origin = value.origin().unwrap_or_default().to_owned();
        self.settings.push(Setting {
            key,
            value: show(&value),
            source: origin.clone(),
        });
        parsed.unwrap_or_else(|| {
            self.errors.push(ConfigError::WrongValue {
                origin,
                key: key.to_owned(),
                allowed: allowed.to_owned(),
                got: show(&value).chars().take(80).collect(),
            });
            parse(&lookup(&self.defaults, key))
                .expect("the embedded defaults are right, as a test shows")
        })
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> bool {
        self.read(key, "true or false", |value| match &value.kind {
            ValueKind::Boolean(boolean) => Some(*boolean),
            ValueKind::String(text) => text.trim().to_ascii_lowercase().parse().ok(),
            _ => None,
        })
    }

    pub(super) fn number<T: TryFrom<u64> + Display>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> T {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, &allowed, |value| {
            let number = integer(value).or_else(|| text(value)?.trim().parse().ok())?;
            range.contains(&number).then(|| T::try_from(number).ok())?
        })
    }

    /// Bytes.
    pub(super) fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = (show_size(*range.start()), show_size(*range.end()));
        let allowed = match *range.end() {
            u64::MAX => format!("a size such as 64KiB or 1GB, at least {low}"),
            _ => format!("a size such as 64KiB or 1GB, from {low} to {high}"),
        };
        self.read(key, &allowed, |value| {
            let bytes = integer(value).or_else(|| size(text(value)?))?;
            range.contains(&bytes).then_some(bytes)
        })
    }

    /// `range` is written as durations are in the file.
    pub(super) fn duration(&mut self, key: &'static str, range: [&str; 2]) -> Duration {
        let [low, high] = range.map(|end| {
            duration(end).expect("the ranges in settings.rs are durations, as every load shows")
        });
        let allowed = format!(
            "a duration such as 500ms, 10s or 2m, from {} to {}",
            show_duration(low),
            show_duration(high)
        );
        self.read(key, &allowed, |value| {
            let duration = duration(text(value)?)?;
            (low..=high).contains(&duration).then_some(duration)
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> T {
        let words: Vec<_> = choices
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect();
        let allowed = words.join(" or ");
        self.read(key, &allowed, |value| {
            let text = text(value)?.trim();
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, choice)| *choice)
        })
    }

    /// Anything that is written as text.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &'static str, allowed: &str) -> T {
        self.read(key, allowed, |value| text(value)?.trim().parse().ok())
    }

    /// A list of such; from the environment and the command line separated by commas. `allowed`
    /// is in the plural.
    pub(super) fn list<T: FromStr>(&mut self, key: &'static str, allowed: &str) -> Vec<T> {
        const MOST: usize = 10_000;
        let allowed = format!("a list of {allowed}");
        self.read(key, &allowed, |value| {
            let items: Vec<&str> = match &value.kind {
                ValueKind::Array(values) => values.iter().map(text).collect::<Option<_>>()?,
                ValueKind::String(text) if text.trim().is_empty() => Vec::new(),
                ValueKind::String(text) => text.split(',').collect(),
                _ => return None,
            };
            if items.len() > MOST {
                return None;
            }
            items.iter().map(|item| item.trim().parse().ok()).collect()
        })
    }

    /// Text, or something that depends on the surroundings where it is empty.
    pub(super) fn text_or(
        &mut self,
        key: &'static str,
        allowed: &str,
        fits: fn(&str) -> bool,
        otherwise: impl FnOnce(&Surroundings) -> String,
    ) -> String {
        let written = self.read(key, allowed, |value| {
            text(value).filter(|text| fits(text)).map(str::to_owned)
        });
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
        let (surroundings, file) = (self.surroundings, self.file);
        let path = self.read(key, "a path (~/ needs HOME to be set)", |value| {
            let written = text(value)?;
            if written.is_empty() {
                return Some(None);
            }
            let in_file = file.filter(|file| value.origin() == file.to_str());
            let base = in_file.and_then(Path::parent);
            let base = base.unwrap_or(&surroundings.current_dir);
            surroundings.absolute(written, base).map(Some)
        });
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

    /// Notes what the value just read comes to.
    fn explain(&mut self, effective: &str) {
        if let Some(setting) = self.settings.last_mut() {
            setting.value = format!("{effective:?}");
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

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<u64> {
    match value.kind {
        ValueKind::I64(number) => number.try_into().ok(),
        ValueKind::U64(number) => Some(number),
        _ => None,
    }
}

/// A value as it is written in TOML.
fn show(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(values) => {
            let items: Vec<_> = values.iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => "a table".to_owned(),
        other => other.to_string(),
    }
}
