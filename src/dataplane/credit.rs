//! How fast bundles come in: a sender goes on when we acknowledge what it has sent, so ours come
//! no faster than may be received. What a window holds may come at once; over time it counts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::outgoing::Shared;
use super::pacing::Pacer;
use super::session::SessionError;
use crate::protocol::allowance::Lane;
use crate::protocol::frame::Handle;
use crate::protocol::id::DeviceId;
use crate::protocol::message::Message;

/// Acknowledgements of one link that wait until their bytes may have come.
pub(super) struct Credit {
    lane: Lane,
    download: Pacer,
    due: Mutex<Due>,
    news: Notify,
}

#[derive(Default)]
struct Due {
    /// One for each handle at most: a later one takes the place of an earlier one.
    waiting: VecDeque<Ack>,
    /// The one that is at the front of the pacer.
    current: Option<Handle>,
}

struct Ack {
    handle: Handle,
    /// All bytes taken under this handle.
    taken: u64,
    /// Those of them that have not been counted yet.
    new: u64,
}

impl Credit {
    pub(super) fn new(device: DeviceId, download: Pacer) -> Self {
        let broadcast = None;
        Self {
            lane: Lane { device, broadcast },
            download,
            due: Mutex::default(),
            news: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Ack> {
        let mut due = self.lock();
        let ack = due.waiting.pop_front()?;
        due.current = Some(ack.handle);
        Some(ack)
    }
}

/// What has come under one handle, and what of it has been counted.
pub(super) struct Account {
    credit: Arc<Credit>,
    handle: Handle,
    taken: u64,
    counted: u64,
}

impl Account {
    pub(super) fn new(credit: &Arc<Credit>, handle: Handle) -> Self {
        let credit = Arc::clone(credit);
        let (taken, counted) = (0, 0);
        Self {
            credit,
            handle,
            taken,
            counted,
        }
    }

    /// So many bytes have come in all.
    pub(super) fn took(&mut self, taken: u64) {
        self.taken = taken;
    }

    /// The sender asks for an ACK. True when it is to be said now, else it is said in time.
    pub(super) fn acknowledge(&mut self) -> bool {
        let new = self.taken.saturating_sub(self.counted);
        self.counted = self.taken;
        let (handle, taken) = (self.handle, self.taken);
        let mut due = self.credit.lock();
        // Never past one that waits: a count that goes back is a false one.
        let idle = due.current.is_none() && due.waiting.is_empty();
        if idle && !self.credit.download.is_limited() {
            return true;
        }
        match due.waiting.iter_mut().find(|ack| ack.handle == handle) {
            Some(ack) => {
                ack.taken = taken;
                ack.new += new;
            }
            None => due.waiting.push_back(Ack { handle, taken, new }),
        }
        drop(due);
        self.credit.news.notify_one();
        false
    }
}

impl Drop for Account {
    /// It is over: what it has brought counts, and is not acknowledged any more.
    fn drop(&mut self) {
        let mut due = self.credit.lock();
        let mut new = self.taken.saturating_sub(self.counted);
        let waits = due.waiting.iter().filter(|ack| ack.handle == self.handle);
        new += waits.map(|ack| ack.new).sum::<u64>();
        due.waiting.retain(|ack| ack.handle != self.handle);
        if due.current == Some(self.handle) {
            due.current = None;
        }
        drop(due);
        self.credit.download.charge(&self.credit.lane, new);
    }
}

/// Says each ACK when the bytes that it stands for may have come, until the link ends.
pub(super) async fn run(shared: Arc<Shared>) -> Result<(), SessionError> {
    let credit = &shared.credit;
    loop {
        let Some(Ack {
            handle,
            taken,
            mut new,
        }) = credit.next()
        else {
            credit.news.notified().await;
            continue;
        };
        while new > 0 {
            let part = credit.download.message(&credit.lane, 64 << 10) as u64;
            let part = part.min(new);
            credit.download.pass(&credit.lane, part).await;
            new -= part;
        }
        let still = credit.lock().current == Some(handle);
        if still {
            let bytes = taken;
            shared.say(&Message::Ack { handle, bytes }).await?;
        }
        credit.lock().current = None;
    }
}
