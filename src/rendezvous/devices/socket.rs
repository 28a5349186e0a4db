//! The socket of one device: it proves who it is, and then hears and says things.

use std::time::{Duration, Instant};

use actix_web::{HttpRequest, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Session};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::seats::Seat;
use super::{ROOM, send, tell_presence};
use crate::protocol::id::DeviceId;
use crate::protocol::names::brief;
use crate::protocol::rate::Rate;
use crate::protocol::rendezvous::{
    DeviceSays, Hello, MAX_MAIL, MAX_NAME, MAX_SOCKET_MESSAGE, MAX_WATCHED, Nonce, ServerSays,
};
use crate::rendezvous::door::Caller;
use crate::rendezvous::routes::{Answered, To};
use crate::rendezvous::upgrade;

/// How long a device may take to prove who it is.
pub(super) const HELLO: Duration = Duration::from_secs(10);
/// How often a device is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// The longest silence.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a device may leave messages unread.
pub(in crate::rendezvous) const UNREAD: Duration = Duration::from_secs(30);
/// Messages of a device in [`SPAN`].
pub(super) const MESSAGES: u32 = 2000;
const SPAN: Duration = Duration::from_secs(10);

/// Why a socket ends from this side: for programs, and for people.
struct Fault(&'static str, String);

/// Opens a socket.
pub(in crate::rendezvous) async fn open(
    caller: Caller,
    request: HttpRequest,
    body: web::Payload,
    to: To,
) -> Answered {
    let seat = to.devices.seats.take(caller.user)?;
    let (answer, session, messages) = upgrade(&request, body)?;
    let messages = messages
        .max_frame_size(MAX_SOCKET_MESSAGE)
        .aggregate_continuations()
        .max_continuation_size(MAX_SOCKET_MESSAGE);
    let span = tracing::Span::current();
    let work = async move {
        Socket {
            to,
            seat,
            session,
            messages,
            heard: Instant::now(),
        }
        .run(&caller)
        .await;
    };
    actix_rt::spawn(tracing::Instrument::instrument(work, span));
    Ok(answer)
}

struct Socket {
    to: To,
    seat: Seat,
    session: Session,
    messages: AggregatedMessageStream,
    heard: Instant,
}

impl Socket {
    async fn run(mut self, caller: &Caller) {
        let ended = match self.greet().await {
            Ok(hello) => self.serve(&hello.device_id, caller).await,
            Err(fault) => Err(fault),
        };
        let Err(Fault(code, message)) = ended else {
            let _ = self.session.close(None).await;
            return;
        };
        tracing::debug!(code, message, "a device's socket is closed");
        let says = ServerSays::Error {
            code: code.to_owned(),
            message: message.clone(),
        };
        let _ = self.say(&says).await;
        let reason = CloseReason {
            code: match code {
                "stopping" => CloseCode::Away,
                _ => CloseCode::Policy,
            },
            description: Some(message),
        };
        let closing = self.session.close(Some(reason));
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
    }

    async fn greet(&mut self) -> Result<Hello, Fault> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)
            .map_err(|error| Fault("unavailable", format!("no randomness: {error}")))?;
        let challenge = ServerSays::Challenge {
            nonce: Nonce(nonce),
        };
        self.say(&challenge).await?;
        let said = tokio::time::timeout(HELLO, self.next()).await;
        let said = said.map_err(|_| Fault("too_slow", "no hello came in time".to_owned()))?;
        let Some(DeviceSays::Hello(hello)) = said? else {
            return Err(Fault("no_hello", "the first message must be hello".into()));
        };
        if hello.name.len() > MAX_NAME {
            let text = format!("a name may have {MAX_NAME} bytes at most");
            return Err(Fault("bad_hello", text));
        }
        if let Err(error) = hello.check(&nonce) {
            return Err(Fault("bad_hello", error.to_string()));
        }
        match self.seat.prove() {
            Ok(()) => Ok(hello),
            Err(full) => Err(Fault("unavailable", full.to_string())),
        }
    }

    async fn serve(&mut self, device: &DeviceId, caller: &Caller) -> Result<(), Fault> {
        let (queue, mut inbox) = mpsc::channel(ROOM);
        let number = self.to.devices.arrive(device, queue);
        tracing::info!(%device, "a device is here");
        let ours = &self.to.devices.ours;
        let ended = match self.to.store.device_is_here(ours, device, number).await {
            Ok(()) => self.welcome(device, number, caller, &mut inbox).await,
            Err(error) => Err(Fault("unavailable", error.to_string())),
        };
        self.to.devices.leave(device, number);
        let ours = &self.to.devices.ours;
        if let Err(error) = self.to.store.device_left(ours, device, number).await {
            tracing::warn!(%error, "other servers do not know that a device has gone");
        }
        tracing::info!(%device, "a device has gone");
        ended
    }

    async fn welcome(
        &mut self,
        device: &DeviceId,
        number: u64,
        caller: &Caller,
        inbox: &mut mpsc::Receiver<ServerSays>,
    ) -> Result<(), Fault> {
        let welcome = ServerSays::Welcome(self.to.ice.of(caller.user));
        self.say(&welcome).await?;
        self.talk(device, number, caller, inbox).await
    }

    async fn talk(
        &mut self,
        device: &DeviceId,
        number: u64,
        caller: &Caller,
        inbox: &mut mpsc::Receiver<ServerSays>,
    ) -> Result<(), Fault> {
        let mut stopping = self.to.bus.stopping();
        let mut pings = pings();
        let mut rate = Rate::new(MESSAGES, SPAN);
        let expires = tokio::time::Instant::from_std(caller.until);
        loop {
            tokio::select! {
                says = inbox.recv() => match says {
                    Some(says) => self.say(&says).await?,
                    None => {
                        let text = "this device has another socket now, or left messages unread";
                        return Err(Fault("replaced", text.to_owned()));
                    }
                },
                message = self.messages.recv() => {
                    self.heard = Instant::now();
                    let Some(says) = self.read(message).await? else {
                        return Ok(());
                    };
                    if !rate.take(Instant::now()) {
                        let text = format!("more than {MESSAGES} messages in {} s", SPAN.as_secs());
                        return Err(Fault("too_many", text));
                    }
                    if let Some(says) = says {
                        self.take(device, number, says).await?;
                    }
                }
                _ = pings.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(Fault("silent", "nothing was heard for too long".to_owned()));
                    }
                    let ping = self.session.ping(b"");
                    if !matches!(tokio::time::timeout(UNREAD, ping).await, Ok(Ok(()))) {
                        return Ok(());
                    }
                }
                _ = stopping.wait_for(|stopping| *stopping) => {
                    return Err(Fault("stopping", "this rendezvous stops; come back".to_owned()));
                }
                () = tokio::time::sleep_until(expires) => {
                    return Err(Fault("expired", "the token has expired; get a new one".to_owned()));
                }
            }
        }
    }

    async fn take(
        &mut self,
        device: &DeviceId,
        number: u64,
        says: DeviceSays,
    ) -> Result<(), Fault> {
        match says {
            DeviceSays::Hello(_) => Err(Fault("second_hello", "one hello is enough".to_owned())),
            DeviceSays::Watch { device_ids } if device_ids.len() > MAX_WATCHED => {
                let text = format!("a device may watch {MAX_WATCHED} others at most");
                Err(Fault("too_many", text))
            }
            DeviceSays::Watch { device_ids } => {
                self.to.devices.watch(device, number, &device_ids);
                tell_presence(&self.to, device, number).await;
                Ok(())
            }
            DeviceSays::Signal { to, signal } => {
                if signal.to_string().len() > MAX_MAIL {
                    let text = format!("a signal may have {MAX_MAIL} bytes at most");
                    return Err(Fault("too_large", text));
                }
                send(&self.to, device, to, signal).await;
                Ok(())
            }
        }
    }

    /// The next message; nothing at the end.
    async fn next(&mut self) -> Result<Option<DeviceSays>, Fault> {
        loop {
            let message = self.messages.recv().await;
            match self.read(message).await? {
                None => return Ok(None),
                Some(Some(says)) => return Ok(Some(says)),
                // A ping or pong.
                Some(None) => {}
            }
        }
    }

    /// What a message says: nothing at the end, and nothing inside where it is a sign of life.
    async fn read(
        &mut self,
        message: Option<Result<AggregatedMessage, actix_ws::ProtocolError>>,
    ) -> Result<Option<Option<DeviceSays>>, Fault> {
        match message {
            None | Some(Ok(AggregatedMessage::Close(_))) => Ok(None),
            Some(Ok(AggregatedMessage::Text(text))) => {
                let says = serde_json::from_str(&text).map_err(|error| {
                    let text = brief(&error.to_string());
                    Fault("bad_message", format!("not a message of a device: {text}"))
                })?;
                Ok(Some(Some(says)))
            }
            Some(Ok(AggregatedMessage::Ping(bytes))) => {
                let pong = self.session.pong(&bytes);
                match tokio::time::timeout(UNREAD, pong).await {
                    Ok(Ok(())) => Ok(Some(None)),
                    _ => Ok(None),
                }
            }
            Some(Ok(AggregatedMessage::Pong(_))) => Ok(Some(None)),
            Some(Ok(AggregatedMessage::Binary(_))) => {
                Err(Fault("bad_message", "messages must be text".to_owned()))
            }
            Some(Err(error)) => {
                let text = brief(&error.to_string());
                Err(Fault("bad_message", format!("not WebSocket: {text}")))
            }
        }
    }

    async fn say(&mut self, says: &ServerSays) -> Result<(), Fault> {
        let text = serde_json::to_string(says).unwrap_or_default();
        match tokio::time::timeout(UNREAD, self.session.text(text)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Fault("unread", "messages were left unread".to_owned())),
        }
    }
}

/// When to ask for a sign of life.
pub(in crate::rendezvous) fn pings() -> Interval {
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}
