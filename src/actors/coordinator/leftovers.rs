//! What incoming transfers leave in a destination: partial bundles that wait for room, and those
//! that nobody wants any more.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::content;
use crate::dataplane::SessionCommand;
use crate::protocol::id::{BundleId, DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::transfer::{Direction, Side, TransferEvent, TransferState};
use crate::store::TransferRecord;

use super::super::peer::{Command, unix_now};
use super::receiving::About;
use super::{Coordinator, Transfer};

/// How often, and how many times, it is tried to remove a partial bundle.
const DISCARD_POLL: Duration = Duration::from_millis(500);
const DISCARD_TRIES: u32 = 600;
/// How long what a sender gave up of a series stays: the version that follows takes from it what is
/// the same.
const LEFT_FOR_NEXT: Duration = Duration::from_secs(60);

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
                    && now.abs_diff(record.updated) >= retry.as_secs()
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
    pub(super) fn place_of(&self, record: &TransferRecord) -> PathBuf {
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

    /// The same, after its sender gave it up. What a newer version follows is left for that.
    pub(super) fn leave_to_next(&mut self, id: TransferId) {
        match self.transfers.get_mut(&id) {
            Some(transfer) if transfer.record.series.is_some() => {
                transfer.left = Some(Instant::now());
            }
            _ => self.discard_partial(id),
        }
    }

    /// What was left to newer versions that did not come.
    pub(super) fn discard_what_was_left(&mut self) {
        let left = |transfer: &Transfer| {
            let left = transfer.left?;
            (left.elapsed() >= LEFT_FOR_NEXT).then_some(transfer.record.id)
        };
        let due: Vec<TransferId> = self.transfers.values().filter_map(left).collect();
        for id in due {
            self.discard_unless_wanted(id);
        }
    }

    /// What has come of a transfer goes away, unless another transfer of the same goes on with it.
    pub(super) fn discard_unless_wanted(&mut self, id: TransferId) {
        let Some(over) = self.transfers.get_mut(&id) else {
            return;
        };
        over.left = None;
        let (origin, bundle) = (over.record.origin.clone(), over.record.bundle);
        let wanted = self.transfers.values().any(|other| {
            let record = &other.record;
            (&record.origin, record.bundle) == (&origin, bundle)
                && record.direction == Direction::Incoming
                && !record.state.is_final()
        });
        if !wanted {
            self.discard_partial(id);
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

    /// What its sender has stopped sending does not lie here for ever: the sender may have given up
    /// while we were away, and never say so.
    pub(super) fn give_up_on_senders(&mut self) {
        let settings = &self.settings.transfer;
        let records: Vec<_> = self.transfers.values().map(|of| &of.record).collect();
        // With such a clock nothing is old: it would all go, and the clock be put right a little later.
        let long = match self.around.odd_clock {
            true => Duration::MAX,
            false => settings.unfinished_for,
        };
        let keep = (settings.unfinished, long);
        for (id, reason) in given_up(&records, unix_now(), keep) {
            let code = Code::NotConnected;
            let reason = reason.to_owned();
            if self.advance(id, TransferEvent::Fail { code, reason }) {
                self.discard_unless_wanted(id);
            }
        }
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

/// The incoming transfers that wait for their senders for too long, or are too many, or of an
/// earlier version of what has come since; and why they are over. `keep` says how many of each
/// sender wait, and for how long.
fn given_up(
    records: &[&TransferRecord],
    now: u64,
    (most, long): (usize, Duration),
) -> Vec<(TransferId, &'static str)> {
    let incoming = || {
        let records = records.iter().copied();
        records.filter(|record| record.direction == Direction::Incoming)
    };
    let mut newest = HashMap::new();
    // Until that has come, it takes from the earlier one what is the same.
    for record in incoming().filter(|record| record.state.is_final()) {
        if let Some(series) = &record.series {
            let version = newest.entry((&record.peer, &series.name)).or_insert(0);
            *version = series.version.max(*version);
        }
    }
    let mut waiting: Vec<_> = incoming()
        .filter(|record| record.state == TransferState::Pending && !record.is_asked())
        .collect();
    waiting.sort_by_key(|record| (Reverse(record.updated), record.id));
    let mut kept: HashMap<&DeviceId, usize> = HashMap::new();
    let mut over = Vec::new();
    for record in waiting {
        let of_sender = kept.entry(&record.peer).or_default();
        let series = record.series.as_ref();
        let newest = series.and_then(|s| Some((newest.get(&(&record.peer, &s.name))?, s.version)));
        let is_old = newest.is_some_and(|(newest, version)| *newest > version);
        if is_old {
            over.push((record.id, "a newer version has taken its place"));
        } else if now.saturating_sub(record.updated) > long.as_secs() {
            over.push((record.id, "its sender has not gone on with it for too long"));
        } else if *of_sender >= most {
            over.push((
                record.id,
                "its sender has left too many others unfinished since",
            ));
        } else {
            *of_sender += 1;
        }
    }
    over
}

/// Whether what has come of a bundle is of no use to anybody: it is in its place, or somebody or
/// the policy decided against it.
fn is_unwanted(state: &TransferState) -> bool {
    match state {
        TransferState::Complete | TransferState::Cancelled { .. } => true,
        TransferState::Failed { code, .. } => is_policy(*code) || *code == Code::NotConnected,
        _ => false,
    }
}

/// True for reasons that lie with the receive policy and not with the transfer.
pub(super) fn is_policy(code: Code) -> bool {
    matches!(code, Code::Declined | Code::Quota)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::series::{Series, SeriesName};
    use crate::store::{Account, Question};

    const LONG: Duration = Duration::from_secs(1000);

    fn record(n: u8, updated: u64) -> TransferRecord {
        let peer = DeviceId::of_key(&[1; 32]);
        TransferRecord {
            id: TransferId([n; 16]),
            direction: Direction::Incoming,
            broadcast: None,
            origin: peer.clone(),
            peer,
            bundle: BundleId([n; 32]),
            name: "lesson".to_owned(),
            size: 1000,
            state: TransferState::Pending,
            updated,
            destination: None,
            root: None,
            stat_digest: None,
            bytes_done: 500,
            question: None,
            series: None,
            account: Account::default(),
            hand_in: false,
            after: None,
        }
    }

    fn numbers(records: &[TransferRecord], most: usize) -> Vec<u8> {
        let records: Vec<_> = records.iter().collect();
        let over = given_up(&records, 2000, (most, LONG)).into_iter();
        let mut over: Vec<u8> = over.map(|(id, _)| id.0[0]).collect();
        over.sort_unstable();
        over
    }

    #[test]
    fn what_senders_have_left_goes_when_it_is_old_or_too_much_and_nothing_else() {
        let mut records: Vec<_> = (1..6).map(|n| record(n, 1500 + u64::from(n))).collect();
        assert_eq!(numbers(&records, 5), [0; 0]);
        assert_eq!(numbers(&records, 3), [1, 2], "the oldest");
        records[0].updated = 999;
        assert_eq!(numbers(&records, 9), [1]);
        // What runs, is asked about, goes out, or is another sender's, has nothing to do with it.
        records[0].state = TransferState::Active;
        records[1].question = Some(Question::Open { until: 9999 });
        records[2].direction = Direction::Outgoing;
        records[3].peer = DeviceId::of_key(&[2; 32]);
        assert_eq!(numbers(&records, 1), [0; 0]);
        assert_eq!(numbers(&records, 0), [4, 5]);
    }

    #[test]
    fn an_earlier_version_does_not_wait_for_a_sender_who_has_a_newer_one() {
        let mut records: Vec<_> = (1..4).map(|n| record(n, 1999)).collect();
        let name = SeriesName::new("lessons").unwrap();
        for (record, version) in records.iter_mut().zip([4, 5, 6]) {
            let name = name.clone();
            record.series = Some(Series { name, version });
        }
        records[1].state = TransferState::Complete;
        assert_eq!(numbers(&records, 9), [1]);
        records[2].peer = DeviceId::of_key(&[2; 32]);
        records[1].peer = records[2].peer.clone();
        assert_eq!(numbers(&records, 9), [0; 0]);
    }
}
