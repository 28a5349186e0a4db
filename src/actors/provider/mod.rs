//! Giving data to whoever asks for it at a rendezvous, and asking for it: the two sides of a
//! session there, and the plain dialect between them.

mod answers;
mod ask;
mod connect;
mod give;
mod native;
mod signals;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::debug;

use crate::config::{ProviderRule, Settings};
use crate::dataplane::{Pace, Pacer};
use crate::net::link::LinkOptions;
use crate::net::rendezvous::{Server, ServerError};
use crate::protocol::allowance::{Lane, Limits};
use crate::protocol::candidate::{CandidatePolicy, Reach};
use crate::protocol::id::DeviceId;
use crate::protocol::rendezvous::{IceServers, SessionInfo};

pub use ask::{AskError, Asking, ask};
pub use give::{GiveError, Giving, give};
pub use native::{Fetching, fetch};

use super::network;

/// Events that wait for whoever shows them.
pub const EVENTS: usize = 256;
/// Bytes of a file with certificates.
const MAX_CA: u64 = 1 << 20;

/// What happens while data is given or asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProviderEvent {
    /// Requests are answered from now on.
    Providing {
        /// The rendezvous.
        url: String,
        /// The types of the requests.
        types: Vec<String>,
        /// Whether clients without proof get answers; nothing of what they say is verified.
        plain: bool,
    },
    /// The rendezvous cannot be reached; it is tried again.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It can be reached again.
    Reachable,
    /// Somebody asks for data.
    Requested {
        /// The session at the rendezvous.
        session: String,
        /// The type of the request.
        request_type: String,
        /// The user, as the rendezvous knows it.
        user: String,
    },
    /// A request is not answered.
    Refused {
        /// The session.
        session: String,
        /// Why, for programs.
        code: String,
        /// Why, for people.
        reason: String,
    },
    /// We have asked.
    Asked {
        /// The session.
        session: String,
        /// The type of the request.
        request_type: String,
    },
    /// The way to the other side is open.
    Connected {
        /// The session.
        session: String,
        /// It goes through the rendezvous, which can read it.
        relayed: bool,
        /// Whether the other side has proven who it is.
        verified: bool,
    },
    /// There is no direct way, so it goes through the rendezvous.
    Fallback {
        /// The session.
        session: String,
        /// Why there is no direct way.
        reason: String,
    },
    /// A file begins to come, or to go.
    Begun {
        /// The session.
        session: String,
        /// What it is called.
        name: String,
        /// Its bytes.
        size: u64,
    },
    /// So much of it has.
    Progress {
        /// The session.
        session: String,
        /// Bytes.
        bytes: u64,
    },
    /// All of a file has gone. Whether it arrived, plain clients do not say.
    Sent {
        /// The session.
        session: String,
        /// What it is called.
        name: String,
        /// Its bytes.
        bytes: u64,
        /// How long that took.
        seconds: f64,
        /// It went through the rendezvous.
        relayed: bool,
        /// Whether the receiver has proven who it is.
        verified: bool,
        /// Which device that is, where it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_id: Option<DeviceId>,
    },
    /// A file is here.
    Received {
        /// The session.
        session: String,
        /// Where.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// How long that took.
        seconds: f64,
        /// It came through the rendezvous.
        relayed: bool,
        /// Whether its sender has proven who it is, and its content was checked.
        verified: bool,
        /// It was here before, and did not come again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        already: bool,
        /// Which device that is, where it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_id: Option<DeviceId>,
    },
    /// A session has come to nothing.
    Failed {
        /// The session.
        session: String,
        /// Why.
        reason: String,
    },
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requester {
    /// A client that cannot prove who it is.
    Plain,
    /// A Handout device.
    Device(DeviceId),
}

impl Requester {
    /// Of a session.
    pub fn of(session: &SessionInfo) -> Self {
        match &session.device_id {
            Some(id) => Self::Device(id.clone()),
            None => Self::Plain,
        }
    }
}

/// What both sides work with.
#[derive(Clone)]
struct Common {
    settings: Arc<Settings>,
    server: Server,
    policy: CandidatePolicy,
    pacer: Pacer,
    events: mpsc::Sender<ProviderEvent>,
}

impl Common {
    fn new(
        settings: Arc<Settings>,
        server: Server,
        rate: Option<u64>,
        events: mpsc::Sender<ProviderEvent>,
    ) -> Self {
        let policy = network::candidate_policy(&settings, Reach::Anywhere);
        let pacer = Pacer::default();
        pacer.set(Limits {
            whole: rate,
            per_device: settings.limits.rate_per_device,
            rules: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
        });
        Self {
            settings,
            server,
            policy,
            pacer,
            events,
        }
    }

    /// How a connection is made: with the STUN and TURN servers that the settings and the
    /// rendezvous name.
    async fn link_options(&self) -> LinkOptions {
        let told = match self.server.ice_servers().await {
            Ok(told) => told,
            Err(error) => {
                debug!(%error, "the rendezvous names no STUN and TURN servers");
                IceServers::default()
            }
        };
        network::link_options_to(&self.settings, Reach::Anywhere, &told.usable())
    }

    async fn tell(&self, event: ProviderEvent) {
        // Nobody listens any more at the end.
        let _ = self.events.send(event).await;
    }

    async fn connected(&self, session: &str, relayed: bool, verified: bool) {
        let session = session.to_owned();
        let connected = ProviderEvent::Connected {
            session,
            relayed,
            verified,
        };
        self.tell(connected).await;
    }

    async fn begun(&self, session: &str, name: &str, size: u64) {
        let (session, name) = (session.to_owned(), name.to_owned());
        let begun = ProviderEvent::Begun {
            session,
            name,
            size,
        };
        self.tell(begun).await;
    }

    /// What a user of the rendezvous may be sent at a time, as if it were a device.
    fn pace(&self, user: &str) -> Pace {
        let digest = blake3::derive_key("handout user of a rendezvous 1", user.as_bytes());
        Pace {
            pacer: self.pacer.clone(),
            lane: Lane {
                device: DeviceId::of_key(&digest),
                broadcast: None,
            },
        }
    }
}

/// The rendezvous that the settings name.
///
/// # Errors
/// [`ServerError`]; also where they name none.
pub fn server(settings: &Settings) -> Result<Server, ServerError> {
    let meeting = &settings.rendezvous;
    let (Some(url), Some(token)) = (&meeting.url, &meeting.token_file) else {
        return Err(ServerError::Url(meeting.url.clone().unwrap_or_default()));
    };
    let ca = match &meeting.ca_file {
        None => None,
        Some(path) => {
            let told = |error: &dyn std::fmt::Display| {
                ServerError::Certificates(format!("{}: {error}", path.display()))
            };
            let mut pem = Vec::new();
            let file = std::fs::File::open(path).map_err(|error| told(&error))?;
            std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_CA), &mut pem)
                .map_err(|error| told(&error))?;
            Some(pem)
        }
    };
    Server::new(url, token, ca.as_deref())
}

/// The providers of the settings that are switched on; the built-in ones where the settings
/// describe none.
fn rules(settings: &Settings) -> Vec<ProviderRule> {
    let mut rules = settings.providers.clone();
    if rules.is_empty() {
        rules = ProviderRule::built_in();
    }
    rules.retain(|rule| rule.enabled);
    rules
}
