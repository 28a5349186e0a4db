//! Settings: from the defaults, a file, the environment and the command line to one checked
//! [`Settings`] that nothing downstream checks again.
//!
//! `config/default.toml` lists and explains every key; the fields here have the same names.

mod api;
mod broadcasts;
mod error;
mod groups;
mod kiosk;
mod layers;
mod limits;
mod notify;
mod reader;
mod receive;
mod settings;
mod shapes;
mod surroundings;
mod tables;
mod units;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::Path;

pub use api::ApiAddress;
pub use broadcasts::BroadcastRule;
pub use error::ConfigError;
pub use groups::GroupRule;
pub use kiosk::{Kiosk, KioskPin};
pub use limits::LimitSettings;
pub use notify::{Notify, Occasion};
pub use receive::Receive;
pub use settings::{
    Api, AuditSettings, Device, Discovery, Log, LogFormat, LogLevel, NetworkSettings, Settings,
    Signaling, State, SwarmSettings, Transfer, Trust,
};
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

    /// The default settings, `config/default.toml`, with every key explained.
    pub fn default_toml() -> &'static str {
        layers::DEFAULTS
    }

    /// Every setting, its value and where that is from, in the order of `config/default.toml`.
    pub fn describe(&self) -> &[Setting] {
        &self.described
    }

    fn load_in(
        surroundings: &Surroundings,
        file: Option<&Path>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut errors = Vec::new();
        let (defaults, known) = layers::defaults();
        let file = layers::find_file(file, surroundings)?;
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
            settings: Vec::new(),
        };
        let mut settings = Self::read(&mut reader);
        let Reader {
            settings: described,
            errors,
            ..
        } = &mut reader;
        settings.described = std::mem::take(described);
        settings
            .receive
            .check_overwriting(&settings.state.dir, errors);
        ConfigError::all(reader.errors)?;
        Ok(settings)
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
