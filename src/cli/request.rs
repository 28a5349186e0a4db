//! `request`: asks for data at a rendezvous, and receives it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::Failure;
use super::args::{Request, path_text};
use super::provide::{line, needs_server, runtime};
use super::screen::Screen;
use super::session::{self, Context, Interrupts, View, node, unread};
use crate::actors::api::{Event, Request as ApiRequest, exit};
use crate::actors::control::Client;
use crate::actors::provider::{self, Asking, Fetching, ProviderEvent};
use crate::actors::service::{Mode, StartError, tasks_end};
use crate::protocol::names::printable;
use crate::protocol::rendezvous::{Initiate, MAX_TYPE, Unfit};
use crate::store::StoreError;

/// How long a request waits for its turn: whatever is before it ends by itself, sooner or later.
const TURN: Duration = Duration::from_secs(3600);
/// How long who has the state folder may answer nothing, when it begins or ends.
const SILENT: Duration = Duration::from_secs(10);
/// What the last word to the rendezvous may take.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How often it is looked whether it is our turn.
const LOOK: Duration = Duration::from_millis(100);

/// What the options change in the settings.
pub fn overrides(options: &Request) -> Result<Vec<(String, String)>, String> {
    let mut overrides = options.at.overrides()?;
    if let Some(dir) = &options.to {
        overrides.push(("receive.destination".to_owned(), path_text("--to", dir)?));
    }
    Ok(overrides)
}

/// Asks, and shows how it goes: in the name of this device, so that other devices answer by what is
/// verified. Where a service has the state folder, it asks. Where another command has it, this one
/// waits for its turn.
pub fn run(context: &Context, options: &Request) -> Result<u8, Failure> {
    let fetching = Fetching {
        request_type: options.request_type.clone(),
        parameters: parameters(options)?,
        wait_ms: u64::try_from(options.wait.as_millis()).unwrap_or(u64::MAX),
        plain: options.at.plain || context.settings.trust.plain_peers,
        from: options.from.clone(),
    };
    let (begun, mut answered, mut told) = (Instant::now(), Instant::now(), false);
    loop {
        match holder(context)? {
            Some(Mode::Run | Mode::Receive) => return beside(context, options, fetching),
            Some(_) => answered = Instant::now(),
            None => match by_itself(context, fetching.clone()) {
                // Somebody has just begun, or ends.
                Err(Failure::Start(StartError::Store(StoreError::Locked { .. })))
                    if answered.elapsed() < SILENT => {}
                asked => return asked,
            },
        }
        if begun.elapsed() > TURN {
            return Err(Failure::Other(format!(
                "other commands have used the state folder {} for an hour: try again, or choose \
                 another folder with --state",
                context.settings.state.dir.display()
            )));
        }
        if !told {
            let dir = context.settings.state.dir.display();
            let note =
                format!("another command uses the state folder {dir}: waiting until it ends");
            context.screen.note(&note);
            told = true;
        }
        #[expect(clippy::disallowed_methods, reason = "no executor runs on this thread")]
        std::thread::sleep(LOOK);
    }
}

/// The parameters as a JSON object. An error for what no rendezvous would take, and no device be.
fn parameters(options: &Request) -> Result<String, Failure> {
    let mut parameters = serde_json::Map::new();
    for (name, value) in &options.param {
        if parameters.insert(name.clone(), value.clone()).is_some() {
            let why = format!("--param {name} is given more than once: which one holds?");
            return Err(Failure::Usage(why));
        }
    }
    let initiate = Initiate {
        request_type: options.request_type.clone(),
        parameters: serde_json::Value::Object(parameters).to_string(),
        file_name: String::new(),
        file_size: 0,
        file_type: String::new(),
        device_id: None,
    };
    initiate.check().map_err(|unfit| match unfit {
        Unfit::RequestType => Failure::Usage(format!(
            "TYPE must be 1 to {MAX_TYPE} characters of A-Z a-z 0-9 . _ -, such as spectrum"
        )),
        unfit => Failure::Usage(unfit.to_string()),
    })?;
    if let Some(from) = options.from.as_ref().filter(|id| !id.is_self_certifying()) {
        return Err(Failure::Usage(format!(
            "--from {from} is not the id of a device, which has 32 characters of a-z 2-7: \
             `handout id` says it there"
        )));
    }
    Ok(initiate.parameters)
}

/// What the process is for that has the state folder, where one answers.
fn holder(context: &Context) -> Result<Option<Mode>, Failure> {
    Ok(session::client_runtime()?.block_on(async {
        let client = Client::connect(&context.settings.state.dir).await?;
        let mut events = client.ask(ApiRequest::Mode);
        while let Some(event) = events.recv().await {
            if let Event::Mode { mode } = event {
                return Some(mode);
            }
        }
        None
    }))
}

/// With nobody else at the state folder: as a device that is here for this one thing.
fn by_itself(context: &Context, fetching: Fetching) -> Result<u8, Failure> {
    needs_server(context)?;
    let screen = context.screen.clone();
    let mut view = Fetched::new(&screen);
    let mut context = context.clone();
    context.settings.discovery.enabled = false;
    node(&context, Mode::Fetch, |node| async move {
        let request = ApiRequest::Fetch(fetching);
        session::follow(node.ask(request), &mut view, &screen, exit::INTERRUPTED).await
    })
}

/// Beside a service, which asks by its own settings.
fn beside(context: &Context, options: &Request, fetching: Fetching) -> Result<u8, Failure> {
    let own = options.to.is_some() || options.at.is_given();
    if fetching.plain && own {
        needs_server(context)?;
        return plainly(context, fetching);
    }
    if own {
        return Err(Failure::Usage(format!(
            "a service runs on the state folder {} and asks by its own settings: leave --url, \
             --token-file and --to out, or choose another folder with --state",
            context.settings.state.dir.display()
        )));
    }
    let (request, screen) = (ApiRequest::Fetch(fetching), &context.screen);
    let answered = session::ask_service(context, request, &mut Fetched::new(screen))?;
    answered.ok_or_else(|| Failure::Other("the service has just ended: try again".to_owned()))
}

/// What comes, for people.
struct Fetched(Shown);

impl Fetched {
    fn new(screen: &Screen) -> Self {
        Self(Shown::new(screen))
    }
}

impl View for Fetched {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Fetching { what } => self.0.event(what),
            _ => Ok(()),
        }
    }
}

/// The same beside a service, whose key this process cannot use: only plain clients answer.
fn plainly(context: &Context, fetching: Fetching) -> Result<u8, Failure> {
    let screen = context.screen.clone();
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let (events, told) = mpsc::channel(provider::EVENTS);
        let asking = Asking {
            settings: Arc::new(context.settings.clone()),
            request_type: fetching.request_type,
            parameters: fetching.parameters,
            wait: Duration::from_millis(fetching.wait_ms),
            plain: true,
            from: fetching.from,
            node: None,
            events,
        };
        let showing = tokio::spawn(follow(told, screen.clone()));
        let asked = tokio::select! {
            asked = provider::ask(asking) => Some(asked),
            () = interrupts.next() => None,
        };
        let shown = showing.await.unwrap_or(Ok(()));
        let mut code = match asked {
            Some(Ok(_)) => exit::OK,
            Some(Err(error)) => {
                screen.error(&printable(&error.to_string()));
                error.exit_code()
            }
            None => exit::INTERRUPTED,
        };
        if let Err(error) = shown {
            code = unread(&error, &screen, code);
        }
        if screen.is_json() {
            screen.object(&Event::End { code })?;
        }
        // That nobody asks any more is told to the rendezvous.
        tasks_end(LAST_WORD).await;
        Ok::<_, io::Error>(code)
    })?;
    // A question to the rendezvous may still wait there.
    runtime.shutdown_background();
    Ok(code)
}

async fn follow(mut told: mpsc::Receiver<ProviderEvent>, screen: Screen) -> io::Result<()> {
    let mut shown = Shown::new(&screen);
    while let Some(event) = told.recv().await {
        match screen.is_json() {
            true => screen.object(&event)?,
            false => shown.event(&event)?,
        }
    }
    Ok(())
}

/// Lines and a bar for people; nothing for programs.
struct Shown {
    screen: Screen,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new(screen: &Screen) -> Self {
        let screen = screen.clone();
        Self { screen, bar: None }
    }

    fn event(&mut self, event: &ProviderEvent) -> io::Result<()> {
        let screen = &self.screen;
        if screen.is_json() {
            return Ok(());
        }
        match event {
            ProviderEvent::Begun { size, .. } if screen.has_bars() => {
                let style = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta}";
                let new = ProgressBar::new(*size);
                if let Ok(style) = ProgressStyle::with_template(style) {
                    new.set_style(style);
                }
                self.bar = Some(screen.bars().add(new));
            }
            ProviderEvent::Progress { bytes, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(*bytes);
                }
            }
            _ => {}
        }
        let is_result = matches!(event, ProviderEvent::Received { .. });
        if is_result && let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        match line(event) {
            Some(line) if is_result => screen.result(&line)?,
            Some(line) => screen.note(&line),
            None => {}
        }
        Ok(())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
