//! Settings against files, variables and overrides made up here.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

mod broadcasts;
mod limits;
mod on_disk;
mod providers;
mod receive;

/// A machine with a home folder of its own.
struct Machine {
    home: tempfile::TempDir,
    surroundings: Surroundings,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            variables: [("HOME".into(), home.path().into())].into(),
            host_name: "lab-3\n".into(),
            time_zone: "Europe/Berlin".into(),
            current_dir: home.path().join("here"),
            machine_file: home.path().join("etc/config.toml"),
            now: 1_795_276_800,
        };
        Self { home, surroundings }
    }

    fn with(text: &str) -> Self {
        let machine = Self::new();
        fs::create_dir_all(machine.user_file().parent().unwrap()).unwrap();
        fs::write(machine.user_file(), text).unwrap();
        machine
    }

    fn user_file(&self) -> PathBuf {
        self.home.path().join(".config/handout/config.toml")
    }

    fn set(&mut self, variable: &str, value: &str) {
        self.surroundings
            .variables
            .insert(variable.into(), value.into());
    }

    fn load(&self) -> Result<Settings, ConfigError> {
        self.load_with(&[])
    }

    fn load_with(&self, overrides: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let overrides: Vec<_> = overrides
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        Settings::load_in(&self.surroundings, None, &overrides)
    }

    /// The doubts, as a person reads them, without their file.
    fn doubts(&self) -> Vec<String> {
        let file = self.user_file().display().to_string();
        let settings = self.load().unwrap();
        let lines = settings.warnings().iter().map(ToString::to_string);
        lines.map(|line| line.replace(&file, "f")).collect()
    }

    /// The mistakes, as a person reads them.
    fn complaints(&self) -> Vec<String> {
        match self.load().unwrap_err() {
            ConfigError::Many(all) => all.iter().map(ToString::to_string).collect(),
            one => vec![one.to_string()],
        }
    }
}

#[test]
fn the_defaults_have_exactly_the_keys_that_are_read_in_the_same_order() {
    let settings = Machine::new().load().unwrap();
    let read: Vec<_> = settings
        .describe()
        .iter()
        .map(|setting| setting.key.to_string())
        .collect();
    let mut section = "";
    let mut written = Vec::new();
    for line in Settings::default_toml().lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            written.push(format!("{section}.{key}"));
        }
    }
    assert_eq!(read, written);
    let known: BTreeSet<_> = layers::defaults().1.keys().collect();
    assert_eq!(known, read.into_iter().collect());
}

#[test]
fn every_default_is_explained_with_its_value_and_its_variable() {
    let lines: Vec<_> = Settings::default_toml().lines().collect();
    let mut section = "";
    for pair in lines.windows(2) {
        let [above, line] = pair else { unreachable!() };
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#'))
        {
            let variable = layers::variable(&format!("{section}.{key}"));
            assert_eq!(*above, format!("# Default: {value}. Variable: {variable}"));
        }
    }
}

#[test]
fn the_defaults_fit_the_machine() {
    let machine = Machine::new();
    let settings = machine.load().unwrap();
    let home = machine.home.path();
    assert_eq!(settings.device.name, "lab-3");
    assert_eq!(settings.state.dir, home.join(".local/state/handout"));
    assert_eq!(
        settings.receive.policy.defaults.destination,
        home.join("Downloads/Handout")
    );
    assert_eq!(settings.signaling.answer_timeout, Duration::from_secs(10));
    assert_eq!(settings.network.window_min, 128 << 10);
    assert_eq!(
        settings.receive.policy.defaults.max_bundle,
        1_000_000_000_000
    );
    assert!(
        settings
            .describe()
            .iter()
            .all(|setting| setting.source == "the defaults")
    );
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file_beats_the_defaults() {
    let mut machine = Machine::with("[signaling]\nport = 1\nretries = 1\nbackoff = \"7s\"\n");
    machine.set("HANDOUT_SIGNALING__PORT", "2");
    machine.set("HANDOUT_SIGNALING__RETRIES", "2");
    machine.set("HANDOUT_STATE", "/not/a/setting/of/the/file");
    let settings = machine.load_with(&[("signaling.port", "3")]).unwrap();
    let signaling = &settings.signaling;
    assert_eq!((signaling.port, signaling.retries), (3, 2));
    assert_eq!(signaling.backoff, Duration::from_secs(7));
    assert_eq!(signaling.idle_timeout, Duration::from_secs(60));
    let source = |key| {
        let found = settings
            .describe()
            .iter()
            .find(|setting| setting.key == key);
        found.unwrap().source.clone()
    };
    assert_eq!(source("signaling.port"), "the command line");
    assert_eq!(source("signaling.retries"), "HANDOUT_SIGNALING__RETRIES");
    assert_eq!(
        source("signaling.backoff"),
        machine.user_file().display().to_string()
    );
    assert_eq!(source("signaling.idle_timeout"), "the defaults");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place_and_what_is_allowed() {
    let mut machine = Machine::with(
        "[signaling]\nprot = 1\nport = 70000\nbackoff = 5\n[discovry]\nenabled = true\n[network]\nmtu = \"big\"\n",
    );
    machine.set("HANDOUT_LOG__LEVEL", "loud");
    machine.set("HANDOUT_LOG__LEVLE", "info");
    machine.set("HANDOUT_RECEIVE_RESERVE", "1GB");
    let complaints = machine.complaints();
    let file = machine.user_file().display().to_string();
    let expected = [
        format!("{file}:2:1: there is no setting \"signaling.prot\"; did you mean \"signaling.port\"?"),
        format!("{file}:3:1: signaling.port must be a whole number from 0 to 65535, not 70000"),
        format!("{file}:4:1: signaling.backoff must be a duration such as 500ms, 10s or 2m, from 10ms to 5m, not 5"),
        format!("{file}:5:2: there is no setting \"discovry\"; did you mean \"discovery\"?"),
        format!("{file}:8:1: network.mtu must be a whole number from 1191 to 1435, not \"big\""),
        "HANDOUT_LOG__LEVLE: there is no setting \"log.levle\"; did you mean \"log.level\"?".into(),
        "the environment: there is no setting \"HANDOUT_RECEIVE_RESERVE\"; did you mean \"HANDOUT_RECEIVE__RESERVE\"?".into(),
        "HANDOUT_LOG__LEVEL: log.level must be \"off\" or \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\", not \"loud\"".into(),
    ];
    assert_eq!(complaints, expected);
}

#[test]
fn a_key_in_the_wrong_place_is_pointed_to_the_right_one() {
    let machine =
        Machine::with("port = 1\n[network]\nbackoff = \"1s\"\n[quite.unlike]\nanything = 1\n");
    let complaints = machine.complaints();
    assert!(
        complaints[1].contains("did you mean \"signaling.backoff\""),
        "{complaints:?}"
    );
    assert!(
        complaints[0].contains("did you mean \"signaling.port\""),
        "{complaints:?}"
    );
    assert!(
        complaints[2].contains("default.toml lists them all"),
        "{complaints:?}"
    );
}

#[test]
fn a_value_where_a_section_belongs_is_explained() {
    let complaints = Machine::with("log = \"info\"\n").complaints();
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].contains("[log]"));
}

#[test]
fn values_that_contradict_each_other_are_named_with_their_places() {
    let mut machine = Machine::with("[network]\nwindow_min = \"2MiB\"\n");
    machine.set("HANDOUT_NETWORK__WINDOW_MAX", "1MiB");
    let complaints = machine.complaints();
    assert_eq!(complaints.len(), 1);
    for part in [
        "window_min",
        "2MiB",
        "config.toml",
        "HANDOUT_NETWORK__WINDOW_MAX",
    ] {
        assert!(complaints[0].contains(part), "{complaints:?}");
    }
}

#[test]
fn broken_toml_is_reported_with_the_file_and_the_line() {
    let complaints = Machine::with("[log]\nlevel = \n").complaints();
    assert!(complaints[0].contains("config.toml"), "{complaints:?}");
    assert!(complaints[0].contains("config.toml:2:"), "{complaints:?}");
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_the_others_need_not() {
    let machine = Machine::new();
    let missing = Settings::load_in(&machine.surroundings, Some(Path::new("no.toml")), &[]);
    let error = missing.unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert!(error.to_string().contains("here/no.toml"));
    assert!(machine.load().is_ok());
}

#[test]
fn the_file_asked_for_beats_the_users_which_beats_the_machines() {
    let machine = Machine::with("[signaling]\nport = 2\n");
    let home = machine.home.path();
    fs::create_dir_all(home.join("etc")).unwrap();
    fs::create_dir_all(home.join("here")).unwrap();
    fs::write(home.join("etc/config.toml"), "[signaling]\nport = 1\n").unwrap();
    fs::write(home.join("here/mine.toml"), "[signaling]\nport = 3\n").unwrap();
    let port = |file: Option<&str>| {
        let settings = Settings::load_in(&machine.surroundings, file.map(Path::new), &[]);
        settings.unwrap().signaling.port
    };
    assert_eq!(port(Some("mine.toml")), 3);
    assert_eq!(port(None), 2);
    fs::remove_file(machine.user_file()).unwrap();
    assert_eq!(port(None), 1);
}

#[test]
fn lists_come_from_toml_and_from_variables_with_commas() {
    let mut machine = Machine::with("[discovery]\ninterfaces = [\"eth0\", \"10.0.0.5\"]\n");
    machine.set("HANDOUT_NETWORK__ADDRESSES", "10.0.0.5, fe80::1");
    machine.set("HANDOUT_NETWORK__NETWORKS", "");
    let settings = machine.load().unwrap();
    let eth0 = Interface::Name("eth0".into());
    assert_eq!(settings.discovery.interfaces[0], eth0);
    assert_eq!(settings.network.addresses.len(), 2);
    assert!(settings.network.networks.is_empty());
    machine.set("HANDOUT_NETWORK__ADDRESSES", "10.0.0.5,,x");
    assert_eq!(machine.complaints().len(), 1);
}

#[test]
fn paths_start_at_the_home_folder_the_file_or_the_current_folder() {
    let machine = Machine::with("[state]\ndir = \"state\"\n[receive]\ndestination = \"~/In\"\n");
    let home = machine.home.path();
    let settings = machine.load().unwrap();
    assert_eq!(settings.state.dir, home.join(".config/handout/state"));
    assert_eq!(
        settings.receive.policy.defaults.destination,
        home.join("In")
    );
    let settings = machine.load_with(&[("state.dir", "state")]).unwrap();
    assert_eq!(settings.state.dir, home.join("here/state"));
}

#[test]
fn the_download_folder_of_the_users_language_is_found() {
    let machine = Machine::with("");
    let home = machine.home.path();
    let dirs = "XDG_MUSIC_DIR=\"$HOME/Musik\"\nXDG_DOWNLOAD_DIR=\"$HOME/Herunter\"\n";
    fs::write(home.join(".config/user-dirs.dirs"), dirs).unwrap();
    let settings = machine.load().unwrap();
    assert_eq!(
        settings.receive.policy.defaults.destination,
        home.join("Herunter/Handout")
    );
}

#[test]
fn without_a_home_folder_the_paths_must_be_set() {
    let mut machine = Machine::new();
    machine.surroundings.variables.clear();
    let complaints = machine.complaints();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(
        complaints[0].contains("HANDOUT_STATE__DIR"),
        "{complaints:?}"
    );
    machine.set("HANDOUT_STATE__DIR", "/var/lib/handout");
    machine.set("HANDOUT_RECEIVE__DESTINATION", "/srv/handout");
    machine.set("HANDOUT_HAND_IN__DESTINATION", "/srv/handed-in");
    assert_eq!(
        machine.load().unwrap().state.dir,
        PathBuf::from("/var/lib/handout")
    );
}

#[test]
fn a_host_without_a_usable_name_still_has_one() {
    let mut machine = Machine::new();
    machine.surroundings.host_name = "é".repeat(50);
    let name = machine.load().unwrap().device.name;
    assert!(name.len() <= 64 && name.starts_with('é'));
    machine.surroundings.host_name = "\u{1b}\n".into();
    assert_eq!(machine.load().unwrap().device.name, "handout");
    machine.set("HANDOUT_DEVICE__NAME", "a\u{7}b");
    assert_eq!(machine.complaints().len(), 1);
}

#[test]
fn a_file_that_was_emptied_while_it_is_in_use_is_taken_for_an_accident() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handout.toml");
    let places = ["state.dir", "receive.destination", "hand_in.destination"];
    let places = places.map(|key| (key.to_owned(), folder.path().display().to_string()));
    fs::write(&path, "[device]\nname = \"a\"\n").unwrap();
    let settings = Settings::load(Some(&path), &places).unwrap();
    fs::write(&path, " \n").unwrap();
    let error = settings.load_again().unwrap_err();
    assert!(error.to_string().contains("it is empty"), "{error}");
    fs::write(&path, "# nothing\n").unwrap();
    assert_ne!(settings.load_again().unwrap().device.name, "a");
    // One that was empty from the beginning may stay so.
    fs::write(&path, "").unwrap();
    let settings = Settings::load(Some(&path), &places).unwrap();
    settings.load_again().unwrap();
}
