//! A device without a program: a key that signals, connects and proves itself as the protocol
//! wants, with the library's own parts, and from there on says what a test makes it say.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::BytesMut;
use handout::net::link::{Channel, Incoming, Link, LinkEvent, LinkOptions};
use handout::protocol::frame::Frame;
use handout::protocol::handshake::{Handshake, Local, Role, Step};
use handout::protocol::id::DeviceId;
use handout::protocol::identity::Identity;
use handout::protocol::message::Message;
use handout::protocol::proof::{self, Expected, OfferHash, Session, Subject, Terms};
use handout::protocol::replay::ReplayCache;
use handout::protocol::sdp::SdpFacts;
use handout::protocol::signal::{Signal, SignalKind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// What a step of the wire may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn link_options() -> LinkOptions {
    LinkOptions {
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        loopback: true,
        ice: Vec::new(),
        udp_buffer: 1 << 20,
        mtu: 1400,
        send_buffer: 1 << 20,
        ice_disconnected: Duration::from_secs(5),
        ice_failed: Duration::from_secs(5),
    }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// A device of a test.
#[derive(Clone)]
pub struct Device {
    pub identity: Identity,
}

/// A signaling connection.
struct Signaling {
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
}

impl Signaling {
    fn over(stream: TcpStream) -> Self {
        let (lines, out) = stream.into_split();
        let lines = BufReader::new(lines).lines();
        Self { lines, out }
    }

    /// The next description, or why there is none.
    async fn description(&mut self) -> Result<Signal, String> {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.map_err(|_| "nothing was signaled")?;
            let line = line.map_err(|error| error.to_string())?;
            let line = line.ok_or("the signaling connection was closed")?;
            let signal = Signal::parse(line.as_bytes()).map_err(|error| error.to_string())?;
            match signal.kind {
                SignalKind::Offer | SignalKind::Answer => return Ok(signal),
                SignalKind::Error => return Err(signal.data),
                SignalKind::Ice | SignalKind::Rotation => {}
            }
        }
    }
}

impl Device {
    pub fn new(seed: u8) -> Self {
        let identity = Identity::from_seed(&[seed; 32]);
        Self { identity }
    }

    pub fn id(&self) -> DeviceId {
        self.identity.device_id()
    }

    fn sign(&self, sdp: &str, to: &DeviceId, subject: Subject) -> (String, OfferHash) {
        let terms = Terms {
            to,
            subject,
            nonce: random(),
            issued: now(),
            lifetime: 300,
        };
        proof::attach(sdp, &self.identity, &terms).unwrap()
    }

    async fn write(&self, signaling: &mut Signaling, kind: SignalKind, data: String) {
        let peer_id = self.id();
        let signal = Signal {
            kind,
            peer_id,
            data,
        };
        // A reader that has refused may have closed already; it has said why.
        let _ = signaling.out.write_all(signal.encode().as_bytes()).await;
    }

    /// Connects to the node `to`, which listens on this port, and goes through the handshake.
    ///
    /// # Errors
    /// What the node says, or that it says nothing.
    pub async fn connect(&self, to: &DeviceId, port: u16) -> Result<Wire, String> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        let mut signaling = Signaling::over(stream.map_err(|error| error.to_string())?);
        let (link, sdp, events) = Link::offer(&link_options(), None).await.unwrap();
        let session: Session = random();
        let (offer, hash) = self.sign(&sdp, to, Subject::Offer { session });
        self.write(&mut signaling, SignalKind::Offer, offer).await;
        let answer = signaling.description().await?;
        let expected = Expected::Answer {
            session,
            offer: hash,
        };
        self.verify(&answer, to, expected)?;
        let applied = link.apply_answer(answer.data).await;
        applied.map_err(|error| error.to_string())?;
        self.prove(link, events, Role::Offerer, &sdp, to, Some(signaling))
            .await
    }

    /// Connects to the node `to`, which has a link to the device that introduced us: what is
    /// signaled goes over that.
    ///
    /// # Errors
    /// What the node says, or that it says nothing.
    pub async fn connect_through(&self, introducer: &Wire, to: &DeviceId) -> Result<Wire, String> {
        let (link, sdp, events) = Link::offer(&link_options(), None).await.unwrap();
        let session: Session = random();
        let (data, hash) = self.sign(&sdp, to, Subject::Offer { session });
        let offer = Message::Signal {
            with: self.id(),
            passed: true,
            kind: SignalKind::Offer,
            data,
        };
        introducer.say(&offer).await;
        let answer = introducer.wait_for(|message| match message {
            Message::Signal {
                with,
                passed: false,
                kind,
                data,
            } if with == self.id() && kind != SignalKind::Ice => Some((kind, data)),
            _ => None,
        });
        let (kind, data) = answer.await.ok_or("the introducer's link was closed")?;
        if kind == SignalKind::Error {
            return Err(data);
        }
        let answer = Signal {
            kind,
            peer_id: to.clone(),
            data,
        };
        let expected = Expected::Answer {
            session,
            offer: hash,
        };
        self.verify(&answer, to, expected)?;
        let applied = link.apply_answer(answer.data).await;
        applied.map_err(|error| error.to_string())?;
        self.prove(link, events, Role::Offerer, &sdp, to, None)
            .await
    }

    /// Makes one connection, and offers it this many times, each time with a proof of its own.
    /// Returns what the node answers to each.
    pub async fn offer_again_and_again(
        &self,
        to: &DeviceId,
        port: u16,
        times: usize,
    ) -> Vec<Result<Signal, String>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        let mut signaling = Signaling::over(stream.unwrap());
        let (_link, sdp, _events) = Link::offer(&link_options(), None).await.unwrap();
        let mut answers = Vec::new();
        for _ in 0..times {
            let session: Session = random();
            let (offer, _) = self.sign(&sdp, to, Subject::Offer { session });
            self.write(&mut signaling, SignalKind::Offer, offer).await;
            answers.push(signaling.description().await);
        }
        answers
    }

    /// Takes the next connection that the node `from` makes to this listener.
    ///
    /// # Errors
    /// What the node says, or that it says nothing.
    pub async fn accept(&self, listener: &TcpListener, from: &DeviceId) -> Result<Wire, String> {
        let accepted = timeout(PATIENCE, listener.accept()).await;
        let accepted = accepted.map_err(|_| "nobody connected")?;
        let (stream, _) = accepted.map_err(|error| error.to_string())?;
        let mut signaling = Signaling::over(stream);
        let offer = signaling.description().await?;
        let verified = self.verify(&offer, from, Expected::Offer)?;
        let answered = Link::answer(&link_options(), None, offer.data).await;
        let (link, sdp, events) = answered.map_err(|error| error.to_string())?;
        let subject = Subject::Answer {
            session: verified.session,
            offer: verified.offer,
        };
        let (answer, _) = self.sign(&sdp, from, subject);
        self.write(&mut signaling, SignalKind::Answer, answer).await;
        self.prove(link, events, Role::Answerer, &sdp, from, Some(signaling))
            .await
    }

    fn verify(
        &self,
        signal: &Signal,
        from: &DeviceId,
        expected: Expected,
    ) -> Result<proof::Verified, String> {
        let (ours, mut seen) = (self.id(), ReplayCache::new(4));
        proof::verify(&signal.data, from, &ours, expected, now(), 300, &mut seen)
            .map_err(|error| error.to_string())
    }

    async fn prove(
        &self,
        link: Link,
        mut events: mpsc::Receiver<LinkEvent>,
        role: Role,
        sdp: &str,
        other: &DeviceId,
        signaling: Option<Signaling>,
    ) -> Result<Wire, String> {
        let opened = async {
            match events.recv().await {
                Some(LinkEvent::Open(channel)) => Ok(channel),
                Some(LinkEvent::Candidate(line)) => Err(format!("nobody was asked for {line}")),
                Some(LinkEvent::Lost(reason)) => Err(reason.into_owned()),
                None => Err("the connection is gone".to_owned()),
            }
        };
        let opened = timeout(PATIENCE, opened).await;
        let channel = opened.map_err(|_| "the channel did not open")??;
        let local = Local {
            role,
            identity: &self.identity,
            name: "a device of a test",
            device: "desktop",
            cert: SdpFacts::read(sdp).unwrap().fingerprint,
            nonce: random(),
            run: None,
        };
        let (mut handshake, hello) = Handshake::new(&local, other.clone());
        let wire = Wire {
            channel,
            _link: link,
            events: Mutex::new(events),
            _signaling: signaling,
        };
        wire.say(&hello).await;
        loop {
            let Some(Heard::Said(message)) = wire.hear().await else {
                return Err("the channel closed before the handshake was over".to_owned());
            };
            match handshake.on_message(message, wire.channel.peer_certificate()) {
                Ok(Step::Send(message)) => _ = wire.say(&message).await,
                Ok(Step::Done { .. }) => return Ok(wire),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// What came over a wire.
#[derive(Debug)]
pub enum Heard {
    Said(Message),
    Sent(Frame),
}

/// An open channel with a node that knows whom it talks to. Closed when dropped.
pub struct Wire {
    pub channel: Channel,
    _link: Link,
    events: Mutex<mpsc::Receiver<LinkEvent>>,
    _signaling: Option<Signaling>,
}

impl Wire {
    /// Says it. False when the channel is closed, or takes nothing any more.
    pub async fn say(&self, message: &Message) -> bool {
        self.text(&message.encode()).await
    }

    /// Says any text.
    pub async fn text(&self, text: &str) -> bool {
        // A flood must not keep the rest of the test from running.
        tokio::task::yield_now().await;
        self.channel.send_text(text).await.is_ok()
    }

    /// Sends any bytes.
    pub async fn send(&self, bytes: BytesMut) -> bool {
        tokio::task::yield_now().await;
        self.channel.send(bytes).await.is_ok()
    }

    /// What comes next; nothing when the channel is closed. What a node says is in order, or the
    /// test fails.
    pub async fn hear(&self) -> Option<Heard> {
        // What ends a connection may get lost; then it is the silence that tells.
        let heard = async {
            let mut events = self.events.lock().await;
            tokio::select! {
                heard = self.channel.receive() => heard,
                Some(LinkEvent::Lost(reason)) = events.recv() => {
                    println!("a link of a test: {reason}");
                    None
                }
            }
        };
        let heard = timeout(PATIENCE, heard).await;
        Some(match heard.expect("the node says nothing")? {
            Incoming::Text(text) => Heard::Said(Message::decode(&text).unwrap()),
            Incoming::Binary(bytes) => Heard::Sent(Frame::decode(bytes).unwrap()),
        })
    }

    /// Waits for a message; what else comes is dropped. Nothing when the channel is closed first.
    pub async fn wait_for<T>(&self, take: impl Fn(Message) -> Option<T>) -> Option<T> {
        loop {
            if let Heard::Said(message) = self.hear().await?
                && let Some(taken) = take(message)
            {
                return Some(taken);
            }
        }
    }

    /// Waits until the node has closed the channel. Returns what it said before.
    pub async fn closed(&self) -> Vec<Message> {
        let mut said = Vec::new();
        while let Some(heard) = self.hear().await {
            if let Heard::Said(message) = heard {
                said.push(message);
            }
        }
        said
    }
}
