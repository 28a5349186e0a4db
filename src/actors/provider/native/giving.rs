//! What a device gives to a device.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{COMING, LetIn, PROVING, why_of};
use crate::actors::api::{Event, Request, exit};
use crate::actors::provider::ProviderEvent;
use crate::actors::provider::answers::{Answer, AnswerError, Answers, Folder};
use crate::actors::provider::give::Provider;
use crate::actors::provider::signals::{Signals, say};
use crate::actors::service::Node;
use crate::protocol::allowance::Share;
use crate::protocol::asking::check_asking;
use crate::protocol::id::DeviceId;
use crate::protocol::plain::OfferData;
use crate::protocol::provider::Values;
use crate::protocol::rendezvous::{SessionInfo, SignalType};
use crate::protocol::roles::Roles;
use crate::protocol::transfer::TransferState;

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

/// Waits until the other side has ended a session, or nothing more can be heard of it.
async fn is_over(signals: &mut Signals) {
    while signals.next().await.is_ok() {}
}

impl Provider {
    /// Answers a request of a device.
    pub(in crate::actors::provider) async fn give_device(
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
        let ours = node.device_id().to_string();
        let offer = |name: Option<String>, done| {
            let offered = OfferData::Handout {
                device_id: ours.clone(),
                name,
                done,
            };
            serde_json::to_string(&offered).unwrap_or_default()
        };
        if !self.claim(id, offer(None, false), requested).await? {
            return Ok(());
        }
        // The rendezvous, and whoever asks there, could name any device.
        let mut signals = Signals::new(common.server.clone(), id.clone());
        if let Err(reason) = self.proven(node, session, device, &mut signals).await {
            self.refuse(id, &AnswerError::Unproven(reason)).await;
            return Ok(());
        }
        let why = format!(
            "for one request at the rendezvous, by user {}",
            session.initiator_user_id
        );
        let let_in = match LetIn::new(node, device, Roles::RECEIVE, why).await {
            Ok(let_in) => let_in,
            Err(reason) => {
                warn!(session = %id, %device, %reason, "a device that asks is not let in");
                self.refuse(id, &AnswerError::NotLetIn).await;
                return Ok(());
            }
        };
        let made = tokio::select! {
            made = answers.get(values) => made,
            () = is_over(&mut signals) => return Err("whoever asked has given up".to_owned()),
        };
        let answer = match made {
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
        let named = offer(Some(answer.name.clone()), false);
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
                        common.connected(id, relayed, true).await;
                        common.begun(id, &answer.name, answer.size).await;
                    }
                    reason = why_of(&info.state).map(|(_, why)| why).or(reason);
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
                    let done = offer(Some(answer.name.clone()), true);
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
                        device_id: Some(device.clone()),
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

    /// Waits until the device itself says that it asks.
    async fn proven(
        &self,
        node: &Node,
        session: &SessionInfo,
        device: &DeviceId,
        signals: &mut Signals,
    ) -> Result<(), String> {
        let id = &session.session_id;
        let answer = async {
            loop {
                let signal = signals.next().await.map_err(|error| error.to_string())?;
                if signal.signal_type == SignalType::Answer {
                    return Ok(signal.signal_data);
                }
            }
        };
        let late = format!("nothing came for {} s", PROVING.as_secs());
        let answer = timeout(PROVING, answer).await.unwrap_or(Err(late))?;
        let checked = check_asking(&answer, id, node.device_id(), device);
        checked.map_err(|error| error.to_string())
    }
}
