//! Every exit code that is documented, reached by the real program.

#[path = "hostile/bundle.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile devices")]
mod bundle;
mod full_disk;
mod nodes;
mod programs;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::Child;

use handout::protocol::message::{Decision, Message};

use bundle::Bundle;
use nodes::device::Device;
use programs::{Program, Receiving, expect, nowhere, place};

#[test]
fn all_delivered_is_0_also_to_a_place_that_only_the_command_line_names() {
    let (sender, receiver) = (Program::new(), Program::new());
    sender.knows(&receiver);
    let receiving = Receiving::start(&receiver, &["--once"]);
    let to = place(&receiver.id(), receiving.port);
    let file = sender.file("lesson.bin", 100_000);
    let output = sender.run(&["send", &file, "--to", &to]);
    expect(0, &output);
    assert_eq!(receiving.code(), 0);
    let arrived = receiver.path("Downloads/Handout/lesson.bin");
    assert_eq!(std::fs::read(arrived).unwrap(), vec![7; 100_000]);
}

#[test]
fn what_is_not_there_or_wholly_left_out_is_an_error_1() {
    let sender = Program::new();
    let other = Program::new();
    sender.knows(&other);
    expect(1, &sender.run(&["send", "/nonexistent", "--to", "all"]));
    let folder = sender.path("links");
    std::fs::create_dir(&folder).unwrap();
    symlink("/etc/passwd", folder.join("passwd")).unwrap();
    symlink("/etc/hosts", folder.join("hosts")).unwrap();
    let output = sender.run(&["send", folder.to_str().unwrap(), "--to", "all"]);
    expect(1, &output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("nothing to send") && said.contains("1 more"),
        "{said}"
    );
}

#[test]
fn the_devices_own_key_is_not_sent_which_is_an_error_1() {
    let (sender, other) = (Program::new(), Program::new());
    sender.knows(&other);
    let state = sender.path(".local/state/handout");
    symlink(&state, sender.path("lessons")).unwrap();
    let file = sender.file("lesson.bin", 10);
    let home = sender.path("");
    for path in [
        state.join("identity.key"),
        state.clone(),
        sender.path("lessons"),
        home,
    ] {
        let words = ["send", &file, path.to_str().unwrap(), "--to", "all"];
        let output = sender.run(&words);
        expect(1, &output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("which has this device's key"), "{said}");
    }
}

#[test]
fn usage_and_config_are_2() {
    let program = Program::new();
    expect(2, &program.run(&["send", "x"]));
    expect(2, &program.run(&["frob"]));
    expect(2, &program.run(&["id", "--set=no.such=1"]));
    expect(2, &program.run(&["id", "--config", "/nonexistent"]));
}

#[test]
fn where_some_do_not_get_it_the_sender_ends_with_3() {
    let (sender, receiver, absent) = (Program::new(), Program::new(), Program::new());
    sender.knows(&receiver);
    sender.knows(&absent);
    let receiving = Receiving::start(&receiver, &[]);
    let here = place(&receiver.id(), receiving.port);
    let file = sender.file("lesson.bin", 1000);
    let both = [here, nowhere(&absent.id())].join(",");
    expect(
        3,
        &sender.run(&["send", &file, "--to", &both, "--wait", "3s"]),
    );
    assert!(receiver.path("Downloads/Handout/lesson.bin").exists());
}

#[test]
fn who_is_not_authorized_here_or_there_is_4() {
    let (sender, receiver) = (Program::new(), Program::new());
    let file = sender.file("lesson.bin", 1000);
    expect(4, &sender.run(&["send", &file, "--to", "all"]));
    expect(4, &sender.run(&["send", &file, "--to", &receiver.id()]));
    // Only one of them has let the other in.
    expect(0, &sender.run(&["authorize", &receiver.id()]));
    let receiving = Receiving::start(&receiver, &[]);
    let to = place(&receiver.id(), receiving.port);
    expect(
        4,
        &sender.run(&["send", &file, "--to", &to, "--wait", "3s"]),
    );
}

#[test]
fn no_receiver_before_the_deadline_is_5() {
    let (sender, absent) = (Program::new(), Program::new());
    sender.knows(&absent);
    let file = sender.file("lesson.bin", 1000);
    let words = ["send", &file, "--to", &absent.id(), "--wait", "1s"];
    expect(5, &sender.run(&words));
    // Nobody comes by an invite either.
    expect(5, &sender.run(&["invite", "--for", "1s"]));
}

#[test]
fn a_lie_ends_receive_once_with_6() {
    let receiver = Program::new();
    let device = Device::new(9);
    let id = device.id();
    expect(0, &receiver.run(&["authorize", id.as_str()]));
    let receiving = Receiving::start(&receiver, &["--once"]);
    let ours = receiver.id().parse().unwrap();
    let port = u16::try_from(receiving.port).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let wire = device.connect(&ours, port).await.unwrap();
        let bundle = Bundle::new(&device.identity, 1, "lie.bin", 300_000, 9);
        wire.say(&bundle.offer()).await;
        let answer = wire.wait_for(|message| match message {
            Message::StartTransferAcknowledged(answer) => Some(answer),
            _ => None,
        });
        assert_eq!(answer.await.unwrap().status, Decision::Accepted);
        for frame in bundle.all_frames() {
            wire.send(frame).await;
        }
        let mut liar = bundle.clone();
        liar.identity = handout::protocol::identity::Identity::from_seed(&[0xee; 32]);
        wire.say(&liar.end()).await;
        wire.closed().await;
    });
    assert_eq!(receiving.code(), 6);
    assert!(!receiver.path("Downloads/Handout/lie.bin").exists());
}

#[test]
fn what_the_receiver_has_no_room_for_is_7() {
    let (sender, receiver) = (Program::new(), Program::new());
    sender.knows(&receiver);
    let receiving = Receiving::start(&receiver, &["--max-size", "1kB"]);
    let to = place(&receiver.id(), receiving.port);
    let file = sender.file("lesson.bin", 1001);
    expect(7, &sender.run(&["send", &file, "--to", &to]));
}

#[test]
fn ctrl_c_is_130() {
    let (sender, absent) = (Program::new(), Program::new());
    sender.knows(&absent);
    let file = sender.file("lesson.bin", 1000);
    let id = absent.id();
    let words = ["send", &file, "--to", &id, "--wait", "forever", "--json"];
    let mut child = sender.command(&words).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("\"broadcast\""), "{line}");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn what_an_invite_answers_ends_once() {
    let program = Program::new();
    let output = program.run(&["invite", "--for", "1s", "--json"]);
    expect(5, &output);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("\"end\"").count(), 1, "{text}");
    assert!(text.lines().last().unwrap().contains("\"end\""), "{text}");
}

#[test]
fn a_pattern_with_a_comma_in_braces_is_one() {
    let (sender, receiver) = (Program::new(), Program::new());
    sender.knows(&receiver);
    let receiving = Receiving::start(&receiver, &["--type", "*.{pdf,odt}"]);
    let to = place(&receiver.id(), receiving.port);
    for (name, code) in [("a.pdf", 0), ("b.odt", 0), ("c.txt", 3)] {
        let file = sender.file(name, 1000);
        expect(code, &sender.run(&["send", &file, "--to", &to]));
    }
    assert!(receiver.path("Downloads/Handout/b.odt").exists());
}

#[test]
fn with_json_every_verb_answers_in_objects_and_ends_once() {
    let program = Program::new();
    let other = Program::new().id();
    let verbs: &[&[&str]] = &[
        &["id"],
        &["authorize", &other],
        &["peers", "--wait", "0s"],
        &["group", "add", "class", &other],
        &["group", "list"],
        &["group", "show", "class"],
        &["group", "roles", "class", "receive"],
        &["group", "export", "class"],
        &["revoke", &other],
        &["invite", "list"],
        &["transfers"],
        &["transfers", "--watch"],
        &["config", "check"],
        &["config", "show"],
        &["completions", "bash"],
        &["man"],
        &["man", "group", "add"],
        &["id", "rotate"],
        // These have nothing to do, and say so.
        &["cancel", "abcdef"],
        &["accept", "abcdef"],
        &["invite", "revoke", "all"],
        &["send", "/nonexistent", "--to", "all"],
        &["man", "nosuch"],
        &["nosuch"],
    ];
    for verb in verbs {
        let output = program.run(&[verb, &["--json"][..]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let events: Vec<serde_json::Value> = text
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{verb:?}: {e}: {line}"))
            })
            .collect();
        let ends = events
            .iter()
            .filter(|event| event["event"] == "end")
            .count();
        assert_eq!(ends, 1, "{verb:?}: {text}");
        let code = output.status.code().unwrap();
        let end = serde_json::json!({"event": "end", "code": code});
        assert_eq!(events.last(), Some(&end), "{verb:?}");
        let failed = events.iter().any(|event| event["event"] == "error");
        assert_eq!(failed, code != 0, "{verb:?}: {text}");
    }
}

#[test]
fn every_verb_has_a_page_and_is_completed() {
    let program = Program::new();
    let page = |words: &[&str]| {
        let output = program.run(&[&["man"], words].concat());
        expect(0, &output);
        String::from_utf8(output.stdout).unwrap()
    };
    let whole = page(&[]);
    let help = String::from_utf8(program.run(&["--help"]).stdout).unwrap();
    let (_, verbs) = help.split_once("Commands:\n").unwrap();
    let verbs = verbs.lines().take_while(|line| !line.is_empty());
    let verbs: Vec<&str> = verbs
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() > 20 && verbs.contains(&"doctor"), "{verbs:?}");
    let scripts: Vec<String> = ["bash", "zsh", "fish"]
        .iter()
        .map(|shell| String::from_utf8(program.run(&["completions", shell]).stdout).unwrap())
        .collect();
    for verb in verbs {
        let dashed = verb.replace('-', "\\-");
        assert!(whole.contains(&format!("handout\\-{dashed}(1)")), "{verb}");
        if verb != "help" {
            assert!(page(&[verb]).contains(".SH NAME"), "{verb}");
        }
        for script in &scripts {
            assert!(script.contains(verb), "{verb}");
        }
    }
}

/// A rendezvous, until it is dropped.
struct Serving {
    program: Program,
    child: Child,
    url: String,
}

impl Serving {
    fn start() -> Self {
        let program = Program::new();
        let words = ["rendezvous", "--json"];
        let mut command = program.command(&words);
        command.arg("--set=rendezvous.serve.bind=127.0.0.1:0");
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = said["url"].as_str().unwrap().to_owned();
        Self {
            program,
            child,
            url,
        }
    }

    /// A file of `whose` with a token that holds for so long.
    fn token(&self, whose: &Program, life: &str) -> String {
        let words = [
            "rendezvous",
            "token",
            "--subject=us",
            "--client-type=2",
            "--for",
            life,
        ];
        let output = self.program.run(&words);
        expect(0, &output);
        let file = whose.path(&format!("token-{life}"));
        std::fs::write(&file, output.stdout).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The words that name a rendezvous and a token.
fn at(url: &str, token: &str) -> [String; 2] {
    [
        format!("--set=rendezvous.url={url}"),
        format!("--set=rendezvous.token_file={token}"),
    ]
}

#[test]
fn what_keeps_a_sender_from_its_rendezvous_is_said_once_and_where_somebody_was_not_seen() {
    let (sender, absent) = (Program::new(), Program::new());
    sender.knows(&absent);
    let (file, id) = (sender.file("lesson.bin", 1000), absent.id());
    let server = Serving::start();
    let (good, short) = (server.token(&sender, "1h"), server.token(&sender, "1s"));
    let garbage = sender.path("garbage");
    std::fs::write(&garbage, "garbage").unwrap();
    let wrong_path = format!("{}/elsewhere", server.url);
    let tls = server.url.replacen("http", "https", 1);
    let cases = [
        ("http://127.0.0.1:1", &*good, "refused"),
        ("http://nosuch.invalid:1", &*good, "lookup"),
        (&*tls, &*good, "speaks no TLS"),
        (&*wrong_path, &*good, "HTTP 404"),
        (&*server.url, garbage.to_str().unwrap(), "HTTP 401"),
        // It has expired by then: each of those before has waited 2 s.
        (&*server.url, &*short, "expired"),
    ];
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (url, token, why) in cases {
        let [url, token] = at(url, token);
        let words = ["send", &file, "--to", &id, "--wait", "2s", &url, &token];
        let output = sender.run(&[&words[..], &["--json"]].concat());
        expect(5, &output);
        let said = text(&output.stdout);
        let events = said.lines().map(|line| serde_json::from_str(line).unwrap());
        let events: Vec<serde_json::Value> = events.collect();
        let told = events.iter().filter(|event| event["event"] == "rendezvous");
        let told: Vec<&str> = told.filter_map(|event| event["reason"].as_str()).collect();
        assert!(told.len() == 1 && told[0].contains(why), "{url}: {said}");
        let summary = events.iter().find(|event| event["event"] == "summary");
        let reason = summary.unwrap()["receivers"][0]["reason"].as_str().unwrap();
        let away = format!("; this device is not at the rendezvous: {}", told[0]);
        assert!(reason.ends_with(&away), "{said}");
    }
    let [url, token] = at("http://127.0.0.1:1", &good);
    let output = sender.run(&["send", &file, "--to", &id, "--wait", "2s", &url, &token]);
    let said = text(&output.stderr);
    let notes = said
        .lines()
        .filter(|line| line.starts_with("not at the rendezvous: "));
    assert_eq!(notes.count(), 1, "{said}");
    // Where it is there, nothing is said of it.
    let [url, token] = at(&server.url, &good);
    let output = sender.run(&["send", &file, "--to", &id, "--wait", "2s", &url, &token]);
    expect(5, &output);
    let said = format!("{output:?}");
    assert!(!said.contains("the rendezvous"), "{said}");
    // A token that is not there, or is none, is a mistake of the settings.
    let spaces = sender.path("spaces");
    std::fs::write(&spaces, "two words").unwrap();
    for file_name in ["/nonexistent", spaces.to_str().unwrap()] {
        let [url, token] = at(&server.url, file_name);
        expect(2, &sender.run(&["send", &file, "--to", &id, &url, &token]));
    }
}

#[test]
fn a_request_that_nobody_could_answer_is_a_usage_error_before_anybody_is_asked() {
    let program = Program::new();
    let token = program.path("token");
    std::fs::write(&token, "token").unwrap();
    let [url, token] = at("http://127.0.0.1:1", token.to_str().unwrap());
    let (long, much) = ("x".repeat(65), format!("--param=x={}", "y".repeat(17_000)));
    let wrong: [&[&str]; 8] = [
        &[""],
        &["a b"],
        &["../x"],
        &[&long],
        &["spectrum", &much],
        &["spectrum", "--from", "abc"],
        &["spectrum", "--param", "x=1", "--param", "x=2"],
        &["spectrum", "--param", "no name=1"],
    ];
    for words in wrong {
        let output = program.run(&[&["request"], words, &[&*url, &*token]].concat());
        expect(2, &output);
    }
    // The same without a mistake is asked for: nobody is there.
    expect(
        1,
        &program.run(&["request", "spectrum", "--param=x=1", &url, &token]),
    );
}

#[test]
fn a_token_by_a_key_that_no_server_has_is_made_with_a_warning_once() {
    let program = Program::new();
    let words = ["rendezvous", "token", "--subject=us", "--client-type=2"];
    for warns in [true, false] {
        let output = program.run(&words);
        expect(0, &output);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.contains("handout/rendezvous.key;"), warns, "{said}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    }
}
