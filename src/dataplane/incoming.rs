//! The receiving half of a link's pump: offers, frames put together into chunks, and the disk
//! worker of each transfer.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::net::link::LinkError;
use crate::protocol::exchange::Have;
use crate::protocol::frame::{ChunkHeader, Frame, Handle};
use crate::protocol::id::{DeviceId, Root, TransferId};
use crate::protocol::identity::Signature;
use crate::protocol::manifest::{MAX_CHUNK_SIZE, MAX_CHUNKS, MAX_HEAD, MIN_CHUNK_SIZE};
use crate::protocol::message::{Acknowledgement, Code, Decision, Message, StartTransfer};

use super::assembly::Assembler;
use super::outgoing::Shared;
use super::reception::{BundleKey, Receptions};
use super::session::{
    Checkpointing, OfferReply, SessionError, SessionEvent, Stop, TransferEnd, decide, record,
};
use super::sink_worker::{self, From, SinkEvent, SinkReport, SinkTask, Work};

/// Transfers that one peer may have under way to us at a time (PROTOCOL.md §16).
const MAX_TRANSFERS: usize = 16;

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
        }
    }

    pub(super) async fn on_start(&mut self, start: Box<StartTransfer>) -> Result<(), SessionError> {
        let (handle, id) = (start.handle, start.id);
        if self.shared.is_ours(handle) {
            return Err(SessionError::Protocol(format!(
                "handle {handle} is not the sender's to use"
            )));
        }
        // A transfer that starts again replaces its earlier run, whose worker ends with its queue.
        self.transfers.retain(|_, transfer| transfer.id != id);
        self.transfers.remove(&handle);
        self.resting.remove(&id);
        if let Err((code, reason)) = self.check(&start) {
            return self.answer(handle, Decision::Refused, code, reason).await;
        }
        match decide(&self.shared.events, start.clone()).await? {
            OfferReply::Accept {
                terms,
                checkpoint,
                heads,
                progress,
            } => {
                let assembler = Assembler::new(start.chunk_size, start.chunks);
                let bundle = (start.origin.clone(), start.bundle);
                let head_size = start.head_size as usize;
                let start = *start;
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
                    return Ok(());
                };
                if offset as usize != transfer.head.len()
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
                    return Ok(());
                };
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
            return Ok(());
        };
        if let Some(parts) = transfer.assembler.take(header, payload)? {
            let work = Work::Chunk {
                index: header.index,
                parts,
                from: From::Origin,
            };
            let _ = transfer.work.send(work).await;
        }
        if header.ack_now {
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
            let _ = transfer.work.send(Work::End { root, signature }).await;
        }
        Ok(())
    }

    pub(super) async fn on_sink(&mut self, event: SinkEvent) -> Result<(), SessionError> {
        let handle = event.handle;
        let Some(transfer) = self.transfers.get(&handle).filter(|t| t.run == event.run) else {
            return Ok(());
        };
        let id = transfer.id;
        match event.what {
            SinkReport::Ready { have } => {
                let acknowledgement = Acknowledgement {
                    have: have.map(|set| set.to_b64()),
                    acks: true,
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
                self.say(&Message::Need {
                    handle,
                    have: Some(have.to_b64()),
                })
                .await
            }
            SinkReport::Finished { root, path, stat } => {
                self.transfers.remove(&handle);
                // Recorded first: if we fall between the two, the sender asks again and hears
                // that it is complete; and once it has heard that, the link may go at once.
                record(&self.shared.events, id, root, path, stat).await?;
                self.say(&Message::TransferComplete {
                    handle,
                    root: Some(root),
                })
                .await
            }
            SinkReport::Failed { code, reason } => {
                self.transfers.remove(&handle);
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
                self.tell(SessionEvent::Ended { id, end }).await
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
        root: None,
        code: None,
        reason: None,
    }
}
