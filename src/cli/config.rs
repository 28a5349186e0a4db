//! `config`: whether the settings are in order, and what they are.

use serde_json::json;

use super::Failure;
use super::args::Config;
use super::session::Context;
use crate::actors::api::{Event, exit};
use crate::protocol::names::printable;

/// Shows them. That they were loaded means that they are in order.
pub fn run(context: &Context, what: Config) -> Result<u8, Failure> {
    let screen = &context.screen;
    let settings = context.settings.describe();
    match what {
        Config::Check if screen.is_json() => {}
        Config::Check => {
            let mut sources: Vec<&str> = settings.iter().map(|s| s.source.as_str()).collect();
            sources.sort_unstable();
            sources.dedup();
            let sources = printable(&sources.join(", "));
            screen.result(&format!("the settings are in order; from: {sources}"))?;
        }
        Config::Show if screen.is_json() => {
            for setting in settings {
                screen.object(&json!({
                    "event": "setting",
                    "key": setting.key,
                    "value": setting.value,
                    "source": setting.source,
                }))?;
            }
        }
        Config::Show => {
            let mut section = "";
            for setting in settings {
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
                let source = printable(&setting.source);
                screen.result(&format!("{key} = {}  # {source}", setting.value))?;
            }
        }
    }
    if screen.is_json() {
        screen.object(&Event::End { code: exit::OK })?;
    }
    Ok(exit::OK)
}
