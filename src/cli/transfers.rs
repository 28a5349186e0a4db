//! `transfers`: what is going on, and what was.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use super::Failure;
use super::bars::Bars;
use super::screen::Screen;
use super::session::{Context, View, ask, client_runtime, follow};
use super::text::{Table, bytes, foreign, percent};
use super::view::{MAX_NAME, MAX_TEXT, MAX_TITLE, Plain, reason, state};
use crate::actors::api::{Event, Request, TransferInfo, exit};
use crate::actors::control::Client;
use crate::actors::service::Mode;
use crate::protocol::id::TransferId;
use crate::protocol::transfer::Direction;

/// Lists transfers; with `watch`, goes on telling what the running service does.
pub fn run(context: &Context, watch: bool) -> Result<u8, Failure> {
    let screen = &context.screen;
    if !watch {
        return ask(
            context,
            Mode::Offline,
            Request::Transfers,
            List::new(screen),
        );
    }
    let state = context.settings.state.dir.clone();
    let watched = client_runtime()?.block_on(async {
        // Watching begins first, so that nothing is missed in between.
        let happening = Client::connect(&state).await?.ask(Request::Watch);
        let known = Client::connect(&state).await?.ask(Request::Transfers);
        let mut list = List::new(screen);
        list.more_follows = true;
        let code = follow(known, &mut list, screen, exit::INTERRUPTED).await;
        if code != exit::OK {
            return Some(code);
        }
        let mut ticker = Ticker::new(screen);
        list.transfers.iter().for_each(|info| ticker.name(info));
        Some(follow(happening, &mut ticker, screen, exit::OK).await)
    });
    match watched {
        Some(code) => Ok(code),
        None => {
            screen.note("no service runs here, so there is nothing to watch: this is the record");
            ask(
                context,
                Mode::Offline,
                Request::Transfers,
                List::new(screen),
            )
        }
    }
}

/// Collects transfers into a table.
struct List {
    screen: Screen,
    transfers: Vec<TransferInfo>,
    more_follows: bool,
}

impl List {
    fn new(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            transfers: Vec::new(),
            more_follows: false,
        }
    }
}

impl View for List {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Transfer(info) => self.transfers.push(info.clone()),
            Event::End { code: exit::OK } if self.transfers.is_empty() && !self.more_follows => {
                self.screen.note("there are no transfers");
            }
            Event::End { .. } if !self.transfers.is_empty() => {
                for line in table(&self.transfers).lines() {
                    self.screen.result(&line)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn table(transfers: &[TransferInfo]) -> Table {
    let header = ["ID", "WHAT", "SIZE", "", "DEVICE", "STATE", "WHY"];
    let mut table = Table::new(&header, &[2]);
    for info in transfers {
        let arrow = match info.direction {
            Direction::Outgoing => "to",
            Direction::Incoming => "from",
        };
        table.row([
            info.transfer.to_string()[..8].to_owned(),
            foreign(&info.name, MAX_TITLE),
            bytes(info.size),
            arrow.to_owned(),
            foreign(&info.device_name, MAX_NAME),
            state(info),
            why(info).unwrap_or_default(),
        ]);
    }
    table
}

/// Why it stands where it does, or what it waits for.
fn why(info: &TransferInfo) -> Option<String> {
    let waits = info.waits.as_deref();
    reason(&info.state).or_else(|| waits.map(|waits| foreign(waits, MAX_TEXT)))
}

/// A line for each change, and for progress now and then.
struct Ticker {
    screen: Screen,
    plain: Plain,
    /// Where a person watches.
    bars: Bars,
    names: HashMap<TransferId, String>,
    shown: HashMap<TransferId, Instant>,
}

impl Ticker {
    const PACE: Duration = Duration::from_secs(1);

    fn new(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            plain: Plain::new(screen),
            bars: Bars::new(screen, false),
            names: HashMap::new(),
            shown: HashMap::new(),
        }
    }

    /// Remembers what a transfer is called until it is over.
    fn name(&mut self, info: &TransferInfo) {
        if info.state.is_final() {
            self.names.remove(&info.transfer);
            self.shown.remove(&info.transfer);
        } else {
            let name = foreign(&info.name, MAX_TITLE);
            self.names.insert(info.transfer, name);
        }
    }

    /// A line about progress, where it is time for one. What is over has none any more.
    fn progress(&mut self, transfer: TransferId, bytes: u64, size: u64) -> Option<String> {
        let name = self.names.get(&transfer)?;
        let shown = self.shown.get(&transfer);
        if shown.is_some_and(|at| at.elapsed() < Self::PACE) {
            return None;
        }
        self.shown.insert(transfer, Instant::now());
        let id = &transfer.to_string()[..8];
        Some(format!("{name} ({id}): {}", percent(bytes, size)))
    }
}

impl View for Ticker {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Transfer(info) => {
                self.bars.transfer(info);
                self.name(info);
                self.plain.event(event)
            }
            Event::Progress {
                transfer, bytes, ..
            } if self.screen.has_bars() => {
                self.bars.progress(*transfer, *bytes);
                Ok(())
            }
            Event::Progress {
                transfer,
                bytes,
                size,
                ..
            } => match self.progress(*transfer, *bytes, *size) {
                Some(line) => self.screen.result(&line),
                None => Ok(()),
            },
            Event::End { .. } => {
                self.bars.clear();
                Ok(())
            }
            other => self.plain.event(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::DeviceId;
    use crate::protocol::transfer::TransferState;

    fn slides() -> TransferInfo {
        TransferInfo {
            transfer: TransferId([0xab; 16]),
            broadcast: None,
            direction: Direction::Outgoing,
            device_id: DeviceId::of_key(&[1; 32]),
            device_name: "alpha".to_owned(),
            name: "slides".to_owned(),
            bytes: 512,
            size: 1024,
            state: TransferState::Active,
            waits: None,
        }
    }

    #[test]
    fn progress_has_a_name_until_the_transfer_is_over_and_none_comes_after() {
        let mut info = slides();
        let mut ticker = Ticker::new(&Screen::new(false));
        assert_eq!(ticker.progress(info.transfer, 1, 2), None, "never heard of");
        ticker.name(&info);
        let line = ticker.progress(info.transfer, 1, 2);
        assert_eq!(line.as_deref(), Some("slides (abababab): 50 %"));
        info.state = TransferState::Complete;
        ticker.name(&info);
        assert_eq!(ticker.progress(info.transfer, 2, 2), None);
    }

    #[test]
    fn the_table_tells_what_goes_where() {
        let info = slides();
        let lines = table(&[info]).lines();
        assert_eq!(
            lines[1],
            "abababab  slides  1.0 KiB  to  alpha   active, 50 % of 1.0 KiB"
        );
    }
}
