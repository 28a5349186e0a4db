//! The program as a provider, and whoever asks it at a rendezvous by hand.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use handout::protocol::asking::prove_asking;
use handout::protocol::id::DeviceId;
use handout::protocol::identity::Identity;
use serde_json::{Value, json};

use super::server::{PROVIDER, REQUESTER, Server, asked, program};

/// The id of no session.
const ANOTHER_SESSION: &str = "0b1f8a3e-1c2d-4e5f-8a9b-0c1d2e3f4a5b";

/// `handout provide`, until it is dropped.
struct Provider {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    _home: tempfile::TempDir,
}

impl Provider {
    fn start(server: &Server) -> Self {
        let home = tempfile::tempdir().unwrap();
        let token = home.path().join("token");
        std::fs::write(&token, server.token("provides", PROVIDER)).unwrap();
        let settings = [
            format!("rendezvous.url={}", server.url),
            format!("rendezvous.token_file={}", token.display()),
            "discovery.enabled=false".to_owned(),
            "signaling.bind=127.0.0.1".to_owned(),
            "signaling.port=0".to_owned(),
        ];
        let mut child = program(&home.path().join("state"), &settings, &["provide"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut provider = Self {
            child,
            events,
            _home: home,
        };
        provider.until("providing");
        provider
    }

    /// The next event of this kind.
    fn until(&mut self, kind: &str) -> Value {
        loop {
            let line = self.events.next().expect("it goes on").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == kind {
                return event;
            }
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session in the name of a device; the provider that has taken it up.
fn ask(server: &Server, token: &str, device: &DeviceId) -> (String, DeviceId) {
    let request = json!({
        "request_type": "signal",
        "parameters": r#"{"duration":0.01,"frequency":1000,"sample_rate":48000}"#,
        "device_id": device,
    });
    let session = server
        .post(token, "/api/ice/initiate", &request)
        .expect(201);
    let session = session["session_id"].as_str().unwrap().to_owned();
    let claim = offer_after(server, token, &session, 0);
    assert_eq!(claim["type"], "handout");
    let provider = claim["device_id"].as_str().unwrap().parse().unwrap();
    (session, provider)
}

/// The data of the first offer after so many others.
fn offer_after(server: &Server, token: &str, session: &str, others: usize) -> Value {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let signals = server.signals(token, session);
        let Some(signal) = signals.get(others) else {
            let last = signals
                .last()
                .map_or(json!(0), |signal| signal["id"].clone());
            let wait = format!("/api/ice/signals/{session}?after={last}&wait=30");
            server.get(token, &wait).expect(200);
            continue;
        };
        assert_eq!(signal["signal_type"], "offer");
        return serde_json::from_str(signal["signal_data"].as_str().unwrap()).unwrap();
    }
    panic!("no offer after {others} others");
}

#[test]
fn requests_of_other_types_do_not_keep_a_provider_from_its_own() {
    let server = Server::start(&[
        "rendezvous.serve.max_sessions=600",
        "rendezvous.serve.user_rate=1000",
        "rendezvous.serve.address_rate=1000",
    ]);
    let token = server.token("asks", REQUESTER);
    // More than a list has, all of them older.
    for _ in 0..505 {
        let asked = server.post(&token, "/api/ice/initiate", &asked("other"));
        asked.expect(201);
    }
    let _provider = Provider::start(&server);
    let device = Identity::from_seed(&[1; 32]).device_id();
    ask(&server, &token, &device);
}

#[test]
fn a_device_gets_what_it_asks_for_itself_and_nothing_that_another_asks_for_in_its_name() {
    let server = Server::start(&[]);
    let mut provider = Provider::start(&server);
    let token = server.token("asks", REQUESTER);
    let [ours, other] = [1, 2].map(|seed| Identity::from_seed(&[seed; 32]));
    let elsewhere = other.device_id();
    for how in [
        "an SDP",
        "by another",
        "for another session",
        "for another provider",
    ] {
        let (session, by) = ask(&server, &token, &ours.device_id());
        let answer = match how {
            "by another" => prove_asking(&other, &session, &by),
            "for another session" => prove_asking(&ours, ANOTHER_SESSION, &by),
            "for another provider" => prove_asking(&ours, &session, &elsewhere),
            _ => r#"{"type":"answer","sdp":"v=0"}"#.to_owned(),
        };
        let said = server.signal(&token, &session, "answer", &answer);
        said.expect(200);
        let refusal = offer_after(&server, &token, &session, 1);
        assert_eq!(refusal["type"], "refusal", "{how}: {refusal}");
        assert_eq!(refusal["code"], "unproven", "{how}: {refusal}");
        assert_eq!(provider.until("refused")["session"], session.as_str());
    }
    let (session, by) = ask(&server, &token, &ours.device_id());
    let proof = prove_asking(&ours, &session, &by);
    server
        .signal(&token, &session, "answer", &proof)
        .expect(200);
    let named = offer_after(&server, &token, &session, 1);
    assert_eq!(named["name"], "signal_1000_48000_0.01.npz", "{named}");
}
