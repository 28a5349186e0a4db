//! A device's socket at a rendezvous: who of those that matter to us is there, and signaling with
//! them (docs/PROTOCOL.md §17). It is opened again and again until it is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::{debug, info};

use super::{Server, ServerError, Socket, why_closed};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::Identity;
use crate::protocol::names::printable;
use crate::protocol::rendezvous::{DeviceSays, Hello, IceServers, MAX_WATCHED, ServerSays};
use crate::protocol::signal::Signal;

/// Waits before the socket is opened again: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A socket that has held for so long was a good one: the next wait is the first one again.
const GOOD: Duration = Duration::from_secs(60);
/// How long the greeting may take.
const GREETING: Duration = Duration::from_secs(15);
/// How long one message may take to be written.
const WRITING: Duration = Duration::from_secs(15);
/// How often a sign of life is sent, and how long it may be silent on the other side.
const PING: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);
/// Signals that wait to be written, and events that wait to be handled.
const QUEUE: usize = 256;

/// What happens at the rendezvous.
#[derive(Debug)]
pub enum MailEvent {
    /// We are there; these servers help WebRTC along.
    Open(IceServers),
    /// We are not, or no longer, for this reason; it is tried again.
    Closed(String),
    /// These devices are there now.
    Present(Vec<DeviceId>),
    /// These are not, or no longer.
    Absent(Vec<DeviceId>),
    /// A signaling message of a device that has proven its id to the rendezvous.
    Signal(Signal),
    /// Nothing can be written to this device now.
    Undeliverable(DeviceId),
}

/// Writes at a rendezvous. The socket ends when the last one of it is dropped.
#[derive(Clone)]
pub struct MailHandle {
    outgoing: mpsc::Sender<DeviceSays>,
    watched: Arc<watch::Sender<BTreeSet<DeviceId>>>,
}

impl MailHandle {
    /// Hands over a signaling message. False when it cannot be written now.
    pub fn try_send(&self, to: &DeviceId, signal: &Signal) -> bool {
        let Ok(signal) = serde_json::to_value(signal) else {
            return false;
        };
        let to = to.clone();
        match self.outgoing.try_send(DeviceSays::Signal { to, signal }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
        }
    }

    /// Says whose coming and going matters.
    pub fn watch(&self, devices: BTreeSet<DeviceId>) {
        self.watched.send_if_modified(|watched| {
            let changed = *watched != devices;
            *watched = devices;
            changed
        });
    }
}

/// Starts to keep a socket open at `server`, on the runtime `on`, as the device `identity`.
pub fn start(
    server: Server,
    identity: Identity,
    name: String,
    on: &Handle,
) -> (MailHandle, mpsc::Receiver<MailEvent>) {
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let (watched, watching) = watch::channel(BTreeSet::new());
    let (events, receiver) = mpsc::channel(QUEUE);
    let keeper = Keeper {
        server,
        identity,
        name,
        queue,
        watching,
        events,
    };
    on.spawn(keeper.run());
    let handle = MailHandle {
        outgoing,
        watched: Arc::new(watched),
    };
    (handle, receiver)
}

struct Keeper {
    server: Server,
    identity: Identity,
    name: String,
    queue: mpsc::Receiver<DeviceSays>,
    watching: watch::Receiver<BTreeSet<DeviceId>>,
    events: mpsc::Sender<MailEvent>,
}

/// Why a socket is over.
enum Over {
    /// Nobody wants it any more.
    Unwanted,
    /// It broke, or could not be opened.
    Broken(String),
}

impl From<ServerError> for Over {
    fn from(error: ServerError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Keeper {
    async fn run(mut self) {
        let mut wait = BACKOFF.0;
        loop {
            let opened = Instant::now();
            let reason = match self.attend().await {
                Ok(()) | Err(Over::Unwanted) => return,
                Err(Over::Broken(reason)) => printable(&reason),
            };
            info!(server = self.server.url(), %reason, "not at the rendezvous");
            if self.events.send(MailEvent::Closed(reason)).await.is_err() {
                return;
            }
            if opened.elapsed() >= GOOD {
                wait = BACKOFF.0;
            }
            // What was meant for the old socket is of no use on the next one.
            let until = Instant::now() + wait;
            loop {
                tokio::select! {
                    dropped = self.queue.recv() => if dropped.is_none() { return },
                    () = tokio::time::sleep_until(until) => break,
                }
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// One socket, from its opening to its end.
    async fn attend(&mut self) -> Result<(), Over> {
        let mut socket = self.server.socket("/api/devices/socket").await?;
        let ice = timeout(GREETING, self.greet(&mut socket)).await;
        let ice = ice.map_err(|_| Over::Broken("the rendezvous does not greet".to_owned()))??;
        debug!(server = self.server.url(), "at the rendezvous");
        self.tell(MailEvent::Open(ice)).await?;
        self.watching.mark_changed();
        let mut alive = tokio::time::interval(PING);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = self.queue.recv() => match message {
                    Some(message) => say(&mut socket, &message).await?,
                    None => {
                        let _ = timeout(WRITING, socket.close(None)).await;
                        return Err(Over::Unwanted);
                    }
                },
                changed = self.watching.changed() => {
                    changed.map_err(|_| Over::Unwanted)?;
                    let watched = self.watching.borrow_and_update().clone();
                    let device_ids = watched.into_iter().take(MAX_WATCHED).collect();
                    say(&mut socket, &DeviceSays::Watch { device_ids }).await?;
                }
                message = next(&mut socket) => {
                    heard = Instant::now();
                    if let Some(said) = message? {
                        self.heed(said).await?;
                    }
                }
                _ = alive.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(Over::Broken("the rendezvous is silent".to_owned()));
                    }
                    write(&mut socket, Message::Ping(Default::default())).await?;
                }
            }
        }
    }

    async fn greet(&self, socket: &mut Socket) -> Result<IceServers, Over> {
        loop {
            match next(socket).await? {
                Some(ServerSays::Challenge { nonce }) => {
                    let hello = Hello::new(&self.identity, &self.name, &nonce.0);
                    say(socket, &DeviceSays::Hello(hello)).await?;
                }
                Some(ServerSays::Welcome(ice)) => return Ok(ice),
                Some(ServerSays::Error { message, .. }) => return Err(Over::Broken(message)),
                _ => {}
            }
        }
    }

    async fn heed(&self, said: ServerSays) -> Result<(), Over> {
        let event = match said {
            ServerSays::Present { device_ids } => MailEvent::Present(device_ids),
            ServerSays::Absent { device_ids } => MailEvent::Absent(device_ids),
            ServerSays::Undeliverable { to } => MailEvent::Undeliverable(to),
            ServerSays::Signal { from, signal } => {
                let signal = Signal::parse(signal.to_string().as_bytes());
                match signal {
                    Ok(signal) if signal.peer_id == from => MailEvent::Signal(signal),
                    unfit => {
                        debug!(%from, ?unfit, "what came by mail is no signaling of its sender");
                        return Ok(());
                    }
                }
            }
            ServerSays::Error { code, message } => {
                let (code, message) = (printable(&code), printable(&message));
                info!(%code, %message, "the rendezvous complains");
                return Ok(());
            }
            ServerSays::Challenge { .. } | ServerSays::Welcome(_) | ServerSays::Joined => {
                return Ok(());
            }
        };
        self.tell(event).await
    }

    async fn tell(&self, event: MailEvent) -> Result<(), Over> {
        self.events.send(event).await.map_err(|_| Over::Unwanted)
    }
}

async fn say(socket: &mut Socket, said: &impl Serialize) -> Result<(), Over> {
    let text = serde_json::to_string(said).map_err(|error| Over::Broken(error.to_string()))?;
    write(socket, Message::Text(text.into())).await
}

async fn write(socket: &mut Socket, message: Message) -> Result<(), Over> {
    match timeout(WRITING, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Over::Broken(why_closed(Some(&error)))),
        Err(_) => Err(Over::Broken("the rendezvous takes nothing".to_owned())),
    }
}

/// The next thing that the rendezvous says; nothing for signs of life and for words of a later
/// version.
async fn next(socket: &mut Socket) -> Result<Option<ServerSays>, Over> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text).ok()),
        Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
            Err(Over::Broken(frame.reason.to_string()))
        }
        Some(Ok(Message::Close(_))) | None => Err(Over::Broken(why_closed(None))),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(Over::Broken(why_closed(Some(&error)))),
    }
}
