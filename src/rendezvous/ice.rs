//! Sessions and their signals over HTTP.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::door::{Caller, read};
use super::problem::Problem;
use super::routes::{Answered, To};
use crate::protocol::rendezvous::{
    ClientType, IceServers, Initiate, MAX_TYPE, MAX_TYPES, MAX_WAIT, SignalPost, SignalType,
    check_session_id,
};

const PARTIES: [ClientType; 2] = [ClientType::Provider, ClientType::Requester];

/// Begins a session.
pub(super) async fn initiate(
    caller: Caller,
    request: HttpRequest,
    body: web::Payload,
    to: To,
) -> Answered {
    caller.must_be(&[ClientType::Requester], "asks for data")?;
    let asked: Initiate = read(&request, body).await?;
    asked.check()?;
    let session = to.store.initiate(caller.user, asked, &to.terms).await?;
    to.bus.list_changed();
    to.metrics.sessions.inc();
    tracing::info!(session = session.session_id, "begun");
    Ok(HttpResponse::Created().json(session))
}

/// What a list may be asked for by.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Of these types alone, parted by commas.
    #[serde(default)]
    request_type: String,
    /// Those after this session alone.
    #[serde(default)]
    after: String,
    /// Seconds to wait for the first.
    #[serde(default)]
    wait: u64,
}

fn waiting_time(seconds: u64) -> Result<Duration, Problem> {
    match seconds {
        0..=MAX_WAIT => Ok(Duration::from_secs(seconds)),
        _ => Err(Problem::bad_request(format!(
            "wait must be 0 to {MAX_WAIT} seconds"
        ))),
    }
}

/// Sessions that wait for somebody who provides.
pub(super) async fn sessions(caller: Caller, query: web::Query<ListQuery>, to: To) -> Answered {
    caller.must_be(&[ClientType::Provider], "sees what is asked for")?;
    let limit = waiting_time(query.wait)?;
    let types = query.request_type.split(',');
    let fits = |kind: &str| kind.len() <= MAX_TYPE && !kind.contains('\0');
    if types.clone().count() > MAX_TYPES || !types.clone().all(fits) {
        let text = format!(
            "request_type may name {MAX_TYPES} types at most, parted by commas, each of {MAX_TYPE} \
             bytes at most"
        );
        return Err(Problem::bad_request(text));
    }
    if !query.after.is_empty() {
        check_session_id(&query.after)?;
    }
    let mut waiting = to.bus.wait_for_list(limit);
    let _counted = to.waits(limit);
    loop {
        let sessions = to.store.waiting(&query.request_type, &query.after).await?;
        if !sessions.is_empty() || !waiting.goes_on().await {
            return Ok(HttpResponse::Ok().json(sessions));
        }
    }
}

/// Ends a session, for both parties: nobody waits for it any more, and it no longer counts.
pub(super) async fn end(caller: Caller, session: web::Path<String>, to: To) -> Answered {
    caller.must_be(&PARTIES, "has sessions")?;
    check_session_id(&session)?;
    to.store.end(caller.user, &session).await?;
    to.bus.said(&session);
    to.bus.list_changed();
    tracing::info!(session = *session, "ended");
    Ok(HttpResponse::Ok().json(json!({ "status": "ended" })))
}

/// Takes what one party says to the other.
pub(super) async fn signal(
    caller: Caller,
    request: HttpRequest,
    body: web::Payload,
    to: To,
) -> Answered {
    caller.must_be(&PARTIES, "has sessions")?;
    let post: SignalPost = read(&request, body).await?;
    post.check()?;
    match post.signal_type {
        SignalType::Offer => caller.must_be(&[ClientType::Provider], "offers")?,
        SignalType::Answer => caller.must_be(&[ClientType::Requester], "answers")?,
        SignalType::Candidate => {}
    }
    let posted = to
        .store
        .signal(caller.user, caller.kind, &post, &to.terms)
        .await?;
    to.bus.said(&post.session_id);
    if posted.claimed {
        to.bus.list_changed();
        to.metrics.claims.inc();
        tracing::info!(session = post.session_id, "claimed");
    }
    to.metrics.signals.inc();
    Ok(HttpResponse::Ok().json(json!({ "id": posted.id, "status": "ok" })))
}

/// What signals may be asked for by.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignalsQuery {
    /// In which session; in the path or here.
    session_id: Option<String>,
    /// Those after this number alone.
    #[serde(default)]
    after: i64,
    /// Seconds to wait for the first.
    #[serde(default)]
    wait: u64,
}

/// `GET /api/ice/signals?session_id=`
pub(super) async fn signals_of(
    caller: Caller,
    query: web::Query<SignalsQuery>,
    to: To,
) -> Answered {
    let query = query.into_inner();
    let missing = "say which session: /api/ice/signals/ID or ?session_id=ID";
    let session = query.session_id.clone();
    let session = session.ok_or_else(|| Problem::bad_request(missing))?;
    answer(&caller, &session, &query, &to).await
}

/// `GET /api/ice/signals/{session_id}`
pub(super) async fn signals(
    caller: Caller,
    session: web::Path<String>,
    query: web::Query<SignalsQuery>,
    to: To,
) -> Answered {
    let other = |id: &String| *id != *session;
    if query.session_id.as_ref().is_some_and(other) {
        return Err(Problem::bad_request("the path names another session"));
    }
    answer(&caller, &session, &query, &to).await
}

async fn answer(caller: &Caller, session: &str, query: &SignalsQuery, to: &To) -> Answered {
    caller.must_be(&PARTIES, "has sessions")?;
    check_session_id(session)?;
    let limit = waiting_time(query.wait)?;
    let mut waiting = to.bus.wait_for_session(session, limit);
    let _counted = to.waits(limit);
    loop {
        let signals = to
            .store
            .signals(caller.user, session, query.after, &to.terms);
        let signals = signals.await?;
        if !signals.is_empty() || !waiting.goes_on().await {
            return Ok(HttpResponse::Ok().json(signals));
        }
    }
}

/// What helps to a connection.
pub(super) async fn servers(caller: Caller, to: To) -> Answered {
    let servers: IceServers = to.ice.of(caller.user);
    Ok(HttpResponse::Ok().json(servers))
}
