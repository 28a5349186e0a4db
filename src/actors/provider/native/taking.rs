//! What a device takes from a device.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, interval, sleep_until};
use tracing::debug;

use super::{COMING, LetIn, why_of};
use crate::actors::api::{Event, Request};
use crate::actors::provider::ask::AskError;
use crate::actors::provider::connect::offer_data;
use crate::actors::provider::signals::{Signals, say};
use crate::actors::provider::{Common, EVENTS, ProviderEvent};
use crate::actors::service::Node;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::names::{brief, passage};
use crate::protocol::plain::OfferData;
use crate::protocol::rendezvous::{SessionInfo, SignalType};
use crate::protocol::roles::Roles;
use crate::protocol::transfer::{Direction, Side, TransferState};

/// How long the making of what is asked for may take.
const MAKING: Duration = Duration::from_secs(3600);
/// How long nothing may move before a request is given up.
const STANDING: Duration = Duration::from_secs(120);
/// How often it is looked whether the provider is there, and how long it may be away.
const LOOK: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(60);
/// Transfers of one provider that are kept in mind.
const MAX_TRANSFERS: usize = 64;

/// Takes what a device gives.
pub(in crate::actors::provider) async fn take(
    common: &Common,
    node: &Node,
    session: &SessionInfo,
    signals: &mut Signals,
    provider: &DeviceId,
    mut name: Option<String>,
) -> Result<PathBuf, AskError> {
    let id = &session.session_id;
    let mut watched = node.ask_with(Request::Watch, EVENTS);
    let why = "for one request of ours at the rendezvous".to_owned();
    let let_in = LetIn::new(node, provider, Roles::SEND, why).await;
    let let_in = let_in.map_err(AskError::NotLetIn)?;
    let proof = node.prove_asking(id, provider);
    say(&common.server, id, SignalType::Answer, proof).await?;
    let mut coming = Coming::default();
    let mut deadline = Instant::now() + MAKING;
    let (mut looks, mut seen) = (interval(LOOK), Instant::now());
    loop {
        if let Some(done) = name.as_deref().and_then(|name| coming.outcome(name)) {
            match done {
                Outcome::Failed(code, reason) => {
                    return Err(AskError::Device {
                        code,
                        reason: brief(&reason),
                    });
                }
                Outcome::Here(arrival) => {
                    let path = arrival.path.clone().unwrap_or_default();
                    let received = ProviderEvent::Received {
                        session: id.clone(),
                        path: path.clone(),
                        bytes: arrival.size,
                        seconds: arrival.began.elapsed().as_secs_f64(),
                        relayed: arrival.relayed,
                        verified: true,
                        already: arrival.seems_here,
                        device_id: Some(provider.clone()),
                    };
                    common.tell(received).await;
                    return Ok(path);
                }
            }
        }
        tokio::select! {
            signal = signals.next() => match signal {
                // The session may be over before the file is here, which no longer needs it.
                Err(error) if name.is_some() => debug!(%error, "no more is heard of the session"),
                Err(error) => return Err(error.into()),
                Ok(signal) => match offer_data(&signal) {
                    Some(OfferData::Handout { device_id, name: Some(said), done })
                        if device_id == provider.as_str() =>
                    {
                        name = Some(said);
                        coming.done |= done;
                        deadline = Instant::now() + COMING;
                    }
                    Some(OfferData::Refusal { code, message }) => return Err(AskError::Refused {
                        code: brief(&code),
                        message: passage(&message),
                    }),
                    _ => {}
                },
            },
            event = watched.recv() => {
                let Some(event) = event else {
                    return Err(gone("this device does not answer"));
                };
                if let Some((transfer, bytes)) = coming.hear(provider, event) {
                    deadline = Instant::now() + STANDING;
                    if bytes == 0 && coming.is_new(transfer) {
                        let relayed = let_in.is_relayed().await;
                        coming.begin(transfer, relayed, common, id).await;
                    } else if bytes > 0 {
                        let session = id.clone();
                        common.tell(ProviderEvent::Progress { session, bytes }).await;
                    }
                }
            }
            _ = looks.tick() => {
                if node.is_reachable(provider).await {
                    seen = Instant::now();
                } else if seen.elapsed() > AWAY {
                    return Err(gone("the device that provides it has gone"));
                }
            }
            () = sleep_until(deadline) => return Err(gone("nothing comes from the provider any more")),
        }
    }
}

/// It may be asked for again.
fn gone(what: &str) -> AskError {
    AskError::Device {
        code: Code::NotConnected,
        reason: format!(
            "{what}: ask again; where it is still the same file, it goes on where it stood"
        ),
    }
}

/// What comes from the provider while we wait.
#[derive(Default)]
struct Coming {
    all: HashMap<TransferId, Arrival>,
    /// The provider says that it has given what was asked for.
    done: bool,
}

struct Arrival {
    name: String,
    size: u64,
    state: TransferState,
    began: Instant,
    path: Option<PathBuf>,
    /// It was here before, as far as can be told without its content.
    seems_here: bool,
    /// It has been told of.
    told: bool,
    relayed: bool,
}

enum Outcome<'a> {
    Here(&'a Arrival),
    Failed(Code, String),
}

impl Coming {
    /// Hears an event; a transfer of the provider that it is about, and how many bytes of it are
    /// here.
    fn hear(&mut self, provider: &DeviceId, event: Event) -> Option<(TransferId, u64)> {
        match event {
            Event::Transfer(info)
                if info.device_id == *provider && info.direction == Direction::Incoming =>
            {
                if self.all.len() >= MAX_TRANSFERS && !self.all.contains_key(&info.transfer) {
                    return None;
                }
                let arrival = self.all.entry(info.transfer).or_insert_with(|| Arrival {
                    name: info.name.clone(),
                    size: info.size,
                    state: info.state.clone(),
                    began: Instant::now(),
                    path: None,
                    seems_here: false,
                    told: false,
                    relayed: false,
                });
                (arrival.state, arrival.size) = (info.state, info.size);
                Some((info.transfer, 0))
            }
            Event::Progress {
                transfer, bytes, ..
            } => self
                .all
                .contains_key(&transfer)
                .then_some((transfer, bytes)),
            Event::Here {
                transfer,
                device_id,
                name,
                path,
                bytes,
            } if device_id == *provider && self.all.len() < MAX_TRANSFERS => {
                let arrival = Arrival {
                    name,
                    size: bytes,
                    state: TransferState::Complete,
                    began: Instant::now(),
                    path: Some(path),
                    seems_here: true,
                    told: true,
                    relayed: false,
                };
                self.all.insert(transfer, arrival);
                Some((transfer, 0))
            }
            Event::Received { transfer, path, .. } => {
                let arrival = self.all.get_mut(&transfer)?;
                (arrival.path, arrival.seems_here) = (Some(path), false);
                Some((transfer, 0))
            }
            _ => None,
        }
    }

    fn is_new(&self, transfer: TransferId) -> bool {
        let arrival = self.all.get(&transfer);
        arrival.is_some_and(|arrival| !arrival.told && arrival.state == TransferState::Active)
    }

    async fn begin(&mut self, transfer: TransferId, relayed: bool, common: &Common, id: &str) {
        let Some(arrival) = self.all.get_mut(&transfer) else {
            return;
        };
        (arrival.told, arrival.relayed) = (true, relayed);
        common.connected(id, relayed, true).await;
        common.begun(id, &arrival.name, arrival.size).await;
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Arrival> {
        self.all
            .values()
            .filter(move |arrival| arrival.name == name)
    }

    fn outcome(&self, name: &str) -> Option<Outcome<'_>> {
        let here = |one: &&Arrival| one.path.is_some() && (self.done || !one.seems_here);
        if let Some(here) = self.of(name).find(here) {
            return Some(Outcome::Here(here));
        }
        self.of(name).find_map(|arrival| match &arrival.state {
            // A service would wait for room; here a person waits, who can make some.
            TransferState::Paused {
                by: Side::Ours,
                code: code @ (Code::DiskFull | Code::DiskError | Code::Quota),
                reason,
            } => Some(Outcome::Failed(*code, reason.clone())),
            state if state.is_final() && *state != TransferState::Complete => {
                let (code, reason) = why_of(state)?;
                Some(Outcome::Failed(code, reason))
            }
            _ => None,
        })
    }
}
