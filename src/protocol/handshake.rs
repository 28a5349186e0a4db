//! The handshake on the open channel (PROTOCOL.md §6): who is really at the other end.

use sha2::{Digest, Sha256};

use super::id::{DeviceId, RunId};
use super::identity::{Identity, PublicKey, b64, statement, unb64};
use super::message::{Hello, Message};
use super::peers::display_name;

const PURPOSE: &str = "handout/channel/1";
const VERSION: u32 = 1;

/// A side of the connection's SDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Wrote the offer.
    Offerer,
    /// Wrote the answer.
    Answerer,
}

impl Role {
    /// The other side.
    pub fn other(self) -> Self {
        match self {
            Self::Offerer => Self::Answerer,
            Self::Answerer => Self::Offerer,
        }
    }

    /// The word in the statement.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offerer => "offerer",
            Self::Answerer => "answerer",
        }
    }
}

/// SHA-256 of a DTLS certificate (DER).
pub type CertHash = [u8; 32];

/// SHA-256 over all that both sides have signed: the keys, the certificates, the nonces and the
/// roles. What is bound to it holds on this connection and on no other.
pub type Binding = [u8; 32];

/// Who we are, towards one peer.
#[derive(Debug, Clone)]
pub struct Local<'a> {
    /// Our side of the SDP.
    pub role: Role,
    /// Our key.
    pub identity: &'a Identity,
    /// Our name for people.
    pub name: &'a str,
    /// `desktop` or `mobile`.
    pub device: &'a str,
    /// Our DTLS certificate on this connection.
    pub cert: CertHash,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
    /// This start of our program.
    pub run: Option<RunId>,
}

/// Who is at the other end. Proven; whether it is authorized is for the caller to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: DeviceId,
    /// Its key.
    pub key: PublicKey,
    /// Its name for people, made harmless.
    pub name: String,
    /// What it says it is: `desktop`, `mobile`, or empty.
    pub device: String,
    /// This start of its program.
    pub run: Option<RunId>,
}

/// What to do after a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Send this and wait for the next message.
    Send(Message),
    /// Finished: both sides are proven once the other has read our PROOF.
    Done {
        /// Who is there.
        peer: Peer,
        /// Names this one connection, and is the same on both sides.
        binding: Binding,
    },
}

/// Why the connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Something else than the message whose turn it is.
    #[error("the peer sent something before it had shown who it is")]
    OutOfTurn,
    /// Another version of the protocol.
    #[error(
        "the peer speaks version {0} of the protocol, we speak {VERSION}: update the older of the two"
    )]
    Version(u32),
    /// Not whom we signaled with.
    #[error("the channel leads to {actual}, but the connection was made with {expected}")]
    OtherDevice {
        /// Whom we signaled with.
        expected: DeviceId,
        /// Who says it is there.
        actual: DeviceId,
    },
    /// The key does not hash to the id.
    #[error("the peer's key does not belong to its device id")]
    WrongKey,
    /// Our own HELLO came back.
    #[error("the channel leads back to this device")]
    Reflected,
    /// Not 32 bytes.
    #[error("the peer's nonce cannot be read")]
    BadNonce,
    /// The signature does not fit the certificates, nonces, ids or roles.
    #[error("the peer could not show that it is {0}: somebody may sit in between")]
    BadProof(DeviceId),
}

/// One side of the handshake. Feed it every text message until it is done or fails; a binary
/// message before that ends the connection.
#[derive(Debug)]
pub struct Handshake {
    ours: Ours,
    expected: DeviceId,
    state: State,
}

#[derive(Debug)]
struct Ours {
    role: Role,
    identity: Identity,
    cert: CertHash,
    nonce: [u8; 32],
}

#[derive(Debug)]
enum State {
    AwaitHello,
    AwaitProof { peer: Peer, nonce: [u8; 32] },
    Over,
}

/// One side's part of the statement.
struct Side<'a> {
    id: &'a DeviceId,
    key: &'a PublicKey,
    cert: &'a CertHash,
    nonce: &'a [u8; 32],
}

/// What the writer with this role signs.
fn signed_bytes(role: Role, writer: &Side<'_>, reader: &Side<'_>) -> Vec<u8> {
    statement(
        PURPOSE,
        &[
            role.as_str().as_bytes(),
            writer.id.as_str().as_bytes(),
            reader.id.as_str().as_bytes(),
            writer.key.as_bytes(),
            reader.key.as_bytes(),
            writer.cert,
            reader.cert,
            writer.nonce,
            reader.nonce,
        ],
    )
}

fn binding_of(offerer: &[u8], answerer: &[u8]) -> Binding {
    Sha256::digest(statement("handout/binding/1", &[offerer, answerer])).into()
}

impl Handshake {
    /// Begins it with the peer that we signaled with. The message is to be sent at once.
    pub fn new(local: &Local<'_>, expected: DeviceId) -> (Self, Message) {
        let key = local.identity.public_key();
        let hello = Message::Hello(Hello {
            v: VERSION,
            id: key.device_id(),
            key,
            nonce: b64(&local.nonce),
            name: display_name(local.name),
            device: local.device.to_owned(),
            run: local.run,
        });
        let ours = Ours {
            role: local.role,
            identity: local.identity.clone(),
            cert: local.cert,
            nonce: local.nonce,
        };
        let handshake = Self {
            ours,
            expected,
            state: State::AwaitHello,
        };
        (handshake, hello)
    }

    /// Takes the peer's next message. `peer_cert` is the hash of the certificate that the DTLS
    /// handshake of this very connection brought, never of one that the SDP named.
    ///
    /// # Errors
    /// See [`HandshakeError`]. An error is final, and so is `Done`: later messages are out of
    /// turn.
    pub fn on_message(
        &mut self,
        message: Message,
        peer_cert: &CertHash,
    ) -> Result<Step, HandshakeError> {
        match (std::mem::replace(&mut self.state, State::Over), message) {
            (State::AwaitHello, Message::Hello(hello)) => {
                let (peer, nonce) = self.check_hello(hello)?;
                let said = self.statement_of(self.ours.role, &peer, &nonce, peer_cert);
                let sig = self.ours.identity.sign(&said);
                self.state = State::AwaitProof { peer, nonce };
                Ok(Step::Send(Message::Proof { sig }))
            }
            (State::AwaitProof { peer, nonce }, Message::Proof { sig }) => {
                let said = self.statement_of(self.ours.role.other(), &peer, &nonce, peer_cert);
                match peer.key.verify(&said, &sig) {
                    Ok(()) => {
                        let ours = self.statement_of(self.ours.role, &peer, &nonce, peer_cert);
                        let binding = match self.ours.role {
                            Role::Offerer => binding_of(&ours, &said),
                            Role::Answerer => binding_of(&said, &ours),
                        };
                        Ok(Step::Done { peer, binding })
                    }
                    Err(_) => Err(HandshakeError::BadProof(peer.id)),
                }
            }
            _ => Err(HandshakeError::OutOfTurn),
        }
    }

    fn check_hello(&self, hello: Hello) -> Result<(Peer, [u8; 32]), HandshakeError> {
        if hello.v != VERSION {
            return Err(HandshakeError::Version(hello.v));
        }
        if hello.key == self.ours.identity.public_key() {
            return Err(HandshakeError::Reflected);
        }
        if hello.id != self.expected {
            return Err(HandshakeError::OtherDevice {
                expected: self.expected.clone(),
                actual: hello.id,
            });
        }
        if hello.key.device_id() != hello.id {
            return Err(HandshakeError::WrongKey);
        }
        let nonce: [u8; 32] = unb64(&hello.nonce)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(HandshakeError::BadNonce)?;
        if nonce == self.ours.nonce {
            return Err(HandshakeError::Reflected);
        }
        let known = matches!(hello.device.as_str(), "desktop" | "mobile");
        let peer = Peer {
            id: hello.id,
            key: hello.key,
            name: display_name(&hello.name),
            device: if known { hello.device } else { String::new() },
            run: hello.run,
        };
        Ok((peer, nonce))
    }

    /// What the side with the role `writer` signs.
    fn statement_of(
        &self,
        writer: Role,
        peer: &Peer,
        nonce: &[u8; 32],
        peer_cert: &CertHash,
    ) -> Vec<u8> {
        let key = self.ours.identity.public_key();
        let ours = Side {
            id: &key.device_id(),
            key: &key,
            cert: &self.ours.cert,
            nonce: &self.ours.nonce,
        };
        let theirs = Side {
            id: &peer.id,
            key: &peer.key,
            cert: peer_cert,
            nonce,
        };
        if writer == self.ours.role {
            signed_bytes(writer, &ours, &theirs)
        } else {
            signed_bytes(writer, &theirs, &ours)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::Signature;

    const A: CertHash = [0xa; 32];
    const B: CertHash = [0xb; 32];

    fn identity(n: u8) -> Identity {
        Identity::from_seed(&[n; 32])
    }

    fn start(n: u8, role: Role, cert: CertHash, expected: u8) -> (Handshake, Message) {
        let identity = identity(n);
        let local = Local {
            role,
            identity: &identity,
            name: "Room 12\u{1b}[2J",
            device: "desktop",
            cert,
            nonce: [n; 32],
            run: Some(RunId([n; 8])),
        };
        Handshake::new(&local, self::identity(expected).device_id())
    }

    fn proof(step: Result<Step, HandshakeError>) -> Message {
        match step {
            Ok(Step::Send(message @ Message::Proof { .. })) => message,
            other => panic!("{other:?}"),
        }
    }

    /// Runs both sides; `seen` are the certificates that the DTLS handshakes brought.
    fn run(
        roles: (Role, Role),
        seen_by_a: CertHash,
        seen_by_b: CertHash,
    ) -> [Result<Step, HandshakeError>; 2] {
        let (mut a, hello_a) = start(1, roles.0, A, 2);
        let (mut b, hello_b) = start(2, roles.1, B, 1);
        let proof_a = proof(a.on_message(hello_b, &seen_by_a));
        let proof_b = proof(b.on_message(hello_a, &seen_by_b));
        [
            a.on_message(proof_b, &seen_by_a),
            b.on_message(proof_a, &seen_by_b),
        ]
    }

    #[test]
    fn both_sides_learn_who_is_there() {
        let [a, b] = run((Role::Offerer, Role::Answerer), B, A);
        let (
            Ok(Step::Done { peer, binding }),
            Ok(Step::Done {
                peer: other,
                binding: same,
            }),
        ) = (&a, &b)
        else {
            panic!("{a:?} {b:?}")
        };
        assert_eq!(binding, same);
        assert_eq!(peer.key, identity(2).public_key());
        assert_eq!(peer.run, Some(RunId([2; 8])));
        assert_eq!(peer.id, identity(2).device_id());
        assert!(!peer.name.chars().any(char::is_control), "{}", peer.name);
        assert_eq!(other.key, identity(1).public_key());
    }

    #[test]
    fn each_connection_has_a_binding_of_its_own() {
        let binding = |roles, to_a, nonce: u8| {
            let (mut a, _) = start(1, roles, A, 2);
            a.ours.nonce = [nonce; 32];
            let other = roles.other();
            let (_, hello_b) = start(2, other, B, 1);
            proof(a.on_message(hello_b, &to_a));
            let State::AwaitProof { peer, nonce } = &a.state else {
                panic!()
            };
            let sig = identity(2).sign(&a.statement_of(other, peer, nonce, &to_a));
            match a.on_message(Message::Proof { sig }, &to_a) {
                Ok(Step::Done { binding, .. }) => binding,
                other => panic!("{other:?}"),
            }
        };
        let one = binding(Role::Offerer, B, 1);
        assert_eq!(one, binding(Role::Offerer, B, 1));
        for other in [
            binding(Role::Offerer, B, 9),
            binding(Role::Offerer, [0xc; 32], 1),
            binding(Role::Answerer, B, 1),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_relayed_handshake_fails_on_both_sides_because_the_certificates_differ() {
        let middle = [0xc; 32];
        for result in run((Role::Offerer, Role::Answerer), middle, middle) {
            assert!(matches!(result, Err(HandshakeError::BadProof(_))));
        }
    }

    #[test]
    fn equal_roles_fail() {
        for role in [Role::Offerer, Role::Answerer] {
            for result in run((role, role), B, A) {
                assert!(matches!(result, Err(HandshakeError::BadProof(_))));
            }
        }
    }

    #[test]
    fn our_own_messages_sent_back_are_refused() {
        let (mut a, hello) = start(1, Role::Offerer, A, 2);
        assert_eq!(
            a.on_message(hello.clone(), &A),
            Err(HandshakeError::Reflected)
        );
        let (mut a, _) = start(1, Role::Offerer, A, 1);
        assert_eq!(a.on_message(hello, &A), Err(HandshakeError::Reflected));

        let (mut a, _) = start(1, Role::Offerer, A, 2);
        let (_, hello_b) = start(2, Role::Answerer, B, 1);
        let ours = proof(a.on_message(hello_b, &B));
        assert!(matches!(
            a.on_message(ours, &B),
            Err(HandshakeError::BadProof(_))
        ));

        let (mut a, _) = start(1, Role::Offerer, A, 2);
        let (_, Message::Hello(mut copied)) = start(2, Role::Answerer, B, 1) else {
            panic!()
        };
        copied.nonce = b64(&[1; 32]);
        let result = a.on_message(Message::Hello(copied), &B);
        assert_eq!(result, Err(HandshakeError::Reflected));
    }

    #[test]
    fn a_wrong_id_key_nonce_or_version_is_refused() {
        let (_, Message::Hello(good)) = start(2, Role::Answerer, B, 1) else {
            panic!()
        };
        let refused = |hello: Hello| {
            let (mut a, _) = start(1, Role::Offerer, A, 2);
            a.on_message(Message::Hello(hello), &B).unwrap_err()
        };
        let other = Hello {
            id: identity(3).device_id(),
            key: identity(3).public_key(),
            ..good.clone()
        };
        assert!(matches!(refused(other), HandshakeError::OtherDevice { .. }));
        let stolen = Hello {
            key: identity(3).public_key(),
            ..good.clone()
        };
        assert_eq!(refused(stolen), HandshakeError::WrongKey);
        for nonce in ["", "x", &b64(&[2; 31]), &b64(&[2; 33])] {
            let hello = Hello {
                nonce: nonce.into(),
                ..good.clone()
            };
            assert_eq!(refused(hello), HandshakeError::BadNonce);
        }
        let newer = Hello { v: 2, ..good };
        assert_eq!(refused(newer), HandshakeError::Version(2));
    }

    #[test]
    fn a_proof_of_another_key_or_another_nonce_is_refused() {
        let (mut a, _) = start(1, Role::Offerer, A, 2);
        let (_, hello_b) = start(2, Role::Answerer, B, 1);
        proof(a.on_message(hello_b, &B));
        let forged = Message::Proof {
            sig: Signature([7; 64]),
        };
        assert!(matches!(
            a.on_message(forged, &B),
            Err(HandshakeError::BadProof(_))
        ));

        // A recording of an earlier handshake: same devices and certificates, other nonce.
        let (mut earlier, _) = start(1, Role::Offerer, A, 2);
        let (mut b, hello_b) = start(2, Role::Answerer, B, 1);
        proof(earlier.on_message(hello_b.clone(), &B));
        let identity = identity(1);
        let (mut now, hello_now) = Handshake::new(
            &Local {
                role: Role::Offerer,
                identity: &identity,
                name: "",
                device: "",
                cert: A,
                nonce: [0x77; 32],
                run: None,
            },
            self::identity(2).device_id(),
        );
        let (_, recorded) = start(1, Role::Offerer, A, 2);
        let old_proof = proof(b.on_message(recorded, &A));
        assert_ne!(hello_now, hello_b);
        proof(now.on_message(hello_b, &B));
        assert!(matches!(
            now.on_message(old_proof, &B),
            Err(HandshakeError::BadProof(_))
        ));
    }

    #[test]
    fn anything_out_of_turn_ends_it_for_good() {
        let ack = || Message::Ack {
            handle: 1,
            bytes: 1,
        };
        let (_, hello_b) = start(2, Role::Answerer, B, 1);
        let (mut a, _) = start(1, Role::Offerer, A, 2);
        assert_eq!(a.on_message(ack(), &B), Err(HandshakeError::OutOfTurn));
        assert_eq!(
            a.on_message(hello_b.clone(), &B),
            Err(HandshakeError::OutOfTurn)
        );
        let (mut a, _) = start(1, Role::Offerer, A, 2);
        let early = Message::Proof {
            sig: Signature([0; 64]),
        };
        assert_eq!(a.on_message(early, &B), Err(HandshakeError::OutOfTurn));
        let (mut a, _) = start(1, Role::Offerer, A, 2);
        proof(a.on_message(hello_b.clone(), &B));
        assert_eq!(a.on_message(hello_b, &B), Err(HandshakeError::OutOfTurn));
        let (mut a, _) = start(1, Role::Offerer, A, 2);
        let (_, hello_b) = start(2, Role::Answerer, B, 1);
        proof(a.on_message(hello_b, &B));
        assert_eq!(a.on_message(ack(), &B), Err(HandshakeError::OutOfTurn));
    }
}
