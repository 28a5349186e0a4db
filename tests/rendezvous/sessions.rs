//! Sessions and their signals, as the first clients use them; the same on both databases.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::postgres::Database;
use super::server::{DEVICE, PROVIDER, REQUESTER, Server, asked};

/// A session that lasts a moment when nothing is said in it.
const SHORT: &str = "rendezvous.serve.session_for=10s";

#[test]
fn two_clients_come_to_each_other_on_sqlite() {
    let server = Server::start(&[]);
    the_flow_of_the_first_clients(&server);
    only_the_two_parties_have_a_session(&server);
    one_client_of_a_user_has_a_session(&server);
    a_list_is_of_some_types_and_goes_on_after_a_session(&server);
    a_long_poll_ends_when_something_comes(&server);
    what_cannot_be_is_refused(&server);
    one_of_many_has_a_session(&server);
}

#[test]
fn two_clients_come_to_each_other_on_postgresql() {
    let database = Database::new();
    let server = Server::start(&[&database.setting()]);
    the_flow_of_the_first_clients(&server);
    only_the_two_parties_have_a_session(&server);
    one_client_of_a_user_has_a_session(&server);
    a_list_is_of_some_types_and_goes_on_after_a_session(&server);
    a_long_poll_ends_when_something_comes(&server);
    what_cannot_be_is_refused(&server);
    one_of_many_has_a_session(&server);
    let rows = database.sql("SELECT status, request_type FROM file_transfers ORDER BY id LIMIT 1");
    assert_eq!(rows, "connecting|spectrum");
}

#[test]
fn a_server_that_is_killed_loses_no_session_on_sqlite() {
    a_killed_server_loses_nothing(Server::start(&[]));
}

#[test]
fn a_server_that_is_killed_loses_no_session_on_postgresql() {
    let database = Database::new();
    a_killed_server_loses_nothing(Server::start(&[&database.setting()]));
}

#[test]
fn a_session_ends_when_nothing_is_said_any_more_on_sqlite() {
    a_session_ends(&Server::start(&[SHORT]));
}

#[test]
fn a_session_ends_when_nothing_is_said_any_more_on_postgresql() {
    let database = Database::new();
    let server = Server::start(&[SHORT, &database.setting()]);
    a_session_ends(&server);
    let statuses = "SELECT DISTINCT status FROM ice_sessions";
    let end = Instant::now() + Duration::from_secs(30);
    while database.sql(statuses) != "expired" {
        assert!(Instant::now() < end, "{}", database.sql(statuses));
        std::thread::park_timeout(Duration::from_millis(200));
    }
    assert_eq!(database.sql("SELECT COUNT(*) FROM ice_candidates"), "0");
}

fn the_flow_of_the_first_clients(server: &Server) {
    let (asks, provides) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
    );
    assert_eq!(
        server.get(&provides, "/api/ice/sessions").expect(200),
        json!([])
    );
    let session = server.post(&asks, "/api/ice/initiate", &asked("spectrum"));
    let session = session.expect(201);
    for key in [
        "session_id",
        "initiator_user_id",
        "target_user_id",
        "request_type",
        "parameters",
        "status",
    ] {
        assert!(session[key].is_string(), "{key}: {session}");
    }
    assert_eq!(session["target_user_id"], "");
    assert_eq!(session["parameters"], asked("spectrum")["parameters"]);
    let id = session["session_id"].as_str().unwrap();
    assert_eq!(server.signals(&asks, id), [Value::Null; 0]);
    let list = server.get(&provides, "/api/ice/sessions").expect(200);
    assert_eq!(list, json!([session]), "it is listed as it was begun");
    // pion finds candidates before its offer is on the way.
    let candidate = r#"{"candidate":"candidate:1 1 udp 1 10.0.0.1 9 typ host","sdpMid":"0"}"#;
    let taken = server.signal(&provides, id, "candidate", candidate);
    assert!(taken.expect(200).is_object());
    assert_eq!(server.waiting(&provides), [""; 0], "it is claimed");
    server
        .signal(&provides, id, "offer", "{\"type\":\"offer\"}")
        .expect(200);
    let signals = server.signals(&asks, id);
    let kinds: Vec<_> = signals.iter().map(|s| s["signal_type"].as_str()).collect();
    assert_eq!(kinds, [Some("candidate"), Some("offer")]);
    assert_eq!(signals[0]["signal_data"], candidate);
    assert!(signals[0]["id"].is_i64() && signals[0]["from_client_id"].is_string());
    assert_eq!(signals[0]["to_client_id"], session["initiator_user_id"]);
    assert_eq!(
        server.signals(&asks, id),
        signals,
        "reading consumes nothing"
    );
    assert_eq!(
        server.signals(&provides, id),
        [Value::Null; 0],
        "nothing of one's own"
    );
    server
        .signal(&asks, id, "answer", "{\"type\":\"answer\"}")
        .expect(200);
    let answers = server.get(&provides, &format!("/api/ice/signals?session_id={id}"));
    assert_eq!(answers.expect(200)[0]["signal_type"], "answer");
    let after = signals[0]["id"].as_i64().unwrap();
    let later = server.get(&asks, &format!("/api/ice/signals/{id}?after={after}"));
    assert_eq!(later.expect(200), json!([signals[1]]));
}

fn only_the_two_parties_have_a_session(server: &Server) {
    let asks = server.token("asks", REQUESTER);
    let provides = server.token("provides", PROVIDER);
    let id = server.initiate(&asks);
    let other_provider = server.token("other", PROVIDER);
    let other_requester = server.token("other", REQUESTER);
    let device = server.token("device", DEVICE);
    let path = format!("/api/ice/signals/{id}");
    for stranger in [&provides, &other_requester] {
        server.get(stranger, &path).expect(404);
    }
    server
        .signal(&other_requester, &id, "candidate", "x")
        .expect(404);
    server.signal(&provides, &id, "offer", "x").expect(200);
    server
        .signal(&other_provider, &id, "offer", "x")
        .expect(409);
    server.get(&other_provider, &path).expect(404);
    // Who may do what at all.
    server
        .post(&provides, "/api/ice/initiate", &asked("spectrum"))
        .expect(403);
    server
        .post(&device, "/api/ice/initiate", &asked("spectrum"))
        .expect(403);
    server.get(&asks, "/api/ice/sessions").expect(403);
    server.get(&device, "/api/ice/sessions").expect(403);
    server.get(&device, &path).expect(403);
    server.signal(&device, &id, "candidate", "x").expect(403);
    server.signal(&asks, &id, "offer", "x").expect(403);
    server.signal(&provides, &id, "answer", "x").expect(403);
    server.get(&device, "/api/ice/servers").expect(200);
    // A name with another role is somebody else.
    let namesake = server.token("provides", REQUESTER);
    server.get(&namesake, &path).expect(404);
}

/// Two processes with one token are one user; the one that has the session says which it is.
fn one_client_of_a_user_has_a_session(server: &Server) {
    let asks = server.token("asks", REQUESTER);
    let provides = server.token("provides", PROVIDER);
    let offer = |session: &str, client: Option<&str>, status| {
        let mut body = json!({"session_id": session, "signal_type": "offer", "signal_data": "x"});
        if let Some(client) = client {
            body["client"] = json!(client);
        }
        server
            .post(&provides, "/api/ice/signal", &body)
            .expect(status);
    };
    let (ours, theirs) = (server.initiate(&asks), server.initiate(&asks));
    offer(&ours, Some("a b"), 400);
    offer(&ours, Some("one"), 200);
    offer(&ours, Some("other"), 409);
    offer(&ours, None, 409);
    offer(&ours, Some("one"), 200);
    offer(&theirs, None, 200);
    offer(&theirs, Some("one"), 409);
    offer(&theirs, None, 200);
    let signals = server.signals(&asks, &ours);
    assert_eq!(signals.len(), 2, "{signals:?}");
    assert!(signals[0].get("client").is_none());
}

/// Whoever provides sees what is meant for them, however much else waits before it.
fn a_list_is_of_some_types_and_goes_on_after_a_session(server: &Server) {
    let asks = server.token("lists", REQUESTER);
    let provides = server.token("provides", PROVIDER);
    let begin = |kind: &str| {
        let session = server.post(&asks, "/api/ice/initiate", &asked(kind));
        session.expect(201)["session_id"].clone()
    };
    let [first, _, third, fourth] = ["list_1", "list-1", "list-2", "list_1"].map(begin);
    let list = |query: String| {
        let list = server.get(&provides, &format!("/api/ice/sessions?{query}"));
        let list = list.expect(200);
        let ids = list.as_array().unwrap().iter();
        ids.map(|session| session["session_id"].clone())
            .collect::<Vec<_>>()
    };
    let named = "request_type=list_1,nothing,list-2";
    assert_eq!(
        list(named.to_owned()),
        [first.clone(), third.clone(), fourth.clone()]
    );
    let after = |session: &Value| format!("{named}&after={}", session.as_str().unwrap());
    assert_eq!(list(after(&first)), [third, fourth.clone()]);
    assert_eq!(list(after(&fourth)), [Value::Null; 0]);
    assert_eq!(list("request_type=list".to_owned()), [Value::Null; 0]);
    for bad in [
        "after=x".to_owned(),
        format!("request_type={}", "x,".repeat(16)),
    ] {
        let path = format!("/api/ice/sessions?{bad}");
        server.get(&provides, &path).expect(400);
    }
}

fn a_long_poll_ends_when_something_comes(server: &Server) {
    let (asks, provides) = (
        server.token("polls", REQUESTER),
        server.token("polled", PROVIDER),
    );
    // A server looks again every 5 s even where it is told nothing.
    let at_once = |begun: Instant| assert!(begun.elapsed() < Duration::from_secs(4), "{begun:?}");
    let until_it_waits = || {
        while server.number("long_polls") != 1 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    std::thread::scope(|scope| {
        let found = scope.spawn(|| {
            let path = "/api/ice/sessions?wait=30&request_type=rare";
            server.get(&provides, path).expect(200)
        });
        until_it_waits();
        let begun = Instant::now();
        let rare = server
            .post(&asks, "/api/ice/initiate", &asked("rare"))
            .expect(201);
        assert_eq!(found.join().unwrap()[0]["session_id"], rare["session_id"]);
        at_once(begun);
        let id = rare["session_id"].as_str().unwrap().to_owned();
        let path = format!("/api/ice/signals/{id}?wait=30");
        let said = scope.spawn(move || server.get(&asks, &path).expect(200));
        until_it_waits();
        let begun = Instant::now();
        server.signal(&provides, &id, "offer", "here").expect(200);
        assert_eq!(said.join().unwrap()[0]["signal_data"], "here");
        at_once(begun);
    });
}

fn what_cannot_be_is_refused(server: &Server) {
    let (asks, provides) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
    );
    let id = server.initiate(&asks);
    let initiate = |key: &str, value: Value| {
        let mut body = asked("spectrum");
        body[key] = value;
        server.post(&asks, "/api/ice/initiate", &body).expect(400);
    };
    initiate("request_type", json!("../etc"));
    initiate("parameters", json!("[]"));
    initiate("parameters", json!({}));
    initiate("file_name", json!("a/b"));
    initiate("file_name", json!("a\u{0}b"));
    initiate("file_size", json!(-1));
    initiate("file_size", json!(1e300));
    initiate("device_id", json!("a b"));
    for body in ["", "{", "[]", "null", "\"x\"", &"[".repeat(10_000)] {
        let answer = server.post_text(&asks, "/api/ice/initiate", "application/json", body);
        answer.expect(400);
    }
    let body = asked("spectrum").to_string();
    server
        .post_text(&asks, "/api/ice/initiate", "text/plain", &body)
        .expect(415);
    let large = format!("{{\"parameters\":\"{}\"}}", "x".repeat(65 << 10));
    server
        .post_text(&asks, "/api/ice/initiate", "application/json", &large)
        .expect(413);
    server.signal(&provides, &id, "bye", "x").expect(400);
    server.signal(&provides, &id, "offer", "").expect(400);
    server
        .signal(&provides, &id, "offer", &"x".repeat(48 << 10))
        .expect(200);
    server.signal(&provides, "x", "offer", "x").expect(400);
    let nobodys = "00000000-0000-4000-8000-000000000000";
    server.signal(&provides, nobodys, "offer", "x").expect(404);
    for (path, status) in [
        ("/api/ice/signals", 400),
        ("/api/ice/signals?session_id=x", 400),
        ("/api/ice/signals/%00", 400),
        ("/api/ice/signals/x'%20OR%201=1", 400),
        ("/api/ice/sessions?wait=31", 400),
        ("/api/ice/sessions?wait=-1", 400),
        ("/api/ice/sessions?wait=x", 400),
        ("/api/ice/sessions?no=1", 400),
        ("/api/ice/initiate", 405),
        ("/api/ice", 404),
        ("/", 404),
    ] {
        server.get(&provides, path).expect(status);
    }
}

fn a_killed_server_loses_nothing(mut server: Server) {
    let (asks, provides) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
    );
    let waiting = server.initiate(&asks);
    let under_way = server.initiate(&asks);
    server
        .signal(&provides, &under_way, "offer", "the offer")
        .expect(200);
    server.kill_and_restart();
    assert_eq!(server.waiting(&provides), [waiting]);
    assert_eq!(
        server.signals(&asks, &under_way)[0]["signal_data"],
        "the offer"
    );
    server
        .signal(&asks, &under_way, "answer", "the answer")
        .expect(200);
    server.kill_and_restart();
    assert_eq!(
        server.signals(&provides, &under_way)[0]["signal_data"],
        "the answer"
    );
    assert_eq!(server.stop(), Some(0));
}

fn a_session_ends(server: &Server) {
    let (asks, provides) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
    );
    let id = server.initiate(&asks);
    server.signal(&provides, &id, "offer", "x").expect(200);
    let waits = server.initiate(&asks);
    server.signal(&provides, &waits, "offer", "x").expect(200);
    let after = server.signals(&asks, &waits)[0]["id"].as_i64().unwrap();
    let polled = server.initiate(&asks);
    let other = server.initiate(&asks);
    // Both of those that are asked for outlast the others, which were begun with them or later.
    std::thread::scope(|scope| {
        let path = format!("/api/ice/signals/{waits}?wait=30&after={after}");
        let last = scope.spawn(|| server.get(&asks, &{ path }).expect(200));
        let end = Instant::now() + Duration::from_secs(25);
        while server.number("open_sessions") != 2 {
            assert_eq!(server.signals(&asks, &polled), [Value::Null; 0]);
            assert!(Instant::now() < end, "they are still there");
            std::thread::park_timeout(Duration::from_millis(200));
        }
        server.signal(&provides, &waits, "offer", "y").expect(200);
        assert_eq!(last.join().unwrap()[0]["signal_data"], "y");
    });
    assert_eq!(server.waiting(&provides), [polled]);
    let path = format!("/api/ice/signals/{id}");
    server.get(&asks, &path).expect(404);
    server.signal(&provides, &id, "candidate", "x").expect(404);
    server.signal(&provides, &other, "offer", "x").expect(404);
}

/// Many providers at once want the same session: one of them has it.
fn one_of_many_has_a_session(server: &Server) {
    let asks = server.token("asks", REQUESTER);
    let providers: Vec<String> = (0..8)
        .map(|number| server.token(&format!("provider-{number}"), PROVIDER))
        .collect();
    for _ in 0..5 {
        let id = server.initiate(&asks);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let claims = providers.iter().map(|token| {
                let id = &id;
                scope.spawn(move || server.signal(token, id, "offer", "mine").status)
            });
            let claims: Vec<_> = claims.collect();
            claims
                .into_iter()
                .map(|claim| claim.join().unwrap())
                .collect()
        });
        let of = |status: u16| statuses.iter().filter(|there| **there == status).count();
        assert_eq!((of(200), of(409)), (1, 7), "{statuses:?}");
        assert_eq!(server.signals(&asks, &id).len(), 1);
    }
}
