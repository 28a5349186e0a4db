//! `[receive]` and its rules.

use super::*;
use crate::protocol::policy::{Collision, Mode, Whom};

fn by_id(id: &str) -> Whom<'_> {
    Whom {
        id,
        ..Whom::default()
    }
}

#[test]
fn rules_are_read_with_their_paths_and_shown_after_the_defaults() {
    let machine = Machine::with(
        "[receive]\nquota = \"2GB\"\ntypes = [\"*.pdf\"]\n\
         [[receive.from]]\nwho = [\"Teacher's laptop\", \"staff\"]\ndestination = \"lessons\"\n\
         collision = \"overwrite\"\ntypes = []\nquota = \"none\"\n\
         [[receive.from]]\nwho = [\"abc\"]\nmode = \"ask\"\nmax_files = 3\n",
    );
    let settings = machine.load().unwrap();
    let policy = &settings.receive.policy;
    assert_eq!(policy.defaults.quota, Some(2_000_000_000));
    let teacher = policy.terms_for(&Whom {
        names: vec!["Teacher's laptop"],
        ..Whom::default()
    });
    let lessons = machine.home.path().join(".config/handout/lessons");
    assert_eq!(teacher.destination, lessons);
    assert_eq!(teacher.collision, Collision::Overwrite);
    assert!(teacher.quota.is_none() && teacher.types.is_empty());
    let abc = policy.terms_for(&by_id("abc"));
    assert_eq!((abc.mode, abc.max_files), (Mode::Ask, 3));
    assert!(abc.types.fit("a.pdf") && !abc.types.fit("a.txt"));
    let shown: Vec<_> = settings
        .describe()
        .iter()
        .filter(|setting| setting.key.starts_with("receive.from"))
        .map(|setting| format!("{} = {}", setting.key, setting.value))
        .collect();
    assert_eq!(
        shown,
        [
            "receive.from[1].who = [\"Teacher's laptop\", \"staff\"]".to_owned(),
            "receive.from[1].types = []".to_owned(),
            "receive.from[1].quota = \"none\"".to_owned(),
            format!("receive.from[1].destination = {lessons:?}"),
            "receive.from[1].collision = \"overwrite\"".to_owned(),
            "receive.from[2].who = [\"abc\"]".to_owned(),
            "receive.from[2].mode = \"ask\"".to_owned(),
            "receive.from[2].max_files = 3".to_owned(),
        ]
    );
}

#[test]
fn mistakes_in_rules_are_reported_with_the_number_of_the_rule_and_what_was_meant() {
    let machine = Machine::with(
        "[receive]\ntypes = [\"docs/*.pdf\"]\nquota = \"much\"\n\
         [[receive.from]]\nwho = [\"a\"]\nmod = \"ask\"\n\
         [[receive.from]]\nmode = \"maybe\"\nmax_bundle = 0\n\
         [[receive.from]]\nwho = [\"\"]\ndestination = \"\"\nport = 1\n",
    );
    let file = machine.user_file().display().to_string();
    let complaints = machine.complaints();
    let expected = [
        "2:1: receive.types must be a list of patterns for file names such as \"*.pdf\", without /, not [\"docs/*.pdf\"]",
        "3:1: receive.quota must be a size such as 64KiB or 1GB, or \"none\", not \"much\"",
        "6:1: there is no setting \"receive.from[1].mod\"; did you mean \"receive.from[1].mode\"?",
        "7:1: receive.from[2].who must be a list of device ids, names of devices, and groups, with at least one, not left out",
        "8:1: receive.from[2].mode must be \"accept\" or \"ask\" or \"refuse\", not \"maybe\"",
        "9:1: receive.from[2].max_bundle must be a size such as 64KiB or 1GB, at least 1B, not 0",
        "11:1: receive.from[3].who must be a list of device ids, names of devices, and groups, with at least one, not [\"\"]",
        "12:1: receive.from[3].destination must be a path (~/ needs HOME, $CREDENTIALS_DIRECTORY/ that variable to be set), in which names may have {device}, {group}, {broadcast}, {date}, not \"\"",
        "13:1: there is no setting \"receive.from[3].port\"; config/default.toml lists them all",
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|text| format!("{file}:{text}"))
        .collect();
    assert_eq!(complaints, expected);
}

#[test]
fn rules_are_a_list_of_tables_in_a_file() {
    let complaints = Machine::with("[receive.from]\nwho = [\"a\"]\n").complaints();
    assert!(complaints[0].contains("[[receive.from]]"), "{complaints:?}");
    let mut machine = Machine::new();
    machine.set("HANDOUT_RECEIVE__FROM", "a");
    assert_eq!(machine.complaints().len(), 1);
}

#[test]
fn no_destination_and_no_state_folder_may_lie_where_bundles_replace_what_is_there() {
    let with = |text: &str| Machine::with(&format!("[receive]\ndestination = \"/in\"\n{text}"));
    let complaints = |text: &str| with(text).complaints();
    let rule = "[[receive.from]]\nwho = [\"a\"]\ndestination = \"/in/staff\"\n";
    let bad = [
        format!("collision = \"overwrite\"\n{rule}"),
        // The one rule lends its destination, the other its collision.
        format!("{rule}[[receive.from]]\nwho = [\"b\"]\ncollision = \"overwrite\"\n"),
        "collision = \"overwrite\"\n[state]\ndir = \"/in/state\"\n".to_owned(),
    ];
    for text in bad {
        let complaints = complaints(&text);
        assert_eq!(complaints.len(), 1, "{text}");
        assert!(complaints[0].contains("lies in /in,"), "{complaints:?}");
    }
    let fine = [
        rule.to_owned(),
        format!("{rule}collision = \"overwrite\"\n"),
        "collision = \"overwrite\"\n".to_owned(),
    ];
    for text in fine {
        assert!(with(&text).load().is_ok(), "{text}");
    }
}

#[test]
fn limits_and_patterns_can_be_set_from_the_environment_too() {
    let mut machine = Machine::new();
    machine.set("HANDOUT_RECEIVE__TYPES", "*.pdf, *.{docx,odt}, [ab,]*");
    machine.set("HANDOUT_RECEIVE__QUOTA", "1GB");
    machine.set("HANDOUT_RECEIVE__MAX_FILE", "none");
    let terms = machine.load().unwrap().receive.policy.defaults;
    assert!(terms.types.fit("C.DOCX") && terms.types.fit("c.odt") && terms.types.fit("b"));
    assert!(!terms.types.fit("c.doc") && !terms.types.fit("docx"));
    assert_eq!((terms.quota, terms.max_file), (Some(1_000_000_000), None));
}
