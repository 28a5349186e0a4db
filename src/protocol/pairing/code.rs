//! Pairing by a short code that people compare on both screens: commit, then reveal, fresh each
//! time, bound to both keys and to the connection (PROTOCOL.md §13).
//!
//! Whoever sits in between has a connection, and so a code, with each side. It would have to make
//! the two codes equal, but it is bound to its nonce before it sees the other one: one chance in
//! a million for each time that people compare.

use sha2::{Digest, Sha256};

use super::{Ended, PairMessage, Parties, Step, bytes32};
use crate::protocol::identity::{PublicKey, b64, statement};

/// One side of it. Feed it every message of the other side and what the person says.
#[derive(Debug)]
pub struct CodePairing {
    parties: Parties,
    state: State,
}

#[derive(Debug)]
enum State {
    /// We have committed to our nonce and wait for theirs.
    Committed {
        nonce: [u8; 32],
    },
    /// They have committed, we have told our nonce.
    Answered {
        commit: [u8; 32],
        nonce: [u8; 32],
    },
    /// Both screens show the code; who has said yes?
    Showing {
        ours: bool,
        theirs: bool,
    },
    Over,
}

impl CodePairing {
    /// Begins it. `nonce` is fresh randomness; the message is to be sent.
    pub fn begin(parties: Parties, nonce: [u8; 32]) -> (Self, PairMessage) {
        let commit = b64(&commitment(
            &parties,
            &parties.ours,
            &parties.theirs,
            &nonce,
        ));
        let state = State::Committed { nonce };
        (Self { parties, state }, PairMessage::Commit { commit })
    }

    /// Answers a commitment. `nonce` is fresh randomness; the message is to be sent.
    ///
    /// # Errors
    /// When the commitment is not 32 bytes.
    pub fn respond(
        parties: Parties,
        commit: &str,
        nonce: [u8; 32],
    ) -> Result<(Self, PairMessage), Ended> {
        let commit = bytes32(commit)?;
        let state = State::Answered { commit, nonce };
        let nonce = b64(&nonce);
        Ok((Self { parties, state }, PairMessage::Nonce { nonce }))
    }

    /// Takes the other side's next message.
    pub fn on_message(&mut self, message: PairMessage) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        self.advance(state, message).unwrap_or_else(Ended::step)
    }

    /// The person has compared the codes.
    pub fn answer(&mut self, same: bool) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Showing { .. } if !same => Ended::Declined.step(),
            State::Showing {
                ours: false,
                theirs,
            } => self.agree(true, theirs, Some(PairMessage::Confirm)),
            state => {
                self.state = state;
                Step::Wait
            }
        }
    }

    /// True while people compare.
    pub fn is_showing(&self) -> bool {
        matches!(self.state, State::Showing { .. })
    }

    fn advance(&mut self, state: State, message: PairMessage) -> Result<Step, Ended> {
        let Parties { ours, theirs, .. } = self.parties;
        match (state, message) {
            (_, PairMessage::Reject { code, reason }) => Err(Ended::refused(code, &reason)),
            // Both began. The lower device id goes on, and the other side answers it, with the
            // nonce that nobody has seen yet.
            (State::Committed { nonce }, PairMessage::Commit { commit }) => {
                if ours.device_id() < theirs.device_id() {
                    self.state = State::Committed { nonce };
                    return Ok(Step::Wait);
                }
                let commit = bytes32(&commit)?;
                self.state = State::Answered { commit, nonce };
                let nonce = b64(&nonce);
                Ok(Step::Say(PairMessage::Nonce { nonce }))
            }
            (State::Committed { nonce }, PairMessage::Nonce { nonce: other }) => {
                let code = self.code(&ours, &theirs, &nonce, &bytes32(&other)?);
                let nonce = b64(&nonce);
                Ok(self.show(code, Some(PairMessage::Reveal { nonce })))
            }
            (State::Answered { commit, nonce }, PairMessage::Reveal { nonce: other }) => {
                let other = bytes32(&other)?;
                if commitment(&self.parties, &theirs, &ours, &other) != commit {
                    return Err(Ended::BadReveal);
                }
                let code = self.code(&theirs, &ours, &other, &nonce);
                Ok(self.show(code, None))
            }
            (
                State::Showing {
                    ours,
                    theirs: false,
                },
                PairMessage::Confirm,
            ) => Ok(self.agree(ours, true, None)),
            _ => Err(Ended::OutOfTurn),
        }
    }

    fn show(&mut self, code: String, say: Option<PairMessage>) -> Step {
        let (ours, theirs) = (false, false);
        self.state = State::Showing { ours, theirs };
        Step::Show { code, say }
    }

    /// Our yes is said after our side's authorization stands where it is the second one: from
    /// then on the other side may treat us as one that has let it in.
    fn agree(&mut self, ours: bool, theirs: bool, say: Option<PairMessage>) -> Step {
        if ours && theirs {
            return Step::Grant { say };
        }
        self.state = State::Showing { ours, theirs };
        say.map_or(Step::Wait, Step::Say)
    }

    /// Six decimal digits.
    fn code(
        &self,
        initiator: &PublicKey,
        responder: &PublicKey,
        initiator_nonce: &[u8; 32],
        responder_nonce: &[u8; 32],
    ) -> String {
        let said = statement(
            "handout/pair-code/1",
            &[
                &self.parties.binding,
                initiator.as_bytes(),
                responder.as_bytes(),
                initiator_nonce,
                responder_nonce,
            ],
        );
        let hash = Sha256::digest(said);
        let number = hash[..8]
            .iter()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        format!("{:06}", number % 1_000_000)
    }
}

fn commitment(
    parties: &Parties,
    initiator: &PublicKey,
    responder: &PublicKey,
    nonce: &[u8; 32],
) -> [u8; 32] {
    let said = statement(
        "handout/pair-commit/1",
        &[
            &parties.binding,
            initiator.as_bytes(),
            responder.as_bytes(),
            nonce,
        ],
    );
    Sha256::digest(said).into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parties, parties_on};
    use super::*;
    use crate::protocol::message::Code;

    fn shown(step: Step) -> (String, Option<PairMessage>) {
        match step {
            Step::Show { code, say } => (code, say),
            other => panic!("{other:?}"),
        }
    }

    /// Both sides up to the point where people compare.
    fn codes(a: Parties, b: Parties, nonces: [u8; 2]) -> ([CodePairing; 2], [String; 2]) {
        let (mut a, commit) = CodePairing::begin(a, [nonces[0]; 32]);
        let PairMessage::Commit { commit } = commit else {
            panic!()
        };
        let (mut b, nonce) = CodePairing::respond(b, &commit, [nonces[1]; 32]).unwrap();
        let (code_a, reveal) = shown(a.on_message(nonce));
        let (code_b, none) = shown(b.on_message(reveal.unwrap()));
        assert_eq!(none, None);
        ([a, b], [code_a, code_b])
    }

    #[test]
    fn both_screens_show_the_same_six_digits_and_another_code_each_time() {
        let (_, [a, b]) = codes(parties(1, 2), parties(2, 1), [1, 2]);
        assert_eq!(a, b);
        assert!(a.len() == 6 && a.bytes().all(|c| c.is_ascii_digit()));
        let (_, [again, _]) = codes(parties(1, 2), parties(2, 1), [1, 3]);
        let (_, [and_again, _]) = codes(parties(1, 2), parties(2, 1), [4, 2]);
        assert!(a != again && a != and_again);
    }

    #[test]
    fn both_must_say_yes_before_anybody_is_let_in() {
        let ([mut a, mut b], _) = codes(parties(1, 2), parties(2, 1), [1, 2]);
        assert_eq!(a.answer(true), Step::Say(PairMessage::Confirm));
        assert_eq!(b.on_message(PairMessage::Confirm), Step::Wait);
        let say = Some(PairMessage::Confirm);
        assert_eq!(b.answer(true), Step::Grant { say });
        assert_eq!(
            a.on_message(PairMessage::Confirm),
            Step::Grant { say: None }
        );
    }

    #[test]
    fn a_no_ends_it_on_both_sides() {
        let ([mut a, mut b], _) = codes(parties(1, 2), parties(2, 1), [1, 2]);
        assert_eq!(a.answer(true), Step::Say(PairMessage::Confirm));
        b.on_message(PairMessage::Confirm);
        let Step::End { say: Some(no), why } = b.answer(false) else {
            panic!()
        };
        assert_eq!(why, Ended::Declined);
        let ended = a.on_message(no);
        assert!(matches!(
            ended,
            Step::End {
                say: None,
                why: Ended::Refused {
                    code: Code::Declined,
                    ..
                }
            }
        ));
        // What comes too late changes nothing.
        assert_eq!(b.answer(true), Step::Wait);
    }

    #[test]
    fn a_nonce_that_was_not_committed_to_is_refused() {
        let (_, commit) = CodePairing::begin(parties(1, 2), [1; 32]);
        let PairMessage::Commit { commit } = commit else {
            panic!()
        };
        let (mut b, _) = CodePairing::respond(parties(2, 1), &commit, [2; 32]).unwrap();
        let nonce = b64(&[9; 32]);
        let step = b.on_message(PairMessage::Reveal { nonce });
        assert!(matches!(
            step,
            Step::End {
                why: Ended::BadReveal,
                ..
            }
        ));
    }

    #[test]
    fn the_code_and_the_commitment_hold_for_these_keys_and_this_connection_only() {
        // The middle has a connection with each side and passes the nonces on.
        let code = |a: Parties| {
            let (mut a, _) = CodePairing::begin(a, [1; 32]);
            let nonce = b64(&[2; 32]);
            shown(a.on_message(PairMessage::Nonce { nonce })).0
        };
        let honest = code(parties(1, 2));
        assert_ne!(honest, code(parties(1, 3)));
        assert_ne!(honest, code(parties(3, 2)));
        assert_ne!(honest, code(parties_on([8; 32], 1, 2)));
        for foreign in [parties(1, 3), parties_on([8; 32], 1, 2)] {
            let (_, commit) = CodePairing::begin(foreign, [1; 32]);
            let PairMessage::Commit { commit } = commit else {
                panic!()
            };
            let (mut b, _) = CodePairing::respond(parties(2, 1), &commit, [2; 32]).unwrap();
            let nonce = b64(&[1; 32]);
            let step = b.on_message(PairMessage::Reveal { nonce });
            assert!(matches!(step, Step::End { .. }), "{step:?}");
        }
    }

    #[test]
    fn when_both_begin_the_lower_id_goes_on_and_the_other_answers() {
        let (mut a, from_a) = CodePairing::begin(parties(1, 2), [1; 32]);
        let (mut b, from_b) = CodePairing::begin(parties(2, 1), [2; 32]);
        let a_is_lower = parties(1, 2).ours.device_id() < parties(2, 1).ours.device_id();
        let (to_b, to_a) = (b.on_message(from_a), a.on_message(from_b));
        let (low, high, answer) = if a_is_lower {
            assert_eq!(to_a, Step::Wait);
            (&mut a, &mut b, to_b)
        } else {
            assert_eq!(to_b, Step::Wait);
            (&mut b, &mut a, to_a)
        };
        let Step::Say(nonce) = answer else { panic!() };
        let (one, reveal) = shown(low.on_message(nonce));
        let (other, _) = shown(high.on_message(reveal.unwrap()));
        assert_eq!(one, other);
    }

    #[test]
    fn what_comes_out_of_turn_or_cannot_be_read_ends_it() {
        let confirm = || PairMessage::Confirm;
        let nonce = || PairMessage::Nonce {
            nonce: b64(&[5; 32]),
        };
        let (mut a, _) = CodePairing::begin(parties(1, 2), [1; 32]);
        assert!(matches!(a.on_message(confirm()), Step::End { .. }));
        assert!(matches!(a.on_message(nonce()), Step::End { .. }));
        assert!(CodePairing::respond(parties(2, 1), "x", [2; 32]).is_err());
        let ([mut a, _], _) = codes(parties(1, 2), parties(2, 1), [1, 2]);
        assert_eq!(a.on_message(confirm()), Step::Wait);
        // One yes is one yes.
        assert!(matches!(a.on_message(confirm()), Step::End { .. }));
        assert_eq!(a.answer(true), Step::Wait);
    }
}
