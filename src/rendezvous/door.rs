//! What happens around every request: its number, limits, the log, who asks.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpRequest, ResponseError, web};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use tracing::Instrument;

use super::limits::whole;
use super::problem::{Problem, REQUEST_ID};
use super::routes::ROUTES;
use super::tokens::unix_now;
use super::{REQUEST_LIMIT, Shared};
use crate::protocol::names::brief;
use crate::protocol::rendezvous::{ClientType, MAX_BODY};

/// Where answers tell the number of their request, and where a proxy may have said one.
const ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long an answer may take: a long poll, and what the database needs.
const ANSWER_LIMIT: Duration = Duration::from_secs(45);
/// No socket lasts longer, in seconds.
const LONGEST: u64 = 30 * 86_400;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whoever has shown a token.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Their number.
    pub(super) user: i64,
    /// What they may do.
    pub(super) kind: ClientType,
    /// Until when the token holds.
    pub(super) until: Instant,
}

impl Caller {
    /// An error for all but these.
    pub(super) fn must_be(&self, kinds: &[ClientType], what: &str) -> Result<(), Problem> {
        match kinds.contains(&self.kind) {
            true => Ok(()),
            false => {
                let kinds: Vec<String> = kinds
                    .iter()
                    .map(|kind| u8::from(*kind).to_string())
                    .collect();
                Err(Problem::forbidden(format!(
                    "only client type {} {what}; this token is for type {}",
                    kinds.join(" or "),
                    u8::from(self.kind)
                )))
            }
        }
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let shared = shared(&request)?;
            let token = bearer(request.headers()).ok_or_else(|| {
                Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "no_token",
                    "send a token, once, as `Authorization: Bearer TOKEN`; `handout rendezvous \
                     token` makes one",
                )
            })?;
            let claims = shared.keys.check(token)?;
            let user = shared.user(&claims.sub, claims.client_type).await?;
            shared
                .users_rate
                .take(user, Instant::now())
                .map_err(|wait| {
                    Problem::too_many("this user asks too often; wait, or use `wait`", wait)
                })?;
            tracing::Span::current().record("user", user);
            // Clocks of tokens may count very far.
            let left = claims.exp.saturating_sub(unix_now()).min(LONGEST);
            Ok(Self {
                user,
                kind: claims.client_type,
                until: Instant::now() + Duration::from_secs(left),
            })
        })
    }
}

pub(super) fn shared(request: &HttpRequest) -> Result<web::Data<Shared>, Problem> {
    let shared = request.app_data::<web::Data<Shared>>().cloned();
    shared.ok_or_else(|| Problem::unavailable("the server is not complete"))
}

/// The token of a request, which must be there once.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION);
    let said = all.next()?.to_str().ok()?;
    if all.next().is_some() {
        return None;
    }
    let (scheme, token) = said.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// True where a request comes from this machine and not through a proxy, or shows a good token.
pub(super) fn may_see_numbers(request: &HttpRequest, shared: &Shared) -> bool {
    let direct = !request.headers().contains_key(FORWARDED_FOR)
        && !request.headers().contains_key(header::FORWARDED);
    let here = request
        .peer_addr()
        .is_some_and(|peer| peer.ip().is_loopback());
    let known = || bearer(request.headers()).is_some_and(|token| shared.keys.check(token).is_ok());
    (direct && here) || known()
}

/// Where a request comes from, past the proxies that are believed.
fn origin(request: &ServiceRequest, shared: &Shared) -> Option<IpAddr> {
    let believed = |address: IpAddr| {
        let mut proxies = shared.proxies.iter();
        proxies.any(|network| network.contains(address.to_canonical()))
    };
    let mut address = request.peer_addr()?.ip();
    let said = request.headers().get_all(FORWARDED_FOR);
    let said: Vec<&str> = said.filter_map(|value| value.to_str().ok()).collect();
    let said = said.join(",");
    // Each proxy adds at the end whom it has seen.
    for hop in said.rsplit(',') {
        if !believed(address) {
            break;
        }
        match hop.trim().parse() {
            Ok(further) => address = further,
            Err(_) => break,
        }
    }
    Some(address)
}

/// The number that a proxy gave a request, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let said = headers.get(ID).and_then(|value| value.to_str().ok());
    let fits = |id: &&str| {
        let word = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        (8..=64).contains(&id.len()) && id.bytes().all(word)
    };
    said.filter(fits).map_or_else(
        || {
            let mut random = [0; 8];
            // The number is for people; without randomness it tells little.
            let _ = getrandom::fill(&mut random);
            data_encoding::HEXLOWER.encode(&random)
        },
        str::to_owned,
    )
}

/// Everything around a request.
pub(super) async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let shared = shared(request.request())?;
    let (id, begun) = (request_id(request.headers()), Instant::now());
    let origin = origin(&request, &shared);
    let waits = request.query_string().contains("wait=");
    let shown = origin.map(tracing::field::display);
    let span = tracing::info_span!("request", id, from = shown, user = tracing::field::Empty);
    let method = request.method().clone();
    let work = REQUEST_ID.scope(id.clone(), async {
        let allowed = match origin {
            Some(address) => shared.addresses_rate.take(whole(address), begun),
            None => Ok(()),
        };
        let mut answer = match allowed {
            Ok(()) => {
                // A database that hangs must not hang those who ask.
                let answer = tokio::time::timeout(ANSWER_LIMIT, next.call(request)).await;
                let Ok(answer) = answer else {
                    tracing::error!("there was no answer in time");
                    return Err(
                        Problem::unavailable("there was no answer in time; try again").into(),
                    );
                };
                answer?.map_into_boxed_body()
            }
            Err(wait) => {
                let text = "too many requests come from this address";
                request.into_response(Problem::too_many(text, wait).error_response())
            }
        };
        // Errors of the libraries have a form of their own.
        let plain = answer
            .response()
            .error()
            .is_some_and(|error| error.as_error::<Problem>().is_none());
        if plain && answer.status().is_client_error() {
            let status = answer.status();
            let text = status.canonical_reason().unwrap_or("error").to_lowercase();
            let problem = Problem::new(status, "refused", text);
            answer = answer.into_response(problem.error_response());
        }
        let pattern = answer.request().match_pattern();
        let route = pattern.and_then(|pattern| {
            let mut all = ROUTES.iter().map(|(_, path)| *path);
            all.find(|path| *path == pattern)
        });
        let (route, status) = (route.unwrap_or("none"), answer.status());
        let took = begun.elapsed();
        shared
            .metrics
            .answered(route, status.as_u16(), (!waits).then_some(took));
        let (status, ms) = (status.as_u16(), took.as_secs_f64() * 1e3);
        match status {
            500.. => tracing::warn!(%method, route, status, ms, "answered"),
            _ => tracing::info!(%method, route, status, ms, "answered"),
        }
        Ok::<_, Error>(answer)
    });
    let mut answer = work.instrument(span).await?;
    let headers = answer.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(ID, id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    Ok(answer)
}

/// Reads the body of a request: JSON, of bounded size, in bounded time.
pub(super) async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    body: web::Payload,
) -> Result<T, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "no_json",
            "send the body as JSON, with `Content-Type: application/json`",
        ));
    }
    let bytes = tokio::time::timeout(REQUEST_LIMIT, bytes(body)).await;
    let bytes = bytes.unwrap_or_else(|_| Err(late()))?;
    // A list of the members' values would be taken, too.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        let text = "the body is not what /openapi.json describes: it must be an object";
        return Err(Problem::bad_request(text));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let text = brief(&error.to_string());
        Problem::bad_request(format!(
            "the body is not what /openapi.json describes: {text}"
        ))
    })
}

fn late() -> Problem {
    let limit = Duration::as_secs(&REQUEST_LIMIT);
    let text = format!("the body did not come within {limit} s");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", text)
}

async fn bytes(mut body: web::Payload) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| {
            let text = brief(&error.to_string());
            Problem::bad_request(format!("the body cannot be read: {text}"))
        })?;
        if bytes.len() + part.len() > MAX_BODY {
            let text = format!("the body has more than {MAX_BODY} bytes");
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                text,
            ));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}
