//! One actor per device: one negotiation, one link, one session. When the link is lost or the
//! negotiation fails the actor stops; its supervisor starts it again with the same value, it
//! forgets the link, waits, and tries afresh while somebody wants the device. Transfers live in
//! the coordinator and notice only a pause.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::WeakAddr;
use actix::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::config::Settings;
use crate::dataplane::{self, Checkpointing, SessionCommand, SessionEvent, SessionOptions};
use crate::net::link::{Channel, Link, LinkError, LinkEvent, NATIVE_LABEL};
use crate::net::signaling::ConnectionHandle;
use crate::protocol::candidate::filter_sdp;
use crate::protocol::handshake::{Handshake, Local, Role};
use crate::protocol::id::DeviceId;
use crate::protocol::identity::Identity;
use crate::protocol::names::printable;
use crate::protocol::negotiation::{
    Failure, Generation, Input, Negotiation, Output, Phase, Settings as NegotiationSettings,
};
use crate::protocol::proof::{self, Expected, OfferHash, Session, Subject, Terms};
use crate::protocol::replay::ReplayCache;
use crate::protocol::sdp::{SdpFacts, attributes};
use crate::protocol::signal::{Signal, SignalKind};
use crate::protocol::window::WindowLimits;

use super::coordinator::{Coordinator, FromPeer, PeerNews};
use super::discovery::stream_of;
use super::network;
use super::signaling::{Dial, Signaling};

/// Longest wait before a failed connection is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How long a signed offer or answer is good for.
const PROOF_LIFETIME: u64 = 300;

/// What all peers of this node share.
pub struct PeerContext {
    /// Who we are.
    pub identity: Identity,
    /// Our name for people.
    pub name: String,
    /// `desktop` or `mobile`.
    pub device_type: String,
    /// Everything that can be set.
    pub settings: Arc<Settings>,
    /// The numbers of a negotiation.
    pub negotiation: NegotiationSettings,
    /// How far clocks may differ, in seconds.
    pub skew: u64,
    /// Devices without a key are let in.
    pub plain_peers: bool,
    /// Bounds of the window of bytes under way.
    pub window: WindowLimits,
    /// A receiver that takes nothing for this long is dead.
    pub stall: Duration,
    /// How often what has arrived is made durable.
    pub checkpoint: Checkpointing,
    /// The proofs that have been used.
    pub replay: Mutex<ReplayCache>,
    /// The runtime of links and pumps.
    pub data_plane: Handle,
    /// Who dials for us.
    pub signaling: Addr<Signaling>,
    /// Who is told what happens.
    pub coordinator: WeakAddr<Coordinator>,
}

/// One device.
pub struct Peer {
    context: Arc<PeerContext>,
    id: DeviceId,
    addresses: Vec<SocketAddr>,
    wanted: bool,
    failures: u32,
    negotiation: Negotiation,
    /// The connection on which the device was last heard, or last written to.
    route: Option<ConnectionHandle>,
    /// What the answer to our offer must name.
    offered: Option<(Session, OfferHash)>,
    /// The offer that is being looked at. It stands only if the negotiation answers it.
    offer: Option<Description>,
    /// The other side's description that stands.
    standing: Description,
    link: Option<LiveLink>,
    commands: Option<mpsc::Sender<SessionCommand>>,
    tick: Option<SpawnHandle>,
}

/// What is kept of a description of the other side.
#[derive(Default)]
struct Description {
    /// What its proof ties an answer to; nothing when it had no proof.
    tied: Option<(Session, OfferHash)>,
    ufrag: Option<String>,
    connection: Option<ConnectionHandle>,
}

fn describe(
    sdp: &str,
    tied: Option<(Session, OfferHash)>,
    connection: ConnectionHandle,
) -> Description {
    let ufrag = SdpFacts::read(sdp).ok().map(|facts| facts.ufrag);
    Description {
        tied,
        ufrag,
        connection: Some(connection),
    }
}

struct LiveLink {
    link: Arc<Link>,
    generation: Generation,
    role: Role,
    facts: SdpFacts,
    /// Our candidates, for clients that want them one by one; taken when they have been sent.
    candidates: Vec<String>,
}

/// The device's addresses, and whether somebody wants a link to it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Want {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// A link is wanted.
    pub wanted: bool,
}

/// A signaling message of the device.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Signaled {
    /// The message.
    pub signal: Signal,
    /// Where it came from, and where answers go.
    pub connection: ConnectionHandle,
}

/// Something for the device's session. The answer says whether there is one.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Command(pub SessionCommand);

/// Answers when everything that the session has said has arrived.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;

impl Handler<Flush> for Peer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Flush, _: &mut Context<Self>) -> Self::Result {
        let (done, flushed) = tokio::sync::oneshot::channel();
        let asked = self
            .commands
            .as_ref()
            .is_some_and(|commands| commands.try_send(SessionCommand::Flush(done)).is_ok());
        Box::pin(async move {
            if asked {
                let _ = flushed.await;
            }
        })
    }
}

/// Ends the link, whatever is going on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Disconnect;

/// Makes the handler panic, for the test of what happens then.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub struct Panic;

struct OnLink(Generation, LinkEvent);
struct OnSession(Generation, SessionEvent);

impl Peer {
    /// A device that has not been met yet.
    pub fn new(context: Arc<PeerContext>, id: DeviceId) -> Self {
        let negotiation = Negotiation::new(
            context.negotiation.clone(),
            context.identity.device_id(),
            id.clone(),
        );
        Self {
            context,
            id,
            addresses: Vec::new(),
            wanted: false,
            failures: 0,
            negotiation,
            route: None,
            offered: None,
            offer: None,
            standing: Description::default(),
            link: None,
            commands: None,
            tick: None,
        }
    }

    fn backoff(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            n => Duration::from_secs(1 << (n - 1).min(5)).min(MAX_BACKOFF),
        }
    }

    /// Gives the negotiation an input and does all that it asks for.
    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        self.negotiation.handle(Instant::now(), input);
        while let Some(output) = self.negotiation.poll_output() {
            self.act(output, ctx);
        }
        if let Some(tick) = self.tick.take() {
            ctx.cancel_future(tick);
        }
        if let Some(deadline) = self.negotiation.next_deadline() {
            let wait = deadline.saturating_duration_since(Instant::now());
            self.tick = Some(ctx.run_later(wait, |peer, ctx| {
                peer.tick = None;
                peer.step(Input::Tick, ctx);
            }));
        }
    }

    fn act(&mut self, output: Output, ctx: &mut Context<Self>) {
        match output {
            Output::MakeOffer { generation } => {
                let options = network::link_options(&self.context.settings);
                let made = self.on_data_plane(async move { Link::offer(&options).await });
                let then = made.into_actor(self).map(move |made, peer, ctx| {
                    peer.made(generation, Role::Offerer, made, ctx);
                });
                ctx.spawn(then);
            }
            Output::MakeAnswer { generation, offer } => {
                if let Some(description) = self.offer.take() {
                    self.route = description.connection.clone();
                    self.standing = description;
                }
                let options = network::link_options(&self.context.settings);
                let made = self.on_data_plane(async move { Link::answer(&options, offer).await });
                let then = made.into_actor(self).map(move |made, peer, ctx| {
                    peer.made(generation, Role::Answerer, made, ctx);
                });
                ctx.spawn(then);
            }
            Output::SendOffer { generation, sdp } => {
                self.write(generation, SignalKind::Offer, sdp, None, ctx);
            }
            Output::SendAnswer { generation, sdp } => {
                let route = self.route.clone();
                self.write(generation, SignalKind::Answer, sdp, route, ctx);
            }
            Output::ApplyAnswer { generation, sdp } => {
                if let Some(link) = self.link_of(generation) {
                    let applied = self.on_data_plane(async move { link.apply_answer(sdp).await });
                    let then = applied.into_actor(self).map(move |applied, peer, ctx| {
                        if let Err(error) = applied {
                            let reason = error.to_string();
                            peer.step(Input::ConnectionLost { generation, reason }, ctx);
                        }
                    });
                    ctx.spawn(then);
                    self.send_candidates();
                }
            }
            Output::AddCandidate { generation, text } => {
                if let Some(link) = self.link_of(generation) {
                    self.context.data_plane.spawn(async move {
                        if let Err(error) = link.add_candidate(text).await {
                            debug!(%error, "a candidate was not taken");
                        }
                    });
                }
            }
            Output::CloseConnection { generation } => {
                if self
                    .link
                    .as_ref()
                    .is_some_and(|live| live.generation == generation)
                {
                    self.link = None;
                    self.commands = None;
                }
            }
            Output::Retrying {
                attempt, reason, ..
            } => {
                debug!(attempt, %reason, "trying again");
                self.tell(
                    PeerNews::Retrying {
                        reason: reason.to_string(),
                    },
                    ctx,
                );
            }
            Output::Connected { .. } => debug!("channel open"),
            Output::NotConnected { reason } => {
                info!(%reason, "not connected");
                if reason != Failure::Disconnected {
                    self.failures = self.failures.saturating_add(1);
                    // Not awaited: a stopping actor drops its futures, and a message whose
                    // sender no longer waits is never handled. At most one per backoff.
                    if let Some(coordinator) = self.context.coordinator.upgrade() {
                        let refused = matches!(reason, Failure::Refused(_));
                        let (device, reason) = (self.id.clone(), reason.to_string());
                        let news = PeerNews::Down { reason, refused };
                        coordinator.do_send(FromPeer { device, news });
                    }
                }
                // The supervisor starts us again, with nothing left of this link.
                ctx.stop();
            }
            Output::Ignored { reason } => debug!(reason, "ignored"),
        }
    }

    /// Runs a future on the data plane's runtime, where sockets belong.
    fn on_data_plane<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LinkError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, LinkError>> + 'static {
        let task = self.context.data_plane.spawn(work);
        async move { task.await.unwrap_or(Err(LinkError::Closed)) }
    }

    fn link_of(&self, generation: Generation) -> Option<Arc<Link>> {
        let live = self
            .link
            .as_ref()
            .filter(|live| live.generation == generation)?;
        Some(Arc::clone(&live.link))
    }

    /// A connection and its description are made: sign it and hand it to the negotiation.
    fn made(
        &mut self,
        generation: Generation,
        role: Role,
        made: Result<(Link, String, mpsc::Receiver<LinkEvent>), LinkError>,
        ctx: &mut Context<Self>,
    ) {
        if generation != self.negotiation.generation() {
            return; // Overtaken; dropping the link closes it.
        }
        let signed = made
            .map_err(|e| e.to_string())
            .and_then(|(link, sdp, events)| {
                let facts = SdpFacts::read(&sdp).map_err(|e| e.to_string())?;
                let sdp = self.sign(role, &sdp).map_err(|e| e.to_string())?;
                Ok((link, sdp, facts, events))
            });
        let (link, sdp, facts, events) = match signed {
            Ok(signed) => signed,
            Err(reason) => {
                warn!(%reason, "no connection could be made");
                return self.step(Input::ConnectionLost { generation, reason }, ctx);
            }
        };
        let candidates = attributes(&sdp)
            .filter(|(name, _)| *name == "candidate")
            .map(|(_, value)| format!("candidate:{value}"))
            .collect();
        let link = Arc::new(link);
        self.link = Some(LiveLink {
            link,
            generation,
            role,
            facts,
            candidates,
        });
        ctx.add_stream(futures::StreamExt::map(stream_of(events), move |event| {
            OnLink(generation, event)
        }));
        let input = match role {
            Role::Offerer => Input::LocalOffer { generation, sdp },
            Role::Answerer => Input::LocalAnswer { generation, sdp },
        };
        self.step(input, ctx);
    }

    fn sign(&mut self, role: Role, sdp: &str) -> Result<String, SignError> {
        let subject = match role {
            Role::Offerer => Subject::Offer { session: random()? },
            Role::Answerer => match self.standing.tied {
                Some((session, offer)) => Subject::Answer { session, offer },
                // A plain peer reads no proof.
                None => return Ok(sdp.to_owned()),
            },
        };
        let terms = Terms {
            to: &self.id,
            subject,
            nonce: random()?,
            issued: unix_now(),
            lifetime: PROOF_LIFETIME,
        };
        let (sdp, hash) = proof::attach(sdp, &self.context.identity, &terms)?;
        if let Subject::Offer { session } = subject {
            self.offered = Some((session, hash));
        }
        Ok(sdp)
    }

    /// Writes a description to the peer and tells the negotiation how that went.
    fn write(
        &mut self,
        generation: Generation,
        kind: SignalKind,
        data: String,
        route: Option<ConnectionHandle>,
        ctx: &mut Context<Self>,
    ) {
        let signal = Signal {
            kind,
            peer_id: self.context.identity.device_id(),
            data,
        };
        if let Some(route) = route.filter(|route| route.try_send(&signal).is_ok()) {
            self.route = Some(route);
            return self.step(Input::Delivered { generation }, ctx);
        }
        if self.addresses.is_empty() {
            let reason = "no address is known for it".to_owned();
            return self.step(Input::Undeliverable { generation, reason }, ctx);
        }
        let dial = self.context.signaling.send(Dial {
            addresses: self.addresses.clone(),
        });
        let delivering = async move {
            let route = dial
                .await
                .map_err(|error| format!("signaling is not running: {error}"))??;
            route
                .deliver(&signal)
                .await
                .map_err(|error| error.to_string())?;
            Ok(route)
        };
        let then = delivering
            .into_actor(self)
            .map(move |delivered, peer, ctx| {
                let input = match delivered {
                    Ok(route) => {
                        peer.route = Some(route);
                        Input::Delivered { generation }
                    }
                    Err(reason) => Input::Undeliverable { generation, reason },
                };
                peer.step(input, ctx);
            });
        ctx.spawn(then);
    }

    /// Sends our candidates one by one, as the first drafts of the protocol ask for: the
    /// initiator when the answer is there, the responder when the first candidate has come.
    /// They stand in the description as well.
    fn send_candidates(&mut self) {
        let peer_id = self.context.identity.device_id();
        if let (Some(live), Some(route)) = (self.link.as_mut(), &self.route) {
            for data in std::mem::take(&mut live.candidates) {
                let signal = Signal {
                    kind: SignalKind::Ice,
                    peer_id: peer_id.clone(),
                    data,
                };
                if route.try_send(&signal).is_err() {
                    return;
                }
            }
        }
    }

    fn refuse(&self, connection: &ConnectionHandle, reason: &str) {
        debug!(reason, "refused");
        let signal = Signal {
            kind: SignalKind::Error,
            peer_id: self.context.identity.device_id(),
            data: reason.to_owned(),
        };
        let _ = connection.try_send(&signal);
    }

    /// Checks an offer or answer. `Ok` holds what it is tied to; nothing for a plain one.
    fn verify(
        &self,
        sdp: &str,
        expected: Expected,
    ) -> Result<Option<(Session, OfferHash)>, String> {
        if !proof::has_proof(sdp) {
            // Never for a device that has a key: whoever strips a proof must gain nothing.
            return if self.context.plain_peers && !self.id.is_self_certifying() {
                Ok(None)
            } else {
                Err("unsigned offers and answers are not taken here: sign them \
                     (docs/PROTOCOL.md, section 4), or have the owner of this device allow \
                     plain peers (trust.plain_peers)"
                    .to_owned())
            };
        }
        let ours = self.context.identity.device_id();
        let mut spent = self
            .context
            .replay
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        proof::verify(
            sdp,
            &self.id,
            &ours,
            expected,
            unix_now(),
            self.context.skew,
            &mut spent,
        )
        .map(|verified| Some((verified.session, verified.offer)))
        .map_err(|error| error.to_string())
    }

    /// A description with only those candidates that are believed.
    fn filter(&self, sdp: &str) -> String {
        filter_sdp(sdp, &network::candidate_policy(&self.context.settings))
    }

    fn open(&mut self, generation: Generation, channel: Channel, ctx: &mut Context<Self>) {
        let Some(live) = self
            .link
            .as_ref()
            .filter(|live| live.generation == generation)
        else {
            return;
        };
        if channel.label() != NATIVE_LABEL {
            debug!(label = %printable(channel.label()), "a channel in a dialect that is not served");
            return;
        }
        if self.commands.is_some() {
            debug!("a second channel on one link is left alone");
            return;
        }
        let nonce = match random() {
            Ok(nonce) => nonce,
            Err(error) => return self.lost(generation, error.to_string(), ctx),
        };
        let handshake = self.standing.tied.is_some().then(|| {
            let local = Local {
                role: live.role,
                identity: &self.context.identity,
                name: &self.context.name,
                device: &self.context.device_type,
                cert: live.facts.fingerprint,
                nonce,
            };
            Handshake::new(&local, self.id.clone())
        });
        let options = SessionOptions {
            peer: self.id.clone(),
            handshake,
            offerer: live.role == Role::Offerer,
            window: self.context.window,
            stall: self.context.stall,
            checkpoint: self.context.checkpoint,
        };
        let (commands, queue) = mpsc::channel(64);
        let (events, news) = mpsc::channel(64);
        self.commands = Some(commands);
        ctx.add_stream(futures::StreamExt::map(stream_of(news), move |event| {
            OnSession(generation, event)
        }));
        let session = self
            .context
            .data_plane
            .spawn(async move { dataplane::run(channel, options, queue, events).await });
        let then = session.into_actor(self).map(move |ended, peer, ctx| {
            let reason = match ended {
                Ok(Ok(())) => "the other side closed the connection".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panicked) => format!("the session failed: {panicked}"),
            };
            peer.lost(generation, reason, ctx);
        });
        ctx.spawn(then);
        self.step(Input::ChannelOpen { generation }, ctx);
    }

    fn lost(&mut self, generation: Generation, reason: String, ctx: &mut Context<Self>) {
        self.step(Input::ConnectionLost { generation, reason }, ctx);
    }

    /// Tells the coordinator, and handles nothing else until it knows.
    fn tell(&self, news: PeerNews, ctx: &mut Context<Self>) {
        if let Some(coordinator) = self.context.coordinator.upgrade() {
            let told = coordinator.send(FromPeer {
                device: self.id.clone(),
                news,
            });
            ctx.wait(told.into_actor(self).map(|_, _, _| ()));
        }
    }
}

impl Actor for Peer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // Never stop or connect at once after a failure: that would spin.
        let wait = self.backoff();
        ctx.run_later(wait, |peer, ctx| {
            if peer.wanted {
                peer.step(Input::Connect, ctx);
            }
        });
    }
}

impl Supervised for Peer {
    fn restarting(&mut self, _: &mut Context<Self>) {
        let fresh = Self::new(Arc::clone(&self.context), self.id.clone());
        let old = std::mem::replace(self, fresh);
        self.addresses = old.addresses;
        self.wanted = old.wanted;
        self.failures = old.failures;
    }
}

impl Handler<Want> for Peer {
    type Result = ();

    fn handle(&mut self, want: Want, ctx: &mut Context<Self>) {
        let moved = self.addresses != want.addresses;
        self.addresses = want.addresses;
        let newly = want.wanted && !self.wanted;
        self.wanted = want.wanted;
        // A device that shows up anew, or elsewhere, is worth a try at once.
        let connected = self.negotiation.phase() == Phase::Connected;
        if self.wanted && (newly || moved) && !connected {
            self.failures = 0;
            match self.negotiation.phase() {
                // What waits for the old address begins anew, at once.
                Phase::BackingOff | Phase::Offering if moved => self.step(Input::Disconnect, ctx),
                _ => self.step(Input::Connect, ctx),
            }
        }
    }
}

impl Handler<Signaled> for Peer {
    type Result = ();

    fn handle(&mut self, message: Signaled, ctx: &mut Context<Self>) {
        let Signaled { signal, connection } = message;
        match signal.kind {
            SignalKind::Offer => match self.verify(&signal.data, Expected::Offer) {
                Ok(asked) => {
                    let sdp = self.filter(&signal.data);
                    self.offer = Some(describe(&signal.data, asked, connection));
                    self.step(Input::RemoteOffer(sdp), ctx);
                    self.offer = None;
                }
                Err(reason) => {
                    self.tell(
                        PeerNews::Refused {
                            reason: reason.clone(),
                        },
                        ctx,
                    );
                    self.refuse(&connection, &reason);
                }
            },
            SignalKind::Answer => {
                let Some((session, offer)) = self.offered else {
                    return;
                };
                match self.verify(&signal.data, Expected::Answer { session, offer }) {
                    Ok(tied) => {
                        let sdp = self.filter(&signal.data);
                        self.standing = describe(&signal.data, tied, connection.clone());
                        self.route = Some(connection);
                        self.step(Input::RemoteAnswer(sdp), ctx);
                    }
                    Err(reason) => self.refuse(&connection, &reason),
                }
            }
            SignalKind::Ice => {
                let ufrag = self.standing.ufrag.as_deref();
                match network::candidate_policy(&self.context.settings).read(&signal.data, ufrag) {
                    Ok(candidate) => {
                        self.step(Input::RemoteCandidate(candidate.to_string()), ctx);
                        let responder = self
                            .link
                            .as_ref()
                            .is_some_and(|live| live.role == Role::Answerer);
                        if responder {
                            self.send_candidates();
                        }
                    }
                    Err(error) => debug!(%error, "a candidate was left out"),
                }
            }
            SignalKind::Error => {
                // Only the connection that took our offer can refuse it.
                let ours = self
                    .route
                    .as_ref()
                    .is_some_and(|route| route.id() == connection.id());
                if ours {
                    let reason: String = printable(&signal.data).chars().take(300).collect();
                    self.step(Input::Refused(reason), ctx);
                }
            }
        }
    }
}

impl Handler<Command> for Peer {
    type Result = bool;

    fn handle(&mut self, command: Command, _: &mut Context<Self>) -> bool {
        match &self.commands {
            Some(commands) => commands.try_send(command.0).is_ok(),
            None => false,
        }
    }
}

impl Handler<Disconnect> for Peer {
    type Result = ();

    fn handle(&mut self, _: Disconnect, ctx: &mut Context<Self>) {
        self.wanted = false;
        self.step(Input::Disconnect, ctx);
    }
}

#[cfg(test)]
impl Handler<Panic> for Peer {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("asked to");
    }
}

impl StreamHandler<OnLink> for Peer {
    fn handle(&mut self, OnLink(generation, event): OnLink, ctx: &mut Context<Self>) {
        match event {
            LinkEvent::Open(channel) => self.open(generation, channel, ctx),
            LinkEvent::Lost(reason) => self.lost(generation, reason.to_owned(), ctx),
        }
    }

    // The default would stop the actor; the negotiation decides that.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl StreamHandler<OnSession> for Peer {
    fn handle(&mut self, OnSession(generation, event): OnSession, ctx: &mut Context<Self>) {
        if generation != self.negotiation.generation() {
            return;
        }
        if matches!(event, SessionEvent::Up { .. }) {
            self.failures = 0;
        }
        self.tell(PeerNews::Session(event), ctx);
    }

    fn finished(&mut self, _: &mut Context<Self>) {}
}

#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Sdp(#[from] crate::protocol::sdp::SdpError),
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
