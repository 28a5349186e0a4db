//! What there is to ask for, path by path. docs/rendezvous-openapi.json says the same, and a test
//! compares the two.

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::door::may_see_numbers;
use super::problem::Problem;
use super::{Shared, devices, ice, relay};

pub(super) type Answered = Result<HttpResponse, Problem>;
pub(super) type To = web::Data<Shared>;

/// The description of all this.
const OPENAPI: &str = include_str!("../../docs/rendezvous-openapi.json");

macro_rules! routes {
    ($($method:ident $path:literal => $handler:path,)*) => {
        /// Every method and path.
        pub(super) const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        /// Puts them all in their places.
        pub(super) fn configure(app: &mut web::ServiceConfig) {
            $(app.route($path, web::$method().to($handler));)*
        }
    };
}

routes! {
    get "/health" => health,
    head "/health" => health,
    get "/metrics" => metrics,
    get "/openapi.json" => openapi,
    post "/api/ice/initiate" => ice::initiate,
    get "/api/ice/sessions" => ice::sessions,
    delete "/api/ice/sessions/{session_id}" => ice::end,
    post "/api/ice/signal" => ice::signal,
    get "/api/ice/signals" => ice::signals_of,
    get "/api/ice/signals/{session_id}" => ice::signals,
    get "/api/ice/servers" => ice::servers,
    get "/api/ice/relay/{session_id}" => relay::session,
    get "/api/devices/socket" => devices::open,
    get "/api/relay/{relay_id}" => relay::devices,
}

/// Where there is nothing.
pub(super) async fn nothing_here(request: HttpRequest) -> Answered {
    let fits = |pattern: &str| {
        let (mut path, mut pattern) = (request.path().split('/'), pattern.split('/'));
        loop {
            match (path.next(), pattern.next()) {
                (None, None) => return true,
                (Some(there), Some(part))
                    if there == part || (part.starts_with('{') && !there.is_empty()) => {}
                _ => return false,
            }
        }
    };
    let there = ROUTES.iter().filter(|(_, pattern)| fits(pattern));
    let methods: Vec<Method> = there
        .filter_map(|(method, _)| method.to_uppercase().parse().ok())
        .collect();
    match methods.is_empty() {
        true => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "nothing_here",
            "there is nothing here; /openapi.json says what there is",
        )),
        false => Err(Problem::wrong_method(&methods)),
    }
}

async fn health(to: To) -> Answered {
    let ok = to.is_well().await;
    let status = match ok {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok(HttpResponse::build(status).json(json!({ "ok": ok })))
}

async fn metrics(request: HttpRequest, to: To) -> Answered {
    if !may_see_numbers(&request, &to) {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "no_token",
            "numbers are told to programs of this machine, and to whoever shows a token",
        ));
    }
    if let Ok(open) = to.store.open_sessions().await {
        to.metrics.open.set(open);
    }
    let devices = to.devices.seats.proven();
    to.metrics
        .devices
        .set(devices.try_into().unwrap_or(i64::MAX));
    if let Some(totals) = to.ice.totals() {
        to.metrics.turn(totals);
    }
    Ok(HttpResponse::Ok()
        .insert_header((
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ))
        .body(to.metrics.text()))
}

async fn openapi() -> Answered {
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(OPENAPI))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut documented = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                if method != "parameters" {
                    documented.insert((method.clone(), path.clone()));
                }
            }
        }
        let routes: BTreeSet<_> = ROUTES
            .iter()
            .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
            .collect();
        assert_eq!(routes, documented);
    }
}
