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

    fn changes(&self, new: &Self) -> Vec<Change> {
        let (before, after) = (self.by_key(), new.by_key());
        let gone = self.described.iter().map(|set| &*set.key);
        let gone = gone.filter(|key| !after.contains_key(key));
        let keys = new.described.iter().map(|set| &*set.key).chain(gone);
        keys.filter(|key| before.get(key) != after.get(key))
            .map(|key| Change {
                key: key.to_owned(),
                old: before.get(key).map(|value| (*value).to_owned()),
                new: after.get(key).map(|value| (*value).to_owned()),
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
