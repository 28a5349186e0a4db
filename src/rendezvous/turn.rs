//! A STUN and TURN server (RFC 8489, RFC 8656; UDP), so that devices behind NATs need no third
//! party to find a path. The messages are handled by the crate `turn`; who may ask for how much,
//! and what is passed on to where, is decided here.

mod accounts;
mod relay;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tracing::debug;
use turn::allocation::allocation_manager::{Manager, ManagerConfig};
use turn::auth::{AuthHandler, generate_auth_key};
use turn::server::request::Request;

use self::accounts::Accounts;
pub use self::accounts::Quota;
use self::relay::{Addresses, Ground};
use crate::net::interfaces;
use crate::protocol::turn::{self as rules, BINDING, Heading};

/// How this server calls the realm of its users.
const REALM: &str = "handout";
/// Bytes of the largest datagram that is read: what fits an Ethernet frame.
const MAX_DATAGRAM: usize = 1500;
/// Bytes of the socket's buffers.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long a bound channel holds without being bound again (RFC 8656 §12).
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// The span in which requests are counted.
const SPAN: Duration = Duration::from_secs(10);
/// Requests from one address within it: a room of devices behind one NAT is not much more.
const REQUESTS_OF_ONE: u32 = 1000;
/// Requests from all addresses within it.
const REQUESTS: u32 = 20_000;
/// Requests for permissions and channels from one port within it. Each costs memory for some
/// minutes.
const PERMISSIONS_OF_ONE: u32 = 64;
/// Peers that one request may name.
const MAX_PEERS: usize = 4;
/// Addresses and ports that are counted at once.
const MAX_COUNTED: usize = 16_384;
/// Nonces that are in force at once. Whose nonce is gone is given a new one.
const MAX_NONCES: usize = 65_536;
/// How long a nonce is in force.
const NONCE_LIFETIME: Duration = Duration::from_secs(3600);

/// What the server is started with.
#[derive(Clone)]
pub struct TurnOptions {
    /// The UDP address and port to listen on.
    pub bind: SocketAddr,
    /// The address that others reach it by; nothing where that is the one of `bind`.
    pub public: Option<IpAddr>,
    /// Ports of the addresses that it gives away.
    pub ports: RangeInclusive<u16>,
    /// What credentials are made from ([`rules::TurnCredential`]).
    pub secret: Vec<u8>,
    /// How much everybody may have.
    pub quota: Quota,
    /// Datagrams may go to inner networks as well.
    pub allow_private: bool,
}

/// What the server has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnTotals {
    /// Addresses that are given away now.
    pub allocations: usize,
    /// Bytes that were passed on.
    pub bytes: u64,
    /// Datagrams that were not, because of the address at their other end.
    pub refused: u64,
}

/// A server that runs until this is dropped.
pub struct Running {
    local: SocketAddr,
    public: IpAddr,
    accounts: Arc<Accounts>,
    serving: JoinHandle<()>,
}

impl Running {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where others reach it.
    pub fn public_addr(&self) -> SocketAddr {
        SocketAddr::new(self.public, self.local.port())
    }

    /// What it has done.
    pub fn totals(&self) -> TurnTotals {
        let (allocations, bytes, refused) = self.accounts.totals();
        TurnTotals {
            allocations,
            bytes,
            refused,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Starts the server, on the runtime that this is called on.
///
/// # Errors
/// When the address cannot be bound, or nobody says by which one others reach it.
pub async fn start(options: TurnOptions) -> io::Result<Running> {
    let bind = options.bind;
    let public = match options.public {
        Some(public) => public.to_canonical(),
        None if !bind.ip().is_unspecified() => bind.ip(),
        None => {
            let text = "the TURN server listens on all addresses, and nothing says by which one \
                        others reach it: set rendezvous.turn.public_address";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    };
    if public.is_ipv4() != bind.is_ipv4() || options.ports.is_empty() {
        let text = "the TURN server's public address must be of the same family as the one that \
                    it listens on, and it needs ports to give away";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let socket = listen(bind)?;
    let local = socket.local_addr()?;
    let accounts = Accounts::new(options.quota);
    let user = Arc::new(Mutex::new(None));
    let own = interfaces::list()?.into_iter().map(|found| found.ip);
    let addresses = Addresses {
        ground: Arc::new(Ground {
            bind: bind.ip(),
            public,
            ports: options.ports,
            allow_private: options.allow_private,
            own: own.collect(),
            given: Mutex::default(),
        }),
        accounts: Arc::clone(&accounts),
        user: Arc::clone(&user),
    };
    let server = Server {
        socket: Arc::new(socket),
        manager: Arc::new(Manager::new(ManagerConfig {
            relay_addr_generator: Box::new(addresses),
            alloc_close_notify: None,
        })),
        users: Arc::new(Users {
            secret: options.secret,
            user,
        }),
        nonces: Arc::default(),
        door: Door::new(Instant::now()),
    };
    let serving = tokio::spawn(server.serve());
    Ok(Running {
        local,
        public,
        accounts,
        serving,
    })
}

fn listen(bind: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(bind)?;
    socket.set_nonblocking(true)?;
    let options = socket2::SockRef::from(&socket);
    // The system may grant less.
    options.set_recv_buffer_size(SOCKET_BUFFER)?;
    options.set_send_buffer_size(SOCKET_BUFFER)?;
    UdpSocket::from_std(socket)
}

/// Knows the keys of users whose credentials hold.
struct Users {
    secret: Vec<u8>,
    /// Whoever has shown one in the datagram that is being looked at.
    user: Arc<Mutex<Option<String>>>,
}

impl Users {
    fn set(&self, user: Option<String>) {
        *self.user.lock().unwrap_or_else(PoisonError::into_inner) = user;
    }
}

impl AuthHandler for Users {
    fn auth_handle(
        &self,
        username: &str,
        realm: &str,
        _: SocketAddr,
    ) -> Result<Vec<u8>, turn::Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(u64::MAX, |since| since.as_secs());
        let user = rules::user_of(username, now).filter(|_| realm == REALM);
        let user = user.ok_or_else(|| turn::Error::Other("no such user, or expired".to_owned()))?;
        self.set(Some(user.to_owned()));
        let password = rules::password(&self.secret, username);
        Ok(generate_auth_key(username, realm, &password))
    }
}

struct Server {
    socket: Arc<UdpSocket>,
    manager: Arc<Manager>,
    users: Arc<Users>,
    nonces: Arc<tokio::sync::Mutex<HashMap<String, tokio::time::Instant>>>,
    door: Door,
}

impl Server {
    /// One datagram after the other: who is authenticated is known for one at a time.
    async fn serve(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // What the system tells of datagrams that did not arrive.
                    debug!(%error, "TURN: receiving");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let datagram = &buffer[..length];
            if !self
                .door
                .lets_in(Heading::of(datagram), from, Instant::now())
            {
                continue;
            }
            self.users.set(None);
            let mut request = Request {
                conn: Arc::clone(&self.socket) as _,
                src_addr: from,
                buff: datagram.to_vec(),
                allocation_manager: Arc::clone(&self.manager),
                nonces: Arc::clone(&self.nonces),
                auth_handler: Arc::clone(&self.users) as _,
                realm: REALM.to_owned(),
                channel_bind_timeout: CHANNEL_LIFETIME,
            };
            if let Err(error) = request.handle_request().await {
                debug!(%from, %error, "TURN: refused");
            }
            self.forget_nonces().await;
        }
    }

    /// Anybody can have a nonce, and the crate forgets none by itself.
    async fn forget_nonces(&self) {
        let mut nonces = self.nonces.lock().await;
        if nonces.len() <= MAX_NONCES {
            return;
        }
        nonces.retain(|_, made| made.elapsed() < NONCE_LIFETIME);
        if nonces.len() > MAX_NONCES / 2 {
            let mut ages: Vec<_> = nonces.values().copied().collect();
            let middle = ages.len() / 2;
            let (_, middle, _) = ages.select_nth_unstable(middle);
            let middle = *middle;
            nonces.retain(|_, made| *made > middle);
        }
    }
}

/// How much may be asked.
struct Door {
    begun: Instant,
    all: u32,
    by_address: HashMap<IpAddr, u32>,
    by_port: HashMap<SocketAddr, u32>,
}

impl Door {
    fn new(now: Instant) -> Self {
        Self {
            begun: now,
            all: 0,
            by_address: HashMap::new(),
            by_port: HashMap::new(),
        }
    }

    fn lets_in(&mut self, heading: Heading, from: SocketAddr, now: Instant) -> bool {
        let (method, peers) = match heading {
            Heading::Data => return true,
            Heading::Other => return false,
            Heading::Request { method, peers } => (method, peers),
        };
        if now.saturating_duration_since(self.begun) >= SPAN {
            *self = Self::new(now);
        }
        // Whoever forges addresses must not fill the memory; the sum still counts.
        if self.by_address.len() >= MAX_COUNTED {
            self.by_address.clear();
        }
        if self.by_port.len() >= MAX_COUNTED {
            self.by_port.clear();
        }
        let of_one = self.by_address.entry(from.ip()).or_default();
        *of_one = of_one.saturating_add(1);
        // What one address asks in vain uses up nothing of the others.
        if *of_one > REQUESTS_OF_ONE {
            return false;
        }
        self.all = self.all.saturating_add(1);
        if self.all > REQUESTS || peers > MAX_PEERS {
            return false;
        }
        if method == BINDING || peers == 0 {
            return true;
        }
        let of_port = self.by_port.entry(from).or_default();
        *of_port = of_port.saturating_add(1);
        *of_port <= PERMISSIONS_OF_ONE
    }
}

#[cfg(test)]
mod tests;
