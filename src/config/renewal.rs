//! Settings that take the place of others while the program runs: some hold from then on, others
//! only after a restart.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Setting, Settings};

/// Settings, and whole sections, that take effect while the program runs. Those of `network` and
/// the rest of `signaling` hold for links that are made from then on.
const LIVE: [&str; 16] = [
    "group[",
    "broadcast[",
    "receive.",
    "hand_in.",
    "swarm.",
    "trust.",
    "limits.",
    "transfer.",
    "network.",
    "signaling.initiator",
    "signaling.answer_timeout",
    "signaling.retries",
    "signaling.backoff",
    "signaling.early_candidates",
    "signaling.max_clock_skew",
    "log.level",
];

/// A setting that is another one than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which, with its section.
    pub key: String,
    /// What it was, as TOML; nothing where it was not there.
    pub old: Option<String>,
    /// What it is, as TOML; nothing where it is gone.
    pub new: Option<String>,
    /// It holds only after a restart.
    pub restart: bool,
}

fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| match live.ends_with(['.', '[']) {
        true => key.starts_with(live),
        false => key == *live,
    })
}

impl Settings {
    /// What holds when `new` is read while these are in use, and what of that is another value.
    /// What needs a restart stays as it is.
    pub fn renewed(&self, new: Self) -> (Self, Vec<Change>) {
        let changes = self.changes(&new);
        let mut next = self.clone();
        next.described = self.described_after(&new);
        let Self {
            signaling,
            network,
            receive,
            hand_in,
            swarm,
            trust,
            limits,
            transfer,
            log,
            groups,
            broadcasts,
            warnings,
            loaded,
            ..
        } = new;
        (next.network, next.receive, next.swarm) = (network, receive, swarm);
        next.hand_in = hand_in;
        (next.trust, next.transfer, next.limits) = (trust, transfer, limits);
        (next.groups, next.broadcasts) = (groups, broadcasts);
        (next.warnings, next.loaded) = (warnings, loaded);
        next.log.level = log.level;
        let kept = &mut next.signaling;
        kept.initiator = signaling.initiator;
        kept.answer_timeout = signaling.answer_timeout;
        kept.retries = signaling.retries;
        kept.backoff = signaling.backoff;
        kept.early_candidates = signaling.early_candidates;
        kept.max_clock_skew = signaling.max_clock_skew;
        (next, changes)
    }

    fn by_key(&self) -> BTreeMap<&str, &str> {
        let pairs = self.described.iter();
        pairs.map(|set| (&*set.key, &*set.value)).collect()
    }

    /// All values with their keys, in order. What has a name goes by that, since its place in the
    /// file is another one as soon as something is put before it: `broadcast["lessons"].hours`.
    fn named(&self) -> Vec<(Cow<'_, str>, &str)> {
        let values = self.by_key();
        let named = |key: &'_ str| {
            let (list, rest) = key.split_once("].")?;
            let name = values.get(&*format!("{list}].name"))?;
            let (list, _) = list.split_once('[')?;
            Some(format!("{list}[{name}].{rest}"))
        };
        let pairs = self.described.iter();
        pairs
            .map(|set| {
                let key = named(&set.key).map_or(Cow::Borrowed(&*set.key), Cow::Owned);
                (key, &*set.value)
            })
            .collect()
    }

    fn changes(&self, new: &Self) -> Vec<Change> {
        let (before, after) = (self.named(), new.named());
        let of = |all: &[(Cow<'_, str>, &str)]| -> BTreeMap<String, String> {
            let pairs = all.iter();
            pairs
                .map(|(key, value)| (key.to_string(), (*value).to_owned()))
                .collect()
        };
        let (old, new) = (of(&before), of(&after));
        let gone = before.iter().filter(|(key, _)| !new.contains_key(&**key));
        let keys = after.iter().chain(gone).map(|(key, _)| &**key);
        keys.filter(|key| old.get(*key) != new.get(*key))
            .map(|key| Change {
                key: key.to_owned(),
                old: old.get(key).cloned(),
                new: new.get(key).cloned(),
                restart: !is_live(key),
            })
            .collect()
    }

    fn described_after(&self, new: &Self) -> Vec<Setting> {
        let of_before: BTreeMap<&Cow<'_, str>, &Setting> =
            self.described.iter().map(|set| (&set.key, set)).collect();
        let (is_kept, mut described) = (|set: &Setting| !is_live(&set.key), Vec::new());
        for set in &new.described {
            match is_kept(set) {
                true => described.extend(of_before.get(&set.key).map(|set| (*set).clone())),
                false => described.push(set.clone()),
            }
        }
        let after = new.by_key();
        let gone = self.described.iter().filter(|set| is_kept(set));
        described.extend(gone.filter(|set| !after.contains_key(&*set.key)).cloned());
        described
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> Result<Settings, crate::config::ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let fixed = [
            ("state.dir", "/s"),
            ("receive.destination", "/in"),
            ("hand_in.destination", "/hand-ins"),
            ("device.name", "a"),
            (key, value),
        ];
        let set = fixed.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Settings::load(Some(file.path()), &set)
    }

    /// Another value of the same kind.
    fn other(value: &str) -> String {
        let bare = value.trim_matches('"');
        let numbers: String = bare.chars().take_while(char::is_ascii_digit).collect();
        match (bare, numbers.parse::<u64>()) {
            ("true", _) => "false".to_owned(),
            ("false", _) => "true".to_owned(),
            ("0", _) => "1".to_owned(),
            (_, Ok(number)) if number > 0 => {
                let more = if number > 4 { number - 1 } else { number + 1 };
                format!("{more}{}", &bare[numbers.len()..])
            }
            _ => String::new(),
        }
    }

    #[test]
    fn what_holds_at_once_is_taken_and_all_else_stays_and_is_said_to_need_a_restart() {
        let before = with("state.dir", "/s").unwrap();
        let mut changed = 0;
        for setting in before.describe().to_vec() {
            let Ok(new) = with(&setting.key, &other(&setting.value)) else {
                continue;
            };
            let (next, changes) = before.renewed(new.clone());
            let [change] = &changes[..] else { continue };
            changed += 1;
            assert_eq!(change.key, setting.key);
            let shown = next.by_key()[&*setting.key].to_owned();
            let kept = change.restart;
            assert_eq!(shown == setting.value, kept, "{}", setting.key);
            let (mut next, mut expected) = (next, if kept { before.clone() } else { new });
            // How they were loaded is another matter.
            for settings in [&mut next, &mut expected] {
                settings.loaded = before.loaded.clone();
                settings.described.clear();
            }
            assert_eq!(next, expected, "{}", setting.key);
        }
        assert!(changed > 50, "only {changed} settings could be changed");
    }

    #[test]
    fn what_has_a_name_is_called_by_it_and_its_place_in_the_file_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my.toml");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let set = [("state.dir", "/s"), ("receive.destination", "/in")];
            let set = set.map(|(key, value)| (key.to_owned(), value.to_owned()));
            Settings::load(Some(&file), &set).unwrap()
        };
        let film = "[[broadcast]]\nname = \"film\"\npath = \"/a\"\nto = \"all\"\n";
        let paper = "[[broadcast]]\nname = \"paper\"\npath = \"/b\"\nto = \"all\"\n";
        let rule = "[[receive.from]]\nwho = [\"staff\"]\nmode = \"ask\"\n";
        let before = load(&format!("{film}{rule}"));
        let after = load(&format!("{paper}{film}hours = \"Mon\"\n{rule}"));
        let keys = |changes: Vec<Change>| -> Vec<String> {
            changes.into_iter().map(|change| change.key).collect()
        };
        let (next, changes) = before.renewed(after);
        let added = ["name", "path", "to"].map(|key| format!("broadcast[\"paper\"].{key}"));
        let mut expected = added.to_vec();
        expected.push("broadcast[\"film\"].hours".to_owned());
        assert_eq!(keys(changes), expected);
        let (_, changes) = next.renewed(load(&rule.replace("ask", "refuse")));
        assert_eq!(changes.last().unwrap().old.as_deref(), Some("\"Mon\""));
        assert!(keys(changes).contains(&"receive.from[1].mode".to_owned()));
    }
}
