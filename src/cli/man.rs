//! `man`: manual pages.

use std::io::Write;

use clap::CommandFactory;
use serde_json::json;

use super::Failure;
use super::args::Cli;
use super::screen::Screen;
use crate::actors::api::{Event, exit};

/// Writes the page of the program, or of one verb, to stdout. `verbs` go down to it: `group add`.
pub fn run(verbs: &[String], screen: &Screen) -> Result<u8, Failure> {
    let mut command = Cli::command();
    command.build();
    for verb in verbs {
        let found = command.find_subcommand(verb).cloned();
        command = found.ok_or_else(|| {
            Failure::Usage(format!(
                "there is no verb {:?}: `handout help` lists them",
                verbs.join(" ")
            ))
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    document(screen, page)
}

/// Writes a text for another program to stdout: as it is, or within an event.
pub fn document(screen: &Screen, text: Vec<u8>) -> Result<u8, Failure> {
    if screen.is_json() {
        let text = String::from_utf8_lossy(&text);
        screen.object(&json!({"event": "document", "text": text}))?;
        screen.object(&Event::End { code: exit::OK })?;
    } else {
        std::io::stdout().write_all(&text)?;
    }
    Ok(exit::OK)
}
