//! The disk of the state folder is full: every verb that needs it ends with 7 and says which disk,
//! with a service and without; once there is room again, all works.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::programs::{Program, Receiving, expect};

/// A file system of a few MiB, gone with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Nothing where this user may not mount one, which is said; root must be able to.
    fn or_skipped() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
            .arg(dir.path())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        assert!(
            !rustix::process::geteuid().is_root(),
            "root must be able to mount a tmpfs for this test"
        );
        eprintln!("SKIPPED: filling a disk needs the right to mount one");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A service may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn says_which_disk(output: &Output, disk: &SmallDisk) {
    expect(7, output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let place = format!("the disk at {} has no room left", disk.path().display());
    assert!(said.contains(&place), "{said}");
    assert!(said.contains("free some room there"), "{said}");
}

#[test]
fn a_full_disk_under_the_state_folder_is_7_until_there_is_room() {
    let Some(disk) = SmallDisk::or_skipped() else {
        return;
    };
    let (program, other) = (Program::new(), Program::new());
    let state = format!("--state={}", disk.path().join("state").display());
    let (other, file) = (other.id(), program.file("lesson.bin", 10));
    expect(0, &program.run(&["id", &state]));
    disk.fill();
    for verb in [
        &["authorize", other.as_str()][..],
        &["group", "add", "class", &other],
        &["invite", "--for", "1s"],
        &["send", &file, "--to", "all"],
        &["id", "rotate"],
        &["run"],
    ] {
        says_which_disk(&program.run(&[verb, &[&state]].concat()), &disk);
    }
    disk.free();
    expect(0, &program.run(&["authorize", &other, &state]));
    expect(0, &program.run(&["group", "add", "class", &other, &state]));
}

#[test]
fn a_service_whose_disk_is_full_says_so_with_7_and_507() {
    let Some(disk) = SmallDisk::or_skipped() else {
        return;
    };
    let (program, other) = (Program::new(), Program::new().id());
    let state = format!("--state={}", disk.path().join("state").display());
    let words = ["run", "--json", &state, "--set=api.listen=127.0.0.1:0"];
    let mut running = Receiving::begin(program.command(&words));
    let serving = running.until("serving");
    disk.fill();
    for verb in [
        &["authorize", other.as_str()][..],
        &["revoke", &other],
        &["group", "add", "class", &other],
    ] {
        says_which_disk(&program.run(&[verb, &[&state]].concat()), &disk);
    }
    let url = serving["url"].as_str().unwrap();
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let token = std::fs::read_to_string(serving["token_file"].as_str().unwrap()).unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let token = token.trim();
    write!(
        stream,
        "PUT /v1/authorizations/{other} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 507 "), "{answer}");
    assert!(answer.contains("\"code\":7"), "{answer}");
    disk.free();
    expect(0, &program.run(&["authorize", &other, &state]));
}
