//! `pair`: coming to know another device.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Failure;
use super::args::Pair;
use super::screen::Screen;
use super::session::{Context, Interrupts, View, client_runtime, node, show, unread};
use super::text::{foreign, seconds};
use super::view::{MAX_NAME, MAX_TEXT, notice};
use crate::actors::api::{Event, PairWay, Request, exit};
use crate::actors::control::Client;
use crate::actors::service::{Mode, Node};
use crate::config::StaticPeer;
use crate::protocol::id::DeviceId;
use crate::protocol::pairing::pin::read_pin;

/// How long a receiver waits for the device whose PIN was typed.
const FOR_PIN: Duration = Duration::from_secs(300);
/// Bytes of a line that a person types.
const MAX_LINE: u64 = 256;

/// Pairs, through the service where one runs.
pub fn run(context: &Context, options: &Pair) -> Result<u8, Failure> {
    let expected = match options.expect_code.as_deref() {
        None => None,
        Some("-") => Some(Expected::Typed),
        Some(code) => {
            Some(Expected::Given(read_pin(code).ok_or_else(|| {
                Failure::Usage("a code has six digits".to_owned())
            })?))
        }
    };
    let by_code = !options.pin && !options.show_pin;
    if by_code && expected.is_none() && !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "there is nobody to compare the codes: run this on a terminal, or give the code that \
             the other screen shows with --expect-code"
                .to_owned(),
        ));
    }
    let way = match (options.pin, options.show_pin) {
        (true, _) => PairWay::TypePin(typed_pin(&context.screen)?),
        (_, true) => PairWay::ShowPin,
        _ => PairWay::Code,
    };
    let (with, addresses) = target(options.device.as_deref())?;
    let request = Request::Pair {
        with,
        addresses,
        way,
        for_ms: u64::try_from(options.life.as_millis()).unwrap_or(u64::MAX),
    };
    if !context.screen.is_json() {
        context
            .screen
            .note(&waiting(options, &context.settings.device.name));
    }
    let state = context.settings.state.dir.clone();
    let mut pairing = Pairing {
        screen: context.screen.clone(),
        by_code,
        expected,
    };
    let served = client_runtime()?.block_on(async {
        let client = Client::connect(&state).await?;
        let events = client.ask(request.clone());
        Some(pairing.follow(events, &Asker::Service(state)).await)
    });
    if let Some(code) = served {
        return Ok(code);
    }
    node(context, Mode::Send, |node| async move {
        let events = node.ask(request);
        pairing.follow(events, &Asker::Node(Box::new(node))).await
    })
}

/// What has a device come in by the PIN that another one shows.
pub(super) fn by_pin(context: &Context, device: &str) -> Result<Request, Failure> {
    let (with, addresses) = target(Some(device))?;
    let way = PairWay::TypePin(typed_pin(&context.screen)?);
    Ok(Request::Pair {
        with,
        addresses,
        way,
        for_ms: FOR_PIN.as_millis() as u64,
    })
}

/// What the other screen shows.
enum Expected {
    Given(String),
    /// On stdin.
    Typed,
}

/// Who is asked.
enum Asker {
    Node(Box<Node>),
    Service(PathBuf),
}

impl Asker {
    async fn ask(&self, request: Request) -> Option<mpsc::Receiver<Event>> {
        match self {
            Self::Node(node) => Some(node.ask(request)),
            Self::Service(state) => Some(Client::connect(state).await?.ask(request)),
        }
    }
}

/// A pairing, as a person sees it.
struct Pairing {
    screen: Screen,
    by_code: bool,
    expected: Option<Expected>,
}

impl Pairing {
    /// Shows what happens, and has the person compare codes.
    async fn follow(&mut self, mut events: mpsc::Receiver<Event>, asker: &Asker) -> u8 {
        let screen = self.screen.clone();
        let mut interrupts = match Interrupts::new() {
            Ok(interrupts) => interrupts,
            Err(error) => {
                screen.error(&format!("cannot listen for Ctrl-C: {error}"));
                return exit::ERROR;
            }
        };
        let given = matches!(self.expected, Some(Expected::Given(_)));
        let mut lines = (self.by_code && !given).then(stdin_lines);
        // The device whose code is to be compared, and that code.
        let mut question: Option<(DeviceId, String)> = None;
        loop {
            let (event, line) = tokio::select! {
                biased;
                () = interrupts.next() => (Some(Event::End { code: exit::INTERRUPTED }), None),
                event = events.recv() => (event, None),
                line = next_line(&mut lines) => (None, Some(line)),
            };
            if let Some(line) = line {
                if line.is_none() {
                    lines = None;
                }
                let Some((device, code)) = question.take() else {
                    // A code may be typed before ours is here; a yes to no question is none.
                    if self.expected.is_some() {
                        let code = line.as_deref().and_then(read_pin).unwrap_or_default();
                        self.expected = Some(Expected::Given(code));
                    }
                    continue;
                };
                let yes = line.is_some_and(|line| self.is_yes(&line, &code));
                if !self.answer(asker, device, yes).await {
                    return exit::ERROR;
                }
                continue;
            }
            let event = event.unwrap_or(Event::End { code: exit::ERROR });
            if let Err(error) = show(self, &screen, &event) {
                return unread(&error, &screen, exit::INTERRUPTED);
            }
            match event {
                Event::End { code } => return code,
                Event::PairCode {
                    device_id, code, ..
                } => match &self.expected {
                    Some(Expected::Given(given)) => {
                        let yes = *given == code;
                        if !self.answer(asker, device_id, yes).await {
                            return exit::ERROR;
                        }
                    }
                    _ => question = Some((device_id, code)),
                },
                _ => {}
            }
        }
    }

    fn is_yes(&self, line: &str, code: &str) -> bool {
        match self.expected {
            Some(_) => read_pin(line).as_deref() == Some(code),
            None => matches!(line.trim(), "y" | "Y" | "yes" | "Yes"),
        }
    }

    /// False when nobody was there to hear it.
    async fn answer(&self, asker: &Asker, device: DeviceId, yes: bool) -> bool {
        let Some(mut said) = asker.ask(Request::PairAnswer { device, yes }).await else {
            self.screen.error("the service has ended");
            return false;
        };
        while let Some(event) = said.recv().await {
            if let Event::Error { message } = event {
                self.screen.note(&foreign(&message, 400));
            }
        }
        true
    }
}

impl View for Pairing {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::PairPin { pin, seconds: life } => {
                self.screen
                    .result(&format!("{} {}", &pin[..3], &pin[3..]))?;
                self.screen.note(&format!(
                    "type this PIN on the other device within {}",
                    seconds(*life as f64)
                ));
            }
            Event::PairCode {
                device_id,
                name,
                code,
            } => {
                let name = foreign(name, MAX_NAME);
                self.screen.note(&format!("{name} ({device_id})"));
                self.screen
                    .result(&format!("{} {}", &code[..3], &code[3..]))?;
                if self.expected.is_none() {
                    let question = "does the other screen show the same code? [y/N]";
                    self.screen.note(question);
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

/// What is being waited for, and what somebody has to do at the other device.
fn waiting(options: &Pair, name: &str) -> String {
    let name = match foreign(name, MAX_NAME * 2) {
        name if name.contains(' ') => format!("{name:?}"),
        name => name,
    };
    let (other, there) = match (&options.device, options.pin, options.show_pin) {
        (Some(other), true, _) => (
            foreign(other, MAX_TEXT),
            "handout pair --show-pin".to_owned(),
        ),
        (Some(other), ..) => (foreign(other, MAX_TEXT), "handout pair".to_owned()),
        (None, _, true) => ("a device".to_owned(), format!("handout pair {name} --pin")),
        (None, ..) => ("a device".to_owned(), format!("handout pair {name}")),
    };
    format!("waiting for {other}; there, run: {there} (Ctrl-C ends it)")
}

/// `ID@HOST:PORT`, or a word.
fn target(text: Option<&str>) -> Result<(Option<String>, Vec<std::net::SocketAddr>), Failure> {
    let Some(text) = text else {
        return Ok((None, Vec::new()));
    };
    if !text.contains('@') {
        return Ok((Some(text.to_owned()), Vec::new()));
    }
    let id = text.split('@').next().unwrap_or_default();
    if !id.parse().is_ok_and(|id: DeviceId| id.is_self_certifying()) {
        return Err(Failure::Usage(format!(
            "{text:?} is not ID@HOST:PORT: `handout id` on that device prints its id"
        )));
    }
    let peer: StaticPeer = text
        .parse()
        .map_err(|()| Failure::Usage(format!("{text:?} is not ID@HOST:PORT")))?;
    let found = (peer.host.as_str(), peer.port).to_socket_addrs();
    let found = found.map_err(|error| Failure::Usage(format!("{text:?}: {error}")))?;
    Ok((Some(peer.id.to_string()), found.take(8).collect()))
}

/// The PIN that the other device shows.
fn typed_pin(screen: &Screen) -> Result<String, Failure> {
    let typed = match std::env::var("HANDOUT_PIN") {
        Ok(typed) => typed,
        Err(_) => {
            if io::stdin().is_terminal() {
                screen.aside(|| write!(io::stderr(), "PIN: "))?;
            }
            let mut line = String::new();
            io::stdin().lock().take(MAX_LINE).read_line(&mut line)?;
            line
        }
    };
    read_pin(&typed).ok_or_else(|| Failure::Usage("a PIN has six digits".to_owned()))
}

/// The lines of stdin. The thread is left behind at the end: it cannot be woken.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (lines, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut line = String::new();
            let read = io::stdin().lock().take(MAX_LINE).read_line(&mut line);
            if !matches!(read, Ok(1..)) || lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next line; nothing at the end of stdin.
async fn next_line(lines: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}
