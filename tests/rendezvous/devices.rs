//! Devices meet: who is present, and signals between them.

use std::time::Duration;

use handout::protocol::id::DeviceId;
use handout::protocol::identity::Identity;
use handout::protocol::rendezvous::{DeviceSays, Hello, ServerSays};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::server::{DEVICE, Server};
use super::sockets::{Socket, run};

const SOCKET: &str = "/api/devices/socket";

pub fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

pub fn id(number: u8) -> DeviceId {
    identity(number).device_id()
}

pub fn watch(numbers: &[u8]) -> DeviceSays {
    DeviceSays::Watch {
        device_ids: numbers.iter().map(|number| id(*number)).collect(),
    }
}

pub fn present(numbers: &[u8]) -> ServerSays {
    let mut device_ids: Vec<_> = numbers.iter().map(|number| id(*number)).collect();
    device_ids.sort();
    ServerSays::Present { device_ids }
}

pub fn absent(numbers: &[u8]) -> ServerSays {
    let mut device_ids: Vec<_> = numbers.iter().map(|number| id(*number)).collect();
    device_ids.sort();
    ServerSays::Absent { device_ids }
}

pub fn signal(to: u8, data: &str) -> DeviceSays {
    DeviceSays::Signal {
        to: id(to),
        signal: json!({"kind": "ice", "peer_id": "x", "data": data}),
    }
}

pub fn heard(from: u8, data: &str) -> ServerSays {
    ServerSays::Signal {
        from: id(from),
        signal: json!({"kind": "ice", "peer_id": "x", "data": data}),
    }
}

#[test]
fn a_device_is_told_of_those_it_names_and_of_no_others() {
    let server = Server::start(&[]);
    let token = server.token("lab", DEVICE);
    run(async {
        let mut one = Socket::of_device(&server.url, &token, &identity(1)).await;
        one.say(&watch(&[2, 3])).await;
        assert_eq!(one.hear().await, absent(&[2, 3]));
        let two = Socket::of_device(&server.url, &token, &identity(2)).await;
        assert_eq!(one.hear().await, present(&[2]));
        // Nobody has asked for this one.
        let mut four = Socket::of_device(&server.url, &token, &identity(4)).await;
        four.say(&watch(&[1])).await;
        assert_eq!(four.hear().await, present(&[1]));
        two.close().await;
        assert_eq!(one.hear().await, absent(&[2]));
        one.say(&watch(&[4])).await;
        assert_eq!(one.hear().await, present(&[4]));
        let _three = Socket::of_device(&server.url, &token, &identity(3)).await;
        four.close().await;
        assert_eq!(
            one.hear().await,
            absent(&[4]),
            "it does not watch 3 any more"
        );
    });
}

#[test]
fn signals_arrive_in_order_or_it_is_said_that_they_do_not() {
    let server = Server::start(&[]);
    let token = server.token("lab", DEVICE);
    run(async {
        let mut one = Socket::of_device(&server.url, &token, &identity(1)).await;
        one.say(&signal(2, "nobody is there")).await;
        assert_eq!(one.hear().await, ServerSays::Undeliverable { to: id(2) });
        let mut two = Socket::of_device(&server.url, &token, &identity(2)).await;
        for number in 0..100 {
            one.say(&signal(2, &number.to_string())).await;
        }
        for number in 0..100 {
            assert_eq!(two.hear().await, heard(1, &number.to_string()));
        }
        two.say(&signal(1, "back")).await;
        assert_eq!(one.hear().await, heard(2, "back"));
    });
}

#[test]
fn who_was_told_that_a_signal_could_not_be_given_hears_when_the_device_is_there() {
    let server = Server::start(&[]);
    let token = server.token("lab", DEVICE);
    run(async {
        let mut one = Socket::of_device(&server.url, &token, &identity(1)).await;
        let mut two = Socket::of_device(&server.url, &token, &identity(2)).await;
        one.say(&watch(&[2])).await;
        assert_eq!(one.hear().await, present(&[2]));
        // It does not read, and takes no more at some time.
        let large = "x".repeat(60 << 10);
        let lost = loop {
            one.say(&signal(2, &large)).await;
            let hearing = tokio::time::timeout(Duration::from_millis(5), one.hear());
            if let Ok(says) = hearing.await {
                break says;
            }
        };
        assert_eq!(lost, ServerSays::Undeliverable { to: id(2) });
        assert_eq!(two.hear().await, heard(1, &large));
        let back = loop {
            match one.hear().await {
                ServerSays::Undeliverable { .. } => {}
                says => break says,
            }
        };
        assert_eq!(back, present(&[2]));
    });
}

#[test]
fn only_the_owner_of_a_key_is_that_device_and_its_newest_socket_counts() {
    let server = Server::start(&[]);
    let token = server.token("lab", DEVICE);
    run(async {
        let mut watcher = Socket::of_device(&server.url, &token, &identity(9)).await;
        watcher.say(&watch(&[1])).await;
        assert_eq!(watcher.hear().await, absent(&[1]));
        for wrong in [
            // Another nonce, another key, another id.
            Hello::new(&identity(1), "x", &[0; 32]),
            Hello {
                key: identity(2).public_key(),
                ..Hello::new(&identity(1), "x", &[0; 32])
            },
            Hello {
                device_id: id(2),
                ..Hello::new(&identity(1), "x", &[0; 32])
            },
        ] {
            let mut socket = Socket::open(&server.url, "/api/devices/socket", &token)
                .await
                .unwrap();
            assert!(matches!(socket.hear().await, ServerSays::Challenge { .. }));
            socket.say(&DeviceSays::Hello(wrong)).await;
            assert!(matches!(socket.hear().await, ServerSays::Error { .. }));
            assert_eq!(u16::from(socket.ends().await.unwrap().code), 1008);
        }
        let mut old = Socket::of_device(&server.url, &token, &identity(1)).await;
        assert_eq!(watcher.hear().await, present(&[1]));
        let mut new = Socket::of_device(&server.url, &token, &identity(1)).await;
        assert_eq!(u16::from(old.ends().await.unwrap().code), 1008);
        watcher.say(&signal(1, "which of you")).await;
        assert_eq!(new.hear().await, heard(9, "which of you"));
        new.close().await;
        assert_eq!(
            watcher.hear().await,
            absent(&[1]),
            "it was there all the time before"
        );
    });
}

#[test]
fn who_breaks_the_rules_is_told_which_and_cut_off() {
    let server = Server::start(&[]);
    let token = server.token("lab", DEVICE);
    run(async {
        let many = DeviceSays::Watch {
            device_ids: vec![id(2); 1001],
        };
        let large = DeviceSays::Signal {
            to: id(2),
            signal: json!("x".repeat(65 << 10)),
        };
        let text = |says: &DeviceSays| Message::text(serde_json::to_string(says).unwrap());
        for (what, wrong) in [
            ("too many", text(&many)),
            ("too large a signal", text(&large)),
            ("too large a message", Message::text("x".repeat(100 << 10))),
            ("no JSON", Message::text("x")),
            ("another type", Message::text("{\"type\":\"reign\"}")),
            (
                "an id of a path",
                Message::text("{\"type\":\"watch\",\"device_ids\":[\"../x\"]}"),
            ),
            ("binary", Message::binary(vec![1, 2, 3])),
        ] {
            let mut socket = Socket::of_device(&server.url, &token, &identity(1)).await;
            socket.send(wrong).await.unwrap();
            let says = socket.hear().await;
            assert!(matches!(says, ServerSays::Error { .. }), "{what}: {says:?}");
            assert_eq!(u16::from(socket.ends().await.unwrap().code), 1008, "{what}");
        }
        let mut flood = Socket::of_device(&server.url, &token, &identity(1)).await;
        for _ in 0..2001 {
            if flood.send(text(&watch(&[]))).await.is_err() {
                break;
            }
        }
        assert_eq!(u16::from(flood.ends().await.unwrap().code), 1008);
    });
    server.get(&token, SOCKET).expect(426);
    server.get_with(&[], SOCKET).expect(401);
}

#[test]
fn so_many_sockets_are_of_one_user_and_those_without_proof_hold_up_nobody() {
    let limits = [
        "rendezvous.serve.max_devices=4",
        "rendezvous.serve.user_devices=3",
    ];
    let server = Server::start(&limits);
    let (token, other) = (server.token("lab", DEVICE), server.token("other", DEVICE));
    run(async {
        let open = async |token: &str| Socket::open(&server.url, SOCKET, token).await;
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(open(&token).await.unwrap());
        }
        assert_eq!(open(&token).await.err().unwrap().status, 429);
        let _first = Socket::of_device(&server.url, &other, &identity(1)).await;
        silent.remove(0).close().await;
        let _second = Socket::of_device(&server.url, &token, &identity(2)).await;
        assert_eq!(server.number("devices"), 2);
        let _third = Socket::of_device(&server.url, &other, &identity(3)).await;
        let _fourth = Socket::of_device(&server.url, &other, &identity(4)).await;
        let all = server.token("third", DEVICE);
        assert_eq!(open(&all).await.err().unwrap().status, 503);
        // Whoever proves it too late is told so.
        let mut late = silent.remove(0);
        let ServerSays::Challenge { nonce } = late.hear().await else {
            panic!("no challenge");
        };
        let hello = Hello::new(&identity(5), "Test", &nonce.0);
        late.say(&DeviceSays::Hello(hello)).await;
        assert!(matches!(late.hear().await, ServerSays::Error { .. }));
        late.ends().await;
    });
}
