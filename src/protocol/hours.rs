//! Hours of the week: "Mon-Fri 08:00-16:00", "22:00-06:00", and several of them.

use std::fmt;
use std::str::FromStr;

use chrono::{Datelike, NaiveDateTime, NaiveTime, TimeDelta, Timelike};

const DAY: u32 = 24 * 60;
const WEEK: u32 = 7 * DAY;
/// More than this is no text for hours.
const MAX_TEXT: usize = 512;
const DAYS: [(&str, &str); 7] = [
    ("mon", "monday"),
    ("tue", "tuesday"),
    ("wed", "wednesday"),
    ("thu", "thursday"),
    ("fri", "friday"),
    ("sat", "saturday"),
    ("sun", "sunday"),
];

/// When something is open, by a wall clock's week. Times are local ones, to the minute; whoever
/// asks knows the time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    /// Half-open spans of minutes since Monday 00:00; sorted, and none touches the next.
    open: Vec<(u32, u32)>,
    written: String,
}

/// A text that names no hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not understood; hours are written as {SHAPE}")]
pub struct NoHours(String);

/// How hours are written.
pub const SHAPE: &str = "\"Mon-Fri 08:00-16:00\", \"Sat,Sun\", \"22:00-06:00\" (over midnight), or \
                         several with \";\" between them";

impl Hours {
    /// Whether it is open at that local time.
    pub fn is_open(&self, at: NaiveDateTime) -> bool {
        let minute = minute_of_week(at);
        self.open
            .iter()
            .any(|(from, until)| (*from..*until).contains(&minute))
    }

    /// When it opens or closes next, strictly after `at`. `None`: it is always open.
    pub fn next_change(&self, at: NaiveDateTime) -> Option<NaiveDateTime> {
        let minute = minute_of_week(at);
        // An edge at the week's end is none where the next week goes on the same way.
        let wraps = self.open.first().is_some_and(|first| first.0 == 0)
            && self.open.last().is_some_and(|last| last.1 == WEEK);
        let edges = self.open.iter().flat_map(|(from, until)| [*from, *until]);
        let edges = edges.filter(|edge| !(wraps && edge.is_multiple_of(WEEK)));
        let ahead = |edge: u32| match (edge % WEEK + WEEK - minute) % WEEK {
            0 => WEEK,
            minutes => minutes,
        };
        let minutes = edges.map(ahead).min()?;
        let this_minute = at.with_second(0)?.with_nanosecond(0)?;
        this_minute.checked_add_signed(TimeDelta::minutes(minutes.into()))
    }
}

fn minute_of_week(at: NaiveDateTime) -> u32 {
    at.weekday().num_days_from_monday() * DAY + at.hour() * 60 + at.minute()
}

impl FromStr for Hours {
    type Err = NoHours;

    fn from_str(text: &str) -> Result<Self, NoHours> {
        let mut spans = Vec::new();
        let parts = text.split(';').map(|part| read(part, &mut spans));
        if text.len() > MAX_TEXT || parts.collect::<Option<Vec<()>>>().is_none() {
            return Err(NoHours(text.chars().take(80).collect()));
        }
        spans.sort_unstable();
        let mut open: Vec<(u32, u32)> = Vec::new();
        for (from, until) in spans {
            match open.last_mut() {
                Some((_, end)) if from <= *end => *end = until.max(*end),
                _ => open.push((from, until)),
            }
        }
        let written = text.trim().to_owned();
        Ok(Self { open, written })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Reads `DAYS TIMES`, of which either may be left out: all days, the whole day.
fn read(part: &str, spans: &mut Vec<(u32, u32)>) -> Option<()> {
    let mut words = part.split_whitespace();
    let (first, second) = (words.next()?, words.next());
    if words.next().is_some() {
        return None;
    }
    let (days, times) = match second {
        Some(times) => (days(first)?, times),
        None if first.contains(':') => ([true; 7], first),
        None => (days(first)?, "00:00-24:00"),
    };
    for range in times.split(',') {
        let (from, until) = range.split_once('-')?;
        let (from, until) = (minutes(from)?, minutes(until)?);
        if from == until || from == DAY || until == 0 && from == 0 {
            return None;
        }
        let length = if until > from {
            until - from
        } else {
            until + DAY - from
        };
        for (day, _) in (0u32..).zip(days).filter(|(_, chosen)| *chosen) {
            let (from, until) = (day * DAY + from, day * DAY + from + length);
            spans.push((from, until.min(WEEK)));
            if until > WEEK {
                spans.push((0, until - WEEK));
            }
        }
    }
    Some(())
}

/// `Mon`, `mon-fri`, `Fri-Mon`, `Mon,Wed,Fri-Sun`.
fn days(text: &str) -> Option<[bool; 7]> {
    let mut chosen = [false; 7];
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (mut day, last) = (day_of(first)?, day_of(last)?);
        chosen[day] = true;
        while day != last {
            day = (day + 1) % 7;
            chosen[day] = true;
        }
    }
    Some(chosen)
}

fn day_of(text: &str) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    let is = |(short, long): &(&str, &str)| text == *short || text == *long;
    DAYS.iter().position(is)
}

/// Minutes since midnight; `24:00` is the end of the day.
fn minutes(text: &str) -> Option<u32> {
    if text == "24:00" {
        return Some(DAY);
    }
    let time = NaiveTime::parse_from_str(text, "%H:%M").ok()?;
    Some(time.hour() * 60 + time.minute())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-16 is a Monday.
    fn at(day: u32, hour: u32, minute: u32) -> NaiveDateTime {
        let monday = chrono::NaiveDate::from_ymd_opt(2026, 11, 15 + day).unwrap();
        monday.and_hms_opt(hour, minute, 30).unwrap()
    }

    fn hours(text: &str) -> Hours {
        text.parse().unwrap()
    }

    #[test]
    fn school_hours_open_and_close_on_school_days() {
        let school = hours("Mon-Fri 08:00-16:00");
        assert!(!school.is_open(at(1, 7, 59)) && school.is_open(at(1, 8, 0)));
        assert!(school.is_open(at(5, 15, 59)) && !school.is_open(at(5, 16, 0)));
        assert!(!school.is_open(at(6, 12, 0)));
        let change = |now| school.next_change(now).unwrap().to_string();
        assert_eq!(change(at(1, 7, 59)), "2026-11-16 08:00:00");
        assert_eq!(change(at(1, 8, 0)), "2026-11-16 16:00:00");
        assert_eq!(change(at(5, 16, 0)), "2026-11-23 08:00:00");
    }

    #[test]
    fn a_night_that_goes_over_midnight_ends_on_the_next_day_also_at_the_weeks_end() {
        let night = hours("Sun 22:00-06:00");
        assert!(night.is_open(at(7, 23, 0)) && night.is_open(at(8, 5, 59)));
        assert!(!night.is_open(at(8, 6, 0)) && !night.is_open(at(7, 5, 0)));
        let change = night.next_change(at(7, 22, 0)).unwrap();
        assert_eq!(
            change.to_string(),
            "2026-11-23 06:00:00",
            "not at Monday's 0:00"
        );
        let every = hours("22:00-06:00");
        assert!((1..8).all(|day| every.is_open(at(day, 3, 0)) && !every.is_open(at(day, 12, 0))));
    }

    #[test]
    fn several_hours_are_one_and_always_open_never_changes() {
        let two = hours("mon,Wed 08:00-10:00,09:00-12:00; Saturday");
        assert!(two.is_open(at(3, 11, 0)) && two.is_open(at(6, 0, 0)) && !two.is_open(at(2, 9, 0)));
        assert_eq!(two.next_change(at(1, 8, 0)), two.next_change(at(1, 9, 30)));
        for always in [
            "Mon-Sun",
            "00:00-24:00",
            "Fri-Thu",
            "12:00-00:00;0:00-12:00",
        ] {
            assert_eq!(hours(always).next_change(at(1, 8, 0)), None, "{always}");
            assert!(hours(always).is_open(at(4, 8, 0)));
        }
        assert_eq!(two.to_string(), "mon,Wed 08:00-10:00,09:00-12:00; Saturday");
    }

    #[test]
    fn what_names_no_hours_is_refused() {
        for bad in [
            "",
            ";",
            "Mon-",
            "Mo",
            "08:00",
            "8-16",
            "08:00-08:00",
            "24:00-06:00",
            "00:00-00:00",
            "25:00-26:00",
            "Mon 08:00-16:00 Tue",
            "Mon;Tue;",
        ] {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
        assert!("Mon,".repeat(1000).parse::<Hours>().is_err());
    }

    proptest! {
        #[test]
        fn nothing_changes_before_the_next_change_and_then_it_does(
            from in 0u32..7, to in 0u32..7, open in 0u32..DAY, length in 1u32..DAY, now in 0u32..2 * WEEK
        ) {
            let clock = |m: u32| format!("{:02}:{:02}", m % DAY / 60, m % 60);
            let text = format!("{}-{} {}-{}", DAYS[from as usize].0, DAYS[to as usize].1,
                clock(open), clock(open + length));
            let hours = hours(&text);
            let now = at(1, 0, 0) + TimeDelta::minutes(now.into());
            let next = hours.next_change(now).unwrap();
            let mut minute = now;
            while minute < next {
                prop_assert_eq!(hours.is_open(minute), hours.is_open(now), "{} at {}", text, minute);
                minute += TimeDelta::minutes(1);
            }
            prop_assert_ne!(hours.is_open(next), hours.is_open(now), "{} at {}", text, next);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = text.parse::<Hours>();
        }
    }
}
