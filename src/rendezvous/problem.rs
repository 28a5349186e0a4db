//! What went wrong: `{"error": {"code", "message"}, "request_id"}`.

use std::fmt;
use std::time::Duration;

use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpResponse, ResponseError};

use super::store::{Refused, is_full};
use super::tokens::TokenFault;
use crate::protocol::rendezvous::{ErrorBody, ErrorInfo, Unfit};

tokio::task_local! {
    /// The number of the request that this thread is busy with.
    pub(super) static REQUEST_ID: String;
}

/// An answer that says what went wrong, to what, and what to do.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
    allow: Option<String>,
    request_id: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
            allow: None,
            request_id: REQUEST_ID.try_with(Clone::clone).unwrap_or_default(),
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Too many of something; after so long there is room again.
    pub(super) fn too_many(message: impl Into<String>, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message)
        }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(2)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        }
    }

    pub(super) fn wrong_method(methods: &[Method]) -> Self {
        let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
        let methods = methods.join(", ");
        let message = format!("this path takes {methods} only");
        Self {
            allow: Some(methods),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
        }
    }
}

impl From<TokenFault> for Problem {
    fn from(fault: TokenFault) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad_token", fault.to_string())
    }
}

impl From<Unfit> for Problem {
    fn from(unfit: Unfit) -> Self {
        Self::bad_request(unfit.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::NoSession => Self::new(StatusCode::NOT_FOUND, "no_session", text),
            Refused::Claimed => Self::new(StatusCode::CONFLICT, "claimed", text),
            Refused::ManySessions(_) => Self::too_many(text, Duration::from_secs(60)),
            Refused::ManySignals(_) | Refused::ManyBytes(_) => {
                Self::too_many(text, Duration::from_secs(600))
            }
            Refused::Database(error) if is_full(&error) => {
                tracing::error!(%error, "the disk of the database is full: make room there");
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "disk_full",
                    "the disk of this rendezvous is full; whoever runs it must make room",
                )
            }
            Refused::Database(error) => {
                tracing::error!(%error, "the database failed");
                Self::unavailable("the database of this rendezvous does not answer; try again")
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            answer.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs_f64().ceil().max(1.0);
            answer.insert_header((header::RETRY_AFTER, format!("{seconds:.0}")));
        }
        if let Some(allow) = self
            .allow
            .as_deref()
            .and_then(|methods| HeaderValue::from_str(methods).ok())
        {
            answer.insert_header((header::ALLOW, allow));
        }
        let body = ErrorBody {
            error: ErrorInfo {
                code: self.code.to_owned(),
                message: self.message.clone(),
            },
            request_id: self.request_id.clone(),
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        answer.content_type("application/json").body(body)
    }
}
