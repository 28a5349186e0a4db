//! `receive`, and what `run` shows: bundles that arrive.

use std::collections::HashMap;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Failure;
use super::args::{Receive, path_text};
use super::bars::Bars;
use super::pair::by_pin;
use super::prompt;
use super::provide;
use super::reload;
use super::screen::Screen;
use super::session::{Context, Interrupts, View, ask_service, follow_until, node, show, unread};
use super::text::{bytes, duration, foreign, speed};
use super::view::{
    MAX_NAME, MAX_TEXT, MAX_TITLE, Plain, exit_code, notice, settings_lines, transfer_line,
};
use crate::actors::api::{Event, Request, TransferInfo, exit};
use crate::actors::service::Mode;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::names::printable;
use crate::protocol::transfer::{Direction, TransferState};
use crate::web;

/// Bytes of an invite that is read from a file or stdin.
const MAX_INVITE: u64 = 4096;
/// How often it is said that the same device is not authorized.
const REMIND: Duration = Duration::from_secs(60);
/// Devices for which that is remembered.
const MAX_STRANGERS: usize = 256;

/// What the options change in the settings. Whoever says `receive` means it.
pub fn overrides(options: &Receive) -> Result<Vec<(String, String)>, String> {
    let mut overrides = vec![("receive.enabled".to_owned(), "true".to_owned())];
    if let Some(to) = &options.to {
        overrides.push(("receive.destination".to_owned(), path_text("--to", to)?));
    }
    if options.ask {
        overrides.push(("receive.mode".to_owned(), "ask".to_owned()));
    }
    if !options.types.is_empty() {
        overrides.push(("receive.types".to_owned(), options.types.join(",")));
    }
    if let Some(most) = options.max_size {
        overrides.push(("receive.max_bundle".to_owned(), most.to_string()));
    }
    Ok(overrides)
}

/// Receives until stopped, or until the first transfer is over.
pub fn run(context: &Context, options: &Receive) -> Result<u8, Failure> {
    let comes_in = match (&options.invite, &options.pin) {
        (Some(invite), _) => Some(Request::Join {
            invite: given(invite)?,
        }),
        (None, Some(device)) => Some(by_pin(context, device)?),
        (None, None) => None,
    };
    if let Some(request) = &comes_in {
        let mut view = Plain::new(&context.screen);
        if let Some(code) = ask_service(context, request.clone(), &mut view)? {
            return Ok(code);
        }
    }
    serve(context, Mode::Receive, options.once, comes_in)
}

/// An invite as it was given: itself, or where to read it.
fn given(invite: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match invite.strip_prefix('@') {
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(MAX_INVITE).read_to_string(&mut text)),
        None if invite == "-" => io::stdin().take(MAX_INVITE).read_to_string(&mut text),
        None => return Ok(invite.to_owned()),
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::Usage(format!(
            "cannot read the invite from {invite}: {error}"
        ))),
    }
}

/// Runs a node and shows what happens. `comes_in` is how it is to be let in by another device
/// first.
pub fn serve(
    context: &Context,
    mode: Mode,
    once: bool,
    comes_in: Option<Request>,
) -> Result<u8, Failure> {
    let screen = context.screen.clone();
    let (api, settings) = (context.settings.api.clone(), context.settings.clone());
    node(context, mode, move |node| async move {
        let interrupts = match mode {
            Mode::Run => reload::follow(&node).and_then(|()| Interrupts::of_service()),
            _ => Interrupts::new(),
        };
        let interrupts = match interrupts {
            Ok(interrupts) => interrupts,
            Err(error) => {
                screen.error(&format!("cannot listen for signals: {error}"));
                return exit::ERROR;
            }
        };
        // A service has nobody at its keyboard, whatever stdin is.
        let asks = mode == Mode::Receive && prompt::start(&node, &screen);
        let mut view = Arrivals::new(&screen, once);
        view.asks = asks;
        // Watching begins before anybody is told that we are here, so that nothing is missed.
        let events = node.ask(Request::Watch);
        if let Err(error) = show(&mut view, &screen, &node.listening()) {
            return unread(&error, &screen, exit::OK);
        }
        let served = match mode {
            Mode::Run => web::start(node.clone(), &api),
            _ => Ok(None),
        };
        let served = match served {
            Ok(served) => served,
            Err(error) => {
                screen.error(&error.to_string());
                return exit::ERROR;
            }
        };
        if let Some(served) = &served {
            let event = Event::Serving {
                url: served.url.clone(),
                token_file: served.token_file.clone(),
            };
            if let Err(error) = show(&mut view, &screen, &event) {
                return unread(&error, &screen, exit::OK);
            }
        }
        if mode == Mode::Run && !settings.providers.is_empty() && settings.rendezvous.url.is_some()
        {
            provide::beside(&node, settings);
        }
        let events = match comes_in {
            Some(request) => joining(events, node.ask(request)),
            None => events,
        };
        let code = follow_until(interrupts, events, &mut view, &screen, exit::OK).await;
        if let Some(served) = served {
            served.stop().await;
        }
        code
    })
}

/// What happens, until coming in fails.
fn joining(
    mut watched: mpsc::Receiver<Event>,
    mut joined: mpsc::Receiver<Event>,
) -> mpsc::Receiver<Event> {
    let (both, events) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut joins = true;
        loop {
            let event = tokio::select! {
                biased;
                event = joined.recv(), if joins => match event {
                    Some(event @ (Event::Error { .. } | Event::Note { .. })) => Some(event),
                    Some(Event::End { code }) if code != exit::OK => Some(Event::End { code }),
                    // The rest is among what is watched.
                    Some(Event::End { .. }) | None => {
                        joins = false;
                        continue;
                    }
                    Some(_) => continue,
                },
                event = watched.recv() => event,
            };
            let Some(event) = event else { return };
            if both.send(event).await.is_err() {
                return;
            }
        }
    });
    events
}

/// What arrives.
struct Arrivals {
    screen: Screen,
    /// Questions are put to the person at the terminal.
    asks: bool,
    bars: Bars,
    once: bool,
    finished: Option<u8>,
    /// Transfers that are not over.
    open: HashMap<TransferId, Open>,
    /// When it was last said that a device is not authorized: it tries again every second.
    strangers: HashMap<DeviceId, Instant>,
    /// What was last said of the link to a device: tries go on, and end the same way.
    links: HashMap<DeviceId, String>,
}

struct Open {
    info: TransferInfo,
    begun: Instant,
    /// Bytes that were here before.
    had: u64,
}

impl Arrivals {
    fn new(screen: &Screen, once: bool) -> Self {
        Self {
            screen: screen.clone(),
            asks: false,
            bars: Bars::new(screen, false),
            once,
            finished: None,
            open: HashMap::new(),
            strangers: HashMap::new(),
            links: HashMap::new(),
        }
    }

    fn on_transfer(&mut self, info: &TransferInfo) {
        let id = info.transfer;
        let incoming = info.direction == Direction::Incoming;
        let known = self.open.get(&id).map(|open| open.info.state.word());
        self.bars.transfer(info);
        match &info.state {
            // The line about what has arrived follows, with its place.
            TransferState::Complete if incoming => return,
            state if state.is_final() => {
                self.open.remove(&id);
                // An offer that was refused at once was no transfer.
                if incoming && self.once && known.is_some() {
                    self.finished = exit_code(state);
                }
            }
            TransferState::Active if known == Some("active") => return,
            _ => {
                let active = matches!(info.state, TransferState::Active);
                let open = self.open.entry(id).or_insert_with(|| Open {
                    info: info.clone(),
                    begun: Instant::now(),
                    had: info.bytes,
                });
                if active {
                    (open.begun, open.had) = (Instant::now(), info.bytes);
                }
                open.info = info.clone();
            }
        }
        let quiet = matches!(info.state, TransferState::Pending | TransferState::Offered);
        if !quiet && known != Some(info.state.word()) {
            self.screen.note(&transfer_line(info));
        }
    }

    /// True when it is time to say so, again.
    fn is_news(&mut self, stranger: &DeviceId) -> bool {
        let said = self.strangers.get(stranger);
        if said.is_some_and(|at| at.elapsed() < REMIND) {
            return false;
        }
        // Strangers make up as many ids as they like.
        if self.strangers.len() >= MAX_STRANGERS {
            self.strangers.clear();
        }
        self.strangers.insert(stranger.clone(), Instant::now());
        true
    }

    /// Says something about the link to a device, unless that was the last thing said of it:
    /// then false.
    fn on_link(&mut self, device: &DeviceId, line: String) -> bool {
        if self.links.get(device) == Some(&line) {
            return false;
        }
        if self.links.len() >= MAX_STRANGERS {
            self.links.clear();
        }
        self.screen.note(&foreign(&line, 2 * MAX_TEXT));
        self.links.insert(device.clone(), line);
        true
    }

    fn on_received(&mut self, event: &Event) -> io::Result<()> {
        let Event::Received {
            transfer,
            device_id,
            path,
            bytes: size,
            ..
        } = event
        else {
            return Ok(());
        };
        let open = self.open.remove(transfer);
        if self.once {
            self.finished = Some(exit::OK);
        }
        if self.screen.is_json() {
            return Ok(());
        }
        let path = printable(&path.to_string_lossy());
        let from = open
            .as_ref()
            .map_or(device_id.short(), |open| &open.info.device_name);
        let mut line = format!("{path}  {} from {}", bytes(*size), foreign(from, MAX_NAME));
        if let Some(open) = &open {
            let took = open.begun.elapsed();
            let speed = speed(size.saturating_sub(open.had), took.as_secs_f64());
            line.push_str(&format!(", {}, {speed}", duration(took)));
        }
        self.screen.result(&line)
    }
}

impl View for Arrivals {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Listening {
                device_id,
                name,
                port,
                destination,
            } => {
                let name = foreign(name, MAX_NAME);
                self.screen
                    .note(&format!("{name} ({device_id}), port {port}"));
                self.screen.note(&match destination {
                    Some(path) => {
                        let path = printable(&path.to_string_lossy());
                        format!("receiving into {path}; Ctrl-C ends it")
                    }
                    None => "not receiving; Ctrl-C ends it".to_owned(),
                });
            }
            Event::Transfer(info) => self.on_transfer(info),
            Event::Progress {
                transfer, bytes, ..
            } => {
                self.bars.progress(*transfer, *bytes);
            }
            Event::Received { .. } => return self.on_received(event),
            Event::Summary {
                name, receivers, ..
            } => {
                let have = receivers.iter().filter(|r| r.state == "complete").count();
                let name = foreign(name, MAX_TITLE);
                let all = receivers.len();
                self.screen
                    .note(&format!("{name}: {have} of {all} have it"));
            }
            Event::Peer(peer) if peer.connected => {
                let unverified = if peer.verified { "" } else { ", unverified" };
                let name = foreign(&peer.name, MAX_NAME);
                let id = peer.device_id.short();
                let line = format!("connected: {name} ({id}{unverified})");
                self.on_link(&peer.device_id, line);
            }
            Event::Asked { .. } if self.asks => {}
            Event::Reloaded { .. } | Event::NotReloaded { .. } => {
                let lines = settings_lines(event);
                lines.iter().for_each(|line| self.screen.note(line));
            }
            Event::Unauthorized { device_id, .. } if !self.is_news(device_id) => {}
            Event::End { .. } => self.bars.clear(),
            Event::NotConnected { device_id, .. } => {
                if let Some(line) = notice(event) {
                    self.on_link(device_id, line);
                }
            }
            other => {
                if let Some(line) = notice(other) {
                    self.screen.note(&foreign(&line, 2 * MAX_TEXT));
                }
            }
        }
        Ok(())
    }

    fn finished(&self) -> Option<u8> {
        self.finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Code;

    fn incoming(state: TransferState) -> Event {
        Event::Transfer(TransferInfo {
            transfer: TransferId([1; 16]),
            broadcast: None,
            direction: Direction::Incoming,
            device_id: DeviceId::of_key(&[1; 32]),
            device_name: "alpha".to_owned(),
            name: "slides".to_owned(),
            bytes: 0,
            size: 10,
            state,
            waits: None,
        })
    }

    fn code_of(events: &[Event]) -> Option<u8> {
        let mut view = Arrivals::new(&Screen::new(true), true);
        for event in events {
            view.event(event).unwrap();
        }
        view.finished()
    }

    #[test]
    fn a_device_that_knocks_again_and_again_is_reported_once_in_a_while() {
        let mut view = Arrivals::new(&Screen::new(true), false);
        let device = |n: u32| format!("device-{n}").parse::<DeviceId>().unwrap();
        assert!(view.is_news(&device(0)));
        assert!(!view.is_news(&device(0)));
        for n in 1..1000 {
            assert!(view.is_news(&device(n)));
        }
        assert!(view.strangers.len() <= MAX_STRANGERS);
    }

    #[test]
    fn a_link_that_stays_as_it_is_is_told_of_once() {
        let mut view = Arrivals::new(&Screen::new(false), false);
        let device = |n: u32| format!("device-{n}").parse::<DeviceId>().unwrap();
        let mut say = |n, line: &str| view.on_link(&device(n), line.to_owned());
        assert!(say(0, "lost") && !say(0, "lost"));
        assert!(say(0, "connected") && say(0, "lost"));
        assert!((1..1000).all(|n| say(n, "lost")));
        assert!(view.links.len() <= MAX_STRANGERS);
    }

    #[test]
    fn once_ends_with_the_first_incoming_transfer_and_says_how_it_went() {
        let failed = |code| TransferState::Failed {
            code,
            reason: "because".to_owned(),
        };
        let active = incoming(TransferState::Active);
        assert_eq!(code_of(std::slice::from_ref(&active)), None);
        // What was never taken is no transfer.
        assert_eq!(code_of(&[incoming(failed(Code::Declined))]), None);
        let broken = incoming(failed(Code::Integrity));
        assert_eq!(code_of(&[active.clone(), broken]), Some(6));
        assert_eq!(
            code_of(&[active.clone(), incoming(failed(Code::DiskFull))]),
            Some(7)
        );
        // Complete is not the end yet: where it went is told after that.
        let complete = incoming(TransferState::Complete);
        assert_eq!(code_of(&[active.clone(), complete.clone()]), None);
        let received = Event::Received {
            transfer: TransferId([1; 16]),
            device_id: DeviceId::of_key(&[1; 32]),
            path: "/x/slides".into(),
            bytes: 10,
            root: String::new(),
        };
        assert_eq!(code_of(&[active, complete, received]), Some(0));
    }
}
