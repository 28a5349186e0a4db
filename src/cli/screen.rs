//! Where lines and bars go: results to stdout, everything else to stderr.

use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use crate::actors::api::Event;

/// Stdout and stderr, and the bars on the latter. Clones share them.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: MultiProgress,
    json: bool,
    terminal: bool,
}

impl Screen {
    /// The screen of this process. With `json`, stdout has JSON lines only, and there are no bars.
    pub fn new(json: bool) -> Self {
        let terminal = !json && io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
            json,
            terminal,
        }
    }

    /// True when programs read us.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// True when a person watches, so that bars make sense.
    pub fn has_bars(&self) -> bool {
        self.terminal
    }

    /// True when stderr shows colors, and the person has nothing against them (no-color.org).
    pub fn has_colors(&self) -> bool {
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
    }

    /// The bars.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Does something with the bars out of the way.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.bars.suspend(work)
    }

    /// A line of the result, for people: on stdout. An error when nobody reads it any more.
    pub fn result(&self, line: &str) -> io::Result<()> {
        self.aside(|| {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()
        })
    }

    /// A line about what is going on, for people: on stderr, and not where programs read us.
    pub fn note(&self, line: &str) {
        if !self.json {
            // Without a stderr there is nobody to tell that.
            let _ = self.aside(|| writeln!(io::stderr(), "{line}"));
        }
    }

    /// An object as a JSON line on stdout.
    pub fn object(&self, object: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(object)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// A warning, on stderr, also where programs read us.
    pub fn warn(&self, message: &str) {
        let _ = self.aside(|| writeln!(io::stderr(), "handout: warning: {message}"));
    }

    /// An error, on stderr, and as an event where programs read us.
    pub fn error(&self, message: &str) {
        let _ = self.aside(|| writeln!(io::stderr(), "handout: error: {message}"));
        if self.json {
            let message = message.to_owned();
            let _ = self.object(&Event::Error { message });
        }
    }
}
