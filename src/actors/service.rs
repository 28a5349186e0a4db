//! A whole node in this process: the store, the actors, the two runtimes and the local API.
//!
//! A panic in a peer actor costs that peer's link (the coordinator builds a new one). A panic in one of
//! the four others ends the process with exit code 1: their state is on disk, and the service
//! manager starts it again. A half-dead node that looks alive would be worse.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::WeakAddr;
use actix::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use crate::config::{Kiosk, KioskPin, Settings};
use crate::dataplane::{Pacer, Receptions};
use crate::net::discovery::{Advert, DiscoveryOptions};
use crate::net::link::{self, LinkOptions, RelayOptions};
use crate::net::rendezvous::{Server, ServerError, mail};
use crate::net::signaling::{Limits, SignalingServer};
use crate::protocol::asking::prove_asking;
use crate::protocol::ice::IceServer;
use crate::protocol::id::{DeviceId, RunId};
use crate::protocol::identity::Identity;
use crate::protocol::invite::Secret;
use crate::protocol::pairing::pin::read_pin;
use crate::protocol::replay::ReplayCache;
use crate::protocol::rotation::Rotation;
use crate::protocol::trust::Pages;
use crate::protocol::trust::Purpose;
use crate::store::audit::{AuditLimits, Entry as AuditEntry};
use crate::store::{BroadcastState, Renewed, Store, StoreError};

use super::api::{Event, Request, exit};
use super::control::{self, EVENTS};
use super::coordinator::{
    Ask, ContextMaker, Coordinator, Farewell, IsMeant, IsReachable, KioskStart, Loaded, PathTo,
    Unvouch, Vouch, judge_clock,
};
use super::dht::{self, Notes};
use super::discovery::{Discovery, Goodbye};
use super::health::{Health, Vitals};
use super::manager::{self, Heart};
use super::metrics::Metrics;
use super::peer::{Live, PeerContext, random, unix_now};
use super::signaling::{ReportTo, Signaling};
use super::telling::{self, Telling};
use super::{network, provider, store};

/// Proofs remembered at once: at five minutes each, over 200 offers a second.
const REPLAY_CAPACITY: usize = 65_536;
/// Bytes of a file with a secret.
const MAX_SECRET: u64 = 4096;
/// How often the actors are looked at.
const WATCH: Duration = Duration::from_millis(500);
/// What links may take to close at the end.
const CLOSING: Duration = Duration::from_millis(500);
/// What the last words to other devices may take to arrive.
const FAREWELL: Duration = Duration::from_secs(2);
/// What mDNS may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a node is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The service: receives, and carries on with broadcasts of earlier processes.
    Run,
    /// Receives.
    Receive,
    /// Sends what it is asked to, and takes nothing.
    Send,
    /// Asks for something at a rendezvous, and takes that alone.
    Fetch,
    /// Reads and changes the store, without a network.
    Offline,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signaling port cannot be bound.
    #[error(
        "the signaling port {address} cannot be used: {source}; choose another \
         (signaling.bind, signaling.port; port 0 takes any)"
    )]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file with a secret cannot be used.
    #[error("{} holds no secret that can be used: {fault}; the settings name it", path.display())]
    Secret {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The rendezvous that the settings name cannot be used.
    #[error("the rendezvous of the settings cannot be used: {fault}")]
    Rendezvous {
        /// What is wrong.
        fault: String,
    },
    /// The system gave no threads or sockets.
    #[error("the system gives no {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code that tells of it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Secret { .. } | Self::Rendezvous { .. } => exit::USAGE,
            Self::Store(error) => store::code_of(error),
            _ => exit::ERROR,
        }
    }
}

/// A running node, for whoever asks things of it in this process.
#[derive(Clone)]
pub struct Node {
    id: DeviceId,
    identity: Identity,
    pub(super) coordinator: Addr<Coordinator>,
    settings: watch::Receiver<Arc<Settings>>,
    vitals: Arc<Vitals>,
    heart: Heart,
    listening: Event,
    mode: Mode,
}

impl Node {
    /// Asks; the answer ends with [`Event::End`].
    pub fn ask(&self, request: Request) -> mpsc::Receiver<Event> {
        self.ask_with(request, EVENTS)
    }

    /// Asks, with room for so many events that wait for whoever listens.
    pub fn ask_with(&self, request: Request, room: usize) -> mpsc::Receiver<Event> {
        let (reply, events) = mpsc::channel(room);
        self.hand_over(request, reply);
        events
    }

    /// The settings that hold, and each change of them.
    pub fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.clone()
    }

    /// Passes a request to whoever answers it.
    pub(super) fn hand_over(&self, request: Request, reply: mpsc::Sender<Event>) {
        match request {
            Request::Health => {}
            Request::Mode => {
                let mode = self.mode;
                // There is room for two in a new channel.
                for event in [Event::Mode { mode }, Event::End { code: exit::OK }] {
                    let _ = reply.try_send(event);
                }
                return;
            }
            Request::Fetch(fetching) => {
                let (node, on) = (self.clone(), self.data_plane());
                on.spawn(provider::fetch(node, fetching, reply));
                return;
            }
            request => return self.coordinator.do_send(Ask { request, reply }),
        }
        // Not through the coordinator, which may be what does not answer.
        let vitals = Arc::clone(&self.vitals);
        tokio::spawn(async move {
            let health = vitals.look().await;
            let code = if health.ok { exit::OK } else { exit::ERROR };
            for event in [Event::Health(health), Event::End { code }] {
                if reply.send(event).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Who we are.
    pub fn device_id(&self) -> &DeviceId {
        &self.id
    }

    /// The answer that proves to a provider that we are the device that asks in this session.
    pub fn prove_asking(&self, session: &str, provider: &DeviceId) -> String {
        prove_asking(&self.identity, session, provider)
    }

    /// The runtime of links and files.
    pub fn data_plane(&self) -> &tokio::runtime::Handle {
        self.heart.data_plane()
    }

    /// How the link to a device goes, where there is one.
    pub async fn path_to(&self, device: &DeviceId) -> Option<link::Path> {
        let asked = self.coordinator.send(PathTo(device.clone())).await;
        asked.ok().flatten()
    }

    /// Whether a device has a link, or can be written to at the rendezvous.
    pub async fn is_reachable(&self, device: &DeviceId) -> bool {
        let asked = self.coordinator.send(IsReachable(device.clone())).await;
        asked.unwrap_or(false)
    }

    /// Whether one of these words means a device: its id, a name that this side has given it, or a
    /// group.
    pub async fn is_meant(&self, device: &DeviceId, by: Vec<String>) -> bool {
        let device = device.clone();
        let asked = self.coordinator.send(IsMeant { device, by }).await;
        asked.unwrap_or(false)
    }

    /// Lets a device in for one purpose and a time.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn vouch(&self, vouch: Vouch) -> Result<Purpose, String> {
        let vouched = self.coordinator.send(vouch).await;
        vouched.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// That purpose is over.
    pub fn unvouch(&self, device: DeviceId, purpose: Purpose) {
        self.coordinator.do_send(Unvouch(device, purpose));
    }

    /// Whether the process does what it is for.
    pub async fn health(&self) -> Health {
        self.vitals.look().await
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.vitals.metrics
    }

    /// True until the coordinator has ended.
    pub fn is_running(&self) -> bool {
        self.coordinator.connected()
    }

    /// The parts of the node, for asking whether they are alive.
    pub fn heart(&self) -> Heart {
        self.heart.clone()
    }

    /// Who and where the node is.
    pub fn listening(&self) -> Event {
        self.listening.clone()
    }
}

/// Gives this device a new key: with `followed` one that other devices follow, else one that has
/// nothing to do with the old one. No service may run on the state folder: it would go on with
/// the old key, whose secret is gone.
pub fn renew(settings: &Settings, followed: bool) -> Result<Renewed, StoreError> {
    let mut store = Store::open(&settings.state.dir)?;
    match followed {
        true => store.rotate(unix_now()),
        false => store.become_new(unix_now()),
    }
}

/// Starts a node, runs `work` beside it on this thread, and stops the node. Returns what `work`
/// did, or exit code 1 when the node failed meanwhile.
pub fn run<W, F>(mut settings: Settings, mode: Mode, work: W) -> Result<u8, StartError>
where
    W: FnOnce(Node) -> F + 'static,
    F: Future<Output = u8> + 'static,
{
    if mode == Mode::Send {
        settings = settings.without_receiving();
    }
    let settings = Arc::new(settings);
    let opened = Store::open(&settings.state.dir)?;
    let data_plane = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("data")
        .build()
        .map_err(|source| StartError::System {
            what: "threads",
            source,
        })?;
    let handle = data_plane.handle().clone();
    let system = System::new();
    let outcome = system.block_on(serve(settings, mode, opened, handle, work));
    drop(system);
    // Dropped links close on the data plane; the other sides then know at once.
    data_plane.block_on(tasks_end(CLOSING));
    data_plane.shutdown_background();
    outcome
}

/// Waits until nothing works on this runtime any more, at most so long.
pub async fn tasks_end(within: Duration) {
    let (here, end) = (tokio::runtime::Handle::current(), Instant::now() + within);
    let mut every = tokio::time::interval(Duration::from_millis(5));
    while here.metrics().num_alive_tasks() > 0 && Instant::now() < end {
        every.tick().await;
    }
}

async fn serve<W, F>(
    settings: Arc<Settings>,
    mode: Mode,
    mut opened: Store,
    data_plane: tokio::runtime::Handle,
    work: W,
) -> Result<u8, StartError>
where
    W: FnOnce(Node) -> F,
    F: Future<Output = u8>,
{
    let (identity, rotations) = (opened.identity().clone(), opened.rotations().to_vec());
    let run = RunId(random().map_err(|error| StoreError::NoRandomness(error.to_string()))?);
    let ours = identity.device_id();
    let mut loaded = load(&opened, &settings, mode)?;
    loaded.odd_clock = mode != Mode::Offline && judge_clock(opened.last_used(), unix_now());
    let serves = matches!(mode, Mode::Run | Mode::Receive);
    let telling = match serves {
        true => telling(&settings, &ours)?,
        false => None,
    };
    let limits = signaling_limits(&settings);
    let mut signaling = None;
    let mut port = 0;
    if mode != Mode::Offline {
        let address = network::signaling_address(&settings);
        let (id, within) = (ours.clone(), limits.clone());
        let bound = data_plane
            .spawn(async move { SignalingServer::bind(address, id, within).await })
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)));
        let (server, events) = bound.map_err(|source| StartError::Bind { address, source })?;
        port = server.local_addr().port();
        let (id, handle) = (ours.clone(), data_plane.clone());
        signaling = Some(Supervisor::start(move |_| {
            Signaling::new(server, events, id, limits, handle)
        }));
    }
    opened.limit_audit(AuditLimits {
        max_size: settings.audit.max_size,
        max_age: settings.audit.max_age.as_secs(),
        keep: settings.audit.keep,
    });
    if mode == Mode::Run || mode == Mode::Receive {
        opened.note(AuditEntry::Started {
            device_id: ours.clone(),
            version: env!("CARGO_PKG_VERSION"),
        });
    }
    let store = store::start(opened);
    let metrics = Arc::new(Metrics::new());
    let server = match mode {
        Mode::Offline => None,
        _ => rendezvous(&settings)?,
    };
    let make_context = signaling.clone().map(|signaling| -> ContextMaker {
        let (settings, identity) = (Arc::clone(&settings), identity.clone());
        let data_plane = data_plane.clone();
        Box::new(move |coordinator| {
            Arc::new(peer_context(
                settings,
                (identity, rotations, run),
                data_plane,
                signaling,
                port,
                coordinator,
                server,
            ))
        })
    });
    let (own_identity, of_node) = (identity.clone(), identity.clone());
    let (changing, followed) = watch::channel(Arc::clone(&settings));
    let coordinator = Coordinator::new(
        changing,
        identity,
        run,
        (store.clone(), Arc::clone(&metrics)),
        data_plane.clone(),
        loaded,
        make_context,
    )
    .start();
    let mut discovery = None;
    if let Some(signaling) = &signaling {
        signaling.do_send(ReportTo(coordinator.downgrade()));
        if settings.discovery.enabled {
            let options = DiscoveryOptions {
                advert: Some(Advert {
                    device_id: ours.clone(),
                    name: settings.device.name.clone(),
                    device_type: settings.device.device_type,
                    run,
                    port,
                    addresses: Vec::new(),
                }),
                interfaces: network::selection(&settings),
            };
            let (handle, to) = (data_plane.clone(), coordinator.downgrade());
            discovery = Some(Supervisor::start(move |_| {
                Discovery::new(options, handle, to)
            }));
        }
    }
    let noting = (settings.dht.enabled && mode != Mode::Offline).then(|| {
        data_plane.spawn(dht::attend(Notes {
            identity: own_identity,
            port,
            settings: followed.clone(),
            coordinator: coordinator.downgrade(),
        }))
    });
    let vitals = Arc::new(Vitals {
        coordinator: coordinator.clone(),
        store: store.clone(),
        signaling: signaling.clone(),
        discovery: discovery.clone(),
        settings: followed.clone(),
        metrics,
        last: tokio::sync::Mutex::new(None),
    });
    let id_of_node = ours.clone();
    let receives = settings.receive.enabled && mode != Mode::Offline;
    let listening = Event::Listening {
        device_id: ours,
        name: settings.device.name.clone(),
        port,
        destination: receives.then(|| settings.receive.policy.defaults.destination.clone()),
    };
    let heart = Heart::new(coordinator.clone(), store.clone(), data_plane.clone());
    let attending = serves.then(|| actix::spawn(manager::attend(heart.clone())));
    let node = Node {
        id: id_of_node,
        identity: of_node,
        heart,
        coordinator: coordinator.clone(),
        settings: followed,
        vitals,
        listening,
        mode,
    };
    let socket = {
        let _inside = data_plane.enter();
        control::serve(&settings.state.dir, node.clone())
            .inspect_err(|error| warn!(%error, "no local API: other verbs cannot reach this one"))
    };
    let telling = telling::start(telling, &node);
    let code = tokio::select! {
        code = work(node) => code,
        part = failure(&coordinator, &store, &signaling, &discovery) => {
            error!(part, "a part of the program has failed and the process ends; nothing that \
                          was received is lost");
            exit::ERROR
        }
    };
    if let Some(noting) = noting {
        noting.abort();
    }
    if let Some(attending) = attending {
        attending.abort();
        manager::stopping();
    }
    let _ = tokio::time::timeout(FAREWELL, coordinator.send(Farewell)).await;
    if let Some(discovery) = discovery {
        let _ = tokio::time::timeout(GOODBYE, discovery.send(Goodbye)).await;
    }
    let flushed = store::Job::new(|store| {
        store.catch_up();
        store.flush()
    });
    let flushed = store.send(flushed).await;
    if let Ok(Err(error)) = flushed {
        error!(%error, "the store could not be made durable");
    }
    drop((socket, telling));
    Ok(code)
}

/// Waits until one of the four actors that must not fail has failed.
async fn failure(
    coordinator: &Addr<Coordinator>,
    store: &Addr<store::StoreActor>,
    signaling: &Option<Addr<Signaling>>,
    discovery: &Option<Addr<Discovery>>,
) -> &'static str {
    let mut every = tokio::time::interval(WATCH);
    loop {
        every.tick().await;
        let parts = [
            ("coordinator", coordinator.connected()),
            ("store", store.connected()),
            ("signaling", signaling.as_ref().is_none_or(Addr::connected)),
            ("discovery", discovery.as_ref().is_none_or(Addr::connected)),
        ];
        if let Some((part, _)) = parts.into_iter().find(|(_, alive)| !alive) {
            return part;
        }
    }
}

/// A text that a file holds, such as a credential, without the spaces around it.
fn read_secret(path: &PathBuf) -> Result<String, StartError> {
    let mut text = String::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(MAX_SECRET).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(source) => Err(StartError::Secret {
            path: path.clone(),
            fault: source.to_string(),
        }),
    }
}

/// Who is told what is done.
fn telling(settings: &Settings, ours: &DeviceId) -> Result<Option<Telling>, StartError> {
    let rule = &settings.notify;
    let secret = match &rule.secret_file {
        Some(path) if rule.webhook.is_some() => {
            let secret = read_secret(path)?;
            if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(StartError::Secret {
                    path: path.clone(),
                    fault: "it must have one line of visible ASCII characters".to_owned(),
                });
            }
            Some(secret)
        }
        _ => None,
    };
    let device = serde_json::json!({"id": ours, "name": settings.device.name});
    Ok(Telling::new(rule.clone(), secret, device))
}

/// What is secret of a kiosk: from the files that its settings name, else from the state folder.
fn start_of_kiosk(store: &Store, rule: &Kiosk) -> Result<KioskStart, StartError> {
    let read = read_secret;
    let secret = match (&rule.secret_file, rule.invite) {
        (_, false) => None,
        (None, true) => Some(store.kiosk_secret()?),
        (Some(path), true) => match read(path)? {
            text if text.len() < 16 => {
                return Err(StartError::Secret {
                    path: path.clone(),
                    fault: "it must have at least 16 characters that nobody can guess".to_owned(),
                });
            }
            text => Some(Secret::of_text(&text)),
        },
    };
    let pin = match (&rule.pin_file, rule.pin) {
        (Some(path), KioskPin::File) => {
            let pin = read_pin(&read(path)?).ok_or_else(|| StartError::Secret {
                path: path.clone(),
                fault: "a PIN has six digits".to_owned(),
            });
            Some(pin?)
        }
        _ => None,
    };
    Ok(KioskStart {
        rule: rule.clone(),
        secret,
        pin,
    })
}

fn load(store: &Store, settings: &Settings, mode: Mode) -> Result<Loaded, StartError> {
    let mut broadcasts = store.broadcasts();
    broadcasts.retain(|record| {
        let active = record.state == BroadcastState::Active;
        // Those of the config file are taken up by it.
        mode == Mode::Run && active && record.series.is_none()
    });
    let (configured, admins) = settings.lets_in();
    let trust = Pages {
        authorizations: store.authorizations(),
        revoked: store.revoked(),
        configured,
        admins,
        groups: store.groups(),
        declared: settings.declared_groups(),
        rosters: store.rosters()?,
        floors: store.floors(),
        moves: store.moves(),
    };
    let kiosk = (mode == Mode::Run && settings.kiosk.is_open())
        .then(|| start_of_kiosk(store, &settings.kiosk))
        .transpose()?;
    Ok(Loaded {
        odd_clock: false,
        trust,
        kiosk,
        broadcasts,
        transfers: store.transfers(),
        invites: store.invites(),
        plans: store.plans(),
        runs_plans: mode == Mode::Run,
        only_fetches: mode == Mode::Fetch,
    })
}

/// The rendezvous that the settings name.
///
/// # Errors
/// [`StartError::Rendezvous`] where it can be none.
pub fn rendezvous(settings: &Settings) -> Result<Option<Server>, StartError> {
    let meeting = &settings.rendezvous;
    if meeting.url.is_none() || meeting.token_file.is_none() {
        return Ok(None);
    }
    let server = provider::server(settings);
    server.map(Some).map_err(|error| StartError::Rendezvous {
        fault: error.to_string(),
    })
}

/// The STUN and TURN servers that a link beyond the LAN would ask now: those of the settings, and
/// those that the rendezvous names. Where there is a rendezvous, also whether it answers.
pub async fn path_helpers(
    settings: &Settings,
) -> (Vec<IceServer>, Option<Result<(), ServerError>>) {
    if settings.rendezvous.url.is_none() {
        return (network::ice_servers(settings, &[]), None);
    }
    let told = match provider::server(settings) {
        Ok(server) => server.ice_servers().await,
        Err(error) => Err(error),
    };
    let (told, answer) = match told {
        Ok(told) => (told.usable(), Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    (network::ice_servers(settings, &told), Some(answer))
}

/// What a link that asks only this server is made with.
pub fn link_options_for(settings: &Settings, server: IceServer) -> LinkOptions {
    LinkOptions {
        ice: vec![server],
        ..network::link_options(settings)
    }
}

fn signaling_limits(settings: &Settings) -> Limits {
    let signaling = &settings.signaling;
    Limits {
        connections: signaling.max_connections,
        per_address: signaling.max_connections_per_address,
        first_object: signaling.first_object_timeout,
        idle: signaling.idle_timeout,
        ..Limits::default()
    }
}

fn peer_context(
    settings: Arc<Settings>,
    (identity, rotations, run): (Identity, Vec<Rotation>, RunId),
    data_plane: tokio::runtime::Handle,
    signaling: Addr<Signaling>,
    port: u16,
    coordinator: WeakAddr<Coordinator>,
    server: Option<Server>,
) -> PeerContext {
    let (name, meeting) = (settings.device.name.clone(), &settings.rendezvous);
    let relay = server.clone().filter(|_| meeting.relay);
    let relay = relay.map(|server| RelayOptions { server });
    let registered = server.filter(|_| meeting.register);
    let registered = registered.map(|at| mail::start(at, identity.clone(), name, &data_plane));
    let (mail, events) = registered.unzip();
    PeerContext {
        identity,
        rotations,
        run,
        name: settings.device.name.clone(),
        device_type: settings.device.device_type.as_str().to_owned(),
        live: Mutex::new(Arc::new(Live::of(settings))),
        receptions: Receptions::default(),
        upload: Pacer::default(),
        download: Pacer::default(),
        mail_events: Mutex::new(events),
        mail,
        relay,
        ice: Mutex::default(),
        replay: Mutex::new(ReplayCache::new(REPLAY_CAPACITY)),
        data_plane,
        signaling,
        port,
        coordinator,
    }
}
