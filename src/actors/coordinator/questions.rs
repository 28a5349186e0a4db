//! Offers that wait for a person here.

use tokio::sync::mpsc;
use tracing::info;

use crate::protocol::id::TransferId;
use crate::protocol::message::Code;
use crate::protocol::transfer::{Side, TransferEvent};
use crate::store::Question;

use super::super::api::Event;
use super::super::peer::unix_now;
use super::{Coordinator, offer_event};

impl Coordinator {
    /// Asks about an offer that is on record, once, and lets it rest meanwhile. Returns what the
    /// sender is told.
    pub(super) fn ask_person(&mut self, id: TransferId, files: u32) -> String {
        let reason = format!("waiting for a person at {}", self.settings.device.name);
        let until = unix_now().saturating_add(self.settings.receive.ask_for.as_secs());
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return reason;
        };
        let again = transfer.record.is_asked();
        if !again {
            transfer.record.question = Some(Question::Open { until });
        }
        let paused = TransferEvent::Pause {
            by: Side::Ours,
            code: Code::Asking,
            reason: reason.clone(),
        };
        self.advance(id, paused);
        if !again && let Some(asked) = self.question_of(id, Some(files)) {
            info!(transfer = %id, "a person is asked");
            self.emit(&asked);
        }
        reason
    }

    fn question_of(&self, id: TransferId, files: Option<u32>) -> Option<Event> {
        let record = &self.transfers.get(&id)?.record;
        let Some(Question::Open { until }) = record.question.filter(|_| record.is_asked()) else {
            return None;
        };
        Some(Event::Asked {
            transfer: id,
            device_id: record.peer.clone(),
            device_name: self.name_of(&record.peer),
            name: record.name.clone(),
            size: record.size,
            files,
            until,
        })
    }

    /// Tells somebody who begins to watch what is being asked.
    pub(super) fn repeat_questions(&self, listener: &mpsc::Sender<Event>) {
        for id in self.transfers.keys() {
            if let Some(asked) = self.question_of(*id, None) {
                offer_event(listener, &asked);
            }
        }
    }

    /// A person takes an offer: that outlives restarts, and the sender is asked to go on.
    pub(super) fn take_offer(&mut self, id: TransferId) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.record.question = Some(Question::Accepted);
            self.resume(id);
        }
    }

    /// A person does not.
    pub(super) fn decline_offer(&mut self, id: TransferId) {
        let reason = format!("refused by a person at {}", self.settings.device.name);
        self.cancel(id, Code::Declined, &reason);
    }

    /// Questions that nobody has answered in time count as refused.
    pub(super) fn expire_questions(&mut self) {
        let now = unix_now();
        let expired = |until: &Question| matches!(until, Question::Open { until } if *until <= now);
        let due: Vec<TransferId> = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| record.is_asked() && record.question.as_ref().is_some_and(expired))
            .map(|record| record.id)
            .collect();
        let reason = format!("nobody at {} answered in time", self.settings.device.name);
        for id in due {
            self.cancel(id, Code::Declined, &reason);
        }
    }
}
