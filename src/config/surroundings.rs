//! What of the machine and the user settings depend on: read once, and replaced in tests.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::units::{MAX_NAME, is_name};

/// The environment of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    pub variables: BTreeMap<OsString, OsString>,
    /// The host's name; may be empty.
    pub host_name: String,
    /// The machine's time zone; empty where it is not known.
    pub time_zone: String,
    /// Where relative paths start that are not from a file.
    pub current_dir: PathBuf,
    /// The config file of the whole machine.
    pub machine_file: PathBuf,
    /// The time, in Unix seconds.
    pub now: u64,
}

/// A path without links, as far as it is there.
pub(super) fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|there| {
        let rest = path.strip_prefix(there).ok()?;
        Some(there.canonicalize().ok()?.join(rest))
    });
    found.unwrap_or_else(|| path.to_owned())
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn of_this_process() -> Self {
        let host_name = ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap_or_default();
        Self {
            variables: std::env::vars_os().collect(),
            host_name,
            time_zone: iana_time_zone::get_timezone().unwrap_or_default(),
            current_dir: std::env::current_dir().unwrap_or_default(),
            machine_file: "/etc/handout/config.toml".into(),
            now: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }

    /// A folder from a variable; relative ones do not count (XDG Base Directory Specification).
    fn folder(&self, variable: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.variables.get(&OsString::from(variable))?);
        path.is_absolute().then_some(path)
    }

    pub(super) fn home(&self) -> Option<PathBuf> {
        self.folder("HOME")
    }

    fn config_home(&self) -> Option<PathBuf> {
        self.folder("XDG_CONFIG_HOME")
            .or_else(|| Some(self.home()?.join(".config")))
    }

    /// Where a config file may be, the first that exists counts.
    pub(super) fn config_files(&self) -> impl Iterator<Item = PathBuf> {
        let own = self
            .config_home()
            .map(|dir| dir.join("handout/config.toml"));
        own.into_iter().chain([self.machine_file.clone()])
    }

    /// The default state folder.
    pub(super) fn state_dir(&self) -> Option<PathBuf> {
        self.folder("XDG_STATE_HOME")
            .or_else(|| Some(self.home()?.join(".local/state")))
            .map(|dir| dir.join("handout"))
    }

    /// The default destination: in the download folder, whatever it is called in the user's
    /// language (xdg-user-dirs).
    pub(super) fn destination(&self) -> Option<PathBuf> {
        let named = self.folder("XDG_DOWNLOAD_DIR").or_else(|| {
            let text = fs::read_to_string(self.config_home()?.join("user-dirs.dirs")).ok()?;
            let value = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("XDG_DOWNLOAD_DIR="))?
                .trim_matches('"')
                .to_owned();
            match value.strip_prefix("$HOME/") {
                Some(rest) => Some(self.home()?.join(rest)),
                None => Some(PathBuf::from(value)).filter(|path| path.is_absolute()),
            }
        });
        named
            .or_else(|| Some(self.home()?.join("Downloads")))
            .map(|dir| dir.join("Handout"))
    }

    /// The default name of the device: the host's, made to fit.
    pub(super) fn device_name(&self) -> String {
        let mut name: String = self
            .host_name
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        name.truncate(name.floor_char_boundary(MAX_NAME));
        debug_assert!(is_name(&name));
        if name.is_empty() {
            name.push_str("handout");
        }
        name
    }

    /// Makes a written path absolute: `~/` is the home folder, `$CREDENTIALS_DIRECTORY/` where a
    /// service manager puts secrets, relative ones start at `base`.
    pub(super) fn absolute(&self, written: &str, base: &Path) -> Option<PathBuf> {
        if written.is_empty() || written.contains('\0') {
            return None;
        }
        // What systemd's LoadCredential= gives a service.
        if let Some(rest) = written.strip_prefix("$CREDENTIALS_DIRECTORY/") {
            return Some(self.folder("CREDENTIALS_DIRECTORY")?.join(rest));
        }
        match written.strip_prefix('~') {
            Some("") => self.home(),
            Some(rest) => match rest.strip_prefix('/') {
                Some(rest) => Some(self.home()?.join(rest)),
                None => Some(base.join(written)),
            },
            None => Some(base.join(written)),
        }
    }
}
