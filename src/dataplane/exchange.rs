//! One bundle that this device and a neighbour exchange chunks of: what each says it has, what we
//! have asked for, and what we owe.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::assembly::Assembler;
use super::credit::Account;
use super::outgoing::{Flow, Shared};
use super::patience::Patience;
use super::reception::{BundleKey, Reception, Receptions};
pub(super) use super::serving::Order;
use super::serving::Stall;
use super::session::SessionError;
use super::sink_worker::{From, Work};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::exchange::{Have, MAX_WANTED, runs, wanted};
use crate::protocol::frame::{Frame, Handle};
use crate::protocol::id::{DeviceId, Root};
use crate::protocol::identity::Signature;
use crate::protocol::manifest::PAGE_CHUNKS;
use crate::protocol::message::Message;

/// How often we say anew what we have, at most.
const SAY: Duration = Duration::from_secs(1);
/// Bytes of chunks that we ask a neighbour for at a time; at least two chunks.
const ASKED_BYTES: u32 = 2 << 20;
/// How often a neighbour may ask for everything.
const MAX_TURNS: u64 = 4;
/// Chunks that may come although nobody waits for them (any more).
const MAX_UNASKED: u32 = 4 * MAX_WANTED;
/// How often a neighbour may send each page: once under each handle, and anew when the origin
/// changes it.
const MAX_PAGE_TURNS: u64 = 16;

/// The exchange of one bundle on one link.
pub(super) struct Exchange {
    bundle: BundleKey,
    peer: DeviceId,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    stall: Arc<Stall>,
    /// Chunks that we were asked for so far.
    turns: u64,
    /// Chunks that came unasked, and pages, under whatever handle.
    unasked: u32,
    pages: u64,
    attached: Option<Attached>,
    theirs: Option<Theirs>,
}

/// Our side of the bundle, while we receive it or have it.
struct Attached {
    reception: Arc<Reception>,
    /// What we have said that we have.
    said: Option<(ChunkSet, bool)>,
    said_at: Instant,
    /// What we have asked for and not got yet.
    asked: Patience,
    /// Keeps the sink's worker going while the origin's link is away.
    work: Option<mpsc::Sender<Work>>,
}

/// Their side.
struct Theirs {
    handle: Handle,
    have: Have,
    set: Option<ChunkSet>,
    assembler: Option<Assembler>,
    account: Account,
    root: Option<(Root, Signature)>,
}

impl Exchange {
    pub(super) fn new(
        bundle: BundleKey,
        peer: DeviceId,
        shared: Arc<Shared>,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        let stall = Arc::new(Stall::new(
            shared.take_handle(),
            Flow::new(shared.limits, 0),
        ));
        Self {
            bundle,
            peer,
            shared,
            orders,
            stall,
            turns: 0,
            unasked: 0,
            pages: 0,
            attached: None,
            theirs: None,
        }
    }

    /// We serve under this handle.
    pub(super) fn serves_as(&self, handle: Handle) -> bool {
        self.stall.handle == handle
    }

    /// They serve under this handle.
    pub(super) fn is_served_as(&self, handle: Handle) -> bool {
        self.theirs.as_ref().is_some_and(|of| of.handle == handle)
    }

    /// They have taken so much. False when that is no news.
    pub(super) fn acknowledge(&self, bytes: u64) -> bool {
        self.stall.flow.acknowledge(bytes)
    }

    /// Finds our side of the bundle, says what is new of it, gives up on what does not come, and
    /// asks for more.
    pub(super) async fn tend(&mut self, receptions: &Receptions) -> Result<(), SessionError> {
        let stale = self
            .attached
            .as_ref()
            .is_some_and(|ours| ours.reception.is_over() || ours.reception.shuns(&self.peer));
        if stale {
            self.detach().await?;
        }
        if self.attached.is_none() {
            let found = receptions.get(&self.bundle);
            let Some(reception) = found.filter(|found| !found.shuns(&self.peer)) else {
                return Ok(());
            };
            let work = reception.feed();
            self.attached = Some(Attached {
                reception,
                said: None,
                said_at: Instant::now(),
                asked: Patience::new(self.shared.stall),
                work,
            });
            self.read_theirs()?;
            self.pass_root().await;
        }
        self.say_have().await?;
        let Some(ours) = &mut self.attached else {
            return Ok(());
        };
        if let Some(reason) = ours.asked.runs_out(Instant::now().into_std()) {
            let reception = Arc::clone(&ours.reception);
            self.detach().await?;
            let event = reception.distrust(&self.peer, reason);
            reception.tell(event).await;
            return Ok(());
        }
        self.ask().await
    }

    /// Lets go of our side, and tells the neighbour not to expect more.
    pub(super) async fn detach(&mut self) -> Result<(), SessionError> {
        self.stall.flow.close();
        let Some(ours) = self.attached.take() else {
            return Ok(());
        };
        ours.reception.release(ours.asked.iter());
        let nothing = ChunkSet::new(ours.reception.chunks);
        let said = ours.said.as_ref();
        if said.is_some_and(|(said, _)| !said.is_empty()) {
            self.say(&nothing, None).await?;
        }
        // The next reception, if there is one, is served under a handle of its own.
        let flow = Flow::new(self.shared.limits, 0);
        self.stall = Arc::new(Stall::new(self.shared.take_handle(), flow));
        Ok(())
    }

    async fn say(
        &self,
        have: &ChunkSet,
        root: Option<(Root, Signature)>,
    ) -> Result<(), SessionError> {
        let have = Have {
            handle: self.stall.handle,
            bundle: self.bundle.1,
            origin: self.bundle.0.clone(),
            have: have.to_b64(),
            root: root.map(|(root, _)| root),
            root_sig: root.map(|(_, signature)| signature),
        };
        Ok(self.shared.say(&Message::Have(Box::new(have))).await?)
    }

    async fn say_have(&mut self) -> Result<(), SessionError> {
        let Some(ours) = &mut self.attached else {
            return Ok(());
        };
        if ours.said.is_some() && ours.said_at.elapsed() < SAY {
            return Ok(());
        }
        let (mut have, root) = ours.reception.offered();
        // Neighbours drop whoever lets them wait: one that may send little promises nothing.
        if self.shared.upload.is_slow(&self.shared.lane(None)) {
            have = ChunkSet::new(ours.reception.chunks);
        }
        // The first one also tells that we take part.
        let now = (have, root.is_some());
        if ours.said.as_ref() == Some(&now) {
            return Ok(());
        }
        ours.said_at = Instant::now();
        ours.said = Some(now.clone());
        self.say(&now.0, root).await
    }

    /// The neighbour says what it has.
    pub(super) async fn on_have(&mut self, have: Have) -> Result<(), SessionError> {
        match &mut self.theirs {
            Some(theirs) if theirs.handle == have.handle => theirs.have = have,
            _ => {
                let handle = have.handle;
                self.theirs = Some(Theirs {
                    handle,
                    have,
                    set: None,
                    assembler: None,
                    account: Account::new(&self.shared.credit, handle),
                    root: None,
                });
            }
        }
        self.read_theirs()?;
        self.pass_root().await;
        self.ask().await
    }

    /// Reads what they have said, as soon as the bundle's size is known.
    fn read_theirs(&mut self) -> Result<(), SessionError> {
        let (Some(ours), Some(theirs)) = (&mut self.attached, &mut self.theirs) else {
            return Ok(());
        };
        let reception = &ours.reception;
        let set = ChunkSet::from_b64(&theirs.have.have, reception.chunks)
            .map_err(|_| SessionError::Neighbour("what it says that it has fits no such bundle"))?;
        if theirs.assembler.is_none() {
            theirs.assembler = Some(Assembler::new(reception.chunk_size, reception.chunks));
        }
        // What it no longer has, others are asked for.
        let gone: Vec<u32> = ours
            .asked
            .iter()
            .filter(|chunk| !set.contains(*chunk))
            .collect();
        for chunk in &gone {
            ours.asked.take_back(*chunk);
        }
        reception.release(gone);
        theirs.set = Some(set);
        Ok(())
    }

    /// Hands a root that is news to the sink.
    async fn pass_root(&mut self) {
        let (Some(ours), Some(theirs)) = (&self.attached, &mut self.theirs) else {
            return;
        };
        let named = theirs.have.root.zip(theirs.have.root_sig);
        if named == theirs.root || ours.reception.root().is_some() {
            return;
        }
        theirs.root = named;
        if let (Some((root, signature)), Some(work)) = (named, &ours.work) {
            let from = self.peer.clone();
            let _ = work
                .send(Work::Root {
                    root,
                    signature,
                    from,
                })
                .await;
        }
    }

    /// Asks for more when less than half of what may be under way is.
    async fn ask(&mut self) -> Result<(), SessionError> {
        let (Some(ours), Some(theirs)) = (&mut self.attached, &self.theirs) else {
            return Ok(());
        };
        let (Some(set), true) = (&theirs.set, ours.work.is_some()) else {
            return Ok(());
        };
        let most = (ASKED_BYTES / ours.reception.chunk_size).clamp(2, MAX_WANTED) as usize;
        if ours.asked.len() > most / 2 || ours.reception.shuns(&self.peer) {
            return Ok(());
        }
        let picked = ours.reception.claim(set, most - ours.asked.len());
        if picked.is_empty() {
            return Ok(());
        }
        ours.asked.ask(&picked, Instant::now().into_std());
        let (handle, chunks) = (theirs.handle, runs(&picked));
        Ok(self.shared.say(&Message::Want { handle, chunks }).await?)
    }

    /// The neighbour wants chunks. False when there is nothing to be had here.
    pub(super) fn on_want(&mut self, chunks: &[(u32, u32)]) -> Result<bool, SessionError> {
        let Some(ours) = &self.attached else {
            return Ok(false);
        };
        let reception = &ours.reception;
        let refuse = |what| Err(SessionError::Neighbour(what));
        let Some(chunks) = wanted(chunks, reception.chunks) else {
            return refuse("it asks for too much, or for nothing");
        };
        let many = chunks.len() as u32;
        if self.stall.waiting.load(Ordering::Relaxed) + many > MAX_WANTED {
            return refuse("it asks for too much at a time");
        }
        self.turns += u64::from(many);
        if self.turns > MAX_TURNS * u64::from(reception.chunks) + u64::from(MAX_WANTED) {
            return refuse("it asks for the same again and again");
        }
        for index in chunks {
            let order = Order {
                stall: Arc::clone(&self.stall),
                reception: Arc::clone(reception),
                index,
            };
            self.stall.waiting.fetch_add(1, Ordering::Relaxed);
            // There is room for everything that all exchanges may have waiting.
            if self.orders.try_send(order).is_err() {
                self.stall.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(true)
    }

    /// The neighbour sends something under its handle.
    pub(super) async fn on_frame(&mut self, frame: Frame) -> Result<(), SessionError> {
        let Some(theirs) = &mut self.theirs else {
            return Ok(());
        };
        let from = From::Neighbour(self.peer.clone());
        match frame {
            Frame::Head { .. } => Err(SessionError::Neighbour(
                "it sends a head, and heads come from their origin alone",
            )),
            Frame::Hashes {
                page,
                signature,
                bytes,
                ..
            } => {
                self.count_page()?;
                if let Some(work) = self.attached.as_ref().and_then(|ours| ours.work.as_ref()) {
                    let page = Work::Page {
                        number: page,
                        signature,
                        bytes,
                        from,
                    };
                    let _ = work.send(page).await;
                }
                Ok(())
            }
            Frame::Chunk { header, payload } => {
                let Some(assembler) = &mut theirs.assembler else {
                    return Ok(());
                };
                let whole = assembler
                    .take(header, payload)
                    .map_err(SessionError::Neighbour)?;
                let (handle, bytes) = (header.handle, assembler.taken);
                theirs.account.took(bytes);
                let ack = header.ack_now && theirs.account.acknowledge();
                if let Some(parts) = whole {
                    self.on_chunk(header.index, parts, from).await?;
                }
                if ack {
                    self.shared.say(&Message::Ack { handle, bytes }).await?;
                }
                Ok(())
            }
        }
    }

    async fn on_chunk(
        &mut self,
        index: u32,
        parts: Vec<bytes::Bytes>,
        from: From,
    ) -> Result<(), SessionError> {
        let Some(ours) = &mut self.attached else {
            return self.count_unasked();
        };
        if !ours.asked.came(index, Instant::now().into_std()) {
            return self.count_unasked();
        }
        if let Some(work) = &ours.work {
            let _ = work.send(Work::Chunk { index, parts, from }).await;
        }
        self.ask().await
    }

    fn count_page(&mut self) -> Result<(), SessionError> {
        self.pages += 1;
        let chunks = self.attached.as_ref().map_or(0, |of| of.reception.chunks);
        let most = MAX_PAGE_TURNS * u64::from(chunks.div_ceil(PAGE_CHUNKS) + 1);
        if self.pages > most {
            return Err(SessionError::Neighbour(
                "it sends the same hashes again and again",
            ));
        }
        Ok(())
    }

    /// A chunk that nobody waits for is let go: it may have been given up on.
    fn count_unasked(&mut self) -> Result<(), SessionError> {
        self.unasked += 1;
        if self.unasked > MAX_UNASKED {
            return Err(SessionError::Neighbour(
                "it sends chunks that nobody asked for",
            ));
        }
        Ok(())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stall.flow.close();
        if let Some(ours) = &self.attached {
            ours.reception.release(ours.asked.iter());
        }
    }
}
