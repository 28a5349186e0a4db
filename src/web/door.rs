//! Who may ask: programs of this machine that know the token, and no page in a browser.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, ResponseError, web};
use subtle::ConstantTimeEq;

use super::Shared;
use super::problem::Problem;

/// What needs no token. `/health` says nothing to strangers but whether all is well.
const OPEN: [&str; 2] = ["/health", "/v1/openapi.json"];

/// What is compared with.
pub(super) struct Door {
    /// A hash of it, so that its length does not tell anything either.
    token: [u8; 32],
    hosts: Vec<String>,
}

impl Door {
    pub(super) fn new(token: String, hosts: Vec<String>) -> Self {
        Self {
            token: *blake3::hash(token.as_bytes()).as_bytes(),
            hosts,
        }
    }

    /// Shows that a request comes from no page: not from one of another name (`Host`), nor of
    /// another place (`Origin`, and what browsers add by themselves).
    fn comes_from_a_program(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = one(headers, &header::HOST);
        let ours = |host: &str| {
            self.hosts
                .iter()
                .any(|ours| ours.eq_ignore_ascii_case(host))
        };
        if !host.is_some_and(ours) {
            return Err(forbidden(format!(
                "the Host header must be one of {}",
                self.hosts.join(", ")
            )));
        }
        if headers.contains_key(header::ORIGIN) {
            let origin = one(headers, &header::ORIGIN).and_then(|o| o.strip_prefix("http://"));
            if origin.is_none() || origin != host {
                return Err(forbidden("pages of other origins may not ask"));
            }
        }
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        if matches!(site, Some(site) if site != b"same-origin" && site != b"none") {
            return Err(forbidden("pages of other sites may not ask"));
        }
        Ok(())
    }

    pub(super) fn knows_token(&self, headers: &HeaderMap) -> bool {
        let shown = one(headers, &header::AUTHORIZATION).and_then(|said| {
            let (scheme, token) = said.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let Some(shown) = shown else {
            return false;
        };
        let shown = blake3::hash(shown.as_bytes());
        shown.as_bytes().ct_eq(&self.token).into()
    }

    fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        self.comes_from_a_program(headers)?;
        if OPEN.contains(&path) || self.knows_token(headers) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "send the token as `Authorization: Bearer TOKEN`; it is in the file that api.token_file \
             names, api.token in the state folder where it names none",
        ))
    }
}

fn forbidden(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail)
}

/// A header that is there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name);
    let value = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(value)
}

/// Lets a request through, or not.
pub(super) async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let door = request.app_data::<web::Data<Door>>().cloned();
    let admitted = match door {
        Some(door) => door.admit(request.path(), request.headers()),
        None => Err(forbidden("there is no door")),
    };
    match admitted {
        Ok(()) => Ok(next.call(request).await?.map_into_boxed_body()),
        Err(problem) => Ok(request.into_response(problem.error_response())),
    }
}

/// Counts what was answered.
pub(super) async fn count(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let shared = request.app_data::<web::Data<Shared>>().cloned();
    let answered = next.call(request).await;
    let status = match &answered {
        Ok(answer) => answer.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    if let Some(shared) = shared {
        shared.node.metrics().answered(status.as_u16());
    }
    answered
}

/// True when a request that needs no token has shown it all the same.
pub(super) fn is_known(request: &HttpRequest) -> bool {
    let door = request.app_data::<web::Data<Door>>();
    door.is_some_and(|door| door.knows_token(request.headers()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn door() -> Door {
        let hosts = ["localhost:7070", "127.0.0.1:7070", "[::1]:7070"];
        Door::new(
            "secret-secret-secret".to_owned(),
            hosts.map(str::to_owned).into(),
        )
    }

    fn admit(path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = TestRequest::get();
        for (name, value) in headers {
            request = request.append_header((*name, *value));
        }
        let request = request.to_http_request();
        let admitted = door().admit(path, request.headers());
        admitted.map_or_else(|problem| problem.status_code().as_u16(), |()| 200)
    }

    const HOST: (&str, &str) = ("Host", "127.0.0.1:7070");
    const TOKEN: (&str, &str) = ("Authorization", "Bearer secret-secret-secret");

    #[test]
    fn only_the_token_itself_opens() {
        assert_eq!(admit("/v1/id", &[HOST, TOKEN]), 200);
        assert_eq!(
            admit(
                "/v1/id",
                &[HOST, ("Authorization", "bearer secret-secret-secret")]
            ),
            200
        );
        assert_eq!(admit("/v1/id", &[HOST]), 401);
        for wrong in [
            "Bearer secret-secret-secre",
            "Bearer secret-secret-secrett",
            "Bearer ",
            "Basic secret-secret-secret",
            "secret-secret-secret",
        ] {
            assert_eq!(
                admit("/v1/id", &[HOST, ("Authorization", wrong)]),
                401,
                "{wrong}"
            );
        }
        assert_eq!(
            admit("/v1/id", &[HOST, TOKEN, ("Authorization", "Bearer x")]),
            401
        );
        assert_eq!(admit("/health", &[HOST]), 200);
        assert_eq!(admit("/health/", &[HOST]), 401);
        assert_eq!(admit("/metrics", &[HOST]), 401);
    }

    #[test]
    fn names_that_are_not_ours_are_refused_before_anything_else() {
        for ours in ["localhost:7070", "LOCALHOST:7070", "[::1]:7070"] {
            assert_eq!(admit("/health", &[("Host", ours)]), 200, "{ours}");
        }
        for other in [
            "localhost",
            "localhost:7071",
            "evil.example:7070",
            "127.0.0.1.evil.example:7070",
            "127.0.0.1:7070.evil.example",
            "evil@127.0.0.1:7070",
            "",
        ] {
            assert_eq!(admit("/health", &[("Host", other)]), 403, "{other}");
        }
        assert_eq!(admit("/health", &[]), 403);
        assert_eq!(admit("/health", &[HOST, HOST]), 403);
        assert_eq!(admit("/v1/id", &[("Host", "evil.example"), TOKEN]), 403);
    }

    #[test]
    fn pages_of_other_origins_are_refused_even_with_the_token() {
        let with = |name, value| admit("/v1/id", &[HOST, TOKEN, (name, value)]);
        assert_eq!(with("Origin", "http://127.0.0.1:7070"), 200);
        for other in [
            "http://localhost:7070",
            "https://127.0.0.1:7070",
            "http://127.0.0.1:7071",
            "http://127.0.0.1",
            "http://evil.example",
            "null",
            "",
        ] {
            assert_eq!(with("Origin", other), 403, "{other}");
        }
        assert_eq!(with("Sec-Fetch-Site", "same-origin"), 200);
        assert_eq!(with("Sec-Fetch-Site", "none"), 200);
        assert_eq!(with("Sec-Fetch-Site", "cross-site"), 403);
        assert_eq!(with("Sec-Fetch-Site", "same-site"), 403);
    }
}
