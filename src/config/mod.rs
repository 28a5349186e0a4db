//! Settings: from the defaults, a file, the environment and the command line to one checked
//! [`Settings`] that nothing downstream checks again.
//!
//! `config/default.toml` lists and explains every key; the fields here have the same names.

mod api;
mod broadcasts;
mod dht;
mod document;
mod doubts;
mod error;
mod groups;
mod hand_in;
mod kiosk;
mod layers;
mod limits;
mod meeting;
mod notify;
mod on_disk;
mod providers;
mod reader;
mod receive;
mod rendezvous;
mod renewal;
mod settings;
mod shapes;
mod surroundings;
mod tables;
mod turn;
mod units;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

pub use api::ApiAddress;
pub use broadcasts::BroadcastRule;
pub use dht::{DhtSettings, HostPort};
pub use error::{ConfigError, Place, Warning};
pub use groups::GroupRule;
pub use hand_in::HandIn;
pub use kiosk::{Kiosk, KioskPin};
pub use limits::{LimitRule, LimitSettings};
pub use meeting::Meeting;
pub use notify::{Notify, Occasion};
pub use providers::{Origin, ProviderRule};
pub use receive::Receive;
pub use rendezvous::{Database, RendezvousServe};
pub use renewal::Change;
pub use settings::{
    Api, AuditSettings, Device, Discovery, Log, LogFormat, LogLevel, NetworkSettings, Settings,
    Signaling, State, SwarmSettings, Transfer, Trust,
};
pub use turn::{Ports, TurnServe};
pub use units::{Authorized, Interface, Network, StaticPeer};
pub(crate) use units::{duration, rate, size};

use layers::Layer;
use reader::Reader;
use surroundings::Surroundings;

/// One setting, for showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key, with its section; in a rule `receive.from[1].mode`, counted from 1.
    pub key: Cow<'static, str>,
    /// Its value as TOML; what it comes to, where that depends on the machine.
    pub value: String,
    /// The file, the variable, `the command line`, or `the defaults`.
    pub source: String,
    /// The line and column in the file.
    pub at: Option<(usize, usize)>,
}

impl Setting {
    /// Where it is from.
    pub fn place(&self) -> Place {
        Place {
            source: self.source.clone(),
            line: self.at.map(|(line, _)| line),
            column: self.at.map(|(_, column)| column),
        }
    }
}

/// Where settings were read from, to read them again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    /// The file that was asked for.
    asked: Option<PathBuf>,
    /// The file that was found.
    file: Option<PathBuf>,
    /// A digest of its text.
    digest: Option<[u8; 32]>,
    /// There is nothing in it.
    blank: bool,
    overrides: Vec<(String, String)>,
}

impl Settings {
    /// Reads the settings: `overrides` (key with section, value as text) beat the environment
    /// (`HANDOUT_SECTION__KEY`), that beats the file, that beats the defaults.
    ///
    /// `file` must exist. Without it, `handout/config.toml` in the user's config folder is taken,
    /// else `/etc/handout/config.toml`, else none. All mistakes are reported at once.
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        Self::load_in(&Surroundings::of_this_process(), file, overrides)
    }

    /// The same, for whoever only asks what is going on: what could be read, defaults for the rest,
    /// and the mistakes, where there are any.
    ///
    /// # Errors
    /// Mistakes that leave open whom to ask: those of the command line, a `file` that is not there,
    /// and a state folder that cannot be known.
    pub fn load_for_asking(
        file: Option<&Path>,
        overrides: &[(String, String)],
    ) -> Result<(Self, Option<ConfigError>), ConfigError> {
        Self::load_for_asking_in(&Surroundings::of_this_process(), file, overrides)
    }

    fn load_for_asking_in(
        surroundings: &Surroundings,
        file: Option<&Path>,
        overrides: &[(String, String)],
    ) -> Result<(Self, Option<ConfigError>), ConfigError> {
        let (settings, errors) = Self::read_all(surroundings, file, overrides, false);
        if errors.iter().any(|error| error.hides_whom_to_ask()) {
            ConfigError::all(errors)?;
            return Ok((settings, None));
        }
        Ok((settings, ConfigError::all(errors).err()))
    }

    /// The default settings, `config/default.toml`, with every key explained.
    pub fn default_toml() -> &'static str {
        layers::DEFAULTS
    }

    /// Every setting, its value and where that is from, in the order of `config/default.toml`.
    pub fn describe(&self) -> &[Setting] {
        &self.described
    }

    /// What is no mistake, but hardly meant.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The file that was read, where there is one.
    pub fn file(&self) -> Option<&Path> {
        self.loaded.file.as_deref()
    }

    /// A digest of the file as it was read.
    pub fn file_digest(&self) -> Option<[u8; 32]> {
        self.loaded.digest
    }

    /// A digest of a file as it is now; nothing when it cannot be read.
    pub fn digest_of(file: &Path) -> Option<[u8; 32]> {
        let text = layers::read_file(file).ok()?;
        Some(*blake3::hash(text.as_bytes()).as_bytes())
    }

    /// Reads the same file and the environment again, with the same command line. A file that was
    /// not there before is found, too.
    ///
    /// # Errors
    /// All mistakes, as [`Settings::load`].
    pub fn load_again(&self) -> Result<Self, ConfigError> {
        let Loaded {
            asked, overrides, ..
        } = &self.loaded;
        let new = Self::load(asked.as_deref(), overrides)?;
        match &new.loaded.file {
            // Somebody is just writing it, or the disk was full.
            Some(path) if new.loaded.blank && !self.loaded.blank => Err(ConfigError::Unreadable {
                path: path.clone(),
                source: io::Error::other("it is empty; a line with a # says that this is meant"),
            }),
            _ => Ok(new),
        }
    }

    /// The same settings, but nothing is received, also after they are read again.
    pub fn without_receiving(mut self) -> Self {
        self.receive.enabled = false;
        let never = ("receive.enabled".to_owned(), "false".to_owned());
        self.loaded.overrides.push(never);
        self
    }

    fn load_in(
        surroundings: &Surroundings,
        file: Option<&Path>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let (settings, mut errors) = Self::read_all(surroundings, file, overrides, true);
        let unreadable = |error: &ConfigError| matches!(error, ConfigError::Unreadable { .. });
        // What is missing is in the file, perhaps.
        if let Some(at) = errors.iter().position(unreadable) {
            return Err(errors.swap_remove(at));
        }
        ConfigError::all(errors)?;
        Ok(settings)
    }

    /// What could be read, with defaults for what is wrong, and all mistakes. `looks` says whether
    /// what the settings name on the disk is looked at, for the warnings.
    fn read_all(
        surroundings: &Surroundings,
        file: Option<&Path>,
        overrides: &[(String, String)],
        looks: bool,
    ) -> (Self, Vec<ConfigError>) {
        let mut errors = Vec::new();
        let (defaults, known) = layers::defaults();
        let asked = file.map(|file| surroundings.current_dir.join(file));
        let file = layers::find_file(asked.as_deref(), surroundings).unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        let mut layers = vec![defaults.clone()];
        if let Some((path, text)) = &file {
            layers.push(layers::file(path, text, &known, &mut errors));
        }
        layers.push(layers::environment(surroundings, &known, &mut errors));
        layers.push(layers::command_line(overrides, &known, &mut errors));
        let mut reader = Reader {
            merged: merge(layers),
            defaults: merge(vec![defaults]),
            surroundings,
            file: file.as_ref().map(|(path, _)| path.as_path()),
            errors,
            warnings: Vec::new(),
            settings: Vec::new(),
        };
        let mut settings = Self::read(&mut reader);
        settings
            .receive
            .check_overwriting(&settings.state.dir, &mut reader);
        doubts::look(&settings, &mut reader);
        if looks {
            on_disk::look(&settings, &mut reader);
        }
        let Reader {
            errors,
            warnings,
            settings: described,
            ..
        } = reader;
        (settings.described, settings.warnings) = (described, warnings);
        settings
            .warnings
            .sort_by_key(|warning| warning.place.line.unwrap_or(usize::MAX));
        settings.loaded = Loaded {
            asked,
            digest: file
                .as_ref()
                .map(|(_, text)| *blake3::hash(text.as_bytes()).as_bytes()),
            blank: file
                .as_ref()
                .is_some_and(|(_, text)| text.trim().is_empty()),
            file: file.map(|(path, _)| path),
            overrides: overrides.to_vec(),
        };
        (settings, errors)
    }
}

fn merge(layers: Vec<Layer>) -> config::Config {
    let builder = layers
        .into_iter()
        .fold(config::Config::builder(), |builder, layer| {
            builder.add_source(layer)
        });
    builder
        .build()
        .expect("layers in memory cannot fail to load")
}
