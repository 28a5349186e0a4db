//! One link's conversation in the native dialect: the handshake, then a reader that serves what
//! comes in and a sender that works off what goes out.

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use crate::content::{Before, HeadShelf};
use crate::net::link::{Channel, Incoming, LinkError};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::conduct::{Talk, TooMuch};
use crate::protocol::frame::{Frame, Handle};
use crate::protocol::handshake::{Binding, Handshake, HandshakeError, Peer, Step};
use crate::protocol::id::{BundleId, DeviceId, Root, RunId, TransferId};
use crate::protocol::identity::PublicKey;
use crate::protocol::introduction::Introduction;
use crate::protocol::message::{Code, Message, StartTransfer};
use crate::protocol::pairing::PairMessage;
use crate::protocol::policy::Terms;
use crate::protocol::signal::SignalKind;
use crate::protocol::window::WindowLimits;

use super::credit::{self, Credit};
use super::guest;
use super::incoming::{Receiving, Run};
use super::neighbours::Neighbours;
use super::outgoing::{self, SendJob, Shared, Word};
use super::pacing::Pacer;
use super::progress::Progress;
use super::reception::{BundleKey, Receptions};
use super::serving;

/// Both proofs must be there within this time (PROTOCOL.md §6).
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The coordinator decides about an offer within this time, or it counts as busy.
const DECISION_LIMIT: Duration = Duration::from_secs(20);

/// What a session is run with.
pub struct SessionOptions {
    /// The device on the other side, as it signaled.
    pub peer: DeviceId,
    /// The handshake to go through and its first message; `None` for a plain peer.
    pub handshake: Option<(Handshake, Message)>,
    /// We made this connection's offer: our transfers have odd handles.
    pub offerer: bool,
    /// Bounds of the window of bytes under way.
    pub window: WindowLimits,
    /// A receiver that takes nothing for this long is dead.
    pub stall: Duration,
    /// How often what has arrived is made durable.
    pub checkpoint: Checkpointing,
    /// What is being received, on whatever link.
    pub receptions: Receptions,
    /// How fast all links together may send.
    pub upload: Pacer,
    /// How fast all links together may receive.
    pub download: Pacer,
}

/// When what has arrived is made durable.
#[derive(Debug, Clone, Copy)]
pub struct Checkpointing {
    /// At the latest after this time,
    pub interval: Duration,
    /// or after this many bytes.
    pub bytes: u64,
}

/// What the device at the other end may do on this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is let in.
    Member,
    /// It may only ask to be let in.
    Guest,
    /// It was introduced: it may exchange chunks with us, of the bundles that it was introduced
    /// for.
    Neighbour,
    /// We ask it to let us in. It may already count us as let in: what it says besides waits.
    Asked,
}

/// Held while something that the other side has said is dealt with.
pub type Handled = oneshot::Sender<()>;

/// What becomes of a guest.
#[derive(Debug)]
pub struct PairStep {
    /// What to say to it, in order.
    pub say: Vec<PairMessage>,
    /// And then?
    pub then: PairThen,
}

/// How first contact goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairThen {
    /// The other side has to say something, and soon.
    Listen,
    /// A person has to decide, here or there.
    AwaitPerson,
    /// It is a member from here on.
    Admit,
    /// It comes to nothing: close the link.
    Close,
}

/// What a session tells its owner. Few: none per chunk.
#[derive(Debug)]
pub enum SessionEvent {
    /// The other side has proven who it is (or is plain: then there is no key). Nothing it says
    /// counts before the reply.
    Up {
        /// Its name for people, unchecked text.
        name: String,
        /// `desktop` or `mobile`, unchecked text.
        device_type: String,
        /// Its key, and what names this connection.
        proven: Option<(PublicKey, Binding)>,
        /// This start of its program; proven with the key.
        run: Option<RunId>,
        /// Where it is said what it may do; dropped when it may do nothing.
        reply: oneshot::Sender<Standing>,
    },
    /// A step of first contact, by a guest or by whom we have let in before.
    Paired {
        /// What.
        message: PairMessage,
        /// The session reads on when this is dropped. The answer is a command: then all words
        /// of the coordinator arrive in its order.
        handled: Handled,
    },
    /// The other side introduces a device; unchecked.
    Introduce(Box<Introduction>),
    /// It takes that back.
    EndIntroduction {
        /// For which of its bundles.
        bundle: BundleId,
        /// For which device.
        peer: DeviceId,
        /// Why, for people; unchecked text.
        reason: String,
    },
    /// Signaling between it, or us, and a third device.
    Signal {
        /// The third device.
        with: DeviceId,
        /// It wrote this, and it is for us. Else it is for that device.
        passed: bool,
        /// What `data` is.
        kind: SignalKind,
        /// SDP, candidate, or a text for people.
        data: String,
    },
    /// The other side offers a bundle.
    Offered {
        /// What it offers; sizes and names unchecked, origin and key consistent.
        offer: Box<StartTransfer>,
        /// Where the decision goes.
        reply: oneshot::Sender<OfferReply>,
    },
    /// Chunks of a transfer have begun to move.
    Active {
        /// Which.
        id: TransferId,
    },
    /// These chunks of an incoming transfer are durable.
    Checkpoint {
        /// Which.
        id: TransferId,
        /// What may be recorded.
        have: ChunkSet,
    },
    /// An incoming bundle is verified and in its place.
    Received {
        /// Which transfer.
        id: TransferId,
        /// What was verified.
        root: Root,
        /// Where it is.
        path: PathBuf,
        /// Digest over sizes and times, to recognise it later.
        stat: [u8; 32],
        /// Where it is said that this is on record. The sender is told after that: it may close
        /// the link at once, and what its session has told is then no longer heard.
        recorded: oneshot::Sender<()>,
    },
    /// A transfer is over, or rests.
    Ended {
        /// Which.
        id: TransferId,
        /// How.
        end: TransferEnd,
    },
    /// The session has ended; nothing comes after this.
    Over(Result<(), SessionError>),
    /// The receiver of a paused outgoing transfer wants it to go on.
    Wanted {
        /// Which.
        id: TransferId,
    },
}

/// How a transfer's run over a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferEnd {
    /// Verified and on disk at the receiver.
    Complete {
        /// What was verified.
        root: Root,
        /// It had been there before.
        already: bool,
    },
    /// It rests until somebody resumes it.
    Paused {
        /// By this device.
        by_us: bool,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Somebody decided against it.
    Cancelled {
        /// By this device.
        by_us: bool,
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// It went wrong.
    Failed {
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

/// The decision about an offered bundle.
#[derive(Debug)]
pub enum OfferReply {
    /// Take it.
    Accept {
        /// Where it goes, and what it must be.
        terms: Box<Terms>,
        /// What an earlier session recorded as durable.
        checkpoint: Option<ChunkSet>,
        /// Where the heads of complete bundles are kept.
        heads: HeadShelf,
        /// Where its progress shows.
        progress: Arc<Progress>,
        /// Where earlier bundles of the same origin lie, whose chunks may be in it too.
        before: Before,
    },
    /// It is here already.
    Complete {
        /// The root of what is here.
        root: Root,
    },
    /// Not wanted.
    Refuse {
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Not now.
    Pause {
        /// Why.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

/// An order to stop a transfer.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Which.
    pub id: TransferId,
    /// Why.
    pub code: Code,
    /// Why, for people and for the other side.
    pub reason: String,
    /// Cancelled, not paused.
    pub for_good: bool,
}

impl Stop {
    pub(super) fn message(&self, handle: Handle) -> Message {
        let (code, reason) = (self.code, self.reason.clone());
        if self.for_good {
            Message::Cancel {
                handle,
                code,
                reason,
            }
        } else {
            Message::Pause {
                handle,
                code,
                reason,
            }
        }
    }

    pub(super) fn end(self) -> TransferEnd {
        let (code, reason) = (self.code, self.reason);
        if self.for_good {
            TransferEnd::Cancelled {
                by_us: true,
                code,
                reason,
            }
        } else {
            TransferEnd::Paused {
                by_us: true,
                code,
                reason,
            }
        }
    }
}

/// What a session's owner asks of it.
pub enum SessionCommand {
    /// Send a bundle.
    Send(SendJob),
    /// Stop a transfer, in either direction.
    Stop(Stop),
    /// Ask the other side to go on with an incoming transfer.
    Resume(TransferId),
    /// First contact goes on: the guest has said something, or a person has decided.
    Pair(PairStep),
    /// Exchange chunks of a bundle that both sides were introduced for.
    Exchange(BundleKey),
    /// No longer do that.
    EndExchange(BundleKey),
    /// Say something about introductions.
    Say(Box<Message>),
    /// Tell when everything said so far has arrived.
    Flush(oneshot::Sender<()>),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The other side did not prove who it is.
    #[error("the other side did not prove who it is: {0}")]
    Handshake(#[from] HandshakeError),
    /// The proofs did not come in time.
    #[error("the other side did not prove who it is within {} s", HANDSHAKE_LIMIT.as_secs())]
    HandshakeTimeout,
    /// It may do nothing here.
    #[error("it is not authorized")]
    NotLetIn,
    /// The other side broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(String),
    /// The other side broke the rules between neighbours.
    #[error("as a neighbour, {0}")]
    Neighbour(&'static str),
    /// The other side says, or sends, what is not true.
    #[error("the other side sent falsehoods: {0}")]
    Falsehood(String),
    /// A part of our own side failed.
    #[error("this device's part of the program failed: {0}")]
    Failed(String),
    /// A bundle has arrived, and could not be recorded.
    #[error("what has arrived was not recorded within {} s", DECISION_LIMIT.as_secs())]
    Unrecorded,
    /// Our own side was too busy to decide about an offer.
    #[error("no decision about an offer within {} s", DECISION_LIMIT.as_secs())]
    Undecided,
    /// The link is gone.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl SessionError {
    /// True when the other side has done what no program that follows the protocol does.
    pub fn is_misconduct(&self) -> bool {
        matches!(
            self,
            Self::Protocol(_) | Self::Falsehood(_) | Self::Neighbour(_)
        )
    }
}

/// Runs a session until its channel closes, its owner drops the commands, or the other side
/// breaks the protocol. That it has ended is the last of its events, so that none before is
/// overtaken.
pub async fn run(
    channel: Channel,
    options: SessionOptions,
    commands: mpsc::Receiver<SessionCommand>,
    events: mpsc::Sender<SessionEvent>,
) {
    let outcome = converse(channel, options, commands, events.clone()).await;
    let _ = events.send(SessionEvent::Over(outcome)).await;
}

async fn converse(
    channel: Channel,
    options: SessionOptions,
    mut commands: mpsc::Receiver<SessionCommand>,
    events: mpsc::Sender<SessionEvent>,
) -> Result<(), SessionError> {
    let verified = options.handshake.is_some();
    let standing = if let Some((handshake, hello)) = options.handshake {
        let proven = prove(&channel, handshake, hello);
        let (peer, binding) = timeout(HANDSHAKE_LIMIT, proven)
            .await
            .map_err(|_| SessionError::HandshakeTimeout)??;
        standing_of(
            &events,
            peer.name,
            peer.device,
            Some((peer.key, binding)),
            peer.run,
        )
        .await?
    } else {
        standing_of(&events, options.peer.to_string(), String::new(), None, None).await?
    };
    let (standing, early) = match standing {
        Standing::Guest | Standing::Asked => {
            let early = guest::admit(&channel, standing, &mut commands, &events).await?;
            (Standing::Member, early)
        }
        Standing::Member | Standing::Neighbour => (standing, Vec::new()),
    };
    let credit = Arc::new(Credit::new(options.peer.clone(), options.download));
    let shared = Arc::new(Shared {
        channel: channel.clone(),
        peer: options.peer.clone(),
        upload: options.upload,
        credit: Arc::clone(&credit),
        limits: options.window,
        stall: options.stall,
        flow: Mutex::new(None),
        paused: Mutex::default(),
        events: events.clone(),
        first_handle: if options.offerer { 1 } else { 2 },
        handles: AtomicU32::new(if options.offerer { 1 } else { 2 }),
    });
    // The coordinator hands over one job at a time; words are answered at once.
    let (jobs, job_queue) = mpsc::channel(4);
    let (words, word_queue) = mpsc::channel(64);
    let sender = tokio::spawn(outgoing::run(Arc::clone(&shared), job_queue, word_queue));
    let _ends_with_session = AbortOnDrop(sender.abort_handle());
    let mut sender = sender;
    let (orders, order_queue) = mpsc::channel(serving::MAX_ORDERS);
    let mut server = tokio::spawn(serving::run(Arc::clone(&shared), order_queue));
    let _ends_too = AbortOnDrop(server.abort_handle());
    let mut crediting = tokio::spawn(credit::run(Arc::clone(&shared)));
    let _ends_as_well = AbortOnDrop(crediting.abort_handle());
    let (sink_events, mut from_sinks) = mpsc::channel(64);
    let mut receiving = Receiving::new(
        options.peer.clone(),
        verified,
        shared.clone(),
        options.checkpoint,
        sink_events,
        options.receptions.clone(),
    );
    let mut neighbours = Neighbours::new(
        options.peer,
        standing,
        Arc::clone(&shared),
        options.receptions,
        orders,
    );
    let mut talk = Talk::default();
    let mut still = std::pin::pin!(channel.stands_still(options.stall));
    let conversation = async {
        for message in early {
            if let Some(message) = neighbours.on_message(message).await? {
                on_message(message, &mut receiving, &shared, &words, &mut talk).await?;
            }
        }
        loop {
            tokio::select! {
                // In this order: reports of the disk are drained before more is given to it, so
                // that neither side ever waits for the other.
                biased;
                Some(event) = from_sinks.recv() => receiving.on_sink(event).await?,
                command = commands.recv() => match command {
                    None => return Ok(()),
                    Some(SessionCommand::Send(job)) => {
                        if let Err(error) = jobs.try_send(job) {
                            warn!(%error, "a transfer waits for the next session");
                        }
                    }
                    Some(SessionCommand::Stop(stop)) => {
                        if !receiving.stop(&stop).await? {
                            let _ = words.send(Word::Stop(stop)).await;
                        }
                    }
                    Some(SessionCommand::Resume(id)) => receiving.resume(id).await?,
                    Some(SessionCommand::Exchange(bundle)) => neighbours.begin(bundle).await?,
                    Some(SessionCommand::EndExchange(bundle)) => neighbours.end(&bundle).await?,
                    Some(SessionCommand::Say(message)) => shared.say(&message).await?,
                    // Among members it decides about no link.
                    Some(SessionCommand::Pair(step)) => guest::say(&channel, step.say).await?,
                    Some(SessionCommand::Flush(done)) => {
                        let channel = channel.clone();
                        tokio::spawn(async move {
                            channel.flushed().await;
                            let _ = done.send(());
                        });
                    }
                },
                () = neighbours.due() => neighbours.tick().await?,
                () = receiving.due() => receiving.look()?,
                ended = &mut sender => return ended_with(ended),
                ended = &mut server => return ended_with(ended),
                ended = &mut crediting => return ended_with(ended),
                still = &mut still => return Err(still.into()),
                message = channel.receive() => match message {
                    None => return Ok(()),
                    Some(Incoming::Binary(bytes)) => {
                        let frame = Frame::decode(bytes).map_err(|e| SessionError::Protocol(e.to_string()))?;
                        if let Some(frame) = neighbours.on_frame(frame).await? {
                            receiving.on_frame(frame).await?;
                        }
                    }
                    Some(Incoming::Text(text)) => {
                        let message = Message::decode(&text).map_err(|e| SessionError::Protocol(e.to_string()))?;
                        talk.hear(&message, now())?;
                        if let Some(message) = neighbours.on_message(message).await? {
                            on_message(message, &mut receiving, &shared, &words, &mut talk).await?;
                        }
                    }
                },
            }
        }
    };
    let ended = conversation.await;
    if let Err(error) = &ended {
        neighbours.blame(error).await;
    }
    ended
}

impl From<TooMuch> for SessionError {
    fn from(what: TooMuch) -> Self {
        Self::Protocol(what.to_string())
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// What the end of one of a session's tasks means for the session.
fn ended_with(
    ended: Result<Result<(), SessionError>, tokio::task::JoinError>,
) -> Result<(), SessionError> {
    match ended {
        Ok(outcome) => outcome,
        Err(panicked) => Err(SessionError::Failed(format!(
            "the sending task failed: {panicked}"
        ))),
    }
}

/// Asks the session's owner what the device may do.
async fn standing_of(
    events: &mpsc::Sender<SessionEvent>,
    name: String,
    device_type: String,
    proven: Option<(PublicKey, Binding)>,
    run: Option<RunId>,
) -> Result<Standing, SessionError> {
    let (reply, standing) = oneshot::channel();
    let up = SessionEvent::Up {
        name,
        device_type,
        proven,
        run,
        reply,
    };
    events.send(up).await.map_err(|_| LinkError::Closed)?;
    standing.await.map_err(|_| SessionError::NotLetIn)
}

/// Asks the session's owner about an offer.
pub(super) async fn decide(
    events: &mpsc::Sender<SessionEvent>,
    offer: Box<StartTransfer>,
) -> Result<OfferReply, SessionError> {
    let (reply, decision) = oneshot::channel();
    let asked = async {
        events
            .send(SessionEvent::Offered { offer, reply })
            .await
            .ok()?;
        decision.await.ok()
    };
    // A node that cannot decide has no use for the link; the sender comes again.
    timeout(DECISION_LIMIT, asked)
        .await
        .ok()
        .flatten()
        .ok_or(SessionError::Undecided)
}

/// Has the session's owner record that a bundle is in its place.
pub(super) async fn record(
    events: &mpsc::Sender<SessionEvent>,
    id: TransferId,
    root: Root,
    path: PathBuf,
    stat: [u8; 32],
) -> Result<(), SessionError> {
    let (recorded, is_recorded) = oneshot::channel();
    let told = async {
        let received = SessionEvent::Received {
            id,
            root,
            path,
            stat,
            recorded,
        };
        events.send(received).await.ok()?;
        is_recorded.await.ok()
    };
    timeout(DECISION_LIMIT, told)
        .await
        .ok()
        .flatten()
        .ok_or(SessionError::Unrecorded)
}

async fn on_message(
    message: Message,
    receiving: &mut Receiving,
    shared: &Shared,
    words: &mpsc::Sender<Word>,
    talk: &mut Talk,
) -> Result<(), SessionError> {
    let word = match message {
        Message::Ack { handle, bytes } => {
            if !shared.acknowledge(handle, bytes) {
                talk.vain(now())?;
            }
            return Ok(());
        }
        Message::StartTransfer(start) => {
            if receiving.on_start(start).await? == Run::Again {
                talk.turn(now())?;
            }
            return Ok(());
        }
        Message::EndOfChunks {
            handle,
            root,
            root_sig,
        } => {
            return receiving.on_end(handle, root, root_sig).await;
        }
        // Pause and cancel may come from either side; whose transfer is meant shows in whether
        // the handle is odd.
        Message::Pause {
            handle,
            code,
            reason,
        } => {
            if receiving.on_rest(handle, code, &reason, false).await? {
                return Ok(());
            }
            Word::Paused(handle, code, reason)
        }
        Message::Cancel {
            handle,
            code,
            reason,
        } => {
            if receiving.on_rest(handle, code, &reason, true).await? {
                return Ok(());
            }
            Word::Cancelled(handle, code, reason)
        }
        Message::StartTransferAcknowledged(ack) => Word::Acknowledged(ack),
        Message::Need { handle, have } => Word::Need(handle, have),
        Message::TransferComplete { handle, root } => Word::Complete(handle, root),
        Message::Resume { handle } => Word::Resumed(handle),
        // Taken care of before.
        Message::Introduce(_)
        | Message::EndIntroduction { .. }
        | Message::Signal { .. }
        | Message::Have(_)
        | Message::Want { .. } => return Ok(()),
        // It was let in before, on our side alone.
        Message::Pair(message) => {
            return guest::ask(&shared.events, message).await;
        }
        Message::Hello(_) | Message::Proof { .. } => {
            return Err(SessionError::Protocol("a second handshake".to_owned()));
        }
    };
    // Back-pressure: whoever floods us with words waits until the sender has read them.
    words
        .send(word)
        .await
        .map_err(|_| SessionError::Link(LinkError::Closed))
}

async fn prove(
    channel: &Channel,
    mut handshake: Handshake,
    hello: Message,
) -> Result<(Peer, Binding), SessionError> {
    channel.send_text(&hello.encode()).await?;
    loop {
        let message = match channel.receive().await {
            None => return Err(LinkError::Closed.into()),
            Some(Incoming::Binary(_)) => {
                return Err(SessionError::Protocol(
                    "data before the handshake".to_owned(),
                ));
            }
            Some(Incoming::Text(text)) => {
                Message::decode(&text).map_err(|e| SessionError::Protocol(e.to_string()))?
            }
        };
        match handshake.on_message(message, channel.peer_certificate())? {
            Step::Send(message) => channel.send_text(&message.encode()).await?,
            Step::Done { peer, binding } => return Ok((peer, binding)),
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
