//! Giving files back to the device that handed something out.

use std::path::PathBuf;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc;

use crate::protocol::allowance::Share;
use crate::protocol::id::DeviceId;
use crate::protocol::transfer::{Direction, TransferState};

use super::super::api::{Event, exit};
use super::sending::{Sending, fail};
use super::{Coordinator, offer_event};

impl Coordinator {
    /// Sends files to a device as hand-ins. Whether it takes them is its own decision; it needs no
    /// role here for that.
    pub(super) fn on_hand_in(
        &mut self,
        paths: Vec<PathBuf>,
        to: Option<String>,
        wait: Option<Duration>,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let device = match &to {
            Some(word) => self.find_any_device(word).map_err(|e| (e, exit::USAGE)),
            None => self.last_sender().ok_or_else(|| {
                let reason = "nobody who is authorized has sent anything here yet: name the \
                              device with --to (`handout peers` lists them)";
                (reason.to_owned(), exit::USAGE)
            }),
        };
        let device = device.and_then(|device| match self.is_let_in(&device) {
            true => Ok(device),
            false => {
                let reason = format!("{device} is not authorized: `handout pair` with it first");
                Err((reason, exit::UNAUTHORIZED))
            }
        });
        let device = match device {
            Ok(device) => device,
            Err((reason, code)) => return fail(&reply, &reason, code),
        };
        if to.is_none() {
            let name = self.name_of(&device);
            let text = format!(
                "to {name} ({}), who last sent something here",
                device.short()
            );
            offer_event(&reply, &Event::Note { text });
        }
        let sending = Sending {
            paths,
            to: vec![device.as_str().to_owned()],
            devices: vec![device],
            wait,
            share: Share::default(),
            series: None,
            hand_in: true,
            reply,
        };
        self.send(sending, ctx);
    }

    /// The device whose bundle was the last to arrive here, of those that are let in.
    fn last_sender(&self) -> Option<DeviceId> {
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let arrived = records.filter(|record| {
            let incoming = record.direction == Direction::Incoming && !record.hand_in;
            incoming && record.state == TransferState::Complete
        });
        let senders = arrived.map(|record| (record.updated, self.trust.current(&record.peer)));
        let senders = senders.filter(|(_, device)| self.is_let_in(device));
        senders.max().map(|(_, device)| device.clone())
    }
}
