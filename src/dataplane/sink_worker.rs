//! The disk side of an incoming transfer, on a thread of its own: hashing and writing never
//! hold up the runtime, and a stalled disk holds up only its own link.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::content::sink::{Sink, SinkError};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::frame::Handle;
use crate::protocol::id::Root;
use crate::protocol::identity::Signature;
use crate::protocol::message::{Code, StartTransfer};

use super::progress::Progress;
use super::session::Checkpointing;

/// Chunks that may wait for the disk. With the one being assembled this bounds a receiver's
/// memory per link.
const QUEUE: usize = 4;
/// Chunks with false hashes after which the sender is given up.
const MAX_FALSE: u32 = 3;

/// Work for the disk, in order.
pub(super) enum Work {
    /// The bundle's head has come in whole.
    Head(Vec<u8>),
    /// A signed page of hashes.
    Page { number: u32, signature: Signature, bytes: Bytes },
    /// A whole chunk, in the pieces it came in.
    Chunk { index: u32, parts: Vec<Bytes> },
    /// The sender has sent everything.
    End { root: Root, signature: Signature },
}

/// What the disk has to say.
#[derive(Debug)]
pub(super) struct SinkEvent {
    pub(super) handle: Handle,
    pub(super) what: SinkReport,
}

#[derive(Debug)]
pub(super) enum SinkReport {
    /// Ready for chunks; this is what is there already.
    Ready { have: Option<ChunkSet> },
    /// These chunks are durable.
    Durable(ChunkSet),
    /// After the end: these are there, the others are missing.
    Missing(ChunkSet),
    /// All there, verified, renamed.
    Finished { root: Root, path: PathBuf, stat_digest: String },
    /// It cannot go on.
    Failed { code: Code, reason: String },
}

/// What a worker is started with.
pub(super) struct SinkTask {
    pub(super) handle: Handle,
    pub(super) start: StartTransfer,
    pub(super) destination: PathBuf,
    pub(super) reserve: u64,
    pub(super) checkpoint: Option<ChunkSet>,
    pub(super) every: Checkpointing,
    pub(super) progress: Arc<Progress>,
}

/// Starts the thread. It ends when its queue is dropped (what is there is then made durable),
/// or when it cannot go on.
pub(super) fn spawn(task: SinkTask, events: mpsc::Sender<SinkEvent>) -> mpsc::Sender<Work> {
    let (queue, work) = mpsc::channel(QUEUE);
    let name = format!("sink-{}", task.handle);
    let handle = task.handle;
    let reports = events.clone();
    let spawned = std::thread::Builder::new().name(name).spawn(move || {
        let mut worker = Worker { task, events, sink: None, last: Instant::now(), falsehoods: 0 };
        if let Err(error) = worker.run(work) {
            // Whatever is verified stays; a later session goes on from it.
            let _ = worker.make_durable();
            let (code, reason) = (error.code(), error.to_string());
            worker.report(SinkReport::Failed { code, reason });
        }
    });
    if let Err(error) = spawned {
        let reason = format!("no thread for writing: {error}");
        let what = SinkReport::Failed { code: Code::Busy, reason };
        let _ = reports.try_send(SinkEvent { handle, what });
    }
    queue
}

struct Worker {
    task: SinkTask,
    events: mpsc::Sender<SinkEvent>,
    sink: Option<Sink>,
    last: Instant,
    falsehoods: u32,
}

impl Worker {
    fn run(&mut self, mut work: mpsc::Receiver<Work>) -> Result<(), SinkError> {
        let start = &self.task.start;
        self.sink = Sink::resume(&self.task.destination, &start.origin, &start.key, &start.bundle)?;
        self.ready(true)?;
        let mut buffer = Vec::new();
        while let Some(work) = work.blocking_recv() {
            match work {
                Work::Head(head) => {
                    if self.sink.is_none() {
                        let start = &self.task.start;
                        self.sink = Some(Sink::open(
                            &self.task.destination,
                            &start.origin,
                            &start.key,
                            start.id,
                            &head,
                        )?);
                        self.ready(false)?;
                    }
                }
                Work::Page { number, signature, bytes } => {
                    self.sink()?.put_page(number, &bytes, &signature)?;
                }
                Work::Chunk { index, parts } => self.chunk(index, parts, &mut buffer)?,
                Work::End { root, signature } => {
                    if self.end(root, signature)? {
                        return Ok(());
                    }
                }
            }
        }
        self.make_durable()
    }

    fn sink(&mut self) -> Result<&mut Sink, SinkError> {
        self.sink.as_mut().ok_or(SinkError::NoHead)
    }

    /// Verifies what an earlier session left, checks the room on the disk, and says what is
    /// there. Before the head is known there is nothing to say but "nothing".
    fn ready(&mut self, announce: bool) -> Result<(), SinkError> {
        let mut ready = SinkReport::Ready { have: None };
        if let Some(sink) = self.sink.as_mut() {
            let have = sink.recover(self.task.checkpoint.as_ref()).clone();
            sink.check_space(self.task.reserve)?;
            let layout = sink.layout();
            let bytes =
                have.iter().filter_map(|c| layout.chunk(c)).map(|span| u64::from(span.len)).sum();
            self.task.progress.restart(bytes);
            ready = SinkReport::Ready { have: Some(have) };
        } else {
            crate::content::space::check(
                &self.task.destination,
                self.task.start.size,
                self.task.reserve,
            )?;
        }
        if announce {
            self.report(ready);
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        index: u32,
        parts: Vec<Bytes>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SinkError> {
        let bytes: &[u8] = if let [whole] = &parts[..] {
            whole
        } else {
            buffer.clear();
            parts.iter().for_each(|part| buffer.extend_from_slice(part));
            buffer
        };
        match self.sink()?.write_chunk(index, bytes) {
            Ok(()) => self.task.progress.advance(bytes.len() as u64),
            // A chunk that fails names its link; it is asked for again a few times.
            Err(error) if error.is_false_content() && self.falsehoods < MAX_FALSE => {
                self.falsehoods += 1;
                tracing::warn!(%error, "a chunk was not what its origin signed");
            }
            Err(error) => return Err(error),
        }
        let every = self.task.every;
        let due = self.last.elapsed() >= every.interval
            || self.sink()?.bytes_since_checkpoint() >= every.bytes;
        if due { self.make_durable() } else { Ok(()) }
    }

    fn make_durable(&mut self) -> Result<(), SinkError> {
        self.last = Instant::now();
        if let Some(sink) = self.sink.as_mut() {
            let have = sink.checkpoint()?;
            self.report(SinkReport::Durable(have));
        }
        Ok(())
    }

    /// True when the bundle is complete and in its place.
    fn end(&mut self, root: Root, signature: Signature) -> Result<bool, SinkError> {
        let sink = self.sink()?;
        sink.check_root(&root, &signature)?;
        if !sink.have().is_full() {
            let have = sink.have().clone();
            self.report(SinkReport::Missing(have));
            return Ok(false);
        }
        let Some(sink) = self.sink.take() else { return Ok(false) };
        let finished = sink.finish()?;
        let (path, stat_digest) = (finished.path, finished.stat_digest);
        self.report(SinkReport::Finished { root, path, stat_digest });
        Ok(true)
    }

    fn report(&self, what: SinkReport) {
        // Waits when the session is behind; fails only when the session is over.
        let _ = self.events.blocking_send(SinkEvent { handle: self.task.handle, what });
    }
}
