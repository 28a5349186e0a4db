//! Where requests go: to the service that runs on the state folder, else to a node in this process.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Failure;
use super::screen::Screen;
use crate::actors::api::{Event, Request, exit};
use crate::actors::control::Client;
use crate::actors::service::{self, Mode, Node};
use crate::config::Settings;
use crate::store::Store;

/// What an answer may take to end after its reader has gone away.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What every verb gets.
#[derive(Debug, Clone)]
pub struct Context {
    /// The settings, checked.
    pub settings: Settings,
    /// Where output goes.
    pub screen: Screen,
    /// The verb may begin a state folder where there is none.
    pub may_begin: bool,
}

impl Context {
    /// An error where there is no state folder and this verb must not make one.
    pub fn needs_state(&self) -> Result<(), Failure> {
        let dir = &self.settings.state.dir;
        match self.may_begin || Store::is_at(dir) {
            true => Ok(()),
            false => Err(Failure::NoState(dir.clone())),
        }
    }
}

/// What a verb makes of the events of an answer, for people.
pub trait View {
    /// Shows an event. An error when nobody reads the output any more.
    fn event(&mut self, event: &Event) -> io::Result<()>;

    /// The answer comes from a service that was there before and stays.
    fn through_service(&mut self) {}

    /// The code to end with now, when there is no need to hear more.
    fn finished(&self) -> Option<u8> {
        None
    }
}

/// Sends a request to whoever has the state folder, shows the answer, and returns the exit code.
/// Where no service runs, this process is one, in `mode`, for as long as that takes.
pub fn ask<V: View + 'static>(
    context: &Context,
    mode: Mode,
    request: Request,
    mut view: V,
) -> Result<u8, Failure> {
    if let Some(code) = ask_service(context, request.clone(), &mut view)? {
        return Ok(code);
    }
    let screen = context.screen.clone();
    node(context, mode, |node| async move {
        follow(node.ask(request), &mut view, &screen, exit::INTERRUPTED).await
    })
}

/// Asks the service that runs on the state folder; nothing when none does.
pub fn ask_service(
    context: &Context,
    request: Request,
    view: &mut impl View,
) -> Result<Option<u8>, Failure> {
    let (screen, state) = (&context.screen, &context.settings.state.dir);
    Ok(client_runtime()?.block_on(async {
        let client = Client::connect(state).await?;
        view.through_service();
        let events = client.ask(request);
        Some(follow(events, view, screen, exit::INTERRUPTED).await)
    }))
}

/// Runs a node in this process until `work` is done. An error when the state folder is in use, or
/// missing where it must not be made.
pub fn node<W, F>(context: &Context, mode: Mode, work: W) -> Result<u8, Failure>
where
    W: FnOnce(Node) -> F + 'static,
    F: Future<Output = u8> + 'static,
{
    context.needs_state()?;
    Ok(service::run(context.settings.clone(), mode, work)?)
}

/// A runtime for talking to a service.
pub fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(format!("cannot start: {error}")))
}

/// Shows the events of an answer until it ends, the view has enough, or somebody interrupts; the
/// exit code of that.
pub async fn follow(
    events: mpsc::Receiver<Event>,
    view: &mut impl View,
    screen: &Screen,
    when_interrupted: u8,
) -> u8 {
    match Interrupts::new() {
        Ok(interrupts) => follow_until(interrupts, events, view, screen, when_interrupted).await,
        Err(error) => {
            screen.error(&format!("cannot listen for Ctrl-C: {error}"));
            exit::ERROR
        }
    }
}

/// The same, until these interrupt.
pub async fn follow_until(
    mut interrupts: Interrupts,
    mut events: mpsc::Receiver<Event>,
    view: &mut impl View,
    screen: &Screen,
    when_interrupted: u8,
) -> u8 {
    loop {
        let event = tokio::select! {
            biased;
            () = interrupts.next() => Some(Event::End { code: when_interrupted }),
            event = events.recv() => event,
        };
        let Some(event) = event else {
            screen.error("the service ended before it had answered; start it again and repeat");
            return show_end(view, screen, exit::ERROR);
        };
        if let Event::End { code } = event {
            return show_end(view, screen, code);
        }
        if let Err(error) = show(view, screen, &event) {
            let code = match when_interrupted {
                exit::OK => exit::OK,
                code => last_word(events).await.unwrap_or(code),
            };
            return unread(&error, screen, code);
        }
        if let Some(code) = view.finished() {
            return show_end(view, screen, code);
        }
    }
}

/// How an answer ends that nobody reads any more; nothing where that takes long.
async fn last_word(mut events: mpsc::Receiver<Event>) -> Option<u8> {
    let end = async {
        loop {
            if let Event::End { code } = events.recv().await? {
                return Some(code);
            }
        }
    };
    tokio::time::timeout(LAST_WORD, end).await.ok()?
}

/// The exit code where output cannot be written: `code` where its reader has gone away, which is
/// as it should be (`handout transfers | head -1`); else that is an error, and said.
pub fn unread(error: &io::Error, screen: &Screen, code: u8) -> u8 {
    if is_closed(error) {
        return code;
    }
    screen.error(&format!("cannot write the output: {error}"));
    exit::ERROR
}

/// True where the reader of the output has gone away.
pub fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Shows an event to people, or to programs.
///
/// The view hears it in both cases, for what it finds out; it writes where people read only.
pub fn show(view: &mut impl View, screen: &Screen, event: &Event) -> io::Result<()> {
    if screen.is_json() {
        match event {
            Event::Fetching { what } => screen.object(what)?,
            event => screen.object(event)?,
        }
    } else if let Event::Error { message } = event {
        screen.error(&crate::protocol::names::printable(message));
    }
    view.event(event)
}

fn show_end(view: &mut impl View, screen: &Screen, code: u8) -> u8 {
    match show(view, screen, &Event::End { code }) {
        Ok(()) => code,
        Err(error) => match unread(&error, screen, code) {
            fault if code == exit::OK => fault,
            _ => code,
        },
    }
}

/// Ctrl-C, and what a service manager or a closed terminal sends.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// A hangup means something else while there is a terminal, or where there never was one.
    service: bool,
    terminal: bool,
}

impl Interrupts {
    /// From now on, signals no longer end the process by themselves.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            service: false,
            terminal: io::stderr().is_terminal(),
        })
    }

    /// Those of a service: it goes on when it hears HUP, unless its terminal has gone away.
    pub fn of_service() -> io::Result<Self> {
        let service = true;
        Ok(Self {
            service,
            ..Self::new()?
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => {
                    let lost_terminal = self.terminal && !io::stderr().is_terminal();
                    if !self.service || lost_terminal {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counting(usize);

    impl View for Counting {
        fn event(&mut self, event: &Event) -> io::Result<()> {
            if !matches!(event, Event::End { .. }) {
                self.0 += 1;
            }
            Ok(())
        }

        fn finished(&self) -> Option<u8> {
            (self.0 == 2).then_some(exit::DISK)
        }
    }

    fn note() -> Event {
        Event::Note {
            text: "a word".to_owned(),
        }
    }

    async fn code_after(events: Vec<Event>) -> u8 {
        let (sender, receiver) = mpsc::channel(8);
        for event in events {
            sender.send(event).await.unwrap();
        }
        drop(sender);
        let screen = Screen::new(false);
        follow(receiver, &mut Counting::default(), &screen, exit::OK).await
    }

    #[test]
    fn the_exit_code_is_that_of_the_answer_or_the_view_and_an_error_without_one() {
        client_runtime().unwrap().block_on(async {
            let end = Event::End {
                code: exit::SOME_FAILED,
            };
            assert_eq!(code_after(vec![note(), end]).await, exit::SOME_FAILED);
            assert_eq!(code_after(vec![note(), note(), note()]).await, exit::DISK);
            assert_eq!(code_after(vec![note()]).await, exit::ERROR);
        });
    }
}
