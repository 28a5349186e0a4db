//! The receiving half of a link's pump: offers, frames put together into chunks, and the disk
//! worker of each transfer.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::net::link::LinkError;
use crate::protocol::exchange::Have;
use crate::protocol::frame::{ChunkHeader, Frame, Handle};
use crate::protocol::id::{DeviceId, Root, TransferId};
use crate::protocol::identity::Signature;
use crate::protocol::manifest::{
    MAX_CHUNK_SIZE, MAX_CHUNKS, MAX_HEAD, MIN_CHUNK_SIZE, PAGE_CHUNKS,
};
use crate::protocol::message::{Acknowledgement, Code, Decision, Message, StartTransfer};

use super::assembly::Assembler;
use super::credit::Account;
use super::outgoing::Shared;
use super::reception::{BundleKey, Receptions};
use super::session::{
    Checkpointing, OfferReply, SessionError, SessionEvent, Stop, TransferEnd, decide, record,
};
use super::sink_worker::{self, From, SinkEvent, SinkReport, SinkTask, Work};

/// Transfers that one peer may have under way to us at a time (PROTOCOL.md §16).
const MAX_TRANSFERS: usize = 16;

/// Threads that may be at work on the disk for one link, those of runs that are over included.
const MAX_WORKERS: usize = 2 * MAX_TRANSFERS;
/// Bytes of heads that may be held for one link.
const MAX_HEADS: usize = 2 * MAX_HEAD;
/// END_OF_CHUNKS in one run (PROTOCOL.md §10).
const MAX_ENDS: u32 = 8;
/// Bytes of frames that belong to no transfer: what was under way when one ended is less.
const MAX_STRAY: u64 = 64 << 20;
/// A sender that owes chunks and sends nothing for so many times the stall timeout is dropped.
/// More than once, because it may have to read and hash 256 MiB for the next frame.
const SILENCE: u32 = 4;
/// How often it is looked whether one does.
const LOOK: Duration = Duration::from_millis(500);

/// Whether an offer takes the place of another run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    First,
    Again,
}

/// All incoming transfers of one link.
pub(super) struct Receiving {
    peer: DeviceId,
    verified: bool,
    shared: Arc<Shared>,
    every: Checkpointing,
    sinks: mpsc::Sender<SinkEvent>,
    receptions: Receptions,
    transfers: HashMap<Handle, Transfer>,
    runs: u64,
    /// Transfers that rest on our side, to be asked for again.
    resting: HashMap<TransferId, Handle>,
    /// Each worker holds one more of these.
    workers: Arc<()>,
    /// Bytes that came for nobody since a transfer ended here.
    stray: u64,
    next_look: Instant,
}

struct Transfer {
    id: TransferId,
    run: u64,
    work: mpsc::Sender<Work>,
    bundle: BundleKey,
    /// The head as far as it has come, and its length.
    head: Vec<u8>,
    head_size: usize,
    assembler: Assembler,
    account: Account,
    /// What it said its length is, also when it has come.
    head_said: usize,
    /// Bytes of the whole bundle, as offered.
    size: u64,
    /// Payload bytes that may come in this run.
    due: u64,
    /// Pages that may still come in it.
    pages_left: u32,
    ends: u32,
    /// The sender was asked for all pages before it sends a chunk.
    pages_first: bool,
    /// Since when the sender owes something: chunks, or the word that there are no more.
    owes: Option<Instant>,
}

impl Transfer {
    /// Something of it has come.
    fn hears(&mut self) {
        if let Some(owes) = &mut self.owes {
            *owes = Instant::now();
        }
    }
}

impl Receiving {
    pub(super) fn new(
        peer: DeviceId,
        verified: bool,
        shared: Arc<Shared>,
        every: Checkpointing,
        sinks: mpsc::Sender<SinkEvent>,
        receptions: Receptions,
    ) -> Self {
        let (transfers, resting) = Default::default();
        Self {
            peer,
            verified,
            shared,
            every,
            sinks,
            receptions,
            transfers,
            runs: 0,
            resting,
            workers: Arc::default(),
            stray: 0,
            next_look: Instant::now(),
        }
    }

    /// The sender offers something. What it ends by that was begun for nothing.
    pub(super) async fn on_start(
        &mut self,
        start: Box<StartTransfer>,
    ) -> Result<Run, SessionError> {
        let (handle, id) = (start.handle, start.id);
        if self.shared.is_ours(handle) {
            return Err(SessionError::Protocol(format!(
                "handle {handle} is not the sender's to use"
            )));
        }
        let taken = self.transfers.get(&handle).map(|running| running.id);
        if taken.is_some_and(|running| running != id) {
            return Err(SessionError::Protocol(format!(
                "handle {handle} belongs to another transfer that is running"
            )));
        }
        // A transfer that starts again replaces its earlier run, whose worker ends with its queue.
        let before = self.transfers.len();
        self.transfers.retain(|_, transfer| transfer.id != id);
        let again = before != self.transfers.len() || self.resting.remove(&id).is_some();
        let run = if again { Run::Again } else { Run::First };
        match self.check(&start) {
            Ok(()) => self.begin(start).await?,
            Err((code, reason)) => self.answer(handle, Decision::Refused, code, reason).await?,
        }
        Ok(run)
    }

    /// Does what is decided about an offer.
    async fn begin(&mut self, start: Box<StartTransfer>) -> Result<(), SessionError> {
        let (handle, id) = (start.handle, start.id);
        match decide(&self.shared.events, start.clone()).await? {
            OfferReply::Accept {
                terms,
                checkpoint,
                heads,
                progress,
                before,
            } => {
                let assembler = Assembler::new(start.chunk_size, start.chunks);
                let bundle = (start.origin.clone(), start.bundle);
                let head_size = start.head_size as usize;
                let start = *start;
                let (size, pages_left) = (start.size, start.chunks.div_ceil(PAGE_CHUNKS));
                let every = self.every;
                self.runs += 1;
                let run = self.runs;
                let task = SinkTask {
                    handle,
                    run,
                    start,
                    terms,
                    checkpoint,
                    heads,
                    every,
                    progress,
                    before,
                    _alive: Arc::clone(&self.workers),
                };
                let work = sink_worker::spawn(task, self.sinks.clone(), &self.receptions);
                let head = Vec::new();
                let transfer = Transfer {
                    id,
                    run,
                    work,
                    bundle,
                    head,
                    head_size,
                    assembler,
                    account: Account::new(&self.shared.credit, handle),
                    head_said: head_size,
                    size,
                    due: size,
                    pages_left,
                    ends: 0,
                    pages_first: false,
                    owes: None,
                };
                self.transfers.insert(handle, transfer);
                Ok(())
            }
            OfferReply::Complete { root } => {
                let acknowledgement = Acknowledgement {
                    root: Some(root),
                    ..acknowledge(handle, Decision::Complete)
                };
                self.say(&Message::StartTransferAcknowledged(acknowledgement))
                    .await
            }
            OfferReply::Refuse { code, reason } => {
                self.answer(handle, Decision::Refused, code, reason).await
            }
            OfferReply::Pause { code, reason } => {
                self.resting.insert(id, handle);
                self.answer(handle, Decision::Paused, code, reason).await
            }
        }
    }

    /// What an offer must be for anything to be allocated for it.
    fn check(&self, start: &StartTransfer) -> Result<(), (Code, String)> {
        let refuse = |code, reason: &str| Err((code, reason.to_owned()));
        if !self.verified {
            return refuse(
                Code::Unauthorized,
                "a device without a key can receive, but not send",
            );
        }
        if start.key.device_id() != start.origin {
            return refuse(
                Code::Integrity,
                "the origin's id does not belong to its key",
            );
        }
        if start.origin != self.peer {
            return refuse(Code::Unsupported, "relayed bundles are not taken");
        }
        if !start.chunk_size.is_power_of_two()
            || !(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&start.chunk_size)
            || start.chunks > MAX_CHUNKS
            || start.head_size as usize > MAX_HEAD
            || start.head_size == 0
        {
            return refuse(
                Code::BadRequest,
                "the offer's sizes are outside the protocol's limits",
            );
        }
        if self.transfers.len() + self.resting.len() >= MAX_TRANSFERS {
            return refuse(Code::Busy, "too many transfers at once on one link");
        }
        let heads = self.transfers.values().map(|transfer| transfer.head_said);
        if heads.sum::<usize>() + start.head_size as usize > MAX_HEADS {
            return refuse(Code::Busy, "too many large bundles at once on one link");
        }
        // Runs that were replaced may still be making what came of them safe.
        if Arc::strong_count(&self.workers) > MAX_WORKERS {
            return refuse(
                Code::Busy,
                "this device's disk is still busy with earlier runs",
            );
        }
        Ok(())
    }

    pub(super) async fn on_frame(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Head {
                handle,
                offset,
                bytes,
            } => {
                let Some(transfer) = self.transfers.get_mut(&handle) else {
                    return self.count_stray(bytes.len());
                };
                transfer.hears();
                if bytes.is_empty()
                    || offset as usize != transfer.head.len()
                    || transfer.head.len() + bytes.len() > transfer.head_size
                {
                    return Err(SessionError::Protocol(
                        "the head's pieces do not fit".to_owned(),
                    ));
                }
                transfer.head.extend_from_slice(&bytes);
                if transfer.head.len() == transfer.head_size {
                    let head = std::mem::take(&mut transfer.head);
                    transfer.head_size = 0;
                    // A worker that has ended has said why; the rest of its frames is dropped.
                    let _ = transfer.work.send(Work::Head(head)).await;
                }
            }
            Frame::Hashes {
                handle,
                page,
                signature,
                bytes,
            } => {
                let Some(transfer) = self.transfers.get_mut(&handle) else {
                    return self.count_stray(bytes.len());
                };
                transfer.hears();
                if transfer.pages_left == 0 {
                    return Err(SessionError::Protocol(
                        "more pages of hashes than the bundle has".to_owned(),
                    ));
                }
                transfer.pages_left -= 1;
                if transfer.pages_left == 0 && transfer.pages_first {
                    // It waits for what we find of it on our own disk.
                    transfer.owes = None;
                }
                let _ = transfer
                    .work
                    .send(Work::Page {
                        number: page,
                        signature,
                        bytes,
                        from: From::Origin,
                    })
                    .await;
            }
            Frame::Chunk { header, payload } => self.on_chunk(header, payload).await?,
        }
        Ok(())
    }

    async fn on_chunk(&mut self, header: ChunkHeader, payload: Bytes) -> Result<(), SessionError> {
        let Some(transfer) = self.transfers.get_mut(&header.handle) else {
            return self.count_stray(payload.len());
        };
        transfer.hears();
        if transfer.assembler.taken + payload.len() as u64 > transfer.due {
            return Err(SessionError::Protocol(
                "more bytes of chunks than the bundle has".to_owned(),
            ));
        }
        let whole = transfer.assembler.take(header, payload);
        if let Some(parts) = whole.map_err(|what| SessionError::Protocol(what.to_owned()))? {
            let work = Work::Chunk {
                index: header.index,
                parts,
                from: From::Origin,
            };
            let _ = transfer.work.send(work).await;
        }
        transfer.account.took(transfer.assembler.taken);
        if header.ack_now && transfer.account.acknowledge() {
            let (handle, bytes) = (header.handle, transfer.assembler.taken);
            self.say(&Message::Ack { handle, bytes }).await?;
        }
        Ok(())
    }

    pub(super) async fn on_end(
        &mut self,
        handle: Handle,
        root: Root,
        signature: Signature,
    ) -> Result<(), SessionError> {
        if let Some(transfer) = self.transfers.get_mut(&handle) {
            transfer.owes = None;
            transfer.ends += 1;
            if transfer.ends > MAX_ENDS {
                return Err(SessionError::Protocol(format!(
                    "more than {MAX_ENDS} times the end of a transfer"
                )));
            }
            let _ = transfer.work.send(Work::End { root, signature }).await;
        }
        Ok(())
    }

    /// A frame for a transfer that is over, or never was.
    fn count_stray(&mut self, bytes: usize) -> Result<(), SessionError> {
        // Headers count as well: frames may be empty.
        self.stray += bytes as u64 + 64;
        if self.stray > MAX_STRAY {
            return Err(SessionError::Protocol(
                "it goes on sending what nobody takes".to_owned(),
            ));
        }
        Ok(())
    }

    /// Waits until [`Receiving::look`] is due; for ever while nothing is received.
    pub(super) async fn due(&self) {
        if self.transfers.is_empty() {
            pending::<()>().await;
        }
        tokio::time::sleep_until(self.next_look).await;
    }

    /// Looks whether a sender has left a transfer lying.
    pub(super) fn look(&mut self) -> Result<(), SessionError> {
        self.next_look = Instant::now() + LOOK;
        let waited = self.shared.stall * SILENCE;
        let owed = self.transfers.values().filter_map(|transfer| transfer.owes);
        let mut late = owed.filter(|since| since.elapsed() > waited);
        match late.next() {
            None => Ok(()),
            Some(_) => Err(LinkError::Silent {
                what: "chunks of what it offered",
                waited,
            }
            .into()),
        }
    }

    pub(super) async fn on_sink(&mut self, event: SinkEvent) -> Result<(), SessionError> {
        let handle = event.handle;
        let transfer = self.transfers.get_mut(&handle);
        let Some(transfer) = transfer.filter(|t| t.run == event.run) else {
            return Ok(());
        };
        let id = transfer.id;
        match event.what {
            SinkReport::Ready { have, pages_first } => {
                transfer.owes = Some(Instant::now());
                transfer.pages_first = pages_first;
                let acknowledgement = Acknowledgement {
                    have: have.map(|set| set.to_b64()),
                    acks: true,
                    pages_first,
                    ..acknowledge(handle, Decision::Accepted)
                };
                self.say(&Message::StartTransferAcknowledged(acknowledgement))
                    .await?;
                self.tell(SessionEvent::Active { id }).await
            }
            SinkReport::Durable(have) => self.tell(SessionEvent::Checkpoint { id, have }).await,
            SinkReport::Elsewhere(have) => {
                let (origin, bundle) = transfer.bundle.clone();
                let have = Have {
                    handle,
                    bundle,
                    origin,
                    have: have.to_b64(),
                    root: None,
                    root_sig: None,
                };
                self.say(&Message::Have(Box::new(have))).await
            }
            SinkReport::Missing(have) => {
                transfer.owes = Some(Instant::now());
                transfer.due = transfer.assembler.taken.saturating_add(transfer.size);
                self.say(&Message::Need {
                    handle,
                    have: Some(have.to_b64()),
                })
                .await
            }
            SinkReport::Finished { root, path, stat } => {
                self.transfers.remove(&handle);
                self.stray = 0;
                // Recorded first: if we fall between the two, the sender asks again and hears
                // that it is complete; and once it has heard that, the link may go at once.
                record(&self.shared.events, id, root, path, stat).await?;
                self.say(&Message::TransferComplete {
                    handle,
                    root: Some(root),
                })
                .await
            }
            SinkReport::Failed { code, reason, lie } => {
                self.transfers.remove(&handle);
                self.stray = 0;
                let falsehood = lie.then(|| SessionError::Falsehood(reason.clone()));
                let stop = Stop {
                    id,
                    code,
                    reason,
                    for_good: code != Code::DiskFull,
                };
                if !stop.for_good {
                    self.resting.insert(id, handle);
                }
                self.say(&stop.message(handle)).await?;
                let end = if stop.for_good {
                    TransferEnd::Failed {
                        code,
                        reason: stop.reason,
                    }
                } else {
                    stop.end()
                };
                self.tell(SessionEvent::Ended { id, end }).await?;
                match falsehood {
                    None => Ok(()),
                    Some(falsehood) => {
                        self.shared.part().await;
                        Err(falsehood)
                    }
                }
            }
        }
    }

    /// The sender pauses or cancels. False when the handle is not one of the sender's.
    pub(super) async fn on_rest(
        &mut self,
        handle: Handle,
        code: Code,
        reason: &str,
        for_good: bool,
    ) -> Result<bool, SessionError> {
        if self.shared.is_ours(handle) {
            return Ok(false);
        }
        let resting = self
            .resting
            .iter()
            .find(|(_, of)| **of == handle)
            .map(|(id, _)| *id);
        if for_good && let Some(id) = resting {
            self.resting.remove(&id);
        }
        let running = self.transfers.remove(&handle).map(|transfer| transfer.id);
        if !for_good && let Some(id) = running {
            self.resting.insert(id, handle);
        }
        if let Some(id) = running.or(resting) {
            let reason = reason.to_owned();
            let end = if for_good {
                TransferEnd::Cancelled {
                    by_us: false,
                    code,
                    reason,
                }
            } else {
                TransferEnd::Paused {
                    by_us: false,
                    code,
                    reason,
                }
            };
            self.tell(SessionEvent::Ended { id, end }).await?;
        }
        Ok(true)
    }

    /// Our own side pauses or cancels. False when the transfer is not an incoming one.
    pub(super) async fn stop(&mut self, stop: &Stop) -> Result<bool, SessionError> {
        let running = self
            .transfers
            .iter()
            .find(|(_, transfer)| transfer.id == stop.id);
        let Some(handle) = running.map(|(handle, _)| *handle) else {
            let Some(handle) = self.resting.get(&stop.id).copied() else {
                return Ok(false);
            };
            if stop.for_good {
                self.resting.remove(&stop.id);
                self.say(&stop.message(handle)).await?;
            }
            return Ok(true);
        };
        self.transfers.remove(&handle);
        self.stray = 0;
        if !stop.for_good {
            self.resting.insert(stop.id, handle);
        }
        self.say(&stop.message(handle)).await?;
        self.tell(SessionEvent::Ended {
            id: stop.id,
            end: stop.clone().end(),
        })
        .await?;
        Ok(true)
    }

    /// Asks the sender to go on with a transfer that rests on our side.
    pub(super) async fn resume(&mut self, id: TransferId) -> Result<(), SessionError> {
        match self.resting.get(&id).copied() {
            Some(handle) => self.say(&Message::Resume { handle }).await,
            None => Ok(()),
        }
    }

    async fn answer(
        &self,
        handle: Handle,
        status: Decision,
        code: Code,
        reason: String,
    ) -> Result<(), SessionError> {
        let acknowledgement = Acknowledgement {
            code: Some(code),
            reason: Some(reason),
            ..acknowledge(handle, status)
        };
        self.say(&Message::StartTransferAcknowledged(acknowledgement))
            .await
    }

    async fn say(&self, message: &Message) -> Result<(), SessionError> {
        Ok(self.shared.say(message).await?)
    }

    async fn tell(&self, event: SessionEvent) -> Result<(), SessionError> {
        self.shared
            .events
            .send(event)
            .await
            .map_err(|_| LinkError::Closed.into())
    }
}

fn acknowledge(handle: Handle, status: Decision) -> Acknowledgement {
    Acknowledgement {
        handle,
        status,
        have: None,
        acks: false,
        pages_first: false,
        root: None,
        code: None,
        reason: None,
    }
}
