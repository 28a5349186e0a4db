//! Whether the coordinator answers, and in numbers what it is doing.

use actix::prelude::*;

use super::Coordinator;
use crate::protocol::transfer::TransferState;

/// Asks the coordinator for its [`Pulse`].
#[derive(Message)]
#[rtype(result = "Pulse")]
pub struct Alive;

/// What is going on, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, MessageResponse)]
pub struct Pulse {
    /// Devices with a link.
    pub connected: usize,
    /// Transfers whose chunks move.
    pub active: usize,
    /// Transfers that are neither active nor over.
    pub waiting: usize,
}

impl std::fmt::Display for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            connected,
            active,
            waiting,
        } = self;
        write!(
            f,
            "{connected} connected; transfers: {active} active, {waiting} waiting"
        )
    }
}

impl Handler<Alive> for Coordinator {
    type Result = Pulse;

    fn handle(&mut self, _: Alive, _: &mut Context<Self>) -> Pulse {
        let connected = self.peers.values().filter(|slot| slot.session.is_some());
        let mut pulse = Pulse {
            connected: connected.count(),
            ..Pulse::default()
        };
        for transfer in self.transfers.values() {
            match &transfer.record.state {
                TransferState::Active => pulse.active += 1,
                state if state.is_final() => {}
                _ => pulse.waiting += 1,
            }
        }
        pulse
    }
}
