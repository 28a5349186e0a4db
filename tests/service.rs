//! What a service manager hears of the real program, on a socket as systemd gives it.

mod programs;

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use programs::{Program, Receiving, expect, place};

/// A message comes within this, or the test hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn new(program: &Program) -> Self {
        let socket = UnixDatagram::bind(program.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).expect("a word of the service");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn until(&self, what: &str) -> String {
        loop {
            let said = self.hear();
            if said.contains(what) {
                return said;
            }
        }
    }
}

#[test]
fn it_is_told_that_we_are_ready_what_goes_on_and_that_we_live_until_we_stop() {
    let (home, sender) = (Program::new(), Program::new());
    home.knows(&sender);
    let manager = Manager::new(&home);
    let mut command = home.command(&["run", "--json"]);
    command
        .env("NOTIFY_SOCKET", home.path("notify"))
        .env("WATCHDOG_USEC", "600000");
    let mut running = Receiving::begin(command);
    assert_eq!(manager.hear(), "READY=1\n");
    manager.until("WATCHDOG=1");
    manager.until("STATUS=0 connected; transfers: 0 active, 0 waiting");
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    let file = sender.file("a.bin", 1000);
    let to = place(&home.id(), running.port);
    expect(0, &sender.run(&["send", &file, "--to", &to]));
    let pid = rustix::process::Pid::from_raw(running.child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    manager.until("STOPPING=1");
    assert!(running.child.wait().unwrap().success());
}

#[test]
fn a_log_file_is_written_by_the_service_alone_and_nothing_of_it_reaches_stderr() {
    let home = Program::new();
    let log = home.path("logs/handout.log");
    let file = format!("--set=log.file={}", log.display());
    expect(0, &home.run(&["id", "-vvv", &file]));
    assert!(!log.exists(), "only a service writes it");
    let mut running = Receiving::begin(home.command(&["run", "--json", "-vvv", &file]));
    let pid = rustix::process::Pid::from_raw(running.child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(running.child.wait().unwrap().success());
    let mut errors = String::new();
    let mut stderr = running.child.stderr.take().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    assert_eq!(errors.matches("TRACE").count(), 0, "{errors}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("TRACE"), "{text}");
}
