//! Whether the process still does what it is for: not that it runs, but that its parts answer,
//! and that the disk takes what it must.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::config::Settings;
use crate::protocol::destination::fixed;

use super::coordinator::{AtRendezvous, AtStanding, Coordinator};
use super::discovery::{Browses, Discovery};
use super::metrics::Metrics;
use super::network;
use super::signaling::{Listens, Signaling};
use super::store::{Job, StoreActor};

/// How long a part may take to answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How long an answer holds: looking costs writes, and strangers may ask.
const HOLDS: Duration = Duration::from_secs(1);
/// Bytes that the state folder's disk must have free.
const STATE_RESERVE: u64 = 1 << 20;

/// How the process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Nothing is wrong.
    pub ok: bool,
    /// Each part.
    pub checks: Vec<Check>,
}

/// How a part is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `coordinator`, `store`, `signaling`, `discovery`, `rendezvous`, `network`, `state_disk`,
    /// `destination_disk` or `hand_in_disk`.
    pub part: String,
    /// Nothing is wrong with it.
    pub ok: bool,
    /// What is wrong, and what to do; where nothing is, what a person may want to know.
    pub reason: Option<String>,
}

/// What the answer is found with.
pub(super) struct Vitals {
    pub(super) coordinator: Addr<Coordinator>,
    pub(super) store: Addr<StoreActor>,
    /// Nothing where the process has no network.
    pub(super) signaling: Option<Addr<Signaling>>,
    /// Nothing where it does not look for devices.
    pub(super) discovery: Option<Addr<Discovery>>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) metrics: Arc<Metrics>,
    /// The last answer.
    pub(super) last: Mutex<Option<(Instant, Health)>>,
}

/// Asks whether the coordinator answers.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Alive;

impl Vitals {
    /// Looks, or says what it saw a moment ago. It takes as long as the slowest part, at most a
    /// little over two seconds.
    pub(super) async fn look(&self) -> Health {
        let mut last = self.last.lock().await;
        if let Some((at, health)) = &*last
            && at.elapsed() < HOLDS
        {
            return health.clone();
        }
        let checks = self.checks().await;
        let health = Health {
            ok: checks.iter().all(|check| check.ok),
            checks,
        };
        self.metrics.healthy.set(i64::from(health.ok));
        for check in health.checks.iter().filter(|check| !check.ok) {
            if let Some(reason) = &check.reason {
                tracing::warn!(part = check.part, reason, "not healthy");
            }
        }
        *last = Some((Instant::now(), health.clone()));
        health
    }

    async fn checks(&self) -> Vec<Check> {
        // As they are now: they may have been read again.
        let settings = Arc::clone(&self.settings.borrow());
        let linked = self.signaling.is_some();
        let system = tokio::task::spawn_blocking(move || {
            let mut checks = disks(&settings);
            if linked {
                checks.push(network(&settings));
            }
            checks
        });
        let (coordinator, rendezvous, store, signaling, discovery, system) = tokio::join!(
            answers(self.coordinator.send(Alive)),
            answers(self.coordinator.send(AtRendezvous)),
            answers(self.store.send(Job::new(|store| {
                store.prove()?;
                Ok::<u64, crate::store::StoreError>(store.catch_up())
            }))),
            maybe(self.signaling.as_ref().map(|addr| addr.send(Listens))),
            maybe(self.discovery.as_ref().map(|addr| addr.send(Browses))),
            system,
        );
        let store = store.and_then(|proven| match proven {
            Ok(0) => Ok(()),
            Ok(lines) => Err(format!(
                "{lines} lines of the audit log are not on disk; make room in the state folder"
            )),
            Err(error) => Err(error.to_string()),
        });
        let mut checks = vec![check("coordinator", coordinator), check("store", store)];
        let stands = |running: bool, what: &str| running.then_some(()).ok_or(what.to_owned());
        if let Some(signaling) = signaling {
            let running = signaling.and_then(|listening| {
                stands(
                    listening,
                    "nothing listens on the signaling port; it is bound again every 2 s, see the log",
                )
            });
            checks.push(check("signaling", running));
        }
        if let Some(discovery) = discovery {
            let running = discovery.and_then(|browsing| {
                stands(
                    browsing,
                    "devices are not looked for: no interface takes multicast now, see the log",
                )
            });
            checks.push(check("discovery", running));
        }
        if let Ok(Some(standing)) = rendezvous {
            checks.push(meeting(standing));
        }
        checks.extend(system.unwrap_or_default());
        checks
    }
}

fn check(part: &str, found: Result<(), String>) -> Check {
    Check {
        part: part.to_owned(),
        ok: found.is_ok(),
        reason: found.err(),
    }
}

/// What a part says, if it says something in time.
async fn answers<T>(asked: impl Future<Output = Result<T, MailboxError>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(said)) => Ok(said),
        Ok(Err(error)) => Err(format!("it does not answer: {error}")),
        Err(_) => Err(format!("it has not answered for {} s", LIMIT.as_secs())),
    }
}

async fn maybe<T>(
    asked: Option<impl Future<Output = Result<T, MailboxError>>>,
) -> Option<Result<T, String>> {
    Some(answers(asked?).await)
}

/// Whether there is an address that another device could reach. A machine whose cable is not in yet
/// is not sick: nothing in the process would be better after a restart. It is told all the same.
fn network(settings: &Settings) -> Check {
    let reason = match network::own_addresses(settings) {
        Ok(own) if own.is_empty() && settings.network.addresses.is_empty() => Some(
            "no interface has an address that others could reach; `handout doctor` says what to do"
                .to_owned(),
        ),
        Ok(_) => None,
        Err(error) => Some(format!("the system does not tell its addresses: {error}")),
    };
    Check {
        part: "network".to_owned(),
        ok: true,
        reason,
    }
}

/// Whether we are at the rendezvous. Nothing here would be better after a restart where we are not,
/// and what is on our own network goes on: it is told.
fn meeting(standing: AtStanding) -> Check {
    Check {
        part: "rendezvous".to_owned(),
        ok: true,
        reason: match standing {
            AtStanding::There => None,
            AtStanding::Away { reason } => Some(format!(
                "not at the rendezvous, so devices of other networks do not find this one: {reason}"
            )),
        },
    }
}

fn disks(settings: &Settings) -> Vec<Check> {
    let state = room(&settings.state.dir, STATE_RESERVE);
    let mut checks = vec![check("state_disk", state)];
    if settings.receive.enabled {
        let places = places(settings);
        let mut places = places.iter();
        let have_room = places.try_for_each(|(place, reserve)| room(place, *reserve));
        checks.push(check("destination_disk", have_room));
    }
    if settings.hand_in.enabled {
        let terms = &settings.hand_in.terms;
        let has_room = room(&fixed(&terms.destination), terms.reserve);
        checks.push(check("hand_in_disk", has_room));
    }
    checks
}

/// Where what is received can go, with what is to stay free there.
fn places(settings: &Settings) -> BTreeMap<PathBuf, u64> {
    let policy = &settings.receive.policy;
    let own = &policy.defaults;
    let mut places = BTreeMap::from([(fixed(&own.destination), own.reserve)]);
    for rule in &policy.rules {
        let place = rule.changes.destination.as_ref();
        let reserve = rule.changes.reserve.unwrap_or(own.reserve);
        let most = places
            .entry(fixed(place.unwrap_or(&own.destination)))
            .or_default();
        *most = reserve.max(*most);
    }
    places
}

/// Whether the disk of a folder, which may not be there yet, has so many bytes free.
fn room(folder: &Path, reserve: u64) -> Result<(), String> {
    let there: Option<PathBuf> = folder
        .ancestors()
        .find(|path| path.exists())
        .map(Into::into);
    let shown = crate::protocol::names::printable(&folder.to_string_lossy());
    let stat = rustix::fs::statvfs(there.as_deref().unwrap_or(folder))
        .map_err(|error| format!("cannot look at the disk of {shown}: {error}"))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < reserve {
        return Err(format!(
            "the disk of {shown} has {free} bytes free, and {reserve} are to stay free; make room"
        ));
    }
    Ok(())
}
