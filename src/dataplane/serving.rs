//! Giving neighbours the chunks that they ask for: one after another, each checked again as it is
//! read, within a window of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;

use super::outgoing::{Flow, Shared};
use super::reception::{Reception, Served};
use super::session::SessionError;
use crate::content::SignedPage;
use crate::net::link::LinkError;
use crate::protocol::exchange::MAX_WANTED;
use crate::protocol::frame::{ChunkHeader, Handle, encode_hashes, pieces};

/// Chunks that may wait on one link: what all exchanges together may ask for.
pub(super) const MAX_ORDERS: usize = 16 * MAX_WANTED as usize;

/// What is served to one neighbour of one bundle.
pub(super) struct Stall {
    pub(super) handle: Handle,
    pub(super) flow: Flow,
    /// Chunks that were asked for and not sent yet.
    pub(super) waiting: AtomicU32,
    /// The pages that the neighbour has had from us.
    pages: Mutex<HashMap<u32, Arc<SignedPage>>>,
}

impl Stall {
    pub(super) fn new(handle: Handle, flow: Flow) -> Self {
        Self {
            handle,
            flow,
            waiting: AtomicU32::new(0),
            pages: Mutex::default(),
        }
    }

    /// Whether the neighbour has not had this page yet; it counts as sent afterwards.
    fn is_new(&self, page: &Arc<SignedPage>) -> bool {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pages.insert(page.number, Arc::clone(page));
        before.is_none_or(|before| !Arc::ptr_eq(&before, page))
    }
}

/// A chunk that a neighbour asks for.
pub(super) struct Order {
    pub(super) stall: Arc<Stall>,
    pub(super) reception: Arc<Reception>,
    pub(super) index: u32,
}

/// Serves orders until the link ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<(), SessionError> {
    while let Some(order) = orders.recv().await {
        let Order {
            stall,
            reception,
            index,
        } = order;
        stall.waiting.fetch_sub(1, Ordering::Relaxed);
        if stall.flow.is_closed() {
            continue;
        }
        let reading = tokio::task::spawn_blocking(move || reception.read(index));
        // What cannot be read is missing in the next HAVE.
        if let Ok(Some(served)) = reading.await {
            serve(&shared, &stall, index, served).await?;
        }
    }
    Ok(())
}

async fn serve(
    shared: &Shared,
    stall: &Stall,
    index: u32,
    served: Served,
) -> Result<(), LinkError> {
    let Served { chunk, page } = served;
    let (handle, lane) = (stall.handle, shared.lane(None));
    if stall.is_new(&page) {
        let message = encode_hashes(handle, page.number, &page.signature, &page.bytes);
        shared.upload.pass(&lane, message.len() as u64).await;
        shared.channel.send(message).await?;
    }
    let length = chunk.bytes.len() as u32;
    let message = shared.upload.message(&lane, shared.channel.max_message());
    for (offset, size) in pieces(length, message) {
        stall.flow.room_for(u64::from(size), shared.stall).await?;
        shared.upload.pass(&lane, u64::from(size)).await;
        // The neighbour acknowledges nothing of an exchange that has ended, and needs no rest of
        // a chunk: what it has of it goes with the handle.
        if stall.flow.is_closed() {
            return Ok(());
        }
        let ack_now = stall.flow.sent(u64::from(size), Instant::now());
        let header = ChunkHeader {
            handle,
            index,
            offset,
            length,
            xxh3: chunk.xxh3,
            ack_now,
        };
        let piece = &chunk.bytes[offset as usize..(offset + size) as usize];
        shared.channel.send(header.encode(piece)).await?;
    }
    Ok(())
}
