//! Lists of tables in a file, as `[[receive.from]]`: each table has keys of its own, no defaults,
//! and nothing in the environment.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use config::{Map, Value, ValueKind};

use super::error::ConfigError;
use super::layers::nearest;
use super::reader::Reader;
use super::shapes::{Shape, show};

/// A kind of list.
pub(super) struct List {
    /// How it is written, `receive.from`.
    pub key: &'static str,
    /// The keys of its tables.
    pub keys: &'static [&'static str],
    /// How many tables it may have.
    pub most: usize,
}

impl List {
    /// The key of one of the tables, counted from 1: `receive.from[1].mode`.
    pub(super) fn key_of(&self, number: usize, key: &str) -> String {
        format!("{}[{number}].{key}", self.key)
    }

    /// The tables as they stand in a file, with known keys only; all else is a mistake.
    pub(super) fn tables(&self, value: Value, errors: &mut Vec<ConfigError>) -> ValueKind {
        let wrong = |origin: Option<&str>, got: String| ConfigError::WrongValue {
            origin: origin.unwrap_or_default().to_owned(),
            key: self.key.to_owned(),
            allowed: format!("written as [[{}]], at most {} times", self.key, self.most),
            got: got.chars().take(80).collect(),
            nearest: None,
        };
        let empty = ValueKind::Array(Vec::new());
        let tables = match &value.kind {
            ValueKind::Array(tables) => tables,
            ValueKind::Nil => return empty,
            _ => {
                errors.push(wrong(value.origin(), show(&value)));
                return empty;
            }
        };
        if tables.len() > self.most {
            errors.push(wrong(value.origin(), format!("{} times", tables.len())));
            return empty;
        }
        let mut kept = Vec::new();
        for (at, item) in tables.iter().enumerate() {
            let ValueKind::Table(table) = &item.kind else {
                errors.push(wrong(item.origin().or(value.origin()), show(item)));
                continue;
            };
            let mut known = Map::new();
            for (key, value) in BTreeMap::from_iter(table) {
                if self.keys.contains(&key.as_str()) {
                    known.insert(key.clone(), value.clone());
                } else if value.kind != ValueKind::Nil {
                    let names = self.keys.iter().map(|known| (*known).to_owned());
                    let meant = nearest(key, key, names);
                    errors.push(ConfigError::UnknownKey {
                        origin: value.origin().unwrap_or_default().to_owned(),
                        nearest: meant.map(|known| self.key_of(at + 1, &known)),
                        key: self.key_of(at + 1, key).chars().take(80).collect(),
                    });
                }
            }
            kept.push(Value::new(item.origin().map(str::to_owned).as_ref(), known));
        }
        ValueKind::Array(kept)
    }

    /// Reads one of the tables, counted from 1.
    pub(super) fn item<'a, 'b>(
        &'a self,
        r: &'a mut Reader<'b>,
        number: usize,
        item: &Value,
    ) -> Item<'a, 'b> {
        let table = match &item.kind {
            ValueKind::Table(table) => table.clone(),
            _ => Map::new(),
        };
        Item {
            list: self,
            r,
            number,
            table,
            origin: item.origin().unwrap_or("the config file").to_owned(),
        }
    }

    /// Notes a mistake where two of the tables have the same text at `key`.
    pub(super) fn unlike(&self, r: &mut Reader<'_>, key: &str) {
        let mut firsts: HashMap<String, String> = HashMap::new();
        for (at, item) in r.tables(self.key).iter().enumerate() {
            let ValueKind::Table(table) = &item.kind else {
                continue;
            };
            let Some(value) = table.get(key) else {
                continue;
            };
            let ValueKind::String(name) = &value.kind else {
                continue;
            };
            let place = value.origin().unwrap_or_default().to_owned();
            match firsts.get(name) {
                Some(first) => r.errors.push(ConfigError::Duplicate {
                    origin: place,
                    key: self.key_of(at + 1, key),
                    name: name.chars().take(80).collect(),
                    first: first.clone(),
                }),
                None => {
                    let first = format!("{} in {place}", self.key_of(at + 1, key));
                    firsts.insert(name.clone(), first);
                }
            }
        }
    }
}

/// One of the tables, being read.
pub(super) struct Item<'a, 'b> {
    list: &'a List,
    /// Who reads.
    pub r: &'a mut Reader<'b>,
    number: usize,
    table: Map<String, Value>,
    origin: String,
}

impl Item<'_, '_> {
    /// A value, when it is there.
    pub(super) fn take<T>(&mut self, key: &str, shape: &Shape<'_, T>) -> Option<T> {
        let value = self.table.get(key)?;
        let key = self.list.key_of(self.number, key);
        self.r.check(key.into(), value, shape)
    }

    /// A value that must be there.
    pub(super) fn must<T>(&mut self, key: &str, shape: &Shape<'_, T>) -> Option<T> {
        if !self.table.contains_key(key) {
            self.r.errors.push(ConfigError::WrongValue {
                origin: self.origin.clone(),
                key: self.list.key_of(self.number, key),
                allowed: shape.allowed.clone(),
                got: "left out".to_owned(),
                nearest: None,
            });
        }
        self.take(key, shape)
    }

    /// A path, when it is there.
    pub(super) fn path(&mut self, key: &str, shape: &Shape<'_, PathBuf>) -> Option<PathBuf> {
        let path = self.take(key, shape)?;
        self.r.explain(&path.display().to_string());
        Some(path)
    }

    /// Notes what is no mistake about a value.
    pub(super) fn warn(&mut self, key: &str, text: impl Into<String>) {
        let origin = self.table.get(key).and_then(Value::origin);
        let origin = origin.unwrap_or(&self.origin).to_owned();
        let key = self.list.key_of(self.number, key);
        self.r.warn(&origin, key, text);
    }
}
