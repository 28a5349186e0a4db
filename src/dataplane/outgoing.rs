//! The sending half of a link's pump: one transfer after another, each from the shared source to
//! the channel, within the window.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::content::{Source, SourceError};
use crate::net::link::{Channel, LinkError};
use crate::protocol::allowance::Lane;
use crate::protocol::chunkset::{ChunkSet, ChunkSetError};
use crate::protocol::frame::{ChunkHeader, Handle, encode_hashes, encode_head, pieces};
use crate::protocol::id::{BroadcastId, DeviceId, Root, TransferId};
use crate::protocol::manifest::{Head, Kind};
use crate::protocol::message::{Acknowledgement, Code, Decision, Message, StartTransfer};
use crate::protocol::series::Series;
use crate::protocol::window::{Window, WindowLimits};

use super::credit::Credit;
use super::pacing::Pacer;
use super::progress::Progress;
use super::session::{SessionError, SessionEvent, Stop, TransferEnd};

/// A receiver may have to hash what it has before it answers, and to flush a large file before
/// it confirms; beyond this it counts as stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// END_OF_CHUNKS rounds before a receiver that always needs more is given up.
const MAX_ROUNDS: u32 = 8;
/// What the last words to a device that is dropped may take.
const PARTING: Duration = Duration::from_secs(1);
/// Paused transfers of one link that the receiver can ask to resume.
const MAX_RESTING: usize = 64;

/// A transfer to be sent over a link.
#[derive(Clone)]
pub struct SendJob {
    /// The transfer.
    pub id: TransferId,
    /// Where its bytes come from, shared by all receivers.
    pub source: Source,
    /// Of which series it is a version.
    pub series: Option<Series>,
    /// It is given back to a device that hands out.
    pub hand_in: bool,
    /// Where its progress shows.
    pub progress: Arc<Progress>,
    /// The broadcast whose allowance it uses.
    pub broadcast: Option<BroadcastId>,
}

/// The window of what runs under one handle, fed by the reader and waited for by the sender.
pub(super) struct Flow {
    window: Mutex<Window>,
    moved: Notify,
    /// Nothing more is to be sent, and no ACK will come.
    closed: AtomicBool,
    /// Chunks that the receiver got from others meanwhile.
    elsewhere: Mutex<ChunkSet>,
}

impl Flow {
    /// A window over a bundle of `chunks` chunks.
    pub(super) fn new(limits: WindowLimits, chunks: u32) -> Self {
        Self {
            window: Mutex::new(Window::new(limits)),
            moved: Notify::new(),
            closed: AtomicBool::new(false),
            elsewhere: Mutex::new(ChunkSet::new(chunks)),
        }
    }

    /// Waits until the window has room, or it is closed; a receiver that takes nothing for
    /// `stall` is dead.
    pub(super) async fn room_for(&self, bytes: u64, stall: Duration) -> Result<(), LinkError> {
        while !self.is_closed() && !self.with(|window| window.admits(bytes)) {
            timeout(stall, self.moved.notified())
                .await
                .map_err(|_| LinkError::Stalled(stall))?;
        }
        Ok(())
    }

    /// Nobody takes what runs under this handle any more: whoever waits for room goes on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.moved.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Notes that so much is on its way now; true when an ACK is to be asked for.
    pub(super) fn sent(&self, bytes: u64, now: Instant) -> bool {
        self.with(|window| window.send(bytes, now))
    }

    fn is_elsewhere(&self, chunk: u32) -> bool {
        let elsewhere = self.elsewhere.lock();
        elsewhere
            .unwrap_or_else(PoisonError::into_inner)
            .contains(chunk)
    }

    fn heard_of_elsewhere(&self, have: &str) -> Result<(), ChunkSetError> {
        let mut elsewhere = self
            .elsewhere
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *elsewhere = ChunkSet::from_b64(have, elsewhere.count())?;
        Ok(())
    }

    fn with<R>(&self, act: impl FnOnce(&mut Window) -> R) -> R {
        act(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The other side has taken `bytes` in all. False when that is false, or no news.
    pub(super) fn acknowledge(&self, bytes: u64) -> bool {
        let moved = self.with(|window| {
            let before = window.under_way();
            window.acknowledge(bytes, Instant::now());
            window.under_way() < before
        });
        // A false or repeated count must not pass for progress.
        if moved {
            self.moved.notify_one();
        }
        moved
    }
}

/// What concerns the transfer that runs, or one that rests: from the other side or from our own.
/// All of them come one way, in order: what is said right after a pause finds the transfer resting.
#[derive(Debug)]
pub(super) enum Word {
    Acknowledged(Acknowledgement),
    Need(Handle, Option<String>),
    Complete(Handle, Option<Root>),
    /// The receiver wants it stopped for now.
    Paused(Handle, Code, String),
    /// The receiver will not have it.
    Cancelled(Handle, Code, String),
    /// The receiver of a resting one wants it to go on.
    Resumed(Handle),
    /// Our side stops it: say so to the receiver and leave.
    Stop(Stop),
}

/// What the sender and the reader of one link share.
pub(super) struct Shared {
    pub(super) channel: Channel,
    pub(super) peer: DeviceId,
    /// How fast bytes of bundles may leave, on all links together. Words are never held back.
    pub(super) upload: Pacer,
    /// How fast they may come in.
    pub(super) credit: Arc<Credit>,
    pub(super) limits: WindowLimits,
    pub(super) stall: Duration,
    /// Handle and window of the running transfer.
    pub(super) flow: Mutex<Option<(Handle, Arc<Flow>)>>,
    /// Transfers that the receiver may ask to resume: the newest few.
    pub(super) paused: Mutex<VecDeque<(Handle, TransferId)>>,
    pub(super) events: mpsc::Sender<SessionEvent>,
    pub(super) first_handle: Handle,
    pub(super) handles: AtomicU32,
}

impl Shared {
    /// The transfer that rests under `handle`.
    fn paused_as(&self, handle: Handle) -> Option<TransferId> {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused
            .iter()
            .find(|(of, _)| *of == handle)
            .map(|(_, id)| *id)
    }

    /// The handle of a resting transfer that is now given up for good.
    fn take_resting(&self, id: TransferId, for_good: bool) -> Option<Handle> {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let at = paused
            .iter()
            .position(|(_, of)| *of == id)
            .filter(|_| for_good)?;
        paused.remove(at).map(|(handle, _)| handle)
    }

    /// Does what a word about a transfer that does not run asks for: one that rests, or is over.
    async fn on_resting(&self, word: Word) -> Result<(), LinkError> {
        let event = match word {
            Word::Cancelled(handle, code, reason) => {
                let Some(id) = self.paused_as(handle) else {
                    return Ok(());
                };
                self.take_resting(id, true);
                let by_us = false;
                let end = TransferEnd::Cancelled {
                    by_us,
                    code,
                    reason,
                };
                SessionEvent::Ended { id, end }
            }
            Word::Resumed(handle) => {
                let Some(id) = self.paused_as(handle) else {
                    return Ok(());
                };
                debug!(handle, "the receiver wants to go on");
                SessionEvent::Wanted { id }
            }
            Word::Stop(stop) => {
                return match self.take_resting(stop.id, stop.for_good) {
                    Some(handle) => self.say(&stop.message(handle)).await,
                    None => Ok(()),
                };
            }
            Word::Acknowledged(_) | Word::Need(..) | Word::Complete(..) | Word::Paused(..) => {
                return Ok(());
            }
        };
        self.events.send(event).await.map_err(|_| LinkError::Closed)
    }

    /// On whose account bytes go that are sent on this link.
    pub(super) fn lane(&self, broadcast: Option<BroadcastId>) -> Lane {
        let device = self.peer.clone();
        Lane { device, broadcast }
    }

    fn rests(&self, handle: Handle, id: TransferId) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.retain(|(_, of)| *of != id);
        if paused.len() == MAX_RESTING {
            paused.pop_front();
        }
        paused.push_back((handle, id));
    }

    /// A handle for something that we send.
    pub(super) fn take_handle(&self) -> Handle {
        self.handles.fetch_add(2, Ordering::Relaxed)
    }

    /// True when transfers under `handle` are ours to send.
    pub(super) fn is_ours(&self, handle: Handle) -> bool {
        handle % 2 == self.first_handle % 2
    }

    fn flow_of(&self, handle: Handle) -> Option<Arc<Flow>> {
        let flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, flow) = flow.as_ref().filter(|(running, _)| *running == handle)?;
        Some(Arc::clone(flow))
    }

    /// The receiver has taken `bytes` of a transfer of ours. False when that is no news.
    pub(super) fn acknowledge(&self, handle: Handle, bytes: u64) -> bool {
        self.flow_of(handle)
            .is_some_and(|flow| flow.acknowledge(bytes))
    }

    /// The receiver of a transfer of ours names chunks that it got from others.
    pub(super) fn heard_of_elsewhere(
        &self,
        handle: Handle,
        have: &str,
    ) -> Result<(), SessionError> {
        let heard = self
            .flow_of(handle)
            .map(|flow| flow.heard_of_elsewhere(have));
        heard
            .unwrap_or(Ok(()))
            .map_err(|error| SessionError::Protocol(error.to_string()))
    }

    pub(super) async fn say(&self, message: &Message) -> Result<(), LinkError> {
        self.channel.send_text(&message.encode()).await
    }

    /// Waits until the last words before the link ends have arrived, or could have.
    pub(super) async fn part(&self) {
        let _ = timeout(PARTING, self.channel.flushed()).await;
    }
}

/// Why a transfer's run over this link ended early.
enum Ended {
    /// The link is of no more use.
    Link(LinkError),
    /// The transfer is over, or rests.
    Transfer(TransferEnd),
    /// The receiver says what cannot be: this transfer is over, and so is the link.
    Misconduct(&'static str),
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<SourceError> for Ended {
    fn from(error: SourceError) -> Self {
        Self::Transfer(TransferEnd::Failed {
            code: error.code(),
            reason: error.to_string(),
        })
    }
}

/// Sends jobs one after another until the link or the queue ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<SendJob>,
    mut words: mpsc::Receiver<Word>,
) -> Result<(), SessionError> {
    while let Some(job) = next_job(&shared, &mut jobs, &mut words).await? {
        shared.take_resting(job.id, true);
        let handle = shared.take_handle();
        let chunks = job.source.layout().chunk_count();
        let flow = Arc::new(Flow::new(shared.limits, chunks));
        *shared.flow.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((handle, Arc::clone(&flow)));
        let sender = Sender {
            shared: &shared,
            lane: shared.lane(job.broadcast),
            job: &job,
            handle,
            flow,
        };
        let mut misconduct = None;
        let end = match sender.send(&mut words).await {
            Ok(end) | Err(Ended::Transfer(end)) => end,
            Err(Ended::Link(error)) => return Err(error.into()),
            Err(Ended::Misconduct(what)) => {
                let (code, reason) = (Code::BadRequest, format!("the receiver {what}"));
                misconduct = Some(reason.clone());
                TransferEnd::Failed { code, reason }
            }
        };
        if let TransferEnd::Failed { code, reason } = &end {
            let (code, reason) = (*code, reason.clone());
            shared
                .say(&Message::Cancel {
                    handle,
                    code,
                    reason,
                })
                .await?;
        }
        if matches!(end, TransferEnd::Paused { .. }) {
            shared.rests(handle, job.id);
        }
        debug!(transfer = %job.id, ?end, "sending ended");
        let ended = SessionEvent::Ended { id: job.id, end };
        shared
            .events
            .send(ended)
            .await
            .map_err(|_| LinkError::Closed)?;
        if let Some(what) = misconduct {
            shared.part().await;
            return Err(SessionError::Falsehood(what));
        }
    }
    Ok(())
}

/// Waits for a job, and hears about transfers that rest.
async fn next_job(
    shared: &Shared,
    jobs: &mut mpsc::Receiver<SendJob>,
    words: &mut mpsc::Receiver<Word>,
) -> Result<Option<SendJob>, LinkError> {
    loop {
        tokio::select! {
            biased;
            job = jobs.recv() => return Ok(job),
            word = words.recv() => match word {
                Some(word) => shared.on_resting(word).await?,
                None => return Ok(None),
            }
        }
    }
}

struct Sender<'a> {
    shared: &'a Shared,
    lane: Lane,
    job: &'a SendJob,
    handle: Handle,
    flow: Arc<Flow>,
}

impl Sender<'_> {
    async fn send(&self, words: &mut mpsc::Receiver<Word>) -> Result<TransferEnd, Ended> {
        let source = &self.job.source;
        let mut sent_pages = ChunkSet::new(source.layout().page_count());
        let mut known_root = source.known_root();
        let (mut have, paced, pages_first) = loop {
            self.shared.say(&self.start(known_root)).await?;
            let acknowledged = self.answer(words, |word| match word {
                Word::Acknowledged(ack) if ack.handle == self.handle => Ok(ack),
                other => Err(other),
            });
            let ack = acknowledged.await?;
            match ack.status {
                Decision::Accepted => {
                    break (self.set_of(ack.have.as_deref())?, ack.acks, ack.pages_first);
                }
                Decision::Paused => return Ok(paused(ack.code, ack.reason)),
                Decision::Refused => {
                    let code = ack.code.unwrap_or(Code::Declined);
                    let reason = ack.reason.unwrap_or_else(|| "refused".to_owned());
                    return Ok(TransferEnd::Cancelled {
                        by_us: false,
                        code,
                        reason,
                    });
                }
                Decision::Complete => {
                    let (root, _) = source.root().await?;
                    if ack.root == Some(root) {
                        self.job.progress.restart(source.layout().total_size());
                        return Ok(TransferEnd::Complete {
                            root,
                            already: true,
                        });
                    }
                    if known_root == source.known_root() {
                        return Err(bad("says that it has it all, but not which"));
                    }
                    known_root = source.known_root();
                }
            }
        };
        let active = SessionEvent::Active { id: self.job.id };
        self.shared
            .events
            .send(active)
            .await
            .map_err(|_| LinkError::Closed)?;
        for message in encode_head(self.handle, source.head_bytes()) {
            let bytes = message.len() as u64;
            self.shared.upload.pass(&self.lane, bytes).await;
            self.shared.channel.send(message).await?;
        }
        if pages_first {
            tokio::select! {
                sent = self.send_pages(&mut sent_pages) => sent?,
                finished = self.wait_for(words, |word| self.finishes(word)) => {
                    return Ok(self.complete(finished?));
                }
            }
            let answer = self.answer(words, |word| match word {
                Word::Need(of, need) if of == self.handle => Ok(Err(need)),
                other => self.finishes(other).map(Ok),
            });
            match answer.await? {
                Ok(root) => return Ok(self.complete(root)),
                Err(need) => have = self.set_of(need.as_deref())?,
            }
        }
        for _ in 0..MAX_ROUNDS {
            self.job.progress.restart(self.bytes_of(&have));
            tokio::select! {
                streamed = self.stream(&have, &mut sent_pages, paced) => streamed?,
                // Neighbours may bring the last chunks, and the root, before we come to them.
                finished = self.wait_for(words, |word| self.finishes(word)) => {
                    return Ok(self.complete(finished?));
                }
            }
            let (root, root_sig) = source.root().await?;
            let handle = self.handle;
            self.shared
                .say(&Message::EndOfChunks {
                    handle,
                    root,
                    root_sig,
                })
                .await?;
            let answer = self.answer(words, |word| match word {
                Word::Need(of, need) if of == handle => Ok(Some(need)),
                Word::Complete(of, said) if of == handle && said.is_none_or(|r| r == root) => {
                    Ok(None)
                }
                other => Err(other),
            });
            match answer.await? {
                None => return Ok(self.complete(root)),
                Some(need) => have = self.set_of(need.as_deref())?,
            }
            info!(transfer = %self.job.id, missing = have.count() - have.len(), "sending again");
        }
        Err(bad(
            "still misses chunks after they were sent again and again",
        ))
    }

    /// The root, when a word says that the receiver has everything that it stands for.
    fn finishes(&self, word: Word) -> Result<Root, Word> {
        let root = self.job.source.known_root().map(|(root, _)| root);
        match (word, root) {
            (Word::Complete(of, Some(said)), Some(root)) if of == self.handle && said == root => {
                Ok(root)
            }
            (word, _) => Err(word),
        }
    }

    fn complete(&self, root: Root) -> TransferEnd {
        let size = self.job.source.layout().total_size();
        self.job.progress.restart(size);
        let already = false;
        TransferEnd::Complete { root, already }
    }

    fn start(&self, root: Option<(Root, crate::protocol::identity::Signature)>) -> Message {
        let source = &self.job.source;
        let (head, layout) = (source.head(), source.layout());
        Message::StartTransfer(Box::new(StartTransfer {
            handle: self.handle,
            id: self.job.id,
            bundle: source.bundle(),
            origin: source.origin().device_id(),
            key: source.origin().public_key(),
            name: head.name.as_str().to_owned(),
            kind: head.kind,
            size: layout.total_size(),
            files: head.files.len() as u32,
            chunk_size: head.chunk_size,
            chunks: layout.chunk_count(),
            mime: mime_of(head),
            head_size: source.head_bytes().len() as u32,
            root: root.map(|(root, _)| root),
            root_sig: root.map(|(_, signature)| signature),
            series: self.job.series.clone(),
            hand_in: self.job.hand_in,
            pages_first: true,
        }))
    }

    /// Sends every chunk that is not in `have`, and every page not sent yet.
    async fn stream(
        &self,
        have: &ChunkSet,
        sent_pages: &mut ChunkSet,
        paced: bool,
    ) -> Result<(), Ended> {
        let (source, layout) = (&self.job.source, self.job.source.layout());
        for page in 0..layout.page_count() {
            if layout.page_chunks(page).all(|chunk| have.contains(chunk)) {
                continue;
            }
            self.send_page(page, sent_pages).await?;
            for index in layout
                .page_chunks(page)
                .filter(|chunk| !have.contains(*chunk))
            {
                if self.flow.is_elsewhere(index) {
                    let span = layout.chunk(index);
                    let bytes = span.map_or(0, |span| u64::from(span.len));
                    self.job.progress.credit(bytes);
                    continue;
                }
                let chunk = source.chunk(index).await?;
                self.send_chunk(index, &chunk.bytes, chunk.xxh3, paced)
                    .await?;
            }
        }
        for page in 0..layout.page_count() {
            self.send_page(page, sent_pages).await?;
        }
        Ok(())
    }

    /// Sends all pages, for a receiver that may have the chunks from before.
    async fn send_pages(&self, sent: &mut ChunkSet) -> Result<(), Ended> {
        for page in 0..self.job.source.layout().page_count() {
            self.job.source.page_alone(page).await?;
            self.send_page(page, sent).await?;
        }
        Ok(())
    }

    async fn send_page(&self, page: u32, sent: &mut ChunkSet) -> Result<(), Ended> {
        if sent.insert(page) {
            let signed = self.job.source.page(page).await?;
            let message = encode_hashes(self.handle, page, &signed.signature, &signed.bytes);
            let bytes = message.len() as u64;
            self.shared.upload.pass(&self.lane, bytes).await;
            self.shared.channel.send(message).await?;
        }
        Ok(())
    }

    async fn send_chunk(
        &self,
        index: u32,
        bytes: &[u8],
        xxh3: u64,
        paced: bool,
    ) -> Result<(), Ended> {
        let length = bytes.len() as u32;
        let upload = &self.shared.upload;
        let message = upload.message(&self.lane, self.shared.channel.max_message());
        for (offset, size) in pieces(length, message) {
            let mut ack_now = false;
            if paced {
                self.flow
                    .room_for(u64::from(size), self.shared.stall)
                    .await?;
            }
            // After there is room: what may pass passes now, not in a burst later.
            upload.pass(&self.lane, u64::from(size)).await;
            if paced {
                ack_now = self.flow.sent(u64::from(size), Instant::now());
            }
            let header = ChunkHeader {
                handle: self.handle,
                index,
                offset,
                length,
                xxh3,
                ack_now,
            };
            let piece = &bytes[offset as usize..(offset + size) as usize];
            self.shared.channel.send(header.encode(piece)).await?;
            self.job.progress.advance(u64::from(size));
        }
        Ok(())
    }

    /// Waits for an answer, for as long as a busy receiver may need for one.
    async fn answer<T>(
        &self,
        words: &mut mpsc::Receiver<Word>,
        take: impl Fn(Word) -> Result<T, Word>,
    ) -> Result<T, Ended> {
        timeout(ANSWER_LIMIT, self.wait_for(words, take))
            .await
            .unwrap_or(Err(Ended::Link(LinkError::Silent {
                what: "an answer",
                waited: ANSWER_LIMIT,
            })))
    }

    /// Waits for the word that `take` accepts; pause, cancel and stop end the transfer at any
    /// time, and those that rest go on resting, or not.
    async fn wait_for<T>(
        &self,
        words: &mut mpsc::Receiver<Word>,
        take: impl Fn(Word) -> Result<T, Word>,
    ) -> Result<T, Ended> {
        loop {
            let word = words.recv().await.ok_or(Ended::Link(LinkError::Closed))?;
            let end = match take(word) {
                Ok(taken) => return Ok(taken),
                Err(Word::Paused(of, code, reason)) if of == self.handle => TransferEnd::Paused {
                    by_us: false,
                    code,
                    reason,
                },
                Err(Word::Cancelled(of, code, reason)) if of == self.handle => {
                    TransferEnd::Cancelled {
                        by_us: false,
                        code,
                        reason,
                    }
                }
                Err(Word::Stop(stop)) if stop.id == self.job.id => {
                    self.shared.say(&stop.message(self.handle)).await?;
                    stop.end()
                }
                Err(word) => {
                    self.shared.on_resting(word).await?;
                    continue;
                }
            };
            return Err(Ended::Transfer(end));
        }
    }

    fn set_of(&self, have: Option<&str>) -> Result<ChunkSet, Ended> {
        let count = self.job.source.layout().chunk_count();
        match have {
            None => Ok(ChunkSet::new(count)),
            Some(text) => ChunkSet::from_b64(text, count)
                .map_err(|_| bad("sent a bitmap that does not fit the bundle")),
        }
    }

    fn bytes_of(&self, have: &ChunkSet) -> u64 {
        let layout = self.job.source.layout();
        have.iter()
            .filter_map(|chunk| layout.chunk(chunk))
            .map(|span| u64::from(span.len))
            .sum()
    }
}

/// The MIME type of a single file, by its name; a tree is a folder (RFC 2046 has no word).
fn mime_of(head: &Head) -> String {
    match head.kind {
        Kind::Folder => "inode/directory".to_owned(),
        Kind::File => mime_guess::from_path(head.name.as_str())
            .first_or_octet_stream()
            .to_string(),
    }
}

fn bad(what: &'static str) -> Ended {
    Ended::Misconduct(what)
}

fn paused(code: Option<Code>, reason: Option<String>) -> TransferEnd {
    TransferEnd::Paused {
        by_us: false,
        code: code.unwrap_or(Code::Paused),
        reason: reason.unwrap_or_else(|| "paused by the receiver".to_owned()),
    }
}
