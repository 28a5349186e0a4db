//! Keeping all links within one allowance. Whoever sends passes here before each message; while
//! nothing is limited that costs one look at a flag.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::protocol::allowance::{Allowance, Lane, Limits, Ticket};
use crate::protocol::frame::MAX_MESSAGE;

/// What all links of this device may send, or take, together.
#[derive(Clone, Default)]
pub struct Pacer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    limited: AtomicBool,
    state: Mutex<State>,
    /// Somebody new waits, or other limits hold.
    changed: Notify,
}

#[derive(Default)]
struct State {
    allowance: Allowance,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    /// A task sees to those who wait; it ends when nobody does.
    tended: bool,
}

impl Pacer {
    /// From now on these limits hold, also for whoever waits already.
    pub fn set(&self, limits: Limits) {
        let mut state = self.0.lock();
        if *state.allowance.limits() == limits {
            return;
        }
        let limited = !limits.is_none();
        state.allowance.set(limits, now());
        self.0.limited.store(limited, Ordering::Release);
        drop(state);
        self.0.changed.notify_one();
    }

    /// What one message may hold on that lane: `at_most`, or less where little may pass.
    pub(super) fn message(&self, lane: &Lane, at_most: usize) -> usize {
        if !self.is_limited() {
            return at_most;
        }
        let most = self.0.lock().allowance.message(lane, at_most as u64);
        usize::try_from(most).unwrap_or(at_most)
    }

    /// Whether so little may pass there that whoever asks for chunks would wait too long for them.
    pub(super) fn is_slow(&self, lane: &Lane) -> bool {
        self.message(lane, MAX_MESSAGE) < MAX_MESSAGE
    }

    /// Waits until `bytes` may pass. Dropped before that, it takes nothing.
    pub(super) async fn pass(&self, lane: &Lane, bytes: u64) {
        if !self.is_limited() {
            return;
        }
        let (turn, _place) = {
            let mut state = self.0.lock();
            let (granted, turn) = oneshot::channel();
            let ticket = state.allowance.ask(lane.clone(), bytes);
            state.waiting.insert(ticket, granted);
            match state.look() {
                Some(_) if state.tended => self.0.changed.notify_one(),
                Some(_) => {
                    state.tended = true;
                    tokio::spawn(tend(Arc::clone(&self.0)));
                }
                None => {}
            }
            let place = Place {
                inner: &self.0,
                ticket,
            };
            (turn, place)
        };
        // It cannot be dropped unanswered: the state lives as long as we do.
        let _ = turn.await;
    }

    /// Counts bytes that have passed without asking.
    pub(super) fn charge(&self, lane: &Lane, bytes: u64) {
        if self.is_limited() && bytes > 0 {
            self.0.lock().allowance.charge(lane, bytes, now());
        }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.0.limited.load(Ordering::Acquire)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets through who may go, and says after how long the next may.
    fn look(&mut self) -> Option<Duration> {
        let (granted, next) = self.allowance.poll(now());
        for ticket in granted {
            if let Some(waits) = self.waiting.remove(&ticket) {
                let _ = waits.send(());
            }
        }
        next
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    inner: &'a Inner,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        if state.waiting.remove(&self.ticket).is_some() {
            state.allowance.withdraw(self.ticket);
        }
    }
}

/// Lets whoever waits through in turn, as long as somebody waits.
async fn tend(inner: Arc<Inner>) {
    loop {
        let next = {
            let mut state = inner.lock();
            let next = state.look();
            state.tended = next.is_some();
            next
        };
        let Some(wait) = next else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = inner.changed.notified() => {}
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::DeviceId;

    fn lane(n: u8) -> Lane {
        let (device, broadcast) = (DeviceId::of_key(&[n; 32]), None);
        Lane { device, broadcast }
    }

    fn whole(rate: u64) -> Limits {
        Limits {
            whole: Some(rate),
            ..Limits::default()
        }
    }

    /// Sends `total` bytes on a lane, as fast as may be.
    fn send(pacer: &Pacer, n: u8, total: u64) -> tokio::task::JoinHandle<()> {
        let pacer = pacer.clone();
        tokio::spawn(async move {
            let (lane, mut left) = (lane(n), total);
            while left > 0 {
                let bytes = (pacer.message(&lane, 65_536) as u64).min(left);
                pacer.pass(&lane, bytes).await;
                left -= bytes;
            }
        })
    }

    fn is_idle(pacer: &Pacer) -> bool {
        let state = pacer.0.lock();
        state.waiting.is_empty() && !state.tended
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_links_together_are_no_faster_than_the_limit() {
        let pacer = Pacer::default();
        pacer.set(whole(10_000_000));
        let begun = Instant::now();
        for link in (0..4)
            .map(|n| send(&pacer, n, 1_000_000))
            .collect::<Vec<_>>()
        {
            link.await.unwrap();
        }
        // Never less than what the rate takes for all but a burst.
        assert!(
            begun.elapsed() >= Duration::from_millis(350),
            "{:?}",
            begun.elapsed()
        );
        while !is_idle(&pacer) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_reaches_whoever_waits_and_who_goes_leaves_nothing_behind() {
        let pacer = Pacer::default();
        pacer.set(whole(16_000));
        // In debt for an hour.
        pacer.charge(&lane(1), 60_000_000);
        let (stays, goes) = (send(&pacer, 1, 4000), send(&pacer, 2, 4000));
        while pacer.0.lock().waiting.len() < 2 {
            tokio::task::yield_now().await;
        }
        goes.abort();
        assert!(goes.await.unwrap_err().is_cancelled());
        assert_eq!(pacer.0.lock().waiting.len(), 1);
        assert!(!stays.is_finished());
        pacer.set(Limits::default());
        let long = std::time::Duration::from_secs(30);
        let passed = tokio::time::timeout(long, stays).await;
        passed.expect("it hears of the change").unwrap();
        // And nobody is held up any more.
        pacer.pass(&lane(1), u64::MAX / 4).await;
        while !is_idle(&pacer) {
            tokio::task::yield_now().await;
        }
    }
}
