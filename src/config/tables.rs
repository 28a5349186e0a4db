//! Lists of tables that stand at the top of a file: `[[group]]`, `[[broadcast]]`.

use std::collections::BTreeMap;

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
    /// Its name in the file.
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
    pub(super) fn items_of(
        &self,
        value: &Value,
        origin: &str,
        errors: &mut Vec<ConfigError>,
    ) -> ValueKind {
        let (name, most) = (self.name, self.most);
        let wrong = |got: &Value| ConfigError::WrongValue {
            origin: origin.to_owned(),
            key: name.to_owned(),
            allowed: format!("written as [[{name}]], once for each of at most {most}"),
            got: shapes::show(got).chars().take(80).collect(),
        };
        let ValueKind::Array(tables) = &value.kind else {
            errors.push(wrong(value));
            return ValueKind::Array(Vec::new());
        };
        if tables.len() > most {
            errors.push(wrong(&Value::new(
                None,
                format!("{} of them", tables.len()),
            )));
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
                    let value = Value::new(Some(&origin.to_owned()), value.kind.clone());
                    known.insert(key.clone(), value);
                } else {
                    let names = self.keys.iter().map(|known| (*known).to_owned());
                    let meant = nearest(key, key, names);
                    errors.push(ConfigError::UnknownKey {
                        origin: origin.to_owned(),
                        nearest: meant.map(|known| self.key_of(at + 1, &known)),
                        key: self.key_of(at + 1, key).chars().take(80).collect(),
                    });
                }
            }
            items.push(Value::new(Some(&origin.to_owned()), known));
        }
        ValueKind::Array(items)
    }

    /// The tables, each with its number, counted from 1.
    pub(super) fn tables(&'static self, r: &Reader<'_>) -> Vec<Table> {
        let tables = r.tables(&format!("{}.{ITEMS}", self.name)).into_iter();
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

    /// The same, where leaving it out is a mistake.
    pub(super) fn needs<T>(
        &self,
        r: &mut Reader<'_>,
        key: &str,
        shape: &Shape<'_, T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.wrong(r, key, &shape.allowed, "left out");
        }
        self.take(r, key, shape)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Notes a mistake.
    pub(super) fn wrong(&self, r: &mut Reader<'_>, key: &str, allowed: &str, got: &str) {
        r.errors.push(ConfigError::WrongValue {
            origin: self.origin.clone(),
            key: self.list.key_of(self.number, key),
            allowed: allowed.to_owned(),
            got: got.to_owned(),
        });
    }
}
