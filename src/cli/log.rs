//! Logs: on stderr, without tearing the bars that are drawn there; with priorities where the
//! journal of systemd reads stderr; and in a file where the settings name one.

mod rotating;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::screen::Screen;
use crate::config::{Log, LogFormat, LogLevel};
use rotating::Rotating;

/// Starts logging for the whole process: as the settings say, `-v` raises the level, the variable
/// `RUST_LOG` replaces the filter. Panics are logged, too.
///
/// Only a process that `serves` writes the log file: two would move it away under each other.
pub fn start(log: &Log, verbose: u8, screen: &Screen, serves: bool) {
    let asked = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.trim().is_empty())
        .and_then(|text| EnvFilter::try_new(text).ok());
    let fixed = asked.is_some();
    let filter = asked.unwrap_or_else(|| EnvFilter::new(directives(raised(log.level, verbose))));
    let (filter, handle) = reload::Layer::new(filter);
    if !fixed {
        let set = move |level| {
            // Fails only when nothing is logged any more.
            let _ = handle.reload(EnvFilter::new(directives(raised(level, verbose))));
        };
        let _ = CHANGE.set(Box::new(set));
    }
    let (place, fault) = Place::choose(log, serves);
    let colors = matches!(place, Place::Screen) && screen.has_colors();
    let journal = matches!(place, Place::Journal);
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines {
        screen: screen.clone(),
        place,
    });
    // Somebody may have started logging before, in a test: theirs stays.
    let filtered = tracing_subscriber::registry().with(filter);
    let _ = match log.format {
        // The journal has its own times and levels.
        LogFormat::Text if journal => filtered
            .with(lines.with_ansi(false).without_time().with_level(false))
            .try_init(),
        LogFormat::Text => filtered.with(lines.with_ansi(colors)).try_init(),
        LogFormat::Json => filtered.with(lines.json().with_ansi(false)).try_init(),
    };
    if let Some(fault) = fault {
        screen.warn(&fault);
    }
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

/// Where lines go.
#[derive(Clone)]
enum Place {
    /// Stderr, as anybody reads it.
    Screen,
    /// Stderr, which systemd's journal reads: each line begins with its priority.
    Journal,
    /// A file, and stderr as well while a person looks at it.
    File(Arc<Mutex<Rotating>>),
}

impl Place {
    /// Where the settings want them; and a word where that cannot be. A service starts all the
    /// same.
    fn choose(log: &Log, serves: bool) -> (Self, Option<String>) {
        let other = match is_journal() {
            true => Self::Journal,
            false => Self::Screen,
        };
        let Some(path) = log.file.as_ref().filter(|_| serves) else {
            return (other, None);
        };
        match Rotating::open(path, log.max_size, log.keep) {
            Ok(file) => (Self::File(Arc::new(Mutex::new(file))), None),
            Err(error) => {
                let path = path.display();
                let fault =
                    format!("the log file {path} cannot be used, so logs come here: {error}");
                (other, Some(fault))
            }
        }
    }
}

/// True when stderr is connected to systemd's journal (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Some(said) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    let Some((device, inode)) = said.split_once(':') else {
        return false;
    };
    let stderr = rustix::fs::fstat(io::stderr().as_fd());
    let (device, inode) = (device.parse::<u64>(), inode.parse::<u64>());
    stderr.is_ok_and(|stat| device == Ok(stat.st_dev) && inode == Ok(stat.st_ino))
}

/// The priority of syslog that a level has (sd-daemon(3)).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
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
/// WebRTC crates warn on every connection of what is in order, and the HTTP crate of whatever
/// strangers send that is none, so they only do where a person looks for a cause.
fn directives(level: LogLevel) -> String {
    match level {
        LogLevel::Off | LogLevel::Error | LogLevel::Trace => level.as_str().to_owned(),
        LogLevel::Warn | LogLevel::Info => {
            format!(
                "warn,rtc=error,webrtc=error,actix_http=off,handout={}",
                level.as_str()
            )
        }
        LogLevel::Debug => "warn,handout=debug".to_owned(),
    }
}

struct Lines {
    screen: Screen,
    place: Place,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            level: Level::INFO,
        }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        Line {
            lines: self,
            level: *about.level(),
        }
    }
}

/// One event at a time comes through here, as a whole.
struct Line<'a> {
    lines: &'a Lines,
    level: Level,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Lines { screen, place } = self.lines;
        let show = |bytes: &[u8]| screen.aside(|| io::stderr().write_all(bytes));
        match place {
            Place::Screen => show(bytes)?,
            Place::Journal => show(&[priority(self.level).as_bytes(), bytes].concat())?,
            Place::File(file) => {
                file.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .line(bytes);
                if io::stderr().is_terminal() {
                    show(bytes)?;
                }
            }
        }
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
        assert_eq!(
            usual,
            "warn,rtc=error,webrtc=error,actix_http=off,handout=warn"
        );
        assert_eq!(directives(LogLevel::Trace), "trace");
    }
}
