//! What is taken, what is not, and how it looks on the wire.

use super::super::identity::{Identity, KeyError};
use super::*;

fn initiate() -> Initiate {
    let text = r#"{"request_type":"spectrum","parameters":"{\"frequency_start\":100000000}",
        "file_name":"spectrum_data.npz","file_size":0,"file_type":"application/octet-stream"}"#;
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_request_that_the_first_clients_send_is_taken() {
    assert_eq!(initiate().check(), Ok(()));
    assert_eq!(initiate().device_id, None);
}

#[test]
fn members_outside_their_limits_are_refused_one_by_one() {
    let mut bad = Vec::new();
    let mut with = |change: fn(&mut Initiate)| {
        let mut changed = initiate();
        change(&mut changed);
        bad.push(changed.check().unwrap_err());
    };
    with(|i| i.request_type = String::new());
    with(|i| i.request_type = "../x".to_owned());
    with(|i| i.request_type = "x".repeat(MAX_TYPE + 1));
    with(|i| i.parameters = "[1]".to_owned());
    with(|i| i.parameters = "{".to_owned());
    with(|i| i.parameters = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_PARAMETERS)));
    with(|i| i.file_name = "a/b".to_owned());
    with(|i| i.file_name = "a\u{1b}b".to_owned());
    with(|i| i.file_type = "x".repeat(MAX_NAME + 1));
    with(|i| i.file_size = 1 << 63);
    use Unfit::*;
    let kinds = [
        RequestType,
        RequestType,
        RequestType,
        Parameters,
        Parameters,
        ParametersTooLong,
        FileName,
        FileName,
        FileType,
        FileSize,
    ];
    assert_eq!(bad, kinds);
}

#[test]
fn only_ids_of_sessions_and_relays_pass_as_such() {
    assert!(check_session_id("0b1f8a3e-1c2d-4e5f-8a9b-0c1d2e3f4a5b").is_ok());
    for bad in [
        "",
        "x",
        "0b1f8a3e-1c2d-4e5f-8a9b-0c1d2e3f4a5B",
        "0b1f8a3e-1c2d-4e5f-8a9b-0c1d2e3f4a5b ",
        "0b1f8a3e01c2d-4e5f-8a9b-0c1d2e3f4a5b",
    ] {
        assert_eq!(check_session_id(bad), Err(Unfit::SessionId), "{bad}");
    }
    assert!(check_relay_id(&"a7".repeat(13)).is_ok());
    for bad in [
        "a".repeat(25),
        "a".repeat(65),
        "A".repeat(30),
        "1".repeat(30),
    ] {
        assert_eq!(check_relay_id(&bad), Err(Unfit::RelayId), "{bad}");
    }
}

#[test]
fn a_signal_may_say_which_client_of_its_user_posts_it() {
    let text = r#"{"session_id":"0b1f8a3e-1c2d-4e5f-8a9b-0c1d2e3f4a5b","signal_type":"offer","signal_data":"x"}"#;
    let mut post: SignalPost = serde_json::from_str(text).unwrap();
    assert_eq!((post.check(), &post.client), (Ok(()), &None));
    assert_eq!(serde_json::to_string(&post).unwrap(), text);
    for (client, fits) in [
        ("aZ09_-".to_owned(), true),
        ("x".repeat(MAX_CLIENT), true),
        ("x".repeat(MAX_CLIENT + 1), false),
        (String::new(), false),
        ("a b".to_owned(), false),
        ("ä".to_owned(), false),
    ] {
        post.client = Some(client);
        let expected = if fits { Ok(()) } else { Err(Unfit::Client) };
        assert_eq!(post.check(), expected, "{:?}", post.client);
    }
}

#[test]
fn a_hello_proves_its_id_for_its_nonce_alone() {
    let (ours, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let hello = Hello::new(&ours, "Ours", &[7; 32]);
    assert_eq!(hello.check(&[7; 32]), Ok(()));
    let mismatch = Err(HelloError::Key(KeyError::Mismatch));
    assert_eq!(hello.check(&[8; 32]), mismatch);
    let mut foreign = hello.clone();
    foreign.device_id = other.device_id();
    assert_eq!(foreign.check(&[7; 32]), Err(HelloError::ForeignId));
    foreign.key = other.public_key();
    assert_eq!(foreign.check(&[7; 32]), mismatch);
}

#[test]
fn messages_of_the_socket_look_as_documented() {
    let said = |says: &ServerSays| serde_json::to_string(says).unwrap();
    let challenge = said(&ServerSays::Challenge {
        nonce: Nonce([0xab; 32]),
    });
    let nonce = "ab".repeat(32);
    assert_eq!(
        challenge,
        format!(r#"{{"type":"challenge","nonce":"{nonce}"}}"#)
    );
    assert_eq!(said(&ServerSays::Joined), r#"{"type":"joined"}"#);
    assert_eq!(
        said(&ServerSays::Welcome(IceServers::default())),
        r#"{"type":"welcome","ice_servers":[],"ttl":0}"#
    );
    let signal = r#"{"type":"signal","to":"abc","signal":{"kind":"ice"}}"#;
    let signal: DeviceSays = serde_json::from_str(signal).unwrap();
    assert!(matches!(signal, DeviceSays::Signal { to, .. } if to.as_str() == "abc"));
    let wrong = r#"{"type":"challenge","nonce":"ab"}"#;
    assert!(serde_json::from_str::<ServerSays>(wrong).is_err());
}

#[test]
fn client_types_are_the_numbers_one_to_three() {
    for (kind, text) in [
        (ClientType::Provider, "1"),
        (ClientType::Requester, "2"),
        (ClientType::Device, "3"),
    ] {
        assert_eq!(serde_json::to_string(&kind).unwrap(), text);
        assert_eq!(serde_json::from_str::<ClientType>(text).unwrap(), kind);
    }
    for wrong in ["0", "4", "\"1\"", "1.0", "-1", "257"] {
        assert!(
            serde_json::from_str::<ClientType>(wrong).is_err(),
            "{wrong}"
        );
    }
}
