//! Pairing by a PIN that one side shows and a person types on the other: SPAKE2, then each side
//! shows that it has the same key, the typing side first (PROTOCOL.md §13).
//!
//! Neither a listener nor the other side learns anything about the PIN but whether one guess was
//! right, and [`PinDoor`] counts the guesses.

use std::fmt;
use std::time::{Duration, Instant};

use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::{Ended, PairMessage, Parties, Step, bytes32};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::{b64, statement, unb64};

/// How many guesses a PIN allows, over all links and devices together.
pub const TRIES: u8 = 3;
/// Digits of a PIN.
pub const DIGITS: usize = 6;

/// The PIN that random bytes make: six decimal digits.
pub fn pin_from(random: [u8; 8]) -> String {
    format!("{:06}", u64::from_be_bytes(random) % 1_000_000)
}

/// What a person typed, without spaces between; `None` when it is no PIN.
pub fn read_pin(typed: &str) -> Option<String> {
    let digits: String = typed
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .take(DIGITS + 1)
        .collect();
    (digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
}

/// One side of the exchange.
#[derive(Debug)]
pub struct PinExchange {
    parties: Parties,
    state: State,
}

enum State {
    /// The typing side has sent its share.
    Typed(Box<Spake2<Ed25519Group>>),
    /// The typing side has shown its key.
    Shown([u8; 32]),
    /// The showing side has answered the share, and waits to be shown the key.
    Answered([u8; 32]),
    Over,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets stay out of logs.
        f.write_str(match self {
            Self::Typed(_) => "Typed",
            Self::Shown(_) => "Shown",
            Self::Answered(_) => "Answered",
            Self::Over => "Over",
        })
    }
}

impl PinExchange {
    /// The side where the PIN is typed begins. The message is to be sent.
    ///
    /// The library draws its secret from the system: it is the one randomness of this layer.
    pub fn typed(pin: &str, parties: Parties) -> (Self, PairMessage) {
        let (typist, shower) = (parties.ours.device_id(), parties.theirs.device_id());
        let (a, b) = (spake_id(&typist), spake_id(&shower));
        let (exchange, share) = Spake2::<Ed25519Group>::start_a(&Password::new(pin), &a, &b);
        let state = State::Typed(Box::new(exchange));
        let share = b64(&share);
        (Self { parties, state }, PairMessage::Pin { share })
    }

    /// The side that shows the PIN answers. Only after [`PinDoor::take`]. The message is to be
    /// sent.
    ///
    /// # Errors
    /// When the share cannot be one.
    pub fn answer(pin: &str, parties: Parties, share: &str) -> Result<(Self, PairMessage), Ended> {
        let (shower, typist) = (parties.ours.device_id(), parties.theirs.device_id());
        let (a, b) = (spake_id(&typist), spake_id(&shower));
        let (exchange, ours) = Spake2::<Ed25519Group>::start_b(&Password::new(pin), &a, &b);
        let state = State::Answered(finish(exchange, share)?);
        let share = b64(&ours);
        Ok((Self { parties, state }, PairMessage::Pin { share }))
    }

    /// Takes the other side's next message.
    pub fn on_message(&mut self, message: PairMessage) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        self.advance(state, message).unwrap_or_else(Ended::step)
    }

    fn advance(&mut self, state: State, message: PairMessage) -> Result<Step, Ended> {
        let Parties { ours, theirs, .. } = self.parties;
        let (ours, theirs) = (ours.device_id(), theirs.device_id());
        match (state, message) {
            (_, PairMessage::Reject { code, reason }) => Err(Ended::refused(code, &reason)),
            (State::Typed(exchange), PairMessage::Pin { share }) => {
                let key = finish(*exchange, &share)?;
                let mac = b64(self.mac(&key, "typed", &ours, &theirs).as_bytes());
                self.state = State::Shown(key);
                Ok(Step::Say(PairMessage::PinProof { mac }))
            }
            (State::Answered(key), PairMessage::PinProof { mac }) => {
                self.check(&mac, self.mac(&key, "typed", &theirs, &ours))?;
                let mac = b64(self.mac(&key, "shown", &theirs, &ours).as_bytes());
                let say = Some(PairMessage::PinProof { mac });
                Ok(Step::Grant { say })
            }
            (State::Shown(key), PairMessage::PinProof { mac }) => {
                self.check(&mac, self.mac(&key, "shown", &ours, &theirs))?;
                Ok(Step::Grant { say: None })
            }
            _ => Err(Ended::OutOfTurn),
        }
    }

    /// That the side `writer` has the key, on this connection.
    fn mac(
        &self,
        key: &[u8; 32],
        writer: &str,
        typist: &DeviceId,
        shower: &DeviceId,
    ) -> blake3::Hash {
        let said = statement(
            "handout/pair-pin/1",
            &[
                writer.as_bytes(),
                &self.parties.binding,
                typist.as_str().as_bytes(),
                shower.as_str().as_bytes(),
            ],
        );
        blake3::keyed_hash(key, &said)
    }

    fn check(&self, theirs: &str, expected: blake3::Hash) -> Result<(), Ended> {
        // Compares in constant time.
        if expected == bytes32(theirs)? {
            Ok(())
        } else {
            Err(Ended::WrongPin)
        }
    }
}

fn spake_id(device: &DeviceId) -> Identity {
    Identity::new(device.as_str().as_bytes())
}

fn finish(exchange: Spake2<Ed25519Group>, share: &str) -> Result<[u8; 32], Ended> {
    // 33 bytes; the library checks it.
    let share = unb64(share).ok_or(Ended::Unreadable)?;
    let key = exchange.finish(&share).map_err(|_| Ended::Unreadable)?;
    key.try_into().map_err(|_| Ended::Unreadable)
}

/// How long a PIN is good for, and for how many guesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinDoor {
    tries: u8,
    until: Instant,
}

/// Why a PIN is not good any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinClosed {
    /// Its time is over.
    #[error("the PIN has expired: have a new one shown (handout pair --show-pin)")]
    Expired,
    /// All guesses are used up.
    #[error("the PIN allows no more tries: have a new one shown (handout pair --show-pin)")]
    Spent,
}

impl PinDoor {
    /// A PIN that is shown now, for `life`.
    pub fn open(now: Instant, life: Duration) -> Self {
        let (tries, until) = (TRIES, now + life);
        Self { tries, until }
    }

    /// Uses up a guess: before a share is answered, so that giving up halfway costs one too.
    /// Returns how many are left.
    ///
    /// # Errors
    /// When no guess is allowed.
    pub fn take(&mut self, now: Instant) -> Result<u8, PinClosed> {
        if now >= self.until {
            return Err(PinClosed::Expired);
        }
        self.tries = self.tries.checked_sub(1).ok_or(PinClosed::Spent)?;
        Ok(self.tries)
    }

    /// True when every guess is used up.
    pub fn is_spent(&self) -> bool {
        self.tries == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parties, parties_on};
    use super::*;
    use crate::protocol::message::Code;

    fn said(step: Step) -> PairMessage {
        match step {
            Step::Say(message) => message,
            other => panic!("{other:?}"),
        }
    }

    fn share_of(message: PairMessage) -> String {
        match message {
            PairMessage::Pin { share } => share,
            other => panic!("{other:?}"),
        }
    }

    /// Both sides up to the typist's proof, and that proof.
    fn exchange(
        typed: (&str, Parties),
        shown: (&str, Parties),
    ) -> ((PinExchange, PinExchange), PairMessage) {
        let (mut typist, share) = PinExchange::typed(typed.0, typed.1);
        let (shower, answer) = PinExchange::answer(shown.0, shown.1, &share_of(share)).unwrap();
        let proof = said(typist.on_message(answer));
        ((typist, shower), proof)
    }

    #[test]
    fn the_same_pin_lets_both_sides_in_the_showing_side_first() {
        let typed = ("123456", parties(1, 2));
        let ((mut typist, mut shower), proof) = exchange(typed, ("123456", parties(2, 1)));
        let Step::Grant { say: Some(answer) } = shower.on_message(proof) else {
            panic!()
        };
        assert_eq!(typist.on_message(answer), Step::Grant { say: None });
    }

    #[test]
    fn a_wrong_pin_lets_nobody_in_and_tells_the_typist_nothing_more() {
        let typed = ("123457", parties(1, 2));
        let ((mut typist, mut shower), proof) = exchange(typed, ("123456", parties(2, 1)));
        let Step::End { say: Some(no), why } = shower.on_message(proof) else {
            panic!()
        };
        assert_eq!(why, Ended::WrongPin);
        let PairMessage::Reject { code, .. } = &no else {
            panic!("{no:?}")
        };
        assert_eq!(*code, Code::Unauthorized);
        assert!(matches!(typist.on_message(no), Step::End { .. }));
    }

    #[test]
    fn the_proof_holds_on_its_connection_and_for_its_devices_only() {
        for other in [parties_on([8; 32], 1, 2), parties(3, 2), parties(1, 3)] {
            let (_, proof) = exchange(("123456", other), ("123456", parties(2, 1)));
            let (_, share) = PinExchange::typed("123456", parties(1, 2));
            let (mut shower, _) =
                PinExchange::answer("123456", parties(2, 1), &share_of(share)).unwrap();
            assert!(matches!(shower.on_message(proof), Step::End { .. }));
        }
        // Also when the keys are equal: on another connection, or as an answer to itself.
        let typed = ("123456", parties_on([8; 32], 1, 2));
        let ((_, mut shower), proof) = exchange(typed, ("123456", parties(2, 1)));
        assert!(matches!(shower.on_message(proof), Step::End { .. }));
        let typed = ("123456", parties(1, 2));
        let ((mut typist, _), proof) = exchange(typed, ("123456", parties(2, 1)));
        assert!(matches!(typist.on_message(proof), Step::End { .. }));
    }

    #[test]
    fn shares_that_are_none_and_messages_out_of_turn_end_it() {
        for share in [
            "",
            "x",
            &b64(&[0x41; 32]),
            &b64(&[0xff; 33]),
            &b64(&[0; 34]),
        ] {
            assert!(PinExchange::answer("123456", parties(2, 1), share).is_err());
        }
        let (mut typist, share) = PinExchange::typed("123456", parties(1, 2));
        // Our own share, sent back.
        assert!(matches!(typist.on_message(share), Step::End { .. }));
        let (mut typist, _) = PinExchange::typed("123456", parties(1, 2));
        let mac = b64(&[0; 32]);
        let early = typist.on_message(PairMessage::PinProof { mac });
        assert!(matches!(early, Step::End { .. }));
    }

    #[test]
    fn three_guesses_and_the_pin_is_dead() {
        let now = Instant::now();
        let mut door = PinDoor::open(now, Duration::from_secs(300));
        assert_eq!(
            [(); 3].map(|()| door.take(now)),
            [Ok(2), Ok(1), Ok(0)],
            "each answer to a share is a guess"
        );
        assert!(door.is_spent());
        assert_eq!(door.take(now), Err(PinClosed::Spent));
    }

    #[test]
    fn a_pin_has_a_short_life() {
        let now = Instant::now();
        let mut door = PinDoor::open(now, Duration::from_secs(300));
        assert!(door.take(now + Duration::from_secs(299)).is_ok());
        let late = door.take(now + Duration::from_secs(300));
        assert_eq!(late, Err(PinClosed::Expired));
    }

    #[test]
    fn a_pin_is_six_digits_as_people_write_them() {
        assert_eq!(read_pin(" 123 456\n").as_deref(), Some("123456"));
        for bad in ["", "12345", "1234567", "12345a", "１２３４５６"] {
            assert_eq!(read_pin(bad), None, "{bad:?}");
        }
        assert_eq!(pin_from([0; 8]), "000000");
        assert_eq!(
            read_pin(&pin_from([0xff; 8])).as_deref(),
            Some(&*pin_from([0xff; 8]))
        );
    }
}
