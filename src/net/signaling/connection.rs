//! One signaling connection, whoever made it: it is read and written at the same time, in one
//! task.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::table::Place;
use super::{ConnectionHandle, Outgoing, Shared, SignalEvent};
use crate::protocol::framer::JsonFramer;
use crate::protocol::rate::Rate;
use crate::protocol::signal::{Signal, SignalError, SignalKind};

/// How long we read on, and throw away, after a connection was given up: closing with unread
/// bytes would reset it, and the peer would lose the error message that says why.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

/// Why reading ended.
#[derive(Debug)]
enum End {
    /// The peer closed its side; it may still want the answer.
    Finished,
    /// Nothing valid came for too long, or the connection broke, or nobody listens to us.
    Gone,
    /// Not signaling messages.
    Malformed(SignalError),
    /// More messages than anybody needs.
    TooMany,
}

impl End {
    /// What the peer is told, where it did something wrong.
    fn fault(&self) -> Option<String> {
        match self {
            Self::Finished | Self::Gone => None,
            Self::Malformed(error) => Some(error.to_string()),
            Self::TooMany => Some(
                "too many messages in a short time on one connection: wait, and connect again"
                    .to_owned(),
            ),
        }
    }
}

/// The handle of a connection and the future that serves it.
pub(super) fn prepare(
    stream: TcpStream,
    remote: SocketAddr,
    shared: Arc<Shared>,
    place: Place,
    stopped: watch::Receiver<bool>,
) -> (ConnectionHandle, impl Future<Output = ()> + Send) {
    let (outgoing, queue) = mpsc::channel(shared.limits.outgoing.max(1));
    let handle = ConnectionHandle {
        id: place.id(),
        remote,
        outgoing,
    };
    let run = serve(stream, handle.clone(), queue, shared, place, stopped);
    (handle, run)
}

async fn serve(
    stream: TcpStream,
    handle: ConnectionHandle,
    queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    place: Place,
    mut stopped: watch::Receiver<bool>,
) {
    // Small messages that somebody waits for; when it fails they are only slower.
    let _ = stream.set_nodelay(true);
    let (mut read_half, write_half) = stream.into_split();
    let write = write_all(write_half, queue, &shared);
    tokio::pin!(write);
    let read = read_all(&mut read_half, &handle, &shared, &place);
    let end = tokio::select! {
        end = read => end,
        () = &mut write => return,
        _ = stopped.wait_for(|stop| *stop) => End::Gone,
    };
    let patience = match end {
        // Whoever only shut down its sending side still gets the answer: the connection stays
        // while somebody holds its handle.
        End::Finished => {
            place.finished();
            shared.limits.idle
        }
        End::Gone | End::Malformed(_) | End::TooMany => shared.limits.write,
    };
    let fault = end.fault();
    let is_fault = fault.is_some();
    let last = match fault {
        Some(fault) => {
            debug!(from = %handle.remote, fault, "closed");
            let text = Signal {
                kind: SignalKind::Error,
                peer_id: shared.ours.clone(),
                data: fault,
            };
            Some(text.encode())
        }
        None if matches!(end, End::Finished) => None,
        None => Some(String::new()),
    };
    if let Some(text) = last {
        // When the queue is full the peer does not read, and would not read this either.
        if handle.queue(Outgoing::Last(text)).is_err() {
            return;
        }
    }
    drop(handle);
    tokio::select! {
        _ = timeout(patience, &mut write) => {}
        _ = stopped.wait_for(|stop| *stop), if matches!(end, End::Finished) => {}
    }
    if is_fault {
        let _ = timeout(LINGER, drain(&mut read_half)).await;
    }
}

/// Reads objects and passes them on, until something ends it.
async fn read_all(
    read_half: &mut OwnedReadHalf,
    handle: &ConnectionHandle,
    shared: &Shared,
    place: &Place,
) -> End {
    let limits = &shared.limits;
    let mut framer = JsonFramer::new(limits.object);
    let mut rate = Rate::new(limits.objects.0, limits.objects.1);
    let mut buffer = vec![0; 8 * 1024];
    // A whole valid object must come in time: bytes alone do not keep a connection alive.
    let mut deadline = Instant::now()
        + match place.is_incoming() {
            true => limits.first_object,
            false => limits.idle,
        };
    loop {
        let read = match timeout_at(deadline, read_half.read(&mut buffer)).await {
            Ok(Ok(0)) => return End::Finished,
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => return End::Gone,
        };
        let mut input = &buffer[..read];
        loop {
            let signal = match framer.next_object(&mut input) {
                Ok(None) => break,
                Ok(Some(object)) => Signal::parse(&object),
                Err(error) => Err(error.into()),
            };
            let signal = match signal {
                Ok(signal) => signal,
                Err(error) => return End::Malformed(error),
            };
            if !rate.take(std::time::Instant::now()) {
                return End::TooMany;
            }
            place.spoke();
            let event = SignalEvent {
                connection: handle.clone(),
                from: handle.remote,
                signal,
            };
            // Waits when too much is unhandled; the peer then waits as well. The queue is fair,
            // so that one who floods it takes turns with everybody else.
            if shared.events.send(event).await.is_err() {
                return End::Gone;
            }
            deadline = Instant::now() + limits.idle;
        }
    }
}

/// Writes what is queued, until told to stop, or nobody can queue any more, or a write fails.
async fn write_all(
    mut write_half: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Outgoing>,
    shared: &Shared,
) {
    while let Some(item) = queue.recv().await {
        let (text, done, is_last) = match item {
            Outgoing::Line(text, done) => (text, done, false),
            Outgoing::Last(text) => (text, None, true),
        };
        let written = timeout(shared.limits.write, write_half.write_all(text.as_bytes())).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
        if let Some(done) = done {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        if is_last {
            break;
        }
    }
    let _ = write_half.shutdown().await;
}

async fn drain(read_half: &mut OwnedReadHalf) {
    let mut buffer = [0; 4096];
    while matches!(read_half.read(&mut buffer).await, Ok(read) if read > 0) {}
}
