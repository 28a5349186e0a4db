//! The settings, one struct per section. `config/default.toml` explains each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::api::ApiAddress;
use super::broadcasts::{self, BroadcastRule};
use super::dht::DhtSettings;
use super::error::Warning;
use super::groups::{self, GroupRule};
use super::hand_in::HandIn;
use super::kiosk::Kiosk;
use super::limits::LimitSettings;
use super::meeting::Meeting;
use super::notify::Notify;
use super::providers::{self, ProviderRule};
use super::reader::Reader;
use super::receive::Receive;
use super::rendezvous::RendezvousServe;
use super::surroundings::Surroundings;
use super::turn::TurnServe;
use super::units::{Authorized, Interface, Network, StaticPeer, is_name};
use super::{Loaded, Setting};
use crate::protocol::ice::{IceKind, IceUrl, MAX_SERVERS};
use crate::protocol::id::DeviceId;
use crate::protocol::negotiation::Initiator;
use crate::protocol::peers::DeviceType;
use crate::protocol::trust::Group;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Declares a struct with public fields.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

/// Everything that can be set, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This device, as others see it.
    pub device: Device,
    /// What outlives the process.
    pub state: State,
    /// Finding devices.
    pub discovery: Discovery,
    /// Agreeing on connections.
    pub signaling: Signaling,
    /// WebRTC connections.
    pub network: NetworkSettings,
    /// Taking what others send.
    pub receive: Receive,
    /// Taking what others give back.
    pub hand_in: HandIn,
    /// Receivers that help each other.
    pub swarm: SwarmSettings,
    /// Who may exchange bundles with us.
    pub trust: Trust,
    /// How fast bundles go and come.
    pub limits: LimitSettings,
    /// Letting others in by itself.
    pub kiosk: Kiosk,
    /// Keeping track of transfers.
    pub transfer: Transfer,
    /// The audit log.
    pub audit: AuditSettings,
    /// HTTP, for other programs of this machine.
    pub api: Api,
    /// Meeting devices of other networks.
    pub rendezvous: Meeting,
    /// Being a rendezvous.
    pub rendezvous_serve: RendezvousServe,
    /// A STUN and TURN server beside that.
    pub turn: TurnServe,
    /// Finding devices of other networks without a server.
    pub dht: DhtSettings,
    /// Telling people.
    pub notify: Notify,
    /// What is written to stderr.
    pub log: Log,
    /// Groups that the file declares.
    pub groups: Vec<GroupRule>,
    /// Broadcasts that the file describes.
    pub broadcasts: Vec<BroadcastRule>,
    /// What is given to whoever asks for it at the rendezvous.
    pub providers: Vec<ProviderRule>,
    pub(super) described: Vec<Setting>,
    pub(super) warnings: Vec<Warning>,
    pub(super) loaded: Loaded,
}

section! {
    /// `[device]`
    Device {
        /// Its name for people: 1 to 64 bytes without control characters.
        name: String,
        /// What it is.
        device_type: DeviceType,
    }
}

section! {
    /// `[state]`
    State {
        /// The state folder, absolute.
        dir: PathBuf,
    }
}

section! {
    /// `[discovery]`
    Discovery {
        /// Whether to look for devices and be found.
        enabled: bool,
        /// The interfaces to use; empty for all but loopback.
        interfaces: Vec<Interface>,
        /// Whether to use loopback alone.
        loopback_only: bool,
        /// How many devices are remembered at once.
        max_peers: usize,
        /// Devices known without discovery.
        static_peers: Vec<StaticPeer>,
    }
}

section! {
    /// `[signaling]`
    Signaling {
        /// The address to listen on.
        bind: IpAddr,
        /// The TCP port to listen on; 0 for any.
        port: u16,
        /// Who offers.
        initiator: Initiator,
        /// The wait for an answer.
        answer_timeout: Duration,
        /// How often an offer is made again.
        retries: u32,
        /// The wait before the first of those; each further one is twice as long.
        backoff: Duration,
        /// How long candidates wait for their description.
        early_candidates: Duration,
        /// Open connections in all.
        max_connections: usize,
        /// Open connections of one address; at most `max_connections`.
        max_connections_per_address: usize,
        /// The longest silence on a connection.
        idle_timeout: Duration,
        /// The longest wait for a connection's first object.
        first_object_timeout: Duration,
        /// How far clocks may differ.
        max_clock_skew: Duration,
    }
}

section! {
    /// `[network]`
    NetworkSettings {
        /// Our addresses to use; empty for those of the chosen interfaces.
        addresses: Vec<IpAddr>,
        /// Whether loopback addresses are allowed.
        loopback: bool,
        /// Networks besides on-link ones from which candidates are taken.
        networks: Vec<Network>,
        /// STUN and TURN servers, for devices that are on no network of ours.
        ice_servers: Vec<IceUrl>,
        /// The name that the TURN servers among them know us by.
        ice_username: String,
        /// The file with the secret that goes with it.
        ice_credential_file: Option<PathBuf>,
        /// UDP socket buffers, in bytes.
        udp_buffer: u64,
        /// Bytes in an SCTP packet.
        mtu: u16,
        /// Most bytes in flight on one link.
        window_max: u64,
        /// Fewest bytes that its window shrinks to; at most `window_max`.
        window_min: u64,
        /// Most bytes waiting in a data channel.
        send_buffer: u64,
        /// Silence after which a connection counts as disturbed.
        ice_disconnected: Duration,
        /// How long after that it counts as lost.
        ice_failed: Duration,
        /// The longest way to an open channel.
        channel_timeout: Duration,
        /// The longest time without progress.
        stall_timeout: Duration,
    }
}

section! {
    /// `[swarm]`
    SwarmSettings {
        /// How many others each receiver of a broadcast is introduced to; 0 for nobody.
        neighbours: usize,
    }
}

section! {
    /// `[trust]`
    Trust {
        /// Devices that the config authorizes.
        authorized: Vec<Authorized>,
        /// Devices whose rosters are taken.
        admins: Vec<DeviceId>,
        /// Whether clients without proof are dealt with.
        plain_peers: bool,
    }
}

section! {
    /// `[transfer]`
    Transfer {
        /// How many bundles of each sender lie here unfinished that nobody sends.
        unfinished: usize,
        /// How long each of them does.
        unfinished_for: Duration,
        /// How many transfers may send at a time; 0 for all.
        at_most: usize,
        /// How often progress is made safe at least.
        checkpoint_interval: Duration,
        /// After how many bytes it is made safe sooner.
        checkpoint_bytes: u64,
        /// How many finished transfers and broadcasts are remembered.
        retention: usize,
        /// How often a transfer that waits for disk space looks again.
        disk_retry: Duration,
    }
}

section! {
    /// `[audit]`
    AuditSettings {
        /// Bytes of a file, before a new one is begun.
        max_size: u64,
        /// The same as an age.
        max_age: Duration,
        /// Files that are kept, besides the one that is written.
        keep: usize,
    }
}

section! {
    /// `[api]`
    Api {
        /// Where to listen; nothing for nowhere.
        listen: Option<ApiAddress>,
        /// The file that holds the token, absolute.
        token_file: PathBuf,
        /// Open connections.
        max_connections: usize,
        /// Streams of events among them.
        max_streams: usize,
    }
}

section! {
    /// `[log]`
    Log {
        /// The least severe messages to write.
        level: LogLevel,
        /// How they are written.
        format: LogFormat,
        /// The file that a service writes to; nothing for stderr.
        file: Option<PathBuf>,
        /// Most bytes of that file.
        max_size: u64,
        /// How many full ones stay beside it.
        keep: usize,
    }
}

impl Settings {
    /// Whom the config lets in, with names for people, and whose rosters it takes. Members of a
    /// group that the file declares are let in by that.
    pub fn lets_in(&self) -> (Vec<(DeviceId, Option<String>)>, Vec<DeviceId>) {
        let members = self.groups.iter().flat_map(|group| &group.members);
        let mut let_in: BTreeMap<_, Option<String>> = BTreeMap::new();
        for entry in self.trust.authorized.iter().chain(members) {
            let name = let_in.entry(entry.id.clone()).or_default();
            *name = name.take().or_else(|| entry.name.clone());
        }
        (let_in.into_iter().collect(), self.trust.admins.clone())
    }

    /// The groups that the file declares.
    pub fn declared_groups(&self) -> Vec<Group> {
        let groups = self.groups.iter().map(|group| Group {
            name: group.name.clone(),
            members: group
                .members
                .iter()
                .map(|member| member.id.clone())
                .collect(),
            roles: group.roles,
        });
        groups.collect()
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What a person should look at.
    Warn,
    /// What is going on.
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word that the config and tracing filters use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    const ALL: [Self; 6] = [
        Self::Off,
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];
}

/// How log messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Settings {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let device = Device {
            name: r.text_or(
                "device.name",
                "a name of at most 64 bytes without control characters",
                is_name,
                Surroundings::device_name,
            ),
            device_type: r.choice(
                "device.type",
                &[DeviceType::Desktop, DeviceType::Mobile].map(|kind| (kind.as_str(), kind)),
            ),
        };
        let state = State {
            dir: r.path_or("state.dir", Surroundings::state_dir),
        };
        let state_dir = state.dir.clone();
        let mut settings = Self {
            device,
            state,
            discovery: Discovery::read(r),
            signaling: Signaling::read(r),
            network: NetworkSettings::read(r),
            receive: Receive::read(r),
            hand_in: HandIn::read(r),
            swarm: SwarmSettings {
                neighbours: r.number("swarm.neighbours", 0..=16),
            },
            trust: Trust {
                authorized: r.list(
                    "trust.authorized",
                    "\"device_id\" or \"device_id name\", where ids have 32 characters of a-z2-7",
                ),
                admins: r.list("trust.admins", "device ids"),
                plain_peers: r.boolean("trust.plain_peers"),
            },
            limits: LimitSettings::read(r),
            kiosk: Kiosk::read(r),
            transfer: Transfer {
                at_most: r.number("transfer.at_most", 0..=10_000),
                checkpoint_interval: r.duration("transfer.checkpoint_interval", ["10ms", "1m"]),
                checkpoint_bytes: r.size("transfer.checkpoint_bytes", MIB..=16 * GIB),
                retention: r.number("transfer.retention", 0..=5000),
                unfinished: r.number("transfer.unfinished", 0..=5000),
                unfinished_for: r.duration("transfer.unfinished_for", ["1m", "365d"]),
                disk_retry: r.duration("transfer.disk_retry", ["100ms", "1h"]),
            },
            audit: AuditSettings {
                max_size: r.size("audit.max_size", 64 * KIB..=GIB),
                max_age: r.duration("audit.max_age", ["1h", "3650d"]),
                keep: r.number("audit.keep", 1..=1000),
            },
            api: Api::read(r),
            rendezvous: Meeting::read(r),
            rendezvous_serve: RendezvousServe::read(r, &state_dir),
            turn: TurnServe::read(r),
            dht: DhtSettings::read(r),
            notify: Notify::read(r),
            log: Log {
                level: r.choice(
                    "log.level",
                    &LogLevel::ALL.map(|level| (level.as_str(), level)),
                ),
                format: r.choice(
                    "log.format",
                    &[("text", LogFormat::Text), ("json", LogFormat::Json)],
                ),
                file: r.path("log.file"),
                max_size: r.size("log.max_size", 64 * KIB..=GIB),
                keep: r.number("log.keep", 0..=100),
            },
            groups: groups::read(r),
            broadcasts: broadcasts::read(r, &state_dir),
            providers: providers::read(r),
            described: Vec::new(),
            warnings: Vec::new(),
            loaded: Loaded::default(),
        };
        if settings.api.token_file.as_os_str().is_empty() {
            settings.api.token_file = settings.state.dir.join("api.token");
        }
        let (network, signaling) = (&settings.network, &settings.signaling);
        r.in_order(
            ("network.window_min", network.window_min),
            ("network.window_max", network.window_max),
        );
        r.in_order(
            (
                "signaling.max_connections_per_address",
                signaling.max_connections_per_address,
            ),
            ("signaling.max_connections", signaling.max_connections),
        );
        settings
    }
}

impl Discovery {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            enabled: r.boolean("discovery.enabled"),
            interfaces: r.list("discovery.interfaces", "interface names or addresses"),
            loopback_only: r.boolean("discovery.loopback_only"),
            max_peers: r.number("discovery.max_peers", 1..=65_536),
            static_peers: r.list("discovery.static_peers", "\"device_id@host:port\""),
        }
    }
}

impl Signaling {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            bind: r.parsed("signaling.bind", "an IPv4 or IPv6 address"),
            port: r.number("signaling.port", 0..=65_535),
            initiator: r.choice(
                "signaling.initiator",
                &[
                    ("sender", Initiator::Sender),
                    ("lower-id", Initiator::LowerId),
                ],
            ),
            answer_timeout: r.duration("signaling.answer_timeout", ["100ms", "10m"]),
            retries: r.number("signaling.retries", 0..=100),
            backoff: r.duration("signaling.backoff", ["10ms", "5m"]),
            early_candidates: r.duration("signaling.early_candidates", ["1s", "10m"]),
            max_connections: r.number("signaling.max_connections", 1..=65_536),
            max_connections_per_address: r
                .number("signaling.max_connections_per_address", 1..=65_536),
            idle_timeout: r.duration("signaling.idle_timeout", ["1s", "1h"]),
            first_object_timeout: r.duration("signaling.first_object_timeout", ["100ms", "10m"]),
            max_clock_skew: r.duration("signaling.max_clock_skew", ["0s", "1d"]),
        }
    }
}

impl Api {
    fn read(r: &mut Reader<'_>) -> Self {
        let (surroundings, file) = (r.surroundings, r.file);
        let api = Self {
            listen: r.shaped("api.listen", &ApiAddress::shape(surroundings, file)),
            // Where it is when nothing is said depends on the state folder.
            token_file: r.path_or("api.token_file", |_| Some(PathBuf::new())),
            max_connections: r.number("api.max_connections", 8..=4096),
            max_streams: r.number("api.max_streams", 1..=4096),
        };
        r.in_order(
            ("api.max_streams", api.max_streams),
            ("api.max_connections", api.max_connections),
        );
        api
    }
}

impl NetworkSettings {
    fn read(r: &mut Reader<'_>) -> Self {
        let addresses = r.list("network.addresses", "IPv4 or IPv6 addresses");
        let loopback = r.boolean("network.loopback");
        let networks = r.list("network.networks", "networks such as 10.20.0.0/16");
        let ice_servers: Vec<IceUrl> = r.list(
            "network.ice_servers",
            "\"stun:host:port\" or \"turn:host:port\" (over UDP)",
        );
        let needs_credential = ice_servers.iter().any(|url| url.kind == IceKind::Turn);
        if ice_servers.len() > MAX_SERVERS {
            let text = format!("only the first {MAX_SERVERS} are asked");
            r.warn_of("network.ice_servers", text);
        }
        let ice_username = r.text_or(
            "network.ice_username",
            "at most 128 visible ASCII characters",
            |name| name.len() <= 128 && name.bytes().all(|b| b.is_ascii_graphic()),
            |_| String::new(),
        );
        let ice_credential_file = r.path("network.ice_credential_file");
        if needs_credential && (ice_username.is_empty() || ice_credential_file.is_none()) {
            let text = "TURN servers refuse who has no network.ice_username and \
                        network.ice_credential_file";
            r.warn_of("network.ice_servers", text);
        }
        Self {
            addresses,
            loopback,
            networks,
            ice_servers,
            ice_username,
            ice_credential_file,
            udp_buffer: r.size("network.udp_buffer", 64 * KIB..=256 * MIB),
            mtu: r.number("network.mtu", 1191..=1435),
            window_max: r.size("network.window_max", 64 * KIB..=64 * MIB),
            window_min: r.size("network.window_min", 64 * KIB..=64 * MIB),
            send_buffer: r.size("network.send_buffer", 64 * KIB..=16 * MIB),
            ice_disconnected: r.duration("network.ice_disconnected", ["500ms", "5m"]),
            ice_failed: r.duration("network.ice_failed", ["500ms", "5m"]),
            channel_timeout: r.duration("network.channel_timeout", ["1s", "10m"]),
            stall_timeout: r.duration("network.stall_timeout", ["1s", "1h"]),
        }
    }
}
