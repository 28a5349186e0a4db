//! `[receive]`, and `[[receive.from]]`: other terms for some devices.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::ConfigError;
use super::reader::Reader;
use super::shapes::{self, Shape};
use super::surroundings::Surroundings;
use super::tables::{List, Table};
use crate::protocol::destination::fixed;
use crate::protocol::policy::{Changes, Collision, Mode, Policy, Rule, Terms};

/// The keys of a rule, in the order in which they are read.
const RULE_KEYS: [&str; 17] = [
    "who",
    "broadcast",
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
    "run",
    "run_timeout",
];
/// Rules as they stand in a file. There are at most so many because each is looked at for each
/// offer.
pub(super) const LIST: List = List {
    name: "receive.from",
    keys: &RULE_KEYS,
    most: 1000,
};
/// Longest name of a device or group, in bytes.
const MAX_WHO: usize = 256;

const MODES: [(&str, Mode); 3] = [
    ("accept", Mode::Accept),
    ("ask", Mode::Ask),
    ("refuse", Mode::Refuse),
];
pub(super) const COLLISIONS: [(&str, Collision); 3] = [
    ("keep-both", Collision::KeepBoth),
    ("overwrite", Collision::Overwrite),
    ("refuse", Collision::Refuse),
];
const RUN_TIMEOUT: [&str; 2] = ["1s", "1d"];
pub(super) const PERIOD: [&str; 2] = ["1m", "365d"];
/// Earlier versions of a series that may be kept.
const VERSIONS: std::ops::RangeInclusive<u64> = 0..=100;

/// `[receive]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receive {
    /// Whether to take bundles.
    pub enabled: bool,
    /// How long an offer waits for a person.
    pub ask_for: Duration,
    /// Whether chunks are exchanged with devices that a bundle's origin introduces.
    pub relay: bool,
    /// How many programs run at once after arrivals.
    pub run_at_once: usize,
    /// What is taken, from whom, and where it goes.
    pub policy: Policy,
}

impl Receive {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let enabled = r.boolean("receive.enabled");
        let destination = r.destination_or("receive.destination", Surroundings::destination);
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
            run: r.shaped("receive.run", &shapes::program()),
            run_timeout: r.duration("receive.run_timeout", RUN_TIMEOUT),
        };
        let run_at_once = r.number("receive.run_at_once", 1..=64);
        let rules = LIST.tables(r).into_iter();
        let rules = rules.map(|rule| read_rule(r, &rule)).collect();
        let policy = Policy { defaults, rules };
        Self {
            enabled,
            relay: r.boolean("receive.relay"),
            ask_for,
            run_at_once,
            policy,
        }
    }

    /// Notes a mistake where what arrives could replace another destination, or the state folder,
    /// because that lies in a destination where bundles replace what is there.
    pub(super) fn check_overwriting(&self, state: &Path, r: &mut Reader<'_>) {
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
            // What is filled in may be anything.
            let above = fixed(outer.map_or(Path::new(""), PathBuf::as_path));
            let overwrites = lent || collision.map_or(somewhere, |c| c == Collision::Overwrite);
            let Some(outer) = outer.filter(|_| overwrites) else {
                continue;
            };
            let inside =
                |path: &&PathBuf| path.starts_with(&above) && **path != above && *path != outer;
            let state = state.to_path_buf();
            let all = places.iter().filter_map(|(path, _)| *path).chain([&state]);
            if let Some(inner) = all.clone().find(inside) {
                let shown = format!("{:?}", inner.display().to_string());
                let mut set = r.settings.iter();
                let Some(set) = set.find(|set| set.value == shown) else {
                    return;
                };
                let (place, key) = (Box::new(set.place()), set.key.to_string());
                r.errors.push(ConfigError::Replaceable {
                    place,
                    key,
                    outer: outer.clone(),
                    inner: inner.clone(),
                });
                return;
            }
        }
    }
}

fn read_rule(r: &mut Reader<'_>, rule: &Table) -> Rule {
    let path = shapes::destination(r.surroundings, r.file);
    let not_empty = Shape::new(path.allowed, |value| (path.parse)(value).flatten());
    // A rule may be for a broadcast, whoever sends it.
    let who = match rule.has("broadcast") {
        true => rule.take(r, "who", &who()),
        false => rule.needs(r, "who", &who()),
    };
    let broadcasts = rule.take(r, "broadcast", &broadcasts());
    let changes = Changes {
        mode: rule.take(r, "mode", &shapes::choice(&MODES)),
        types: rule.take(r, "types", &shapes::patterns()),
        refuse_types: rule.take(r, "refuse_types", &shapes::patterns()),
        max_file: rule.take(r, "max_file", &shapes::limit()),
        max_bundle: rule.take(r, "max_bundle", &shapes::bytes(1..=u64::MAX)),
        max_files: rule.take(r, "max_files", &shapes::number(1..=100_000)),
        quota: rule.take(r, "quota", &shapes::limit()),
        quota_total: rule.take(r, "quota_total", &shapes::limit()),
        quota_period: rule.take(r, "quota_period", &shapes::span(PERIOD)),
        destination: rule.path(r, "destination", &not_empty),
        collision: rule.take(r, "collision", &shapes::choice(&COLLISIONS)),
        reserve: rule.take(r, "reserve", &shapes::bytes(0..=u64::MAX)),
        keep_versions: rule.take(r, "keep_versions", &shapes::number(VERSIONS)),
        run: rule.take(r, "run", &shapes::program()),
        run_timeout: rule.take(r, "run_timeout", &shapes::span(RUN_TIMEOUT)),
    };
    Rule {
        who: who.unwrap_or_default(),
        broadcasts: broadcasts.unwrap_or_default(),
        changes,
    }
}

/// Which broadcasts a rule is for.
fn broadcasts() -> Shape<'static, Vec<String>> {
    let words = who();
    let allowed = "a list of names of broadcasts, with at least one";
    Shape::new(allowed, move |value| (words.parse)(value))
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
