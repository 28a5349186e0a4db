//! The program's verbs: reading the command line, asking a node, showing what it answers.

mod args;
mod bars;
mod broadcasts;
mod completions;
mod config;
mod demo;
mod devices;
mod doctor;
mod group;
mod invite;
mod log;
mod man;
mod manner;
mod pair;
mod peers;
mod prompt;
mod provide;
mod receive;
mod reload;
mod rendezvous;
mod report;
mod request;
mod run;
mod screen;
mod send;
mod session;
mod steer;
mod text;
mod transfers;
mod versions;
mod view;
mod watch_over;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::actors::api::{Event, exit};
use crate::actors::service::StartError;
use crate::config::{ConfigError, Settings};
use crate::protocol::names::printable;
use args::{Cli, Config, Global, Verb};
use screen::Screen;
use session::Context;

/// Why a verb could not do its work. What becomes of the work itself is told by events.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A node could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The disk has no room.
    #[error("{0}")]
    NoRoom(String),
    /// There is nothing to ask about.
    #[error(
        "there is no state folder at {}, so there is nothing to ask or change there: --state names \
         another one; `handout run`, `receive`, `send` and `id` make one", .0.display()
    )]
    NoState(PathBuf),
    /// Anything else.
    #[error("{0}")]
    Other(String),
    /// The output cannot be written. Where its reader has gone away, that is no error.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => exit::USAGE,
            Self::Start(error) => error.exit_code(),
            Self::NoRoom(_) => exit::DISK,
            Self::NoState(_) | Self::Other(_) | Self::Output(_) => exit::ERROR,
        }
    }
}

/// The whole program: its exit code is one of [`exit`].
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(explain(&error)),
    };
    let screen = Screen::new(cli.global.json);
    let code = perform(cli, &screen).unwrap_or_else(|failure| {
        if matches!(&failure, Failure::Output(error) if session::is_closed(error)) {
            return exit::OK;
        }
        fail(&screen, &failure.to_string(), failure.exit_code());
        failure.exit_code()
    });
    ExitCode::from(code)
}

fn perform(cli: Cli, screen: &Screen) -> Result<u8, Failure> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Completions { shell } => return completions::run(shell, screen),
        Verb::Man { ref verb } => return man::run(verb, screen),
        Verb::Config(Config::Init { role, output }) => {
            return config::init(screen, role, output.as_deref());
        }
        _ => {}
    }
    let mut overrides = global.overrides().map_err(Failure::Usage)?;
    if let Verb::Config(Config::Check { file }) = &verb {
        let file = file.as_deref().or(global.config.as_deref());
        return config::check(screen, file, &overrides);
    }
    if let Verb::Receive(options) = &verb {
        overrides.extend(receive::overrides(options).map_err(Failure::Usage)?);
    }
    match &verb {
        Verb::Provide(options) => overrides.extend(options.at.overrides().map_err(Failure::Usage)?),
        Verb::Request(options) => {
            overrides.extend(request::overrides(options).map_err(Failure::Usage)?);
        }
        _ => {}
    }
    let settings = settings(&verb, &global, &overrides, screen)?;
    let serves = matches!(
        verb,
        Verb::Run | Verb::Receive(_) | Verb::Provide(_) | Verb::Rendezvous { what: None }
    );
    log::start(&settings.log, global.verbose, screen, serves);
    // Whoever asks or decides something has not come to hear of the file.
    for warning in settings.warnings().iter().filter(|_| serves) {
        tracing::warn!("{}", printable(&warning.to_string()));
    }
    let context = Context {
        settings,
        screen: screen.clone(),
        may_begin: manner::may_begin(&verb),
    };
    match verb {
        Verb::Run => run::run(&context),
        Verb::Receive(options) => receive::run(&context, &options),
        Verb::Provide(options) => provide::run(&context, &options),
        Verb::Request(options) => request::run(&context, &options),
        Verb::Send(options) => send::run(&context, &options),
        Verb::HandIn(options) => send::hand_in(&context, &options),
        Verb::Demo(options) => demo::run(&context, &options),
        Verb::Peers(options) => peers::run(&context, &options),
        Verb::Authorize(options) => devices::authorize(&context, options),
        Verb::Group(verb) => group::run(&context, verb),
        Verb::Pair(options) => pair::run(&context, &options),
        Verb::Invite(options) => invite::run(&context, options),
        Verb::Revoke { device } => devices::revoke(&context, device),
        Verb::Id { what: None } => devices::id(&context),
        Verb::Id { what: Some(what) } => devices::renew(&context, what),
        Verb::Transfers { watch } => transfers::run(&context, watch),
        Verb::Broadcasts => broadcasts::run(&context),
        Verb::Versions => versions::list(&context),
        Verb::Rollback { what, to } => versions::roll_back(&context, what, to),
        Verb::Report(options) => report::run(&context, options),
        Verb::Health => watch_over::health(&context),
        Verb::Audit(what) => watch_over::audit(&context, what),
        Verb::Pause(which) => steer::pause(&context, which),
        Verb::Resume(which) => steer::resume(&context, which),
        Verb::Cancel(which) => steer::cancel(&context, which),
        Verb::Accept(which) => steer::accept(&context, which),
        Verb::Refuse(which) => steer::refuse(&context, which),
        Verb::Reload => steer::reload(&context),
        Verb::Doctor(options) => doctor::run(&context, &options),
        Verb::Rendezvous { what } => rendezvous::run(&context, what),
        Verb::Config(_) => config::show(&context),
        // Both need no settings and were done above.
        Verb::Completions { .. } | Verb::Man { .. } => Ok(exit::OK),
    }
}

/// The settings. Mistakes in them stop a verb, unless it only asks: then they are mentioned.
fn settings(
    verb: &Verb,
    global: &Global,
    overrides: &[(String, String)],
    screen: &Screen,
) -> Result<Settings, Failure> {
    let file = global.config.as_deref();
    if !manner::only_asks(verb) {
        return Ok(Settings::load(file, overrides)?);
    }
    let (settings, mistakes) = Settings::load_for_asking(file, overrides)?;
    if let Some(mistakes) = mistakes {
        let place = mistakes.mistakes().iter().find_map(ConfigError::place);
        let source = place.map_or_else(String::new, |place| format!(" of {}", place.source));
        let state = settings.state.dir.display();
        screen.warn(&printable(&format!(
            "the settings{source} have mistakes, which `handout config check` shows; this asks \
             about the state folder {state}"
        )));
    }
    Ok(settings)
}

/// Says why there is no answer.
fn fail(screen: &Screen, message: &str, code: u8) {
    screen.error(message);
    if screen.is_json() {
        // When stdout is closed, stderr has said it.
        let _ = screen.object(&Event::End { code });
    }
}

/// Shows help, or what is wrong with the command line.
fn explain(error: &clap::Error) -> u8 {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return match error.print() {
            Ok(()) => exit::OK,
            Err(error) => session::unread(&error, &Screen::new(false), exit::OK),
        };
    }
    let text = error.to_string();
    let json = std::env::args_os().any(|word| word == "--json");
    if json {
        // What follows the first paragraph is for people.
        let first = text.trim().split("\n\n").next().unwrap_or_default();
        fail(
            &Screen::new(true),
            first.trim_start_matches("error: "),
            exit::USAGE,
        );
    } else {
        // Help that is shown for want of a verb is no message of ours.
        let sign = if text.starts_with("error: ") {
            "handout: "
        } else {
            ""
        };
        Screen::new(false).note(&format!("{sign}{}", text.trim_end()));
    }
    exit::USAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_exit_codes_that_are_documented() {
        let usage = Failure::Usage("no".to_owned());
        assert_eq!(usage.exit_code(), 2);
        assert_eq!(Failure::Config(ConfigError::Many(vec![])).exit_code(), 2);
        assert_eq!(Failure::NoRoom("no".to_owned()).exit_code(), 7);
        assert_eq!(Failure::Other("no".to_owned()).exit_code(), 1);
    }
}
