//! The store's actor: one thread that owns sled, fed with small jobs.

use std::time::{Duration, Instant};

use actix::{Actor, Addr, Handler, Message, MessageResult, SyncArbiter, SyncContext};

use super::api::exit;
use crate::store::{Store, StoreError};

/// How often that is tried.
const RETRY: Duration = Duration::from_secs(2);

/// Owns the open store.
pub struct StoreActor {
    store: Store,
    /// When another database was last tried in the place of one that has failed.
    tried: Option<Instant>,
}

impl StoreActor {
    /// A disk that was full, or gone for a while, may take something again.
    fn go_on_after_failure(&mut self) {
        let recently = |tried: Instant| tried.elapsed() < RETRY;
        if !self.store.has_failed() || self.tried.is_some_and(recently) {
            return;
        }
        match self.store.go_on_after_failure() {
            Ok(()) => {
                self.tried = None;
                tracing::warn!("the state folder can be written again, and is");
            }
            Err(error) => {
                self.tried = Some(Instant::now());
                tracing::debug!(%error, "the state folder cannot be written yet");
            }
        }
    }
}

impl Actor for StoreActor {
    type Context = SyncContext<Self>;
}

/// A job on the store's thread.
pub struct Job<R>(Box<dyn FnOnce(&mut Store) -> R + Send>);

impl<R: Send + 'static> Job<R> {
    /// A job that runs `act` and answers with its result.
    pub fn new(act: impl FnOnce(&mut Store) -> R + Send + 'static) -> Self {
        Self(Box::new(act))
    }
}

impl<R: Send + 'static> Message for Job<R> {
    type Result = R;
}

impl<R: Send + 'static> Handler<Job<R>> for StoreActor {
    type Result = MessageResult<Job<R>>;

    fn handle(&mut self, job: Job<R>, _: &mut Self::Context) -> Self::Result {
        self.go_on_after_failure();
        MessageResult((job.0)(&mut self.store))
    }
}

/// Starts the actor around an open store.
pub fn start(store: Store) -> Addr<StoreActor> {
    // The arbiter wants a factory that it may call again; there is one store, and one thread.
    let slot = std::sync::Mutex::new(Some(store));
    SyncArbiter::start(1, move || {
        let store = slot
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        StoreActor {
            store: store.expect("the store's thread starts once"),
            tried: None,
        }
    })
}

/// Why something is not on disk.
#[derive(Debug)]
pub struct NotStored {
    /// For people.
    pub reason: String,
    /// The exit code that tells of it.
    pub code: u8,
}

impl From<String> for NotStored {
    fn from(reason: String) -> Self {
        let code = exit::ERROR;
        Self { reason, code }
    }
}

impl From<StoreError> for NotStored {
    fn from(error: StoreError) -> Self {
        Self {
            reason: error.to_string(),
            code: code_of(&error),
        }
    }
}

/// The exit code that tells of an error of the store.
pub fn code_of(error: &StoreError) -> u8 {
    match error {
        StoreError::NoRoom { .. } => exit::DISK,
        _ => exit::ERROR,
    }
}

/// Waits for a job; why it failed, or the store.
pub async fn on_disk<T: Send + 'static>(
    job: actix::dev::Request<StoreActor, Job<Result<T, StoreError>>>,
) -> Result<T, NotStored> {
    match job.await {
        Ok(done) => done.map_err(NotStored::from),
        Err(error) => Err(error.to_string().into()),
    }
}

/// A job whose failure is only worth a line in the log: the memory's copy goes on.
pub fn keep(
    store: &Addr<StoreActor>,
    what: &'static str,
    act: impl FnOnce(&mut Store) -> Result<(), StoreError> + Send + 'static,
) {
    store.do_send(Job::new(move |store| {
        if let Err(error) = act(store) {
            tracing::error!(%error, what, "not recorded; check the state folder's disk");
        }
    }));
}
