//! Tokens that must not be taken: each of the vectors is asked with, on a server whose key is its
//! own (EdDSA) and on one with a secret (HS256).

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::server::{PROVIDER, Server};

const SECRET: &str = "a secret of a test, with more than 32 bytes";

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({"sub": "provides", "aud": "handout-rendezvous", "iat": now(), "exp": now() + 600,
        "client_type": 1})
}

/// Ours, with a member changed; null takes it out.
fn with(key: &str, value: Value) -> Value {
    let mut all = claims();
    match value {
        Value::Null => drop(all.as_object_mut().unwrap().remove(key)),
        value => all[key] = value,
    }
    all
}

struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    name: &'static str,
}

impl Signer {
    fn signed(&self, header: &str, claims: &str) -> String {
        let b64 = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let text = format!("{}.{}", b64(header), b64(claims));
        let signature = crypto::sign(text.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{text}.{signature}")
    }

    fn says(&self, claims: &Value) -> String {
        self.signed(&self.header(), &claims.to_string())
    }

    fn header(&self) -> String {
        format!("{{\"typ\":\"JWT\",\"alg\":\"{}\"}}", self.name)
    }
}

fn secret(bytes: &[u8]) -> Signer {
    Signer {
        key: EncodingKey::from_secret(bytes),
        algorithm: Algorithm::HS256,
        name: "HS256",
    }
}

fn key(pem: &[u8]) -> Signer {
    Signer {
        key: EncodingKey::from_ed_pem(pem).unwrap(),
        algorithm: Algorithm::EdDSA,
        name: "EdDSA",
    }
}

/// Whole `Authorization` headers that must not open anything.
fn vectors(ours: &Signer, foreign: &Signer, confused: &[Signer]) -> Vec<(&'static str, String)> {
    let good = ours.says(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let b64 = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let text = claims().to_string();
    let none = |alg: &str| b64(&format!("{{\"typ\":\"JWT\",\"alg\":\"{alg}\"}}"));
    let other = b64(&with("sub", json!("admin")).to_string());
    let flipped = |at: usize| {
        let mut bytes = signature.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let header = |more: &str| format!("{{\"alg\":\"{}\",{more}}}", ours.name);
    let double = text.replacen('{', "{\"client_type\":2,", 1);
    let mut all: Vec<(&'static str, String)> = vec![
        ("nothing", String::new()),
        ("one word", "x".into()),
        ("two dots", "..".into()),
        ("no signature", format!("{head}.{body}")),
        ("an empty signature", format!("{head}.{body}.")),
        ("four parts", format!("{good}.x")),
        ("alg none", format!("{}.{body}.", none("none"))),
        ("alg None", format!("{}.{body}.", none("None"))),
        (
            "alg NONE, signed",
            format!("{}.{body}.{signature}", none("NONE")),
        ),
        ("alg empty", format!("{}.{body}.{signature}", none(""))),
        (
            "no alg",
            format!("{}.{body}.{signature}", b64("{\"typ\":\"JWT\"}")),
        ),
        (
            "a list of algs",
            format!(
                "{}.{body}.{signature}",
                b64("{\"alg\":[\"HS256\",\"EdDSA\"]}")
            ),
        ),
        (
            "a header that is no JSON",
            format!("{}.{body}.{signature}", b64("x")),
        ),
        (
            "other claims under the signature",
            format!("{head}.{other}.{signature}"),
        ),
        (
            "the first bit of the signature",
            format!("{head}.{body}.{}", flipped(0)),
        ),
        (
            "a bit in the middle",
            format!("{head}.{body}.{}", flipped(20)),
        ),
        (
            "half a signature",
            format!("{head}.{body}.{}", &signature[..20]),
        ),
        ("padding", format!("{head}.{body}.{signature}==")),
        ("a space within", good.replacen('.', " .", 1)),
        ("a foreign key", foreign.says(&claims())),
        ("expired", ours.says(&with("exp", json!(now() - 1)))),
        ("expired long ago", ours.says(&with("exp", json!(0)))),
        (
            "expires at a negative time",
            ours.says(&with("exp", json!(-1))),
        ),
        (
            "expires as a text",
            ours.says(&with("exp", json!("9999999999"))),
        ),
        ("never expires", ours.says(&with("exp", Value::Null))),
        ("not yet", ours.says(&with("nbf", json!(now() + 600)))),
        ("not yet, as a text", ours.says(&with("nbf", json!("x")))),
        (
            "made in the future",
            ours.says(&with("iat", json!(now() + 600))),
        ),
        (
            "another audience",
            ours.says(&with("aud", json!("something-else"))),
        ),
        ("no audience", ours.says(&with("aud", Value::Null))),
        ("an empty audience", ours.says(&with("aud", json!("")))),
        (
            "two audiences",
            ours.says(&with("aud", json!(["handout-rendezvous", "x"]))),
        ),
        (
            "the audience in capitals",
            ours.says(&with("aud", json!("HANDOUT-RENDEZVOUS"))),
        ),
        ("no subject", ours.says(&with("sub", Value::Null))),
        ("an empty subject", ours.says(&with("sub", json!("")))),
        (
            "a subject with a line end",
            ours.says(&with("sub", json!("a\nb"))),
        ),
        (
            "a subject that is a number",
            ours.says(&with("sub", json!(7))),
        ),
        (
            "a long subject",
            ours.says(&with("sub", json!("x".repeat(129)))),
        ),
        (
            "no client type",
            ours.says(&with("client_type", Value::Null)),
        ),
        ("client type 0", ours.says(&with("client_type", json!(0)))),
        ("client type 4", ours.says(&with("client_type", json!(4)))),
        (
            "client type 257",
            ours.says(&with("client_type", json!(257))),
        ),
        (
            "a client type as a text",
            ours.says(&with("client_type", json!("1"))),
        ),
        ("two client types", ours.signed(&ours.header(), &double)),
        ("claims that are a list", ours.signed(&ours.header(), "[1]")),
        ("claims that are no JSON", ours.signed(&ours.header(), "x")),
        (
            "a critical extension",
            ours.signed(&header("\"crit\":[\"exp\"]"), &text),
        ),
        (
            "a body that is not encoded",
            ours.signed(&header("\"b64\":false"), &text),
        ),
        (
            "too long",
            ours.says(&with("more", json!("x".repeat(5000)))),
        ),
    ];
    for signer in confused {
        all.push(("a confused algorithm", signer.says(&claims())));
    }
    let mut headers: Vec<_> = (all.into_iter())
        .map(|(what, token)| (what, format!("Bearer {token}")))
        .collect();
    headers.push(("without a scheme", good.clone()));
    headers.push(("another scheme", format!("Basic {good}")));
    headers
}

fn check(server: &Server, ours: &Signer, foreign: &Signer, confused: &[Signer]) {
    let ask = |header: &str| server.get_with(&[("Authorization", header)], "/api/ice/sessions");
    ask(&format!("Bearer {}", ours.says(&claims()))).expect(200);
    ask(&format!("bearer {}", server.token("provides", PROVIDER))).expect(200);
    let vectors = vectors(ours, foreign, confused);
    assert!(vectors.len() >= 40, "only {}", vectors.len());
    for (what, header) in vectors {
        let answer = ask(&header);
        assert_eq!(answer.status, 401, "{what}: {}", answer.body);
    }
    // The token where it may end up in logs, twice, or not at all.
    let good = ours.says(&claims());
    server
        .get_with(&[], &format!("/api/ice/sessions?token={good}"))
        .expect(401);
    server
        .get_with(&[], &format!("/api/ice/sessions?access_token={good}"))
        .expect(401);
    let bearer = format!("Bearer {good}");
    let twice = [("Authorization", &*bearer), ("Authorization", &*bearer)];
    server.get_with(&twice, "/api/ice/sessions").expect(401);
    server.get_with(&[], "/api/ice/sessions").expect(401);
}

#[test]
fn no_wrong_token_opens_a_server_with_a_key() {
    let server = Server::start(&[]);
    let pem = std::fs::read(server.path("rendezvous.key")).unwrap();
    let other = Server::start(&[]);
    let foreign = std::fs::read(other.path("rendezvous.key")).unwrap();
    let seed = {
        let inner: String = std::str::from_utf8(&pem)
            .unwrap()
            .lines()
            .nth(1)
            .unwrap()
            .into();
        let der = data_encoding::BASE64.decode(inner.as_bytes()).unwrap();
        <[u8; 32]>::try_from(&der[16..]).unwrap()
    };
    // What everybody may know of the key must not do as a secret.
    let public = *handout::protocol::identity::Identity::from_seed(&seed)
        .public_key()
        .as_bytes();
    let hex = data_encoding::HEXLOWER.encode(&public);
    let confused = [secret(&public), secret(hex.as_bytes()), secret(b"")];
    check(&server, &key(&pem), &key(&foreign), &confused);
}

#[test]
fn no_wrong_token_opens_a_server_with_a_secret() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).unwrap();
    let setting = format!("rendezvous.serve.secret_file={}", file.display());
    let server = Server::start_in(home, &[&setting]);
    let other = Server::start(&[]);
    let foreign = std::fs::read(other.path("rendezvous.key")).unwrap();
    let other_hash = |algorithm, name| Signer {
        algorithm,
        name,
        ..secret(SECRET.as_bytes())
    };
    let confused = [
        key(&foreign),
        other_hash(Algorithm::HS384, "HS384"),
        other_hash(Algorithm::HS512, "HS512"),
        secret(format!("{SECRET}\n").as_bytes()),
    ];
    let foreign = secret(b"a secret of somebody else, also 32 bytes and more");
    check(&server, &secret(SECRET.as_bytes()), &foreign, &confused);
}
