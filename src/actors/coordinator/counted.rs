//! What the metrics are fed with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::super::api::Event;
use super::super::health::Alive;
use super::super::metrics::Metrics;
use super::super::store::Job;
use super::Coordinator;
use crate::protocol::transfer::{Direction, TransferState};

/// How often what there is is counted.
const COUNT: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Counts what has happened.
    pub(super) fn count(&self, event: &Event) {
        match event {
            Event::Transfer(info) if info.state.is_final() => {
                let transfer = self.transfers.get(&info.transfer);
                let took = transfer.and_then(|transfer| transfer.took());
                let word = match info.state {
                    TransferState::Complete => "complete",
                    TransferState::Cancelled { .. } => "cancelled",
                    _ => "failed",
                };
                self.metrics.transfer_ended(info.direction, word, took);
            }
            Event::Unauthorized { .. } => drop(self.metrics.refused.inc()),
            Event::Summary { .. } => drop(self.metrics.broadcasts_ended.inc()),
            _ => {}
        }
    }

    /// Counts what there is, now and then.
    pub(super) fn count_what_there_is(&mut self) {
        if self.counted.elapsed() < COUNT {
            return;
        }
        self.counted = Instant::now();
        let metrics = &self.metrics;
        let mut states: HashMap<(Direction, &'static str), i64> = HashMap::new();
        let mut asked = 0;
        for transfer in self.transfers.values_mut() {
            let record = &transfer.record;
            *states
                .entry((record.direction, record.state.word()))
                .or_default() += 1;
            asked += i64::from(record.is_asked());
            let moved = transfer.progress.moved();
            metrics.moved(record.direction, moved.saturating_sub(transfer.counted));
            transfer.counted = moved;
        }
        for direction in [Direction::Outgoing, Direction::Incoming] {
            for state in Metrics::states() {
                let there = states.get(&(direction, state)).copied().unwrap_or(0);
                metrics.transfers(direction, state).set(there);
            }
        }
        metrics.questions.set(asked);
        metrics.broadcasts.set(count(self.broadcasts.len()));
        metrics.devices_seen.set(count(self.table.iter().count()));
        let linked = self.peers.values().filter(|slot| slot.session.is_some());
        metrics.links.set(count(linked.count()));
        metrics
            .devices_authorized
            .set(count(self.all_let_in().len()));
    }

    /// Writes what the disk did not take before, and counts what still waits.
    pub(super) fn catch_up_with_the_audit_log(&self) {
        let metrics = Arc::clone(&self.metrics);
        self.store.do_send(Job::new(move |store| {
            let waiting = store.catch_up().try_into().unwrap_or(i64::MAX);
            metrics.audit_waiting.set(waiting);
        }));
    }
}

fn count(number: usize) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

impl Handler<Alive> for Coordinator {
    type Result = ();

    fn handle(&mut self, _: Alive, _: &mut Context<Self>) {}
}
