//! What happens to bundles after they have arrived, between real processes on this machine: a
//! program is run, and files are handed in.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::config::reload::{LOOPBACK, Service};
use super::{code, err, events, handout, id_of, named, out};

/// A machine with a home, an id and a port of its own.
struct Machine {
    home: tempfile::TempDir,
    id: String,
    port: u16,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let id = id_of(home.path());
        // Free a moment ago, and nobody else here asks for ports by number.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port();
        Self { home, id, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// What others need to find it.
    fn address(&self) -> String {
        format!("\"{}@127.0.0.1:{}\"", self.id, self.port)
    }

    fn config(&self, others: &[&Self], more: &str) {
        let others: Vec<_> = others.iter().map(|other| other.address()).collect();
        let text = format!(
            "[discovery]\nstatic_peers = [{}]\n[signaling]\nport = {}\n{more}",
            others.join(", "),
            self.port
        );
        std::fs::write(self.path("my.toml"), text).unwrap();
    }

    fn start(&self) -> Service {
        Service::start(self.home.path(), self.path("my.toml").to_str().unwrap())
    }

    /// A verb that works.
    fn ask(&self, words: &[&str]) {
        let output = handout(self.home.path(), words);
        assert_eq!(code(&output), 0, "{words:?}: {}", err(&output));
    }

    fn hand_in(&self, path: &Path) -> std::process::Output {
        let mut words = vec!["hand-in", path.to_str().unwrap(), "--wait", "60s", "--json"];
        words.extend(LOOPBACK);
        handout(self.home.path(), &words)
    }
}

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => drop(found.insert(path)),
        }
    }
    found
}

#[test]
fn a_class_hands_in_and_every_essay_lies_in_its_writers_folder_whatever_that_is_called() {
    let teacher = Machine::new();
    let names = ["Ada", "Ada", "../../escape", "CON", "-rf {date}"];
    let pupils: Vec<_> = names.iter().map(|_| Machine::new()).collect();
    let all: Vec<&Machine> = pupils.iter().collect();
    let takes =
        "[hand_in]\nenabled = true\ntypes = [\"*.txt\"]\nmax_file = \"10kB\"\nreserve = 0\n";
    teacher.config(&all, &format!("[receive]\nenabled = false\n{takes}"));
    for (pupil, name) in pupils.iter().zip(names) {
        pupil.config(
            &[&teacher],
            &format!("[device]\nname = {name:?}\n[receive]\nreserve = 0\n"),
        );
        // The teacher may send here, and does not receive; a pupil receives there, and does not send.
        pupil.ask(&["authorize", &teacher.id, "--roles", "send"]);
        teacher.ask(&[
            "authorize",
            &pupil.id,
            "--roles",
            "receive",
            "--group",
            "class 3b",
        ]);
    }
    let teachers = teacher.start();
    let services: Vec<_> = pupils.iter().map(Machine::start).collect();
    let essay = |machine: &Machine, text: &str| {
        let path = machine.path("essay.txt");
        std::fs::write(&path, text).unwrap();
        path
    };
    // Nobody has sent anything: there is no one to whom it could go by itself.
    let output = pupils[0].hand_in(&essay(&pupils[0], "too early"));
    assert_eq!(code(&output), 2, "{}", out(&output));

    let task = teacher.path("task.txt");
    std::fs::write(&task, "write an essay").unwrap();
    let mut words = vec![
        "send",
        task.to_str().unwrap(),
        "--to",
        "class 3b",
        "--wait",
        "60s",
    ];
    words.extend(LOOPBACK);
    teacher.ask(&words);

    for (at, pupil) in pupils.iter().enumerate() {
        let output = pupil.hand_in(&essay(pupil, &format!("essay {at}")));
        assert_eq!(code(&output), 0, "{at}: {}", out(&output));
    }
    let root = teacher.path("Handed in/class 3b");
    let handed_in = files_below(&teacher.path("Handed in"));
    assert_eq!(handed_in.len(), names.len(), "{handed_in:?}");
    let shown = ["Ada", "Ada", "_.._escape", "CON", "_rf _date_"];
    for (at, pupil) in pupils.iter().enumerate() {
        let folder = root.join(format!("{} ({})", shown[at], &pupil.id[..8]));
        let text = std::fs::read_to_string(folder.join("essay.txt"));
        assert_eq!(text.unwrap(), format!("essay {at}"), "{handed_in:?}");
    }

    // Another version is kept beside the first, and what is not wanted is refused with the reason.
    let output = pupils[0].hand_in(&essay(&pupils[0], "a better one"));
    assert_eq!(code(&output), 0, "{}", out(&output));
    let texts: BTreeSet<_> = files_below(&root)
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    assert!(
        texts.contains("essay 0") && texts.contains("a better one"),
        "{texts:?}"
    );
    let refused = |pupil: &Machine, path: &Path, why: &str| {
        let output = pupil.hand_in(path);
        assert_ne!(code(&output), 0, "{}", out(&output));
        assert!(out(&output).contains(why), "{}", out(&output));
    };
    let program = pupils[1].path("essay.exe");
    std::fs::write(&program, "MZ").unwrap();
    refused(&pupils[1], &program, "takes only *.txt");
    refused(&pupils[1], &essay(&pupils[1], &"x".repeat(20_000)), "10000");

    // A pupil who may not send still does not send, and hand-ins end with a line in the file.
    let note = pupils[2].path("note.txt");
    std::fs::write(&note, "psst").unwrap();
    pupils[2].ask(&["authorize", &teacher.id]);
    let mut words = vec![
        "send",
        note.to_str().unwrap(),
        "--to",
        &teacher.id,
        "--wait",
        "60s",
    ];
    words.extend(LOOPBACK);
    let output = handout(pupils[2].home.path(), &words);
    assert_ne!(code(&output), 0, "{}", err(&output));
    teacher.config(&all, "[receive]\nenabled = false\n");
    teachers.next("reloaded");
    refused(
        &pupils[3],
        &essay(&pupils[3], "too late"),
        "hand_in.enabled",
    );
    let in_the_end = files_below(&teacher.path("Handed in"));
    assert_eq!(in_the_end.len(), names.len() + 1, "{in_the_end:?}");

    for service in services.into_iter().chain([teachers]) {
        let (ended, log) = service.end();
        assert_eq!(ended, Some(0), "{log}");
    }
}

#[test]
fn a_program_runs_after_an_arrival_and_again_when_the_power_went_meanwhile() {
    let (sender, receiver) = (Machine::new(), Machine::new());
    let script = receiver.path("after.sh");
    let log = receiver.path("log");
    // The first time the power goes before it has done anything.
    let text = format!(
        "#!/bin/sh\nif [ ! -e {0}/once ]; then touch {0}/once; kill -9 $PPID; exit 0; fi\n\
         printf '%s|%s|%s' \"$1\" \"$HANDOUT_PATH\" \"$HANDOUT_DEVICE\" > {0}/log\necho done; exit 4\n",
        receiver.home.path().display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    receiver.config(
        &[&sender],
        &format!(
            "[receive]\nreserve = 0\ndestination = \"~/in/{{device}}\"\n\
             [[receive.from]]\nbroadcast = [\"-x $(touch y).txt\"]\n\
             run = [{script:?}, \"--file={{path}}\"]\n"
        ),
    );
    sender.config(&[&receiver], "[device]\nname = \"Ms L.\"\n");
    sender.ask(&["authorize", &receiver.id]);
    receiver.ask(&["authorize", &sender.id]);
    let receives = receiver.start();
    let bundle = sender.path("-x $(touch y).txt");
    std::fs::write(&bundle, "a lesson").unwrap();
    let mut words = vec![
        "send",
        bundle.to_str().unwrap(),
        "--to",
        &receiver.id,
        "--json",
    ];
    words.extend(LOOPBACK);
    words.extend(["--wait", "60s"]);
    // The receiver falls right after the arrival: whether that is told in time is another matter.
    let file = sender.path("my.toml");
    let config = format!("--config={}", file.display());
    words.push(&config);
    let output = handout(sender.home.path(), &words);
    assert!(!named(&events(&output), "transfer").is_empty());
    receives.gone();

    let receives = receiver.start();
    let ran = receives.next("ran");
    assert_eq!((&ran["code"], &ran["output"]), (&4.into(), &"done".into()));
    let folder = format!("Ms L. ({})", &sender.id[..8]);
    let path = receiver.path("in").join(folder).join("-x $(touch y).txt");
    let path = path.to_str().unwrap();
    assert_eq!(ran["path"], path);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "a lesson");
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said, format!("--file={path}|{path}|{}", sender.id));
    let (ended, _) = receives.end();
    assert_eq!(ended, Some(0));
    // What has ended is not run again.
    std::fs::remove_file(&log).unwrap();
    let again = receiver.start();
    let (_, _) = again.end();
    assert!(!log.exists());
}
