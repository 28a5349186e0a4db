//! How far a transfer is, shared between the pump that moves it and whoever shows it. Sampled,
//! never sent: a message per chunk would drown the actors.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a transfer. All of it relaxed: it is for showing, nothing is decided by it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    moved: AtomicU64,
}

impl Progress {
    /// Bytes of the bundle that the receiver has, those of earlier sessions included.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Payload bytes that really travelled in this process's life.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// States what the receiver has, when a session starts.
    pub fn restart(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// Adds bytes that the receiver got elsewhere.
    pub fn credit(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that have just been moved.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}
