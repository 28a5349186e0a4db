//! `completions`: what a shell needs to complete our commands.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Failure;
use super::args::Cli;
use super::man::document;
use super::screen::Screen;

/// Writes the script to stdout.
pub fn run(shell: Shell, screen: &Screen) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "handout", &mut script);
    document(screen, script)
}
