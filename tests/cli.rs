//! The program as a person or another program runs it, without a network.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

mod arrivals;
mod asking;
mod config;

/// Runs the program with a state folder and home of its own; nothing of this machine's counts.
fn handout(home: &Path, words: &[&str]) -> Output {
    command(home, words).output().expect("the program starts")
}

fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handout"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HANDOUT_") {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", home)
        .env_remove("RUST_LOG")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_RUNTIME_DIR")
        .args(words);
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// All of stdout as JSON lines.
fn events(output: &Output) -> Vec<Value> {
    let text = out(output);
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    text.lines().map(parse).collect()
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == name).collect()
}

fn id_of(home: &Path) -> String {
    let output = handout(home, &["id"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    out(&output).trim().to_owned()
}

#[test]
fn an_unknown_key_is_a_usage_error_that_names_file_and_key() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("my.toml");
    std::fs::write(&file, "[receive]\ndestinatoin = \"/x\"\n").unwrap();
    let file = file.to_str().unwrap();
    let output = handout(home.path(), &["config", "check", "--config", file]);
    assert_eq!(code(&output), 2);
    let text = err(&output);
    assert!(text.starts_with("handout: error: "), "{text}");
    assert!(
        text.contains(file) && text.contains("receive.destinatoin"),
        "{text}"
    );
    assert!(
        text.contains("did you mean \"receive.destination\""),
        "{text}"
    );
    assert_eq!(out(&output), "");

    let output = handout(home.path(), &["id", "--json", "--set", "nosuch.key=1"]);
    assert_eq!(code(&output), 2);
    let events = events(&output);
    let message = events[0]["message"].as_str().unwrap();
    assert_eq!(events[0]["event"], "error");
    assert!(message.contains("nosuch.key"), "{message}");
    assert_eq!(events[1], serde_json::json!({"event": "end", "code": 2}));
}

#[test]
fn the_id_stays_and_another_state_folder_is_another_device() {
    let home = tempfile::tempdir().unwrap();
    let id = id_of(home.path());
    assert_eq!(id.len(), 32);
    assert_eq!(id, id_of(home.path()));
    let other = home.path().join("other");
    let output = handout(
        home.path(),
        &["id", "--json", "--state", other.to_str().unwrap()],
    );
    let events = events(&output);
    assert_eq!(events[0]["event"], "id");
    assert_ne!(events[0]["device_id"], Value::from(id));
    assert_eq!(events.last().unwrap()["code"], 0);
}

#[test]
fn a_new_key_keeps_decisions_and_is_followed_or_not_as_the_verb_says() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = id_of(home.path());
    let friend = id_of(other.path());
    assert_eq!(code(&handout(home.path(), &["authorize", &friend])), 0);

    let output = handout(home.path(), &["id", "rotate"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let second = id_of(home.path());
    assert_eq!(out(&output), format!("{second}\n"));
    assert_ne!(second, first);
    assert!(err(&output).contains(&first) && err(&output).contains("follow"));
    let key = home.path().join(".local/state/handout/identity.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&key.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(std::fs::read_to_string(&key).unwrap().contains("rotation"));

    let output = handout(home.path(), &["id", "new", "--json"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let events = events(&output);
    let renewed = named(&events, "renewed")[0];
    assert_eq!(renewed["earlier"], Value::from(second.as_str()));
    assert_eq!(renewed["followed"], false);
    let third = id_of(home.path());
    assert_eq!(renewed["device_id"], Value::from(third.as_str()));
    assert_eq!(events.last().unwrap()["code"], 0);
    assert!(!std::fs::read_to_string(&key).unwrap().contains("rotation"));

    let output = handout(home.path(), &["peers", "--json", "--wait", "0s"]);
    let listed = self::events(&output);
    let peer = named(&listed, "peer")[0];
    assert_eq!(peer["device_id"], Value::from(friend.as_str()));
    assert_eq!(peer["authorized"], true);

    for word in ["rotate", "new"] {
        let output = handout(home.path(), &["id", word, "--help"]);
        assert_eq!(code(&output), 0);
        assert!(out(&output).contains("key"), "{}", out(&output));
        assert_eq!(code(&handout(home.path(), &["id", word, "more"])), 2);
    }
    assert_eq!(code(&handout(home.path(), &["id", "old"])), 2);
    assert_eq!(id_of(home.path()), third);
}

#[test]
fn a_key_does_not_change_under_a_process_that_uses_it() {
    let home = tempfile::tempdir().unwrap();
    let first = id_of(home.path());
    let lock = home.path().join(".local/state/handout/lock");
    // What a running service holds.
    let held = std::fs::File::open(lock).unwrap();
    held.lock().unwrap();
    for word in ["rotate", "new"] {
        let output = handout(home.path(), &["id", word]);
        assert_eq!(code(&output), 1);
        let text = err(&output);
        assert!(
            text.contains("stop it") && text.contains(&format!("handout id {word}")),
            "{text}"
        );
        assert_eq!(out(&output), "");
    }
    drop(held);
    assert_eq!(id_of(home.path()), first);
}

#[test]
fn devices_are_authorized_listed_and_revoked_while_nothing_runs() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = id_of(other.path());
    id_of(home.path());
    let peers = |home: &Path| {
        let output = handout(home, &["peers", "--json", "--wait", "0s"]);
        assert_eq!(code(&output), 0, "{}", err(&output));
        events(&output)
    };
    assert!(named(&peers(home.path()), "peer").is_empty());

    let output = handout(home.path(), &["authorize", &id, "--name", "alpha"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).contains("alpha") && out(&output).contains(&id));
    let listed = peers(home.path());
    let peer = named(&listed, "peer")[0];
    assert_eq!(peer["device_id"], Value::from(id.as_str()));
    assert_eq!(peer["name"], "alpha");
    assert_eq!(peer["authorized"], true);

    let output = handout(home.path(), &["revoke", "alpha"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let listed = peers(home.path());
    assert!(
        named(&listed, "peer")
            .iter()
            .all(|peer| peer["authorized"] == false)
    );

    let output = handout(home.path(), &["revoke", "nobody"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("nobody"), "{}", err(&output));
}

#[test]
fn what_cannot_be_a_device_id_is_a_usage_error() {
    let home = tempfile::tempdir().unwrap();
    for bad in ["kiosk", "", "../../etc", "\u{1b}[2J"] {
        let output = handout(home.path(), &["authorize", bad]);
        assert_eq!(code(&output), 2, "{bad:?}");
        let text = err(&output);
        assert!(text.starts_with("handout: error: "), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    let own = id_of(home.path());
    assert_eq!(code(&handout(home.path(), &["authorize", &own])), 2);
}

#[test]
fn an_empty_state_has_no_transfers_and_nothing_to_steer() {
    let home = tempfile::tempdir().unwrap();
    id_of(home.path());
    let output = handout(home.path(), &["transfers"]);
    assert_eq!((code(&output), out(&output).as_str()), (0, ""));
    let output = handout(home.path(), &["transfers", "--json"]);
    assert_eq!(
        events(&output),
        [serde_json::json!({"event": "end", "code": 0})]
    );
    for verb in ["pause", "resume", "cancel"] {
        let output = handout(home.path(), &[verb, "abcdef"]);
        assert_eq!(code(&output), 2, "{verb}");
        assert!(
            err(&output).contains("handout transfers"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn sending_to_nobody_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "hello").unwrap();
    let loopback = [
        "--set=discovery.loopback_only=true",
        "--set=network.loopback=true",
        "--set=signaling.bind=127.0.0.1",
    ];
    let mut words = vec!["send", file.to_str().unwrap(), "--to", "all"];
    words.extend(loopback);
    let output = handout(home.path(), &words);
    assert_eq!(code(&output), 4, "{}", err(&output));
    assert!(err(&output).contains("handout pair"), "{}", err(&output));
    assert_eq!(code(&handout(home.path(), &["send", "x"])), 2);
    assert_eq!(
        code(&handout(home.path(), &["send", "x", "--to", "a,,b"])),
        2
    );
}

#[test]
fn completions_and_manual_pages_need_no_settings() {
    let home = tempfile::tempdir().unwrap();
    let output = handout(
        home.path(),
        &["completions", "bash", "--config", "/nonexistent"],
    );
    assert!(code(&output) == 0 && out(&output).contains("handout"));
    for words in [&["man"][..], &["man", "send"]] {
        let output = handout(home.path(), words);
        assert!(
            code(&output) == 0 && out(&output).contains(".TH"),
            "{words:?}"
        );
    }
    assert_eq!(code(&handout(home.path(), &["man", "nosuch"])), 2);
    assert_eq!(code(&handout(home.path(), &["frob"])), 2);
}

#[test]
fn an_audit_log_that_was_changed_is_told_from_one_that_was_not() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let friend = id_of(other.path());
    for words in [&["authorize", friend.as_str()][..], &["revoke", &friend]] {
        assert_eq!(code(&handout(home.path(), words)), 0);
    }
    let check = || handout(home.path(), &["audit", "check"]);
    assert_eq!(code(&check()), 0, "{}", out(&check()));
    let path = home.path().join(".local/state/handout/audit.jsonl");
    let log = std::fs::read_to_string(&path).unwrap();
    let what = |line: &str| serde_json::from_str::<Value>(line).unwrap()["what"].clone();
    let told: Vec<_> = log.lines().map(what).collect();
    assert_eq!(told, ["authorized", "revoked"]);
    let forged = log.replacen("\"by\":\"person\"", "\"by\":\"config\"", 1);
    assert_ne!(forged, log);
    std::fs::write(&path, forged).unwrap();
    let output = check();
    assert_eq!(code(&output), 6);
    assert!(out(&output).contains("audit.jsonl:2: "), "{}", out(&output));
    let output = handout(home.path(), &["audit", "check", "--json"]);
    let events = events(&output);
    let found = named(&events, "audit_checked")[0];
    assert_eq!((code(&output), &found["wrong"]), (6, &Value::from(1)));
    assert_eq!(events.last().unwrap()["code"], 6);
}

#[test]
fn whoever_asks_after_what_is_not_there_is_told_so() {
    let home = tempfile::tempdir().unwrap();
    id_of(home.path());
    let output = handout(home.path(), &["health"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("handout run"), "{}", err(&output));
    assert_eq!(code(&handout(home.path(), &["report"])), 0);
    let output = handout(home.path(), &["report", "nothing"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("handout report"), "{}", err(&output));
    for bad in [
        &["report", "--csv"][..],
        &["report", "x", "--csv", "--json"],
    ] {
        assert_eq!(code(&handout(home.path(), bad)), 2, "{bad:?}");
    }
}
