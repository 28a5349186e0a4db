//! What the settings name on the disk.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::protocol::id::DeviceId;

fn write(machine: &Machine, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = machine.home.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

const NAMES: &str = "[kiosk]\ninvite = true\nsecret_file = \"~/secret\"\npin = \"file\"\n\
                     pin_file = \"~/pin\"\n\
                     [api]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"~/api/token\"\n\
                     [notify]\nwebhook = \"https://a.example/\"\nsecret_file = \"~/hook\"\n\
                     [log]\nfile = \"~/logs/handout.log\"\n";

#[test]
fn files_that_are_missing_or_hold_no_secret_are_named_with_what_to_do() {
    let machine = Machine::with(NAMES);
    let doubts = machine.doubts();
    let [secret, pin, hook] = &doubts[..] else {
        panic!("{doubts:?}")
    };
    assert!(
        secret.starts_with("f:3:1: kiosk.secret_file names "),
        "{secret}"
    );
    assert!(pin.starts_with("f:5:1: kiosk.pin_file names "), "{pin}");
    assert!(
        hook.starts_with("f:11:1: notify.secret_file names "),
        "{hook}"
    );
    for doubt in &doubts {
        assert!(
            doubt.ends_with("is not there: write it, or mend the path"),
            "{doubt}"
        );
    }

    // A folder in the place of a file, a file in the place of a folder.
    write(&machine, "secret", "too short", 0o600);
    write(&machine, "pin", "12345", 0o600);
    fs::create_dir(machine.home.path().join("hook")).unwrap();
    write(&machine, "api/token", &"t".repeat(32), 0o644);
    write(&machine, "logs", "", 0o600);
    let doubts = machine.doubts();
    let says = |line: &str, what: &str| {
        let found = doubts.iter().find(|doubt| doubt.starts_with(line));
        assert!(
            found.is_some_and(|doubt| doubt.contains(what)),
            "{line} {what}: {doubts:?}"
        );
    };
    says("f:3:1: ", "fewer than 16 characters");
    says("f:5:1: ", "six digits");
    says("f:8:1: ", "chmod 600");
    says("f:11:1: ", "cannot be read");
    says("f:13:1: ", "is no folder");
    assert_eq!(doubts.len(), 5);

    // What is there, and what nobody uses.
    let machine = Machine::with(NAMES);
    write(&machine, "secret", &"s".repeat(20), 0o600);
    write(&machine, "pin", "123456\n", 0o600);
    write(&machine, "hook", "hook\n", 0o600);
    write(&machine, "api/token", &"t".repeat(32), 0o640);
    assert_eq!(machine.doubts(), [""; 0]);
    let machine = Machine::with(
        "[kiosk]\nsecret_file = \"~/secret\"\n[notify]\nsecret_file = \"~/hook\"\n\
         [api]\ntoken_file = \"/proc/none/token\"\n",
    );
    assert_eq!(machine.doubts(), [""; 0]);
}

#[test]
fn programs_and_folders_that_cannot_be_used_are_named_with_their_line() {
    let machine = Machine::new();
    let file = write(&machine, "file", "", 0o644);
    let program = write(&machine, "program", "#!/bin/sh\n", 0o755);
    let (file, program) = (file.display(), program.display());
    let machine = Machine::with(&format!(
        "[receive]\ndestination = \"{file}/in\"\nrun = [\"/no/such\", \"x\"]\n\
         [[receive.from]]\nwho = [\"a\"]\ndestination = \"{file}\"\nrun = [\"{file}\"]\n\
         [[receive.from]]\nwho = [\"b\"]\ndestination = \"~/new/{{group}}\"\nrun = [\"{program}\"]\n\
         [hand_in]\nenabled = true\ndestination = \"{file}/{{device}}\"\n"
    ));
    let doubts = machine.doubts();
    let [folder, run, rule, rule_run, hand_in] = &doubts[..] else {
        panic!("{doubts:?}")
    };
    assert!(folder.starts_with("f:2:1: receive.destination") && folder.contains("is no folder"));
    assert!(run.starts_with("f:3:1: receive.run") && run.contains("is not there"));
    assert!(
        rule.starts_with("f:6:1: receive.from[1].destination"),
        "{rule}"
    );
    assert!(rule_run.starts_with("f:7:1: receive.from[1].run") && rule_run.contains("chmod +x"));
    assert!(
        hand_in.starts_with("f:14:1: hand_in.destination"),
        "{hand_in}"
    );
    // Where nothing is received, nothing is put there.
    let text = format!("[receive]\nenabled = false\ndestination = \"{file}/in\"\n");
    assert_eq!(Machine::with(&text).doubts(), [""; 0]);
}

#[test]
fn a_deadline_that_has_passed_is_a_doubt() {
    let broadcast = |deadline: &str| {
        let text = format!(
            "[[broadcast]]\nname = \"a\"\npath = \"/\"\nto = \"all\"\ntime_zone = \"UTC\"\n\
             deadline = \"{deadline}\"\n[state]\ndir = \"/var/empty/x\"\n"
        );
        Machine::with(&text.replace("\"/\"", "\"/etc/hosts\"")).doubts()
    };
    let doubts = broadcast("2026-11-21 07:59");
    assert!(
        doubts.len() == 1
            && doubts[0].starts_with("f:6:1: broadcast[1].deadline")
            && doubts[0].contains("has passed"),
        "{doubts:?}"
    );
    assert_eq!(broadcast("2026-12-21 08:01"), [""; 0]);
    assert_eq!(broadcast("2h"), [""; 0]);
}

#[test]
fn a_broadcast_of_the_state_folder_is_a_mistake_however_it_is_named() {
    let machine = Machine::new();
    let at = |name: &str| machine.home.path().join(name);
    fs::create_dir_all(at(".local/state/handout/rosters")).unwrap();
    fs::create_dir(at("lessons")).unwrap();
    symlink(at(".local/state"), at("link")).unwrap();
    let broadcast = |paths: &str| {
        fs::create_dir_all(machine.user_file().parent().unwrap()).unwrap();
        let text = format!("[[broadcast]]\nname = \"a\"\nto = \"all\"\npath = {paths}\n");
        fs::write(machine.user_file(), text).unwrap();
        machine.load().map(|_| ())
    };
    for bad in [
        "\"~/.local/state/handout\"",
        "\"~\"",
        "\"~/.local/state/handout/identity.key\"",
        "\"~/.local/state/handout/*.key\"",
        "\"~/.local/*\"",
        "\"~/.local/*/h*/rosters\"",
        "\"~/link\"",
        "\"~/link/handout/rosters/x\"",
        "\"/\"",
    ] {
        let error = broadcast(bad).expect_err(bad).to_string();
        assert!(
            error.contains("config.toml:4:1: broadcast[1].path must be apart"),
            "{error}"
        );
    }
    let error = broadcast("[\"~/lessons\",\n  \"~/link/handout\"]").unwrap_err();
    assert!(error.to_string().contains("config.toml:5:3: "), "{error}");
    for good in [
        "\"~/lessons\"",
        "\"~/*\"",
        "\"~/.local/share/*\"",
        "\"~/.local/state/handout-2\"",
    ] {
        broadcast(good).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
}

#[test]
fn words_that_mean_nobody_are_doubted_only_where_the_file_says_who_there_is() {
    let to = "[[broadcast]]\nname = \"a\"\npath = \"/etc/hosts\"\nto = [\"visitors\", \"lab\"]\n";
    assert_eq!(Machine::with(to).doubts(), [""; 0]);
    let id = DeviceId::of_key(&[1; 32]);
    let group = format!("{to}[[group]]\nname = \"lab-1\"\nmembers = [\"{id}\"]\n");
    assert_eq!(Machine::with(&group).doubts().len(), 2);
    // The kiosk makes that group.
    let doubts = Machine::with(&format!("{group}[kiosk]\ninvite = true\n")).doubts();
    assert!(
        doubts.len() == 1 && doubts[0].contains("\"lab\""),
        "{doubts:?}"
    );
}
