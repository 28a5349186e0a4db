//! `provide`: gives data to whoever asks for it at a rendezvous.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

use super::Failure;
use super::args::Provide;
use super::screen::Screen;
use super::session::{Context, Interrupts, client_runtime, node, unread};
use super::text::{bytes, foreign, speed};
use crate::actors::api::{Event, exit};
use crate::actors::control::Client;
use crate::actors::provider::{self, GiveError, Giving, ProviderEvent};
use crate::actors::service::{Mode, Node};
use crate::config::Settings;
use crate::net::rendezvous::ServerError;
use crate::protocol::id::DeviceId;
use crate::protocol::names::printable;

/// Characters of somebody else's text.
const MAX_TEXT: usize = 300;
/// Characters of why somebody refuses, with what to do.
const MAX_WHY: usize = 2000;
/// How soon a service that may not provide tries again.
const AGAIN: Duration = Duration::from_secs(30);
/// Characters of a file's name.
const MAX_NAME: usize = 80;

/// Gives until stopped. Where a service has the state folder, it answers devices itself; this
/// process then answers plain clients alone.
pub fn run(context: &Context, options: &Provide) -> Result<u8, Failure> {
    needs_server(context)?;
    let (here, plain) = (context.clone(), options.at.plain);
    if !is_in_use(context)? {
        return node(context, Mode::Send, move |node| async move {
            given(&here, plain, Some(node)).await
        });
    }
    if !plain && !context.settings.trust.plain_peers {
        return Err(Failure::Other(format!(
            "a service runs on the state folder {} and answers by itself what the [[provider]] of its \
             config file say; to provide beside it, choose another folder with --state",
            context.settings.state.dir.display()
        )));
    }
    let runtime = runtime()?;
    let code = runtime.block_on(given(&here, plain, None));
    // A question to the rendezvous may still wait there.
    runtime.shutdown_background();
    Ok(code)
}

/// Answers requests beside everything else that a service does, as its config file says. What
/// happens is in its log.
pub fn beside(node: &Node, settings: Settings) {
    let (node, settings) = (node.clone(), Arc::new(settings));
    node.data_plane().clone().spawn(async move {
        let mut last = String::new();
        loop {
            let (events, mut told) = mpsc::channel(provider::EVENTS);
            let giving = Giving {
                settings: Arc::clone(&settings),
                plain: false,
                node: Some(node.clone()),
                events,
            };
            let giving = provider::give(giving, std::future::pending());
            let logging = async {
                let mut provided = false;
                while let Some(event) = told.recv().await {
                    provided |= matches!(event, ProviderEvent::Providing { .. });
                    if let Some(line) = line(&event) {
                        tracing::info!("{line}");
                    }
                }
                provided
            };
            let (given, provided) = tokio::join!(giving, logging);
            let Err(error) = given else { return };
            // Its token may be a new one by then; the same is said once.
            let error = printable(&error.to_string());
            if provided || error != last {
                tracing::error!(
                    "nothing is provided now, which is tried again every {} s: {error}",
                    AGAIN.as_secs()
                );
                last = error;
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
}

/// Whether another process has the state folder.
fn is_in_use(context: &Context) -> Result<bool, Failure> {
    let connecting = Client::connect(&context.settings.state.dir);
    Ok(client_runtime()?.block_on(connecting).is_some())
}

async fn given(context: &Context, plain: bool, node: Option<Node>) -> u8 {
    let screen = &context.screen;
    let mut interrupts = match Interrupts::new() {
        Ok(interrupts) => interrupts,
        Err(error) => {
            screen.error(&format!("cannot listen for Ctrl-C: {error}"));
            return exit::ERROR;
        }
    };
    let (events, told) = mpsc::channel(provider::EVENTS);
    let giving = Giving {
        settings: Arc::new(context.settings.clone()),
        plain,
        node: node.clone(),
        events,
    };
    let showing = tokio::spawn(follow(told, screen.clone()));
    let (end, ended) = oneshot::channel::<()>();
    let ends = async {
        let _ = ended.await;
    };
    // Sockets belong to the runtime of links.
    let on = node.map_or_else(Handle::current, |node| node.data_plane().clone());
    let mut giving = on.spawn(provider::give(giving, ends));
    let given = tokio::select! {
        given = &mut giving => given,
        () = interrupts.next() => {
            let _ = end.send(());
            giving.await
        }
    };
    let mut code = match given {
        Ok(Ok(())) => exit::OK,
        Ok(Err(error)) => {
            screen.error(&printable(&error.to_string()));
            code_of(&error)
        }
        Err(error) => {
            screen.error(&format!("providing failed: {error}"));
            exit::ERROR
        }
    };
    // The last words are shown before the end.
    let shown = showing.await.unwrap_or(Ok(()));
    let shown = shown.and_then(|()| match screen.is_json() {
        true => screen.object(&Event::End { code }),
        false => Ok(()),
    });
    if let Err(error) = shown {
        code = unread(&error, screen, code);
    }
    code
}

/// An error where no rendezvous is named.
pub fn needs_server(context: &Context) -> Result<(), Failure> {
    let meeting = &context.settings.rendezvous;
    match (&meeting.url, &meeting.token_file) {
        (Some(_), Some(_)) => Ok(()),
        (None, _) => Err(Failure::Usage(
            "no rendezvous is named: --url URL, or rendezvous.url in the config file".to_owned(),
        )),
        (_, None) => Err(Failure::Usage(
            "no token is named: --token-file FILE, or rendezvous.token_file in the config file"
                .to_owned(),
        )),
    }
}

/// A runtime for links and files.
pub fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .enable_all()
        .thread_name("data")
        .build()
        .map_err(|error| Failure::Other(format!("cannot start: {error}")))
}

fn code_of(error: &GiveError) -> u8 {
    match error {
        GiveError::Server(ServerError::Refused {
            status: 401 | 403, ..
        }) => exit::UNAUTHORIZED,
        GiveError::Server(ServerError::Refused { .. }) | GiveError::Folder { .. } => exit::ERROR,
        GiveError::Server(_) | GiveError::Nothing => exit::USAGE,
    }
}

async fn follow(mut told: mpsc::Receiver<ProviderEvent>, screen: Screen) -> io::Result<()> {
    while let Some(event) = told.recv().await {
        if screen.is_json() {
            screen.object(&event)?;
        } else if let Some(line) = line(&event) {
            screen.note(&line);
        }
    }
    Ok(())
}

/// An event for people; nothing for what they need not read.
pub fn line(event: &ProviderEvent) -> Option<String> {
    let text = |text: &str| foreign(text, MAX_TEXT);
    let unverified = |verified: &bool| if *verified { "" } else { ", unverified" };
    let whose = |device: &Option<DeviceId>, which: &str| match device {
        Some(device) => format!(", verified, {which} device {}", device.short()),
        None => ", unverified".to_owned(),
    };
    let way = |relayed: &bool, verified: &bool| match (relayed, verified) {
        (true, true) => "over the rendezvous, sealed",
        (true, false) => "over the rendezvous, which can read it",
        (false, _) => "directly",
    };
    Some(match event {
        ProviderEvent::Providing { url, types, plain } => {
            let types = types.join(", ");
            let plain = match plain {
                true => "; also to clients that cannot prove who they are (unverified)",
                false => {
                    "; clients that cannot prove who they are get nothing (--plain changes that)"
                }
            };
            format!("providing {types} at {}{plain}; Ctrl-C ends it", text(url))
        }
        ProviderEvent::Unreachable { reason } => format!("{}; trying again", text(reason)),
        ProviderEvent::Reachable => "the rendezvous can be reached again".to_owned(),
        ProviderEvent::Requested {
            request_type, user, ..
        } => format!("user {} asks for {}", text(user), text(request_type)),
        ProviderEvent::Refused { reason, .. } => format!("refused: {}", foreign(reason, MAX_WHY)),
        ProviderEvent::Asked { request_type, .. } => {
            format!("asked for {}", text(request_type))
        }
        ProviderEvent::Connected {
            relayed, verified, ..
        } => format!(
            "connected {}{}",
            way(relayed, verified),
            unverified(verified)
        ),
        ProviderEvent::Fallback { reason, .. } => format!(
            "no direct way ({}): going over the rendezvous, which can read it: unverified",
            text(reason)
        ),
        ProviderEvent::Begun { name, size, .. } => {
            format!("{}: {}", foreign(name, MAX_NAME), bytes(*size))
        }
        ProviderEvent::Progress { .. } => return None,
        ProviderEvent::Sent {
            name,
            bytes: sent,
            seconds,
            relayed,
            verified,
            device_id,
            ..
        } => format!(
            "sent {} ({}, {}) {}{}",
            foreign(name, MAX_NAME),
            bytes(*sent),
            speed(*sent, *seconds),
            way(relayed, verified),
            whose(device_id, "to")
        ),
        ProviderEvent::Received {
            path,
            bytes: got,
            already: true,
            device_id,
            ..
        } => {
            let path = crate::protocol::names::printable(&path.to_string_lossy());
            let from = whose(device_id, "from");
            format!("{path}  {}, is here already{from}", bytes(*got))
        }
        ProviderEvent::Received {
            path,
            bytes: got,
            seconds,
            relayed,
            verified,
            device_id,
            ..
        } => {
            let path = crate::protocol::names::printable(&path.to_string_lossy());
            let (size, speed) = (bytes(*got), speed(*got, *seconds));
            let (way, from) = (way(relayed, verified), whose(device_id, "from"));
            format!("{path}  {size}, {speed}, {way}{from}")
        }
        ProviderEvent::Failed { reason, .. } => {
            format!("a request came to nothing: {}", text(reason))
        }
    })
}
