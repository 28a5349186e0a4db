//! What values may be: how each kind is read, and how that is said to a person.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use config::{Value, ValueKind};

use super::error::Place;
use super::layers::nearest;
use super::surroundings::Surroundings;
use super::units::{duration, rate as rate_of, show_duration, show_size, size};
use crate::protocol::destination::{PLACES, unknown_place};
use crate::protocol::policy::Patterns;

/// Most items of a list.
const MOST: usize = 10_000;
/// Most arguments of a program.
const MOST_ARGUMENTS: usize = 100;
/// Most patterns in a list: each costs memory, and time for each file.
const MOST_PATTERNS: usize = 1000;

/// Most wrong items of one line that are shown.
const MOST_SHOWN: usize = 5;

/// Makes something of a value.
type Parse<'a, T> = Box<dyn Fn(&Value) -> Option<T> + 'a>;

/// Reads values of one kind.
pub(super) struct Shape<'a, T> {
    /// What the value must be, for people.
    pub allowed: String,
    /// The words that it may be, where these are few.
    pub words: Vec<String>,
    /// The value, if it is that.
    pub parse: Parse<'a, T>,
    /// Of a list: whether it may have this item.
    pub item: Option<fn(&str) -> bool>,
}

impl<'a, T> Shape<'a, T> {
    pub(super) fn new(
        allowed: impl Into<String>,
        parse: impl Fn(&Value) -> Option<T> + 'a,
    ) -> Self {
        Self {
            allowed: allowed.into(),
            words: Vec::new(),
            parse: Box::new(parse),
            item: None,
        }
    }

    fn with_words<'w>(mut self, words: impl IntoIterator<Item = &'w str>) -> Self {
        self.words = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// The items of a list that it cannot have, line by line: where they are, and what they are,
    /// for people. None where something else is wrong.
    pub(super) fn wrong_items(&self, value: &Value) -> Vec<(String, String)> {
        let Some(fits) = self.item else {
            return Vec::new();
        };
        let whole = value.origin().unwrap_or_default();
        let items: Vec<Value> = match &value.kind {
            ValueKind::Array(items) => items.clone(),
            ValueKind::String(text) => text.split(',').map(|item| item.trim().into()).collect(),
            _ => return Vec::new(),
        };
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for item in &items {
            if text(item).is_some_and(|text| fits(text.trim())) {
                continue;
            }
            let origin = item.origin().unwrap_or(whole);
            let line = |origin: &str| Place::of(origin).line;
            match lines.last_mut() {
                Some((last, wrong)) if line(last) == line(origin) => wrong.push(brief(item)),
                _ => lines.push((origin.to_owned(), vec![brief(item)])),
            }
        }
        let told = lines.into_iter().map(|(origin, wrong)| {
            let more = match wrong.len().saturating_sub(MOST_SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let some = &wrong[..wrong.len().min(MOST_SHOWN)];
            (origin, some.join(" or ") + &more)
        });
        told.collect()
    }

    /// The word that was meant, perhaps.
    pub(super) fn nearest(&self, value: &Value) -> Option<String> {
        let written = text(value)?.trim().to_lowercase();
        nearest(&written, &written, self.words.iter().cloned())
    }
}

pub(super) fn boolean() -> Shape<'static, bool> {
    Shape::new("true or false", |value| match &value.kind {
        ValueKind::Boolean(boolean) => Some(*boolean),
        ValueKind::String(text) => text.trim().to_ascii_lowercase().parse().ok(),
        _ => None,
    })
    .with_words(["true", "false"])
}

pub(super) fn number<T: TryFrom<u64> + Display>(range: RangeInclusive<u64>) -> Shape<'static, T> {
    let allowed = format!("a whole number from {} to {}", range.start(), range.end());
    Shape::new(allowed, move |value| {
        let number = integer(value).or_else(|| text(value)?.trim().parse().ok())?;
        range.contains(&number).then(|| T::try_from(number).ok())?
    })
}

/// Bytes.
pub(super) fn bytes(range: RangeInclusive<u64>) -> Shape<'static, u64> {
    let (low, high) = (show_size(*range.start()), show_size(*range.end()));
    let allowed = match *range.end() {
        u64::MAX => format!("a size such as 64KiB or 1GB, at least {low}"),
        _ => format!("a size such as 64KiB or 1GB, from {low} to {high}"),
    };
    Shape::new(allowed, move |value| {
        let bytes = integer(value).or_else(|| size(text(value)?))?;
        range.contains(&bytes).then_some(bytes)
    })
}

/// Bytes, or no limit.
pub(super) fn limit() -> Shape<'static, Option<u64>> {
    let bytes = bytes(0..=u64::MAX);
    Shape::new(
        "a size such as 64KiB or 1GB, or \"none\"",
        move |value| match text(value).map(str::trim) {
            Some("none") => Some(None),
            _ => (bytes.parse)(value).map(Some),
        },
    )
}

/// Bytes per second, or no limit.
pub(super) fn rate(least: u64) -> Shape<'static, Option<u64>> {
    let allowed = format!(
        "a rate such as 5MB/s or 40Mbit/s, at least {}/s, or \"none\"",
        show_size(least)
    );
    Shape::new(allowed, move |value| {
        let written = text(value)?.trim();
        if written == "none" {
            return Some(None);
        }
        rate_of(written).filter(|rate| *rate >= least).map(Some)
    })
}

/// `range` is written as durations are in the file.
pub(super) fn span(range: [&str; 2]) -> Shape<'static, Duration> {
    let [low, high] = range.map(|end| {
        duration(end).expect("the ranges in settings.rs are durations, as every load shows")
    });
    let allowed = format!(
        "a duration such as 500ms, 10s or 2m, from {} to {}",
        show_duration(low),
        show_duration(high)
    );
    Shape::new(allowed, move |value| {
        let duration = duration(text(value)?)?;
        (low..=high).contains(&duration).then_some(duration)
    })
}

/// One of a few words.
pub(super) fn choice<'a, T: Copy>(choices: &'a [(&'a str, T)]) -> Shape<'a, T> {
    let words: Vec<_> = choices
        .iter()
        .map(|(word, _)| format!("{word:?}"))
        .collect();
    Shape::new(words.join(" or "), move |value| {
        let text = text(value)?.trim();
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, choice)| *choice)
    })
    .with_words(choices.iter().map(|(word, _)| *word))
}

/// Anything that is written as text.
pub(super) fn parsed<T: FromStr>(allowed: &str) -> Shape<'static, T> {
    Shape::new(allowed, |value| text(value)?.trim().parse().ok())
}

/// A list of such; from the environment and the command line separated by commas. `allowed` is
/// in the plural.
pub(super) fn list<T: FromStr>(allowed: &str) -> Shape<'static, Vec<T>> {
    let mut shape = Shape::new(format!("a list of {allowed}"), |value| {
        let items: Vec<&str> = match &value.kind {
            ValueKind::Array(values) => values.iter().map(text).collect::<Option<_>>()?,
            ValueKind::String(text) if text.trim().is_empty() => Vec::new(),
            ValueKind::String(text) => text.split(',').collect(),
            _ => return None,
        };
        if items.len() > MOST {
            return None;
        }
        items.iter().map(|item| item.trim().parse().ok()).collect()
    });
    shape.item = Some(|item| item.parse::<T>().is_ok());
    shape
}

/// Patterns for file names.
pub(super) fn patterns() -> Shape<'static, Patterns> {
    let words = list::<String>("patterns for file names such as \"*.pdf\", without /");
    Shape::new(words.allowed, move |value| {
        let apart = match text(value) {
            Some(text) if !text.trim().is_empty() => {
                let apart = split_outside_braces(text);
                Value::new(
                    None,
                    apart.into_iter().map(String::from).collect::<Vec<_>>(),
                )
            }
            _ => value.clone(),
        };
        let words = (words.parse)(&apart).filter(|words| words.len() <= MOST_PATTERNS)?;
        Patterns::new(words)
    })
}

/// Splits at the commas that are not within `{}` or `[]`: `*.{a,b},*.c` is two patterns.
fn split_outside_braces(text: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0_u32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

const ALLOWED_PATH: &str =
    "a path (~/ needs HOME, $CREDENTIALS_DIRECTORY/ that variable to be set)";

/// An absolute path; `None` where it is empty. Relative ones start at the folder of `file`, when
/// the value is from there.
pub(super) fn path<'a>(
    surroundings: &'a Surroundings,
    file: Option<&'a Path>,
) -> Shape<'a, Option<PathBuf>> {
    Shape::new(ALLOWED_PATH, move |value| {
        let written = text(value)?;
        if written.is_empty() {
            return Some(None);
        }
        let from = Place::of(value.origin().unwrap_or_default()).source;
        let in_file = file.filter(|file| *from == *file.to_string_lossy());
        let base = in_file.and_then(Path::parent);
        let base = base.unwrap_or(&surroundings.current_dir);
        surroundings.absolute(written, base).map(Some)
    })
}

/// The same, with places for names.
pub(super) fn destination<'a>(
    surroundings: &'a Surroundings,
    file: Option<&'a Path>,
) -> Shape<'a, Option<PathBuf>> {
    let path = path(surroundings, file);
    let places: Vec<_> = PLACES.iter().map(|place| format!("{{{place}}}")).collect();
    let allowed = format!(
        "{ALLOWED_PATH}, in which names may have {}",
        places.join(", ")
    );
    Shape::new(allowed, move |value| {
        let path = (path.parse)(value)?;
        let unknown = path.as_deref().and_then(unknown_place);
        unknown.is_none().then_some(path)
    })
}

/// A program and its arguments.
pub(super) fn program() -> Shape<'static, Vec<String>> {
    let words = list::<String>("");
    let allowed = "a list of an absolute path of a program and its arguments, in which {path}, \
                   {device} and {broadcast} may stand";
    Shape::new(allowed, move |value| {
        let words = (words.parse)(value).filter(|words| words.len() <= MOST_ARGUMENTS)?;
        let fits = |word: &String| !word.contains('\0');
        let absolute = words.first().is_none_or(|program| program.starts_with('/'));
        (absolute && words.iter().all(fits)).then_some(words)
    })
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<u64> {
    match value.kind {
        ValueKind::I64(number) => number.try_into().ok(),
        ValueKind::U64(number) => Some(number),
        _ => None,
    }
}

/// The same, cut.
pub(super) fn brief(value: &Value) -> String {
    let shown = show(value);
    match shown.char_indices().nth(80) {
        Some((end, _)) => shown[..end].to_owned(),
        None => shown,
    }
}

/// A value as it is written in TOML.
pub(super) fn show(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(values) => {
            let items: Vec<_> = values.iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => "a table".to_owned(),
        other => other.to_string(),
    }
}
