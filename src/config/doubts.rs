//! What in the settings is no mistake, since it may become right later, but is hardly meant.

use std::collections::BTreeMap;

use super::broadcasts::BROADCASTS;
use super::groups::GROUPS;
use super::reader::Reader;
use super::settings::Settings;
use super::{receive, units::Authorized};

/// Looks at settings that have been read.
pub(super) fn look(settings: &Settings, r: &mut Reader<'_>) {
    missing_paths(settings, r);
    unknown_names(settings, r);
    rules_that_never_count(r);
    authorized_twice(settings, r);
}

/// A broadcast waits for paths that are not there; a slip looks the same.
fn missing_paths(settings: &Settings, r: &mut Reader<'_>) {
    for table in BROADCASTS.tables(r) {
        let name = table.texts("name");
        let mut rules = settings.broadcasts.iter();
        let rule = rules.find(|rule| name.first().is_some_and(|name| name == rule.name.as_str()));
        let Some(rule) = rule.filter(|rule| rule.enabled) else {
            continue;
        };
        for path in &rule.paths {
            let base = path.base();
            if std::fs::symlink_metadata(base).is_err() {
                let text = format!("names {}, which is not there now", base.display());
                table.doubt(r, "path", text);
            }
        }
    }
}

/// Groups and devices may come later, by pairing, invites and rosters; where the file names none,
/// all do. But where it names some, a word that is none of them is likely meant to be one.
fn unknown_names(settings: &Settings, r: &mut Reader<'_>) {
    let groups: Vec<&str> = settings.groups.iter().map(|g| g.name.as_str()).collect();
    let members = settings.groups.iter().flat_map(|group| &group.members);
    let devices: Vec<&Authorized> = members.chain(&settings.trust.authorized).collect();
    let is_known = |word: &str| {
        let group = word.strip_prefix('@').unwrap_or(word);
        let named = |device: &&Authorized| {
            device.id.as_str() == word || device.name.as_deref() == Some(word)
        };
        // Whoever comes by is put into that one.
        let visitors = settings.kiosk.is_open() && settings.kiosk.group == group;
        word == "all" || visitors || groups.contains(&group) || devices.iter().any(named)
    };
    if groups.is_empty() && devices.is_empty() {
        return;
    }
    for table in BROADCASTS.tables(r) {
        for word in table.texts("to") {
            let is_id = word
                .parse()
                .is_ok_and(|id: crate::protocol::id::DeviceId| id.is_self_certifying());
            if is_id || is_known(&word) {
                continue;
            }
            let names = groups.iter().map(|name| (*name).to_owned());
            let near = super::layers::nearest(&word, &word, names);
            let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            let text = format!(
                "names {word:?}, which is no [[{}]] and no device of this file: it may still come \
                 by pairing, an invite or a roster{near}",
                GROUPS.name
            );
            table.doubt(r, "to", text);
        }
    }
}

/// Of several rules that name the same device or group only the first counts.
fn rules_that_never_count(r: &mut Reader<'_>) {
    let mut firsts: BTreeMap<String, usize> = BTreeMap::new();
    for (at, table) in receive::LIST.tables(r).iter().enumerate() {
        let broadcasts = table.texts("broadcast").join("\n");
        for word in table.texts("who") {
            let first = *firsts.entry(format!("{word}\n{broadcasts}")).or_insert(at);
            if first != at {
                let text = format!(
                    "names {word:?}, as receive.from[{}].who does: only the first rule counts",
                    first + 1
                );
                table.doubt(r, "who", text);
            }
        }
    }
}

fn authorized_twice(settings: &Settings, r: &mut Reader<'_>) {
    let mut seen = BTreeMap::new();
    for device in &settings.trust.authorized {
        let earlier = seen.insert(device.id.as_str(), &device.name);
        if earlier.is_some_and(|name| *name != device.name) {
            let id = device.id.as_str();
            let text = format!("names {id} twice, under two names: the last one counts");
            r.warn_of("trust.authorized", text);
        }
    }
}
