//! A link through a rendezvous, for where WebRTC fails: WebSocket messages that the server passes
//! on unread, since they are sealed with Noise (PROTOCOL.md §17).
//!
//! Its descriptions are SDP texts like those of WebRTC, with the hash of a fresh Noise key where
//! the hash of a DTLS certificate stands, and the name of the meeting point. So the proof in them,
//! and the handshake that signs both hashes, vouch for it as they vouch for any link.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use sha2::{Digest, Sha256};
use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::{Channel, Incoming, LinkError, LinkEvent, LinkOptions, RelayOptions};
use crate::net::rendezvous::{Socket, why_closed};
use crate::protocol::names::printable;
use crate::protocol::sdp::{SdpFacts, attributes};

/// The attribute that names the meeting point.
const ATTRIBUTE: &str = "handout-relay";
/// Characters of that name: 160 random bits.
const NAME: usize = 32;
const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"handout relayed link 1";
/// Most bytes of one Noise message (the Noise framework, section 3).
const MAX_NOISE: usize = 65_535;
const TAG: usize = 16;
/// Most bytes of a message that come in one piece, behind the byte that says what it is.
const PIECE: usize = MAX_NOISE - TAG - 1;
/// Most bytes of a message that is taken, in all its pieces.
const MAX_INCOMING: usize = 262_144;
/// Messages that wait for whoever reads; then the rendezvous is read no further.
const WAITING: usize = 16;
/// How long the other side may take to come, and for the Noise handshake.
const MEETING: Duration = Duration::from_secs(60);
/// How long one message may take to be written.
const WRITING: Duration = Duration::from_secs(60);
/// How often a sign of life is sent; the rendezvous closes what is silent.
const PING: Duration = Duration::from_secs(15);
/// What a piece is: its kind, and whether more of its message follows.
const TEXT: u8 = 0;
const BINARY: u8 = 1;
const MORE: u8 = 0x80;

/// The name of the meeting point that a description speaks of; nothing where it is one for WebRTC.
pub fn meeting_point(sdp: &str) -> Option<&str> {
    let (_, name) = attributes(sdp).find(|(name, _)| *name == ATTRIBUTE)?;
    let fits = name.len() == NAME && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    fits.then_some(name)
}

/// One relayed link: closed when dropped.
pub(super) struct Relayed {
    /// What starts it once the other side's description is known; gone when it has been started.
    start: SyncMutex<Option<(Start, oneshot::Receiver<()>)>>,
    /// Dropping it ends the tasks.
    _alive: oneshot::Sender<()>,
}

struct Start {
    relay: RelayOptions,
    name: String,
    key: Vec<u8>,
    send_buffer: usize,
    events: mpsc::Sender<LinkEvent>,
}

type Made = (Relayed, String, mpsc::Receiver<LinkEvent>);

impl Relayed {
    /// Makes our side and its offer.
    pub(super) fn offer(options: &LinkOptions, relay: RelayOptions) -> Result<Made, LinkError> {
        Self::make(options, relay, random_name()?, "actpass")
    }

    /// Makes our side, the answer to an offer, and goes to the meeting point.
    pub(super) fn answer(
        options: &LinkOptions,
        relay: RelayOptions,
        offer: &str,
    ) -> Result<Made, LinkError> {
        let name = meeting_point(offer).ok_or(LinkError::NoRelay)?.to_owned();
        let made = Self::make(options, relay, name, "active")?;
        made.0.meet(offer, false)?;
        Ok(made)
    }

    /// Goes to the meeting point, since the answer is there.
    pub(super) fn apply_answer(&self, answer: &str) -> Result<(), LinkError> {
        self.meet(answer, true)
    }

    fn make(
        options: &LinkOptions,
        relay: RelayOptions,
        name: String,
        setup: &str,
    ) -> Result<Made, LinkError> {
        let keys = builder()?.generate_keypair().map_err(sealing)?;
        let sdp = describe(&Sha256::digest(&keys.public).into(), setup, &name)?;
        let (events, receiver) = mpsc::channel(8);
        let (alive, ended) = oneshot::channel();
        let start = Start {
            relay,
            name,
            key: keys.private,
            send_buffer: options.send_buffer,
            events,
        };
        let relayed = Self {
            start: SyncMutex::new(Some((start, ended))),
            _alive: alive,
        };
        Ok((relayed, sdp, receiver))
    }

    fn meet(&self, theirs: &str, first: bool) -> Result<(), LinkError> {
        let facts = SdpFacts::read(theirs).map_err(|_| LinkError::NoRelay)?;
        let start = self.start.lock().ok().and_then(|mut start| start.take());
        let (start, ended) = start.ok_or(LinkError::Closed)?;
        tokio::spawn(run(start, ended, facts.fingerprint, first));
        Ok(())
    }
}

/// Everything of a relayed link, from the meeting to its end.
async fn run(start: Start, mut ended: oneshot::Receiver<()>, expected: [u8; 32], first: bool) {
    let events = start.events.clone();
    let meeting = meet(&start, expected, first);
    let met = tokio::select! {
        met = timeout(MEETING, meeting) => met,
        _ = &mut ended => return,
    };
    let (socket, noise, peer_key) = match met {
        Ok(Ok(met)) => met,
        Ok(Err(error)) => return lost(&events, error.to_string()),
        Err(_) => {
            return lost(
                &events,
                "nobody came to the rendezvous's meeting point".to_owned(),
            );
        }
    };
    let (outgoing, queue) = mpsc::unbounded_channel();
    let (sender, incoming) = mpsc::channel(WAITING);
    let shared = Arc::new(Shared {
        room: Semaphore::new(start.send_buffer),
        limit: start.send_buffer,
        waiting: AtomicU64::new(0),
        closed: AtomicBool::new(false),
    });
    let pipe = Pipe {
        outgoing,
        incoming: Mutex::new(incoming),
        shared: Arc::clone(&shared),
    };
    let channel = Channel::relayed(pipe, PIECE, peer_key);
    if events.send(LinkEvent::Open(channel)).await.is_err() {
        return;
    }
    let (sink, stream) = socket.split();
    let reason = tokio::select! {
        reason = read(stream, &noise, &sender) => reason,
        reason = write(sink, &noise, queue, &shared) => reason,
        _ = &mut ended => return shared.close(),
    };
    lost(&events, reason);
    shared.close();
}

fn lost(events: &mpsc::Sender<LinkEvent>, reason: String) {
    debug!(%reason, "a relayed link is over");
    let _ = events.try_send(LinkEvent::Lost(printable(&reason).into()));
}

/// Goes to the meeting point and shakes hands there. Returns the hash of the other side's key.
async fn meet(
    start: &Start,
    expected: [u8; 32],
    first: bool,
) -> Result<(Socket, StatelessTransportState, [u8; 32]), LinkError> {
    let path = format!("/api/relay/{}", start.name);
    let mut socket = start.relay.server.socket(&path).await?;
    // The server says when both are there.
    while !matches!(next(&mut socket).await?, Message::Text(_)) {}
    let builder = builder()?
        .local_private_key(&start.key)
        .and_then(|builder| builder.prologue(PROLOGUE))
        .map_err(sealing)?;
    let mut noise = match first {
        true => builder.build_initiator(),
        false => builder.build_responder(),
    }
    .map_err(sealing)?;
    while !noise.is_handshake_finished() {
        match noise.is_my_turn() {
            true => say(&mut socket, &mut noise).await?,
            false => hear(&mut socket, &mut noise).await?,
        }
    }
    let key: [u8; 32] = Sha256::digest(noise.get_remote_static().unwrap_or_default()).into();
    if key != expected {
        return Err(LinkError::Impostor);
    }
    let noise = noise.into_stateless_transport_mode().map_err(sealing)?;
    Ok((socket, noise, key))
}

async fn say(socket: &mut Socket, noise: &mut HandshakeState) -> Result<(), LinkError> {
    let mut message = [0; 256];
    let length = noise.write_message(&[], &mut message).map_err(sealing)?;
    let bytes = Bytes::copy_from_slice(&message[..length]);
    socket
        .send(Message::Binary(bytes))
        .await
        .map_err(|error| LinkError::Relay(why_closed(Some(&error))))
}

async fn hear(socket: &mut Socket, noise: &mut HandshakeState) -> Result<(), LinkError> {
    loop {
        if let Message::Binary(message) = next(socket).await? {
            let mut payload = [0; 256];
            noise
                .read_message(&message, &mut payload)
                .map_err(sealing)?;
            return Ok(());
        }
    }
}

async fn next(socket: &mut Socket) -> Result<Message, LinkError> {
    match socket.next().await {
        Some(Ok(Message::Close(frame))) => Err(LinkError::Relay(match frame {
            Some(frame) if !frame.reason.is_empty() => frame.reason.to_string(),
            _ => why_closed(None),
        })),
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(LinkError::Relay(why_closed(Some(&error)))),
        None => Err(LinkError::Relay(why_closed(None))),
    }
}

struct Shared {
    /// Bytes that may be sent before somebody has to wait.
    room: Semaphore,
    limit: usize,
    /// Bytes that were sent and not written.
    waiting: AtomicU64,
    closed: AtomicBool,
}

impl Shared {
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.room.close();
    }
}

/// The two directions of a relayed link.
pub(super) struct Pipe {
    /// Bounded by `Shared::room`.
    outgoing: mpsc::UnboundedSender<Incoming>,
    incoming: Mutex<mpsc::Receiver<Incoming>>,
    shared: Arc<Shared>,
}

impl Pipe {
    pub(super) async fn send(&self, message: Incoming) -> Result<(), LinkError> {
        let room = bytes_of(&message).len().clamp(1, self.shared.limit) as u32;
        let permit = self.shared.room.acquire_many(room).await;
        permit.map_err(|_| LinkError::Closed)?.forget();
        self.shared
            .waiting
            .fetch_add(u64::from(room), Ordering::Relaxed);
        self.outgoing.send(message).map_err(|_| LinkError::Closed)
    }

    pub(super) async fn receive(&self) -> Option<Incoming> {
        self.incoming.lock().await.recv().await
    }

    /// Bytes that have not been handed to the network; nothing when the link is closed.
    pub(super) fn outstanding(&self) -> Option<u64> {
        let closed = self.shared.closed.load(Ordering::Relaxed);
        (!closed).then(|| self.shared.waiting.load(Ordering::Relaxed))
    }
}

fn bytes_of(message: &Incoming) -> &Bytes {
    match message {
        Incoming::Text(bytes) | Incoming::Binary(bytes) => bytes,
    }
}

/// Seals and writes what is to be sent; why it ended.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    noise: &StatelessTransportState,
    mut queue: mpsc::UnboundedReceiver<Incoming>,
    shared: &Shared,
) -> String {
    let mut nonce = 0;
    let mut plain = BytesMut::with_capacity(MAX_NOISE);
    let mut alive = tokio::time::interval_at(Instant::now() + PING, PING);
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            _ = alive.tick() => {
                match timeout(WRITING, sink.send(Message::Ping(Bytes::new()))).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => return why_closed(Some(&error)),
                    Err(_) => return "the rendezvous takes nothing any more".to_owned(),
                }
            }
        };
        let Some(message) = message else {
            let _ = sink.close().await;
            return "closed here".to_owned();
        };
        let kind = match &message {
            Incoming::Text(_) => TEXT,
            Incoming::Binary(_) => BINARY,
        };
        let bytes = bytes_of(&message);
        let mut pieces: VecDeque<&[u8]> = bytes.chunks(PIECE).collect();
        if pieces.is_empty() {
            pieces.push_back(&[]);
        }
        let by = Instant::now() + WRITING;
        while let Some(piece) = pieces.pop_front() {
            let more = if pieces.is_empty() { 0 } else { MORE };
            plain.clear();
            plain.extend_from_slice(&[kind | more]);
            plain.extend_from_slice(piece);
            let mut sealed = vec![0; plain.len() + TAG];
            if let Err(error) = noise.write_message(nonce, &plain, &mut sealed) {
                return sealing(error).to_string();
            }
            nonce += 1;
            match timeout_at(by, sink.send(Message::Binary(sealed.into()))).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return why_closed(Some(&error)),
                Err(_) => return "the rendezvous takes nothing any more".to_owned(),
            }
        }
        let room = bytes.len().clamp(1, shared.limit);
        shared.waiting.fetch_sub(room as u64, Ordering::Relaxed);
        shared.room.add_permits(room);
    }
}

/// Reads and opens what comes in; why it ended.
async fn read(
    mut stream: SplitStream<Socket>,
    noise: &StatelessTransportState,
    incoming: &mpsc::Sender<Incoming>,
) -> String {
    let mut nonce = 0;
    let mut whole = BytesMut::new();
    loop {
        let sealed = match stream.next().await {
            Some(Ok(Message::Binary(sealed))) => sealed,
            Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                return frame.reason.to_string();
            }
            Some(Ok(Message::Close(_))) | None => return why_closed(None),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return why_closed(Some(&error)),
        };
        if sealed.len() <= TAG || sealed.len() > MAX_NOISE {
            return "the rendezvous passed on what is not of this link".to_owned();
        }
        let mut plain = vec![0; sealed.len() - TAG];
        if noise.read_message(nonce, &sealed, &mut plain).is_err() {
            return "what came through the rendezvous was changed on its way".to_owned();
        }
        nonce += 1;
        let Some((kind, piece)) = plain.split_first() else {
            continue;
        };
        if whole.len() + piece.len() > MAX_INCOMING {
            return "the other side sends messages that are too long".to_owned();
        }
        whole.extend_from_slice(piece);
        if kind & MORE != 0 {
            continue;
        }
        let bytes = whole.split().freeze();
        let message = match *kind {
            TEXT => Incoming::Text(bytes),
            BINARY => Incoming::Binary(bytes),
            _ => return "the other side sends what this version does not know".to_owned(),
        };
        if incoming.send(message).await.is_err() {
            return "closed here".to_owned();
        }
    }
}

fn builder() -> Result<Builder<'static>, LinkError> {
    PATTERN
        .parse()
        .map(Builder::new)
        .map_err(|error: snow::Error| sealing(error))
}

fn sealing(error: snow::Error) -> LinkError {
    LinkError::Relay(format!("the relayed link could not be sealed: {error}"))
}

fn random_name() -> Result<String, LinkError> {
    let bytes: [u8; NAME * 5 / 8] = random()?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase())
}

fn random<const N: usize>() -> Result<[u8; N], LinkError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| LinkError::Relay(format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

/// A description of our side.
fn describe(fingerprint: &[u8; 32], setup: &str, name: &str) -> Result<String, LinkError> {
    let hex: Vec<String> = fingerprint.iter().map(|b| format!("{b:02X}")).collect();
    let token = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let (ufrag, pwd) = (token(&random::<8>()?), token(&random::<16>()?));
    Ok(format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 {}\r\n\
         a=group:BUNDLE 0\r\na={ATTRIBUTE}:{name}\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
         a=setup:{setup}\r\na=mid:0\r\na=sctp-port:5000\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n",
        hex.join(":")
    ))
}

#[cfg(test)]
mod tests;
