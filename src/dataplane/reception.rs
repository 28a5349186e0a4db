//! What this device is receiving, or has received while it runs: for each bundle the way to its
//! one sink, and what of it can be given to neighbours. Shared by all links.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tracing::debug;

use super::sink_worker::Work;
use crate::content::{Chunk, ChunkReader, SignedPage};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::exchange;
use crate::protocol::id::{BundleId, DeviceId, Root, TransferId};
use crate::protocol::identity::Signature;
use crate::protocol::manifest::PAGE_CHUNKS;
use crate::protocol::message::StartTransfer;

/// Finished bundles that are still served; each holds one file or folder open.
const MAX_FINISHED: usize = 16;
/// Reports that may wait for the coordinator.
const REPORTS: usize = 64;

/// A bundle of an origin.
pub type BundleKey = (DeviceId, BundleId);

/// What neighbours have brought about, for the coordinator.
#[derive(Debug)]
pub enum RelayEvent {
    /// A bundle was finished while there was no link to its origin.
    Received {
        /// The transfer.
        id: TransferId,
        /// What was verified.
        root: Root,
        /// Where it is.
        path: PathBuf,
        /// Digest over sizes and times, to recognise it later.
        stat: [u8; 32],
    },
    /// So much of a finished bundle came from a neighbour.
    Relayed {
        /// The transfer.
        id: TransferId,
        /// The neighbour.
        peer: DeviceId,
        /// Verified bytes.
        bytes: u64,
    },
    /// A neighbour broke the protocol, and its link has ended.
    Broke {
        /// The neighbour.
        peer: DeviceId,
        /// What it did.
        reason: String,
    },
    /// A neighbour served falsehoods, or nothing.
    Distrusted {
        /// The neighbour.
        peer: DeviceId,
        /// Of which bundle.
        bundle: BundleKey,
        /// What it did.
        reason: String,
    },
}

/// Everything that this device is receiving, and the last of what it has received.
#[derive(Clone)]
pub struct Receptions(Arc<Shared>);

struct Shared {
    all: Mutex<All>,
    reports: mpsc::Sender<RelayEvent>,
    listener: Mutex<Option<mpsc::Receiver<RelayEvent>>>,
}

#[derive(Default)]
struct All {
    by_bundle: HashMap<BundleKey, Arc<Reception>>,
    finished: VecDeque<BundleKey>,
}

impl Default for Receptions {
    fn default() -> Self {
        let (reports, listener) = mpsc::channel(REPORTS);
        Self(Arc::new(Shared {
            all: Mutex::default(),
            reports,
            listener: Mutex::new(Some(listener)),
        }))
    }
}

impl Receptions {
    /// What neighbours bring about. Only the first who asks gets it.
    pub fn listen(&self) -> Option<mpsc::Receiver<RelayEvent>> {
        lock(&self.0.listener).take()
    }

    /// Ends the reception of a bundle, whoever feeds it: a person, or its origin, stopped it.
    pub fn end(&self, bundle: &BundleKey) {
        let mut all = lock(&self.0.all);
        all.finished.retain(|of| of != bundle);
        if let Some(reception) = all.by_bundle.remove(bundle) {
            reception.end();
        }
    }

    /// Names a neighbour that has broken the protocol to the coordinator.
    pub(super) async fn name_offender(&self, peer: &DeviceId, reason: String) {
        tracing::warn!(%peer, reason, "a neighbour broke the protocol");
        let peer = peer.clone();
        let _ = self
            .0
            .reports
            .send(RelayEvent::Broke { peer, reason })
            .await;
    }

    /// Begins the reception of an offered bundle, in place of an earlier one.
    pub(super) fn begin(
        &self,
        start: &StartTransfer,
        work: mpsc::WeakSender<Work>,
    ) -> Arc<Reception> {
        let bundle = (start.origin.clone(), start.bundle);
        self.end(&bundle);
        let reception = Arc::new(Reception {
            bundle: bundle.clone(),
            transfer: start.id,
            chunks: start.chunks,
            chunk_size: start.chunk_size,
            work,
            reports: self.0.reports.clone(),
            state: Mutex::new(State {
                have: ChunkSet::new(start.chunks),
                pages: HashMap::new(),
                root: None,
                reader: None,
                asked: HashSet::new(),
                unreadable: HashSet::new(),
                shunned: HashSet::new(),
                open: false,
                over: false,
            }),
        });
        lock(&self.0.all)
            .by_bundle
            .insert(bundle, Arc::clone(&reception));
        reception
    }

    pub(super) fn get(&self, bundle: &BundleKey) -> Option<Arc<Reception>> {
        lock(&self.0.all).by_bundle.get(bundle).cloned()
    }

    /// A reception's worker has ended: what is whole stays for a while, for others to ask for.
    pub(super) fn ended(&self, reception: &Arc<Reception>, whole: bool) {
        let mut all = lock(&self.0.all);
        let bundle = &reception.bundle;
        let current = all.by_bundle.get(bundle);
        if !current.is_some_and(|current| Arc::ptr_eq(current, reception)) {
            return;
        }
        if !whole {
            reception.end();
            all.by_bundle.remove(bundle);
            return;
        }
        all.finished.push_back(bundle.clone());
        if all.finished.len() > MAX_FINISHED
            && let Some(oldest) = all.finished.pop_front()
            && let Some(reception) = all.by_bundle.remove(&oldest)
        {
            reception.end();
        }
    }
}

/// One bundle that is being received from its origin and from neighbours, or was.
pub(super) struct Reception {
    pub(super) bundle: BundleKey,
    pub(super) transfer: TransferId,
    pub(super) chunks: u32,
    pub(super) chunk_size: u32,
    /// Weak: the worker ends when the origin's link and all neighbours have let go.
    work: mpsc::WeakSender<Work>,
    reports: mpsc::Sender<RelayEvent>,
    state: Mutex<State>,
}

struct State {
    /// Verified and on disk, if perhaps not yet durable.
    have: ChunkSet,
    pages: HashMap<u32, Arc<SignedPage>>,
    root: Option<(Root, Signature)>,
    reader: Option<Arc<ChunkReader>>,
    /// Chunks that a neighbour has been asked for.
    asked: HashSet<u32>,
    /// Chunks that turned out to be changed on the disk, or cannot be read.
    unreadable: HashSet<u32>,
    /// Neighbours of which nothing more is taken.
    shunned: HashSet<DeviceId>,
    /// The sink knows the bundle's head, and so can take chunks.
    open: bool,
    over: bool,
}

/// A chunk to be served, and the page that vouches for it.
pub(super) struct Served {
    pub(super) chunk: Chunk,
    pub(super) page: Arc<SignedPage>,
}

impl Reception {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    // For the sink's worker.

    /// The bundle is open, with what an earlier run left of it.
    pub(super) fn opened(&self, have: ChunkSet, pages: impl IntoIterator<Item = SignedPage>) {
        let mut state = self.state();
        (state.have, state.open) = (have, true);
        let pages = pages.into_iter().map(|page| (page.number, Arc::new(page)));
        state.pages = pages.collect();
    }

    /// A page was taken; `lost` chunks were made void by it.
    pub(super) fn took_page(&self, page: SignedPage, lost: &[u32]) {
        let mut state = self.state();
        state.pages.insert(page.number, Arc::new(page));
        for chunk in lost {
            state.have.remove(*chunk);
        }
        // It was that of other pages.
        state.root = None;
    }

    /// A chunk was written.
    pub(super) fn wrote(&self, index: u32) {
        self.state().have.insert(index);
    }

    /// Somebody cut files short: this is what is left.
    pub(super) fn has_only(&self, have: ChunkSet) {
        self.state().have = have;
    }

    /// The root has been checked.
    pub(super) fn rooted(&self, root: Root, signature: Signature) {
        self.state().root = Some((root, signature));
    }

    /// The root, once it has been checked.
    pub(super) fn root(&self) -> Option<(Root, Signature)> {
        self.state().root
    }

    pub(super) fn needs_reader(&self) -> bool {
        self.state().reader.is_none()
    }

    pub(super) fn readable(&self, reader: ChunkReader) {
        self.state().reader = Some(Arc::new(reader));
    }

    /// Nothing more is taken from, or given to, anybody.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.over = true;
        state.reader = None;
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().over
    }

    /// Tells the coordinator, as the worker's thread may: waiting for it.
    pub(super) fn report(&self, event: RelayEvent) {
        let _ = self.reports.blocking_send(event);
    }

    /// Takes no more from a neighbour, and names it to the coordinator.
    pub(super) fn distrust(&self, peer: &DeviceId, reason: &str) -> RelayEvent {
        self.shun(peer);
        tracing::warn!(%peer, origin = %self.bundle.0, reason, "a neighbour is dropped");
        RelayEvent::Distrusted {
            peer: peer.clone(),
            bundle: self.bundle.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Takes no more from a neighbour.
    pub(super) fn shun(&self, peer: &DeviceId) {
        self.state().shunned.insert(peer.clone());
    }

    pub(super) fn shuns(&self, peer: &DeviceId) -> bool {
        self.state().shunned.contains(peer)
    }

    // For links.

    /// Tells the coordinator, from a link.
    pub(super) async fn tell(&self, event: RelayEvent) {
        let _ = self.reports.send(event).await;
    }

    /// The way to the sink; nothing when it wants no more.
    pub(super) fn feed(&self) -> Option<mpsc::Sender<Work>> {
        self.work.upgrade().filter(|_| !self.is_over())
    }

    /// What can be asked of us, and the root where it is known.
    pub(super) fn offered(&self) -> (ChunkSet, Option<(Root, Signature)>) {
        let state = self.state();
        if state.reader.is_none() {
            return (ChunkSet::new(self.chunks), None);
        }
        let mut offered = state.have.clone();
        for chunk in &state.unreadable {
            offered.remove(*chunk);
        }
        (offered, state.root)
    }

    /// Chooses up to `most` chunks to ask a neighbour for. Nobody else is asked for them before
    /// they are released.
    pub(super) fn claim(&self, theirs: &ChunkSet, most: usize) -> Vec<u32> {
        let mut state = self.state();
        if !state.open {
            return Vec::new();
        }
        let picked = exchange::pick(&state.have, &state.asked, theirs, most);
        state.asked.extend(&picked);
        picked
    }

    /// Chunks that a neighbour has brought, or will not bring.
    pub(super) fn release(&self, chunks: impl IntoIterator<Item = u32>) {
        let mut state = self.state();
        for chunk in chunks {
            state.asked.remove(&chunk);
        }
    }

    /// Reads a chunk to serve it; waits for the disk. Nothing when it is not, or no longer,
    /// there.
    pub(super) fn read(&self, index: u32) -> Option<Served> {
        let (reader, page) = {
            let state = self.state();
            let page = state.pages.get(&(index / PAGE_CHUNKS));
            let there = state.have.contains(index) && !state.unreadable.contains(&index);
            (state.reader.clone().filter(|_| there)?, Arc::clone(page?))
        };
        match reader.read(index, &page) {
            Ok(Some(chunk)) => return Some(Served { chunk, page }),
            Ok(None) => debug!(index, "a chunk has changed on the disk"),
            Err(error) => debug!(index, %error, "a chunk cannot be read"),
        }
        self.state().unreadable.insert(index);
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::BundleId;
    use crate::protocol::identity::Identity;
    use crate::protocol::manifest::Kind;

    #[test]
    fn of_what_is_whole_the_oldest_is_let_go() {
        let origin = Identity::from_seed(&[1; 32]);
        let start = |n: usize| StartTransfer {
            handle: 1,
            id: TransferId([n as u8; 16]),
            bundle: BundleId([n as u8; 32]),
            origin: origin.device_id(),
            key: origin.public_key(),
            name: "x".to_owned(),
            kind: Kind::File,
            size: 1,
            files: 1,
            chunk_size: 65_536,
            chunks: 1,
            mime: String::new(),
            head_size: 1,
            root: None,
            root_sig: None,
            series: None,
            hand_in: false,
            pages_first: false,
        };
        let all = Receptions::default();
        let (queue, _work) = mpsc::channel(1);
        let begun: Vec<_> = (0..=MAX_FINISHED)
            .map(|n| all.begin(&start(n), queue.downgrade()))
            .collect();
        for reception in &begun[..MAX_FINISHED] {
            all.ended(reception, true);
        }
        assert!(all.get(&begun[0].bundle).is_some());
        all.ended(&begun[MAX_FINISHED], true);
        assert!(all.get(&begun[0].bundle).is_none() && begun[0].is_over());
        for reception in &begun[1..] {
            assert!(all.get(&reception.bundle).is_some());
        }
        // What came to nothing is not kept at all.
        let failed = all.begin(&start(99), queue.downgrade());
        all.ended(&failed, false);
        assert!(all.get(&failed.bundle).is_none());
    }
}
