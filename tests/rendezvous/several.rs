//! Two servers on one PostgreSQL database are one rendezvous.

use std::time::{Duration, Instant};

use handout::protocol::rendezvous::ServerSays;
use rustix::process::Signal;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::devices::{absent, heard, id, identity, present, signal, watch};
use super::postgres::Database;
use super::relays::joined;
use super::server::{DEVICE, PROVIDER, REQUESTER, Server};
use super::sockets::{Socket, run};

/// The name of the server where a device's socket is.
fn server_of(database: &Database, number: u8) -> String {
    let device = id(number);
    database.sql(&format!(
        "SELECT instance_id FROM device_sockets WHERE device_id = '{device}'"
    ))
}

/// Both with the same key for tokens.
fn two(database: &Database) -> (Server, Server) {
    let setting = database.setting();
    let one = Server::start(&[&setting, "rendezvous.serve.public_url=http://one.test"]);
    let home = tempfile::tempdir().unwrap();
    std::fs::copy(
        one.path("rendezvous.key"),
        home.path().join("rendezvous.key"),
    )
    .unwrap();
    let other = Server::start_in(home, &[&setting]);
    (one, other)
}

#[test]
fn a_session_goes_over_both_and_long_polls_hear_of_the_other() {
    let database = Database::new();
    let (one, other) = two(&database);
    let (asks, provides) = (
        one.token("asks", REQUESTER),
        other.token("provides", PROVIDER),
    );
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let found = scope.spawn(|| {
            other
                .get(&provides, "/api/ice/sessions?wait=30")
                .expect(200)
        });
        let session = one.initiate(&asks);
        assert_eq!(found.join().unwrap()[0]["session_id"], *session);
        let path = format!("/api/ice/signals/{session}?wait=30");
        let offer = scope.spawn(move || one.get(&asks, &path).expect(200));
        other.signal(&provides, &session, "offer", "o").expect(200);
        assert_eq!(offer.join().unwrap()[0]["signal_data"], "o");
    });
    // A server looks again every 5 s even where it is told nothing.
    assert!(
        begun.elapsed() < Duration::from_millis(4500),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn devices_at_different_servers_hear_of_each_other() {
    let database = Database::new();
    let (one, other) = two(&database);
    let token = one.token("lab", DEVICE);
    run(async {
        let mut here = Socket::of_device(&one.url, &token, &identity(1)).await;
        here.say(&watch(&[2])).await;
        assert_eq!(here.hear().await, absent(&[2]));
        let mut there = Socket::of_device(&other.url, &token, &identity(2)).await;
        assert_eq!(here.hear().await, present(&[2]));
        there.say(&watch(&[1])).await;
        assert_eq!(there.hear().await, present(&[1]));
        for number in 0..20 {
            here.say(&signal(2, &number.to_string())).await;
        }
        for number in 0..20 {
            assert_eq!(there.hear().await, heard(1, &number.to_string()));
        }
        here.say(&signal(3, "nobody")).await;
        assert_eq!(here.hear().await, ServerSays::Undeliverable { to: id(3) });
        // For the others, a device that goes over to another server was there all the time.
        let mut moved = Socket::of_device(&other.url, &token, &identity(1)).await;
        assert_eq!(u16::from(here.ends().await.unwrap().code), 1008);
        there.say(&signal(1, "you are here")).await;
        assert_eq!(moved.hear().await, heard(2, "you are here"));
        moved.say(&signal(2, "and you")).await;
        assert_eq!(there.hear().await, heard(1, "and you"));
    });
}

#[test]
fn the_ends_of_a_relayed_link_are_sent_to_one_server() {
    let database = Database::new();
    let (one, other) = two(&database);
    let token = one.token("lab", DEVICE);
    let path = "/api/relay/abcdefghijklmnopqrstuvwxyz234567";
    run(async {
        let mut first = Socket::open(&one.url, path, &token).await.unwrap();
        let sent_on = Socket::open(&other.url, path, &token).await.err().unwrap();
        assert_eq!(sent_on.status, 307);
        assert_eq!(sent_on.location, Some(format!("http://one.test{path}")));
        let mut second = Socket::open(&one.url, path, &token).await.unwrap();
        assert_eq!(first.hear().await, ServerSays::Joined);
        assert_eq!(second.hear().await, ServerSays::Joined);
        first.send(Message::text("x")).await.unwrap();
        assert_eq!(second.next().await, Some(Message::text("x")));
        first.close().await;
        second.ends().await;
        // Nobody is there any more, so they may meet at the other one.
        let end = Instant::now() + super::sockets::PATIENCE;
        while !database.sql("SELECT * FROM relay_places").is_empty() {
            assert!(Instant::now() < end, "the place is still taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        joined(&other, &other, path, [&token, &token]).await;
    });
}

#[test]
fn when_a_server_stops_its_devices_are_absent_and_the_others_go_on() {
    let database = Database::new();
    let (one, mut other) = two(&database);
    let token = one.token("lab", DEVICE);
    run(async {
        let mut here = Socket::of_device(&one.url, &token, &identity(1)).await;
        let mut there = Socket::of_device(&other.url, &token, &identity(2)).await;
        here.say(&watch(&[2])).await;
        assert_eq!(here.hear().await, present(&[2]));
        assert_eq!(other.stop(), Some(0));
        assert_eq!(u16::from(there.ends().await.unwrap().code), 1001);
        assert_eq!(here.hear().await, absent(&[2]));
    });
    assert_eq!(database.sql("SELECT COUNT(*) FROM instances"), "1");
}

#[test]
fn what_a_killed_server_left_is_cleared_away_and_its_devices_are_absent() {
    let database = Database::new();
    let (one, other) = two(&database);
    let token = one.token("lab", DEVICE);
    run(async {
        let mut here = Socket::of_device(&one.url, &token, &identity(1)).await;
        let _there = Socket::of_device(&other.url, &token, &identity(2)).await;
        here.say(&watch(&[2])).await;
        assert_eq!(here.hear().await, present(&[2]));
        // It is killed.
        drop(other);
        assert_eq!(here.hear().await, absent(&[2]));
        assert_eq!(server_of(&database, 2), "");
        assert_eq!(database.sql("SELECT COUNT(*) FROM instances"), "1");
    });
}

#[test]
fn a_server_that_others_took_for_gone_is_there_again_with_all_that_it_has() {
    let database = Database::new();
    let (one, other) = two(&database);
    let token = one.token("lab", DEVICE);
    let path = "/api/relay/abcdefghijklmnopqrstuvwxyz234567";
    run(async {
        let mut here = Socket::of_device(&one.url, &token, &identity(1)).await;
        let _end = Socket::open(&one.url, path, &token).await.unwrap();
        let mut there = Socket::of_device(&other.url, &token, &identity(2)).await;
        there.say(&watch(&[1])).await;
        assert_eq!(there.hear().await, present(&[1]));
        // It is held up, but not within a transaction, which would hold up the other one, too.
        let busy = "SELECT COUNT(*) FROM pg_stat_activity WHERE state <> 'idle'
            AND datname = current_database() AND pid <> pg_backend_pid()";
        one.tell(Signal::STOP);
        while database.sql(busy) != "0" {
            one.tell(Signal::CONT);
            tokio::time::sleep(Duration::from_millis(20)).await;
            one.tell(Signal::STOP);
        }
        let name = server_of(&database, 1);
        database.sql(&format!(
            "UPDATE instances SET seen_at = 0 WHERE instance_id = '{name}'"
        ));
        assert_eq!(there.hear().await, absent(&[1]));
        one.tell(Signal::CONT);
        assert_eq!(there.hear().await, present(&[1]));
        there.say(&signal(1, "are you there")).await;
        assert_eq!(here.hear().await, heard(2, "are you there"));
        here.say(&signal(2, "again")).await;
        assert_eq!(there.hear().await, heard(1, "again"));
        let sent_on = Socket::open(&other.url, path, &token).await.err().unwrap();
        assert_eq!(sent_on.location, Some(format!("http://one.test{path}")));
    });
}

#[test]
fn servers_that_lost_their_ear_at_the_database_get_it_back_and_miss_nothing() {
    let database = Database::new();
    let (one, other) = two(&database);
    let token = one.token("lab", DEVICE);
    run(async {
        let mut here = Socket::of_device(&one.url, &token, &identity(1)).await;
        here.say(&watch(&[2, 3])).await;
        assert_eq!(here.hear().await, absent(&[2, 3]));
        let ears = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        assert_eq!(database.sql(ears), "2");
        let mut there = Socket::of_device(&other.url, &token, &identity(2)).await;
        assert_eq!(here.hear().await, present(&[2]));
        here.say(&signal(2, "hello")).await;
        assert_eq!(there.hear().await, heard(1, "hello"));
        let _third = Socket::of_device(&other.url, &token, &identity(3)).await;
        assert_eq!(here.hear().await, present(&[3]));
    });
}

#[test]
fn a_signal_arrives_although_no_word_of_it_did_and_an_old_one_is_forgotten() {
    let database = Database::new();
    let (one, _other) = two(&database);
    let token = one.token("lab", DEVICE);
    run(async {
        let mut here = Socket::of_device(&one.url, &token, &identity(1)).await;
        let (there, from) = (server_of(&database, 1), id(2));
        let mail = |to: &str, data: &str, created: &str| {
            let signal = json!({"kind": "ice", "peer_id": "x", "data": data});
            database.sql(&format!(
                "INSERT INTO device_mails
                     (instance_id, to_device, from_device, signal, created_at)
                 VALUES ('{there}', '{to}', '{from}', '{signal}', {created})"
            ));
        };
        let now = "extract(epoch FROM now())::BIGINT * 1000";
        // What is wrong with one of them holds up no other.
        mail("nobody", "x", now);
        mail(&id(3).to_string(), "who is not here", now);
        mail(&id(1).to_string(), "hello", now);
        assert_eq!(here.hear().await, heard(2, "hello"));
        database.sql(
            "INSERT INTO device_mails (instance_id, to_device, from_device, signal, created_at)
             VALUES ('gone', 'x', 'y', 'z', 0)",
        );
        let end = Instant::now() + super::sockets::PATIENCE;
        while database.sql("SELECT COUNT(*) FROM device_mails") != "0" {
            assert!(Instant::now() < end, "it is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn the_end_of_an_older_socket_takes_no_newer_one_away() {
    let database = Database::new();
    let (_one, other) = two(&database);
    let token = other.token("lab", DEVICE);
    run(async {
        let there = Socket::of_device(&other.url, &token, &identity(2)).await;
        // As if the device had come back, and that were written first.
        database.sql("UPDATE device_sockets SET number = number + 1");
        there.close().await;
        while other.number("devices") != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_ne!(server_of(&database, 2), "");
    });
}
