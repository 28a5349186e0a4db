//! A rendezvous that runs until it is dropped, and whoever asks it things.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::postgres::Database;

/// Whom a token is for.
pub const PROVIDER: &str = "1";
pub const REQUESTER: &str = "2";
pub const DEVICE: &str = "device";

/// With this variable every server that names no database is on one of PostgreSQL, so that the same
/// tests show both.
const ON_POSTGRES: &str = "HANDOUT_TEST_POSTGRES";
const DATABASE: &str = "rendezvous.serve.database=";

/// The program on a state folder of its own.
pub struct Server {
    home: tempfile::TempDir,
    _database: Option<Database>,
    settings: Vec<String>,
    child: Child,
    pub url: String,
}

/// An answer: its status, headers that matter, and its body as JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub request_id: String,
    pub body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        if status >= 400 {
            let message = self.body["error"]["message"].as_str().unwrap();
            assert!(!message.is_empty() && self.body["error"]["code"].is_string());
            assert_eq!(self.body["request_id"], self.request_id.as_str());
        }
        self.body
    }
}

/// The program with these settings, on this state folder.
pub fn program(state: &Path, settings: &[String], verb: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handout"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HANDOUT_") {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", state)
        .env_remove("RUST_LOG")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME")
        .stdin(Stdio::null())
        .args(["--json", "--state"])
        .arg(state)
        .args(settings.iter().map(|set| format!("--set={set}")))
        .args(verb);
    command
}

impl Server {
    /// One on a database of its own.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    pub fn start_in(home: tempfile::TempDir, settings: &[&str]) -> Self {
        let mut all = vec!["rendezvous.serve.bind=127.0.0.1:0".to_owned()];
        all.extend(settings.iter().map(|set| (*set).to_owned()));
        let named = settings.iter().any(|set| set.starts_with(DATABASE));
        let database = (!named && std::env::var_os(ON_POSTGRES).is_some()).then(Database::new);
        all.extend(database.as_ref().map(Database::setting));
        let (child, url) = begin(home.path(), &all);
        Self {
            home,
            _database: database,
            settings: all,
            child,
            url,
        }
    }

    /// Kills it without a word, and starts it again at the same place.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let place = self.url.strip_prefix("http://").unwrap();
        self.settings.push(format!("rendezvous.serve.bind={place}"));
        let (child, url) = begin(self.home.path(), &self.settings);
        assert_eq!(url, self.url);
        self.child = child;
    }

    /// Sends it a signal.
    pub fn tell(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop, and waits: its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.tell(Signal::TERM);
        self.child.wait().unwrap().code()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A token by the program itself.
    pub fn token(&self, subject: &str, kind: &str) -> String {
        let verb = [
            "rendezvous",
            "token",
            "--client-type",
            kind,
            "--subject",
            subject,
        ];
        let output = program(self.home.path(), &self.settings, &verb).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let line = output.stdout.split(|byte| *byte == b'\n').next().unwrap();
        let said: Value = serde_json::from_slice(line).unwrap();
        said["token"].as_str().unwrap().to_owned()
    }

    pub fn get(&self, token: &str, path: &str) -> Answer {
        self.get_with(&[("Authorization", &format!("Bearer {token}"))], path)
    }

    pub fn get_with(&self, headers: &[(&str, &str)], path: &str) -> Answer {
        let mut request = agent().get(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.call().unwrap())
    }

    pub fn delete(&self, token: &str, path: &str) -> Answer {
        let request = agent().delete(format!("{}{path}", self.url));
        let request = request.header("Authorization", format!("Bearer {token}"));
        read(request.call().unwrap())
    }

    pub fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.post_text(token, path, "application/json", &body.to_string())
    }

    pub fn post_text(&self, token: &str, path: &str, kind: &str, body: &str) -> Answer {
        let request = agent()
            .post(format!("{}{path}", self.url))
            .header("Authorization", format!("Bearer {token}"))
            .header("Content-Type", kind);
        read(request.send(body).unwrap())
    }

    /// One of the numbers of this server.
    pub fn number(&self, name: &str) -> i64 {
        let numbers = self.get_with(&[], "/metrics").expect(200);
        let name = format!("handout_rendezvous_{name} ");
        let mut lines = numbers.as_str().unwrap().lines();
        let number = lines.find_map(|line| line.strip_prefix(&name));
        number.expect("the number").parse().unwrap()
    }

    /// Begins a session; its id.
    pub fn initiate(&self, token: &str) -> String {
        let session = self.post(token, "/api/ice/initiate", &asked("spectrum"));
        let session = session.expect(201);
        session["session_id"].as_str().unwrap().to_owned()
    }

    pub fn signal(&self, token: &str, session: &str, kind: &str, data: &str) -> Answer {
        let body = json!({"session_id": session, "signal_type": kind, "signal_data": data});
        self.post(token, "/api/ice/signal", &body)
    }

    pub fn signals(&self, token: &str, session: &str) -> Vec<Value> {
        let signals = self.get(token, &format!("/api/ice/signals/{session}"));
        signals.expect(200).as_array().expect("a list").clone()
    }

    /// The ids of the sessions that wait for a provider.
    pub fn waiting(&self, token: &str) -> Vec<String> {
        let list = self.get(token, "/api/ice/sessions").expect(200);
        let list = list.as_array().expect("a list").iter();
        list.map(|session| session["session_id"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn begin(state: &Path, settings: &[String]) -> (Child, String) {
    let mut child = program(state, settings, &["rendezvous"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it says {line:?}"));
    assert_eq!(said["event"], "listening");
    (child, said["url"].as_str().unwrap().to_owned())
}

/// What the first clients send to ask for data.
pub fn asked(kind: &str) -> Value {
    json!({
        "request_type": kind,
        "parameters": "{\"frequency_start\":100000000,\"sample_rate\":1000000}",
        "file_name": format!("{kind}_data.npz"),
        "file_size": 0,
        "file_type": "application/octet-stream",
    })
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build();
    ureq::Agent::new_with_config(config)
}

fn read(mut answer: ureq::http::Response<ureq::Body>) -> Answer {
    let header = |name: &str| {
        let value = answer.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let (retry_after, id) = (header("retry-after"), header("x-request-id"));
    let text = answer.body_mut().read_to_string().unwrap();
    Answer {
        status: answer.status().as_u16(),
        retry_after,
        request_id: id.expect("every answer tells its number"),
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
    }
}
