//! `versions`, `rollback`: what is kept of things that are handed out again and again.

use std::io;

use super::Failure;
use super::screen::Screen;
use super::session::{Context, View, ask};
use super::text::{Table, bytes, foreign};
use super::view::MAX_NAME;
use crate::actors::api::{Event, Request, VersionInfo, exit};
use crate::actors::service::Mode;

/// Lists all versions that are here.
pub fn list(context: &Context) -> Result<u8, Failure> {
    let view = Versions {
        screen: context.screen.clone(),
        found: Vec::new(),
        went_back: false,
    };
    ask(context, Mode::Offline, Request::Versions, view)
}

/// Puts an earlier version in the place of the one that is there.
pub fn roll_back(context: &Context, what: String, to: Option<u64>) -> Result<u8, Failure> {
    let view = Versions {
        screen: context.screen.clone(),
        found: Vec::new(),
        went_back: true,
    };
    ask(context, Mode::Offline, Request::RollBack { what, to }, view)
}

/// Most of a path that is shown, in columns.
const MAX_PATH: usize = 200;

struct Versions {
    screen: Screen,
    found: Vec<VersionInfo>,
    went_back: bool,
}

impl View for Versions {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Version(info) if self.went_back => {
                let path = foreign(&info.path.to_string_lossy(), MAX_PATH);
                let said = format!("{} is at {path}", info.series);
                self.screen.result(&said)?;
            }
            Event::Version(info) => self.found.push(info.clone()),
            Event::End { code: exit::OK } if self.found.is_empty() && !self.went_back => {
                self.screen.note("nothing that has versions was received");
            }
            Event::End { .. } if !self.found.is_empty() => {
                for line in table(&self.found).lines() {
                    self.screen.result(&line)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn table(found: &[VersionInfo]) -> Table {
    let header = ["NAME", "VERSION", "SIZE", "FROM", "STATE", "PATH"];
    let mut table = Table::new(&header, &[1, 2]);
    for info in found {
        let state = match (info.current, info.changed, info.rolled_back) {
            (true, false, _) => "in its place",
            (true, true, _) => "changed here since, or gone",
            (false, true, _) => "kept, but damaged",
            (false, false, true) => "kept, gone back from",
            (false, false, false) => "kept",
        };
        table.row([
            foreign(info.series.name.as_str(), MAX_NAME),
            info.series.version.to_string(),
            bytes(info.size),
            foreign(&info.device_name, MAX_NAME),
            state.to_owned(),
            foreign(&info.path.to_string_lossy(), MAX_PATH),
        ]);
    }
    table
}
