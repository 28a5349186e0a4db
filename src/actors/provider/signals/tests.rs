use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc as std_mpsc;

use tokio::time::timeout;

use super::*;

const ID: &str = "0b1f8a3e-1c2d-4e5f-8a9b-0c1d2e3f4a5b";

/// The rendezvous's end: the first line and the body of what is asked, in the order of coming.
struct Questions {
    at: String,
    asked: std_mpsc::Receiver<(String, TcpStream)>,
}

impl Questions {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let (tell, asked) = std_mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut from = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length) = (String::new(), 0);
                from.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    from.read_line(&mut line).unwrap();
                    match line.trim_end().to_ascii_lowercase().split_once(": ") {
                        Some(("content-length", value)) => length = value.parse().unwrap(),
                        Some(_) => {}
                        None => break,
                    }
                }
                let mut body = vec![0; length];
                from.read_exact(&mut body).unwrap();
                first.push_str(&String::from_utf8(body).unwrap());
                if tell.send((first, stream)).is_err() {
                    return;
                }
            }
        });
        Self { at, asked }
    }

    fn next(&self) -> (String, TcpStream) {
        self.asked.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

fn answer(mut to: TcpStream, status: &str, body: &str) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n");
    write!(to, "{head}\r\n{body}").unwrap();
}

fn server(at: &str) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "abc").unwrap();
    (Server::new(at, &token, None).unwrap(), dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_waiting_for_a_signal_asks_no_second_question_and_loses_none() {
    let questions = Questions::listen();
    let (server, _dir) = server(&questions.at);
    let mut signals = Signals::new(server, "s".to_owned());
    let (first, to) = questions.next();
    assert!(first.contains("after=0&wait=10"), "{first}");
    for _ in 0..50 {
        // As a loop does that has other things to look at.
        timeout(Duration::from_millis(10), signals.next())
            .await
            .unwrap_err();
    }
    assert!(
        questions.asked.try_recv().is_err(),
        "one question at a time"
    );
    let one = r#"[{"id":7,"session_id":"s","signal_type":"offer","signal_data":"x","from_client_id":"1","to_client_id":"2"}]"#;
    answer(to, "200 OK", one);
    assert_eq!(signals.next().await.unwrap().id, 7);
    let (second, to) = questions.next();
    assert!(second.contains("after=7&wait=10"), "{second}");
    answer(to, "404 Not Found", "{}");
    let over = signals.next().await;
    assert!(
        matches!(over, Err(ServerError::Refused { status: 404, .. })),
        "{over:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_program_says_bears_the_same_name_and_another_has_another() {
    let questions = Questions::listen();
    let (ours, _dir) = server(&questions.at);
    let (other, _other_dir) = server(&questions.at);
    let mut names = Vec::new();
    for from in [ours.clone(), ours, other] {
        let saying = tokio::spawn(async move {
            let data = "x".to_owned();
            say(&from, ID, SignalType::Offer, data).await
        });
        let (said, to) = questions.next();
        let (_, body) = said.split_once("\r\n").unwrap();
        let post: SignalPost = serde_json::from_str(body).unwrap();
        assert_eq!(post.check(), Ok(()));
        names.push(post.client.expect("a name"));
        answer(to, "200 OK", "{}");
        saying.await.unwrap().unwrap();
    }
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0], names[2]);
}
