//! A PostgreSQL server for as long as tests use it. Debian's package `postgresql` brings it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Ports that the system gives to nobody by itself.
const PORTS: std::ops::Range<u16> = 21_000..21_500;

pub struct Postgres {
    _dir: tempfile::TempDir,
    bin: PathBuf,
    socket: PathBuf,
    port: u16,
    child: Child,
}

/// A database in it, for one test.
pub struct Database {
    server: Arc<Postgres>,
    name: String,
}

impl Database {
    pub fn new() -> Self {
        static SERVER: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let server = {
            let mut there = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
            there.upgrade().unwrap_or_else(|| {
                let new = Arc::new(Postgres::start());
                *there = Arc::downgrade(&new);
                new
            })
        };
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
        Self { server, name }
    }

    /// The setting that names it.
    pub fn setting(&self) -> String {
        let (port, name) = (self.server.port, &self.name);
        format!("rendezvous.serve.database=postgres://postgres@127.0.0.1:{port}/{name}")
    }

    /// What a query answers with, line by line.
    pub fn sql(&self, query: &str) -> String {
        self.server.sql(&self.name, query)
    }
}

impl Postgres {
    fn start() -> Self {
        let bin = binaries();
        // Not where tests usually write, which others may not enter.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let user = user();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&data, Some(uid), Some(gid)).unwrap();
        }
        let run = |name: &str| {
            let mut command = Command::new(bin.join(name));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir("/").stdin(Stdio::null());
            command
        };
        let made = run("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = PORTS
            .clone()
            .cycle()
            .skip(std::process::id() as usize % PORTS.len())
            .take(PORTS.len())
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .expect("a free port");
        let child = run("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "fsync=off", "-c", "max_connections=200"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            socket: data.clone(),
            _dir: dir,
            bin,
            port,
            child,
        };
        let end = Instant::now() + Duration::from_secs(60);
        while !server.answers() {
            assert!(Instant::now() < end, "PostgreSQL does not start");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        server
    }

    fn answers(&self) -> bool {
        let ready = self.client("pg_isready", "postgres").output().unwrap();
        ready.status.success()
    }

    fn client(&self, name: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.arg("-h").arg(&self.socket);
        command.args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-d",
            database,
        ]);
        command
    }

    fn sql(&self, database: &str, query: &str) -> String {
        let mut client = self.client("psql", database);
        let output = client.args(["-qAt", "-c", query]).output().unwrap();
        assert!(output.status.success(), "{query}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // The fast way to stop: connections are cut off.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

/// Where Debian has the newest.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let bins = versions.flatten().map(|version| version.path().join("bin"));
    let there = |bin: &PathBuf| bin.join("initdb").exists();
    bins.filter(there)
        .max()
        .expect("PostgreSQL is needed: apt-get install postgresql, or run tests/run")
}

/// Root may not run it; the package brings a user that does.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.expect("the user postgres").split(':').skip(2);
    let mut number = || fields.next().unwrap().parse().unwrap();
    Some((number(), number()))
}
