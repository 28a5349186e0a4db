//! Verbs that only ask: what stops them, and what they leave alone.

use std::path::Path;

use super::config::reload::Service;
use super::{code, command, err, events, handout, id_of, named, out};

/// Every verb that only asks, or changes only what is there.
const ASKING: [&[&str]; 21] = [
    &["peers", "--wait", "0s"],
    &["transfers"],
    &["transfers", "--watch"],
    &["broadcasts"],
    &["versions"],
    &["report"],
    &["report", "lessons"],
    &["health"],
    &["audit", "check"],
    &["reload"],
    &["group", "list"],
    &["group", "show", "class"],
    &["group", "export", "class"],
    &["group", "roles", "class", "receive"],
    &["group", "remove", "class", "--all"],
    &["invite", "list"],
    &["invite", "revoke", "all"],
    &["pause", "abcdef"],
    &["cancel", "abcdef"],
    &["accept", "abcdef"],
    &["rollback", "lessons"],
];

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn who_asks_about_a_state_folder_that_is_not_there_is_told_so_and_makes_none() {
    let home = tempfile::tempdir().unwrap();
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    // A folder that is there, but is nobody's state, stays as it is, too.
    for state in [home.path().join("no/such"), empty.clone()] {
        for verb in ASKING {
            let state = state.to_str().unwrap();
            let output = handout(home.path(), &[verb, &["--state", state]].concat());
            let said = err(&output);
            assert_eq!(code(&output), 1, "{verb:?}: {said}");
            assert!(
                said.contains("there is no state folder at") && said.contains(state),
                "{verb:?}: {said}"
            );
            assert_eq!(out(&output), "", "{verb:?}");
        }
    }
    assert_eq!((entries(home.path()), entries(&empty)), (1, 0));
    // A doctor finds that out, and whatever else stands in the way.
    let words = ["doctor", "--json", "--wait", "0s", "--state", "no/such"];
    let output = command(home.path(), &words)
        .current_dir(home.path())
        .output()
        .unwrap();
    let events = events(&output);
    let state = named(&events, "finding");
    let state = state.iter().find(|found| found["about"] == "state");
    assert_eq!(state.unwrap()["level"], "note");
    assert_eq!(entries(home.path()), 1);
}

#[test]
fn an_audit_log_that_is_not_there_is_no_good_one() {
    let home = tempfile::tempdir().unwrap();
    id_of(home.path());
    let output = handout(home.path(), &["audit", "check"]);
    assert_eq!(code(&output), 1);
    assert!(
        err(&output).contains("there is no audit log"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_broken_file_stops_nobody_who_only_asks_and_everybody_else() {
    let home = tempfile::tempdir().unwrap();
    let (state, file) = (home.path().join("there"), home.path().join("my.toml"));
    let words = ["id", "--state", state.to_str().unwrap()];
    assert_eq!(code(&handout(home.path(), &words)), 0);
    let text = "[state]\ndir = \"there\"\n[receive]\nmode = \"perhaps\"\n[log\nlevel=1\n";
    std::fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let run = |verb: &[&str]| handout(home.path(), &[verb, &config[..]].concat());
    for (verb, ends) in [
        (&["transfers"][..], 0),
        (&["peers", "--wait", "0s"], 0),
        (&["report"], 0),
        (&["versions"], 0),
        (&["broadcasts"], 0),
        (&["group", "list"], 0),
        (&["invite", "list"], 0),
        // They say that no service runs on that folder.
        (&["health"], 1),
        (&["reload"], 1),
    ] {
        let output = run(verb);
        let said = err(&output);
        assert_eq!(code(&output), ends, "{verb:?}: {said}");
        let first = said.lines().next().unwrap();
        assert!(
            first.starts_with("handout: warning: the settings of ")
                && first.contains("`handout config check`")
                && first.contains(state.to_str().unwrap()),
            "{verb:?}: {said}"
        );
        assert_eq!(said.matches("config check` shows").count(), 1, "{said}");
    }
    for verb in [
        &["run"][..],
        &["receive"],
        &["send", "x", "--to", "all"],
        &["config", "check"],
        &["id"],
        &["group", "add", "class", "x"],
        &["cancel", "abcdef"],
    ] {
        assert_eq!(code(&run(verb)), 2, "{verb:?}");
    }
    // Where it is not known whom to ask, nobody else is asked instead.
    let typed = handout(home.path(), &["transfers", "--set", "no.such=1"]);
    assert_eq!(code(&typed), 2, "{}", err(&typed));
    let words = ["transfers", "--config", "/no/such.toml"];
    assert_eq!(code(&handout(home.path(), &words)), 2);
    std::fs::write(&file, "[state]\ndir = 5\n").unwrap();
    assert_eq!(code(&run(&["transfers"])), 2);
}

/// What the program ends with, and says on stderr, when nobody reads its stdout.
fn unread(home: &Path, words: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command(home, words)
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), err(&output))
}

#[test]
fn whose_output_nobody_reads_any_more_ends_without_a_word() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let friend = id_of(other.path());
    for words in [
        &["authorize", friend.as_str()][..],
        &["group", "add", "class", &friend],
    ] {
        assert_eq!(code(&handout(home.path(), words)), 0);
    }
    for words in [
        &["id"][..],
        &["id", "--json"],
        &["peers", "--wait", "0s"],
        &["peers", "--wait", "0s", "--json"],
        &["group", "list"],
        &["group", "show", "class", "--json"],
        &["transfers", "--json"],
        &["config", "show"],
        &["config", "check"],
        &["config", "init", "lab"],
        &["audit", "check"],
        &["man"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
        &["run", "--json", "--set=discovery.loopback_only=true"],
        &["receive", "--json", "--set=discovery.loopback_only=true"],
    ] {
        let (ended, said) = unread(home.path(), words);
        assert_eq!(ended, Some(0), "{words:?}: {said}");
        let said = said.to_lowercase();
        assert!(
            !said.contains("error") && !said.contains("panic"),
            "{words:?}: {said}"
        );
    }
    // What an answer comes to stays what it is.
    let (ended, said) = unread(home.path(), &["report", "nothing", "--json"]);
    assert_eq!(ended, Some(2), "{said}");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = command(home.path(), &["id"]).stdout(full).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(
        err(&output).contains("cannot write the output"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_group_of_the_file_is_shown_with_its_roles_and_says_where_it_stands() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let friend = id_of(other.path());
    let file = home.path().join("my.toml");
    let text = format!(
        "[[group]]\nname = \"class\"\nmembers = [\"{friend} Seat 1\"]\nroles = [\"receive\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let run = |verb: &[&str]| {
        let output = handout(home.path(), &[verb, &config[..]].concat());
        assert_eq!(code(&output), 0, "{verb:?}: {}", err(&output));
        output
    };
    run(&["id"]);
    let shown = events(&run(&["group", "show", "class", "--json"]));
    let group = named(&shown, "group")[0];
    assert_eq!(group["members"][0]["roles"], group["roles"], "{group}");
    assert_eq!(group["roles"], serde_json::json!(["receive"]), "{group}");
    assert!(out(&run(&["group", "list"])).contains("class: 1 device, may receive"));

    run(&["group", "add", "class", &friend]);
    let said = err(&run(&["group", "remove", "class", &friend]));
    assert!(said.contains("stands in it in the config file"), "{said}");
    assert!(!said.contains("by a roster"), "{said}");
    let said = err(&run(&["group", "roles", "class", "send"]));
    assert!(said.contains("stands in the config file"), "{said}");
    let said = err(&run(&["group", "remove", "class", "--all"]));
    assert!(said.contains("still stands in the config file"), "{said}");
    let exported = out(&run(&["group", "export", "class"]));
    assert!(exported.contains("receive"), "{exported}");
}

#[test]
fn the_report_of_what_has_not_begun_says_so_and_names_all_who_wait() {
    let (home, one, two) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let (one, two) = (id_of(one.path()), id_of(two.path()));
    let file = home.path().join("my.toml");
    let text = format!(
        "[[group]]\nname = \"class\"\nmembers = [\"{one} Seat 1\", \"{two} Seat 2\"]\n\
         [[broadcast]]\nname = \"lessons\"\npath = \"~/lessons\"\nto = [\"class\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    let run = |words: &[&str]| {
        let config = ["--config", file.to_str().unwrap()];
        handout(home.path(), &[words, &config[..]].concat())
    };
    assert_eq!(code(&run(&["id"])), 0);
    let output = run(&["report", "lessons"]);
    assert_eq!(code(&output), 3, "{}", err(&output));
    let text = out(&output);
    let begins = "lessons: nothing has been handed out yet: no service runs";
    assert!(text.starts_with(begins), "{text}");
    for seat in ["Seat 1", "Seat 2"] {
        let line = text.lines().find(|line| line.starts_with(seat)).unwrap();
        assert!(line.contains("class   waiting"), "{line}");
    }
    let events = events(&run(&["report", "lessons", "--json"]));
    let report = named(&events, "report")[0];
    assert_eq!(report["broadcast"], serde_json::Value::Null);
    assert_eq!(report["seats"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&report["missing"], &report["have"]),
        (&2.into(), &0.into())
    );
    let csv = out(&run(&["report", "lessons", "--csv"]));
    assert_eq!(
        csv.lines()
            .filter(|line| line.contains(",no,waiting,"))
            .count(),
        2,
        "{csv}"
    );
    // Versions are asked after by number, and nothing else is called that.
    for words in [
        &["report", "lessons", "--version", "1"][..],
        &["report", "lesson"],
    ] {
        assert_eq!(code(&run(words)), 2, "{words:?}");
    }
}

#[test]
fn a_service_is_asked_also_while_its_file_is_broken() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("my.toml");
    let good = "[state]\ndir = \"there\"\n[discovery]\nenabled = false\n";
    std::fs::write(&path, good).unwrap();
    let file = path.to_str().unwrap();
    let service = Service::start(home.path(), file);
    std::fs::write(&path, format!("{good}[receive]\nmode = \"perhaps\"\n")).unwrap();
    service.next("not_reloaded");
    for verb in [
        &["health"][..],
        &["transfers"],
        &["peers"],
        &["versions"],
        &["report"],
    ] {
        let words = [verb, &["--config", file]].concat();
        let output = handout(home.path(), &words);
        assert_eq!(code(&output), 0, "{verb:?}: {}", err(&output));
        assert!(
            err(&output).starts_with("handout: warning: "),
            "{}",
            err(&output)
        );
    }
    // The service says what is wrong with it, and stays as it is.
    let output = handout(home.path(), &["reload", "--config", file]);
    assert_eq!(code(&output), 2);
    assert!(
        err(&output).contains("receive.mode must be"),
        "{}",
        err(&output)
    );
    let (ended, log) = service.end();
    assert_eq!(ended, Some(0), "{log}");
}
