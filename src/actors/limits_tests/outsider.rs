//! Somebody who speaks the true wire by hand: a signaling connection, and a link on which he shows who
//! he is.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::api::Event;
use super::super::swarm_tests::Running;
use crate::net::link::{Channel, Incoming, Link, LinkEvent, LinkOptions};
use crate::protocol::handshake::{Handshake, Local, Role, Step};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::Identity;
use crate::protocol::message::Message;
use crate::protocol::proof::{self, Subject, Terms};
use crate::protocol::sdp::SdpFacts;
use crate::protocol::signal::{Signal, SignalKind};

pub fn outsider() -> Identity {
    Identity::from_seed(&[77; 32])
}

fn random<const N: usize>() -> [u8; N] {
    super::super::peer::random().unwrap()
}

fn id_of(node: &Running) -> DeviceId {
    let Event::Listening { device_id, .. } = node.node.listening() else {
        panic!()
    };
    device_id
}

/// A signaling connection.
pub struct Wire(BufReader<TcpStream>);

impl Wire {
    pub async fn to(node: &Running) -> Self {
        let at = (Ipv4Addr::LOCALHOST, node.port());
        Self(BufReader::new(TcpStream::connect(at).await.unwrap()))
    }

    pub async fn say(&mut self, peer_id: DeviceId, data: String) {
        let kind = SignalKind::Offer;
        let signal = Signal {
            kind,
            peer_id,
            data,
        };
        let line = signal.encode();
        self.0.get_mut().write_all(line.as_ref()).await.unwrap();
    }

    /// The next description or error; candidates are left out.
    pub async fn hear(&mut self) -> Signal {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).await.unwrap(), 0, "closed");
            let signal = Signal::parse(line.trim().as_bytes()).unwrap();
            if signal.kind != SignalKind::Ice {
                return signal;
            }
        }
    }
}

/// A link to a node on which the handshake is done, by hand.
pub struct Line {
    _link: Link,
    _events: mpsc::Receiver<LinkEvent>,
    channel: Channel,
}

impl Line {
    pub async fn to(node: &Running) -> Self {
        let line = Self::without_handshake(node).await;
        let (line, mut handshake, hello) = line;
        line.channel.send_text(&hello.encode()).await.unwrap();
        loop {
            let message = line.hear().await.expect("a handshake");
            let step = handshake.on_message(message, line.channel.peer_certificate());
            match step.unwrap() {
                Step::Send(message) => line.say(&message).await,
                Step::Done { .. } => return line,
            }
        }
    }

    pub async fn without_handshake(node: &Running) -> (Self, Handshake, Message) {
        let (me, other) = (outsider(), id_of(node));
        let options = LinkOptions {
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            loopback: true,
            ice: Vec::new(),
            udp_buffer: 1 << 20,
            mtu: 1400,
            send_buffer: 1 << 20,
            ice_disconnected: Duration::from_secs(5),
            ice_failed: Duration::from_secs(5),
        };
        let (link, sdp, mut events) = Link::offer(&options, None).await.unwrap();
        let issued = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let terms = Terms {
            to: &other,
            subject: Subject::Offer { session: random() },
            nonce: random(),
            issued: issued.as_secs(),
            lifetime: 300,
        };
        let (signed, _) = proof::attach(&sdp, &me, &terms).unwrap();
        let mut wire = Wire::to(node).await;
        wire.say(me.device_id(), signed).await;
        let answer = wire.hear().await;
        assert_eq!(answer.kind, SignalKind::Answer, "{}", answer.data);
        link.apply_answer(answer.data).await.unwrap();
        let channel = match events.recv().await.unwrap() {
            LinkEvent::Open(channel) => channel,
            other => panic!("{other:?}"),
        };
        let local = Local {
            role: Role::Offerer,
            identity: &me,
            name: "outsider",
            device: "desktop",
            cert: SdpFacts::read(&sdp).unwrap().fingerprint,
            nonce: random(),
            run: None,
        };
        let (handshake, hello) = Handshake::new(&local, other);
        let line = Self {
            _link: link,
            _events: events,
            channel,
        };
        (line, handshake, hello)
    }

    pub async fn say(&self, message: &Message) {
        // Where the other side has ended it, what it said before is still to be read.
        let _ = self.channel.send_text(&message.encode()).await;
    }

    /// The next message; nothing when the link has ended.
    pub async fn hear(&self) -> Option<Message> {
        match self.channel.receive().await? {
            Incoming::Text(text) => Some(Message::decode(&text).unwrap()),
            Incoming::Binary(bytes) => panic!("{bytes:?}"),
        }
    }

    /// The next text message, whatever frames come before it; nothing when the link has ended.
    pub async fn hear_text(&self) -> Option<Message> {
        loop {
            if let Incoming::Text(text) = self.channel.receive().await? {
                return Some(Message::decode(&text).unwrap());
            }
        }
    }
}
