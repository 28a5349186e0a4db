//! Config files: what is said of broken ones, and what comes of those that `init` writes.

pub mod reload;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{code, err, events, handout, named, out};

/// A mistake that a line of a broken file says it has: `# MISTAKE key`, or `# MISTAKE syntax`,
/// perhaps with ` -> what is meant`. In keys, `?` stands for a character that is never shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Expected {
    line: u64,
    what: String,
    meant: Option<String>,
}

fn broken() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/broken");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "{files:?}");
    files
}

fn expected(text: &str) -> BTreeSet<Expected> {
    let of_line = |(at, line): (usize, &str)| {
        let marks = line.split("# MISTAKE ").skip(1);
        let marks = marks.map(move |mark| {
            let (what, meant) = match mark.split_once(" -> ") {
                Some((what, meant)) => (what, Some(meant.trim().to_owned())),
                None => (mark, None),
            };
            Expected {
                line: at as u64 + 1,
                what: what.trim().to_owned(),
                meant,
            }
        });
        marks.collect::<Vec<_>>()
    };
    text.lines().enumerate().flat_map(of_line).collect()
}

#[test]
fn every_mistake_of_each_broken_file_is_named_with_its_line_and_none_is_invented() {
    let home = tempfile::tempdir().unwrap();
    for file in broken() {
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = file.display().to_string();
        let expected = expected(&text);
        assert!(expected.len() >= 3, "{shown}");
        let output = handout(home.path(), &["config", "check", &shown, "--json"]);
        assert_eq!(code(&output), 2, "{shown}: {}", out(&output));
        let events = events(&output);
        assert_eq!(events.last().unwrap()["code"], 2);
        let found: BTreeSet<_> = named(&events, "mistake")
            .iter()
            .map(|mistake| {
                assert_eq!(mistake["source"], shown.as_str(), "{mistake}");
                assert!(mistake["column"].as_u64().unwrap() > 0, "{mistake}");
                let key = mistake["key"].as_str().unwrap_or("syntax");
                let visible = |c: char| if c.is_control() { '?' } else { c };
                Expected {
                    line: mistake["line"].as_u64().unwrap(),
                    what: key.chars().map(visible).collect(),
                    meant: mistake["suggestion"].as_str().map(str::to_owned),
                }
            })
            .collect();
        assert_eq!(found, expected, "{shown}");

        // The same for people, each with its place, and nothing that moves their cursor.
        let output = handout(home.path(), &["config", "check", "--config", &shown]);
        assert_eq!((code(&output), out(&output).as_str()), (2, ""));
        let said = err(&output);
        assert!(said.starts_with("handout: error: "), "{said}");
        for mistake in &expected {
            let place = format!("- {shown}:{}:", mistake.line);
            assert!(said.contains(&place), "{place}\n{said}");
        }
        assert_eq!(
            said.matches(&format!("\n- {shown}:")).count(),
            expected.len(),
            "{said}"
        );
        assert!(!said.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{said:?}");
    }
}

#[test]
fn a_service_with_a_broken_file_says_the_same_and_makes_nothing() {
    let home = tempfile::tempdir().unwrap();
    for file in broken() {
        let shown = file.display().to_string();
        let state = home.path().join("state");
        let check = handout(home.path(), &["config", "check", &shown]);
        // Where the file names another state folder, that one is not made either.
        let words = ["run", "--config", &shown];
        let run = handout(home.path(), &words);
        assert_eq!((code(&run), out(&run).as_str()), (2, ""), "{shown}");
        assert_eq!(err(&run), err(&check), "{shown}");
        let made: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert!(made.is_empty(), "{shown}: {made:?}");
        assert!(!state.exists());
    }
    assert!(!Path::new("/srv/in/state").exists());
}

#[test]
fn what_is_hardly_meant_is_said_and_is_no_mistake() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("my.toml");
    let text = "[[group]]\nname = \"class-3b\"\nmembers = []\n\
                [[broadcast]]\nname = \"lessons\"\npath = \"nowhere\"\nto = [\"clas-3b\", \"all\"]\n\
                [[receive.from]]\nwho = [\"staff\"]\nmode = \"accept\"\n\
                [[receive.from]]\nwho = [\"staff\", \"ada\"]\nmode = \"ask\"\n";
    std::fs::write(&file, text).unwrap();
    let output = handout(
        home.path(),
        &["config", "check", file.to_str().unwrap(), "--json"],
    );
    assert_eq!(code(&output), 0, "{}", out(&output));
    let events = events(&output);
    let warnings: Vec<_> = named(&events, "warning")
        .iter()
        .map(|warning| (warning["line"].as_u64().unwrap(), warning["key"].clone()))
        .collect();
    let expected = [
        (6, "broadcast[1].path"),
        (7, "broadcast[1].to"),
        (12, "receive.from[2].who"),
    ];
    assert_eq!(warnings, expected.map(|(line, key)| (line, key.into())));
    assert!(out(&output).contains("did you mean \\\"class-3b\\\"?"));
}

#[test]
fn settings_are_shown_with_the_line_that_they_are_from() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("my.toml");
    std::fs::write(&file, "# mine\n[swarm]\n\nneighbours = 3\n").unwrap();
    let file = file.to_str().unwrap();
    let set = ["--set", "log.level=info"];
    let words = ["config", "show", "--config", file, set[0], set[1]];
    let text = out(&handout(home.path(), &words));
    assert!(
        text.contains(&format!("neighbours = 3  # {file}:4\n")),
        "{text}"
    );
    assert!(
        text.contains("level = \"info\"  # the command line\n"),
        "{text}"
    );
    let words = ["config", "show", "--json", "--config", file];
    let events = events(&handout(home.path(), &words));
    let neighbours = events.iter().find(|e| e["key"] == "swarm.neighbours");
    let neighbours = neighbours.unwrap();
    assert_eq!(
        (&neighbours["source"], &neighbours["line"]),
        (&file.into(), &4.into())
    );
}

#[test]
fn what_the_files_to_begin_with_have_as_comments_is_in_order_too() {
    for role in ["teacher", "lab", "kiosk", "receiver"] {
        let home = tempfile::tempdir().unwrap();
        let text = out(&handout(home.path(), &["config", "init", role]));
        let is_setting = |line: &str| {
            let key = line.split_once(" = ").map(|(key, _)| key);
            let plain = |key: &str| key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            line.starts_with('[') || key.is_some_and(plain)
        };
        let uncomment = |line: &str| match line.strip_prefix("# ") {
            Some(setting) if is_setting(setting) => setting.to_owned(),
            _ => line.to_owned(),
        };
        let all: Vec<String> = text.lines().map(uncomment).collect();
        let file = home.path().join("all.toml");
        std::fs::write(&file, all.join("\n")).unwrap();
        for section in ["[notify]", "[limits]", "[audit]", "file = "] {
            let there = |line: &String| line.starts_with(section);
            assert!(all.iter().any(there), "{role}: {section}");
        }
        let check = handout(home.path(), &["config", "check", file.to_str().unwrap()]);
        assert_eq!(code(&check), 0, "{role}: {}", err(&check));
    }
}

#[test]
fn a_file_to_begin_with_is_in_order_for_every_role_and_never_takes_another_ones_place() {
    for role in ["teacher", "lab", "kiosk", "receiver"] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("my.toml");
        let file = path.to_str().unwrap();
        let init = ["config", "init", role, "--output", file];
        let output = handout(home.path(), &init);
        assert_eq!((code(&output), out(&output).as_str()), (0, ""), "{role}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("FILL IN"), "{role}");
        let shown = handout(home.path(), &["config", "init", role]);
        assert_eq!(out(&shown).trim_end(), text.trim_end());

        let check = handout(home.path(), &["config", "check", file, "--json"]);
        assert_eq!(code(&check), 0, "{role}: {}", out(&check));
        assert!(named(&events(&check), "warning").is_empty(), "{role}");

        let again = handout(home.path(), &init);
        assert_eq!(code(&again), 2, "{role}");
        assert!(err(&again).contains("stays as it is"), "{}", err(&again));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let home = tempfile::tempdir().unwrap();
    assert_eq!(code(&handout(home.path(), &["config", "init", "king"])), 2);
}
