//! Signaling over TCP: the listener, the connections it takes and those we make
//! (PROTOCOL.md §3). Everything a stranger can do here is bounded.

mod connection;
mod table;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::protocol::framer::MAX_OBJECT;
use crate::protocol::id::DeviceId;
use crate::protocol::signal::Signal;
use table::Table;

/// Limits of the listener and its connections (PROTOCOL.md §16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections taken in all, and as many more made by us.
    pub connections: usize,
    /// Connections taken from one address (for IPv6, one /64 network).
    pub per_address: usize,
    /// How soon a valid object must come on a connection that was taken.
    pub first_object: Duration,
    /// How long a connection lives without a valid object.
    pub idle: Duration,
    /// Most bytes of an object.
    pub object: usize,
    /// Most objects that one connection may bring in this time. Each is work for those who decide,
    /// also where it comes to nothing; a negotiation takes a few dozen.
    pub objects: (u32, Duration),
    /// How long one write may take.
    pub write: Duration,
    /// Events that wait to be handled; beyond it the connections are read no further.
    pub events: usize,
    /// Messages that wait to be written, per connection.
    pub outgoing: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            per_address: 32,
            first_object: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            object: MAX_OBJECT,
            objects: (256, Duration::from_secs(10)),
            write: Duration::from_secs(10),
            events: 256,
            outgoing: 64,
        }
    }
}

/// Numbers the connections of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A message that came in. Nothing in it is proven.
#[derive(Debug, Clone)]
pub struct SignalEvent {
    /// Where to write the answer, while it is open.
    pub connection: ConnectionHandle,
    /// The other end's address.
    pub from: SocketAddr,
    /// The message.
    pub signal: Signal,
}

/// Why a message was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The other side does not read.
    #[error("the peer does not read its signaling messages")]
    Full,
    /// The connection is closed.
    #[error("the signaling connection is closed")]
    Closed,
}

/// What a connection's writer is told.
#[derive(Debug)]
enum Outgoing {
    /// Write this, then tell.
    Line(String, Option<oneshot::Sender<()>>),
    /// Write this and close.
    Last(String),
}

/// Writes to one connection. Holding it does not keep the connection open.
#[derive(Debug, Clone)]
pub struct ConnectionHandle {
    id: ConnectionId,
    remote: SocketAddr,
    outgoing: mpsc::Sender<Outgoing>,
}

impl ConnectionHandle {
    /// Which connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// True when nothing can be written any more.
    pub fn is_closed(&self) -> bool {
        self.outgoing.is_closed()
    }

    /// Queues a message without waiting.
    ///
    /// # Errors
    /// [`SendError`] when it cannot be queued.
    pub fn try_send(&self, signal: &Signal) -> Result<(), SendError> {
        self.queue(Outgoing::Line(signal.encode(), None))
    }

    /// Queues a message and waits until it is handed to the operating system.
    ///
    /// # Errors
    /// [`SendError`] when it cannot be queued or written.
    pub async fn deliver(&self, signal: &Signal) -> Result<(), SendError> {
        let (done, written) = oneshot::channel();
        self.queue(Outgoing::Line(signal.encode(), Some(done)))?;
        written.await.map_err(|_| SendError::Closed)
    }

    /// Writes a last message and closes the connection.
    ///
    /// # Errors
    /// [`SendError`] when it cannot be queued.
    pub fn send_last(&self, signal: &Signal) -> Result<(), SendError> {
        self.queue(Outgoing::Last(signal.encode()))
    }

    fn queue(&self, item: Outgoing) -> Result<(), SendError> {
        self.outgoing.try_send(item).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }
}

/// What all connections of a server share.
#[derive(Debug)]
struct Shared {
    ours: DeviceId,
    limits: Limits,
    table: Table,
    events: mpsc::Sender<SignalEvent>,
}

/// The listener, and the connections of both directions.
///
/// When it is dropped the listener closes at once; open connections write what is queued, within
/// the write limit, and close.
#[derive(Debug)]
pub struct SignalingServer {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

impl SignalingServer {
    /// Listens on `addr`; port 0 lets the system choose. Messages of all connections come out
    /// of the receiver. `ours` is the id that error messages are written under.
    ///
    /// Must be called on a tokio runtime; the connections live there.
    ///
    /// # Errors
    /// When the address cannot be bound, for instance because the port is in use.
    pub async fn bind(
        addr: SocketAddr,
        ours: DeviceId,
        limits: Limits,
    ) -> io::Result<(Self, mpsc::Receiver<SignalEvent>)> {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        let (events, receiver) = mpsc::channel(limits.events.max(1));
        let table = Table::new(limits.connections, limits.per_address);
        let shared = Arc::new(Shared {
            ours,
            limits,
            table,
            events,
        });
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(accept(listener, shared.clone(), stopped));
        let server = Self {
            local_addr,
            shared,
            stop,
        };
        Ok((server, receiver))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How many connections are open that others made.
    pub fn connections(&self) -> usize {
        self.shared.table.len()
    }

    /// Makes a connection to a peer's listener, within `deadline`. What the peer writes on it
    /// comes out of the same receiver.
    ///
    /// # Errors
    /// When there is no connection in time, or we have too many.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        deadline: Duration,
    ) -> io::Result<ConnectionHandle> {
        let Some(place) = self.shared.table.outgoing() else {
            return Err(io::Error::other(
                "too many signaling connections are open at once: try again later",
            ));
        };
        let stream = timeout(deadline, TcpStream::connect(addr))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
        let stopped = self.stop.subscribe();
        let shared = self.shared.clone();
        let (handle, run) = connection::prepare(stream, addr, shared, place, stopped);
        tokio::spawn(run);
        Ok(handle)
    }
}

impl Drop for SignalingServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely no file descriptor is free; trying at once would only spin.
                warn!(%error, "cannot take signaling connections");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Some(place) = shared.table.incoming(from.ip()) else {
            debug!(%from, "too many signaling connections: closed");
            continue;
        };
        let id = place.id();
        let (_, run) = connection::prepare(stream, from, shared.clone(), place, stopped.clone());
        let task = tokio::spawn(run);
        shared.table.set_task(id, task.abort_handle());
    }
}

#[cfg(test)]
mod tests;
