//! What went wrong, as `application/problem+json` (RFC 9457).

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use crate::actors::api::exit;

/// An answer that says what went wrong, to what, and what to do.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// A short name of the kind, relative to the document.
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The exit code that the command line has for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    /// Methods that the path has.
    #[serde(skip)]
    allow: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code: None,
            allow: None,
        }
    }

    /// What the command line would end with this code for.
    pub(super) fn of_code(code: u8, detail: impl Into<String>) -> Self {
        let status = match code {
            exit::USAGE => StatusCode::BAD_REQUEST,
            exit::UNAUTHORIZED => StatusCode::FORBIDDEN,
            exit::NO_RECEIVER | exit::SOME_FAILED => StatusCode::CONFLICT,
            exit::DISK => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            code: Some(code),
            ..Self::new(status, detail)
        }
    }

    /// The same, where a wrong name in the path is what is wrong.
    pub(super) fn or_not_found(self) -> Self {
        match self.code {
            Some(exit::USAGE) => Self {
                code: self.code,
                ..Self::new(StatusCode::NOT_FOUND, self.detail)
            },
            _ => self,
        }
    }

    pub(super) fn allowing(self, methods: String) -> Self {
        Self {
            allow: Some(methods),
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status_code());
        answer.insert_header((header::CACHE_CONTROL, "no-store"));
        answer.insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
        if self.status == 401 {
            answer.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if self.status == 503 {
            answer.insert_header((header::RETRY_AFTER, "5"));
        }
        if let Some(allow) = self
            .allow
            .as_deref()
            .and_then(|allow| HeaderValue::from_str(allow).ok())
        {
            answer.insert_header((header::ALLOW, allow));
        }
        let body = serde_json::to_string(self).unwrap_or_default();
        answer.content_type("application/problem+json").body(body)
    }
}
