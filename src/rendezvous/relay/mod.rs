//! Relayed links: where two cannot connect to each other, both connect here, and what one sends
//! goes to the other as it is. What it is, only the two know.

mod outlet;
mod places;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, ProtocolError};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

use super::devices::UNREAD;
use super::door::Caller;
use super::problem::Problem;
use super::routes::{Answered, To};
use super::store::Meeting;
use super::{Shared, upgrade};
use crate::protocol::rendezvous::{ClientType, MAX_RELAYED, check_relay_id, check_session_id};
use outlet::{Frame, Opcode};
pub(super) use places::Relays;
use places::{Found, Link, Over, Terms};

/// How long one end waits for the other.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an end may leave a ping unanswered that it was sent.
const UNANSWERED: Duration = Duration::from_secs(60);
/// How often what was carried is counted for the users.
const COUNT: Duration = Duration::from_secs(5);

/// `GET /api/relay/{relay_id}`: one end of a link between two devices.
pub(super) async fn devices(
    caller: Caller,
    relay: web::Path<String>,
    request: HttpRequest,
    body: web::Payload,
    to: To,
) -> Answered {
    check_relay_id(&relay)?;
    let end = Opening {
        key: relay.into_inner(),
        session: None,
    };
    end.open(caller, request, body, to).await
}

/// `GET /api/ice/relay/{session_id}`: one end of a link between the parties of a session.
pub(super) async fn session(
    caller: Caller,
    session: web::Path<String>,
    request: HttpRequest,
    body: web::Payload,
    to: To,
) -> Answered {
    let kinds = [ClientType::Provider, ClientType::Requester];
    caller.must_be(&kinds, "has sessions")?;
    check_session_id(&session)?;
    to.store.is_party(caller.user, &session, &to.terms).await?;
    let session = session.into_inner();
    let end = Opening {
        // No id of a relay looks like that.
        key: format!("session:{session}"),
        session: Some(session),
    };
    end.open(caller, request, body, to).await
}

struct Opening {
    key: String,
    session: Option<String>,
}

impl Opening {
    async fn open(
        self,
        caller: Caller,
        request: HttpRequest,
        body: web::Payload,
        to: To,
    ) -> Answered {
        let day = to.relays.terms.day;
        if to.store.relayed_today(caller.user).await? >= day {
            let text = format!("the relayed links of this user have carried {day} bytes today");
            return Err(Problem::too_many(text, Duration::from_secs(3600)));
        }
        let (answer, _, messages) = upgrade(&request, body)?;
        if let Meeting::There(url) = to.store.meet(&to.devices.ours, &self.key).await? {
            return elsewhere(&url, request.path());
        }
        let (answer, outlet) = outlet::install(answer);
        let apart = self.session.is_some();
        let come = to.relays.come(&self.key, caller.user, &outlet, apart);
        if come.is_err() {
            part(&to, &self.key).await;
        }
        let (link, found) = come?;
        let end = End {
            to,
            key: self.key,
            session: self.session,
            user: caller.user,
            outlet,
            messages: messages
                .max_frame_size(MAX_RELAYED)
                .aggregate_continuations()
                .max_continuation_size(MAX_RELAYED),
            link,
        };
        let span = tracing::Span::current();
        actix_rt::spawn(end.run(found).instrument(span));
        Ok(answer)
    }
}

/// Where nobody is left, the link's ends may meet elsewhere.
pub(super) async fn part(to: &Shared, key: &str) {
    if to.relays.has(key) {
        return;
    }
    if let Err(error) = to.store.part(&to.devices.ours, key).await {
        tracing::warn!(%error, "other servers believe that a relayed link is still here");
    }
}

/// Where the other end is at another server.
fn elsewhere(url: &str, path: &str) -> Answered {
    if url.is_empty() {
        return Err(Problem::unavailable(
            "the other end is at another server, which does not say where it is reached \
             (rendezvous.serve.public_url)",
        ));
    }
    Ok(HttpResponse::TemporaryRedirect()
        .insert_header((header::LOCATION, format!("{url}{path}")))
        .finish())
}

/// One end of a link.
struct End {
    to: To,
    key: String,
    session: Option<String>,
    user: i64,
    outlet: mpsc::Sender<Frame>,
    messages: AggregatedMessageStream,
    link: Arc<Link>,
}

impl End {
    async fn run(mut self, found: Found) {
        let first = matches!(found, Found::Nobody(_));
        self.to.metrics.relays.set(self.to.relays.count() as i64);
        let joined = match found {
            Found::Other(other) => self.join(other).await,
            Found::Nobody(joined) => self.wait(joined).await,
        };
        if let Some(other) = joined {
            if first {
                tracing::info!("a relayed link is joined");
                self.transfer("relaying", false).await;
            }
            self.pump(&other, first).await;
        }
        let over = self.link.over().borrow().clone().unwrap_or(Over::Lost);
        if first {
            self.count().await;
            match over {
                Over::Closed => self.transfer("relayed", true).await,
                _ => self.transfer("failed", false).await,
            }
            tracing::info!(?over, "a relayed link has ended");
        }
        let (code, reason) = match over {
            Over::Closed => (CloseCode::Normal, "the other end has closed".to_owned()),
            Over::Lost => (CloseCode::Error, "the other end is gone".to_owned()),
            Over::Refused(why) => (CloseCode::Policy, why),
            Over::Stopping => (CloseCode::Away, "this rendezvous stops".to_owned()),
        };
        // It comes after what is still on its way.
        let close = self.outlet.send(Frame::close(code, &reason));
        let _ = tokio::time::timeout(UNREAD, close).await;
        let Self { to, link, key, .. } = self;
        drop(link);
        to.metrics.relays.set(to.relays.count() as i64);
        part(&to, &key).await;
    }

    /// Tells the other end that this one is there, before anything that this one sends.
    async fn join(&self, other: mpsc::Sender<Frame>) -> Option<mpsc::Sender<Frame>> {
        let told = tokio::time::timeout(UNREAD, other.send(Frame::joined())).await;
        if !matches!(told, Ok(Ok(()))) {
            self.link.end(Over::Lost);
            return None;
        }
        Some(other)
    }

    /// Waits for the other end, which tells this one that it is there.
    async fn wait(
        &mut self,
        mut joined: oneshot::Receiver<mpsc::Sender<Frame>>,
    ) -> Option<mpsc::Sender<Frame>> {
        let mut stopping = self.to.bus.stopping();
        let mut over = self.link.over();
        let late = tokio::time::sleep(PATIENCE);
        tokio::pin!(late);
        loop {
            tokio::select! {
                biased;
                other = &mut joined => return other.ok(),
                _ = stopping.wait_for(|stopping| *stopping) => {
                    self.link.end(Over::Stopping);
                    return None;
                }
                _ = over.wait_for(Option::is_some) => return None,
                () = &mut late => {
                    let text = format!("nobody came within {} s", PATIENCE.as_secs());
                    self.link.end(Over::Refused(text));
                    return None;
                }
                message = self.messages.recv() => match message {
                    Some(Ok(AggregatedMessage::Ping(bytes))) => self.pong(&bytes),
                    Some(Ok(AggregatedMessage::Pong(_))) => {}
                    Some(Ok(AggregatedMessage::Text(_) | AggregatedMessage::Binary(_))) => {
                        let text = "nothing may be sent before `joined`";
                        self.link.end(Over::Refused(text.to_owned()));
                        return None;
                    }
                    _ => {
                        self.link.end(Over::Lost);
                        return None;
                    }
                }
            }
        }
    }

    fn pong(&self, bytes: &[u8]) {
        // Where there is no room, something else shows that this server is there.
        let _ = self.outlet.try_send(Frame::new(Opcode::Pong, bytes));
    }

    /// Hands on what comes, until the link ends.
    async fn pump(&mut self, other: &mpsc::Sender<Frame>, first: bool) {
        let link = Arc::clone(&self.link);
        let (mut over, mut cut) = (link.over(), link.over());
        let mut stopping = self.to.bus.stopping();
        let mut pings = super::devices::pings();
        let mut counts = tokio::time::interval(COUNT);
        let mut asked: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = over.wait_for(Option::is_some) => return,
                _ = stopping.wait_for(|stopping| *stopping) => link.end(Over::Stopping),
                _ = counts.tick(), if first => self.count().await,
                _ = pings.tick() => {
                    if asked.is_some_and(|at| at.elapsed() > UNANSWERED) {
                        link.end(Over::Lost);
                    } else if asked.is_none()
                        && self.outlet.try_send(Frame::new(Opcode::Ping, b"")).is_ok()
                    {
                        asked = Some(Instant::now());
                    }
                }
                message = self.messages.recv() => {
                    asked = None;
                    let frame = match message {
                        Some(Ok(AggregatedMessage::Text(text))) => {
                            (Opcode::Text, text.into_bytes())
                        }
                        Some(Ok(AggregatedMessage::Binary(bytes))) => (Opcode::Binary, bytes),
                        Some(Ok(AggregatedMessage::Ping(bytes))) => {
                            self.pong(&bytes);
                            continue;
                        }
                        Some(Ok(AggregatedMessage::Pong(_))) => continue,
                        Some(Ok(AggregatedMessage::Close(_))) => {
                            link.end(Over::Closed);
                            return;
                        }
                        Some(Err(ProtocolError::Overflow)) => {
                            let text = format!("a message may have {MAX_RELAYED} bytes at most");
                            link.end(Over::Refused(text));
                            return;
                        }
                        Some(Err(_)) | None => {
                            link.end(Over::Lost);
                            return;
                        }
                    };
                    let (opcode, bytes) = frame;
                    if !link.carries(bytes.len()) {
                        return;
                    }
                    // Nothing more is read here until there is room for this there.
                    tokio::select! {
                        sent = other.send(Frame::new(opcode, &bytes)) => if sent.is_err() {
                            link.end(Over::Lost);
                            return;
                        },
                        _ = cut.wait_for(Option::is_some) => return,
                    }
                }
            }
        }
    }

    /// Counts what was carried for the users, and ends the link where one has had enough. A session
    /// lasts on by it, so that its parties can come again when they lose each other.
    async fn count(&self) {
        let bytes = self.link.since_last();
        if bytes == 0 {
            return;
        }
        if let Some(session) = &self.session {
            let lasts = self.to.store.is_party(self.user, session, &self.to.terms);
            if let Err(error) = lasts.await {
                tracing::debug!(%error, "a relayed link outlives its session");
            }
        }
        self.to.metrics.relayed.inc_by(bytes);
        let most = self.to.relays.terms.day;
        for user in self.link.users() {
            match self.to.store.relayed(user, bytes).await {
                Ok(today) if today >= most => self.link.end(Over::Refused(format!(
                    "the relayed links of this user have carried {most} bytes today"
                ))),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "what was relayed is not counted"),
            }
        }
    }

    async fn transfer(&self, status: &'static str, done: bool) {
        let Some(session) = &self.session else {
            return;
        };
        let noted = self.to.store.transfer_is(session, status, done).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "what became of a transfer is not on record");
        }
    }
}

/// Relays with the limits of the settings.
pub(super) fn relays(serve: &crate::config::RendezvousServe) -> Arc<Relays> {
    Arc::new(Relays::new(Terms {
        most: serve.max_relays,
        most_of_user: serve.user_relays,
        bytes: serve.relay_bytes,
        day: serve.relay_day,
    }))
}
