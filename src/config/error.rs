//! What is wrong with the settings, said to the person who wrote them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Setting;
use super::layers::COMMAND_LINE;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, the variable, `the command line`, or `the defaults`.
    pub source: String,
    /// The line of a file, from 1.
    pub line: Option<usize>,
    /// The column in it, in characters from 1.
    pub column: Option<usize>,
}

impl Place {
    /// The place that its text means: `file:line:column`, or one without a line.
    pub(super) fn of(origin: &str) -> Self {
        let numbers = || {
            let (rest, column) = origin.rsplit_once(':')?;
            let (file, line) = rest.rsplit_once(':')?;
            Some((file, line.parse().ok()?, column.parse().ok()?))
        };
        match numbers() {
            Some((file, line, column)) => Self {
                source: file.to_owned(),
                line: Some(line),
                column: Some(column),
            },
            None => Self {
                source: origin.to_owned(),
                line: None,
                column: None,
            },
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        Ok(())
    }
}

/// Why the settings were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The config file cannot be read.
    #[error("cannot read the config file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the config file is not TOML.
    #[error("{origin}: this is not valid TOML: {message}")]
    Syntax {
        /// The file, with line and column.
        origin: String,
        /// What the parser says.
        message: String,
    },
    /// A key that does not exist.
    #[error(
        "{origin}: there is no setting {key:?}{}",
        nearest.as_ref().map_or_else(
            || "; config/default.toml lists them all".to_owned(),
            |nearest| format!("; did you mean {nearest:?}?"),
        )
    )]
    UnknownKey {
        /// The file, the variable, or the command line.
        origin: String,
        /// The key as it was written, with its section.
        key: String,
        /// What was meant, perhaps.
        nearest: Option<String>,
    },
    /// A value where a section belongs.
    #[error("{origin}: {key:?} is a section, so it must be written as [{key}] with its keys below")]
    NotASection {
        /// The file.
        origin: String,
        /// The section.
        key: String,
    },
    /// A value that the key cannot have.
    #[error(
        "{origin}: {key} must be {allowed}, not {got}{}",
        nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean {nearest:?}?"))
    )]
    WrongValue {
        /// The file, the variable, or the command line.
        origin: String,
        /// The key, with its section.
        key: String,
        /// What it may be.
        allowed: String,
        /// What it was, cut to 80 characters.
        got: String,
        /// The word that was meant, perhaps.
        nearest: Option<String>,
    },
    /// Two values that do not go together.
    #[error(
        "{}: {} ({}) must not be above {} ({}, from {})",
        low.place(), low.key, low.value, high.key, high.value, high.place()
    )]
    Conflict {
        /// The setting that is too high.
        low: Box<Setting>,
        /// The one that it exceeds.
        high: Box<Setting>,
    },
    /// What arrives could replace what must stay.
    #[error(
        "{}: {key} ({}) lies in {}, where receive.collision lets what arrives replace what is there: \
         choose \"keep-both\", or another folder",
        place, inner.display(), outer.display()
    )]
    Replaceable {
        /// Where one of them was set.
        place: Box<Place>,
        /// Which setting that is.
        key: String,
        /// A destination.
        outer: PathBuf,
        /// The state folder, or another destination.
        inner: PathBuf,
    },
    /// A default that depends on the home folder, and there is none.
    #[error(
        "there is no home folder (HOME is not set), so {key} must be set; its variable is {variable}"
    )]
    NoHome {
        /// The key, with its section.
        key: &'static str,
        /// Its environment variable.
        variable: String,
    },
    /// Several of these at once.
    #[error("{} settings are wrong:{}", .0.len(), lines(.0))]
    Many(Vec<ConfigError>),
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(|error| format!("\n- {error}")).collect()
}

impl ConfigError {
    /// All mistakes: more than one where it is a list.
    pub fn mistakes(&self) -> &[Self] {
        match self {
            Self::Many(all) => all,
            one => std::slice::from_ref(one),
        }
    }

    /// Where the mistake is.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Unreadable { path, .. } => Some(Place {
                source: path.display().to_string(),
                line: None,
                column: None,
            }),
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::NotASection { origin, .. }
            | Self::WrongValue { origin, .. } => Some(Place::of(origin)),
            Self::Conflict { low, .. } => Some(low.place()),
            Self::Replaceable { place, .. } => Some((**place).clone()),
            Self::NoHome { .. } | Self::Many(_) => None,
        }
    }

    /// The key that it is about, with its section.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { key, .. }
            | Self::NotASection { key, .. }
            | Self::Replaceable { key, .. }
            | Self::WrongValue { key, .. } => Some(key),
            Self::Conflict { low, .. } => Some(&low.key),
            Self::NoHome { key, .. } => Some(key),
            Self::Unreadable { .. } | Self::Syntax { .. } | Self::Many(_) => None,
        }
    }

    /// True when it is not known of which state folder whoever wrote this speaks, or when it was
    /// written just now, on the command line.
    pub(super) fn hides_whom_to_ask(&self) -> bool {
        let typed = self
            .place()
            .is_some_and(|place| place.source == COMMAND_LINE);
        match self {
            Self::Unreadable { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
            Self::WrongValue { key, .. } if key == "state.dir" => true,
            Self::NoHome { key, .. } if *key == "state.dir" => true,
            _ => typed,
        }
    }

    /// The key or word that was meant, perhaps.
    pub fn suggestion(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { nearest, .. } | Self::WrongValue { nearest, .. } => {
                nearest.as_deref()
            }
            _ => None,
        }
    }

    /// `Ok` when there are none, and no list around a single one. What stands in a file comes
    /// first, in the order of its lines.
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        errors.sort_by_key(|error| {
            let place = error.place();
            let at = place.and_then(|place| Some((place.line?, place.column?)));
            at.unwrap_or((usize::MAX, 0))
        });
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Many(errors)),
        }
    }
}

/// Something in the settings that is no mistake, but hardly meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it is.
    pub place: Place,
    /// The key that it is about, with its section.
    pub key: String,
    /// What is strange about it, and what to do.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.place, self.key, self.text)
    }
}
