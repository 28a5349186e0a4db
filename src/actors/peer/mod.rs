//! One actor per device: one negotiation, one link, one session. When the link is lost or the
//! negotiation fails the actor stops; its supervisor starts it again with the same value, it
//! forgets the link, waits, and tries afresh while somebody wants the device. Transfers live in
//! the coordinator and notice only a pause.

mod drive;
mod proofs;
mod route;

pub(super) use proofs::random;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::WeakAddr;
use actix::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, info};

use crate::config::Settings;
use crate::dataplane::{Checkpointing, Pacer, Receptions, SessionCommand, SessionEvent};
use crate::net::link::{Link, LinkEvent, RelayOptions};
use crate::net::rendezvous::mail::{MailEvent, MailHandle};
use crate::protocol::conduct::Faults;
use crate::protocol::handshake::Role;
use crate::protocol::ice::IceServer;
use crate::protocol::id::{DeviceId, RunId};
use crate::protocol::identity::Identity;
use crate::protocol::message::Message;
use crate::protocol::names::printable;
use crate::protocol::negotiation::{
    Generation, Initiator, Input, Negotiation, Phase, Settings as NegotiationSettings,
};
use crate::protocol::proof::{Expected, OfferHash, Session};
use crate::protocol::rate::Rate;
use crate::protocol::replay::ReplayCache;
use crate::protocol::rotation::Rotation;
use crate::protocol::sdp::SdpFacts;
use crate::protocol::signal::{Signal, SignalKind};
use crate::protocol::window::WindowLimits;

use super::coordinator::{Coordinator, FromPeer, PeerNews, change_signal};
use super::network;
use super::signaling::Signaling;
pub use route::Route;

/// Longest wait before a failed connection is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// For so long links are relayed once WebRTC has failed; then it is tried again first.
const RELAYED: Duration = Duration::from_secs(600);
/// Offers of one device that are answered in a while. Each of them makes a connection.
const OFFERS: (u32, Duration) = (64, Duration::from_secs(10));

/// What all peers of this node share.
pub struct PeerContext {
    /// Who we are.
    pub identity: Identity,
    /// How we came to our key; empty where it never changed.
    pub rotations: Vec<Rotation>,
    /// This start of our program.
    pub run: RunId,
    /// Our name for people.
    pub name: String,
    /// `desktop` or `mobile`.
    pub device_type: String,
    /// What the settings say now, for links that are made from now on.
    pub live: Mutex<Arc<Live>>,
    /// The STUN and TURN servers that a rendezvous names now.
    pub ice: Mutex<Vec<IceServer>>,
    /// What is being received, from whomever.
    pub receptions: Receptions,
    /// Signaling with devices that are met at a rendezvous.
    pub mail: Option<MailHandle>,
    /// What happens there, until the coordinator listens to it.
    pub mail_events: Mutex<Option<mpsc::Receiver<MailEvent>>>,
    /// Through what links go where WebRTC fails.
    pub relay: Option<RelayOptions>,
    /// How fast all links together may send.
    pub upload: Pacer,
    /// How fast all links together may receive.
    pub download: Pacer,
    /// The proofs that have been used.
    pub replay: Mutex<ReplayCache>,
    /// The runtime of links and pumps.
    pub data_plane: Handle,
    /// Who dials for us.
    pub signaling: Addr<Signaling>,
    /// Where that listens.
    pub port: u16,
    /// Who is told what happens.
    pub coordinator: WeakAddr<Coordinator>,
}

/// What of the settings a link depends on.
pub struct Live {
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
}

impl Live {
    /// What these settings say.
    pub fn of(settings: Arc<Settings>) -> Self {
        let from = &settings.signaling;
        let backoffs = (0..from.retries).map(|n| from.backoff * 2u32.saturating_pow(n.min(10)));
        let negotiation = NegotiationSettings {
            initiator: from.initiator,
            answer_timeout: from.answer_timeout,
            backoffs: backoffs.collect(),
            early_candidates: from.early_candidates,
            connect_timeout: match settings.rendezvous.url.is_some() && settings.rendezvous.relay {
                true => (settings.network.channel_timeout).min(settings.rendezvous.fallback_after),
                false => settings.network.channel_timeout,
            },
            ..NegotiationSettings::default()
        };
        Self {
            negotiation,
            skew: from.max_clock_skew.as_secs(),
            plain_peers: settings.trust.plain_peers,
            window: WindowLimits {
                min: settings.network.window_min,
                max: settings.network.window_max,
            },
            stall: settings.network.stall_timeout,
            checkpoint: Checkpointing {
                interval: settings.transfer.checkpoint_interval,
                bytes: settings.transfer.checkpoint_bytes,
            },
            settings,
        }
    }
}

impl PeerContext {
    /// What holds for a link that is made now.
    pub fn live(&self) -> Arc<Live> {
        // Nothing can go wrong while it is replaced, so what is there is whole.
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&live)
    }

    /// From now on these settings hold, for links that are not there yet.
    pub fn renew(&self, settings: Arc<Settings>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = Arc::new(Live::of(settings));
    }

    /// The device's socket at the rendezvous, once.
    pub fn take_mail(&self) -> Option<(MailHandle, mpsc::Receiver<MailEvent>)> {
        let events = self.mail_events.lock().ok()?.take()?;
        Some((self.mail.clone()?, events))
    }

    /// The rendezvous names these servers, for links that are not there yet.
    pub fn take_ice_servers(&self, servers: Vec<IceServer>) {
        *self.ice.lock().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    /// The STUN and TURN servers that a rendezvous names now.
    pub fn ice_servers(&self) -> Vec<IceServer> {
        let ice = self.ice.lock().unwrap_or_else(PoisonError::into_inner);
        ice.clone()
    }

    /// What shows others how we came to our key; nothing where it never changed.
    pub fn change(&self) -> Option<Signal> {
        change_signal(&self.identity.device_id(), &self.rotations)
    }
}

/// One device.
pub struct Peer {
    context: Arc<PeerContext>,
    id: DeviceId,
    stranger: bool,
    addresses: Vec<SocketAddr>,
    /// Who introduced it to us, where signaling may go that way.
    through: Option<DeviceId>,
    /// It is at the rendezvous where we are.
    met: bool,
    /// Until when links to it are relayed, since WebRTC has failed.
    relayed_until: Option<Instant>,
    wanted: bool,
    failures: u32,
    /// What it has done to us.
    faults: Faults,
    offers: Rate,
    /// The connection on which it has proven who it is.
    proven: Option<Generation>,
    negotiation: Negotiation,
    /// The way by which the device was last heard, or last written to.
    route: Option<Route>,
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
    route: Option<Route>,
}

fn describe(sdp: &str, tied: Option<(Session, OfferHash)>, route: Route) -> Description {
    let ufrag = SdpFacts::read(sdp).ok().map(|facts| facts.ufrag);
    Description {
        tied,
        ufrag,
        route: Some(route),
    }
}

struct LiveLink {
    link: Arc<Link>,
    generation: Generation,
    role: Role,
    facts: SdpFacts,
    /// Our candidates, for clients that want them one by one; taken when they have been sent.
    candidates: Vec<String>,
    /// Those that were found after the description was made, until they can be sent.
    late: Vec<String>,
    /// Those that are found from now on are sent at once.
    trickles: bool,
}

/// The device's addresses, and whether somebody wants a link to it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Want {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Who introduced it to us, where there is a link to that device.
    pub through: Option<DeviceId>,
    /// It is at the rendezvous where we are.
    pub met: bool,
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
    pub route: Route,
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
    /// A device that has not been met yet. With a `stranger` either side may offer, whatever the
    /// settings say: the other one may not know of us.
    pub fn new(context: Arc<PeerContext>, id: DeviceId, stranger: bool) -> Self {
        let mut settings = context.live().negotiation.clone();
        if stranger {
            settings.initiator = Initiator::Sender;
        }
        let negotiation = Negotiation::new(settings, context.identity.device_id(), id.clone());
        Self {
            context,
            id,
            stranger,
            addresses: Vec::new(),
            through: None,
            met: false,
            relayed_until: None,
            wanted: false,
            failures: 0,
            faults: Faults::default(),
            offers: Rate::new(OFFERS.0, OFFERS.1),
            proven: None,
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

    /// Through what the next link goes, if not over WebRTC.
    fn relay(&self) -> Option<RelayOptions> {
        let relayed = self.met && self.relayed_until.is_some_and(|end| Instant::now() < end);
        self.context.relay.clone().filter(|_| relayed)
    }

    /// A connection came to nothing although both sides had described themselves: the next one
    /// takes the other way, where there is one.
    fn change_way(&mut self) {
        let relayed = self.relay().is_some();
        self.relayed_until = match relayed || self.context.relay.is_none() || !self.met {
            true => None,
            false => {
                info!(device = %self.id, "no direct connection: the rendezvous shall relay it");
                Some(Instant::now() + RELAYED)
            }
        };
    }

    fn backoff(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            n => Duration::from_secs(1 << (n - 1).min(5)).min(MAX_BACKOFF),
        }
    }

    /// Whether an offer is answered, and what its proof ties the answer to.
    fn take_offer(&mut self, sdp: &str) -> Result<Option<(Session, OfferHash)>, String> {
        if let Some(reason) = self.barred() {
            return Err(reason);
        }
        let tied = self.verify(sdp, Expected::Offer)?;
        match self.offers.take(Instant::now()) {
            true => Ok(tied),
            false => Err("too many offers at once: try again in 10 s".to_owned()),
        }
    }

    /// Why no link is made with it now, if none is.
    fn barred(&self) -> Option<String> {
        let seconds = self.faults.bar(Instant::now())?.as_secs() + 1;
        let who = "this device broke the protocol on its last connection";
        Some(format!("{who}: it may try again in {seconds} s"))
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
        let bar = self.faults.bar(Instant::now()).unwrap_or_default();
        let wait = self.backoff().max(bar);
        ctx.run_later(wait, |peer, ctx| {
            if peer.wanted {
                peer.step(Input::Connect, ctx);
            }
        });
    }
}

impl Supervised for Peer {
    fn restarting(&mut self, _: &mut Context<Self>) {
        let fresh = Self::new(Arc::clone(&self.context), self.id.clone(), self.stranger);
        let old = std::mem::replace(self, fresh);
        self.addresses = old.addresses;
        self.through = old.through;
        (self.met, self.relayed_until) = (old.met, old.relayed_until);
        self.wanted = old.wanted;
        self.failures = old.failures;
        (self.faults, self.offers) = (old.faults, old.offers);
    }
}

impl Handler<Want> for Peer {
    type Result = ();

    fn handle(&mut self, want: Want, ctx: &mut Context<Self>) {
        let moved = self.addresses != want.addresses || (want.met && !self.met);
        self.addresses = want.addresses;
        self.through = want.through;
        self.met = want.met;
        let newly = want.wanted && !self.wanted;
        self.wanted = want.wanted;
        // A device that shows up anew, or elsewhere, is worth a try at once.
        let connected = self.negotiation.phase() == Phase::Connected;
        let barred = self.faults.bar(Instant::now()).is_some();
        if self.wanted && (newly || moved) && !connected && !barred {
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
        let Signaled { signal, route } = message;
        match signal.kind {
            SignalKind::Offer => match self.take_offer(&signal.data) {
                Ok(asked) => {
                    let sdp = self.filter(&signal.data, &route);
                    self.offer = Some(describe(&signal.data, asked, route));
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
                    // It may have meant the key that we had before.
                    if let Some(change) = self.context.change() {
                        self.write_by(&route, &change);
                    }
                    self.refuse(&route, &reason);
                }
            },
            SignalKind::Answer => {
                let Some((session, offer)) = self.offered else {
                    return;
                };
                match self.verify(&signal.data, Expected::Answer { session, offer }) {
                    Ok(tied) => {
                        let sdp = self.filter(&signal.data, &route);
                        self.standing = describe(&signal.data, tied, route.clone());
                        self.route = Some(route);
                        self.step(Input::RemoteAnswer(sdp), ctx);
                    }
                    Err(reason) => self.refuse(&route, &reason),
                }
            }
            SignalKind::Ice => {
                let ufrag = self.standing.ufrag.as_deref();
                let reach = self.reach_by(Some(&route));
                let settings = &self.context.live().settings;
                match network::candidate_policy(settings, reach).read(&signal.data, ufrag) {
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
            // The coordinator's.
            SignalKind::Rotation => {}
            SignalKind::Error => {
                // Only the way that our offer took can bring its refusal.
                let ours = self.route.as_ref().is_some_and(|taken| taken.is(&route));
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

    fn handle(&mut self, Command(command): Command, ctx: &mut Context<Self>) -> bool {
        let Some(commands) = &self.commands else {
            return false;
        };
        // Others make us pass signaling on, and it may get lost: it leaves room for the rest.
        let passed_on =
            matches!(&command, SessionCommand::Say(m) if matches!(**m, Message::Signal { .. }));
        if passed_on && commands.capacity() < commands.max_capacity() / 2 {
            debug!(device = %self.id, "signaling for it is dropped: its session is behind");
            return false;
        }
        match commands.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            // What was to be said, or ended, must not be lost: the next link begins anew with it.
            Err(TrySendError::Full(_)) => {
                let reason = "its session takes no orders any more".to_owned();
                self.lost(self.negotiation.generation(), reason, ctx);
                false
            }
        }
    }
}

impl Handler<Disconnect> for Peer {
    type Result = ();

    fn handle(&mut self, _: Disconnect, ctx: &mut Context<Self>) {
        self.wanted = false;
        // Not awaited, see `Output::NotConnected`; after all that this link has told.
        if let Some(coordinator) = self.context.coordinator.upgrade() {
            let (device, news) = (self.id.clone(), PeerNews::Closed);
            coordinator.do_send(FromPeer { device, news });
        }
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
            LinkEvent::Open(channel) => {
                if let Some(path) = channel.path() {
                    debug!(device = %self.id, path = path.as_str(), "a link is open");
                    self.tell(PeerNews::Travels(path), ctx);
                }
                self.open(generation, channel, ctx)
            }
            LinkEvent::Candidate(line) => self.found_candidate(generation, line),
            LinkEvent::Lost(reason) => self.lost(generation, reason.into_owned(), ctx),
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
        if let SessionEvent::Up { proven, .. } = &event {
            self.failures = 0;
            if let Some(Route::Tcp(connection)) = &self.route {
                self.tell(PeerNews::Reached(connection.remote().ip()), ctx);
            }
            self.proven = proven.is_some().then_some(generation);
        }
        match event {
            SessionEvent::Over(outcome) => self.over(generation, outcome, ctx),
            event => self.tell(PeerNews::Session(event), ctx),
        }
    }

    fn finished(&mut self, _: &mut Context<Self>) {}
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
