//! What a service manager (systemd) is told: that the service is ready, what it is doing, and, as
//! long as every part answers, that it is alive. Where none asks for it, nothing is said.
//!
//! A part that hangs gets no help from inside this process: the watchdog of the manager ends it
//! and starts it again, and it goes on from the state folder.

use std::time::Duration;

use actix::Addr;
use sd_notify::NotifyState;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::{debug, error};

use super::coordinator::{Alive, Coordinator, Pulse};
use super::store::{Job, StoreActor};

/// How often the manager hears what is going on, where it has no watchdog.
const STATUS: Duration = Duration::from_secs(20);

/// The parts that must answer.
#[derive(Clone)]
pub struct Heart {
    coordinator: Addr<Coordinator>,
    store: Addr<StoreActor>,
    data_plane: Handle,
}

impl Heart {
    /// The runtime of links and files.
    pub(super) fn data_plane(&self) -> &Handle {
        &self.data_plane
    }

    pub(super) fn new(
        coordinator: Addr<Coordinator>,
        store: Addr<StoreActor>,
        data_plane: Handle,
    ) -> Self {
        Self {
            coordinator,
            store,
            data_plane,
        }
    }

    /// What is going on; or the name of a part that does not answer within `limit`.
    pub async fn beat(&self, limit: Duration) -> Result<Pulse, &'static str> {
        let coordinator = timeout(limit, self.coordinator.send(Alive));
        let store = timeout(limit, self.store.send(Job::new(|_| ())));
        let network = timeout(limit, self.data_plane.spawn(async {}));
        let (coordinator, store, network) = tokio::join!(coordinator, store, network);
        if !matches!(store, Ok(Ok(()))) {
            return Err("the store");
        }
        if !matches!(network, Ok(Ok(()))) {
            return Err("the network's runtime");
        }
        match coordinator {
            Ok(Ok(pulse)) => Ok(pulse),
            _ => Err("the coordinator"),
        }
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager does not hear us");
    }
}

/// The settings are being read again; [`ready`] must follow.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no clock"),
    }
}

/// The service serves, from now on or again.
pub fn ready() {
    say(&[NotifyState::Ready]);
}

/// The service ends.
pub fn stopping() {
    say(&[
        NotifyState::Stopping,
        NotifyState::Status("saying goodbye to other devices"),
    ]);
}

/// Says that we are ready, and then how we are, for as long as this is polled. It must run where
/// the coordinator runs: a thread that hangs then says nothing.
pub async fn attend(heart: Heart) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    ready();
    let watchdog = sd_notify::watchdog_enabled();
    // Three tries before the manager loses its patience.
    let every = watchdog.map_or(STATUS, |within| (within / 3).min(STATUS));
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
    let mut told = None;
    loop {
        ticks.tick().await;
        match heart.beat(every).await {
            Ok(pulse) => {
                if watchdog.is_some() {
                    say(&[NotifyState::Watchdog]);
                }
                if told != Some(pulse) {
                    say(&[NotifyState::Status(&pulse.to_string())]);
                    told = Some(pulse);
                }
            }
            Err(part) => {
                error!(
                    part,
                    "does not answer; the service manager starts the service again where that lasts"
                );
                say(&[NotifyState::Status(&format!("{part} does not answer"))]);
                told = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::api::exit;
    use crate::actors::service::{Mode, Node, run};
    use crate::actors::tests::settings;

    const SOON: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_part_that_hangs_is_named_and_the_heart_beats_again_when_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), &[]);
        let work = |node: Node| async move {
            let heart = node.heart();
            assert_eq!(heart.beat(PATIENCE).await, Ok(Pulse::default()));
            let (go_on, waits) = std::sync::mpsc::channel::<()>();
            heart.store.do_send(Job::new(move |_| {
                let _ = waits.recv();
            }));
            assert_eq!(heart.beat(SOON).await, Err("the store"));
            drop(go_on);
            assert_eq!(heart.beat(PATIENCE).await, Ok(Pulse::default()));
            exit::OK
        };
        assert_eq!(run(settings, Mode::Offline, work).unwrap(), exit::OK);
    }
}
