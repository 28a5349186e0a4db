//! `completions`: what a shell needs to complete our commands.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Failure;
use super::args::Cli;
use crate::actors::api::exit;

/// Writes the script to stdout.
pub fn run(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "handout", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(exit::OK)
}
