//! Requests between Handout devices: the rendezvous only brings them together. The file goes as an
//! ordinary broadcast to one device, verified, resumed and relayed as all are.

mod giving;
mod taking;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::actors::api::{Event, exit};
use crate::actors::coordinator::Vouch;
use crate::actors::service::Node;
use crate::net::link::Path as LinkPath;
use crate::protocol::id::DeviceId;
use crate::protocol::message::Code;
use crate::protocol::roles::Roles;
use crate::protocol::transfer::TransferState;
use crate::protocol::trust::Purpose;

use super::EVENTS;
use super::ask::{Asking, ask};
pub(super) use taking::take;

/// The longest that a device is let in for one request. It ends with the request, which is sooner.
pub(super) const LASTS: Duration = Duration::from_secs(24 * 3600);
/// How long a device may take to come, once the file is there for it.
const COMING: Duration = Duration::from_secs(120);

/// How long a device may take to prove that it asks.
const PROVING: Duration = Duration::from_secs(30);

/// While it lives, a device is let in for one request.
struct LetIn {
    node: Node,
    device: DeviceId,
    purpose: Purpose,
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
        let purpose = node.vouch(vouch).await?;
        Ok(Self {
            node: node.clone(),
            device: device.clone(),
            purpose,
        })
    }

    async fn is_relayed(&self) -> bool {
        self.node.path_to(&self.device).await == Some(LinkPath::Rendezvous)
    }
}

impl Drop for LetIn {
    fn drop(&mut self) {
        self.node.unvouch(self.device.clone(), self.purpose);
    }
}

/// Why a transfer came to nothing.
fn why_of(state: &TransferState) -> Option<(Code, String)> {
    match state {
        TransferState::Failed { code, reason }
        | TransferState::Paused { code, reason, .. }
        | TransferState::Cancelled { code, reason, .. } => Some((*code, reason.clone())),
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
