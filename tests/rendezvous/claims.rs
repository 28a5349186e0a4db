//! A session has one provider: one user, and one client of that user.

use serde_json::json;

use super::server::{PROVIDER, REQUESTER, Server};

/// Two processes with one token are one user; the one that has the session says which it is.
pub fn one_client_of_a_user_has_a_session(server: &Server) {
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

/// Many providers at once want the same session: one of them has it.
pub fn one_of_many_has_a_session(server: &Server) {
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
