//! `[receive]`, and `[[receive.from]]`: other terms for some devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::error::ConfigError;
use super::layers::nearest;
use super::reader::Reader;
use super::shapes::{self, Shape};
use super::surroundings::Surroundings;
use crate::protocol::policy::{Changes, Collision, Mode, Policy, Rule, Terms};

/// The list of rules, which has no default and stands in a file only.
pub(super) const RULES: (&str, &str) = ("receive", "from");
/// The keys of a rule, in the order in which they are read.
const RULE_KEYS: [&str; 14] = [
    "who",
    "mode",
    "types",
    "refuse_types",
    "max_file",
    "max_bundle",
    "max_files",
    "quota",
    "quota_total",
    "quota_period",
    "destination",
    "collision",
    "reserve",
    "keep_versions",
];
/// Most rules: each is looked at for each offer.
const MAX_RULES: usize = 1000;
/// Longest name of a device or group, in bytes.
const MAX_WHO: usize = 256;

const MODES: [(&str, Mode); 3] = [
    ("accept", Mode::Accept),
    ("ask", Mode::Ask),
    ("refuse", Mode::Refuse),
];
const COLLISIONS: [(&str, Collision); 3] = [
    ("keep-both", Collision::KeepBoth),
    ("overwrite", Collision::Overwrite),
    ("refuse", Collision::Refuse),
];
/// Earlier versions of a series that may be kept.
const VERSIONS: std::ops::RangeInclusive<u64> = 0..=100;
const PERIOD: [&str; 2] = ["1m", "365d"];

/// `[receive]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receive {
    /// Whether to take bundles.
    pub enabled: bool,
    /// How long an offer waits for a person.
    pub ask_for: Duration,
    /// Whether chunks are exchanged with devices that a bundle's origin introduces.
    pub relay: bool,
    /// What is taken, from whom, and where it goes.
    pub policy: Policy,
}

impl Receive {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let enabled = r.boolean("receive.enabled");
        let destination = r.path_or("receive.destination", Surroundings::destination);
        let mode = r.choice("receive.mode", &MODES);
        let ask_for = r.duration("receive.ask_for", ["1s", "30d"]);
        let defaults = Terms {
            mode,
            types: r.shaped("receive.types", &shapes::patterns()),
            refuse_types: r.shaped("receive.refuse_types", &shapes::patterns()),
            max_file: r.shaped("receive.max_file", &shapes::limit()),
            max_bundle: r.size("receive.max_bundle", 1..=u64::MAX),
            max_files: r.number("receive.max_files", 1..=100_000),
            quota: r.shaped("receive.quota", &shapes::limit()),
            quota_total: r.shaped("receive.quota_total", &shapes::limit()),
            quota_period: r.duration("receive.quota_period", PERIOD),
            destination,
            collision: r.choice("receive.collision", &COLLISIONS),
            reserve: r.size("receive.reserve", 0..=u64::MAX),
            keep_versions: r.number("receive.keep_versions", VERSIONS),
        };
        let rules = r.tables("receive.from");
        let rules = rules.iter().enumerate();
        let rules = rules.map(|(at, rule)| read_rule(r, at + 1, rule)).collect();
        let policy = Policy { defaults, rules };
        Self {
            enabled,
            relay: r.boolean("receive.relay"),
            ask_for,
            policy,
        }
    }

    /// Notes a mistake where what arrives could replace another destination, or the state folder,
    /// because that lies in a destination where bundles replace what is there.
    pub(super) fn check_overwriting(&self, state: &Path, errors: &mut Vec<ConfigError>) {
        let Policy { defaults, rules } = &self.policy;
        let own = (Some(&defaults.destination), Some(defaults.collision));
        let of_rules = rules
            .iter()
            .map(|rule| (rule.changes.destination.as_ref(), rule.changes.collision));
        let places: Vec<_> = of_rules.chain([own]).collect();
        let overwrite = Some(Collision::Overwrite);
        // What one rule leaves open, another may say.
        let lent = places.contains(&(None, overwrite));
        let somewhere = places.iter().any(|(_, collision)| *collision == overwrite);
        for (outer, collision) in &places {
            let overwrites = lent || collision.map_or(somewhere, |c| c == Collision::Overwrite);
            let Some(outer) = outer.filter(|_| overwrites) else {
                continue;
            };
            let inside = |path: &&PathBuf| path.starts_with(outer) && *path != outer;
            let state = state.to_path_buf();
            let all = places.iter().filter_map(|(path, _)| *path).chain([&state]);
            if let Some(inner) = all.clone().find(inside) {
                errors.push(ConfigError::Replaceable {
                    outer: outer.clone(),
                    inner: inner.clone(),
                });
                return;
            }
        }
    }
}

fn key_of(rule: usize, key: &str) -> String {
    format!("receive.from[{rule}].{key}")
}

/// Rules as they stand in a file: only tables with known keys; all else is a mistake.
pub(super) fn rules_of(value: Value, origin: &str, errors: &mut Vec<ConfigError>) -> ValueKind {
    let wrong = |got: &Value| ConfigError::WrongValue {
        origin: origin.to_owned(),
        key: "receive.from".to_owned(),
        allowed: format!("written as [[receive.from]], once for each of at most {MAX_RULES} rules"),
        got: shapes::show(got).chars().take(80).collect(),
    };
    let ValueKind::Array(tables) = &value.kind else {
        errors.push(wrong(&value));
        return ValueKind::Array(Vec::new());
    };
    if tables.len() > MAX_RULES {
        errors.push(wrong(&Value::new(None, format!("{} rules", tables.len()))));
        return ValueKind::Array(Vec::new());
    }
    let mut rules = Vec::new();
    for (at, rule) in tables.iter().enumerate() {
        let ValueKind::Table(table) = &rule.kind else {
            errors.push(wrong(rule));
            continue;
        };
        let mut known = Map::new();
        for (key, value) in BTreeMap::from_iter(table) {
            if RULE_KEYS.contains(&key.as_str()) {
                let value = Value::new(Some(&origin.to_owned()), value.kind.clone());
                known.insert(key.clone(), value);
            } else {
                let full = key_of(at + 1, key);
                let names = RULE_KEYS.iter().map(|known| (*known).to_owned());
                let meant = nearest(key, key, names);
                errors.push(ConfigError::UnknownKey {
                    origin: origin.to_owned(),
                    nearest: meant.map(|known| key_of(at + 1, &known)),
                    key: full.chars().take(80).collect(),
                });
            }
        }
        rules.push(Value::new(None, known));
    }
    ValueKind::Array(rules)
}

fn read_rule(r: &mut Reader<'_>, number: usize, rule: &Value) -> Rule {
    let table = match &rule.kind {
        ValueKind::Table(table) => table.clone(),
        _ => Map::new(),
    };
    let (surroundings, file) = (r.surroundings, r.file);
    let mut rule = RuleReader { r, number, table };
    let who = rule.take("who", &who());
    if who.is_none() && !rule.table.contains_key("who") {
        rule.lacks_who();
    }
    let path = shapes::path(surroundings, file);
    let not_empty = Shape::new(path.allowed, |value| (path.parse)(value).flatten());
    let mode = rule.take("mode", &shapes::choice(&MODES));
    let changes = Changes {
        mode,
        types: rule.take("types", &shapes::patterns()),
        refuse_types: rule.take("refuse_types", &shapes::patterns()),
        max_file: rule.take("max_file", &shapes::limit()),
        max_bundle: rule.take("max_bundle", &shapes::bytes(1..=u64::MAX)),
        max_files: rule.take("max_files", &shapes::number(1..=100_000)),
        quota: rule.take("quota", &shapes::limit()),
        quota_total: rule.take("quota_total", &shapes::limit()),
        quota_period: rule.take("quota_period", &shapes::span(PERIOD)),
        destination: rule.path(&not_empty),
        collision: rule.take("collision", &shapes::choice(&COLLISIONS)),
        reserve: rule.take("reserve", &shapes::bytes(0..=u64::MAX)),
        keep_versions: rule.take("keep_versions", &shapes::number(VERSIONS)),
    };
    Rule {
        who: who.unwrap_or_default(),
        changes,
    }
}

/// Whom a rule is for. Nobody needs to be known by that name yet; it only must be a name that a
/// device or group can have.
pub(super) fn who() -> Shape<'static, Vec<String>> {
    let allowed = "a list of device ids, names of devices, and groups, with at least one";
    let words = shapes::list::<String>("");
    Shape::new(allowed, move |value| {
        let fits = |word: &String| {
            !word.is_empty() && word.len() <= MAX_WHO && !word.chars().any(char::is_control)
        };
        let words = (words.parse)(value)?;
        (!words.is_empty() && words.iter().all(fits)).then_some(words)
    })
}

struct RuleReader<'a, 'b> {
    r: &'a mut Reader<'b>,
    number: usize,
    table: Map<String, Value>,
}

impl RuleReader<'_, '_> {
    fn take<T>(&mut self, key: &str, shape: &Shape<'_, T>) -> Option<T> {
        let value = self.table.get(key)?;
        self.r.check(key_of(self.number, key).into(), value, shape)
    }

    fn path(&mut self, shape: &Shape<'_, PathBuf>) -> Option<PathBuf> {
        let path = self.take("destination", shape)?;
        self.r.explain(&path.display().to_string());
        Some(path)
    }

    fn lacks_who(&mut self) {
        let mut values = self.table.values();
        let origin = values.find_map(Value::origin).unwrap_or("the config file");
        self.r.errors.push(ConfigError::WrongValue {
            origin: origin.to_owned(),
            key: key_of(self.number, "who"),
            allowed: who().allowed,
            got: "left out".to_owned(),
        });
    }
}
