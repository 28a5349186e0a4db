use super::*;
use crate::protocol::signal::SignalKind;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;

/// Long enough that only a hang runs into it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn server(limits: Limits) -> (SignalingServer, mpsc::Receiver<SignalEvent>) {
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    let ours = "server".parse().unwrap();
    SignalingServer::bind(addr, ours, limits).await.unwrap()
}

fn signal(kind: SignalKind, data: &str) -> Signal {
    Signal {
        kind,
        peer_id: "client".parse().unwrap(),
        data: data.to_owned(),
    }
}

async fn next(events: &mut mpsc::Receiver<SignalEvent>) -> SignalEvent {
    timeout(PATIENCE, events.recv()).await.unwrap().unwrap()
}

/// Everything that the server writes until it closes.
async fn read_to_end(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is a way of closing, too.
    let _ = timeout(PATIENCE, client.read_to_end(&mut text))
        .await
        .unwrap();
    String::from_utf8(text).unwrap()
}

/// Writes `bytes` and returns what the server answers before it closes.
async fn exchange(server: &SignalingServer, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
    // It may be closed before everything is written.
    let _ = client.write_all(bytes).await;
    read_to_end(&mut client).await
}

async fn assert_serves(server: &SignalingServer, events: &mut mpsc::Receiver<SignalEvent>) {
    let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
    let offer = signal(SignalKind::Offer, "honest");
    client.write_all(offer.encode().as_bytes()).await.unwrap();
    let event = next(events).await;
    assert_eq!(event.signal, offer);
    event
        .connection
        .deliver(&signal(SignalKind::Answer, "yes"))
        .await
        .unwrap();
    let mut line = String::new();
    let read = timeout(PATIENCE, BufReader::new(&mut client).read_line(&mut line)).await;
    read.unwrap().unwrap();
    assert_eq!(Signal::parse(line.as_bytes()).unwrap().data, "yes");
}

#[tokio::test]
async fn objects_over_several_lines_and_in_a_row_arrive_and_the_answer_comes_back() {
    let (server, mut events) = server(Limits::default()).await;
    let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
    let text = b"{\n \"kind\": \"offer\",\r\n \"peer_id\": \"a\",\n \"more\": [{}],\n \"data\": \"1\" }\
        {\"kind\":\"ice\",\"peer_id\":\"a\",\"data\":\"2\"} {\"kind\":\"ice\",\"peer_id\":\"a\",\"da";
    client.write_all(text).await.unwrap();
    let first = next(&mut events).await;
    assert_eq!(
        (first.signal.kind, first.signal.data.as_str()),
        (SignalKind::Offer, "1")
    );
    assert_eq!(first.from, client.local_addr().unwrap());
    assert_eq!(next(&mut events).await.signal.data, "2");
    client.write_all(b"ta\":\"3\"}").await.unwrap();
    let third = next(&mut events).await;
    assert_eq!(third.signal.data, "3");
    assert_eq!(third.connection.id(), first.connection.id());
    first
        .connection
        .send_last(&signal(SignalKind::Answer, "bye"))
        .unwrap();
    let text = read_to_end(&mut client).await;
    assert_eq!(Signal::parse(text.as_bytes()).unwrap().data, "bye");
}

#[tokio::test]
async fn what_is_not_signaling_gets_one_error_and_is_closed() {
    let (server, mut events) = server(Limits::default()).await;
    let deep = "{\"a\":".repeat(100);
    let cases: [(&str, &str); 8] = [
        ("GET / HTTP/1.1\r\n\r\n", "should begin"),
        (&deep, "levels"),
        ("{]", "brackets"),
        (r#"{"kind":"offer","peer_id":"a"}"#, "data is missing"),
        (
            r#"{"kind":"reboot","peer_id":"a","data":""}"#,
            "kind must be",
        ),
        (
            r#"{"kind":"offer","peer_id":"../../etc","data":""}"#,
            "peer_id",
        ),
        (r#"{"kind":"offer","peer_id":7,"data":""}"#, "column"),
        (r#"{"kind":offer}"#, "column"),
    ];
    for (text, expected) in cases {
        let answer = exchange(&server, text.as_bytes()).await;
        let error = Signal::parse(answer.as_bytes()).unwrap();
        assert_eq!(error.kind, SignalKind::Error);
        assert_eq!(error.peer_id.as_str(), "server");
        assert!(error.data.contains(expected), "{text}: {}", error.data);
    }
    assert!(events.try_recv().is_err());
    assert_serves(&server, &mut events).await;
}

#[tokio::test]
async fn endless_data_is_cut_off_at_the_limit() {
    let (server, mut events) = server(Limits::default()).await;
    let mut endless = br#"{"kind":"offer","peer_id":"a","data":""#.to_vec();
    endless.resize(300 * 1024, b'x');
    assert!(
        exchange(&server, &endless)
            .await
            .contains("longer than 262144 bytes")
    );

    // And who goes on writing without end is thrown out, whatever he reads.
    let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
    let flood = async { while client.write_all(&endless).await.is_ok() {} };
    timeout(PATIENCE, flood).await.unwrap();
    assert_serves(&server, &mut events).await;
}

#[tokio::test]
async fn messages_without_end_on_one_connection_are_cut_off_and_it_is_told_why() {
    let limits = Limits {
        objects: (20, PATIENCE),
        events: 64,
        ..Limits::default()
    };
    let (server, mut events) = server(limits).await;
    let flood = signal(SignalKind::Ice, "x").encode().repeat(21);
    let answer = exchange(&server, flood.as_bytes()).await;
    let error = Signal::parse(answer.as_bytes()).unwrap();
    assert_eq!(error.kind, SignalKind::Error);
    assert!(error.data.contains("too many messages"), "{}", error.data);
    for _ in 0..20 {
        assert_eq!(next(&mut events).await.signal.data, "x");
    }
    assert!(events.try_recv().is_err());
    assert_serves(&server, &mut events).await;
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let (server, mut events) = server(Limits::default()).await;
    let mut state = 1u64;
    for _ in 0..100 {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            bytes.push((state >> 33) as u8);
        }
        let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        read_to_end(&mut client).await;
    }
    assert!(events.try_recv().is_err());
    assert_serves(&server, &mut events).await;
}

#[tokio::test]
async fn five_hundred_idle_connections_of_one_or_many_addresses_do_not_keep_a_peer_out() {
    let (server, mut events) = server(Limits::default()).await;
    let mut idle = Vec::new();
    for n in 0..500u16 {
        let socket = TcpSocket::new_v4().unwrap();
        // Half of them come from one address, the others from 25.
        let last = if n % 2 == 0 {
            2
        } else {
            3 + (n % 50) as u8 / 2
        };
        socket
            .bind(SocketAddr::from(([127, 0, 0, last], 0)))
            .unwrap();
        let connected = timeout(PATIENCE, socket.connect(server.local_addr())).await;
        idle.push(connected.unwrap().unwrap());
    }
    assert_serves(&server, &mut events).await;
    assert!(server.connections() <= 256, "{}", server.connections());
}

#[tokio::test]
async fn connections_that_have_spoken_are_kept_and_the_ones_too_many_closed_at_once() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let (server, mut events) = server(limits).await;
    let mut speakers = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
        let text = signal(SignalKind::Ice, "x").encode();
        client.write_all(text.as_bytes()).await.unwrap();
        speakers.push((next(&mut events).await, client));
    }
    let mut refused = TcpStream::connect(server.local_addr()).await.unwrap();
    assert_eq!(read_to_end(&mut refused).await, "");
    for (event, _) in &speakers {
        event
            .connection
            .deliver(&signal(SignalKind::Answer, "y"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_connection_without_a_whole_object_in_time_is_closed_and_its_place_is_free() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        first_object: short,
        idle: short,
        connections: 1,
        ..Limits::default()
    };
    let (server, mut events) = server(limits).await;
    assert_eq!(exchange(&server, b"").await, "");
    assert_eq!(exchange(&server, b"{\"kind\":").await, "");
    let spoke = signal(SignalKind::Ice, "x").encode();
    assert_eq!(exchange(&server, spoke.as_bytes()).await, "");
    assert_eq!(next(&mut events).await.signal.data, "x");
    assert_serves(&server, &mut events).await;
}

#[tokio::test]
async fn who_has_shut_down_his_sending_side_still_gets_the_answer() {
    let (server, mut events) = server(Limits::default()).await;
    let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
    let offer = signal(SignalKind::Offer, "o").encode();
    client.write_all(offer.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let event = next(&mut events).await;
    event
        .connection
        .deliver(&signal(SignalKind::Answer, "a"))
        .await
        .unwrap();
    // With the last handle gone nobody can write any more, so it closes.
    drop(event);
    let text = read_to_end(&mut client).await;
    assert_eq!(Signal::parse(text.as_bytes()).unwrap().data, "a");
}

#[tokio::test]
async fn two_servers_talk_over_a_connection_that_one_of_them_made() {
    let (a, mut from_b) = server(Limits::default()).await;
    let (b, mut from_a) = server(Limits::default()).await;
    let to_b = a.connect(b.local_addr(), PATIENCE).await.unwrap();
    to_b.deliver(&signal(SignalKind::Offer, "offer"))
        .await
        .unwrap();
    let offer = next(&mut from_a).await;
    offer
        .connection
        .deliver(&signal(SignalKind::Answer, "answer"))
        .await
        .unwrap();
    let answer = next(&mut from_b).await;
    assert_eq!(answer.signal.data, "answer");
    assert_eq!(answer.connection.id(), to_b.id());
    assert_eq!((a.connections(), b.connections()), (0, 1));
}

#[tokio::test]
async fn a_peer_that_does_not_listen_is_an_error() {
    let (a, _events) = server(Limits::default()).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    assert!(a.connect(closed, PATIENCE).await.is_err());
}

#[tokio::test]
async fn who_does_not_read_fills_his_own_queue_and_nothing_else() {
    let limits = Limits {
        outgoing: 2,
        write: Duration::from_millis(200),
        ..Limits::default()
    };
    let (server, mut events) = server(limits).await;
    let mut deaf = TcpStream::connect(server.local_addr()).await.unwrap();
    let offer = signal(SignalKind::Offer, "o").encode();
    deaf.write_all(offer.as_bytes()).await.unwrap();
    let event = next(&mut events).await;
    let long = signal(SignalKind::Error, &"x".repeat(1 << 20));
    let fill = async { while event.connection.deliver(&long).await.is_ok() {} };
    timeout(PATIENCE, fill).await.unwrap();
    assert!(event.connection.is_closed());
    assert_serves(&server, &mut events).await;
}

#[tokio::test]
async fn dropping_the_server_writes_what_is_queued_and_frees_the_port() {
    let (server, mut events) = server(Limits::default()).await;
    let addr = server.local_addr();
    let mut client = TcpStream::connect(addr).await.unwrap();
    let offer = signal(SignalKind::Offer, "o").encode();
    client.write_all(offer.as_bytes()).await.unwrap();
    let event = next(&mut events).await;
    event
        .connection
        .try_send(&signal(SignalKind::Error, "we stop"))
        .unwrap();
    drop(server);
    assert!(read_to_end(&mut client).await.contains("we stop"));
    assert!(
        timeout(PATIENCE, events.recv()).await.unwrap().is_none() || event.connection.is_closed()
    );
    drop(event);
    // The listener is gone when its task has seen the stop; binding again shows it.
    let rebound = async {
        while TcpListener::bind(addr).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, rebound).await.unwrap();
}
