//! The life of a transfer: which states there are, and which moves between them are legal.

use serde::{Deserialize, Serialize};

use super::message::Code;

/// Longest reason kept, in characters. Reasons come from peers, who may be chatty.
pub const MAX_REASON: usize = 256;

/// Which way a transfer's bytes go, seen from this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// We send.
    Outgoing,
    /// We receive.
    Incoming,
}

/// Who did something to a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// This device: a person here, its policy, or its disk.
    Ours,
    /// The peer.
    Theirs,
}

/// Where one transfer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum TransferState {
    /// Wanted, but not offered on any link now.
    Pending,
    /// START_TRANSFER was said and not answered yet.
    Offered,
    /// Accepted: chunks flow.
    Active,
    /// Stopped for now.
    Paused {
        /// Who stopped it, and so who may go on.
        by: Side,
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Verified, on disk, under its final name. Final.
    Complete,
    /// Stopped for good on purpose. Final.
    Cancelled {
        /// Who stopped it.
        by: Side,
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Refused, or went wrong beyond repair. Final.
    Failed {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

/// What happens to a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferEvent {
    /// START_TRANSFER was sent or came.
    Offer,
    /// It was answered with `accepted`.
    Accept,
    /// It was answered with `complete`, or everything is verified and on disk.
    Complete,
    /// It was answered with `refused`.
    Refuse {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Stop for now.
    Pause {
        /// Who says so.
        by: Side,
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Go on after a pause.
    Resume {
        /// Who says so.
        by: Side,
    },
    /// The link is gone, or the program was started again.
    Disconnect,
    /// Stop for good.
    Cancel {
        /// Who says so.
        by: Side,
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Something went wrong beyond repair.
    Fail {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

/// A move that is not legal. The state stays what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a transfer that is {state} cannot {event}")]
pub struct IllegalMove {
    /// The state it was in, as one word.
    pub state: &'static str,
    /// What was to happen, as a verb.
    pub event: &'static str,
}

impl TransferState {
    /// True when nothing can happen to it any more.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Complete | Self::Cancelled { .. } | Self::Failed { .. }
        )
    }

    /// True while it is offered, or its chunks flow.
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Offered | Self::Active)
    }

    /// True while our own side has it rest, and for this reason.
    pub fn rests_because(&self, why: &str) -> bool {
        matches!(self, Self::Paused { by: Side::Ours, reason, .. } if reason == why)
    }

    /// One word for tables and logs, the same as in stored records.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Offered => "offered",
            Self::Active => "active",
            Self::Paused { .. } => "paused",
            Self::Complete => "complete",
            Self::Cancelled { .. } => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }

    /// The state after `event`.
    ///
    /// - Nothing leaves a final state.
    /// - A pause of ours is lifted by us alone. A pause of theirs may also be lifted by us (they
    ///   answer with another pause if they still mean it), and ends when they offer again.
    /// - When both have paused, ours counts: lifting it asks them again.
    /// - A lost link puts everything back to pending but a pause of ours. A pause of theirs is
    ///   said again if it still holds when the transfer is offered next.
    pub fn on(self, event: TransferEvent) -> Result<Self, IllegalMove> {
        use TransferEvent as E;
        if self.is_final() {
            return Err(self.illegal(&event));
        }
        Ok(match (self, event) {
            (_, E::Cancel { by, code, reason }) => Self::Cancelled {
                by,
                code,
                reason: clip(reason),
            },
            (_, E::Fail { code, reason }) => Self::Failed {
                code,
                reason: clip(reason),
            },
            (
                state @ Self::Paused { by: Side::Ours, .. },
                E::Pause {
                    by: Side::Theirs, ..
                },
            ) => state,
            (_, E::Pause { by, code, reason }) => Self::Paused {
                by,
                code,
                reason: clip(reason),
            },
            (state @ Self::Paused { by: Side::Ours, .. }, E::Disconnect) => state,
            (_, E::Disconnect) => Self::Pending,
            (Self::Paused { by, .. }, E::Resume { by: who }) if who == Side::Ours || by == who => {
                Self::Offered
            }
            (
                Self::Pending
                | Self::Offered
                | Self::Active
                | Self::Paused {
                    by: Side::Theirs, ..
                },
                E::Offer,
            ) => Self::Offered,
            (Self::Offered, E::Accept) => Self::Active,
            (Self::Offered | Self::Active, E::Complete) => Self::Complete,
            (Self::Offered, E::Refuse { code, reason }) => Self::Failed {
                code,
                reason: clip(reason),
            },
            (state, event) => return Err(state.illegal(&event)),
        })
    }

    fn illegal(&self, event: &TransferEvent) -> IllegalMove {
        IllegalMove {
            state: self.word(),
            event: match event {
                TransferEvent::Offer => "be offered",
                TransferEvent::Accept => "be accepted",
                TransferEvent::Complete => "become complete",
                TransferEvent::Refuse { .. } => "be refused",
                TransferEvent::Pause { .. } => "be paused",
                TransferEvent::Resume { by: Side::Ours } => "be resumed by us",
                TransferEvent::Resume { by: Side::Theirs } => "be resumed by the peer",
                TransferEvent::Disconnect => "be disconnected",
                TransferEvent::Cancel { .. } => "be cancelled",
                TransferEvent::Fail { .. } => "fail",
            },
        }
    }
}

/// At most [`MAX_REASON`] characters, none of them a control character: reasons reach terminals
/// and logs.
fn clip(reason: String) -> String {
    reason
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pause(by: Side) -> TransferEvent {
        TransferEvent::Pause {
            by,
            code: Code::Paused,
            reason: "lunch".into(),
        }
    }

    fn run(events: &[TransferEvent]) -> Result<TransferState, IllegalMove> {
        events
            .iter()
            .cloned()
            .try_fold(TransferState::Pending, TransferState::on)
    }

    fn side() -> impl Strategy<Value = Side> {
        prop_oneof![Just(Side::Ours), Just(Side::Theirs)]
    }

    fn event() -> impl Strategy<Value = TransferEvent> {
        let (code, reason) = (Code::Other, String::new);
        prop_oneof![
            Just(TransferEvent::Offer),
            Just(TransferEvent::Accept),
            Just(TransferEvent::Complete),
            Just(TransferEvent::Refuse {
                code,
                reason: reason()
            }),
            side().prop_map(pause),
            side().prop_map(|by| TransferEvent::Resume { by }),
            Just(TransferEvent::Disconnect),
            side().prop_map(move |by| TransferEvent::Cancel {
                by,
                code,
                reason: reason()
            }),
            Just(TransferEvent::Fail {
                code,
                reason: reason()
            }),
        ]
    }

    proptest! {
        #[test]
        fn nothing_leaves_a_final_state_and_chunks_flow_only_after_an_accept(
            events in proptest::collection::vec(event(), 0..30)
        ) {
            let mut state = TransferState::Pending;
            for event in events {
                let before = state.clone();
                match state.clone().on(event.clone()) {
                    Ok(after) => {
                        prop_assert!(!before.is_final());
                        if after == TransferState::Active {
                            prop_assert_eq!(&event, &TransferEvent::Accept);
                            prop_assert_eq!(&before, &TransferState::Offered);
                        }
                        if after == TransferState::Complete {
                            prop_assert!(matches!(before, TransferState::Offered | TransferState::Active));
                        }
                        state = after;
                    }
                    Err(refused) => prop_assert_eq!(refused.state, before.word()),
                }
            }
        }
    }

    #[test]
    fn a_transfer_that_is_interrupted_starts_again_with_an_offer() {
        use TransferEvent::*;
        let state = run(&[Offer, Accept, Disconnect, Offer, Accept, Complete]);
        assert_eq!(state, Ok(TransferState::Complete));
        assert!(run(&[Offer, Accept, Disconnect, Accept]).is_err());
    }

    #[test]
    fn a_pause_of_ours_is_lifted_by_us_alone_and_outlives_the_link() {
        use TransferEvent::*;
        let paused = run(&[Offer, Accept, pause(Side::Ours), Disconnect]).unwrap();
        assert!(matches!(
            paused,
            TransferState::Paused { by: Side::Ours, .. }
        ));
        assert!(paused.clone().on(Offer).is_err());
        assert!(paused.clone().on(Resume { by: Side::Theirs }).is_err());
        assert_eq!(paused.clone().on(pause(Side::Theirs)), Ok(paused.clone()));
        assert_eq!(
            paused.on(Resume { by: Side::Ours }),
            Ok(TransferState::Offered)
        );
    }

    #[test]
    fn a_pause_of_theirs_ends_with_their_next_offer() {
        use TransferEvent::*;
        assert_eq!(
            run(&[Offer, pause(Side::Theirs), Offer]),
            Ok(TransferState::Offered)
        );
        let ours = run(&[Offer, pause(Side::Theirs), pause(Side::Ours)]).unwrap();
        assert!(ours.on(Resume { by: Side::Theirs }).is_err());
    }

    #[test]
    fn reasons_of_peers_are_cut_and_cleaned() {
        let state = TransferState::Pending
            .on(TransferEvent::Fail {
                code: Code::Other,
                reason: format!("\u{1b}[2J{}", "x".repeat(70_000)),
            })
            .unwrap();
        let TransferState::Failed { reason, .. } = state else {
            panic!()
        };
        assert!(reason.starts_with("[2Jx"));
        assert_eq!(reason.chars().count(), MAX_REASON);
    }

    #[test]
    fn states_are_stored_under_their_word() {
        let paused = TransferState::Pending.on(pause(Side::Theirs)).unwrap();
        let json = serde_json::to_value(&paused).unwrap();
        assert_eq!(json["is"], paused.word());
        assert_eq!(json["by"], "theirs");
        assert_eq!(
            serde_json::from_value::<TransferState>(json).unwrap(),
            paused
        );
    }
}
