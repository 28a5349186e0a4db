//! HTTP for other programs of this machine: what the command line can ask, the events, metrics
//! and health. docs/API.md and docs/openapi.json say what there is.

mod answers;
mod door;
mod problem;
mod routes;
mod stream;
mod token;

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, middleware, web};

use crate::actors::service::Node;
use crate::config::{Api, ApiAddress};
use door::Door;
use stream::Places;

/// How long a client may take over the head of a request, and over its body.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection stays open between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client may leave what was sent to it unread.
const UNREAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes that wait in the system for a client, about.
const SEND_BUFFER: usize = 64 << 10;
/// Bytes of a request's body: paths may be many.
const MAX_BODY: usize = 1 << 20;

/// Why there is no HTTP API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address cannot be used.
    #[error("the HTTP API cannot listen on {address}: {source}; choose another (api.listen)")]
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The token cannot be read or made.
    #[error("the token of the HTTP API, {}: {reason}", path.display())]
    Token {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

/// The HTTP API, while it runs.
pub struct Served {
    /// Where it is: `http://address:port`, or `unix:/path`.
    pub url: String,
    /// The file with the token.
    pub token_file: PathBuf,
    handle: ServerHandle,
    socket: Option<PathBuf>,
}

impl Served {
    /// Ends it; what is under way is cut off.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        if let Some(path) = self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What every handler gets.
struct Shared {
    node: Node,
    places: Arc<Places>,
}

/// Serves a node over HTTP, on threads of its own; nothing where the settings name no address.
/// It has to be called on an actix system.
pub fn start(node: Node, settings: &Api) -> Result<Option<Served>, ApiError> {
    let Some(address) = &settings.listen else {
        return Ok(None);
    };
    let token_error = |reason: String| ApiError::Token {
        path: settings.token_file.clone(),
        reason,
    };
    let token = token::load_or_create(&settings.token_file).map_err(token_error)?;
    let shown = match address {
        ApiAddress::Tcp(address) => address.to_string(),
        ApiAddress::Unix(path) => path.display().to_string(),
    };
    let listen_error = |source| ApiError::Listen {
        address: shown.clone(),
        source,
    };
    let listener = Listener::bind(address).map_err(listen_error)?;
    let hosts = listener.hosts().map_err(listen_error)?;
    let url = listener.url().map_err(listen_error)?;
    let door = web::Data::new(Door::new(token, hosts));
    let shared = web::Data::new(Shared {
        places: Arc::new(Places::new(settings.max_streams)),
        node,
    });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .app_data(door.clone())
            .configure(routes::configure)
            .default_service(web::to(routes::nothing_here))
            .wrap(middleware::from_fn(door::guard))
            .wrap(middleware::from_fn(door::count))
    })
    // One thread is plenty, and makes the limits hold for all.
    .workers(1)
    .max_connections(settings.max_connections)
    .client_request_timeout(REQUEST_LIMIT)
    .client_disconnect_timeout(Duration::from_secs(1))
    .keep_alive(KEEP_ALIVE)
    .on_connect(|stream, _| {
        // Who does not read what it asked for loses its connection.
        if let Some(stream) = stream.downcast_ref::<tokio::net::TcpStream>() {
            let limit = UNREAD_LIMIT.as_millis().try_into().unwrap_or(u32::MAX);
            let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, limit);
            // Left alone, the system lets some MiB wait for each.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER);
        }
    })
    .disable_signals()
    .shutdown_timeout(1);
    let socket = match address {
        ApiAddress::Unix(path) => Some(path.clone()),
        ApiAddress::Tcp(_) => None,
    };
    let server = match listener {
        Listener::Tcp(listener) => server.listen(listener),
        Listener::Unix(listener, _) => server.listen_uds(listener),
    };
    let server = server.map_err(listen_error)?.run();
    let handle = server.handle();
    actix::spawn(server);
    Ok(Some(Served {
        url,
        token_file: settings.token_file.clone(),
        handle,
        socket,
    }))
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    fn bind(address: &ApiAddress) -> io::Result<Self> {
        match address {
            ApiAddress::Tcp(address) => TcpListener::bind(address).map(Self::Tcp),
            ApiAddress::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// What a request may say in `Host`: a page of another name, whose address was made to be
    /// ours, says something else.
    fn hosts(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Tcp(listener) => {
                let port = listener.local_addr()?.port();
                let names = ["localhost", "127.0.0.1", "[::1]"];
                let mut hosts: Vec<String> =
                    names.iter().map(|name| format!("{name}:{port}")).collect();
                let address = listener.local_addr()?.to_string();
                if !hosts.contains(&address) {
                    hosts.push(address);
                }
                if port == 80 {
                    hosts.extend(names.map(str::to_owned));
                }
                Ok(hosts)
            }
            Self::Unix(..) => Ok(vec!["localhost".to_owned()]),
        }
    }

    fn url(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(format!("http://{}", listener.local_addr()?)),
            Self::Unix(_, path) => Ok(format!("unix:{}", path.display())),
        }
    }
}

/// Removes the socket of a process that is gone. The state folder's lock is held, but another
/// state folder's service may use the same path.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::other("something else is there")),
        Err(_) => Ok(()),
    }
}
