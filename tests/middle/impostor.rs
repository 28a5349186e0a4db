//! A man in the middle with connections of his own: he answers the sender, or offers to the
//! receiver, with his own certificate, and goes as far as they let him.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use handout::net::link::{Channel, Incoming, Link, LinkEvent};
use handout::protocol::handshake::{Handshake, Local, Role, Step};
use handout::protocol::id::DeviceId;
use handout::protocol::identity::{Identity, PublicKey, b64};
use handout::protocol::message::{Acknowledgement, Decision, Message};
use handout::protocol::proof::{self, Expected, Subject, Terms};
use handout::protocol::replay::ReplayCache;
use handout::protocol::sdp::{SdpFacts, attributes};
use handout::protocol::signal::{Signal, SignalKind};
use tokio::sync::mpsc;

use crate::nodes::Rng;
use crate::nodes::device::link_options;
use crate::plan::{Plan, Side};
use crate::proxy::Ends;
use crate::tricks::{each_value, insert, line_of, without};

/// Channels that were opened to him as himself, a device that is let in.
pub static CHANNELS: AtomicUsize = AtomicUsize::new(0);
/// Channels that were opened to him as somebody else, or though he is not let in.
pub static FALSE_CHANNELS: AtomicUsize = AtomicUsize::new(0);
/// Handshakes in which he has proven who he is.
pub static PROVEN: AtomicUsize = AtomicUsize::new(0);

/// As whom he comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// As himself, with his own proof.
    OwnId,
    /// Under the victim's id, with his own proof.
    VictimId,
    /// Under the victim's id and key; the signature is his own.
    VictimKey,
    /// Under the victim's id, without a proof.
    NoProof,
    /// His description with the proof line of the victim's own.
    BorrowedProof,
    /// The victim's description, with his own facts added where a parser may find them.
    Smuggled,
}

pub const MASKS: [Mask; 6] = [
    Mask::OwnId,
    Mask::VictimId,
    Mask::VictimKey,
    Mask::NoProof,
    Mask::BorrowedProof,
    Mask::Smuggled,
];

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

pub struct Impostor {
    me: Identity,
    plan: Arc<Plan>,
    ends: Ends,
    rng: Rng,
    /// His connection with the receiver, which waits for its answer.
    offered: Option<Link>,
    /// His connection with the sender.
    answered: Option<Link>,
    offer: Option<Signal>,
}

impl Impostor {
    pub fn new(me: Identity, plan: Arc<Plan>, ends: Ends, rng: Rng) -> Self {
        let (offered, answered, offer) = (None, None, None);
        Self {
            me,
            plan,
            ends,
            rng,
            offered,
            answered,
            offer,
        }
    }

    pub async fn on_description(&mut self, from: Side, signal: &Signal) -> Vec<(Side, Vec<u8>)> {
        let needs_theirs = matches!(self.plan.mask, Mask::BorrowedProof | Mask::Smuggled);
        match (from, signal.kind) {
            (Side::Sender, SignalKind::Offer) => {
                self.offer = Some(signal.clone());
                let mut said = Vec::new();
                if self.plan.offer {
                    said.push(self.offer_to_receiver(signal).await);
                } else if needs_theirs {
                    said.push((Side::Receiver, signal.encode().into()));
                }
                if self.plan.answer && !needs_theirs {
                    said.push(self.answer_sender(signal, None).await);
                }
                if self.plan.insider && self.plan.mask == Mask::OwnId {
                    // He is let in as himself, while the sender waits for another.
                    said.push(self.offer_to(Side::Sender, None).await);
                }
                said
            }
            (Side::Receiver, SignalKind::Answer) => {
                if let Some(link) = &self.offered {
                    let _ = link.apply_answer(signal.data.clone()).await;
                }
                match self.offer.clone() {
                    Some(offer) if self.plan.answer && needs_theirs => {
                        vec![self.answer_sender(&offer, Some(signal)).await]
                    }
                    _ => vec![],
                }
            }
            (Side::Sender, SignalKind::Answer) => {
                if let Some(link) = &self.answered {
                    let _ = link.apply_answer(signal.data.clone()).await;
                }
                vec![]
            }
            _ => vec![],
        }
    }

    async fn offer_to_receiver(&mut self, genuine: &Signal) -> (Side, Vec<u8>) {
        self.offer_to(Side::Receiver, Some(genuine)).await
    }

    async fn offer_to(&mut self, to: Side, genuine: Option<&Signal>) -> (Side, Vec<u8>) {
        let (link, sdp, events) = Link::offer(&link_options(), None).await.unwrap();
        let reader = self.id_of(to);
        let subject = Subject::Offer {
            session: self.rng.bytes(),
        };
        let data = self.dress(&sdp, &reader, subject, genuine);
        let peer_id = match self.plan.mask {
            Mask::OwnId => self.me.device_id(),
            _ => genuine.unwrap().peer_id.clone(),
        };
        self.listen(events, Role::Offerer, &sdp, reader, genuine);
        match to {
            Side::Receiver => self.offered = Some(link),
            Side::Sender => self.answered = Some(link),
        }
        let kind = SignalKind::Offer;
        let signal = Signal {
            kind,
            peer_id,
            data,
        };
        (to, signal.encode().into())
    }

    async fn answer_sender(&mut self, offer: &Signal, genuine: Option<&Signal>) -> (Side, Vec<u8>) {
        let (link, sdp, events) = Link::answer(&link_options(), None, offer.data.clone())
            .await
            .unwrap();
        // He reads the offer as its reader would, to tie his answer to it.
        let verified = proof::verify(
            &offer.data,
            &self.ends.sender,
            &self.ends.receiver,
            Expected::Offer,
            now(),
            300,
            &mut ReplayCache::new(4),
        )
        .unwrap();
        let subject = Subject::Answer {
            session: verified.session,
            offer: verified.offer,
        };
        let sender = self.ends.sender.clone();
        let data = self.dress(&sdp, &sender, subject, genuine);
        let peer_id = match self.plan.mask {
            Mask::OwnId => self.me.device_id(),
            _ => self.ends.receiver.clone(),
        };
        self.listen(events, Role::Answerer, &sdp, sender, genuine);
        self.answered = Some(link);
        let kind = SignalKind::Answer;
        let signal = Signal {
            kind,
            peer_id,
            data,
        };
        (Side::Sender, signal.encode().into())
    }

    fn id_of(&self, side: Side) -> DeviceId {
        match side {
            Side::Sender => self.ends.sender.clone(),
            Side::Receiver => self.ends.receiver.clone(),
        }
    }

    /// His description under the mask.
    fn dress(
        &mut self,
        sdp: &str,
        to: &DeviceId,
        subject: Subject,
        genuine: Option<&Signal>,
    ) -> String {
        let terms = Terms {
            to,
            subject,
            nonce: self.rng.bytes(),
            issued: now(),
            lifetime: 300,
        };
        let signed = || proof::attach(sdp, &self.me, &terms).unwrap().0;
        match (self.plan.mask, genuine) {
            (Mask::NoProof, _) => sdp.to_owned(),
            (Mask::VictimKey, genuine) => {
                // The receiver's key is known from its own descriptions, if there is one.
                let key = genuine.or(self.offer.as_ref()).map(key_of);
                let key = key.unwrap_or_else(|| self.me.public_key());
                let mine = b64(self.me.public_key().as_bytes());
                signed().replace(&mine, &b64(key.as_bytes()))
            }
            (Mask::BorrowedProof, Some(genuine)) => {
                let line = line_of(&genuine.data, "handout-proof");
                insert(&without(sdp, "handout-proof"), true, &line)
            }
            (Mask::Smuggled, Some(genuine)) => self.smuggle(sdp, &genuine.data),
            _ => signed(),
        }
    }

    /// The genuine text, with his own facts hidden in it.
    fn smuggle(&mut self, mine: &str, genuine: &str) -> String {
        let facts = ["fingerprint", "ice-ufrag", "ice-pwd"].map(|name| line_of(mine, name));
        let candidate = line_of(mine, "candidate");
        let text = each_value(genuine, "candidate", |_| {
            candidate["a=candidate:".len()..].to_owned()
        });
        let hidden = facts.map(|line| match self.rng.below(6) {
            0 => line,
            1 => format!("\t{line}"),
            2 => line.replacen("a=", "a= ", 1),
            3 => line.replacen(':', " :", 1),
            4 => line.to_uppercase().replacen("A=", "a=", 1),
            _ => format!("a=x\r{line}"),
        });
        match self.rng.below(3) {
            0 => hidden
                .iter()
                .fold(text, |text, line| insert(&text, true, line)),
            1 => hidden
                .iter()
                .fold(text, |text, line| insert(&text, false, line)),
            _ => format!("{}\r\n{text}", hidden.join("\r\n")),
        }
    }

    /// Talks on the channel, should one open.
    fn listen(
        &self,
        mut events: mpsc::Receiver<LinkEvent>,
        role: Role,
        sdp: &str,
        other: DeviceId,
        genuine: Option<&Signal>,
    ) {
        let cert = SdpFacts::read(sdp).unwrap().fingerprint;
        let nonce = self.rng.clone().bytes();
        let local = Local {
            role,
            identity: &self.me,
            name: "middle",
            device: "desktop",
            cert,
            nonce,
            run: None,
        };
        let victim = match role {
            Role::Answerer => self.ends.receiver.clone(),
            Role::Offerer => self.ends.sender.clone(),
        };
        let (handshake, mut hello) = Handshake::new(&local, other);
        if let (Message::Hello(hello), false) = (&mut hello, self.plan.mask == Mask::OwnId) {
            hello.id = victim;
            if let (Mask::VictimKey | Mask::BorrowedProof, Some(genuine)) =
                (self.plan.mask, genuine)
            {
                hello.key = key_of(genuine);
            }
        }
        let plan = Arc::clone(&self.plan);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let LinkEvent::Open(channel) = event {
                    return converse(channel, handshake, hello, plan).await;
                }
            }
        });
    }
}

/// The key that a genuine description shows.
fn key_of(signal: &Signal) -> PublicKey {
    let (_, proof) = attributes(&signal.data)
        .find(|(name, _)| *name == "handout-proof")
        .unwrap();
    let key = proof.split(' ').find_map(|word| word.strip_prefix("key="));
    PublicKey::try_from(key.unwrap().to_owned()).unwrap()
}

async fn converse(channel: Channel, mut handshake: Handshake, hello: Message, plan: Arc<Plan>) {
    let as_himself = plan.insider && plan.mask == Mask::OwnId;
    let count = if as_himself {
        &CHANNELS
    } else {
        &FALSE_CHANNELS
    };
    count.fetch_add(1, Ordering::Relaxed);
    let _ = channel.send_text(&hello.encode()).await;
    while let Some(message) = channel.receive().await {
        let (Incoming::Text(bytes) | Incoming::Binary(bytes)) = &message;
        plan.tap.hear(bytes);
        let Incoming::Text(text) = message else {
            continue;
        };
        let answer = match Message::decode(&text) {
            Ok(Message::StartTransfer(start)) => {
                Some(Message::StartTransferAcknowledged(Acknowledgement {
                    handle: start.handle,
                    status: Decision::Accepted,
                    have: None,
                    acks: false,
                    pages_first: false,
                    root: None,
                    code: None,
                    reason: None,
                }))
            }
            Ok(message) => match handshake.on_message(message, channel.peer_certificate()) {
                Ok(Step::Send(answer)) => Some(answer),
                Ok(Step::Done { .. }) => {
                    PROVEN.fetch_add(1, Ordering::Relaxed);
                    None
                }
                Err(_) => None,
            },
            Err(_) => None,
        };
        if let Some(answer) = answer {
            let _ = channel.send_text(&answer.encode()).await;
        }
    }
}
