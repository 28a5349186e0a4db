//! Programs that are run after a verified arrival.
//!
//! That one is due is on record with the arrival, before the sender is told; that it has ended is
//! recorded when it has. So after a crash it is run again: at least once for each bundle.

use std::collections::HashSet;

use actix::prelude::*;
use tracing::{info, warn};

use crate::protocol::id::TransferId;
use crate::protocol::names::{printable, safe_component};
use crate::store::{After, TransferRecord};

use super::super::api::Event;
use super::super::program::{Ended, Program};
use super::super::store::keep;
use super::Coordinator;
use super::receiving::About;

/// Programs that run now, by the transfer whose arrival they follow.
#[derive(Default)]
pub(super) struct Programs(HashSet<TransferId>);

impl Coordinator {
    /// Runs what is due, the oldest first, as many at once as the settings say.
    pub(super) fn run_what_is_due(&mut self, ctx: &mut Context<Self>) {
        let free = self.settings.receive.run_at_once;
        let free = free.saturating_sub(self.programs.0.len());
        if free == 0 || self.context.is_none() {
            return;
        }
        let mut due: Vec<_> = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| record.after == Some(After::Due))
            .filter(|record| !self.programs.0.contains(&record.id))
            .map(|record| (record.updated, record.id))
            .collect();
        due.sort();
        for (_, id) in due.into_iter().take(free) {
            self.run_program(id, ctx);
        }
    }

    fn run_program(&mut self, id: TransferId, ctx: &mut Context<Self>) {
        let Some(program) = self.program_of(&self.transfers[&id].record) else {
            // The settings have changed since: nothing is run any more.
            return self.set_after(id, None);
        };
        self.programs.0.insert(id);
        let running = self.data_plane.spawn_blocking(move || program.run());
        ctx.spawn(
            running
                .into_actor(self)
                .map(move |ended, coordinator, ctx| {
                    coordinator.programs.0.remove(&id);
                    match ended {
                        Ok(ended) => coordinator.on_ran(id, ended),
                        // The process ends: it is run again after the next start.
                        Err(error) => warn!(transfer = %id, %error, "a program was left alone"),
                    }
                    coordinator.run_what_is_due(ctx);
                }),
        );
    }

    /// What is to be run for a bundle that has arrived, by the settings as they are now.
    fn program_of(&self, record: &TransferRecord) -> Option<Program> {
        let about = About::record(record);
        let terms = self.terms_for(&record.peer, &about);
        let path = record.destination.clone()?;
        let device = self.name_of(&record.peer);
        let name = path.file_name().unwrap_or_default().to_owned();
        let (program, arguments) = terms.run.split_first()?;
        let (device_name, broadcast) = (safe_component(&device), safe_component(about.broadcast()));
        let of_this = |argument: &String| {
            let filled = argument
                .replace("{device}", &device_name)
                .replace("{broadcast}", &broadcast);
            // Last: what a path has in braces is no place.
            super::super::program::with_path(&filled, &path)
        };
        let environment = vec![
            ("HANDOUT_PATH", path.clone().into_os_string()),
            ("HANDOUT_NAME", name),
            ("HANDOUT_SIZE", record.size.to_string().into()),
            ("HANDOUT_TRANSFER", record.id.to_string().into()),
            ("HANDOUT_DEVICE", record.peer.as_str().into()),
            ("HANDOUT_DEVICE_NAME", printable(&device).into()),
            ("HANDOUT_BROADCAST", printable(about.broadcast()).into()),
            (
                "HANDOUT_ROOT",
                record
                    .root
                    .map(|root| root.to_string())
                    .unwrap_or_default()
                    .into(),
            ),
        ];
        Some(Program {
            program: program.clone(),
            arguments: arguments.iter().map(of_this).collect(),
            environment,
            folder: path.parent().map(ToOwned::to_owned),
            timeout: terms.run_timeout,
            setting: "receive.run_timeout",
            confined: None,
        })
    }

    fn on_ran(&mut self, id: TransferId, ended: Ended) {
        let Ended {
            program,
            code,
            how,
            took,
            output,
        } = ended;
        let ran = After::Ran { code };
        self.set_after(id, Some(ran));
        let Some(record) = self.transfers.get(&id).map(|transfer| &transfer.record) else {
            return;
        };
        let program = printable(&program);
        match code {
            Some(0) => info!(transfer = %id, %program, %how, %output, "run after an arrival"),
            _ => {
                warn!(transfer = %id, %program, %how, %output, "a program that is run after an arrival failed")
            }
        }
        let event = Event::Ran {
            transfer: id,
            device_id: record.peer.clone(),
            path: record.destination.clone().unwrap_or_default(),
            program,
            code,
            how,
            seconds: took.as_secs_f64(),
            output,
        };
        self.emit(&event);
    }

    fn set_after(&mut self, id: TransferId, after: Option<After>) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        transfer.record.after = after;
        let record = transfer.record.clone();
        keep(&self.store, "what was run", move |store| {
            store.put_transfer(record)?;
            store.flush()
        });
    }
}
