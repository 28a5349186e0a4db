//! Logs, on stderr, without tearing the bars that are drawn there.

use std::io::{self, Write};
use std::sync::OnceLock;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::screen::Screen;
use crate::config::{Log, LogFormat, LogLevel};

/// Starts logging for the whole process: as the settings say, `-v` raises the level, the variable
/// `RUST_LOG` replaces the filter. Panics are logged, too.
pub fn start(log: &Log, verbose: u8, screen: &Screen) {
    let asked = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.trim().is_empty())
        .and_then(|text| EnvFilter::try_new(text).ok());
    let fixed = asked.is_some();
    let filter = asked.unwrap_or_else(|| EnvFilter::new(directives(raised(log.level, verbose))));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines(screen.clone()));
    if !fixed {
        let set = move |level| {
            // Fails only when nothing is logged any more.
            let _ = handle.reload(EnvFilter::new(directives(raised(level, verbose))));
        };
        let _ = CHANGE.set(Box::new(set));
    }
    // Somebody may have started logging before, in a test: theirs stays.
    let filtered = tracing_subscriber::registry().with(filter);
    let _ = match log.format {
        LogFormat::Text => filtered
            .with(lines.with_ansi(screen.has_colors()))
            .try_init(),
        LogFormat::Json => filtered.with(lines.json().with_ansi(false)).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let what = panic
            .payload()
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.payload().downcast_ref::<String>().cloned());
        tracing::error!(
            what = what.as_deref().unwrap_or("unknown"),
            place = place.as_deref().unwrap_or("unknown"),
            "internal error; please report it"
        );
    }));
}

/// How the level is changed; nothing where `RUST_LOG` has set the filter.
static CHANGE: OnceLock<Box<dyn Fn(LogLevel) + Send + Sync>> = OnceLock::new();

/// From now on the settings say this level. What `-v` and `RUST_LOG` say counts as before.
pub fn change(level: LogLevel) {
    if let Some(change) = CHANGE.get() {
        change(level);
    }
}

fn raised(level: LogLevel, verbose: u8) -> LogLevel {
    level.max(match verbose {
        0 => LogLevel::Off,
        1 => LogLevel::Info,
        2 => LogLevel::Debug,
        _ => LogLevel::Trace,
    })
}

/// Everything else than this program logs warnings at most, or the output would be useless. The
/// WebRTC crates warn on every connection of what is in order, so they only do where a person
/// looks for a cause.
fn directives(level: LogLevel) -> String {
    match level {
        LogLevel::Off | LogLevel::Error | LogLevel::Trace => level.as_str().to_owned(),
        LogLevel::Warn | LogLevel::Info => {
            format!("warn,rtc=error,webrtc=error,handout={}", level.as_str())
        }
        LogLevel::Debug => "warn,handout=debug".to_owned(),
    }
}

struct Lines(Screen);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// One event at a time comes through here, as a whole.
struct Line<'a>(&'a Screen);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.aside(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v_raises_the_level_and_never_lowers_it() {
        assert_eq!(raised(LogLevel::Warn, 0), LogLevel::Warn);
        assert_eq!(raised(LogLevel::Off, 1), LogLevel::Info);
        assert_eq!(raised(LogLevel::Trace, 1), LogLevel::Trace);
        assert_eq!(raised(LogLevel::Warn, 9), LogLevel::Trace);
    }

    #[test]
    fn others_log_warnings_at_most_unless_everything_is_wanted() {
        assert_eq!(directives(LogLevel::Debug), "warn,handout=debug");
        assert_eq!(directives(LogLevel::Error), "error");
        let usual = directives(LogLevel::Warn);
        assert_eq!(usual, "warn,rtc=error,webrtc=error,handout=warn");
        assert_eq!(directives(LogLevel::Trace), "trace");
    }
}
