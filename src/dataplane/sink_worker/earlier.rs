//! What earlier bundles have to do with the one that comes: chunks that are taken from them, the
//! version whose place it takes, and those that make room.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::content::{
    Abandoned, Reuse, SinkError, Step, check_version, earlier_versions, make_room, takes_place,
};
use crate::protocol::manifest::PAGE_CHUNKS;
use crate::protocol::names::printable;

use super::{SinkReport, Worker};

/// How long earlier bundles are looked through at most: the origin waits meanwhile, and what is
/// not found by then is sent.
const REUSE: Duration = Duration::from_secs(300);

/// How long it is waited for the last bytes of a bundle that was given up just before.
const CLOSING: Duration = Duration::from_secs(5);
const CLOSING_POLL: Duration = Duration::from_millis(20);

/// Checks the room on a disk, after what was given up, and then old versions, have made some where
/// it does not suffice.
pub(super) fn with_room(
    dest: &Path,
    abandoned: &[Abandoned],
    check: impl Fn() -> Result<(), SinkError>,
) -> Result<(), SinkError> {
    let checked = match check() {
        Err(SinkError::DiskFull { .. }) if !abandoned.is_empty() => {
            abandoned.iter().for_each(remove);
            check()
        }
        other => other,
    };
    match checked {
        Err(SinkError::DiskFull { needed, .. }) if make_room(dest, needed) => check(),
        other => other,
    }
}

fn remove(abandoned: &Abandoned) {
    if let Err(error) = abandoned.discard() {
        tracing::debug!(%error, "what has come of an earlier version stays for now");
    }
}

impl Worker {
    /// Refuses a version that is not to come in, and finds out where the earlier ones lie: where
    /// there are any, and the sender can, it is to send the pages first.
    pub(super) fn look_for_earlier(&mut self) -> Result<(), SinkError> {
        let (start, dest) = (&self.task.start, &self.task.terms.destination);
        if let Some(series) = &start.series {
            check_version(dest, &start.origin, series)?;
            // The destination knows them also when the store has forgotten.
            let mut own = earlier_versions(dest, &start.origin, &series.name);
            let more = std::mem::take(&mut self.task.before.arrived).into_iter();
            let more: Vec<_> = more
                .filter(|one| own.iter().all(|own| own.path != one.path))
                .collect();
            own.extend(more);
            self.task.before.arrived = own;
        }
        let (pages, before) = (start.chunks.div_ceil(PAGE_CHUNKS), &mut self.task.before);
        before.abandoned.retain(Abandoned::is_there);
        let any = !before.arrived.is_empty() || !before.abandoned.is_empty();
        let asks = start.pages_first && pages > 0 && any;
        self.pages_first = asks.then_some(pages);
        Ok(())
    }

    /// The origin has sent one more page. After the last of those that were asked for, what lies
    /// in earlier bundles is taken from there, and the origin is told what is still missing.
    pub(super) fn count_page(&mut self, is_over: &dyn Fn() -> bool) -> Result<(), SinkError> {
        let Some(left) = &mut self.pages_first else {
            return Ok(());
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return Ok(());
        }
        self.pages_first = None;
        self.take_from_earlier(is_over)?;
        self.share();
        let have = self.sink()?.have().clone();
        self.report(SinkReport::Missing(have));
        Ok(())
    }

    fn take_from_earlier(&mut self, is_over: &dyn Fn() -> bool) -> Result<(), SinkError> {
        let begun = Instant::now();
        let mut took = 0;
        let before = std::mem::take(&mut self.task.before);
        for earlier in before.arrived {
            let sink = self.sink.as_ref().ok_or(SinkError::NoHead)?;
            if let Some(reuse) = Reuse::begin(sink, &earlier, &self.task.heads) {
                took += self.take_from(reuse, begun, is_over)?;
            }
        }
        for abandoned in before.abandoned {
            let closing = Instant::now();
            let reuse = loop {
                let sink = self.sink.as_ref().ok_or(SinkError::NoHead)?;
                match Reuse::begin_abandoned(sink, &abandoned) {
                    Err(error)
                        if error.kind() == io::ErrorKind::ResourceBusy
                            && closing.elapsed() < CLOSING
                            && !is_over() =>
                    {
                        std::thread::park_timeout(CLOSING_POLL);
                    }
                    begun => break begun,
                }
            };
            let Ok(reuse) = reuse else { continue };
            took += self.take_from(reuse, begun, is_over)?;
            // What was taken must not go before it is on the disk a second time.
            if !is_over() {
                self.make_durable()?;
                remove(&abandoned);
            }
        }
        if took > 0 {
            let name = printable(&self.task.start.name);
            tracing::info!(name, bytes = took, "taken from what was here before");
        }
        Ok(())
    }

    /// The bytes that one earlier bundle has of what is missing.
    fn take_from(
        &mut self,
        mut reuse: Reuse,
        begun: Instant,
        is_over: &dyn Fn() -> bool,
    ) -> Result<u64, SinkError> {
        let mut took = 0;
        while begun.elapsed() < REUSE && !is_over() {
            match reuse.step(self.sink()?)? {
                Step::Over => break,
                Step::Took(bytes) => {
                    self.task.progress.credit(bytes);
                    took += bytes;
                }
            }
            self.make_durable_when_due()?;
        }
        Ok(took)
    }

    /// Whether it is a version that will take the place of the one before.
    pub(super) fn takes_place(&self) -> bool {
        let (start, dest) = (&self.task.start, &self.task.terms.destination);
        let series = start.series.as_ref();
        series.is_some_and(|series| takes_place(dest, &start.origin, series, &start.name))
    }
}
