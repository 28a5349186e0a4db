//! `config`: whether the settings are in order, what they are, and a file to begin with.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::Failure;
use super::args::InitRole;
use super::screen::Screen;
use super::session::Context;
use crate::actors::api::{Event, Mistake, exit};
use crate::config::Settings;
use crate::protocol::names::printable;

/// A line about what is wrong with the settings.
#[derive(Serialize)]
struct Finding<'a> {
    event: &'static str,
    #[serde(flatten)]
    what: &'a Mistake,
}

/// Reads the settings and says everything that is wrong with them.
pub fn check(
    screen: &Screen,
    file: Option<&Path>,
    overrides: &[(String, String)],
) -> Result<u8, Failure> {
    let settings = match Settings::load(file, overrides) {
        Ok(settings) => settings,
        Err(error) if screen.is_json() => {
            for what in &Mistake::all(&error) {
                let event = "mistake";
                screen.object(&Finding { event, what })?;
            }
            screen.object(&Event::End { code: exit::USAGE })?;
            return Ok(exit::USAGE);
        }
        Err(error) => return Err(error.into()),
    };
    for what in settings.warnings().iter().map(Mistake::of_warning) {
        if screen.is_json() {
            let (event, what) = ("warning", &what);
            screen.object(&Finding { event, what })?;
        } else {
            screen.note(&format!("handout: warning: {}", what.message));
        }
    }
    if screen.is_json() {
        screen.object(&Event::End { code: exit::OK })?;
    } else {
        let described = settings.describe().iter();
        let mut sources: Vec<&str> = described.map(|set| set.source.as_str()).collect();
        sources.sort_unstable();
        sources.dedup();
        let sources = printable(&sources.join(", "));
        screen.result(&format!("the settings are in order; from: {sources}"))?;
    }
    Ok(exit::OK)
}

/// Shows every setting.
pub fn show(context: &Context) -> Result<u8, Failure> {
    let screen = &context.screen;
    let mut section = "";
    for setting in context.settings.describe() {
        let place = setting.place();
        if screen.is_json() {
            screen.object(&json!({
                "event": "setting",
                "key": setting.key,
                "value": setting.value,
                "source": place.source,
                "line": place.line,
                "column": place.column,
            }))?;
            continue;
        }
        let (in_section, key) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        if in_section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            // A rule is one of a list: `receive.from[1]`.
            let header = match in_section.split_once('[') {
                Some((list, _)) => format!("[[{list}]]"),
                None => format!("[{in_section}]"),
            };
            screen.result(&format!("{gap}{header}"))?;
            section = in_section;
        }
        let line = place
            .line
            .map_or_else(String::new, |line| format!(":{line}"));
        let source = printable(&place.source);
        screen.result(&format!("{key} = {}  # {source}{line}", setting.value))?;
    }
    if screen.is_json() {
        screen.object(&Event::End { code: exit::OK })?;
    }
    Ok(exit::OK)
}

/// Writes a config file for a role, to stdout or to a file that is not there yet.
pub fn init(screen: &Screen, role: InitRole, output: Option<&Path>) -> Result<u8, Failure> {
    let text = match role {
        InitRole::Teacher => include_str!("../../config/roles/teacher.toml"),
        InitRole::Lab => include_str!("../../config/roles/lab.toml"),
        InitRole::Kiosk => include_str!("../../config/roles/kiosk.toml"),
        InitRole::Receiver => include_str!("../../config/roles/receiver.toml"),
    };
    match output {
        Some(path) => {
            let shown = printable(&path.display().to_string());
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            file.and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Failure::Usage(format!(
                    "{shown} is there already and stays as it is: name another file"
                )),
                _ => Failure::Other(format!("cannot write {shown}: {error}")),
            })?;
            if screen.is_json() {
                screen.object(&json!({ "event": "written", "path": path }))?;
            }
            screen.note(&format!(
                "written: {shown}; look for FILL IN, then `handout config check {shown}` and \
                 `handout run --config {shown}`"
            ));
        }
        None if screen.is_json() => {
            screen.object(&json!({ "event": "config", "text": text }))?;
        }
        None => screen.result(text.trim_end())?,
    }
    if screen.is_json() {
        screen.object(&Event::End { code: exit::OK })?;
    }
    Ok(exit::OK)
}
