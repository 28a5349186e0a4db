//! Requests between Handout devices: the rendezvous only brings them together. The file goes as an
//! ordinary broadcast to one device, verified, resumed and relayed as all are.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::actors::api::{Event, Request, exit};
use crate::actors::coordinator::Vouch;
use crate::actors::service::Node;
use crate::net::link::Path as LinkPath;
use crate::net::rendezvous::ServerError;
use crate::protocol::allowance::Share;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::names::brief;
use crate::protocol::plain::OfferData;
use crate::protocol::provider::Values;
use crate::protocol::rendezvous::{SessionInfo, SignalType};
use crate::protocol::roles::Roles;
use crate::protocol::transfer::{Direction, TransferState};

use super::answers::{Answer, Answers, Folder};
use super::ask::{AskError, Asking, ask};
use super::connect::{Signals, offer_data, say};
use super::give::Provider;
use super::{Common, EVENTS, ProviderEvent};

/// The longest that a device is let in for one request. It ends with the request, which is sooner.
const LASTS: Duration = Duration::from_secs(24 * 3600);
/// How long a device may take to come, once the file is there for it.
const COMING: Duration = Duration::from_secs(120);
/// How long the making of what is asked for may take.
const MAKING: Duration = Duration::from_secs(3600);
/// How long nothing may move before a request is given up.
const STANDING: Duration = Duration::from_secs(600);
/// Transfers of one provider that are kept in mind.
const MAX_TRANSFERS: usize = 64;

/// While it lives, a device is let in for one request.
struct LetIn {
    node: Node,
    device: DeviceId,
}

impl LetIn {
    async fn new(
        node: &Node,
        device: &DeviceId,
        roles: Roles,
        why: String,
    ) -> Result<Self, String> {
        let vouch = Vouch {
            device: device.clone(),
            roles,
            lasts: LASTS,
            why,
        };
        node.vouch(vouch).await?;
        Ok(Self {
            node: node.clone(),
            device: device.clone(),
        })
    }

    async fn is_relayed(&self) -> bool {
        self.node.path_to(&self.device).await == Some(LinkPath::Rendezvous)
    }
}

impl Drop for LetIn {
    fn drop(&mut self) {
        self.node.unvouch(self.device.clone());
    }
}

/// An answer under the name that its receiver sees; gone when dropped.
struct Shown {
    folder: PathBuf,
    path: PathBuf,
}

impl Shown {
    /// Blocks.
    fn new(answer: &Answer, within: &Folder) -> io::Result<Self> {
        let folder = within.new_one()?;
        let shown = Self {
            path: folder.join(&answer.name),
            folder,
        };
        fs::hard_link(&answer.path, &shown.path)
            .or_else(|_| fs::copy(&answer.path, &shown.path).map(|_| ()))?;
        Ok(shown)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            warn!(%error, "a folder could not be removed: {}", self.folder.display());
        }
    }
}

impl Provider {
    /// Answers a request of a device.
    pub(super) async fn give_device(
        &self,
        node: &Node,
        session: &SessionInfo,
        device: &DeviceId,
        answers: &Arc<Answers>,
        values: &Values,
        requested: ProviderEvent,
    ) -> Result<(), String> {
        let (common, id) = (&self.common, &session.session_id);
        let to = &answers.rule.to;
        if !to.is_empty() && !node.is_meant(device, to.clone()).await {
            warn!(session = %id, %device, "a device asks that is not among whom this is for (to)");
            return Ok(());
        }
        let why = format!(
            "for one request at the rendezvous, by user {}",
            session.initiator_user_id
        );
        let let_in = LetIn::new(node, device, Roles::RECEIVE, why).await?;
        let ours = node.device_id().to_string();
        let claim = |name: Option<String>, done| {
            let offered = OfferData::Handout {
                device_id: ours.clone(),
                name,
                done,
            };
            serde_json::to_string(&offered).unwrap_or_default()
        };
        let said = say(&common.server, id, SignalType::Offer, claim(None, false)).await;
        if let Err(ServerError::Refused { status: 409, .. }) = said {
            debug!(session = %id, "another provider was first");
            return Ok(());
        }
        said.map_err(|error| error.to_string())?;
        common.tell(requested).await;
        let answer = match answers.get(values).await {
            Ok(answer) => answer,
            Err(error) => {
                self.refuse(id, &error).await;
                return Ok(());
            }
        };
        let shown = {
            let (answer, folder) = (Arc::clone(&answer), Arc::clone(&self.folder));
            let making = tokio::task::spawn_blocking(move || Shown::new(&answer, &folder));
            let made = making.await.map_err(|error| error.to_string())?;
            made.map_err(|error| format!("the answer cannot be shown: {error}"))?
        };
        let named = claim(Some(answer.name.clone()), false);
        say(&common.server, id, SignalType::Offer, named)
            .await
            .map_err(|error| error.to_string())?;
        let began = Instant::now();
        let request = Request::Send {
            paths: vec![shown.path.clone()],
            to: vec![device.to_string()],
            wait_ms: Some(COMING.as_millis() as u64),
            share: Share::default(),
        };
        let mut events = node.ask(request);
        let (mut connected, mut relayed, mut reason) = (false, false, None);
        while let Some(event) = events.recv().await {
            match event {
                Event::Transfer(info) => {
                    if info.state == TransferState::Active && !connected {
                        connected = true;
                        relayed = let_in.is_relayed().await;
                        self.connected_to(id, relayed, &answer).await;
                    }
                    reason = reason_of(&info.state).or(reason);
                }
                Event::Progress { bytes, .. } => {
                    let session = id.clone();
                    common
                        .tell(ProviderEvent::Progress { session, bytes })
                        .await;
                }
                Event::Error { message } => reason = Some(message),
                Event::Summary { receivers, .. } => {
                    let said = receivers.into_iter().find_map(|receiver| receiver.reason);
                    reason = said.or(reason);
                }
                Event::End { code: exit::OK } => {
                    let done = claim(Some(answer.name.clone()), true);
                    if let Err(error) = say(&common.server, id, SignalType::Offer, done).await {
                        debug!(%error, "that it is done was not delivered");
                    }
                    let sent = ProviderEvent::Sent {
                        session: id.clone(),
                        name: answer.name.clone(),
                        bytes: answer.size,
                        seconds: began.elapsed().as_secs_f64(),
                        relayed,
                        verified: true,
                    };
                    common.tell(sent).await;
                    return Ok(());
                }
                Event::End { .. } => break,
                _ => {}
            }
        }
        Err(reason.unwrap_or_else(|| "the device did not get it".to_owned()))
    }

    async fn connected_to(&self, session: &str, relayed: bool, answer: &Answer) {
        let connected = ProviderEvent::Connected {
            session: session.to_owned(),
            relayed,
            verified: true,
        };
        self.common.tell(connected).await;
        let begun = ProviderEvent::Begun {
            session: session.to_owned(),
            name: answer.name.clone(),
            size: answer.size,
        };
        self.common.tell(begun).await;
    }
}

/// Why a transfer came to nothing.
fn reason_of(state: &TransferState) -> Option<String> {
    match state {
        TransferState::Failed { reason, .. } | TransferState::Paused { reason, .. } => {
            Some(reason.clone())
        }
        TransferState::Cancelled { .. } => Some("it was cancelled".to_owned()),
        _ => None,
    }
}

/// What a person wants from a rendezvous, through a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetching {
    /// The type of the request.
    pub request_type: String,
    /// Its parameters, a JSON object.
    pub parameters: String,
    /// How long to wait for somebody who provides it, in milliseconds.
    pub wait_ms: u64,
    /// Providers that cannot prove who they are may answer.
    pub plain: bool,
    /// Only this device may.
    pub from: Option<DeviceId>,
}

/// Asks for data in the name of a node, tells all that happens, and ends with [`Event::End`].
pub async fn fetch(node: Node, fetching: Fetching, reply: mpsc::Sender<Event>) {
    let (events, mut told) = mpsc::channel(EVENTS);
    let settings = node.settings().borrow().clone();
    let asking = Asking {
        settings,
        request_type: fetching.request_type,
        parameters: fetching.parameters,
        wait: Duration::from_millis(fetching.wait_ms),
        plain: fetching.plain,
        from: fetching.from,
        node: Some(node),
        events,
    };
    let telling = async {
        while let Some(what) = told.recv().await {
            if reply.send(Event::Fetching { what }).await.is_err() {
                break;
            }
        }
    };
    let asked = async { tokio::join!(ask(asking), telling).0 };
    let code = tokio::select! {
        asked = asked => match asked {
            Ok(_) => exit::OK,
            Err(error) => {
                let message = error.to_string();
                let _ = reply.send(Event::Error { message }).await;
                error.exit_code()
            }
        },
        () = reply.closed() => return,
    };
    let _ = reply.send(Event::End { code }).await;
}

/// Takes what a device gives.
pub(super) async fn take(
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
    let mut coming = Coming::default();
    let mut deadline = Instant::now() + MAKING;
    loop {
        if let Some(done) = name.as_deref().and_then(|name| coming.outcome(name)) {
            match done {
                Outcome::Failed(reason) => return Err(AskError::Device(brief(&reason))),
                Outcome::Here(arrival) => {
                    let path = arrival.path.clone().unwrap_or_default();
                    let received = ProviderEvent::Received {
                        session: id.clone(),
                        path: path.clone(),
                        bytes: arrival.size,
                        seconds: arrival.began.elapsed().as_secs_f64(),
                        relayed: arrival.relayed,
                        verified: true,
                    };
                    common.tell(received).await;
                    return Ok(path);
                }
            }
        }
        tokio::select! {
            signal = signals.next() => match offer_data(&signal?) {
                Some(OfferData::Handout { name: Some(said), done, .. }) => {
                    name = Some(said);
                    coming.done |= done;
                    deadline = Instant::now() + COMING;
                }
                Some(OfferData::Refusal { code, message }) => return Err(AskError::Refused {
                    code: brief(&code),
                    message: brief(&message),
                }),
                _ => {}
            },
            event = watched.recv() => {
                let Some(event) = event else {
                    return Err(AskError::Device("this device does not answer".to_owned()));
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
            () = sleep_until(deadline) => return Err(AskError::Nobody {
                request_type: session.request_type.clone(),
                waited: MAKING,
            }),
        }
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
    Failed(String),
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
        let connected = ProviderEvent::Connected {
            session: id.to_owned(),
            relayed,
            verified: true,
        };
        common.tell(connected).await;
        let begun = ProviderEvent::Begun {
            session: id.to_owned(),
            name: arrival.name.clone(),
            size: arrival.size,
        };
        common.tell(begun).await;
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
            state if state.is_final() && *state != TransferState::Complete => {
                let reason = reason_of(state).unwrap_or_else(|| "it did not come".to_owned());
                Some(Outcome::Failed(reason))
            }
            _ => None,
        })
    }
}
