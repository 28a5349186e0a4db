//! `send`: one broadcast now.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use super::Failure;
use super::args::{HandIn, Send, Wait};
use super::bars::Bars;
use super::screen::Screen;
use super::session::{Context, View, ask, ask_service};
use super::text::{Table, bytes, foreign, seconds, speed};
use super::view::{MAX_NAME, MAX_TEXT, MAX_TITLE, notice, transfer_line};
use crate::actors::api::{Event, Receiver, Request, exit};
use crate::actors::service::{self, Mode};
use crate::net::rendezvous::ServerError;
use crate::protocol::allowance::Share;
use crate::protocol::id::{BroadcastId, TransferId};
use crate::protocol::names::printable;

/// Sends, and shows how it goes and who has it in the end.
pub fn run(context: &Context, options: &Send) -> Result<u8, Failure> {
    let request = Request::Send {
        paths: absolute(&options.paths)?,
        to: options.everyone(),
        wait_ms: millis(options.wait),
        share: Share {
            priority: options.priority,
            rate: options.rate,
            at_most: options.at_most,
        },
    };
    begin(context, request)
}

/// Gives files back, and shows how that goes.
pub fn hand_in(context: &Context, options: &HandIn) -> Result<u8, Failure> {
    let request = Request::HandIn {
        paths: absolute(&options.paths)?,
        to: options.to.clone(),
        wait_ms: millis(options.wait),
    };
    begin(context, request)
}

fn begin(context: &Context, request: Request) -> Result<u8, Failure> {
    let mut view = Sending::new(&context.screen);
    if let Some(code) = ask_service(context, request.clone(), &mut view)? {
        return Ok(code);
    }
    // Where this process does it: nobody would be met with a token that is not there.
    if let Some(server) = service::rendezvous(&context.settings)? {
        let usage = |error: ServerError| Failure::Usage(printable(&error.to_string()));
        server.authorization().map_err(usage)?;
    }
    ask(context, Mode::Send, request, view)
}

fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|error| Failure::Usage(format!("cannot send {:?}: {error}", path.display())))
    };
    paths.iter().map(absolute).collect()
}

fn millis(Wait(wait): Wait) -> Option<u64> {
    wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

/// How a broadcast goes.
pub struct Sending {
    screen: Screen,
    bars: Bars,
    words: HashMap<TransferId, &'static str>,
    through_service: bool,
    broadcast: Option<BroadcastId>,
}

impl Sending {
    /// Nothing has happened yet.
    pub fn new(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            bars: Bars::new(screen, true),
            words: HashMap::new(),
            through_service: false,
            broadcast: None,
        }
    }

    /// Takes the bars away.
    pub fn clear(&mut self) {
        self.bars.clear();
    }
}

impl View for Sending {
    fn through_service(&mut self) {
        self.through_service = true;
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Broadcast {
                broadcast,
                name,
                size,
                files,
                skipped,
            } => {
                self.broadcast = Some(*broadcast);
                let files = match files {
                    1 => "1 file".to_owned(),
                    files => format!("{files} files"),
                };
                let name = foreign(name, MAX_TITLE);
                self.screen
                    .note(&format!("{name}: {} in {files}", bytes(*size)));
                for skipped in skipped {
                    let skipped = foreign(skipped, MAX_TEXT);
                    self.screen.note(&format!("left out: {skipped}"));
                }
            }
            Event::Transfer(info) => {
                self.bars.transfer(info);
                let word = info.state.word();
                let before = self.words.insert(info.transfer, word);
                if before != Some(word) && !self.screen.has_bars() {
                    self.screen.note(&transfer_line(info));
                }
            }
            Event::Progress {
                transfer, bytes, ..
            } => {
                self.bars.progress(*transfer, *bytes);
            }
            Event::Summary {
                size, receivers, ..
            } => {
                self.bars.clear();
                for line in table(*size, receivers).lines() {
                    self.screen.result(&line)?;
                }
            }
            Event::End { code } => {
                self.bars.clear();
                if *code == exit::INTERRUPTED {
                    self.screen.note(&match self.broadcast {
                        Some(id) if self.through_service => format!(
                            "the service goes on with it; to stop it, run: handout cancel {}",
                            &id.to_string()[..8]
                        ),
                        _ => "interrupted; sending the same again goes on where this has ended"
                            .to_owned(),
                    });
                }
            }
            other => {
                if let Some(line) = notice(other) {
                    self.screen.note(&line);
                }
            }
        }
        Ok(())
    }
}

/// Who has it, who not and why. Those without it come last.
fn table(size: u64, receivers: &[Receiver]) -> Table {
    let header = ["RECEIVER", "DEVICE", "", "BYTES", "TIME", "SPEED", "NOTE"];
    let mut table = Table::new(&header, &[3, 4, 5]);
    let mut receivers: Vec<&Receiver> = receivers.iter().collect();
    receivers.sort_by_key(|receiver| receiver.state != "complete");
    for receiver in receivers {
        let complete = receiver.state == "complete";
        let took = receiver.seconds.filter(|_| complete && !receiver.already);
        let mut notes = Vec::new();
        if receiver.already {
            notes.push("already had it".to_owned());
        }
        if !receiver.verified {
            notes.push("unverified".to_owned());
        }
        if !complete && let Some(reason) = &receiver.reason {
            notes.push(foreign(reason, MAX_TEXT));
        }
        let share = if complete || receiver.bytes == 0 {
            bytes(receiver.bytes)
        } else {
            format!("{} of {}", bytes(receiver.bytes), bytes(size))
        };
        table.row([
            foreign(&receiver.name, MAX_NAME),
            receiver.device_id.short().to_owned(),
            if complete {
                "has it".to_owned()
            } else {
                foreign(&receiver.state, MAX_NAME)
            },
            share,
            took.map(seconds).unwrap_or_default(),
            took.map(|took| speed(receiver.sent, took))
                .unwrap_or_default(),
            notes.join("; "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::DeviceId;
    use crate::protocol::message::Code;

    #[test]
    fn the_table_at_the_end_says_who_has_it_and_who_not_and_why() {
        let has = Receiver {
            device_id: DeviceId::of_key(&[1; 32]),
            name: "alpha".to_owned(),
            state: "complete".to_owned(),
            code: None,
            reason: None,
            bytes: 200_000_000,
            sent: 200_000_000,
            seconds: Some(2.0),
            already: false,
            verified: true,
        };
        let had = Receiver {
            name: "beta".to_owned(),
            already: true,
            sent: 0,
            verified: false,
            ..has.clone()
        };
        let not = Receiver {
            name: "gamma\u{1b}".to_owned(),
            state: "failed".to_owned(),
            code: Some(Code::DiskFull),
            reason: Some("no room".to_owned()),
            bytes: 100_000_000,
            seconds: None,
            ..has.clone()
        };
        let lines = table(200_000_000, &[not, has, had]).lines();
        assert!(lines[1].starts_with("alpha") && lines[1].contains("has it"));
        assert!(lines[1].contains("2.0 s") && lines[1].ends_with("100 MB/s"));
        assert!(lines[2].ends_with("already had it; unverified") && !lines[2].contains("MB/s"));
        assert!(lines[3].starts_with("gamma\\u{1b}") && lines[3].ends_with("no room"));
        assert!(lines[3].contains("failed") && lines[3].contains("95.4 MiB of 190.7 MiB"));
    }
}
