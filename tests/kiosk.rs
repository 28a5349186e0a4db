//! A kiosk as the real program: it lets others in by itself, and goes on after it was killed.

mod programs;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use programs::{Program, Receiving, expect, place};

const PATIENCE: Duration = Duration::from_secs(30);

/// A kiosk that is being started.
fn kiosk(program: &Program, more: &[&str]) -> Receiving {
    let words = [&["run", "--json", "--set=device.name=kiosk"], more].concat();
    Receiving::begin(program.command(&words))
}

fn shown(program: &Program, name: &str) -> PathBuf {
    program.path(".local/state/handout/kiosk").join(name)
}

/// What kiosk.txt says, once that fits. The kiosk looks at it every few seconds.
fn until(program: &Program, fits: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(shown(program, "kiosk.txt")).unwrap_or_default();
        if fits(&text) {
            return text;
        }
        assert!(Instant::now() < end, "kiosk.txt says {text:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn token(text: &str) -> String {
    let (_, rest) = text.split_once("--invite ").expect("a token");
    rest.split_whitespace().next().unwrap().to_owned()
}

fn pin(text: &str) -> String {
    let (_, rest) = text.split_once("the PIN ").expect("a PIN");
    rest[..7].to_owned()
}

/// Types a PIN at a visitor's; the exit code.
fn type_pin(visitor: &Program, pin: &str, at: &str) -> i32 {
    let words = ["pair", at, "--pin", "--for", "20s"];
    let output = visitor.command(&words).env("HANDOUT_PIN", pin).output();
    output.unwrap().status.code().unwrap()
}

#[test]
fn whoever_has_the_invite_that_stands_comes_in_also_after_the_kiosk_was_killed() {
    let (home, first, second, third) = (
        Program::new(),
        Program::new(),
        Program::new(),
        Program::new(),
    );
    let running = kiosk(&home, &["--set=kiosk.invite=true"]);
    let text = until(&home, |text| text.contains("--invite"));
    let drawn = std::fs::read_to_string(shown(&home, "kiosk.svg")).unwrap();
    assert!(drawn.contains("<svg"), "{drawn:.100}");
    let mut visitor = Receiving::start(&first, &["--invite", &token(&text)]);
    visitor.until("paired");
    let file = home.file("map.pdf", 50_000);
    expect(0, &home.run(&["send", &file, "--to", "visitors"]));
    assert!(first.path("Downloads/Handout/map.pdf").exists());
    // They may receive, and nothing else.
    let back = first.file("back.txt", 10);
    let to = place(&home.id(), running.port);
    expect(4, &first.run(&["send", &back, "--to", &to, "--wait", "5s"]));
    drop(visitor);

    drop(running); // kill -9
    let port = "--set=signaling.port=0";
    let _running = kiosk(&home, &["--set=kiosk.invite=true", port]);
    // The secret is the same, the port and so the token another.
    let again = until(&home, |now| now.contains("--invite") && now != text);
    assert_eq!(token(&again)[..58], token(&text)[..58]);
    let mut visitor = Receiving::start(&second, &["--invite", &token(&again)]);
    visitor.until("paired");
    let listed = home.run(&["peers", "--json", "--wait", "0s"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    for visitor in [&first, &second] {
        let id = visitor.id();
        let line = listed.lines().find(|line| line.contains(&id)).unwrap();
        assert!(line.contains(r#""authorized":true"#), "{line}");
        assert!(
            line.contains(r#""roles":["receive"]"#) && line.contains("visitors"),
            "{line}"
        );
    }

    // Taken back, it lets nobody in any more, and another one is there.
    expect(0, &home.run(&["invite", "revoke", "all"]));
    let renewed = until(&home, |now| now.contains("--invite") && now != again);
    let late = third.run(&["receive", "--invite", &token(&again)]);
    expect(4, &late);
    let mut visitor = Receiving::start(&third, &["--invite", &token(&renewed)]);
    visitor.until("paired");
}

#[test]
fn as_many_come_in_by_it_in_a_day_as_may() {
    let home = Program::new();
    let visitors = [Program::new(), Program::new(), Program::new()];
    let most = "--set=kiosk.per_day=2";
    let running = kiosk(&home, &["--set=kiosk.invite=true", most]);
    let text = until(&home, |text| text.contains("--invite"));
    let mut inside: Vec<_> = visitors[..2]
        .iter()
        .map(|visitor| Receiving::start(visitor, &["--invite", &token(&text)]))
        .collect();
    inside.iter_mut().for_each(|visitor| {
        visitor.until("paired");
    });
    expect(4, &visitors[2].run(&["receive", "--invite", &token(&text)]));
    // Also after a restart.
    drop(running);
    let _running = kiosk(&home, &["--set=kiosk.invite=true", most]);
    let again = until(&home, |now| now.contains("--invite") && now != text);
    expect(
        4,
        &visitors[2].run(&["receive", "--invite", &token(&again)]),
    );
}

#[test]
fn a_pin_lets_in_many_and_closes_after_three_wrong_guesses() {
    let home = Program::new();
    let [first, second, third] = [Program::new(), Program::new(), Program::new()];
    let running = kiosk(&home, &["--set=kiosk.pin=rotate"]);
    let at = place(&home.id(), running.port);
    let text = until(&home, |text| text.contains("the PIN "));
    let good = pin(&text);
    assert_eq!(type_pin(&first, &good, &at), 0);
    assert_eq!(type_pin(&second, &good, &at), 0);
    // Whoever was shut out by a person does not come again by the PIN.
    expect(0, &home.run(&["revoke", &second.id()]));
    assert_eq!(type_pin(&second, &good, &at), 4);
    let wrong = if good == "000 000" {
        "111111"
    } else {
        "000000"
    };
    for _ in 0..3 {
        assert_eq!(type_pin(&third, wrong, &at), 4);
    }
    until(&home, |text| text.contains("wrong too often"));
    assert_eq!(type_pin(&third, &good, &at), 4);
    let log = home.run(&["peers", "--json", "--wait", "0s"]);
    let listed = String::from_utf8(log.stdout).unwrap();
    let line = listed
        .lines()
        .find(|line| line.contains(&first.id()))
        .unwrap();
    assert!(
        line.contains(r#""roles":["receive"]"#) && line.contains("visitors"),
        "{line}"
    );
}

#[test]
fn visitors_by_the_pin_get_what_is_handed_out_and_after_the_kiosk_was_killed_what_is_new() {
    let home = Program::new();
    let visitors = [Program::new(), Program::new(), Program::new()];
    let map = home.file("map.pdf", 50_000);
    let file = home.path("kiosk.toml").display().to_string();
    let text = format!(
        "[kiosk]\npin = \"rotate\"\n[[broadcast]]\nname = \"map\"\npath = {map:?}\nto = \"all\"\n\
         settle = \"100ms\"\nrescan = \"1s\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let running = kiosk(&home, &["--config", &file]);
    let shows = until(&home, |text| text.contains("the PIN "));
    let at = place(&home.id(), running.port);
    assert!(shows.contains(&format!("--pin {at}\n")), "{shows}");
    // A link that was cut off is given up soon.
    let words = [
        "receive",
        "--json",
        "--pin",
        &at,
        "--set=network.ice_disconnected=500ms",
        "--set=network.ice_failed=1s",
    ];
    let _inside: Vec<_> = visitors
        .iter()
        .map(|visitor| {
            let mut command = visitor.command(&words);
            command.env("HANDOUT_PIN", pin(&shows));
            Receiving::begin(command)
        })
        .collect();
    let all_have = |bytes: u64| {
        let end = Instant::now() + PATIENCE;
        for visitor in &visitors {
            let map = visitor.path("Downloads/Handout/map.pdf");
            while std::fs::metadata(&map).map_or(0, |map| map.len()) != bytes {
                assert!(Instant::now() < end, "a visitor did not get it");
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    };
    all_have(50_000);

    let port = format!("--set=signaling.port={}", running.port);
    drop(running); // kill -9
    home.file("map.pdf", 60_000);
    let _running = kiosk(&home, &["--config", &file, &port]);
    all_have(60_000);
}

#[test]
fn a_pin_that_is_wrong_ends_a_visitor_and_says_so() {
    let (home, visitor) = (Program::new(), Program::new());
    let running = kiosk(&home, &["--set=kiosk.pin=rotate"]);
    let shows = until(&home, |text| text.contains("the PIN "));
    let wrong = match &*pin(&shows) {
        "000 000" => "111111",
        _ => "000000",
    };
    let at = place(&home.id(), running.port);
    let mut command = visitor.command(&["receive", "--json", "--pin", &at]);
    command.env("HANDOUT_PIN", wrong);
    let mut tries = Receiving::begin(command);
    let said = tries.until("error")["message"].to_string();
    assert!(said.contains("PIN"), "{said}");
    assert_eq!(tries.code(), 4);
}

#[test]
fn a_pin_and_a_secret_may_be_credentials_and_a_wrong_one_is_named() {
    let (home, visitor) = (Program::new(), Program::new());
    home.file("credentials", 0);
    std::fs::remove_file(home.path("credentials")).unwrap();
    std::fs::create_dir(home.path("credentials")).unwrap();
    let words = [
        "run",
        "--json",
        "--set=kiosk.pin=file",
        "--set=kiosk.pin_file=$CREDENTIALS_DIRECTORY/pin",
    ];
    let started = |pin: &str| {
        std::fs::write(home.path("credentials/pin"), pin).unwrap();
        let mut command = home.command(&words);
        command.env("CREDENTIALS_DIRECTORY", home.path("credentials"));
        command
    };
    let output = started("12345").output().unwrap();
    expect(2, &output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("credentials/pin") && said.contains("six digits"),
        "{said}"
    );
    let running = Receiving::begin(started("123 456\n"));
    let at = place(&home.id(), running.port);
    assert_eq!(type_pin(&visitor, "123456", &at), 0);
}
