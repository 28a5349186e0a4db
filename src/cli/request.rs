//! `request`: asks for data at a rendezvous, and receives it.

use std::io;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::Failure;
use super::args::{Request, path_text};
use super::provide::{line, needs_server, runtime};
use super::screen::Screen;
use super::session::{Context, Interrupts, unread};
use crate::actors::api::{Event, exit};
use crate::actors::provider::{self, Asking, ProviderEvent};
use crate::protocol::names::printable;

/// What the options change in the settings.
pub fn overrides(options: &Request) -> Result<Vec<(String, String)>, String> {
    let mut overrides = options.at.overrides()?;
    if let Some(dir) = &options.to {
        overrides.push(("receive.destination".to_owned(), path_text("--to", dir)?));
    }
    Ok(overrides)
}

/// Asks, and shows how it goes.
pub fn run(context: &Context, options: &Request) -> Result<u8, Failure> {
    needs_server(context)?;
    if !options.at.plain && !context.settings.trust.plain_peers {
        return Err(Failure::Usage(
            "whoever provides this cannot prove who it is, and nothing of what comes would be \
             verified: --plain, or trust.plain_peers in the config file, allows that"
                .to_owned(),
        ));
    }
    let parameters: serde_json::Map<_, _> = options.param.iter().cloned().collect();
    let screen = context.screen.clone();
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let (events, told) = mpsc::channel(provider::EVENTS);
        let asking = Asking {
            settings: Arc::new(context.settings.clone()),
            request_type: options.request_type.clone(),
            parameters: serde_json::Value::Object(parameters).to_string(),
            wait: options.wait,
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
        Ok::<_, io::Error>(code)
    })?;
    // A question to the rendezvous may still wait there.
    runtime.shutdown_background();
    Ok(code)
}

async fn follow(mut told: mpsc::Receiver<ProviderEvent>, screen: Screen) -> io::Result<()> {
    let mut bar: Option<ProgressBar> = None;
    while let Some(event) = told.recv().await {
        if screen.is_json() {
            screen.object(&event)?;
            continue;
        }
        match &event {
            ProviderEvent::Begun { size, .. } if screen.has_bars() => {
                let style = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta}";
                let new = ProgressBar::new(*size);
                if let Ok(style) = ProgressStyle::with_template(style) {
                    new.set_style(style);
                }
                bar = Some(screen.bars().add(new));
            }
            ProviderEvent::Progress { bytes, .. } => {
                if let Some(bar) = &bar {
                    bar.set_position(*bytes);
                }
            }
            _ => {}
        }
        let is_result = matches!(event, ProviderEvent::Received { .. });
        if is_result && let Some(bar) = bar.take() {
            bar.finish_and_clear();
        }
        match line(&event) {
            Some(line) if is_result => screen.result(&line)?,
            Some(line) => screen.note(&line),
            None => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}
