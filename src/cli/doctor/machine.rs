//! What of this machine may stand in the way: the state folder, the port, the clock, the disk, and
//! limits of the system.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Finding, Level};
use crate::cli::text::{bytes, duration};
use crate::config::Settings;
use crate::store::Store;

/// A disk with less is nearly full.
const LITTLE: u64 = 1 << 30;
/// What the state folder needs, with room.
const STATE_NEEDS: u64 = 64 << 20;
/// No clock of this program's time shows less: 2026-01-01.
const EARLIEST: u64 = 1_767_225_600;
/// A file may be so much younger than now.
const AHEAD: Duration = Duration::from_secs(60);
/// Watches that large folders need.
const WATCHES: u64 = 65_536;

/// Who has the state folder, and whether it can be written.
pub fn state(settings: &Settings, service: bool) -> Vec<Finding> {
    let dir = &settings.state.dir;
    let shown = dir.display();
    let lock = dir.join("lock");
    let mut found = Vec::new();
    let holder = match File::open(&lock) {
        Ok(mut file) => match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = Read::by_ref(&mut file).take(64).read_to_string(&mut text);
                Some(text.trim().to_owned())
            }
            _ => None,
        },
        Err(_) => None,
    };
    found.push(match (holder, service) {
        (Some(_), true) => Finding::fine("service", format!("one runs on {shown} and answers")),
        (Some(pid), false) => Finding::new(
            Level::Problem,
            "service",
            format!("process {pid} has the state folder {shown} and does not answer"),
        )
        .todo(format!(
            "see what it is: ps -fp {pid}\nif it is handout and hangs: kill {pid}, and start it again"
        )),
        (None, true) => Finding::new(
            Level::Problem,
            "service",
            format!("a service answers for {shown}, but does not hold its lock: the folder was replaced under it"),
        )
        .todo("stop all handout processes, and start one again"),
        (None, false) => Finding::new(Level::Note, "service", format!("none runs on {shown}"))
            .todo("handout run (or: systemctl start handout)"),
    });
    if !Store::is_at(dir) {
        let what = format!("there is none at {shown} yet, so no device either");
        found.push(
            Finding::new(Level::Note, "state", what)
                .todo("handout run, receive, send and id make one; --state names another folder"),
        );
        return found;
    }
    let probe = dir.join(".doctor");
    let written = fs::write(&probe, b"x").and_then(|()| fs::remove_file(&probe));
    if let Err(error) = written {
        found.push(
            Finding::new(
                Level::Problem,
                "state",
                format!("{shown} cannot be written: {error}"),
            )
            .todo("mend its owner and mode, or its disk; --state names another folder"),
        );
    }
    found
}

/// Whether the signaling port is free.
pub fn port(settings: &Settings, service: bool) -> Option<Finding> {
    let address = SocketAddr::new(settings.signaling.bind, settings.signaling.port);
    if address.port() == 0 {
        let what = "signaling takes any free TCP port";
        return Some(Finding::new(Level::Note, "port", what).todo(
            "where a firewall is between devices, fix one: signaling.port = 47800, the same on all",
        ));
    }
    match TcpListener::bind(address) {
        Ok(_) => Some(Finding::fine("port", format!("TCP {address} is free"))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && service => Some(Finding::fine(
            "port",
            format!("TCP {address} is in use, as it should be while the service runs"),
        )),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder = holder(address.port());
            let by = holder.map_or_else(String::new, |(pid, name)| {
                format!(" by process {pid} ({name})")
            });
            let what = format!("TCP {address} is in use{by}");
            Some(
                Finding::new(Level::Problem, "port", what).todo(
                    "stop that program, or choose another port (signaling.port; 0 takes any)",
                ),
            )
        }
        Err(error) => Some(
            Finding::new(
                Level::Problem,
                "port",
                format!("TCP {address} cannot be used: {error}"),
            )
            .todo("check signaling.bind: it must be an address of this machine, or 0.0.0.0"),
        ),
    }
}

/// The process that listens on a TCP port, as far as we may see it.
fn holder(port: u16) -> Option<(u32, String)> {
    let listening = |table: &str| {
        let text = fs::read_to_string(table).unwrap_or_default();
        text.lines()
            .skip(1)
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let local = words.get(1)?.rsplit_once(':')?.1;
                let listens = words.get(3) == Some(&"0A");
                (listens && u16::from_str_radix(local, 16) == Ok(port))
                    .then(|| words.get(9).map(|inode| (*inode).to_owned()))?
            })
            .collect::<Vec<_>>()
    };
    let mut inodes = listening("/proc/net/tcp");
    inodes.extend(listening("/proc/net/tcp6"));
    let sockets: Vec<PathBuf> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]").into())
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let has = open
            .into_iter()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| sockets.contains(&target));
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        has.then(|| (pid, name.trim().to_owned()))
    })
}

/// Whether the clock can be right: devices whose clocks differ by more than
/// `signaling.max_clock_skew` refuse each other.
pub fn clock(settings: &Settings) -> Finding {
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    if since.map_or(0, |since| since.as_secs()) < EARLIEST {
        return Finding::new(Level::Problem, "clock", "it shows a time before 2026")
            .todo(SET_CLOCK);
    }
    let names = ["lock", "authorizations.log", "identity.key", "db"];
    let newest = names
        .iter()
        .filter_map(|name| fs::metadata(settings.state.dir.join(name)).ok())
        .filter_map(|there| there.modified().ok())
        .max();
    let ahead = newest.and_then(|newest| newest.duration_since(now).ok());
    match ahead.filter(|ahead| *ahead > AHEAD) {
        Some(ahead) => Finding::new(
            Level::Problem,
            "clock",
            format!(
                "it went back: the state folder was written {} from now",
                duration(ahead)
            ),
        )
        .todo(SET_CLOCK),
        None => Finding::fine(
            "clock",
            format!(
                "nothing speaks against it; other devices' may differ by {}",
                duration(settings.signaling.max_clock_skew)
            ),
        ),
    }
}

const SET_CLOCK: &str = "timedatectl set-ntp true (or, without a time server: date -s ...); devices \
                         whose clocks differ too much refuse each other";

/// Room on the disks.
pub fn disk(settings: &Settings) -> Vec<Finding> {
    let receive = &settings.receive;
    let terms = &receive.policy.defaults;
    let mut places: Vec<(PathBuf, u64)> = vec![(settings.state.dir.clone(), STATE_NEEDS)];
    if receive.enabled {
        places.push((terms.destination.clone(), terms.reserve));
        let others = receive.policy.rules.iter();
        let others = others.filter_map(|rule| rule.changes.destination.clone());
        places.extend(others.map(|place| (place, terms.reserve)));
    }
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for (place, needed) in places {
        let there = existing(&place);
        let Ok(stat) = rustix::fs::statvfs(&there) else {
            continue;
        };
        let device = fs::metadata(&there).map(|there| there.dev()).ok();
        if seen.contains(&(device, needed)) {
            continue;
        }
        seen.push((device, needed));
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let what = format!("{} has {} free", place.display(), bytes(free));
        found.push(if free < needed {
            Finding::new(
                Level::Problem,
                "disk",
                format!("{what}, and {} must stay free", bytes(needed)),
            )
            .todo("make room: transfers wait until there is some")
        } else if free - needed < LITTLE {
            Finding::new(Level::Warning, "disk", what).todo("make room before it is full")
        } else if stat.f_files > 0 && stat.f_favail < 10_000 {
            let what = format!(
                "{} has room for {} more files",
                place.display(),
                stat.f_favail
            );
            Finding::new(Level::Warning, "disk", what).todo("remove files that nobody needs")
        } else {
            Finding::fine("disk", what)
        });
    }
    found
}

/// The folder, or the first above it that is there.
fn existing(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|above| above.exists());
    there.unwrap_or(Path::new("/")).to_owned()
}

/// Limits of the system that make us slow, or blind.
pub fn limits(settings: &Settings) -> Vec<Finding> {
    let number = |path: &str| -> Option<u64> {
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse().ok()
    };
    let mut found = Vec::new();
    let wanted = settings.network.udp_buffer;
    let small: Vec<String> = ["rmem_max", "wmem_max"]
        .into_iter()
        .filter_map(|name| {
            let granted = number(&format!("/proc/sys/net/core/{name}"))?;
            (granted < wanted).then(|| format!("net.core.{name}={wanted}"))
        })
        .collect();
    found.push(match small.is_empty() {
        true => Finding::fine("buffers", format!("UDP sockets may have {}", bytes(wanted))),
        false => Finding::new(
            Level::Warning,
            "buffers",
            format!(
                "UDP sockets get less than the {} that are asked for: large files are slower",
                bytes(wanted)
            ),
        )
        .todo(format!("sysctl -w {}", small.join(" "))),
    });
    if let Some(watches) = number("/proc/sys/fs/inotify/max_user_watches")
        && watches < WATCHES
    {
        let what = format!("at most {watches} folders can be watched for changes");
        let todo = format!("sysctl -w fs.inotify.max_user_watches={WATCHES}");
        found.push(Finding::new(Level::Warning, "watching", what).todo(todo));
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(files) = files.filter(|files| *files < 1024) {
        let what = format!("a process may have only {files} files open");
        let todo = "ulimit -n 65536 (LimitNOFILE= in a systemd unit)";
        found.push(Finding::new(Level::Warning, "files", what).todo(todo));
    }
    found
}
