//! `[[group]]` and `[[broadcast]]`.

use super::*;
use crate::protocol::id::DeviceId;
use crate::protocol::plan::calendar::Zone;
use crate::protocol::plan::{Deadline, Start};
use crate::protocol::roles::Roles;

fn id(n: u8) -> DeviceId {
    DeviceId::of_key(&[n; 32])
}

#[test]
fn groups_and_broadcasts_are_read_with_their_defaults() {
    let (one, two) = (id(1), id(2));
    let machine = Machine::with(&format!(
        "[[group]]\nname = \"class-3b\"\nmembers = [\"{one} Seat 1\", \"{two}\"]\n\
         roles = [\"receive\"]\n\
         [[broadcast]]\nname = \"lessons\"\npath = \"~/lessons/*.pdf\"\nto = [\"class-3b\"]\n\
         [[broadcast]]\nname = \"plan\"\npath = [\"a\", \"/b\"]\nto = \"all\"\n\
         schedule = \"30 7 * * Mon-Fri\"\ntime_zone = \"Asia/Tokyo\"\n\
         hours = [\"Mon-Fri 08:00-16:00\", \"Sat 08:00-12:00\"]\ndeadline = \"2h\"\n\
         repeat = \"always\"\nsettle = \"5s\"\nsettle_max = \"10s\"\nrescan = \"10m\"\n\
         priority = \"high\"\nrate = \"5MB\"\nat_most = 4\nenabled = false\n"
    ));
    let settings = machine.load().unwrap();
    let group = &settings.groups[0];
    assert_eq!(
        (group.name.as_str(), group.roles),
        ("class-3b", Some(Roles::RECEIVE))
    );
    assert_eq!((&group.members[0].id, &group.members[1].id), (&one, &two));
    let [lessons, plan] = &settings.broadcasts[..] else {
        panic!()
    };
    assert_eq!(lessons.paths[0].base(), machine.home.path().join("lessons"));
    let terms = &lessons.terms;
    assert!(lessons.enabled && terms.watch && !terms.always && terms.deadline.is_none());
    assert_eq!(
        terms.zone,
        "Europe/Berlin".parse().unwrap(),
        "that of the machine"
    );
    let beside = machine.home.path().join(".config/handout/a");
    assert_eq!(plan.paths[0].written(), beside);
    assert_eq!(
        (plan.to.as_slice(), plan.enabled),
        (&["all".to_owned()][..], false)
    );
    let terms = &plan.terms;
    assert!(terms.always && !terms.watch && matches!(terms.start, Start::Schedule(_)));
    assert_eq!(
        terms.deadline,
        Some(Deadline::After(Duration::from_secs(7200)))
    );
    assert_ne!(terms.zone, Zone::UTC);
    assert_eq!(
        (plan.share.rate, plan.share.at_most),
        (Some(5_000_000), Some(4))
    );
    let shown = settings.describe().iter().map(|setting| &setting.key);
    assert!(shown.into_iter().any(|key| key == "broadcast[2].hours"));
}

#[test]
fn every_mistake_in_them_is_named_with_its_key_and_what_was_meant() {
    let machine = Machine::with(
        "[[group]]\nname = \"all\"\nmembers = [\"kiosk\"]\nroles = [\"king\"]\nmember = []\n\
         [[broadcast]]\nname = \"a\"\npaths = \"x\"\nto = []\nstart = \"tomorrow\"\n\
         hours = \"8 to 4\"\ntime_zone = \"Berlin\"\ndeadline = \"soon\"\nrepeat = \"always\"\n\
         settle = \"1s\"\nsettle_max = \"0s\"\nrate = \"fast\"\nat_most = 0\npriority = \"most\"\n\
         [[broadcast]]\nname = \"a\"\npath = \"/a/**\"\nto = [\"all\"]\nwatch = true\n\
         schedule = \"0 8 30 2 *\"\nstart = \"now\"\nenabled = \"perhaps\"\n\
         [[broadcast]]\nname = \"a\"\npath = \"/a\"\nto = [\"all\"]\nschedule = \"0 8 * * *\"\n\
         watch = true\n\
         [[broadcast]]\nname = \"a\"\npath = \"/a\"\nto = [\"all\"]\nsettle = \"1m\"\n\
         settle_max = \"2s\"\nstart = \"2026-12-01 08:00\"\ndeadline = \"2026-12-01 08:00\"\n",
    );
    let complaints = machine.complaints();
    for (key, word) in [
        ("group[1].name", "not \"all\""),
        ("group[1].members", "32 characters"),
        ("group[1].roles", "\"introduce\""),
        ("group[1].member", "did you mean \"group[1].members\"?"),
        ("broadcast[1].path ", "left out"),
        ("broadcast[1].paths", "did you mean \"broadcast[1].path\"?"),
        ("broadcast[1].to", "at least one"),
        ("broadcast[1].start", "2026-12-01 08:00"),
        ("broadcast[1].hours", "Mon-Fri"),
        ("broadcast[1].time_zone", "Europe/Berlin"),
        ("broadcast[1].deadline", "2h"),
        ("broadcast[1].repeat", "no schedule"),
        ("broadcast[1].settle_max", "from 1s"),
        ("broadcast[1].rate", "5MB/s"),
        ("broadcast[1].at_most", "1 to 10000"),
        ("broadcast[1].priority", "\"low\" or \"normal\" or \"high\""),
        ("broadcast[2].path", "\"**\""),
        ("broadcast[2].schedule", "names some time"),
        ("broadcast[2].schedule", "left out"),
        ("broadcast[2].enabled", "true or false"),
        ("broadcast[3].watch", "schedule says when"),
        ("broadcast[4].name", "again"),
        ("broadcast[4].settle_max", "as long as settle"),
        ("broadcast[4].deadline", "after start"),
    ] {
        let found = complaints
            .iter()
            .any(|said| said.contains(key) && said.contains(word));
        assert!(found, "{key}: {word}: {complaints:#?}");
    }
    assert_eq!(complaints.len(), 26, "{complaints:#?}");
}

#[test]
fn a_group_that_is_written_as_one_table_is_told_how_to_be_written() {
    let machine = Machine::with("[group]\nname = \"a\"\n[[grup]]\nname = \"b\"\n");
    let complaints = machine.complaints();
    assert!(
        complaints[0].contains("written as [[group]]"),
        "{complaints:?}"
    );
    assert!(
        complaints[1].contains("did you mean \"group\"?"),
        "{complaints:?}"
    );
}

#[test]
fn of_thirty_members_the_one_that_is_none_is_named_with_its_line() {
    let mut members: Vec<String> = (1..=30)
        .map(|n| format!("  \"{} Seat {n}\",\n", id(n)))
        .collect();
    let long = "x".repeat(500);
    members[16] = format!("  \"abc\\u001b[2J\", \"{}\",\n  5,\n", id(17));
    members[29] = format!("  \"{long}\",\n");
    let machine = Machine::with(&format!(
        "[[group]]\nname = \"class-3b\"\nmembers = [\n{}]\n",
        members.concat()
    ));
    let said = machine.complaints();
    let file = machine.user_file();
    let place = |line: usize| format!("{}:{line}:3: group[1].members", file.display());
    let [first, second, third] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(
        first.starts_with(&place(20)) && first.contains("not \"abc"),
        "{first}"
    );
    assert!(
        !first.contains('\u{1b}') && !first.contains("Seat 16"),
        "{first}"
    );
    assert!(
        second.starts_with(&place(21)) && second.ends_with("not 5"),
        "{second}"
    );
    assert!(
        third.starts_with(&place(34)) && third.len() < 400,
        "{third}"
    );

    // In one line they are one mistake, and a variable has no lines.
    let mut machine = Machine::with("[trust]\nauthorized = [\"a\", \"b\"]\n");
    let said = machine.complaints();
    assert!(
        said.len() == 1 && said[0].ends_with("not \"a\" or \"b\""),
        "{said:?}"
    );
    machine.set("HANDOUT_TRUST__ADMINS", &format!("{},../c", id(1)));
    let said = machine.complaints();
    assert!(
        said.len() == 2 && said[1].ends_with("not \"../c\""),
        "{said:?}"
    );
}
