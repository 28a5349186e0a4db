//! `report`: which seats still miss a broadcast, and why.

use std::io;

use super::Failure;
use super::args::Report as Options;
use super::screen::Screen;
use super::session::{Context, View, ask};
use super::text::{Table, bytes, foreign};
use super::view::{MAX_NAME, MAX_TEXT, MAX_TITLE};
use crate::actors::api::{Event, Request, exit};
use crate::actors::report::{BroadcastInfo, Report, date};
use crate::actors::service::Mode;

/// Shows what became of a broadcast, or lists all.
pub fn run(context: &Context, options: Options) -> Result<u8, Failure> {
    let view = Shown {
        screen: context.screen.clone(),
        csv: options.csv,
        lists: options.what.is_none(),
        broadcasts: Vec::new(),
    };
    let request = match options.what {
        Some(what) => Request::Report {
            what,
            version: options.version,
        },
        None => Request::Broadcasts,
    };
    ask(context, Mode::Offline, request, view)
}

struct Shown {
    screen: Screen,
    csv: bool,
    /// All broadcasts are listed.
    lists: bool,
    broadcasts: Vec<BroadcastInfo>,
}

impl View for Shown {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::BroadcastInfo(info) => self.broadcasts.push(info.clone()),
            Event::Report(report) if self.csv => {
                return self.screen.result(report.csv().trim_end());
            }
            Event::Report(report) => {
                for line in lines(report) {
                    self.screen.result(&line)?;
                }
            }
            Event::End { code: exit::OK } if self.lists && self.broadcasts.is_empty() => {
                self.screen.note("there are no broadcasts");
            }
            Event::End { .. } if self.lists => {
                for line in list(&self.broadcasts).lines() {
                    self.screen.result(&line)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn list(broadcasts: &[BroadcastInfo]) -> Table {
    let mut table = Table::new(&["ID", "WHAT", "SERIES", "SIZE", "MADE", "HAVE IT"], &[3]);
    for info in broadcasts {
        table.row([
            info.broadcast
                .map_or_else(String::new, |id| id.to_string()[..8].to_owned()),
            foreign(&info.name, MAX_TITLE),
            info.series
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            bytes(info.size),
            date(info.created),
            format!("{} of {}", info.have, info.devices),
        ]);
    }
    table
}

/// Whoever misses it first: that is what is asked for.
fn lines(report: &Report) -> Vec<String> {
    let of = &report.broadcast;
    let all = report.seats.len();
    let series = of
        .series
        .as_ref()
        .map_or_else(String::new, |series| format!(" ({series})"));
    let name = foreign(&of.name, MAX_TITLE);
    let mut lines = vec![match &report.waits {
        Some(waits) => format!(
            "{name}: nothing has been handed out yet: {}",
            foreign(waits, MAX_TEXT)
        ),
        None => format!(
            "{name}{series}, {}, made {}: {} of {all} have it",
            bytes(of.size),
            date(of.created),
            all - report.missing.min(all),
        ),
    }];
    if all == 0 {
        return lines;
    }
    let mut table = Table::new(&["DEVICE", "GROUPS", "STATE", "HAS", "WHEN", "WHY"], &[3]);
    let (has, misses): (Vec<_>, Vec<_>) = report.seats.iter().partition(|seat| seat.has_it);
    for seat in misses.into_iter().chain(has) {
        table.row([
            foreign(&seat.name, MAX_NAME),
            foreign(&seat.groups.join(", "), MAX_NAME),
            foreign(&seat.state, MAX_NAME),
            bytes(seat.bytes),
            seat.updated.map_or_else(String::new, date),
            foreign(seat.reason.as_deref().unwrap_or_default(), MAX_TEXT),
        ]);
    }
    lines.extend(table.lines());
    lines
}
