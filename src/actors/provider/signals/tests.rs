use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc as std_mpsc;

use tokio::time::timeout;

use super::*;

/// The rendezvous's end: the questions, in the order in which they come.
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
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                while !lines.next().unwrap().unwrap().is_empty() {}
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

fn signals(at: &str) -> (Signals, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "abc").unwrap();
    let server = Server::new(at, &token, None).unwrap();
    (Signals::new(server, "s".to_owned()), dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_waiting_for_a_signal_asks_no_second_question_and_loses_none() {
    let questions = Questions::listen();
    let (mut signals, _dir) = signals(&questions.at);
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
