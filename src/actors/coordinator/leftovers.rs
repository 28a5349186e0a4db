//! What incoming transfers leave in a destination: partial bundles that wait for room, and those
//! that nobody wants any more.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{debug, warn};

use crate::content;
use crate::dataplane::SessionCommand;
use crate::protocol::id::{BundleId, DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::transfer::{Direction, Side, TransferState};
use crate::store::TransferRecord;

use super::super::peer::{Command, unix_now};
use super::Coordinator;
use super::receiving::About;

/// How often, and how many times, it is tried to remove a partial bundle.
const DISCARD_POLL: Duration = Duration::from_millis(500);
const DISCARD_TRIES: u32 = 600;

impl Coordinator {
    /// Transfers that rest because the disk was full go on by themselves when there is room.
    pub(super) fn retry_full_disks(&mut self) {
        let retry: Duration = self.settings.transfer.disk_retry;
        let now = unix_now();
        let due: Vec<TransferRecord> = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| {
                let full = matches!(
                    record.state,
                    TransferState::Paused {
                        by: Side::Ours,
                        code: Code::DiskFull,
                        ..
                    }
                );
                full && record.direction == Direction::Incoming
                    && now.saturating_sub(record.updated) >= retry.as_secs()
            })
            .cloned()
            .collect();
        for record in due {
            let missing = record
                .size
                .saturating_sub(self.transfers[&record.id].progress.done());
            let reserve = self
                .terms_for(&record.peer, &About::record(&record))
                .reserve;
            if content::check_space(&self.place_of(&record), missing, reserve).is_ok() {
                self.command(&record.peer, Command(SessionCommand::Resume(record.id)));
            }
            if let Some(transfer) = self.transfers.get_mut(&record.id) {
                transfer.record.updated = now;
            }
        }
    }

    /// The destination that an incoming transfer was begun in. The policy may name another now.
    fn place_of(&self, record: &TransferRecord) -> PathBuf {
        let recorded = record.destination.as_deref();
        let recorded = match record.state {
            TransferState::Complete => recorded.and_then(Path::parent),
            _ => recorded,
        };
        recorded.map_or_else(
            || {
                self.terms_for(&record.peer, &About::record(record))
                    .destination
            },
            Path::to_owned,
        )
    }

    /// What an incoming transfer that is over has left on the disk goes away.
    pub(super) fn discard_partial(&self, id: TransferId) {
        if self.is_incoming(id) {
            self.discard_in(id, self.place_of(&self.transfers[&id].record));
        }
    }

    /// The same, where it is known to have been put.
    pub(super) fn discard_in(&self, id: TransferId, destination: PathBuf) {
        let Some(record) = self.transfers.get(&id).map(|transfer| &transfer.record) else {
            return;
        };
        let (origin, bundle) = (record.origin.clone(), record.bundle);
        self.data_plane.spawn(async move {
            let mut every = tokio::time::interval(DISCARD_POLL);
            for _ in 0..DISCARD_TRIES {
                every.tick().await;
                let (destination, origin) = (destination.clone(), origin.clone());
                let removing = move || content::discard_partial(&destination, &origin, &bundle);
                match tokio::task::spawn_blocking(removing).await {
                    // Its worker is still making the last bytes durable.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    Ok(Err(error)) => return warn!(%error, "a partial bundle could not be removed"),
                    _ => return,
                }
            }
            warn!("a partial bundle that is no longer wanted is still in use");
        });
    }

    /// Removes what an earlier process did not come to remove any more.
    pub(super) fn discard_leftovers(&self) {
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let incoming = records.filter(|record| record.direction == Direction::Incoming);
        let (over, unfinished): (Vec<_>, Vec<_>) =
            incoming.partition(|record| record.state.is_final());
        let wanted: HashSet<(&DeviceId, BundleId)> = unfinished
            .iter()
            .map(|record| (&record.origin, record.bundle))
            .collect();
        let left: HashSet<(PathBuf, DeviceId, BundleId)> = over
            .iter()
            .filter(|record| is_unwanted(&record.state))
            .filter(|record| !wanted.contains(&(&record.origin, record.bundle)))
            .map(|record| (self.place_of(record), record.origin.clone(), record.bundle))
            .collect();
        self.data_plane.spawn_blocking(move || {
            for (destination, origin, bundle) in left {
                if let Err(error) = content::discard_partial(&destination, &origin, &bundle) {
                    debug!(%error, "a partial bundle of an earlier process stays");
                }
            }
        });
    }
}

/// Whether what has come of a bundle is of no use to anybody: it is in its place, or somebody or
/// the policy decided against it.
fn is_unwanted(state: &TransferState) -> bool {
    match state {
        TransferState::Complete | TransferState::Cancelled { .. } => true,
        TransferState::Failed { code, .. } => is_policy(*code),
        _ => false,
    }
}

/// True for reasons that lie with the receive policy and not with the transfer.
pub(super) fn is_policy(code: Code) -> bool {
    matches!(code, Code::Declined | Code::Quota)
}
