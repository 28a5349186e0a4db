//! Tokens: JSON Web Tokens of one algorithm, which the server's own key decides and never the
//! token.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

use crate::config::RendezvousServe;
use crate::protocol::identity::Identity;
use crate::protocol::rendezvous::Claims;

/// Bytes of a token.
pub const MAX_TOKEN: usize = 4096;
/// Bytes of a subject.
pub const MAX_SUBJECT: usize = 128;
/// Fewest bytes of a secret.
const SHORTEST: usize = 32;
/// Bytes of a file with a key.
const MAX_FILE: u64 = 4096;
/// How far the clock of whoever makes tokens may be ahead, in seconds.
const AHEAD: u64 = 60;
/// What comes before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const PEM: [&str; 2] = ["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"];

/// The key's file in the state folder.
pub const KEY_FILE: &str = "rendezvous.key";

/// Why the key of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key of tokens, {}: {reason}", path.display())]
pub struct KeyFault {
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

/// Why a token is not taken, for whoever showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Longer than any of ours.
    #[error("the token has more than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three parts of base64url that hold what they should.
    #[error("this is no token of this rendezvous")]
    Malformed,
    /// Not the algorithm, or not the key.
    #[error("the token is not signed by this rendezvous")]
    Signature,
    /// Too old.
    #[error("the token has expired; get a new one")]
    Expired,
    /// Too young.
    #[error("the token does not hold yet; its maker's clock may be wrong")]
    NotYet,
    /// For something else.
    #[error("the token is for another audience")]
    Audience,
    /// Lacks something.
    #[error("the token needs sub, aud, exp and client_type")]
    Incomplete,
}

/// Signs tokens and checks them.
pub struct Keys {
    encoding: EncodingKey,
    decoding: DecodingKey,
    algorithm: Algorithm,
    validation: Validation,
    audience: String,
}

impl Keys {
    /// The secret that the settings name, else the key in the state folder, which is made where it
    /// is missing.
    pub fn load(serve: &RendezvousServe, state: &Path) -> Result<Self, KeyFault> {
        let (path, secret) = match &serve.secret_file {
            Some(path) => (path.clone(), true),
            None => (state.join(KEY_FILE), false),
        };
        let fault = |reason| KeyFault {
            path: path.clone(),
            reason,
        };
        if secret {
            let secret = read(&path).map_err(fault)?;
            let secret = trimmed(&secret);
            if secret.len() < SHORTEST {
                return Err(fault(format!(
                    "a secret needs at least {SHORTEST} bytes; `openssl rand -base64 32` makes one"
                )));
            }
            return Ok(Self::of_secret(secret, &serve.audience));
        }
        let seed = match read(&path) {
            Ok(text) => seed_of(&text).ok_or_else(|| {
                fault("this is no Ed25519 key in PEM (PKCS #8); remove it to get a new one".into())
            })?,
            Err(_) if !path.exists() => {
                create(&path).map_err(|error| fault(format!("it cannot be made: {error}")))?
            }
            Err(reason) => return Err(fault(reason)),
        };
        Ok(Self::of_seed(&seed, &serve.audience))
    }

    fn of_secret(secret: &[u8], audience: &str) -> Self {
        let keys = (
            EncodingKey::from_secret(secret),
            DecodingKey::from_secret(secret),
        );
        Self::new(keys, Algorithm::HS256, audience)
    }

    fn of_seed(seed: &[u8; 32], audience: &str) -> Self {
        let public = *Identity::from_seed(seed).public_key().as_bytes();
        let keys = (
            EncodingKey::from_ed_der(&[&PKCS8[..], seed].concat()),
            DecodingKey::from_ed_der(&public),
        );
        Self::new(keys, Algorithm::EdDSA, audience)
    }

    fn new(keys: (EncodingKey, DecodingKey), algorithm: Algorithm, audience: &str) -> Self {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.set_audience(&[audience]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        Self {
            encoding: keys.0,
            decoding: keys.1,
            algorithm,
            validation,
            audience: audience.to_owned(),
        }
    }

    /// What tokens must be for.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// A token that says this. An error where the key does not sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        let header = Header::new(self.algorithm);
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|error| error.to_string())
    }

    /// What a token says, where it is one of ours and holds now.
    pub fn check(&self, token: &str) -> Result<Claims, TokenFault> {
        use jsonwebtoken::errors::ErrorKind;
        if token.len() > MAX_TOKEN {
            return Err(TokenFault::TooLong);
        }
        // Extensions that must be understood are not (RFC 7515, 4.1.11).
        let header = token.split('.').next().unwrap_or_default();
        let header = data_encoding::BASE64URL_NOPAD.decode(header.as_bytes());
        let header = header.map_err(|_| TokenFault::Malformed)?;
        let header: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|_| TokenFault::Malformed)?;
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(TokenFault::Malformed);
        }
        let read = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation);
        let claims = read
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => TokenFault::Expired,
                ErrorKind::ImmatureSignature => TokenFault::NotYet,
                ErrorKind::InvalidAudience => TokenFault::Audience,
                ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
                    TokenFault::Incomplete
                }
                ErrorKind::InvalidSignature
                | ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidAlgorithmName => TokenFault::Signature,
                // The signature was right, but a member has the wrong type.
                ErrorKind::Json(_) => TokenFault::Incomplete,
                _ => TokenFault::Malformed,
            })?
            .claims;
        // The library takes a list of audiences, too; `Claims` does not.
        if claims.aud != self.audience {
            return Err(TokenFault::Audience);
        }
        // "On or after" that time (RFC 7519, 4.1.4); the library waits for "after".
        if claims.exp <= unix_now() {
            return Err(TokenFault::Expired);
        }
        if claims.iat > unix_now().saturating_add(AHEAD) {
            return Err(TokenFault::NotYet);
        }
        match is_subject(&claims.sub) {
            true => Ok(claims),
            false => Err(TokenFault::Incomplete),
        }
    }
}

/// True for what may be a subject: text that can stand in a log.
pub fn is_subject(text: &str) -> bool {
    (1..=MAX_SUBJECT).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Unix seconds.
pub fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The bytes of a file that others may not read. An error says what is wrong, and what to do.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let mode = file.metadata().map_err(|error| error.to_string())?.mode();
    // The group may read it: service managers hand out secrets like that.
    if mode & 0o027 != 0 {
        let mode = mode & 0o777;
        return Err(format!(
            "others may use it (mode {mode:03o}); run `chmod 600` on it"
        ));
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(format!("it has more than {MAX_FILE} bytes")),
        false => Ok(bytes),
    }
}

/// Without the line end that editors put there.
fn trimmed(secret: &[u8]) -> &[u8] {
    let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
    secret.strip_suffix(b"\r").unwrap_or(secret)
}

fn seed_of(text: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let inner = text.strip_prefix(PEM[0])?.strip_suffix(PEM[1])?;
    let inner: String = inner.split_whitespace().collect();
    let der = data_encoding::BASE64.decode(inner.as_bytes()).ok()?;
    der.strip_prefix(&PKCS8)?.try_into().ok()
}

fn create(path: &Path) -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let der = data_encoding::BASE64.encode(&[&PKCS8[..], &seed].concat());
    // Beside it first: a key of which only a part is there would be in the way for ever.
    let beside = path.with_extension("key.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside)?;
    writeln!(file, "{}\n{der}\n{}", PEM[0], PEM[1])?;
    file.sync_all()?;
    // Unlike a rename it leaves a key alone that another process has made meanwhile.
    let linked = std::fs::hard_link(&beside, path);
    let _ = std::fs::remove_file(&beside);
    linked?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::rendezvous::ClientType;

    fn claims() -> Claims {
        Claims {
            sub: "lab-3".to_owned(),
            aud: "here".to_owned(),
            iat: unix_now(),
            nbf: None,
            exp: unix_now() + 60,
            client_type: ClientType::Requester,
        }
    }

    #[test]
    fn a_token_of_each_kind_of_key_holds_for_that_key_alone() {
        let secret = Keys::of_secret(&[7; 32], "here");
        let key = Keys::of_seed(&[7; 32], "here");
        for (ours, other) in [(&secret, &key), (&key, &secret)] {
            let token = ours.sign(&claims()).unwrap();
            assert_eq!(ours.check(&token), Ok(claims()));
            assert_eq!(other.check(&token), Err(TokenFault::Signature));
        }
        let token = Keys::of_seed(&[8; 32], "here").sign(&claims()).unwrap();
        assert_eq!(key.check(&token), Err(TokenFault::Signature));
    }

    #[test]
    fn the_key_is_made_once_and_is_a_key_for_other_programs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rendezvous.key");
        let seed = create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let text = read(&path).unwrap();
        assert_eq!(seed_of(&text), Some(seed));
        EncodingKey::from_ed_pem(&text).unwrap();
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(seed_of(&read(&path).unwrap()), None);
    }
}
