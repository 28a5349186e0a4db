//! What others can make a rendezvous do has an end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::server::{PROVIDER, REQUESTER, Server, asked};

#[test]
fn sessions_and_signals_of_a_user_are_bounded() {
    let limits = [
        "rendezvous.serve.max_sessions=3",
        "rendezvous.serve.max_signals=8",
    ];
    let server = Server::start(&limits);
    let (asks, provides) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
    );
    let id = server.initiate(&asks);
    server.initiate(&asks);
    server.initiate(&asks);
    let refused = server.post(&asks, "/api/ice/initiate", &asked("spectrum"));
    assert!(refused.retry_after.is_some());
    refused.expect(429);
    server.initiate(&server.token("other", REQUESTER));
    for _ in 0..4 {
        server.signal(&provides, &id, "candidate", "x").expect(200);
        server.signal(&asks, &id, "candidate", "x").expect(200);
    }
    server.signal(&asks, &id, "candidate", "x").expect(429);
}

#[test]
fn a_session_that_a_party_ends_is_over_for_both_and_counts_no_more() {
    let server = Server::start(&["rendezvous.serve.max_sessions=2"]);
    let (asks, provides, other) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
        server.token("other", PROVIDER),
    );
    let (first, second) = (server.initiate(&asks), server.initiate(&asks));
    let end =
        |token: &str, session: &str| server.delete(token, &format!("/api/ice/sessions/{session}"));
    end(&other, &first).expect(404);
    server.signal(&provides, &first, "offer", "x").expect(200);
    end(&other, &first).expect(404);
    end(&provides, &first).expect(200);
    end(&asks, &second).expect(200);
    for (token, session) in [(&asks, &first), (&provides, &first), (&asks, &second)] {
        server
            .get(token, &format!("/api/ice/signals/{session}"))
            .expect(404);
    }
    assert!(server.waiting(&other).is_empty());
    end(&asks, &second).expect(404);
    // There is room again.
    server.initiate(&asks);
    server.initiate(&asks);
}

#[test]
fn an_address_with_enough_connections_gets_no_more_and_others_do() {
    let settings = [
        "rendezvous.serve.address_connections=8",
        "rendezvous.serve.proxies=127.0.0.2/32",
    ];
    let server = Server::start(&settings);
    let place: std::net::SocketAddr = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let answered = |from: &str| {
        let bind = std::net::SocketAddr::new(from.parse().unwrap(), 0);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&bind.into()).unwrap();
        socket.connect(&place.into()).unwrap();
        let mut stream: TcpStream = socket.into();
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut begun = [0; 12];
        let is_answered = stream.read_exact(&mut begun).is_ok() && begun.ends_with(b"200");
        is_answered.then_some(stream)
    };
    let open: Vec<_> = (0..8).filter_map(|_| answered("127.0.0.3")).collect();
    assert_eq!(open.len(), 8);
    assert!(answered("127.0.0.3").is_none());
    assert!(answered("127.0.0.4").is_some(), "others are not hindered");
    let proxied: Vec<_> = (0..20).filter_map(|_| answered("127.0.0.2")).collect();
    assert_eq!(proxied.len(), 20, "a proxy has the connections of many");
    drop(open);
    let begun = Instant::now();
    while answered("127.0.0.3").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no room again");
    }
}

#[test]
fn the_signals_of_a_session_and_a_list_of_sessions_have_so_many_bytes() {
    let server = Server::start(&[]);
    let (asks, provides) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
    );
    let session = server.initiate(&asks);
    let large = "x".repeat(48 << 10);
    for number in 0..21 {
        let who = if number % 2 == 0 { &provides } else { &asks };
        server
            .signal(who, &session, "candidate", &large)
            .expect(200);
    }
    let refused = server.signal(&provides, &session, "candidate", &large);
    assert!(refused.retry_after.is_some());
    refused.expect(429);
    server
        .signal(&provides, &session, "candidate", "x")
        .expect(200);
    let mut body = asked("spectrum");
    body["parameters"] = json!(format!("{{\"x\":\"{}\"}}", "x".repeat(16_000)));
    let sessions: Vec<String> = (0..2)
        .flat_map(|number| {
            let asks = server.token(&format!("asks-{number}"), REQUESTER);
            let begin = |_| {
                let session = server.post(&asks, "/api/ice/initiate", &body).expect(201);
                session["session_id"].as_str().unwrap().to_owned()
            };
            (0..60).map(begin).collect::<Vec<_>>()
        })
        .collect();
    // The oldest come first; what has no room comes when they are gone.
    let fit = (1 << 20) / 16_008;
    assert_eq!(server.waiting(&provides), sessions[..fit]);
}

#[test]
fn a_user_who_asks_too_often_is_told_to_wait_and_others_are_not() {
    let server = Server::start(&["rendezvous.serve.user_rate=1"]);
    let (one, other) = (
        server.token("one", PROVIDER),
        server.token("other", PROVIDER),
    );
    let refused = (0..40).find_map(|_| {
        let answer = server.get(&one, "/api/ice/sessions");
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.expect("40 requests are too many for ten and one a second");
    let wait: u64 = refused.retry_after.as_ref().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    refused.expect(429);
    server.get(&other, "/api/ice/sessions").expect(200);
}

#[test]
fn an_address_that_asks_too_often_is_told_to_wait_and_proxies_are_told_apart() {
    let settings = [
        "rendezvous.serve.address_rate=1",
        "rendezvous.serve.proxies=127.0.0.0/8",
    ];
    let server = Server::start(&settings);
    let ask = |from: &str| {
        let answer = server.get_with(&[("X-Forwarded-For", from)], "/health");
        answer.status
    };
    let all = (0..40)
        .map(|_| ask("192.0.2.1, 203.0.113.7"))
        .collect::<Vec<_>>();
    assert!(all.contains(&429) && all[0] == 200);
    assert_eq!(ask("203.0.113.8"), 200);
    // What stands before the last address that a proxy has seen may be anybody's word.
    assert_eq!(ask("198.51.100.1, 203.0.113.7"), 429);
}

#[test]
fn a_request_that_comes_slowly_is_cut_off_and_holds_nobody_up() {
    let server = Server::start(&[]);
    let token = server.token("provides", PROVIDER);
    let place = server.url.strip_prefix("http://").unwrap();
    let head = "POST /api/ice/signal HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let mut slow: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = TcpStream::connect(place).unwrap();
            // Half of them never end the head, the others the body.
            let rest = match number % 2 {
                0 => String::new(),
                _ => format!("Authorization: Bearer {token}\r\nContent-Length: 99\r\n\r\n{{"),
            };
            stream
                .write_all(format!("{head}{rest}").as_bytes())
                .unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..50 {
        server.get(&token, "/api/ice/sessions").expect(200);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    for stream in &mut slow {
        let limit = Duration::from_secs(40);
        stream.set_read_timeout(Some(limit)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is cut off");
        assert!(answer.is_empty() || answer.contains(" 408 "), "{answer}");
    }
}

#[test]
fn health_and_numbers_and_the_description_are_there() {
    let server = Server::start(&[]);
    let token = server.token("asks", REQUESTER);
    server.initiate(&token);
    let ok = server.get_with(&[], "/health").expect(200);
    assert_eq!(ok, json!({"ok": true}));
    let numbers = server.get_with(&[], "/metrics").expect(200);
    let numbers = numbers.as_str().unwrap();
    assert!(
        numbers.contains("handout_rendezvous_sessions_total 1\n"),
        "{numbers}"
    );
    assert!(
        numbers.contains("handout_rendezvous_open_sessions 1\n"),
        "{numbers}"
    );
    // Through a proxy they are for those who show a token.
    let proxied = ("X-Forwarded-For", "192.0.2.1");
    server.get_with(&[proxied], "/metrics").expect(401);
    let bearer = format!("Bearer {token}");
    let shown = ("Authorization", &*bearer);
    server.get_with(&[proxied, shown], "/metrics").expect(200);
    let document = server.get_with(&[], "/openapi.json").expect(200);
    let ours = include_str!("../../docs/rendezvous-openapi.json");
    assert_eq!(
        document,
        serde_json::from_str::<serde_json::Value>(ours).unwrap()
    );
    let named = server.get_with(&[("X-Request-Id", "seat-3-request-1")], "/health");
    assert_eq!(named.request_id, "seat-3-request-1");
    for foreign in ["x", "a b c d e f g h", &"x".repeat(65)] {
        let named = server.get_with(&[("X-Request-Id", foreign)], "/health");
        assert_ne!(named.request_id, foreign);
    }
}
