//! Local times: zones, moments that a person wrote, the opening of hours, and cron schedules. Clocks that
//! are put forward or back for summer time are taken as people mean them: a time that does not
//! exist is the first one after the gap, a time that exists twice is the first of the two.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use croner::Cron;

use crate::protocol::hours::Hours;

/// Longest gap that summer time, or a change of zone, leaves in a day's clock, in minutes.
const LONGEST_GAP: u32 = 25 * 60;
/// How many edges of hours are looked at until they open.
const MOST_CHANGES: usize = 100;

/// A time zone, such as `Europe/Berlin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(Tz);

impl Zone {
    /// Universal time.
    pub const UTC: Self = Self(Tz::UTC);

    /// The zone's name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// What a clock on the wall shows; `None` for moments that no calendar reaches.
    pub fn local(self, unix: u64) -> Option<NaiveDateTime> {
        self.moment(unix).map(|moment| moment.naive_local())
    }

    fn moment(self, unix: u64) -> Option<DateTime<Tz>> {
        let utc = DateTime::from_timestamp(i64::try_from(unix).ok()?, 0)?;
        Some(utc.with_timezone(&self.0))
    }

    /// When a clock on the wall shows this, in Unix seconds.
    pub fn unix(self, local: NaiveDateTime) -> Option<u64> {
        let found = (0..=LONGEST_GAP).find_map(|minutes| {
            // In a gap: its end. Gaps begin and end at whole minutes.
            let local = match minutes {
                0 => local,
                _ => local.with_second(0)? + TimeDelta::minutes(minutes.into()),
            };
            match self.0.from_local_datetime(&local) {
                LocalResult::Single(moment) | LocalResult::Ambiguous(moment, _) => Some(moment),
                LocalResult::None => None,
            }
        })?;
        found.timestamp().try_into().ok()
    }
}

impl FromStr for Zone {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(Self).map_err(|_| ())
    }
}

/// A moment as it stands in the file: `2026-12-01 08:00`, in the zone of its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime(NaiveDateTime);

impl LocalTime {
    /// In Unix seconds.
    pub fn unix(self, zone: Zone) -> u64 {
        zone.unix(self.0).unwrap_or(u64::MAX)
    }
}

impl FromStr for LocalTime {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let forms = [
            "%Y-%m-%d %H:%M",
            "%Y-%m-%d %H:%M:%S",
            "%Y-%m-%dT%H:%M",
            "%Y-%m-%dT%H:%M:%S",
        ];
        let parsed = forms
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text.trim(), form).ok())
            .ok_or(())?;
        // Years that a person can mean.
        (1970..=9999)
            .contains(&parsed.year())
            .then_some(Self(parsed))
            .ok_or(())
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d %H:%M"))
    }
}

/// When hours open next, in Unix seconds, where they are closed at `now`.
pub fn opens(hours: &Hours, now: u64, zone: Zone) -> Option<u64> {
    let mut local = zone.local(now)?;
    // A window that falls into the hour that summer time skips does not open that week.
    for _ in 0..MOST_CHANGES {
        local = hours.next_change(local)?;
        let unix = zone.unix(local).filter(|unix| *unix > now)?;
        if hours.is_open(zone.local(unix)?) {
            return Some(unix);
        }
    }
    None
}

/// A cron expression of five fields, or six with seconds in front.
#[derive(Debug, Clone)]
pub struct Schedule(Box<Cron>);

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Schedule {}

impl Schedule {
    /// The first moment after `after` at which it fires, both in Unix seconds; `None` where there
    /// is none for many years.
    pub fn next(&self, after: u64, zone: Zone) -> Option<u64> {
        let next = self
            .0
            .find_next_occurrence(&zone.moment(after)?, false)
            .ok()?;
        u64::try_from(next.timestamp())
            .ok()
            .filter(|next| *next > after)
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(|cron| Self(Box::new(cron)))
            .map_err(|error: croner::errors::CronError| error.to_string())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}
