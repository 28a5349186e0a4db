//! Who waits for something is woken when it comes: by this server's own threads, and by other
//! servers on the same PostgreSQL database (LISTEN, NOTIFY).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::store::CHANNEL;

/// After how long whoever waits looks again, although nothing was told: a database connection may
/// be dead without anybody noticing.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long to wait before the database is listened to again.
const AGAIN: Duration = Duration::from_secs(1);
/// Words for others in this process that may wait.
const ROOM: usize = 4096;

/// What may be waited for.
#[derive(Debug)]
pub(super) struct Bus {
    list: watch::Sender<u64>,
    sessions: Mutex<HashMap<String, watch::Sender<u64>>>,
    stopping: watch::Sender<bool>,
    missed: Notify,
}

/// Somebody who waits. What comes after this was made wakes them.
pub(super) struct Waiting<'a> {
    bus: &'a Bus,
    changed: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    session: Option<String>,
    until: Instant,
}

impl Bus {
    pub(super) fn new() -> Self {
        Self {
            list: watch::Sender::new(0),
            sessions: Mutex::default(),
            stopping: watch::Sender::new(false),
            missed: Notify::new(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<u64>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of sessions is another one.
    pub(super) fn list_changed(&self) {
        self.list
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Something was said in a session.
    pub(super) fn said(&self, session: &str) {
        if let Some(sender) = self.sessions().get(session) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Something may have been missed: all look again.
    fn miss(&self) {
        self.missed.notify_one();
        self.list_changed();
        for sender in self.sessions().values() {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Returns when words that are not for the bus may have been missed, since the last time.
    pub(super) async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Hands on what other servers tell.
    fn hears(&self, word: &str, others: &mpsc::Sender<String>) {
        match word.split_at_checked(1) {
            Some(("l", _)) => self.list_changed(),
            Some(("s", session)) => self.said(session),
            _ if others.try_send(word.to_owned()).is_err() => {
                tracing::warn!("other servers tell more than this one can take");
                self.miss();
            }
            _ => {}
        }
    }

    /// Nobody shall wait any longer.
    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// True from [`Self::stop`] on, for whoever waits for other things.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Begins to wait for changes of the list.
    pub(super) fn wait_for_list(&self, limit: Duration) -> Waiting<'_> {
        Waiting {
            bus: self,
            changed: self.list.subscribe(),
            stopping: self.stopping.subscribe(),
            session: None,
            until: Instant::now() + limit,
        }
    }

    /// Begins to wait for what is said in a session.
    pub(super) fn wait_for_session(&self, session: &str, limit: Duration) -> Waiting<'_> {
        let mut sessions = self.sessions();
        let sender = sessions.entry(session.to_owned()).or_default();
        Waiting {
            bus: self,
            changed: sender.subscribe(),
            stopping: self.stopping.subscribe(),
            session: Some(session.to_owned()),
            until: Instant::now() + limit,
        }
    }
}

impl Waiting<'_> {
    /// Waits for something to happen since the last call. False when the time is over.
    pub(super) async fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.until || *self.stopping.borrow() {
            return false;
        }
        let look = self.until.min(now + LOOK_AGAIN);
        tokio::select! {
            _ = self.changed.changed() => {}
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
            () = tokio::time::sleep_until(look) => {}
        }
        true
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let mut sessions = self.bus.sessions();
        // This one still counts.
        let last = |sender: &watch::Sender<u64>| sender.receiver_count() <= 1;
        if sessions.get(&session).is_some_and(last) {
            sessions.remove(&session);
        }
    }
}

/// Listens to what other servers tell, for as long as the process runs. What is not for the bus
/// goes to `others`.
pub(super) async fn listen(url: String, bus: Arc<Bus>, others: mpsc::Sender<String>) {
    loop {
        if let Err(error) = listen_once(&url, &bus, &others).await {
            tracing::warn!(%error, "the database does not tell of other servers; trying again");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What [`listen`] hands on may wait in such a queue.
pub(super) fn others() -> (mpsc::Sender<String>, mpsc::Receiver<String>) {
    mpsc::channel(ROOM)
}

async fn listen_once(
    url: &str,
    bus: &Bus,
    others: &mpsc::Sender<String>,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // What was told before, or while the connection was lost, is made up for.
        bus.miss();
        while let Some(told) = listener.try_recv().await? {
            bus.hears(told.payload(), others);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_by_what_comes_after_they_began() {
        let bus = Bus::new();
        let mut ours = bus.wait_for_session("a", Duration::from_secs(3600));
        let mut other = bus.wait_for_session("b", Duration::ZERO);
        bus.said("a");
        assert!(ours.goes_on().await);
        assert!(!other.goes_on().await);
        let mut second = bus.wait_for_session("a", Duration::from_secs(3600));
        drop(ours);
        bus.said("a");
        assert!(second.goes_on().await, "one who left takes nobody along");
        drop((second, other));
        assert!(bus.sessions().is_empty());
    }

    #[tokio::test]
    async fn words_that_find_no_room_count_as_missed() {
        let bus = Bus::new();
        let (others, mut told) = others();
        for number in 0..ROOM {
            bus.hears(&format!("d{number}"), &others);
        }
        let missed = bus.missed();
        tokio::pin!(missed);
        assert!(futures::poll!(&mut missed).is_pending());
        bus.hears("done too many", &others);
        assert!(futures::poll!(&mut missed).is_ready());
        assert_eq!(told.recv().await.as_deref(), Some("d0"));
    }

    #[tokio::test]
    async fn at_the_end_nobody_waits() {
        let bus = Bus::new();
        let mut list = bus.wait_for_list(Duration::from_secs(3600));
        bus.stop();
        assert!(!list.goes_on().await);
    }
}
