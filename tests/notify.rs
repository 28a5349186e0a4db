//! What a webhook and a desktop hear of the real program.

mod programs;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use programs::{Program, Receiving, expect, place};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// A request that came: its header lines, in small letters, and its body.
struct Posted {
    headers: Vec<String>,
    body: Value,
}

fn read(stream: &TcpStream) -> Posted {
    let mut reader = BufReader::new(stream);
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(said) = line.strip_prefix("content-length: ") {
            length = said.parse().unwrap();
        }
        headers.push(line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    Posted { headers, body }
}

/// A server on loopback that answers with these lines, one for each request, and 200 after that.
fn server(answers: &[&str]) -> (String, Receiver<Posted>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (posts, posted) = channel();
    let answers: Vec<String> = answers.iter().map(|line| (*line).to_owned()).collect();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read(&stream);
            let line = answers.next().unwrap_or_else(|| "200 OK".to_owned());
            let answer =
                format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
            if posts.send(request).is_err() {
                return;
            }
        }
    });
    (url, posted)
}

/// A service that tells this URL, and somebody who sends to it.
fn telling(home: &Program, sender: &Program, url: &str, more: &[&str]) -> Receiving {
    home.knows(sender);
    let url = format!("--set=notify.webhook={url}");
    let words = [&["run", "--json", "-v", &url], more].concat();
    Receiving::begin(home.command(&words))
}

fn send(sender: &Program, name: &str, size: usize, to: &str, code: i32) {
    let file = sender.file(name, size);
    expect(code, &sender.run(&["send", &file, "--to", to]));
}

#[test]
fn a_webhook_is_told_what_is_done_and_what_failed_again_where_it_had_no_time() {
    let (home, sender) = (Program::new(), Program::new());
    let (url, posted) = server(&["503 Busy", "500 Oh"]);
    home.file("secret", 0);
    std::fs::write(home.path("secret"), "open-sesame\n").unwrap();
    let secret = format!("--set=notify.secret_file={}", home.path("secret").display());
    let running = telling(
        &home,
        &sender,
        &url,
        &[&secret, "--set=receive.max_bundle=2kB"],
    );
    let to = place(&home.id(), running.port);
    send(&sender, "lesson.bin", 1000, &to, 0);
    for _ in 0..3 {
        let post = posted.recv_timeout(PATIENCE).unwrap();
        assert_eq!(post.headers[0], "post /hook http/1.1");
        let has = |line: &str| post.headers.iter().any(|header| header == line);
        assert!(
            has("authorization: bearer open-sesame"),
            "{:?}",
            post.headers
        );
        assert!(has("content-type: application/json"));
        assert_eq!(post.body["event"], "done", "{}", post.body);
        assert_eq!(post.body["text"], "lesson.bin has arrived");
        assert_eq!(post.body["device"]["id"], home.id());
        assert_eq!(post.body["about"]["event"], "received");
    }
    send(&sender, "large.bin", 3000, &to, 7);
    let post = posted.recv_timeout(PATIENCE).unwrap();
    assert_eq!(post.body["event"], "failed", "{}", post.body);
    let text = post.body["text"].as_str().unwrap();
    assert!(text.starts_with("large.bin from "), "{text}");
}

#[test]
fn a_server_that_says_nothing_holds_nothing_up_and_redirects_are_not_followed() {
    let (home, sender) = (Program::new(), Program::new());
    // Takes connections, and never reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let running = telling(&home, &sender, &url, &[]);
    let to = place(&home.id(), running.port);
    let begun = Instant::now();
    for n in 0..3 {
        send(&sender, &format!("{n}.bin"), 1000, &to, 0);
    }
    // One try alone takes 10 s, and each of three notices has five.
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    silent.accept().expect("it was tried");
    drop(running);

    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let there = elsewhere.local_addr().unwrap();
    let (url, posted) = server(&[&format!("307 There\r\nLocation: http://{there}/")]);
    let running = telling(&home, &sender, &url, &["--set=notify.retries=0"]);
    let to = place(&home.id(), running.port);
    send(&sender, "a.bin", 1000, &to, 0);
    send(&sender, "b.bin", 1000, &to, 0);
    for name in ["a.bin", "b.bin"] {
        let post = posted.recv_timeout(PATIENCE).unwrap();
        assert_eq!(post.body["text"], format!("{name} has arrived"));
    }
    let followed = elsewhere.accept().unwrap_err();
    assert_eq!(followed.kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_desktop_is_told_by_its_program_and_markup_stays_text() {
    let (home, sender) = (Program::new(), Program::new());
    home.knows(&sender);
    let bin = home.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let (said, program) = (home.path("said"), bin.join("notify-send"));
    // The interface to a desktop is this program; here it writes down what it is told.
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > {0}.new\nmv {0}.new {0}\n",
        said.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = home.command(&["run", "--json", "--set=notify.desktop=true"]);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", bin.display()));
    let running = Receiving::begin(command);
    let to = place(&home.id(), running.port);
    send(&sender, "-<b>x&y.bin", 1000, &to, 0);
    let end = Instant::now() + PATIENCE;
    while !said.exists() {
        assert!(Instant::now() < end, "nothing was shown");
        std::thread::sleep(Duration::from_millis(20));
    }
    let lines = std::fs::read_to_string(&said).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[2..4], ["--", "Handout"]);
    assert_eq!(lines[4], "-&lt;b>x&amp;y.bin has arrived");
}

#[test]
fn a_webhook_without_encryption_to_just_any_host_is_a_mistake_in_the_settings() {
    let home = Program::new();
    for url in ["http://example.com/x", "ftp://localhost/", "https://a:b@c/"] {
        let set = format!("--set=notify.webhook={url}");
        let output = home.run(&["config", "check", &set]);
        expect(2, &output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("notify.webhook"), "{said}");
    }
}
