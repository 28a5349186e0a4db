//! Lists of tables in a file: `[[group]]`, `[[broadcast]]`, `[[receive.from]]`. Each table has keys
//! of its own, no defaults, and nothing in the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use config::{Map, Value, ValueKind};

use super::error::ConfigError;
use super::layers::nearest;
use super::reader::Reader;
use super::shapes::{self, Shape};

/// Under which key of its section a list is kept.
pub(super) const ITEMS: &str = "*";

/// One such list.
#[derive(Debug)]
pub(super) struct List {
    /// Its name in the file; with its section, where it is in one.
    pub name: &'static str,
    /// The keys of its tables.
    pub keys: &'static [&'static str],
    /// Most tables.
    pub most: usize,
}

impl List {
    fn key_of(&self, number: usize, key: &str) -> String {
        format!("{}[{number}].{key}", self.name)
    }

    /// The tables as they stand in a file: only with known keys; all else is a mistake.
    pub(super) fn items_of(&self, value: &Value, errors: &mut Vec<ConfigError>) -> ValueKind {
        let (name, most) = (self.name, self.most);
        let wrong = |got: &Value| ConfigError::WrongValue {
            origin: got.origin().unwrap_or_default().to_owned(),
            key: name.to_owned(),
            allowed: format!("written as [[{name}]], once for each of at most {most}"),
            got: shapes::show(got).chars().take(80).collect(),
            nearest: None,
        };
        let ValueKind::Array(tables) = &value.kind else {
            errors.push(wrong(value));
            return ValueKind::Array(Vec::new());
        };
        if tables.len() > most {
            let origin = value.origin().map(str::to_owned);
            let many = format!("{} of them", tables.len());
            errors.push(wrong(&Value::new(origin.as_ref(), many)));
            return ValueKind::Array(Vec::new());
        }
        let mut items = Vec::new();
        for (at, item) in tables.iter().enumerate() {
            let ValueKind::Table(table) = &item.kind else {
                errors.push(wrong(item));
                continue;
            };
            let mut known = Map::new();
            for (key, value) in BTreeMap::from_iter(table) {
                if self.keys.contains(&key.as_str()) {
                    known.insert(key.clone(), value.clone());
                } else {
                    let names = self.keys.iter().map(|known| (*known).to_owned());
                    let meant = nearest(key, key, names);
                    errors.push(ConfigError::UnknownKey {
                        origin: value.origin().unwrap_or_default().to_owned(),
                        nearest: meant.map(|known| self.key_of(at + 1, &known)),
                        key: self.key_of(at + 1, key).chars().take(80).collect(),
                    });
                }
            }
            let origin = item.origin().map(str::to_owned);
            items.push(Value::new(origin.as_ref(), known));
        }
        ValueKind::Array(items)
    }

    /// Notes a mistake for each table that has the same text at `key` as an earlier one.
    pub(super) fn distinct(&'static self, r: &mut Reader<'_>, key: &str, allowed: &str) {
        let mut seen = BTreeSet::new();
        for table in self.tables(r) {
            for text in table.texts(key) {
                if !seen.insert(text.clone()) {
                    let got = shapes::show(&Value::new(None, text));
                    table.wrong(r, key, allowed, &format!("{got} again"));
                }
            }
        }
    }

    /// The tables, each with its number, counted from 1.
    pub(super) fn tables(&'static self, r: &Reader<'_>) -> Vec<Table> {
        let key = match self.name.contains('.') {
            true => self.name.to_owned(),
            false => format!("{}.{ITEMS}", self.name),
        };
        let tables = r.tables(&key).into_iter();
        let tables = tables.enumerate().map(|(at, item)| Table {
            list: self,
            number: at + 1,
            origin: item.origin().unwrap_or("the config file").to_owned(),
            values: match item.kind {
                ValueKind::Table(values) => values,
                _ => Map::new(),
            },
        });
        tables.collect()
    }
}

/// One table of a list.
pub(super) struct Table {
    list: &'static List,
    number: usize,
    origin: String,
    values: Map<String, Value>,
}

impl Table {
    /// The value of a key; nothing where it is left out, or wrong, which is noted.
    pub(super) fn take<T>(&self, r: &mut Reader<'_>, key: &str, shape: &Shape<'_, T>) -> Option<T> {
        let value = self.values.get(key)?;
        r.check(self.list.key_of(self.number, key).into(), value, shape)
    }

    /// A path. What it comes to is noted.
    pub(super) fn path(
        &self,
        r: &mut Reader<'_>,
        key: &str,
        shape: &Shape<'_, PathBuf>,
    ) -> Option<PathBuf> {
        let path = self.take(r, key, shape)?;
        r.explain(&path.display().to_string());
        Some(path)
    }

    /// The same, where leaving it out is a mistake.
    pub(super) fn needs<T>(
        &self,
        r: &mut Reader<'_>,
        key: &str,
        shape: &Shape<'_, T>,
    ) -> Option<T> {
        // It may be on a line that is not TOML.
        if !self.has(key) && !r.has_slips() {
            self.wrong(r, key, &shape.allowed, "left out");
        }
        self.take(r, key, shape)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Where a key is, or the table, where it is not there.
    fn origin_of(&self, key: &str) -> &str {
        let origin = self.values.get(key).and_then(Value::origin);
        origin.unwrap_or(&self.origin)
    }

    /// Notes what is no mistake, but hardly meant.
    pub(super) fn doubt(&self, r: &mut Reader<'_>, key: &str, text: impl Into<String>) {
        let full = self.list.key_of(self.number, key);
        r.warn(self.origin_of(key), full, text);
    }

    /// The texts of a key: one, or those of a list.
    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        let texts = self.values.get(key).cloned();
        match texts.map(|value| value.kind) {
            Some(ValueKind::String(text)) => vec![text],
            Some(ValueKind::Array(items)) => items
                .iter()
                .filter_map(|item| shapes::text(item).map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Notes a mistake in an item of a list, counted from 0.
    pub(super) fn wrong_item(
        &self,
        r: &mut Reader<'_>,
        key: &str,
        item: usize,
        allowed: &str,
        got: &str,
    ) {
        let items = match self.values.get(key).map(|value| &value.kind) {
            Some(ValueKind::Array(items)) => items.get(item),
            _ => None,
        };
        let origin = items.and_then(Value::origin);
        r.errors.push(ConfigError::WrongValue {
            origin: origin.unwrap_or(self.origin_of(key)).to_owned(),
            key: self.list.key_of(self.number, key),
            allowed: allowed.to_owned(),
            got: got.to_owned(),
            nearest: None,
        });
    }

    /// A value as it is written.
    pub(super) fn raw(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Notes a value within the table, for showing.
    pub(super) fn note(&self, r: &mut Reader<'_>, key: &str, value: &Value) {
        let any = Shape::new("", |_| Some(()));
        let _ = r.check(self.list.key_of(self.number, key).into(), value, &any);
    }

    /// Notes a mistake in a value within the table.
    pub(super) fn wrong_at(
        &self,
        r: &mut Reader<'_>,
        value: &Value,
        key: &str,
        allowed: &str,
        got: &str,
    ) {
        r.errors.push(ConfigError::WrongValue {
            origin: value.origin().unwrap_or(&self.origin).to_owned(),
            key: self.list.key_of(self.number, key),
            allowed: allowed.to_owned(),
            got: got.to_owned(),
            nearest: None,
        });
    }

    /// Notes a key within the table that there is not.
    pub(super) fn unknown_at(
        &self,
        r: &mut Reader<'_>,
        value: &Value,
        key: &str,
        meant: Option<String>,
    ) {
        r.errors.push(ConfigError::UnknownKey {
            origin: value.origin().unwrap_or(&self.origin).to_owned(),
            key: self
                .list
                .key_of(self.number, key)
                .chars()
                .take(80)
                .collect(),
            nearest: meant.map(|meant| self.list.key_of(self.number, &meant)),
        });
    }

    /// Notes a mistake.
    pub(super) fn wrong(&self, r: &mut Reader<'_>, key: &str, allowed: &str, got: &str) {
        r.errors.push(ConfigError::WrongValue {
            origin: self.origin_of(key).to_owned(),
            key: self.list.key_of(self.number, key),
            allowed: allowed.to_owned(),
            got: got.to_owned(),
            nearest: None,
        });
    }
}
