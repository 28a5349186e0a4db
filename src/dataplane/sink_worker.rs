//! The disk side of an incoming transfer, on a thread of its own: hashing and writing never
//! hold up the runtime, and a stalled disk holds up only its own link.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::content::{
    Before, HeadShelf, PageOutcome, RootOutcome, SignedPage, Sink, SinkError, check_name,
    check_space, find_partial, make_room,
};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::frame::Handle;
use crate::protocol::id::{DeviceId, Root};
use crate::protocol::identity::Signature;
use crate::protocol::manifest::{Head, HeadError, Layout, bundle_id};
use crate::protocol::message::{Code, StartTransfer};
use crate::protocol::names::BundlePath;
use crate::protocol::policy::Terms;

use super::help::Help;
use super::progress::Progress;
use super::reception::Receptions;
use super::session::Checkpointing;

mod earlier;
use earlier::with_room;

/// Bytes that may wait for the disk, and the fewest chunks. With the one being assembled this
/// bounds a receiver's memory per transfer; it evens out what a disk takes at a time.
const QUEUE: (u32, u32) = (8 << 20, 2);
/// Chunks with false hashes after which the sender is given up.
const MAX_FALSE: u32 = 3;

/// How long a worker may take to leave a bundle to its successor.
const HANDOVER: Duration = Duration::from_secs(300);

/// Work for the disk, in order.
pub(super) enum Work {
    /// The bundle's head has come in whole.
    Head(Vec<u8>),
    /// A signed page of hashes.
    Page {
        number: u32,
        signature: Signature,
        bytes: Bytes,
        from: From,
    },
    /// A whole chunk, in the pieces it came in.
    Chunk {
        index: u32,
        parts: Vec<Bytes>,
        from: From,
    },
    /// The sender has sent everything.
    End { root: Root, signature: Signature },
    /// A neighbour that has everything names the root.
    Root {
        root: Root,
        signature: Signature,
        from: DeviceId,
    },
}

/// Who has sent something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// The origin of the bundle, over its own link.
    Origin,
    /// Another receiver.
    Neighbour(DeviceId),
}

/// What the disk has to say.
#[derive(Debug)]
pub(super) struct SinkEvent {
    pub(super) handle: Handle,
    /// Of which of the runs that had this handle.
    pub(super) run: u64,
    pub(super) what: SinkReport,
}

#[derive(Debug)]
pub(super) enum SinkReport {
    /// Ready for chunks; this is what is there already.
    Ready {
        have: Option<ChunkSet>,
        /// The sender is to send all pages, and then to wait.
        pages_first: bool,
    },
    /// These chunks are durable.
    Durable(ChunkSet),
    /// These are there, also from neighbours: the origin need not send them.
    Elsewhere(ChunkSet),
    /// After the end, or after all pages: these are there, the others are missing.
    Missing(ChunkSet),
    /// All there, verified, renamed.
    Finished {
        root: Root,
        path: PathBuf,
        stat: [u8; 32],
    },
    /// It cannot go on. With `lie`, because of what no true origin sends.
    Failed {
        code: Code,
        reason: String,
        lie: bool,
    },
}

/// What a worker is started with.
pub(super) struct SinkTask {
    pub(super) handle: Handle,
    pub(super) run: u64,
    pub(super) start: StartTransfer,
    pub(super) terms: Box<Terms>,
    pub(super) checkpoint: Option<ChunkSet>,
    pub(super) heads: HeadShelf,
    pub(super) every: Checkpointing,
    pub(super) progress: Arc<Progress>,
    /// Where chunks of it may be found.
    pub(super) before: Before,
    /// Held until the thread ends.
    pub(super) _alive: Arc<()>,
}

/// Starts the thread. It ends when its queue is dropped (what is there is then made durable),
/// or when it cannot go on. Neighbours find their way to it through `receptions`.
pub(super) fn spawn(
    task: SinkTask,
    events: mpsc::Sender<SinkEvent>,
    receptions: &Receptions,
) -> mpsc::Sender<Work> {
    let waiting = (QUEUE.0 / task.start.chunk_size).max(QUEUE.1);
    let (queue, work) = mpsc::channel(waiting as usize);
    let reception = receptions.begin(&task.start, queue.downgrade());
    let receptions = receptions.clone();
    let name = format!("sink-{}", task.handle);
    let (handle, run) = (task.handle, task.run);
    let reports = events.clone();
    let spawned = std::thread::Builder::new().name(name).spawn(move || {
        let mut worker = Worker {
            task,
            events,
            sink: None,
            last: Instant::now(),
            falsehoods: 0,
            pages_first: None,
            help: Help::new(Arc::clone(&reception)),
        };
        // A panic must not leave the session waiting for a disk that nobody serves.
        let ran = catch_unwind(AssertUnwindSafe(|| worker.run(work)));
        let whole = matches!(ran, Ok(Ok(true)));
        receptions.ended(&reception, whole);
        let (code, reason, lie) = match ran {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                // Whatever is verified stays; a later session goes on from it.
                let _ = worker.make_durable();
                let terms = &worker.task.terms;
                if let SinkError::DiskFull { needed, .. } = &error {
                    // It goes on by itself once there is room.
                    make_room(&terms.destination, needed.saturating_add(terms.reserve));
                }
                (error.code(), error.to_string(), error.is_lie())
            }
            Err(_) => (
                Code::DiskError,
                "writing failed inside the program; see its log".to_owned(),
                false,
            ),
        };
        worker.report(SinkReport::Failed { code, reason, lie });
    });
    if let Err(error) = spawned {
        let reason = format!("no thread for writing: {error}");
        let what = SinkReport::Failed {
            code: Code::Busy,
            reason,
            lie: false,
        };
        let _ = reports.try_send(SinkEvent { handle, run, what });
    }
    queue
}

struct Worker {
    task: SinkTask,
    events: mpsc::Sender<SinkEvent>,
    sink: Option<Sink>,
    last: Instant,
    falsehoods: u32,
    /// Pages that are still to come before earlier bundles are looked through.
    pages_first: Option<u32>,
    help: Help,
}

impl Worker {
    /// True when the bundle is complete and in its place.
    fn run(&mut self, mut work: mpsc::Receiver<Work>) -> Result<bool, SinkError> {
        self.look_for_earlier()?;
        let (start, terms) = (&self.task.start, &self.task.terms);
        match find_partial(&terms.destination, &start.origin, &start.bundle) {
            Some(head) => {
                self.open(&head)?;
                let whole = self.sink.as_ref().is_some_and(|sink| sink.have().is_full());
                if whole && self.pages_first.take().is_some() {
                    self.share();
                }
            }
            None => {
                with_room(&terms.destination, &self.task.before.abandoned, || {
                    check_space(&terms.destination, start.size, terms.reserve)
                })?;
                let name = BundlePath::single(start.name.as_str());
                let name = name.map_err(|source| HeadError::Name {
                    path: start.name.clone(),
                    source,
                })?;
                if !self.takes_place() {
                    check_name(&terms.destination, &name, terms.collision)?;
                }
            }
        }
        let have = self.sink.as_ref().map(|sink| sink.have().clone());
        let pages_first = self.pages_first.is_some();
        self.report(SinkReport::Ready { have, pages_first });
        let mut buffer = Vec::new();
        while let Some(next) = work.blocking_recv() {
            if self.help.reception.is_over() {
                continue;
            }
            let whole = match next {
                Work::Head(head) => {
                    if self.sink.is_none() {
                        self.open(&head)?;
                    }
                    false
                }
                Work::Page {
                    number,
                    signature,
                    bytes,
                    from,
                } => {
                    self.page(number, &bytes, &signature, &from)?;
                    if from == From::Origin {
                        self.count_page(&|| work.is_closed())?;
                    }
                    false
                }
                Work::Chunk { index, parts, from } => {
                    self.chunk(index, parts, &from, &mut buffer)?
                }
                Work::End { root, signature } => self.end(root, signature)?,
                Work::Root {
                    root,
                    signature,
                    from,
                } => self.root(root, signature, &from)?,
            };
            if whole {
                return Ok(true);
            }
        }
        self.make_durable().map(|()| false)
    }

    /// Opens the bundle, verifies what an earlier session left of it, and checks the room on the
    /// disk for the rest.
    fn open(&mut self, head: &[u8]) -> Result<(), SinkError> {
        let (task, start) = (&self.task, &self.task.start);
        if bundle_id(head) != start.bundle {
            return Err(SinkError::KeyMismatch);
        }
        self.check_head(head)?;
        let dest = &task.terms.destination;
        let open = || Sink::open(dest, &start.origin, &start.key, start.id, head);
        // The worker of a link that was just lost may still be making its last bytes durable.
        let begun = Instant::now();
        let mut sink = loop {
            match open() {
                Err(SinkError::InUse { .. })
                    if begun.elapsed() < HANDOVER && !self.events.is_closed() =>
                {
                    std::thread::park_timeout(HANDOVER / 1500);
                }
                outcome => break outcome?,
            }
        };
        sink.recover(task.checkpoint.as_ref());
        with_room(dest, &task.before.abandoned, || {
            sink.check_space(task.terms.reserve)
        })?;
        if !self.takes_place() {
            sink.check_name(task.terms.collision)?;
        }
        task.progress
            .restart(sink.layout().total_size() - sink.missing_bytes());
        self.sink = Some(sink);
        if self.pages_first.is_none() {
            self.share();
        }
        Ok(())
    }

    /// Lets neighbours know of the bundle, and ask and be asked.
    fn share(&mut self) {
        if let Some(sink) = &mut self.sink {
            let pages = (0..sink.layout().page_count()).filter_map(|page| sink.signed_page(page));
            self.help.reception.opened(sink.have().clone(), pages);
            self.help.give_reader(sink);
        }
    }

    /// What the policy and the offer say about the head, before anything is written.
    fn check_head(&self, bytes: &[u8]) -> Result<(), SinkError> {
        let start = &self.task.start;
        let head = Head::decode(bytes)?;
        let layout = Layout::new(&head);
        let found = (layout.total_size(), layout.chunk_count(), head.chunk_size);
        let offered = (start.size, start.chunks, start.chunk_size);
        let same = head.files.len() == start.files as usize
            && head.kind == start.kind
            && head.name.as_str() == start.name;
        if !same || found != offered {
            return Err(SinkError::OtherThanOffered);
        }
        Ok(self.task.terms.check_head(&head)?)
    }

    fn sink(&mut self) -> Result<&mut Sink, SinkError> {
        self.sink.as_mut().ok_or(SinkError::NoHead)
    }

    fn page(
        &mut self,
        number: u32,
        bytes: &Bytes,
        signature: &Signature,
        from: &From,
    ) -> Result<(), SinkError> {
        if let From::Neighbour(peer) = from {
            let Some(sink) = &self.sink else {
                return Ok(());
            };
            if !self.help.takes_page(sink, number, bytes, signature, peer) {
                return Ok(());
            }
        }
        let lost = match self.sink()?.put_page(number, bytes, signature)? {
            PageOutcome::Known => return Ok(()),
            PageOutcome::New => Vec::new(),
            PageOutcome::Replaced { lost } => {
                tracing::info!(page = number, chunks = lost.len(), "changed at its origin");
                lost
            }
        };
        let page = SignedPage {
            number,
            bytes: bytes.clone(),
            signature: *signature,
        };
        self.help.reception.took_page(page, &lost);
        Ok(())
    }

    /// True when it was the last one that was missing, and the root is known.
    fn chunk(
        &mut self,
        index: u32,
        parts: Vec<Bytes>,
        from: &From,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, SinkError> {
        let bytes: &[u8] = if let [whole] = &parts[..] {
            whole
        } else {
            buffer.clear();
            parts.iter().for_each(|part| buffer.extend_from_slice(part));
            buffer
        };
        let Some(sink) = &mut self.sink else {
            return Err(SinkError::NoHead);
        };
        if self.help.ignores(from) {
            // Somebody else can be asked for it.
            self.help.reception.release([index]);
            return Ok(false);
        }
        let known = sink.have().contains(index);
        match (sink.write_chunk(index, bytes), from) {
            (Ok(()), _) if known => {}
            (Ok(()), from) => {
                self.task.progress.advance(bytes.len() as u64);
                self.help.wrote(index, bytes.len() as u64, from);
                self.help.give_reader(sink);
            }
            // It was true when it was sent: the origin has made the bundle anew since.
            (Err(SinkError::Corrupt { .. }), From::Neighbour(peer)) if sink.was_remade(index) => {
                self.help.reception.shun(peer);
            }
            (Err(error), From::Neighbour(peer)) if error.is_senders_fault() => {
                self.help.distrust(peer, &error.to_string());
            }
            // A chunk that fails names its link; it is asked for again a few times.
            (Err(error @ (SinkError::Corrupt { .. } | SinkError::False { .. })), _)
                if self.falsehoods < MAX_FALSE =>
            {
                self.falsehoods += 1;
                tracing::warn!(%error, sender = %self.task.start.origin, "chunk dropped");
            }
            (Err(error), _) => return Err(error),
        }
        if *from != From::Origin {
            self.help.reception.release([index]);
        }
        if let Some(have) = self.help.elsewhere(sink.have()) {
            self.report(SinkReport::Elsewhere(have));
        }
        self.make_durable_when_due()?;
        self.finish_if_whole()
    }

    fn make_durable_when_due(&mut self) -> Result<(), SinkError> {
        let every = self.task.every;
        let due = self.last.elapsed() >= every.interval
            || self.sink()?.bytes_since_checkpoint() >= every.bytes;
        if due { self.make_durable() } else { Ok(()) }
    }

    /// A neighbour names the root. True when that completes the bundle.
    fn root(
        &mut self,
        root: Root,
        signature: Signature,
        from: &DeviceId,
    ) -> Result<bool, SinkError> {
        let Some(sink) = &mut self.sink else {
            return Ok(false);
        };
        match sink.check_root(&root, &signature) {
            Ok(RootOutcome::Verified) => self.help.reception.rooted(root, signature),
            // It may well be that of the bundle as it was, or will be.
            Ok(RootOutcome::MissingPages(_) | RootOutcome::Differs) => {}
            Err(error) => self.help.distrust(from, &error.to_string()),
        }
        self.finish_if_whole()
    }

    /// Finishes without waiting for the origin's END_OF_CHUNKS, where a neighbour has named the
    /// root and nothing is missing.
    fn finish_if_whole(&mut self) -> Result<bool, SinkError> {
        let whole = self.sink.as_ref().is_some_and(|sink| sink.have().is_full());
        match self.help.reception.root() {
            Some((root, signature)) if whole => self.end(root, signature),
            _ => Ok(false),
        }
    }

    fn make_durable(&mut self) -> Result<(), SinkError> {
        self.last = Instant::now();
        let Some(sink) = self.sink.as_mut() else {
            return Ok(());
        };
        match sink.checkpoint() {
            Ok(have) => {
                self.report(SinkReport::Durable(have));
                Ok(())
            }
            Err(error) => {
                // The system tells of a failed write once: a second sync would succeed and lie.
                self.sink = None;
                Err(error)
            }
        }
    }

    /// True when the bundle is complete and in its place.
    fn end(&mut self, root: Root, signature: Signature) -> Result<bool, SinkError> {
        let sink = self.sink.as_mut().ok_or(SinkError::NoHead)?;
        match sink.check_root(&root, &signature)? {
            RootOutcome::Verified => self.help.reception.rooted(root, signature),
            RootOutcome::MissingPages(_) | RootOutcome::Differs => {
                return Err(SinkError::NotVerified);
            }
        }
        if !sink.have().is_full() {
            let have = sink.have().clone();
            self.report(SinkReport::Missing(have));
            return Ok(false);
        }
        let Terms {
            collision,
            keep_versions,
            ..
        } = *self.task.terms;
        let finished = match &self.task.start.series {
            Some(series) => sink.commit_version(collision, series, keep_versions),
            None => sink.commit(collision),
        };
        let finished = match finished {
            Ok(finished) => finished,
            // Somebody cut a partial file short: what is left of it is known again.
            Err(SinkError::Unfinished { .. }) => {
                let have = sink.have().clone();
                self.help.reception.has_only(have.clone());
                self.report(SinkReport::Missing(have));
                return Ok(false);
            }
            Err(error) => {
                self.sink = None;
                return Err(error);
            }
        };
        if let Err(error) = self.task.heads.put(&sink.bundle(), sink.head()) {
            tracing::warn!(%error, "a second offer of this bundle will be taken as a new one");
        }
        let (path, stat) = (finished.path, finished.stat);
        // What shows how it came about is removed once this is recorded, not before.
        self.sink = None;
        self.help.tell_who_helped();
        self.report(SinkReport::Finished { root, path, stat });
        Ok(true)
    }

    fn report(&self, what: SinkReport) {
        let SinkTask { handle, run, .. } = self.task;
        // A checkpoint that finds no room comes again with the next one. Everything else waits
        // while the session is behind, and fails only when the session is over.
        if matches!(what, SinkReport::Durable(_) | SinkReport::Elsewhere(_)) {
            let _ = self.events.try_send(SinkEvent { handle, run, what });
            return;
        }
        let unsent = self.events.blocking_send(SinkEvent { handle, run, what });
        if let Err(mpsc::error::SendError(event)) = unsent
            && let SinkReport::Finished { root, path, stat } = event.what
        {
            self.help.finished_alone(root, path, stat);
        }
    }
}
