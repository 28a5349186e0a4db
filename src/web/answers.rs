//! From requests and events to HTTP and back.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{MAX_BODY, REQUEST_LIMIT};
use crate::actors::api::{Event, Request, exit};
use crate::actors::service::Node;

/// How long the node may take over an answer that is not a stream.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An answer, whole.
pub(super) struct Answer {
    /// Everything but notes.
    pub(super) events: Vec<Event>,
    /// Words for people.
    notes: Vec<String>,
}

/// Asks, and waits for the whole answer. An answer with an error in it is a problem.
pub(super) async fn ask(node: &Node, request: Request) -> Result<Answer, Problem> {
    gather(node, request, |_| false).await
}

/// Asks, and waits for the first event that is what is wanted, or the end.
pub(super) async fn gather(
    node: &Node,
    request: Request,
    enough: fn(&Event) -> bool,
) -> Result<Answer, Problem> {
    let mut events = node.ask(request);
    let gathering = async {
        let mut answer = Answer {
            events: Vec::new(),
            notes: Vec::new(),
        };
        let mut failed = None;
        while let Some(event) = events.recv().await {
            match event {
                Event::Error { message } => failed = Some(message),
                Event::Note { text } => answer.notes.push(text),
                Event::End { code } => {
                    return match failed {
                        Some(message) => Err(Problem::of_code(code, message)),
                        None => Ok(answer),
                    };
                }
                event => {
                    let last = enough(&event);
                    answer.events.push(event);
                    if last {
                        return Ok(answer);
                    }
                }
            }
        }
        let gone = "the service ended before it had answered; start it again and repeat";
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, gone))
    };
    match tokio::time::timeout(ANSWER_LIMIT, gathering).await {
        Ok(answer) => answer,
        Err(_) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!(
                "the service has not answered for {} s; see its log",
                ANSWER_LIMIT.as_secs()
            ),
        )),
    }
}

impl Answer {
    /// All of it: `{"items": [...], "notes": [...]}`.
    pub(super) fn list(self) -> Result<HttpResponse, Problem> {
        json(
            StatusCode::OK,
            &json!({ "items": self.events, "notes": self.notes }),
        )
    }

    /// The one thing that it is about.
    pub(super) fn one(self, status: StatusCode) -> Result<HttpResponse, Problem> {
        match self.events.into_iter().next() {
            Some(event) => json(status, &event),
            None => Ok(HttpResponse::NoContent().finish()),
        }
    }
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Result<HttpResponse, Problem> {
    let text = serde_json::to_string(body).map_err(|error| {
        let detail = format!("the answer cannot be written: {error}");
        Problem::of_code(exit::ERROR, detail)
    })?;
    Ok(HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type("application/json")
        .body(text))
}

/// Reads the body of a request: JSON, of bounded size, in bounded time.
pub(super) async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    body: web::Payload,
) -> Result<T, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // A form of a page in a browser cannot say this.
    if !kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/json")
    {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the body as JSON, with `Content-Type: application/json`",
        ));
    }
    let bytes = match tokio::time::timeout(REQUEST_LIMIT, bytes(body)).await {
        Ok(bytes) => bytes?,
        Err(_) => {
            let detail = format!("the body did not come within {} s", REQUEST_LIMIT.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let text = crate::protocol::names::brief(&error.to_string());
        let detail = format!("the body is not what is documented in /v1/openapi.json: {text}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}

async fn bytes(mut body: web::Payload) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| {
            let text = crate::protocol::names::brief(&error.to_string());
            Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {text}"),
            )
        })?;
        if bytes.len() + part.len() > MAX_BODY {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body has more than {MAX_BODY} bytes"),
            ));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// An event as JSON, with the word that it is known by.
pub(super) fn named(event: &Event) -> (String, Value) {
    let value = serde_json::to_value(event).unwrap_or_default();
    let name = value["event"].as_str().unwrap_or("event").to_owned();
    (name, value)
}
