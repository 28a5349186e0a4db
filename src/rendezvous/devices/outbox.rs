//! What waits for a device: so many messages, and so many bytes, of one and of all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::protocol::rendezvous::ServerSays;

/// Messages that may wait for a device.
pub(super) const ROOM: usize = 256;
/// Bytes of messages that may wait for a device.
const BYTES: usize = 2 << 20;
/// Bytes of signals that may wait for all devices.
const ALL: usize = 256 << 20;

/// The room for signals, which all devices share.
pub(super) fn shared() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ALL))
}

/// Where messages for a device are put.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Where its socket takes them.
pub(super) struct Inbox(mpsc::Receiver<Waiting>);

/// A message as it goes out; its bytes count until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) text: String,
    _room: OwnedSemaphorePermit,
    _all: Option<OwnedSemaphorePermit>,
}

/// Both ends.
pub(super) fn new(all: Arc<Semaphore>) -> (Outbox, Inbox) {
    let (queue, inbox) = mpsc::channel(ROOM);
    let room = Arc::new(Semaphore::new(BYTES));
    (Outbox { queue, room, all }, Inbox(inbox))
}

impl Outbox {
    /// Puts a message there, as text: what was parsed is many times as large. False where there is
    /// no room. What others have to say counts for all; what the server itself says is little.
    pub(super) fn put(&self, says: &ServerSays) -> bool {
        let Ok(text) = serde_json::to_string(says) else {
            return false;
        };
        let Ok(bytes) = u32::try_from(text.len()) else {
            return false;
        };
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_many_owned(bytes).ok();
        let all = match says {
            ServerSays::Signal { .. } => match take(&self.all) {
                None => return false,
                all => all,
            },
            _ => None,
        };
        let Some(room) = take(&self.room) else {
            return false;
        };
        let waiting = Waiting {
            text,
            _room: room,
            _all: all,
        };
        self.queue.try_send(waiting).is_ok()
    }
}

impl Inbox {
    /// The next one; nothing once the other end is gone.
    pub(super) async fn next(&mut self) -> Option<Waiting> {
        self.0.recv().await
    }

    #[cfg(test)]
    pub(super) fn said(&mut self) -> Option<ServerSays> {
        let waiting = self.0.try_recv().ok()?;
        Some(serde_json::from_str(&waiting.text).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::Identity;

    fn signal(bytes: usize) -> ServerSays {
        ServerSays::Signal {
            from: Identity::from_seed(&[1; 32]).device_id(),
            signal: "x".repeat(bytes).into(),
        }
    }

    #[test]
    fn so_many_bytes_wait_for_one_and_for_all_and_what_was_read_makes_room() {
        let all = Arc::new(Semaphore::new(3 << 20));
        let (one, mut inbox) = new(Arc::clone(&all));
        let (other, _kept) = new(Arc::clone(&all));
        let large = signal(60 << 10);
        let put = |to: &Outbox| (0..100).filter(|_| to.put(&large)).count();
        let (first, second) = (put(&one), put(&other));
        assert_eq!(first, 34, "2 MiB");
        assert_eq!(first + second, 51, "3 MiB");
        let word = ServerSays::Absent {
            device_ids: Vec::new(),
        };
        assert!(other.put(&word), "the server's own words have their room");
        drop(inbox.said());
        assert!(one.put(&large) && !one.put(&large));
        drop(inbox);
        drop(one);
        assert_eq!(
            put(&other),
            34 - second,
            "a device that is gone frees it all"
        );
    }
}
