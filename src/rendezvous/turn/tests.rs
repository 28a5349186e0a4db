//! Against the TURN client of the same family, and with links of ours.

use std::net::Ipv4Addr;

use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use webrtc_util::Conn;

use super::*;
use crate::net::link::{Channel, Incoming, Link, LinkEvent, LinkOptions, Path};
use crate::protocol::candidate::{Candidate, CandidateKind};
use crate::protocol::ice::{IceServer, IceUrl};
use crate::protocol::turn::TurnCredential;

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &[u8] = b"a secret of at least 32 bytes......";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn options(allow_private: bool) -> TurnOptions {
    TurnOptions {
        bind: (Ipv4Addr::LOCALHOST, 0).into(),
        public: None,
        // Not those that the system gives away by itself.
        ports: 20_000..=28_000,
        secret: SECRET.to_vec(),
        quota: Quota {
            per_user: 2,
            in_all: 3,
            bytes_per_day: 64 << 20,
        },
        allow_private,
    }
}

async fn client(server: &Running, credential: &TurnCredential) -> Client {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = server.public_addr().to_string();
    let client = Client::new(ClientConfig {
        stun_serv_addr: at.clone(),
        turn_serv_addr: at,
        username: credential.username.clone(),
        password: credential.credential.clone(),
        realm: REALM.to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(socket),
        vnet: None,
    });
    let client = client.await.unwrap();
    client.listen().await.unwrap();
    client
}

fn credential(user: &str) -> TurnCredential {
    TurnCredential::new(SECRET, user, now() + 600)
}

#[tokio::test]
async fn it_says_how_one_looks_from_outside() {
    let server = start(options(true)).await.unwrap();
    let client = client(&server, &credential("ada")).await;
    let seen = client.send_binding_request().await.unwrap();
    assert!(seen.ip().is_loopback() && seen.port() != server.local_addr().port());
}

#[tokio::test]
async fn only_a_credential_that_holds_gets_an_address_and_only_so_many() {
    let server = start(options(true)).await.unwrap();
    let mut wrong = vec![
        TurnCredential::new(SECRET, "ada", now() - 1),
        TurnCredential::new(b"another secret", "ada", now() + 600),
    ];
    // Somebody else's, with another name on it.
    wrong.push(TurnCredential {
        username: credential("bob").username,
        ..credential("ada")
    });
    for wrong in &wrong {
        let client = client(&server, wrong).await;
        assert!(client.allocate().await.is_err(), "{}", wrong.username);
        assert_eq!(server.totals().allocations, 0);
    }
    let mut held = Vec::new();
    for (user, fits) in [
        ("ada", true),
        ("ada", true),
        ("ada", false),
        ("bob", true),
        ("eve", false),
    ] {
        let client = client(&server, &credential(user)).await;
        let relay = client.allocate().await;
        assert_eq!(relay.is_ok(), fits, "{user}");
        held.extend(relay.ok().map(|relay| (client, relay)));
    }
    assert_eq!(server.totals().allocations, 3);
    let (_client, relay) = held.remove(0);
    relay.close().await.unwrap();
    let freed = async {
        while server.totals().allocations > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed)
        .await
        .expect("the address comes back");
}

#[tokio::test]
async fn an_inner_network_is_not_reached_through_it_unless_allowed() {
    for allowed in [false, true] {
        let server = start(options(allowed)).await.unwrap();
        let client = client(&server, &credential("ada")).await;
        let relay = client.allocate().await.unwrap();
        let inner = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = inner.local_addr().unwrap();
        let mut buffer = [0; 100];
        // The first one asks for a permission, and the crate's client sends it by itself after that.
        relay.send_to(b"knock", target).await.unwrap();
        if allowed {
            let heard = timeout(PATIENCE, inner.recv_from(&mut buffer)).await;
            let (length, from) = heard.expect("it arrives").unwrap();
            assert_eq!(&buffer[..length], b"knock");
            inner.send_to(b"who is there", from).await.unwrap();
            let (length, from) = timeout(PATIENCE, relay.recv_from(&mut buffer))
                .await
                .expect("and the answer")
                .unwrap();
            assert_eq!((&buffer[..length], from), (&b"who is there"[..], target));
            assert_eq!(server.totals().bytes, 17);
        } else {
            let refused = async {
                while server.totals().refused == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(PATIENCE, refused).await.expect("it is refused");
            assert_eq!(server.totals().bytes, 0);
            let mut heard = [0; 8];
            let nothing = inner.try_recv_from(&mut heard);
            assert!(nothing.is_err(), "{nothing:?}");
        }
    }
}

#[tokio::test]
async fn a_port_of_the_relays_is_reached_only_while_it_is_given_away() {
    let options = options(false);
    // Some other program of this machine has a port of the range.
    let mut free = options.ports.clone().rev();
    let bound = free.find_map(|port| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let other = bound.expect("a free port");
    other.set_nonblocking(true).unwrap();
    let server = start(options).await.unwrap();
    let client = client(&server, &credential("ada")).await;
    let relay = client.allocate().await.unwrap();
    relay
        .send_to(b"knock", other.local_addr().unwrap())
        .await
        .unwrap();
    let refused = async {
        while server.totals().refused == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("it is refused");
    assert!(other.recv(&mut [0; 8]).is_err());
    assert_eq!(server.totals().bytes, 0);
}

#[tokio::test]
async fn a_server_without_an_address_for_others_does_not_start() {
    let mut options = options(true);
    options.bind = (Ipv4Addr::UNSPECIFIED, 0).into();
    let error = start(options).await.err().unwrap();
    assert!(error.to_string().contains("public_address"), "{error}");
}

#[test]
fn requests_are_counted_by_address_and_in_all() {
    let start = Instant::now();
    let request = |method, peers| Heading::Request { method, peers };
    let at = |n: u32, port| SocketAddr::new(Ipv4Addr::from(n).into(), port);
    let mut door = Door::new(start);
    assert!(!door.lets_in(Heading::Other, at(1, 1), start));
    let asked = (0..REQUESTS_OF_ONE + 9).filter(|_| door.lets_in(request(1, 0), at(1, 1), start));
    assert_eq!(asked.count() as u32, REQUESTS_OF_ONE);
    assert!(
        door.lets_in(Heading::Data, at(1, 1), start),
        "data is not counted"
    );
    let asked = (0..90).filter(|_| door.lets_in(request(8, 1), at(2, 7), start));
    assert_eq!(asked.count() as u32, PERMISSIONS_OF_ONE);
    assert!(door.lets_in(request(8, 1), at(2, 8), start));
    assert!(!door.lets_in(request(8, MAX_PEERS + 1), at(2, 9), start));
    let asked = (10..30_000).filter(|n| door.lets_in(request(1, 0), at(*n, 1), start));
    assert!((asked.count() as u32) < REQUESTS);
    assert!(door.by_address.len() <= MAX_COUNTED);
    assert!(door.lets_in(request(1, 0), at(1, 1), start + SPAN));
}

fn servers(server: &Running, credential: &TurnCredential) -> Vec<IceServer> {
    let url = |kind: &str| format!("{kind}:{}", server.public_addr());
    let of = |kind: &str, credential: Option<&TurnCredential>| IceServer {
        url: url(kind).parse::<IceUrl>().unwrap(),
        username: credential.map_or_else(String::new, |c| c.username.clone()),
        credential: credential.map_or_else(String::new, |c| c.credential.clone()),
    };
    vec![of("stun", None), of("turn", Some(credential))]
}

fn link_options(ice: Vec<IceServer>) -> LinkOptions {
    LinkOptions {
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        loopback: true,
        ice,
        udp_buffer: 1 << 20,
        mtu: 1191,
        send_buffer: 1 << 20,
        ice_disconnected: Duration::from_secs(5),
        ice_failed: Duration::from_secs(5),
    }
}

/// A description without the device's own addresses, as if none of them could be reached. Where the
/// server was quick it has relays already.
fn bare(sdp: &str) -> String {
    let keeps = |line: &&str| {
        let relay = line.contains("typ relay");
        relay || (!line.starts_with("a=candidate") && !line.starts_with("a=end-of"))
    };
    let lines = sdp.lines().filter(keeps);
    lines.map(|line| format!("{line}\r\n")).collect()
}

/// Hands the candidates of one kind over as they are found, until the channel is open.
async fn follow(
    mut events: tokio::sync::mpsc::Receiver<LinkEvent>,
    to: &Link,
    kind: CandidateKind,
) -> Channel {
    loop {
        match events.recv().await.expect("the link lives") {
            LinkEvent::Candidate(line) => {
                if Candidate::parse(&line).unwrap().kind == kind {
                    to.add_candidate(line).await.unwrap();
                }
            }
            LinkEvent::Open(channel) => return channel,
            LinkEvent::Lost(reason) => panic!("{reason}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_links_that_only_know_each_others_relays_find_a_way_and_say_which() {
    let server = start(options(true)).await.unwrap();
    let ice = |user| link_options(servers(&server, &credential(user)));
    let (first, offer, first_events) = Link::offer(&ice("ada"), None).await.unwrap();
    let answered = Link::answer(&ice("bob"), None, bare(&offer)).await;
    let (second, answer, second_events) = answered.unwrap();
    first.apply_answer(bare(&answer)).await.unwrap();
    let opening = async {
        tokio::join!(
            follow(first_events, &second, CandidateKind::Relay),
            follow(second_events, &first, CandidateKind::Relay),
        )
    };
    let (one, other) = timeout(PATIENCE, opening).await.expect("they open");
    // On one machine a check that comes out of the relay shows a shorter way, which is taken where it
    // works: tests/lab/nat.py shows what happens where it does not.
    for channel in [&one, &other] {
        let path = channel.path().unwrap();
        assert!(matches!(path, Path::Relayed | Path::Reflexive), "{path:?}");
    }
    assert!(
        server.totals().bytes > 0,
        "the first checks went through the server"
    );
    for n in 0..64u8 {
        one.send(vec![n; 16_384].as_slice().into()).await.unwrap();
    }
    for n in 0..64u8 {
        match timeout(PATIENCE, other.receive()).await.unwrap().unwrap() {
            Incoming::Binary(bytes) => assert!(bytes.len() == 16_384 && bytes[0] == n),
            Incoming::Text(_) => panic!("bytes were sent"),
        }
    }
    // Closing gives the addresses back at once.
    first.close().await;
    second.close().await;
    let freed = async {
        while server.totals().allocations > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed)
        .await
        .expect("the addresses come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer_cost_a_link_nothing() {
    // A socket that hears and says nothing.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = silent.local_addr().unwrap();
    let silent_servers = || {
        let of = |kind: &str| IceServer {
            url: format!("{kind}:{at}").parse().unwrap(),
            username: "ada".to_owned(),
            credential: "secret".to_owned(),
        };
        link_options(vec![of("stun"), of("turn")])
    };
    let begun = Instant::now();
    let (first, offer, mut first_events) = Link::offer(&silent_servers(), None).await.unwrap();
    let answered = Link::answer(&silent_servers(), None, offer).await;
    let (_second, answer, mut second_events) = answered.unwrap();
    first.apply_answer(answer).await.unwrap();
    for events in [&mut first_events, &mut second_events] {
        match timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            LinkEvent::Open(channel) => assert_eq!(channel.path(), Some(Path::Direct)),
            other => panic!("{other:?}"),
        }
    }
    // Far less than the seconds after which such a server counts as silent.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    println!("open after {took:?}");
}
