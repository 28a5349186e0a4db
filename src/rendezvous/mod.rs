//! The rendezvous: a server on which devices that do not share a network, and other programs, agree
//! on WebRTC connections. docs/rendezvous-openapi.json says what there is.

mod bus;
mod devices;
mod door;
mod helpers;
mod ice;
mod limits;
mod metrics;
mod problem;
mod relay;
mod routes;
mod store;
pub mod tokens;
pub mod turn;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, middleware, web};
use tokio::task::JoinHandle;

use crate::config::{Database, Network, RendezvousServe, Settings};
use crate::protocol::names::brief;
use crate::protocol::rendezvous::ClientType;
use bus::Bus;
use devices::Devices;
use helpers::Helpers;
use limits::{Connections, Rates};
use metrics::Metrics;
use problem::Problem;
use relay::Relays;
pub use store::DatabaseError;
use store::{Refused, Store, Terms};
use tokens::{KeyFault, Keys};

/// How long a client may take over the head of a request, and over its body.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection stays open between two requests: longer than the seed's clients wait
/// between two polls.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long a client may leave what was sent to it unread.
const UNREAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes that wait in the system for a client, about.
const SEND_BUFFER: usize = 64 << 10;
/// What requests may take to end when the server stops, in seconds.
const STOPPING: u64 = 5;
/// How often what is over is looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// How often a server shows others on its database that it is there.
const ALIVE: Duration = Duration::from_secs(5);
/// Users whose numbers are remembered.
const MOST_USERS: usize = 65_536;
/// How long an answer of the database about its health holds.
const HEALTH: Duration = Duration::from_secs(1);

/// Why there is no rendezvous.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be used.
    #[error(
        "the rendezvous cannot listen on {address}: {source}; choose another \
         (rendezvous.serve.bind)"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The STUN and TURN server.
    #[error("the TURN server cannot be started on {address}: {source} (rendezvous.turn)")]
    Turn {
        /// Where.
        address: SocketAddr,
        /// What is wrong.
        source: io::Error,
    },
    /// The state folder cannot be made.
    #[error("the state folder {} cannot be made: {source}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key of tokens.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// What every handler gets.
struct Shared {
    store: Store,
    bus: Arc<Bus>,
    keys: Keys,
    terms: Terms,
    proxies: Vec<Network>,
    users_rate: Rates<i64>,
    addresses_rate: Rates<IpAddr>,
    metrics: Metrics,
    devices: Devices,
    relays: Arc<Relays>,
    public_url: String,
    users: Mutex<HashMap<(String, ClientType), i64>>,
    health: tokio::sync::Mutex<Option<(Instant, bool)>>,
    ice: Helpers,
}

/// A long poll that waits, for the numbers.
struct Counted<'a>(Option<&'a Metrics>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.0 {
            metrics.waiting.dec();
        }
    }
}

impl Shared {
    /// The number of a user.
    async fn user(&self, subject: &str, kind: ClientType) -> Result<i64, Refused> {
        let key = (subject.to_owned(), kind);
        let users = || self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users().get(&key) {
            return Ok(*user);
        }
        let user = self.store.user(subject, kind).await?;
        let mut users = users();
        if users.len() >= MOST_USERS {
            users.clear();
        }
        users.insert(key, user);
        Ok(user)
    }

    fn waits(&self, limit: Duration) -> Counted<'_> {
        if limit.is_zero() {
            return Counted(None);
        }
        self.metrics.waiting.inc();
        Counted(Some(&self.metrics))
    }

    /// True when the database answers, or did a moment ago.
    async fn is_well(&self) -> bool {
        let mut health = self.health.lock().await;
        if let Some((at, ok)) = *health
            && at.elapsed() < HEALTH
        {
            return ok;
        }
        let ok = self.store.answers().await;
        *health = Some((Instant::now(), ok));
        ok
    }
}

/// A rendezvous, while it runs.
pub struct Served {
    /// Where it is: `http://address:port`.
    pub url: String,
    handle: ServerHandle,
    shared: web::Data<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Served {
    /// Ends it: whoever waits gets an answer, what is under way is finished.
    pub async fn stop(self) {
        self.shared.bus.stop();
        self.handle.stop(true).await;
        let ours = &self.shared.devices.ours;
        if let Err(error) = self.shared.store.clear_gone(Some(ours)).await {
            tracing::warn!(%error, "other servers do not know yet that this one has ended");
        }
        for task in &self.tasks {
            task.abort();
        }
        self.shared.store.close().await;
    }
}

/// Makes the folder that keys and databases are in.
pub fn make_state(dir: &std::path::Path) -> Result<(), StartError> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|source| StartError::State {
        path: dir.to_owned(),
        source,
    })
}

/// Starts a rendezvous, on threads of its own. It has to be called on an actix system.
pub async fn start(settings: &Settings) -> Result<Served, StartError> {
    let serve = &settings.rendezvous_serve;
    make_state(&settings.state.dir)?;
    let keys = Keys::load(serve, &settings.state.dir)?;
    let store = Store::open(&serve.database).await?;
    let listen_error = |source| StartError::Listen {
        address: serve.bind,
        source,
    };
    let listener = TcpListener::bind(serve.bind).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    more_files(serve.max_connections);
    let now = Instant::now();
    let shared = web::Data::new(Shared {
        store,
        bus: Arc::new(Bus::new()),
        keys,
        terms: Terms {
            lasts: serve.session_for,
            most: serve.max_sessions,
            most_signals: serve.max_signals,
        },
        proxies: serve.proxies.clone(),
        users_rate: Rates::new(serve.user_rate, now),
        addresses_rate: Rates::new(serve.address_rate, now),
        metrics: Metrics::new(),
        devices: Devices::new(devices::Limits {
            all: serve.max_devices,
            of_user: serve.user_devices,
        }),
        relays: relay::relays(serve),
        public_url: serve.public_url.clone().unwrap_or_default(),
        users: Mutex::default(),
        health: tokio::sync::Mutex::default(),
        ice: Helpers::start(settings).await?,
    });
    let alive = devices::alive(&shared).await;
    alive.map_err(|error| DatabaseError::Database {
        database: format!("{:?}", serve.database),
        what: "saying that this server is there",
        source: match error {
            Refused::Database(source) => source,
            other => sqlx::Error::Protocol(other.to_string()),
        },
    })?;
    let tasks = background(serve, &shared);
    let server = serve_http(serve, listener, &shared).map_err(listen_error)?;
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(Served {
        url: format!("http://{address}"),
        handle,
        shared,
        tasks,
    })
}

fn serve_http(
    serve: &RendezvousServe,
    listener: TcpListener,
    shared: &web::Data<Shared>,
) -> io::Result<actix_web::dev::Server> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let connections = Connections::new(serve.address_connections);
    let proxies = serve.proxies.clone();
    let refused = shared.metrics.crowded.clone();
    let shared = shared.clone();
    let server = HttpServer::new(move || {
        let refuse = |what: &str, error: String| {
            Problem::bad_request(format!("the {what} cannot be read: {}", brief(&error)))
        };
        let query = web::QueryConfig::default()
            .error_handler(move |error, _| refuse("query", error.to_string()).into());
        let path = web::PathConfig::default()
            .error_handler(move |error, _| refuse("path", error.to_string()).into());
        App::new()
            .app_data(shared.clone())
            .app_data(query)
            .app_data(path)
            .configure(routes::configure)
            .default_service(web::to(routes::nothing_here))
            .wrap(middleware::from_fn(door::around))
    })
    .workers(workers)
    .max_connections(serve.max_connections.div_ceil(workers))
    .client_request_timeout(REQUEST_LIMIT)
    .client_disconnect_timeout(Duration::from_secs(1))
    .keep_alive(KEEP_ALIVE)
    .on_connect(move |stream, data| {
        if let Some(stream) = stream.downcast_ref::<tokio::net::TcpStream>() {
            let from = stream
                .peer_addr()
                .map(|address| address.ip().to_canonical());
            if let Ok(from) = from.as_ref()
                && !proxies.iter().any(|proxy| proxy.contains(*from))
            {
                match connections.open(*from) {
                    Some(connection) => drop(data.insert(connection)),
                    None => {
                        refused.inc();
                        // All that can be done here: nothing more is read of it, or written.
                        let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Both);
                    }
                }
            }
            // Who does not read what it asked for loses its connection.
            let limit = UNREAD_LIMIT.as_millis().try_into().unwrap_or(u32::MAX);
            let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, limit);
            // Left alone, the system lets some MiB wait for each.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER);
            let _ = stream.set_nodelay(true);
        }
    })
    .disable_signals()
    .shutdown_timeout(STOPPING);
    Ok(server.listen(listener)?.run())
}

/// Makes a WebSocket of a request.
fn upgrade(
    request: &HttpRequest,
    body: web::Payload,
) -> Result<(HttpResponse, actix_ws::Session, actix_ws::MessageStream), Problem> {
    actix_ws::handle(request, body).map_err(|error| {
        let text = brief(&error.to_string());
        let text = format!("this is a WebSocket (version 13): {text}");
        Problem::new(StatusCode::UPGRADE_REQUIRED, "no_websocket", text)
    })
}

/// What goes on beside requests.
fn background(serve: &RendezvousServe, shared: &web::Data<Shared>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    let (here, keep) = (shared.clone(), serve.keep_for);
    tasks.push(actix_rt::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            if let Err(error) = here.store.forget_days().await {
                tracing::warn!(%error, "what was relayed on earlier days is still on record");
            }
            loop {
                match here.store.sweep(keep).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(%error, "what is over could not be cleared away");
                        break;
                    }
                }
            }
        }
    }));
    tasks.push(actix_rt::spawn(devices::look_again(shared.clone())));
    if let Database::Postgres(url) = &serve.database {
        let (others, told) = bus::others();
        let listening = bus::listen(url.clone(), Arc::clone(&shared.bus), others);
        tasks.push(actix_rt::spawn(listening));
        tasks.push(actix_rt::spawn(devices::attend(shared.clone(), told)));
        let here = shared.clone();
        tasks.push(actix_rt::spawn(async move {
            loop {
                tokio::time::sleep(ALIVE).await;
                let alive = devices::alive(&here).await;
                let cleared = here.store.clear_gone(None).await;
                if let Err(error) = alive.and(cleared) {
                    tracing::warn!(%error, "other servers may believe that this one is gone");
                }
            }
        }));
    }
    tasks
}

/// Each connection is an open file; programs may have more than they begin with.
fn more_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = connections as u64 + 256;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let current = limit.maximum.map_or(needed, |most| most.min(needed));
    let raised = Rlimit {
        current: Some(current),
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() || current < needed {
        tracing::warn!(
            connections,
            files = current,
            "the system allows fewer open files than connections are allowed"
        );
    }
}
