//! What is wrong with the settings, said to the person who wrote them.

use std::io;
use std::path::PathBuf;

use super::Setting;

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
    /// The config file is not TOML.
    #[error("the config file {} is not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
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
    #[error("{origin}: {key} must be {allowed}, not {got}")]
    WrongValue {
        /// The file, the variable, or the command line.
        origin: String,
        /// The key, with its section.
        key: String,
        /// What it may be.
        allowed: String,
        /// What it was, cut to 80 characters.
        got: String,
    },
    /// Two values that do not go together.
    #[error(
        "{} ({}, from {}) must not be above {} ({}, from {})",
        low.key, low.value, low.source, high.key, high.value, high.source
    )]
    Conflict {
        /// The setting that is too high.
        low: Box<Setting>,
        /// The one that it exceeds.
        high: Box<Setting>,
    },
    /// What arrives could replace what must stay.
    #[error(
        "{} lies in {}, where receive.collision lets what arrives replace what is there: choose \
         \"keep-both\", or another folder",
        inner.display(), outer.display()
    )]
    Replaceable {
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
    /// `Ok` when there are none, and no list around a single one.
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Many(errors)),
        }
    }
}
