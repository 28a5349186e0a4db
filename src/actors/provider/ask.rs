//! Type 2 of a session: asks for data, and takes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tracing::debug;

use crate::actors::api::exit;
use crate::actors::service::Node;
use crate::config::Settings;
use crate::dataplane::{Begun, PlainFailure, PlainTerms, Progress, receive_plain};
use crate::net::link::LinkError;
use crate::net::plain::PlainChannel;
use crate::net::rendezvous::{Server, ServerError};
use crate::protocol::id::DeviceId;
use crate::protocol::message::Code;
use crate::protocol::names::{brief, passage};
use crate::protocol::plain::OfferData;
use crate::protocol::policy::Whom;
use crate::protocol::rendezvous::{Initiate, SessionInfo, SignalType};

use super::connect::{Direct, offer_data};
use super::native::take;
use super::signals::{Signals, say};
use super::{Common, ProviderEvent, server};

/// How often progress is told.
const PACE: Duration = Duration::from_millis(200);

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The rendezvous cannot be used, or refuses.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Nobody provides that.
    #[error(
        "nobody has offered {request_type} within {} s: does a provider run (`handout provide`), \
         and does it give to clients like this one?", .waited.as_secs()
    )]
    Nobody {
        /// What was asked for.
        request_type: String,
        /// How long.
        waited: Duration,
    },
    /// The provider says no.
    #[error("the provider refuses: {message}")]
    Refused {
        /// For programs, made harmless.
        code: String,
        /// For people, made harmless.
        message: String,
    },
    /// Only a device can be answered so.
    #[error("the provider answers by the native dialect, which --plain leaves out")]
    Native,
    /// There is neither a direct way, nor one through the rendezvous.
    #[error("{direct}; through the rendezvous: {relayed}; nothing was kept")]
    NoWay {
        /// Why there is no direct one.
        direct: String,
        /// Why there is no other.
        relayed: String,
    },
    /// Nothing of what comes would be verified.
    #[error(
        "whoever provides this cannot prove who it is, and nothing of what comes would be verified: \
         --plain, or trust.plain_peers in the config file, allows that"
    )]
    Unverified,
    /// Another device than the one that is wanted.
    #[error("the device {0} provides this, and not the one that --from names")]
    Other(DeviceId),
    /// The device that provides it may not send to us.
    #[error("the device that provides this is not let in: {0}")]
    NotLetIn(String),
    /// A device was to send it.
    #[error("the file did not come: {reason}")]
    Device {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// It broke off.
    #[error("the file did not come: {0}; nothing of it was kept")]
    Transfer(#[from] PlainFailure),
}

impl AskError {
    /// The exit code that tells of it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Server(ServerError::Refused {
                status: 401 | 403, ..
            }) => exit::UNAUTHORIZED,
            Self::Server(ServerError::Url(_) | ServerError::Token { .. }) => exit::USAGE,
            Self::Refused { code, .. } if code == "parameters" => exit::USAGE,
            Self::Nobody { .. } => exit::NO_RECEIVER,
            Self::Transfer(PlainFailure::Sink(error)) if error.code() == Code::DiskFull => {
                exit::DISK
            }
            Self::Transfer(PlainFailure::Policy(refusal)) if refusal.code == Code::Quota => {
                exit::DISK
            }
            Self::Device { code, .. } => match code {
                Code::DiskFull | Code::DiskError | Code::Quota | Code::Declined => exit::DISK,
                Code::Unauthorized => exit::UNAUTHORIZED,
                Code::Integrity => exit::INTEGRITY,
                Code::NotConnected => exit::NO_RECEIVER,
                _ => exit::ERROR,
            },
            Self::Unverified | Self::Other(_) | Self::NotLetIn(_) => exit::UNAUTHORIZED,
            _ => exit::ERROR,
        }
    }
}

/// What is asked for, and how.
pub struct Asking {
    /// The settings.
    pub settings: Arc<Settings>,
    /// The type of the request.
    pub request_type: String,
    /// Its parameters, a JSON object.
    pub parameters: String,
    /// How long to wait for somebody who provides it.
    pub wait: Duration,
    /// Providers that cannot prove who they are may answer.
    pub plain: bool,
    /// Only this device may.
    pub from: Option<DeviceId>,
    /// In whose name a device may answer; nothing where only plain answers are taken.
    pub node: Option<Node>,
    /// What happens.
    pub events: mpsc::Sender<ProviderEvent>,
}

/// Asks, and takes what comes into the folder of the receive policy. What a device sends is
/// verified; what a plain client sends is not.
///
/// # Errors
/// [`AskError`]
pub async fn ask(asking: Asking) -> Result<PathBuf, AskError> {
    let server = server(&asking.settings)?;
    let rate = asking.settings.limits.receive_rate;
    let common = Common::new(asking.settings, server, rate, asking.events);
    let initiate = Initiate {
        file_name: format!("{}_data", asking.request_type),
        request_type: asking.request_type,
        parameters: asking.parameters,
        file_size: 0,
        file_type: "application/octet-stream".to_owned(),
        device_id: asking.node.as_ref().map(|node| node.device_id().clone()),
    };
    let session = common.server.initiate(&initiate).await?;
    let asked = ProviderEvent::Asked {
        session: session.session_id.clone(),
        request_type: initiate.request_type.clone(),
    };
    common.tell(asked).await;
    // Whoever provides need not wait for us any longer, whatever comes of it.
    let _end = Ending {
        server: common.server.clone(),
        session: session.session_id.clone(),
    };
    let asker = Asker {
        common,
        session,
        plain: asking.plain,
        from: asking.from,
        node: asking.node,
    };
    asker.run(asking.wait).await
}

/// Ends a session at the rendezvous when it is dropped.
struct Ending {
    server: Server,
    session: String,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let (server, session) = (self.server.clone(), std::mem::take(&mut self.session));
        if let Ok(here) = tokio::runtime::Handle::try_current() {
            here.spawn(async move {
                if let Err(error) = server.end(&session).await {
                    debug!(%error, "the end of a session was not told");
                }
            });
        }
    }
}

struct Asker {
    common: Common,
    session: SessionInfo,
    plain: bool,
    from: Option<DeviceId>,
    node: Option<Node>,
}

/// Who answers, and how.
enum Offered {
    /// A client that proves nothing: its SDP, and the candidates that came before.
    Plain(String, Vec<String>),
    /// A device, and what it calls the file where it knows that already.
    Device(DeviceId, Option<String>),
}

impl Asker {
    async fn run(self, wait: Duration) -> Result<PathBuf, AskError> {
        let (common, id) = (&self.common, &self.session.session_id);
        let mut signals = Signals::new(common.server.clone(), id.clone());
        let (offer, candidates) = match self.offer(&mut signals, wait).await? {
            Offered::Plain(..) if !self.plain || self.from.is_some() => {
                return Err(AskError::Unverified);
            }
            Offered::Plain(offer, candidates) => (offer, candidates),
            Offered::Device(device, name) => {
                let node = self.node.as_ref().ok_or(AskError::Native)?;
                if self.from.as_ref().is_some_and(|from| *from != device) {
                    return Err(AskError::Other(device));
                }
                return take(common, node, &self.session, &mut signals, &device, name).await;
            }
        };
        let until = Instant::now() + common.settings.rendezvous.fallback_after;
        let relays = common.settings.rendezvous.relay;
        let failure = match self.direct(&mut signals, &offer, &candidates, until).await {
            Err(reason) => reason,
            Ok((mut direct, channel)) => {
                common.connected(id, false, false).await;
                let received = self.receive(channel, Some(&mut direct)).await;
                direct.close().await;
                match received {
                    Err(failure) if failure.is_of_the_way() && relays => failure.to_string(),
                    received => return Ok(received?),
                }
            }
        };
        let no_way = |relayed: String| AskError::NoWay {
            direct: brief(&failure),
            relayed: brief(&relayed),
        };
        if !relays {
            return Err(no_way("rendezvous.relay is off".to_owned()));
        }
        let fallback = ProviderEvent::Fallback {
            session: id.clone(),
            reason: brief(&failure),
        };
        common.tell(fallback).await;
        let channel = PlainChannel::relayed(&common.server, id)
            .await
            .map_err(|error| no_way(error.to_string()))?;
        common.connected(id, true, false).await;
        Ok(self.receive(channel, None).await?)
    }

    /// Waits for an offer. Returns it, and the candidates that came before.
    async fn offer(&self, signals: &mut Signals, wait: Duration) -> Result<Offered, AskError> {
        let began = Instant::now();
        let nobody = |waited| AskError::Nobody {
            request_type: self.session.request_type.clone(),
            waited,
        };
        let mut candidates = Vec::new();
        loop {
            let signal = match timeout_at(began + wait, signals.next()).await {
                Ok(Ok(signal)) => signal,
                // The rendezvous has given the session up.
                Ok(Err(ServerError::Refused { status: 404, .. })) => {
                    return Err(nobody(began.elapsed()));
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(nobody(wait)),
            };
            match offer_data(&signal) {
                Some(OfferData::Offer { sdp }) => return Ok(Offered::Plain(sdp, candidates)),
                Some(OfferData::Handout {
                    device_id, name, ..
                }) => match device_id.parse::<DeviceId>() {
                    Ok(id) if id.is_self_certifying() => return Ok(Offered::Device(id, name)),
                    _ => debug!("somebody offers under what is no id of a device"),
                },
                Some(OfferData::Refusal { code, message }) => {
                    return Err(AskError::Refused {
                        code: brief(&code),
                        message: passage(&message),
                    });
                }
                None if signal.signal_type == SignalType::Candidate => {
                    candidates.push(signal.signal_data);
                }
                None => debug!("a signal is not understood"),
            }
        }
    }

    async fn direct(
        &self,
        signals: &mut Signals,
        offer: &str,
        candidates: &[String],
        until: Instant,
    ) -> Result<(Direct, PlainChannel), String> {
        let (common, id) = (&self.common, &self.session.session_id);
        let answered = Direct::answer(common, offer).await;
        let (mut direct, answer) = answered.map_err(|error| error.to_string())?;
        say(&common.server, id, SignalType::Answer, answer)
            .await
            .map_err(|error| error.to_string())?;
        for candidate in candidates {
            direct.early(candidate).await;
        }
        match direct.open(signals, until).await {
            Ok(channel) => Ok((direct, channel)),
            Err(reason) => {
                direct.close().await;
                Err(reason)
            }
        }
    }

    async fn receive(
        &self,
        mut channel: PlainChannel,
        direct: Option<&mut Direct>,
    ) -> Result<PathBuf, PlainFailure> {
        let (common, id) = (&self.common, &self.session.session_id);
        let settings = &common.settings;
        let nobody = Whom {
            broadcast: &self.session.request_type,
            ..Whom::default()
        };
        let terms = PlainTerms {
            terms: settings.receive.policy.terms_for(&nobody),
            id: id.clone(),
            // What is asked for may have to be made first.
            patience: Duration::from_secs(3600),
            stall: settings.network.stall_timeout,
        };
        let relayed = channel.is_relayed();
        let (pace, progress) = (common.pace(""), Arc::new(Progress::default()));
        let began = Instant::now();
        let (told, mut begins) = mpsc::unbounded_channel::<Begun>();
        let mut begun = move |begun| {
            // It happens once.
            let _ = told.send(begun);
        };
        let (path, bytes) = {
            let receiving = receive_plain(&mut channel, &terms, &pace, &progress, &mut begun);
            tokio::pin!(receiving);
            let lost = async {
                match direct {
                    Some(direct) => direct.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(lost);
            let mut every = interval(PACE);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut gone = None;
            loop {
                tokio::select! {
                    biased;
                    Some(begun) = begins.recv() => {
                        common.begun(id, &begun.name, begun.size).await;
                    }
                    received = &mut receiving => break received?,
                    // What has come already is read before that counts.
                    reason = &mut lost, if gone.is_none() => {
                        gone = Some((reason, Instant::now()));
                    }
                    _ = every.tick() => {
                        if let Some((reason, since)) = &gone && since.elapsed() > 5 * PACE {
                            return Err(LinkError::Relay(reason.clone()).into());
                        }
                        let event = ProviderEvent::Progress {
                            session: id.clone(),
                            bytes: progress.done(),
                        };
                        common.tell(event).await;
                    }
                }
            }
        };
        channel.finish(Duration::ZERO).await;
        let received = ProviderEvent::Received {
            session: id.clone(),
            path: path.clone(),
            bytes,
            seconds: began.elapsed().as_secs_f64(),
            relayed,
            verified: false,
            already: false,
            device_id: None,
        };
        common.tell(received).await;
        Ok(path)
    }
}
