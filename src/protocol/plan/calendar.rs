//! Local times: zones, moments that a person wrote, weekly hours, and cron schedules. Clocks that
//! are put forward or back for summer time are taken as people mean them: a time that does not
//! exist is the first one after the gap, a time that exists twice is the first of the two.

use std::fmt;
use std::str::FromStr;

use chrono::{
    DateTime, Datelike, Days, LocalResult, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike,
    Weekday,
};
use chrono_tz::Tz;
use croner::Cron;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Longest gap that summer time, or a change of zone, leaves in a day's clock, in minutes.
const LONGEST_GAP: u32 = 25 * 60;
/// Most windows in one set of hours.
pub const MAX_WINDOWS: usize = 50;

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

/// `Mon-Fri 08:00-16:00`: some days of the week, from a time until a time. One that ends before it
/// begins goes on over midnight, and belongs to the day on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Monday first.
    days: [bool; 7],
    /// Minutes after midnight.
    from: u16,
    /// The same; at most `from` where it goes over midnight.
    until: u16,
}

impl Window {
    fn is_open(&self, local: NaiveDateTime) -> bool {
        let minute = (local.hour() * 60 + local.minute()) as u16;
        let today = local.weekday().num_days_from_monday() as usize;
        let yesterday = (today + 6) % 7;
        if self.from < self.until {
            return self.days[today] && (self.from..self.until).contains(&minute);
        }
        (self.days[today] && minute >= self.from) || (self.days[yesterday] && minute < self.until)
    }

    fn begins_on(&self, date: NaiveDate) -> Option<NaiveDateTime> {
        let day = date.weekday().num_days_from_monday() as usize;
        let (hour, minute) = (self.from / 60, self.from % 60);
        let begins = date.and_hms_opt(hour.into(), minute.into(), 0);
        begins.filter(|_| self.days[day])
    }
}

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Mon),
    ("tue", Weekday::Tue),
    ("wed", Weekday::Wed),
    ("thu", Weekday::Thu),
    ("fri", Weekday::Fri),
    ("sat", Weekday::Sat),
    ("sun", Weekday::Sun),
];

fn day(text: &str) -> Option<usize> {
    let text = text.trim().to_ascii_lowercase();
    let found = DAYS.iter().find(|(short, day)| {
        let long = day_name(*day);
        text == *short || text == long
    });
    found.map(|(_, day)| day.num_days_from_monday() as usize)
}

fn day_name(day: Weekday) -> &'static str {
    match day {
        Weekday::Mon => "monday",
        Weekday::Tue => "tuesday",
        Weekday::Wed => "wednesday",
        Weekday::Thu => "thursday",
        Weekday::Fri => "friday",
        Weekday::Sat => "saturday",
        Weekday::Sun => "sunday",
    }
}

/// `08:00`, up to `24:00`.
fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |text: &str, most: usize| {
        let fits = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| text.parse::<u16>().ok())?
    };
    let (hour, minute) = (digits(hour, 2)?, digits(minute, 2).filter(|m| *m < 60)?);
    let minutes = hour * 60 + minute;
    (minutes <= DAY).then_some(minutes)
}

impl FromStr for Window {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let (named, times) = text.rsplit_once(char::is_whitespace).unwrap_or(("", text));
        let mut days = [named.trim().is_empty(); 7];
        if !named.trim().is_empty() {
            for part in named.split([',', ' ']).filter(|part| !part.is_empty()) {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (first, last) = (day(first).ok_or(())?, day(last).ok_or(())?);
                // `Sat-Mon` goes on over the end of the week.
                let count = (last + 7 - first) % 7;
                (0..=count).for_each(|n| days[(first + n) % 7] = true);
            }
        }
        let (from, until) = times.split_once('-').ok_or(())?;
        let (from, until) = (minutes(from).ok_or(())?, minutes(until).ok_or(())?);
        if from == until || from == DAY {
            return Err(());
        }
        // `22:00-24:00` ends with the day.
        Ok(Self { days, from, until })
    }
}

/// When something may be handed over: within any of these windows; always, where there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hours {
    windows: Vec<Window>,
    /// As they were written.
    text: String,
}

impl Hours {
    /// Hours of these windows, as a person wrote them; `None` where one is none, or for more than
    /// [`MAX_WINDOWS`].
    pub fn new<'a>(windows: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let written: Vec<&str> = windows.into_iter().map(str::trim).collect();
        if written.len() > MAX_WINDOWS {
            return None;
        }
        let windows = written.iter().map(|text| text.parse().ok());
        Some(Self {
            windows: windows.collect::<Option<_>>()?,
            text: written.join(", "),
        })
    }

    /// True when there are none, so that it is always open.
    pub fn is_always(&self) -> bool {
        self.windows.is_empty()
    }

    /// Whether it is open at this time of a clock on the wall.
    pub fn is_open(&self, local: NaiveDateTime) -> bool {
        self.is_always() || self.windows.iter().any(|window| window.is_open(local))
    }

    /// When it opens next, in Unix seconds, where it is closed now.
    pub fn opens(&self, now: u64, zone: Zone) -> Option<u64> {
        let today = zone.local(now)?.date();
        // A window that falls into the hour that summer time skips does not open that week.
        let days = (0..=14).filter_map(|n| today.checked_add_days(Days::new(n)));
        let begins =
            days.flat_map(|date| self.windows.iter().filter_map(move |w| w.begins_on(date)));
        let unix = begins.filter_map(|local| zone.unix(local));
        let open = |unix: &u64| zone.local(*unix).is_some_and(|local| self.is_open(local));
        unix.filter(|unix| *unix > now).filter(open).min()
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A cron expression of five fields, or six with seconds in front.
#[derive(Debug, Clone)]
pub struct Schedule(Cron);

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
            .map(Self)
            .map_err(|error: croner::errors::CronError| error.to_string())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}
