//! The local API: a Unix socket in the state folder, for this user alone. One request as a JSON
//! line, answered by events as JSON lines.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::api::{Event, Request, exit};
use super::service::Node;

const NAME: &str = "control.sock";
/// A socket's path has at most 107 bytes (unix(7)); longer ones live in the runtime folder.
const MAX_PATH: usize = 100;
/// Programs that may be connected at once.
const MAX_CLIENTS: usize = 64;
/// Bytes of a request: paths may be many.
const MAX_REQUEST: u64 = 4 << 20;
/// A client says what it wants within this time.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Events that may wait for a slow client.
pub(super) const EVENTS: usize = 1024;

/// Where the socket of a state folder is.
fn socket_path(state: &Path) -> PathBuf {
    let path = state.join(NAME);
    if path.as_os_str().len() <= MAX_PATH {
        return path;
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .unwrap_or_else(std::env::temp_dir);
    let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    folder.join(format!("handout-{}.sock", &hash[..16]))
}

/// The socket, removed when dropped.
pub struct Socket {
    path: PathBuf,
    accepting: tokio::task::AbortHandle,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves requests on the runtime it is called on. The store's lock must be held: it makes sure
/// that a socket that is already there is a dead process's.
pub fn serve(state: &Path, node: Node) -> io::Result<Socket> {
    let path = socket_path(state);
    match std::fs::symlink_metadata(&path) {
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(&path)?,
        Ok(_) => {
            return Err(io::Error::other(format!(
                "{} is in the way",
                path.display()
            )));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let accepting = tokio::spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let node = node.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve_client(stream, node).await {
                            debug!(%error, "a local client left");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "the local API takes no clients now");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    });
    let accepting = accepting.abort_handle();
    Ok(Socket { path, accepting })
}

async fn serve_client(stream: UnixStream, node: Node) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read.take(MAX_REQUEST));
    let mut line = String::new();
    timeout(REQUEST_LIMIT, read.read_line(&mut line)).await??;
    let (reply, mut events) = mpsc::channel(EVENTS);
    match serde_json::from_str::<Request>(&line) {
        Ok(request) => node.hand_over(request, reply),
        Err(error) => {
            let message = format!("the request is not one of this version: {error}");
            let _ = reply.try_send(Event::Error { message });
            let _ = reply.try_send(Event::End { code: exit::USAGE });
        }
    }
    let mut gone = [0];
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return Ok(()) };
                let mut text = serde_json::to_vec(&event)?;
                text.push(b'\n');
                write.write_all(&text).await?;
                if matches!(event, Event::End { .. }) {
                    return Ok(());
                }
            }
            // A client says nothing more: what is read here is that it has gone.
            _ = read.read(&mut gone) => return Ok(()),
        }
    }
}

/// A connection to the node that runs on a state folder.
pub struct Client(UnixStream);

impl Client {
    /// Connects; `None` when no node runs there.
    pub async fn connect(state: &Path) -> Option<Self> {
        let path = socket_path(state);
        // A socket outside the state folder could be anybody's.
        let owner = std::fs::symlink_metadata(&path).ok()?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return None;
        }
        UnixStream::connect(&path).await.ok().map(Self)
    }

    /// Asks; the answer ends with [`Event::End`], also when the node goes away meanwhile.
    pub fn ask(self, request: Request) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(EVENTS);
        tokio::spawn(async move {
            if let Err(error) = converse(self.0, &request, &events).await {
                let message = format!("the running service did not answer: {error}");
                let _ = events.send(Event::Error { message }).await;
                let _ = events.send(Event::End { code: exit::ERROR }).await;
            }
        });
        receiver
    }
}

async fn converse(
    stream: UnixStream,
    request: &Request,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    let mut lines = BufReader::new(read).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            // Whoever asked no longer listens: closing tells the service.
            () = events.closed() => return Ok(()),
        };
        let line = line.ok_or(io::ErrorKind::UnexpectedEof)?;
        let event: Event = serde_json::from_str(&line)?;
        let last = matches!(event, Event::End { .. });
        if events.send(event).await.is_err() || last {
            return Ok(());
        }
    }
}
