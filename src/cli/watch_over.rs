//! `health` and `audit`: whether the service does what it is for, and whether its log is whole.

use std::io;

use super::Failure;
use super::args::Audit;
use super::screen::Screen;
use super::session::{Context, View, ask_service, is_closed};
use super::text::foreign;
use super::view::MAX_TEXT;
use crate::actors::api::{Event, Request, exit};
use crate::store::audit;

/// Asks the running service how it is: exit code 0 when all is well, else 1.
pub fn health(context: &Context) -> Result<u8, Failure> {
    let mut view = Parts(context.screen.clone());
    match ask_service(context, Request::Health, &mut view)? {
        Some(code) => Ok(code),
        None => context.needs_state().and(Err(Failure::Other(format!(
            "no service runs on {}: start it with `handout run`",
            context.settings.state.dir.display()
        )))),
    }
}

struct Parts(Screen);

impl View for Parts {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let Event::Health(health) = event else {
            return Ok(());
        };
        if self.0.is_json() {
            return Ok(());
        }
        for check in &health.checks {
            let says = check.reason.as_deref().unwrap_or("ok");
            let line = format!("{}: {}", check.part, foreign(says, MAX_TEXT));
            self.0.result(&line)?;
        }
        Ok(())
    }
}

/// Does something with the audit log.
pub fn audit(context: &Context, what: Audit) -> Result<u8, Failure> {
    let Audit::Check = what;
    let (screen, dir) = (&context.screen, &context.settings.state.dir);
    context.needs_state()?;
    let checked = audit::check(dir).map_err(|error| {
        Failure::Other(format!(
            "cannot read the audit log in {}: {error}",
            dir.display()
        ))
    })?;
    if checked.files == 0 {
        return Err(Failure::Other(format!(
            "there is no audit log in {}: nothing was written yet that belongs there, or somebody \
             has taken it away",
            dir.display()
        )));
    }
    let code = if checked.wrong == 0 {
        exit::OK
    } else {
        exit::INTEGRITY
    };
    match tell(screen, &checked, code) {
        Err(error) if !is_closed(&error) => Err(error.into()),
        _ => Ok(code),
    }
}

fn tell(screen: &Screen, checked: &audit::Checked, code: u8) -> io::Result<()> {
    if screen.is_json() {
        screen.object(&Event::AuditChecked {
            files: checked.files,
            lines: checked.lines,
            torn: checked.torn,
            wrong: checked.wrong,
            faults: checked.faults.iter().map(told).collect(),
        })?;
        return screen.object(&Event::End { code });
    }
    for fault in &checked.faults {
        screen.result(&told(fault))?;
    }
    let torn = match checked.torn {
        0 => String::new(),
        torn => format!(", {torn} cut off by a loss of power or a full disk, and marked"),
    };
    let span = checked.span.as_ref();
    let span = span.map_or_else(String::new, |(first, last)| {
        format!(" from {} to {}", foreign(first, 32), foreign(last, 32))
    });
    screen.result(&format!(
        "{} lines in {} files{span}{torn}: {} are not as they were written",
        checked.lines, checked.files, checked.wrong
    ))
}

fn told(fault: &audit::Fault) -> String {
    let file = crate::protocol::names::printable(&fault.file.to_string_lossy());
    format!("{file}:{}: {}", fault.line, fault.what)
}
