//! `man`: manual pages.

use std::io::Write;

use clap::CommandFactory;

use super::Failure;
use super::args::Cli;
use crate::actors::api::exit;

/// Writes the page of the program, or of one verb, to stdout.
pub fn run(verb: Option<&str>) -> Result<u8, Failure> {
    let mut command = Cli::command();
    command.build();
    if let Some(verb) = verb {
        let found = command.find_subcommand(verb).cloned();
        command = found.ok_or_else(|| {
            Failure::Usage(format!(
                "there is no verb {verb:?}: `handout help` lists them"
            ))
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    std::io::stdout().write_all(&page)?;
    Ok(exit::OK)
}
