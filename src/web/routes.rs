//! What there is to ask for, path by path. docs/openapi.json says the same, and a test compares
//! the two.

use std::path::PathBuf;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::Shared;
use super::answers::{ask, gather, json, read};
use super::door::is_known;
use super::problem::Problem;
use super::stream::{self, Form};
use crate::actors::api::{Event, GroupRequest, PairWay, Request, exit};
use crate::protocol::allowance::Share;
use crate::protocol::id::DeviceId;
use crate::protocol::roles::Roles;

type Answered = Result<HttpResponse, Problem>;
type To = web::Data<Shared>;

/// The description of all this.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

macro_rules! routes {
    ($($method:ident $path:literal => $handler:path,)*) => {
        /// Every method and path.
        const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        /// Puts them all in their places.
        pub(super) fn configure(app: &mut web::ServiceConfig) {
            $(app.route($path, web::$method().to($handler));)*
        }
    };
}

routes! {
    get "/health" => health,
    get "/metrics" => metrics,
    get "/v1/openapi.json" => openapi,
    get "/v1/id" => id,
    get "/v1/events" => events,
    post "/v1/requests" => requests,
    get "/v1/peers" => peers,
    put "/v1/authorizations/{device}" => authorize,
    delete "/v1/authorizations/{device}" => revoke,
    get "/v1/transfers" => transfers,
    post "/v1/transfers/{id}/{action}" => steer,
    get "/v1/broadcasts" => broadcasts,
    post "/v1/broadcasts" => send,
    get "/v1/broadcasts/{broadcast}/report" => report,
    get "/v1/groups" => groups,
    get "/v1/groups/{group}" => group,
    delete "/v1/groups/{group}" => remove_group,
    put "/v1/groups/{group}/roles" => group_roles,
    put "/v1/groups/{group}/devices/{device}" => add_to_group,
    delete "/v1/groups/{group}/devices/{device}" => remove_from_group,
    post "/v1/groups/{group}/roster" => export_roster,
    post "/v1/rosters" => import_roster,
    post "/v1/rosters/sign" => sign_roster,
    get "/v1/invites" => invites,
    post "/v1/invites" => invite,
    delete "/v1/invites/{invite}" => revoke_invite,
    post "/v1/joins" => join,
    post "/v1/pairings" => pair,
    put "/v1/pairings/{device}" => answer_pairing,
}

/// Where there is nothing.
pub(super) async fn nothing_here(request: HttpRequest) -> Answered {
    let fits = |pattern: &str| {
        let (mut path, mut pattern) = (request.path().split('/'), pattern.split('/'));
        loop {
            match (path.next(), pattern.next()) {
                (None, None) => return true,
                (Some(there), Some(part)) if part.starts_with('{') || there == part => {}
                _ => return false,
            }
        }
    };
    let methods: Vec<String> = ROUTES
        .iter()
        .filter(|(_, pattern)| fits(pattern))
        .map(|(method, _)| method.to_uppercase())
        .collect();
    if methods.is_empty() {
        let detail = "there is nothing here; /v1/openapi.json says what there is";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let methods = methods.join(", ");
    let detail = format!("this path takes {methods} only");
    Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).allowing(methods))
}

async fn health(request: HttpRequest, to: To) -> Answered {
    let health = to.node.health().await;
    let status = match health.ok {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    match is_known(&request) {
        true => json(status, &health),
        // Strangers need not know what is wrong.
        false => json(status, &json!({ "ok": health.ok })),
    }
}

async fn metrics(to: To) -> Answered {
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(to.node.metrics().text()))
}

async fn openapi() -> Answered {
    Ok(HttpResponse::Ok()
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type("application/json")
        .body(OPENAPI))
}

async fn id(to: To) -> Answered {
    ask(&to.node, Request::Id).await?.one(StatusCode::OK)
}

async fn events(to: To) -> Answered {
    stream::answer(&to, Request::Watch, Form::Sse)
}

async fn requests(request: HttpRequest, body: web::Payload, to: To) -> Answered {
    let asked: Request = read(&request, body).await?;
    stream::answer(&to, asked, Form::Lines)
}

async fn peers(to: To) -> Answered {
    ask(&to.node, Request::Peers).await?.list()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authorization {
    #[serde(default)]
    name: String,
    #[serde(default)]
    roles: Option<Roles>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    seconds: Option<u64>,
}

async fn authorize(
    request: HttpRequest,
    device: web::Path<String>,
    body: web::Payload,
    to: To,
) -> Answered {
    let device = device_id(&device)?;
    let terms: Authorization = read(&request, body).await?;
    let asked = Request::Authorize {
        device,
        name: terms.name,
        roles: terms.roles,
        group: terms.group,
        seconds: terms.seconds,
    };
    ask(&to.node, asked).await?.one(StatusCode::OK)
}

async fn revoke(device: web::Path<String>, to: To) -> Answered {
    let device = device.into_inner();
    let answer = ask(&to.node, Request::Revoke { device }).await;
    answer.map_err(Problem::or_not_found)?.one(StatusCode::OK)
}

async fn transfers(to: To) -> Answered {
    ask(&to.node, Request::Transfers).await?.list()
}

async fn steer(path: web::Path<(String, String)>, to: To) -> Answered {
    let (what, action) = path.into_inner();
    let asked = match action.as_str() {
        "pause" => Request::Pause { what },
        "resume" => Request::Resume { what },
        "cancel" => Request::Cancel { what },
        "accept" => Request::Accept { what },
        "refuse" => Request::Refuse { what },
        _ => {
            let detail = "a transfer can be told to pause, resume, cancel, accept or refuse";
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
    };
    let answer = ask(&to.node, asked).await;
    answer.map_err(Problem::or_not_found)?.list()
}

async fn broadcasts(to: To) -> Answered {
    ask(&to.node, Request::Broadcasts).await?.list()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sending {
    paths: Vec<PathBuf>,
    to: Vec<String>,
    #[serde(default)]
    wait_ms: Option<u64>,
    #[serde(default)]
    share: Share,
}

async fn send(request: HttpRequest, body: web::Payload, to: To) -> Answered {
    let sending: Sending = read(&request, body).await?;
    if sending.paths.is_empty() || sending.to.is_empty() {
        let detail = "paths and to must name something";
        return Err(Problem::of_code(exit::USAGE, detail));
    }
    if let Some(path) = sending.paths.iter().find(|path| !path.is_absolute()) {
        let shown = crate::protocol::names::brief(&path.to_string_lossy());
        let detail = format!("{shown:?} is not an absolute path");
        return Err(Problem::of_code(exit::USAGE, detail));
    }
    let asked = Request::Send {
        paths: sending.paths,
        to: sending.to,
        wait_ms: sending.wait_ms,
        share: sending.share,
    };
    // How it goes is told by the events and the report; it goes on without us.
    let begun = |event: &Event| matches!(event, Event::Broadcast { .. });
    let answer = gather(&to.node, asked, begun).await?;
    answer.one(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
struct ReportOptions {
    version: Option<u64>,
    format: Option<String>,
}

async fn report(
    what: web::Path<String>,
    options: Result<web::Query<ReportOptions>, actix_web::Error>,
    to: To,
) -> Answered {
    let options = options.map_err(|_| {
        Problem::of_code(exit::USAGE, "version is a number, and format json or csv")
    })?;
    let asked = Request::Report {
        what: what.into_inner(),
        version: options.version,
    };
    let answer = ask(&to.node, asked).await.map_err(Problem::or_not_found)?;
    match options.format.as_deref() {
        None | Some("json") => answer.one(StatusCode::OK),
        Some("csv") => {
            let table = answer.events.iter().find_map(|event| match event {
                Event::Report(report) => Some(report.csv()),
                _ => None,
            });
            Ok(HttpResponse::Ok()
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .insert_header((
                    header::CONTENT_DISPOSITION,
                    "attachment; filename=\"report.csv\"",
                ))
                .content_type("text/csv; charset=utf-8")
                .body(table.unwrap_or_default()))
        }
        Some(_) => Err(Problem::of_code(exit::USAGE, "format is json or csv")),
    }
}

async fn groups(to: To) -> Answered {
    ask(&to.node, Request::Group(GroupRequest::List))
        .await?
        .list()
}

async fn of_group(to: &To, asked: GroupRequest) -> Answered {
    let answer = ask(&to.node, Request::Group(asked)).await;
    answer.map_err(Problem::or_not_found)?.one(StatusCode::OK)
}

async fn group(group: web::Path<String>, to: To) -> Answered {
    let group = group.into_inner();
    of_group(&to, GroupRequest::Show { group }).await
}

async fn remove_group(group: web::Path<String>, to: To) -> Answered {
    let (group, devices) = (group.into_inner(), Vec::new());
    of_group(&to, GroupRequest::Remove { group, devices }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupRoles {
    roles: Option<Roles>,
}

async fn group_roles(
    request: HttpRequest,
    group: web::Path<String>,
    body: web::Payload,
    to: To,
) -> Answered {
    let GroupRoles { roles } = read(&request, body).await?;
    let group = group.into_inner();
    of_group(&to, GroupRequest::Roles { group, roles }).await
}

async fn add_to_group(path: web::Path<(String, String)>, to: To) -> Answered {
    let (group, device) = path.into_inner();
    let devices = vec![device];
    of_group(&to, GroupRequest::Add { group, devices }).await
}

async fn remove_from_group(path: web::Path<(String, String)>, to: To) -> Answered {
    let (group, device) = path.into_inner();
    let devices = vec![device];
    of_group(&to, GroupRequest::Remove { group, devices }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RosterNote {
    #[serde(default)]
    note: String,
}

async fn export_roster(
    request: HttpRequest,
    group: web::Path<String>,
    body: web::Payload,
    to: To,
) -> Answered {
    let RosterNote { note } = read(&request, body).await?;
    let group = group.into_inner();
    of_group(&to, GroupRequest::Export { group, note }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedRoster {
    roster: String,
    #[serde(default)]
    admin: Option<DeviceId>,
}

async fn import_roster(request: HttpRequest, body: web::Payload, to: To) -> Answered {
    let SignedRoster { roster, admin } = read(&request, body).await?;
    let asked = Request::Group(GroupRequest::Import { roster, admin });
    ask(&to.node, asked).await?.list()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RosterDraft {
    draft: String,
    seconds: u64,
    #[serde(default)]
    version: Option<u64>,
}

async fn sign_roster(request: HttpRequest, body: web::Payload, to: To) -> Answered {
    let RosterDraft {
        draft,
        seconds,
        version,
    } = read(&request, body).await?;
    let asked = Request::Group(GroupRequest::Sign {
        draft,
        seconds,
        version,
    });
    ask(&to.node, asked).await?.one(StatusCode::OK)
}

async fn invites(to: To) -> Answered {
    ask(&to.node, Request::Invites).await?.list()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewInvite {
    uses: u32,
    for_ms: u64,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    roles: Option<Roles>,
    #[serde(default)]
    addresses: Vec<std::net::SocketAddr>,
}

async fn invite(request: HttpRequest, body: web::Payload, to: To) -> Answered {
    let new: NewInvite = read(&request, body).await?;
    let asked = Request::Invite {
        uses: new.uses,
        for_ms: new.for_ms,
        group: new.group,
        roles: new.roles,
        addresses: new.addresses,
    };
    ask(&to.node, asked).await?.one(StatusCode::CREATED)
}

async fn revoke_invite(what: web::Path<String>, to: To) -> Answered {
    let what = what.into_inner();
    let answer = ask(&to.node, Request::RevokeInvite { what }).await;
    answer.map_err(Problem::or_not_found)?.list()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    invite: String,
}

async fn join(request: HttpRequest, body: web::Payload, to: To) -> Answered {
    let Join { invite } = read(&request, body).await?;
    stream::answer(&to, Request::Join { invite }, Form::Lines)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pairing {
    #[serde(default)]
    with: Option<String>,
    #[serde(default)]
    addresses: Vec<std::net::SocketAddr>,
    way: PairWay,
    for_ms: u64,
}

async fn pair(request: HttpRequest, body: web::Payload, to: To) -> Answered {
    let new: Pairing = read(&request, body).await?;
    let asked = Request::Pair {
        with: new.with,
        addresses: new.addresses,
        way: new.way,
        for_ms: new.for_ms,
    };
    stream::answer(&to, asked, Form::Lines)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairAnswer {
    yes: bool,
}

async fn answer_pairing(
    request: HttpRequest,
    device: web::Path<String>,
    body: web::Payload,
    to: To,
) -> Answered {
    let device = device_id(&device)?;
    let PairAnswer { yes } = read(&request, body).await?;
    let answer = ask(&to.node, Request::PairAnswer { device, yes }).await?;
    answer.one(StatusCode::OK)
}

fn device_id(text: &str) -> Result<DeviceId, Problem> {
    let id = text.parse::<DeviceId>().ok();
    id.filter(DeviceId::is_self_certifying).ok_or_else(|| {
        let detail = "a device id has 32 characters of a-z and 2-7";
        Problem::of_code(exit::USAGE, detail)
    })
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
