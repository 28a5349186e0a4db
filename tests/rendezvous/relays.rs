//! Relayed links: what one end sends comes out at the other, and nobody else comes in between.

use std::time::{Duration, Instant};

use handout::protocol::rendezvous::ServerSays;
use tokio_tungstenite::tungstenite::Message;

use super::postgres::Database;
use super::server::{DEVICE, PROVIDER, REQUESTER, Server};
use super::sockets::{PATIENCE, Socket, run};

const PATH: &str = "/api/relay/abcdefghijklmnopqrstuvwxyz234567";

/// Two ends that are joined.
pub async fn joined(one: &Server, other: &Server, path: &str, tokens: [&str; 2]) -> [Socket; 2] {
    let mut first = Socket::open(&one.url, path, tokens[0]).await.unwrap();
    let mut second = Socket::open(&other.url, path, tokens[1]).await.unwrap();
    assert_eq!(first.hear().await, ServerSays::Joined);
    assert_eq!(second.hear().await, ServerSays::Joined);
    [first, second]
}

#[test]
fn messages_pass_unchanged_and_the_end_arrives_after_them() {
    let server = Server::start(&[]);
    let token = server.token("lab", DEVICE);
    run(async {
        let [mut one, mut two] = joined(&server, &server, PATH, [&token, &token]).await;
        assert_eq!(
            Socket::open(&server.url, PATH, &token)
                .await
                .err()
                .unwrap()
                .status,
            409
        );
        let sizes = [0, 1, 125, 126, 65_535, 65_536, 256 << 10];
        for size in sizes {
            let message = Message::binary((0..size).map(|at| at as u8).collect::<Vec<_>>());
            one.send(message.clone()).await.unwrap();
            assert_eq!(two.next().await, Some(message));
        }
        two.send(Message::text("grüße")).await.unwrap();
        assert_eq!(one.next().await, Some(Message::text("grüße")));
        for number in 0..50_u8 {
            one.send(Message::binary(vec![number; 16 << 10]))
                .await
                .unwrap();
        }
        one.send(Message::Close(None)).await.unwrap();
        for number in 0..50_u8 {
            let message = Message::binary(vec![number; 16 << 10]);
            assert_eq!(two.next().await, Some(message), "{number}");
        }
        assert_eq!(u16::from(two.ends().await.unwrap().code), 1000);
        // The place is free again.
        joined(&server, &server, PATH, [&token, &token]).await;
    });
}

#[test]
fn nothing_comes_before_joined_however_eager_the_second_end_is() {
    let server = Server::start(&["rendezvous.serve.user_relays=60"]);
    let token = server.token("lab", DEVICE);
    run(async {
        let mut open = Vec::new();
        for number in 0..60_u8 {
            let path = format!("{PATH}{}", "a".repeat(usize::from(number) % 30));
            let path = path.replacen('b', if number < 30 { "b" } else { "c" }, 1);
            let mut first = Socket::open(&server.url, &path, &token).await.unwrap();
            let mut second = Socket::open(&server.url, &path, &token).await.unwrap();
            second.send(Message::binary(vec![number])).await.unwrap();
            assert_eq!(first.hear().await, ServerSays::Joined, "{number}");
            assert_eq!(first.next().await, Some(Message::binary(vec![number])));
            open.push((first, second));
        }
    });
}

#[test]
fn an_end_that_does_not_read_holds_up_the_other_and_fills_nothing() {
    let server = Server::start(&[]);
    let token = server.token("lab", DEVICE);
    run(async {
        let [mut one, mut two] = joined(&server, &server, PATH, [&token, &token]).await;
        let piece = vec![7; 64 << 10];
        let mut sent = 0;
        // Whatever the buffers of two connections are, they have an end.
        let stuck = loop {
            let sending = one.send(Message::binary(piece.clone()));
            match tokio::time::timeout(Duration::from_secs(2), sending).await {
                Ok(done) => done.unwrap(),
                Err(_) => break true,
            }
            sent += piece.len();
            if sent > 64 << 20 {
                break false;
            }
        };
        assert!(stuck, "{sent} bytes are somewhere in between");
        let mut heard = 0;
        while heard < sent {
            heard += two.next().await.expect("the rest").len();
        }
    });
}

#[test]
fn bytes_and_links_are_bounded_and_it_is_said_why() {
    let settings = [
        "rendezvous.serve.relay_bytes=100KiB",
        "rendezvous.serve.relay_day=150KiB",
        "rendezvous.serve.max_relays=3",
        "rendezvous.serve.user_relays=2",
    ];
    let server = Server::start(&settings);
    let (token, other) = (server.token("lab", DEVICE), server.token("other", DEVICE));
    let path = |number: u8| {
        format!(
            "/api/relay/{}",
            char::from(b'a' + number).to_string().repeat(26)
        )
    };
    run(async {
        let open =
            async |number: u8, token: &str| Socket::open(&server.url, &path(number), token).await;
        let _first = open(0, &token).await.unwrap();
        let second = open(1, &token).await.unwrap();
        assert_eq!(
            open(2, &token).await.err().unwrap().status,
            429,
            "two of each user"
        );
        let _third = open(2, &other).await.unwrap();
        assert_eq!(
            open(3, &other).await.err().unwrap().status,
            503,
            "three in all"
        );
        second.close().await;
        let [mut one, mut two] = joined(&server, &server, &path(4), [&token, &token]).await;
        one.send(Message::binary(vec![0; 100 << 10])).await.unwrap();
        assert_eq!(two.next().await.unwrap().len(), 100 << 10);
        one.send(Message::binary(vec![0])).await.unwrap();
        let end = two.ends().await.unwrap();
        assert_eq!(u16::from(end.code), 1008);
        assert!(end.reason.contains("102400 bytes"), "{}", end.reason);
        let [mut one, mut two] = joined(&server, &server, &path(5), [&token, &token]).await;
        one.send(Message::binary(vec![0; 60 << 10])).await.unwrap();
        let end = two.ends().await.unwrap();
        assert!(end.reason.contains("today"), "{}", end.reason);
        assert_eq!(
            open(6, &token).await.err().unwrap().status,
            429,
            "enough for today"
        );
        for bad in ["/api/relay/short", "/api/relay/ABCDEFGHIJKLMNOPQRSTUVWXYZ"] {
            assert_eq!(
                Socket::open(&server.url, bad, &token)
                    .await
                    .err()
                    .unwrap()
                    .status,
                400
            );
        }
        assert_eq!(
            Socket::open(&server.url, PATH, "x")
                .await
                .err()
                .unwrap()
                .status,
            401
        );
    });
    server.get(&other, PATH).expect(426);
}

#[test]
fn the_parties_of_a_session_are_joined_and_what_became_of_the_file_is_on_record() {
    let database = Database::new();
    let server = Server::start(&[&database.setting()]);
    let (asks, provides) = (
        server.token("asks", REQUESTER),
        server.token("provides", PROVIDER),
    );
    let stranger = server.token("stranger", PROVIDER);
    let session = server.initiate(&asks);
    let path = format!("/api/ice/relay/{session}");
    run(async {
        let refused = Socket::open(&server.url, &path, &provides).await.err();
        assert_eq!(
            refused.unwrap().status,
            404,
            "it has not claimed the session"
        );
        server.signal(&provides, &session, "offer", "x").expect(200);
        let refused = Socket::open(&server.url, &path, &stranger).await.err();
        assert_eq!(refused.unwrap().status, 404);
        // Who comes again takes the place of the connection before.
        let mut before = Socket::open(&server.url, &path, &asks).await.unwrap();
        let mut asks = Socket::open(&server.url, &path, &asks).await.unwrap();
        assert_eq!(u16::from(before.ends().await.unwrap().code), 1008);
        let mut provides = Socket::open(&server.url, &path, &provides).await.unwrap();
        assert_eq!(asks.hear().await, ServerSays::Joined);
        assert_eq!(provides.hear().await, ServerSays::Joined);
        provides.send(Message::binary(vec![1; 5])).await.unwrap();
        assert_eq!(asks.next().await, Some(Message::binary(vec![1; 5])));
        provides.close().await;
        assert_eq!(u16::from(asks.ends().await.unwrap().code), 1000);
    });
    let end = Instant::now() + PATIENCE;
    let transfers = "SELECT status FROM file_transfers WHERE completed_at IS NOT NULL";
    while database.sql(transfers) != "relayed" {
        assert!(Instant::now() < end, "{}", database.sql(transfers));
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
