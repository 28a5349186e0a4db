//! `[[broadcast]]`: what is handed out by itself, to whom, and when.

use std::path::{Component, Path};
use std::time::Duration;

use config::{Value, ValueKind};

use super::reader::Reader;
use super::receive;
use super::shapes::{self, Shape, text};
use super::surroundings::{Surroundings, real};
use super::tables::{List, Table};
use super::units::duration;
use crate::protocol::allowance::{Priority, Share};
use crate::protocol::hours::{self, Hours};
use crate::protocol::plan::calendar::{LocalTime, Schedule, Zone};
use crate::protocol::plan::{Deadline, PathPattern, Start, Terms};
use crate::protocol::series::SeriesName;

/// The list in the file.
pub(super) const BROADCASTS: List = List {
    name: "broadcast",
    keys: &[
        "name",
        "path",
        "to",
        "start",
        "schedule",
        "time_zone",
        "hours",
        "deadline",
        "repeat",
        "watch",
        "settle",
        "settle_max",
        "rescan",
        "priority",
        "rate",
        "at_most",
        "enabled",
    ],
    most: 1000,
};

/// Most paths of one broadcast.
const MAX_PATHS: usize = 1000;
/// Most windows in a list of hours.
const MAX_HOURS: usize = 50;
/// How long nothing may change before a version begins.
const SETTLE: Duration = Duration::from_secs(2);
/// After how long one begins although it still changes.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How often a folder is looked at.
const RESCAN: Duration = Duration::from_secs(60);

/// A broadcast that the file describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BroadcastRule {
    /// Its name, and that of the series of its versions.
    pub name: SeriesName,
    /// What is handed out.
    pub paths: Vec<PathPattern>,
    /// Device ids, names of devices, groups, or `all`.
    pub to: Vec<String>,
    /// When, how often and until when.
    pub terms: Terms,
    /// Its part of what can be sent.
    pub share: Share,
    /// Whether it is handed out at all.
    pub enabled: bool,
}

/// `state` is the state folder.
pub(super) fn read(r: &mut Reader<'_>, state: &Path) -> Vec<BroadcastRule> {
    BROADCASTS.distinct(r, "name", "the name of one broadcast only");
    let mut rules = Vec::new();
    for table in BROADCASTS.tables(r) {
        let rule = read_one(r, &table, state);
        let Some(rule) = rule else { continue };
        rules.push(rule);
    }
    rules
}

fn read_one(r: &mut Reader<'_>, table: &Table, state: &Path) -> Option<BroadcastRule> {
    let (surroundings, file) = (r.surroundings, r.file);
    let name = table.needs(r, "name", &shapes::parsed("1 to 64 bytes of visible text"));
    let paths = table.needs(r, "path", &paths(surroundings, file));
    if let Some(paths) = &paths {
        keep_state_back(r, table, paths, state);
    }
    let to = table.needs(r, "to", &receive::who());
    let zone = zone(r, table);
    let start = start(r, table);
    let scheduled = matches!(start, Start::Schedule(_));
    let hours = table.take(r, "hours", &opening());
    let deadline = table.take(r, "deadline", &deadline());
    if let (Start::At(start), Some(Deadline::At(end))) = (&start, deadline)
        && end.unix(zone) <= start.unix(zone)
    {
        let allowed = format!("after start, which is {start}");
        table.wrong(r, "deadline", &allowed, &end.to_string());
    }
    let repeat = [("content", false), ("always", true)];
    let always = table
        .take(r, "repeat", &shapes::choice(&repeat))
        .unwrap_or(false);
    if always && !scheduled {
        let allowed = "\"content\" where there is no schedule to repeat it";
        table.wrong(r, "repeat", allowed, "\"always\"");
    }
    let watch = table.take(r, "watch", &shapes::boolean());
    if watch == Some(true) && scheduled {
        let allowed = "false where a schedule says when to look (hours keeps a watched one to \
                       some hours)";
        table.wrong(r, "watch", allowed, "true");
    }
    let span = shapes::span;
    let settle = table
        .take(r, "settle", &span(["100ms", "1h"]))
        .unwrap_or(SETTLE);
    let settle_max = table.take(r, "settle_max", &span(["1s", "1d"]));
    if settle_max.is_some_and(|most| most < settle) {
        table.wrong(r, "settle_max", "at least as long as settle", "less");
    }
    let terms = Terms {
        start,
        zone,
        hours,
        deadline,
        always,
        watch: watch.unwrap_or(!scheduled),
        settle,
        settle_max: settle_max.unwrap_or(SETTLE_MAX).max(settle),
        rescan: table
            .take(r, "rescan", &span(["1s", "1d"]))
            .unwrap_or(RESCAN),
    };
    let share = Share {
        priority: table
            .take(r, "priority", &shapes::choice(&Priority::ALL))
            .unwrap_or_default(),
        rate: table
            .take(r, "rate", &shapes::rate(Share::MIN_RATE))
            .flatten(),
        at_most: table.take(r, "at_most", &shapes::number(1..=10_000)),
    };
    let enabled = table.take(r, "enabled", &shapes::boolean()).unwrap_or(true);
    Some(BroadcastRule {
        name: name?,
        paths: paths?,
        to: to?,
        terms,
        share,
        enabled,
    })
}

/// Notes a mistake for each path that is, holds or lies in the state folder, or may: whoever got
/// that would have this device's key.
fn keep_state_back(r: &mut Reader<'_>, table: &Table, paths: &[PathPattern], state: &Path) {
    // Without a home folder there may be none, which is a mistake of its own.
    if state.as_os_str().is_empty() {
        return;
    }
    let state = real(state);
    let allowed = format!(
        "apart from the state folder {}, which has this device's key",
        state.display()
    );
    for (number, path) in paths.iter().enumerate() {
        let base = real(path.base());
        let below = state.strip_prefix(&base);
        let reaches = below.is_ok_and(|below| {
            let names = below.components().map(Component::as_os_str);
            path.parts()
                .iter()
                .zip(names)
                .all(|(part, name)| part.fits(name))
        });
        if reaches || base.starts_with(&state) {
            let got = format!("{:?}", path.written().display().to_string());
            table.wrong_item(r, "path", number, &allowed, &got);
        }
    }
}

/// The zone that is written, else the machine's.
pub(super) fn zone(r: &mut Reader<'_>, table: &Table) -> Zone {
    let allowed = "the name of a time zone, such as \"Europe/Berlin\"";
    let written = table.take(r, "time_zone", &shapes::parsed(allowed));
    written
        .or_else(|| r.surroundings.time_zone.parse().ok())
        .unwrap_or(Zone::UTC)
}

fn start(r: &mut Reader<'_>, table: &Table) -> Start {
    let at = Shape::new(
        "\"now\", or a time such as \"2026-12-01 08:00\"",
        |value| match text(value)?.trim() {
            "now" => Some(Start::Now),
            time => time.parse().ok().map(Start::At),
        },
    );
    let schedule = Shape::new(
        "a cron expression such as \"30 7 * * Mon-Fri\" (minute, hour, day of the month, month, \
         day of the week) that names some time",
        |value| {
            let schedule: Schedule = text(value)?.parse().ok()?;
            // One that never fires, such as on 30 February, is a mistake.
            schedule.next(0, Zone::UTC)?;
            Some(Start::Schedule(schedule))
        },
    );
    let (start, schedule) = (
        table.take(r, "start", &at),
        table.take(r, "schedule", &schedule),
    );
    if table.has("start") && table.has("schedule") {
        table.wrong(
            r,
            "schedule",
            "left out where there is a start",
            "there besides",
        );
    }
    schedule.or(start).unwrap_or(Start::Now)
}

fn deadline() -> Shape<'static, Deadline> {
    Shape::new(
        "a duration such as \"2h\", from 1s to 3650d, or a time such as \"2026-12-01 16:00\"",
        |value| {
            let text = text(value)?;
            match duration(text) {
                Some(span) => {
                    let most = Duration::from_secs(3650 * 86_400);
                    let fits = (Duration::from_secs(1)..=most).contains(&span);
                    fits.then_some(Deadline::After(span))
                }
                None => text.parse::<LocalTime>().ok().map(Deadline::At),
            }
        },
    )
}

/// One text, or a list of them.
/// Hours, as a text or a list of texts.
pub(super) fn opening() -> Shape<'static, Hours> {
    Shape::new(hours::SHAPE, |value| {
        let texts: Vec<&str> = match &value.kind {
            ValueKind::String(text) => vec![text],
            ValueKind::Array(texts) if texts.len() <= MAX_HOURS => {
                texts.iter().map(text).collect::<Option<_>>()?
            }
            _ => return None,
        };
        texts.join("; ").parse().ok()
    })
}

fn paths<'a>(
    surroundings: &'a Surroundings,
    file: Option<&'a Path>,
) -> Shape<'a, Vec<PathPattern>> {
    let path = shapes::path(surroundings, file);
    let allowed = "a path or a list of them; names in it may be patterns such as \"*.pdf\", but \
                   not \"**\" (~/ needs HOME to be set)";
    Shape::new(allowed, move |value| {
        let origin = value.origin().map(str::to_owned);
        let texts: Vec<&str> = match &value.kind {
            ValueKind::String(text) => vec![text],
            ValueKind::Array(texts) if (1..=MAX_PATHS).contains(&texts.len()) => {
                texts.iter().map(text).collect::<Option<_>>()?
            }
            _ => return None,
        };
        let read = |text: &str| {
            let value = Value::new(origin.as_ref(), text);
            PathPattern::new((path.parse)(&value)??)
        };
        texts.into_iter().map(read).collect()
    })
}
