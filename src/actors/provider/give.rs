//! Type 1 of a session: answers requests.

mod places;
mod plainly;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::actors::service::Node;
use crate::config::Settings;
use crate::net::rendezvous::ServerError;
use crate::protocol::names::{brief, printable};
use crate::protocol::plain::OfferData;
use crate::protocol::rendezvous::{SessionInfo, SignalType};

use super::answers::{AnswerError, Answers, Folder, keep_tidy};
use super::native;
use super::signals::say;
use super::{Common, ProviderEvent, Requester, rules, server};
use places::{Known, Places};

/// Sessions at once; further ones wait at the rendezvous.
const MAX_SESSIONS: usize = 64;
/// How long one with a plain client may last, the making included.
const PLAIN_LASTS: Duration = Duration::from_secs(6 * 3600);
/// How long one question for sessions waits for some, in seconds.
const POLL: u64 = 25;
/// How long to wait before the sessions are looked at again, where none is for us.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest wait between two tries to reach the rendezvous.
const LONGEST: Duration = Duration::from_secs(30);
/// How often it is looked which answers are too old to be kept.
const TIDY: Duration = Duration::from_secs(5);
/// How long what is being made may take to end, when the program ends.
const ENDING: Duration = Duration::from_secs(5);

/// Why nothing is given any more.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// The rendezvous cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// There is no place for answers.
    #[error("answers cannot be kept in the state folder {path}: {source}")]
    Folder {
        /// The state folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// All providers are switched off.
    #[error("every [[provider]] of the config file is switched off (provider.enabled)")]
    Nothing,
}

/// What is given, and how.
pub struct Giving {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Clients that cannot prove who they are get answers, whatever the settings say.
    pub plain: bool,
    /// In whose name devices get answers; nothing where only plain clients do.
    pub node: Option<Node>,
    /// What happens.
    pub events: mpsc::Sender<ProviderEvent>,
}

/// Answers requests until `ends` comes, or the rendezvous does not let us.
///
/// # Errors
/// [`GiveError`]
pub async fn give(giving: Giving, ends: impl Future<Output = ()>) -> Result<(), GiveError> {
    let provider = Provider::new(giving)?;
    let stops = Arc::clone(&provider.folder.stops);
    let provider = Arc::new(provider);
    let outcome = tokio::select! {
        outcome = Arc::clone(&provider).serve() => outcome,
        () = keep_tidy(provider.answers.values(), TIDY) => Ok(()),
        () = ends => Ok(()),
    };
    // Programs that work for us end with us, and with them what they have started.
    stops.store(true, Ordering::Relaxed);
    let end = Instant::now() + ENDING;
    while Arc::strong_count(&provider.folder) > 1 + provider.answers.len() && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    outcome
}

pub(super) struct Provider {
    pub(super) common: Common,
    plain: bool,
    node: Option<Node>,
    answers: HashMap<String, Arc<Answers>>,
    pub(super) folder: Arc<Folder>,
}

impl Provider {
    fn new(giving: Giving) -> Result<Self, GiveError> {
        let Giving {
            settings,
            plain,
            node,
            events,
        } = giving;
        let server = server(&settings)?;
        // What says who we are must be there from the beginning.
        server.authorization()?;
        let state = &settings.state.dir;
        let folder = Folder::new(state).map_err(|source| GiveError::Folder {
            path: printable(&state.to_string_lossy()),
            source,
        })?;
        let folder = Arc::new(folder);
        let reserve = settings.receive.policy.defaults.reserve;
        let rules = rules(&settings);
        if rules.is_empty() {
            return Err(GiveError::Nothing);
        }
        let answers = rules.into_iter().map(|rule| {
            let name = rule.name.clone();
            let answers = Answers::new(rule, Arc::clone(&folder), reserve);
            (name, Arc::new(answers))
        });
        let rate = settings.limits.rate;
        Ok(Self {
            answers: answers.collect(),
            plain: plain || settings.trust.plain_peers,
            node,
            common: Common::new(settings, server, rate, events),
            folder,
        })
    }

    async fn serve(self: Arc<Self>) -> Result<(), GiveError> {
        let mut types: Vec<_> = self.answers.keys().cloned().collect();
        types.sort();
        let plain = self
            .answers
            .values()
            .any(|answers| self.takes_plain(answers));
        let mut sessions = JoinSet::new();
        let (mut known, mut places) = (Known::default(), Places::default());
        let mut wait = AGAIN;
        let mut reached: Option<bool> = None;
        let mut told = false;
        loop {
            while sessions.try_join_next().is_some() {}
            while sessions.len() >= MAX_SESSIONS {
                sessions.join_next().await;
            }
            // The first question is answered at once, so that it is known that we are let in.
            let patience = if reached == Some(true) { POLL } else { 0 };
            match self.common.server.sessions(&types, patience).await {
                Ok(waiting) => {
                    (wait, told) = (AGAIN, false);
                    match reached {
                        Some(true) => {}
                        Some(false) => self.common.tell(ProviderEvent::Reachable).await,
                        None => {
                            let event = ProviderEvent::Providing {
                                url: self.common.server.url().to_owned(),
                                types: types.clone(),
                                plain,
                            };
                            self.common.tell(event).await;
                        }
                    }
                    reached = Some(true);
                    let mut begun = false;
                    for session in waiting {
                        if sessions.len() >= MAX_SESSIONS {
                            break;
                        }
                        // It waits there until one of the same user is over.
                        let Some(place) = places.take(&session.initiator_user_id) else {
                            continue;
                        };
                        if !known.is_new(&session.session_id) {
                            continue;
                        }
                        let Some(answers) = self.mine(&session) else {
                            continue;
                        };
                        begun = true;
                        let provider = Arc::clone(&self);
                        sessions.spawn(async move {
                            provider.attend(session, answers).await;
                            drop(place);
                        });
                    }
                    if !begun {
                        // There may be sessions that are for others: they make no long wait.
                        sleep(AGAIN).await;
                    }
                }
                Err(error) if error.may_pass() => {
                    if !told {
                        told = true;
                        let reason = brief(&error.to_string());
                        warn!(%reason, "the rendezvous is tried again and again");
                        self.common
                            .tell(ProviderEvent::Unreachable { reason })
                            .await;
                    }
                    if reached.is_some() {
                        reached = Some(false);
                    }
                    sleep(wait).await;
                    wait = (wait * 2).min(LONGEST);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn takes_plain(&self, answers: &Answers) -> bool {
        self.plain || answers.rule.plain
    }

    /// What answers a session; nothing where it is for others.
    fn mine(&self, session: &SessionInfo) -> Option<Arc<Answers>> {
        let answers = self.answers.get(&session.request_type)?;
        let (id, kind) = (&session.session_id, &session.request_type);
        match Requester::of(session) {
            Requester::Plain if self.takes_plain(answers) => Some(Arc::clone(answers)),
            Requester::Plain => {
                warn!(
                    session = %brief(id),
                    "a client that cannot prove who it is asks for {kind}, and gets nothing: \
                     trust.plain_peers, provider.plain or --plain would let it"
                );
                None
            }
            Requester::Device(device) => match &self.node {
                Some(node) if *node.device_id() == device => {
                    warn!(
                        session = %brief(id),
                        "this very device asks itself for {kind}: one of the two needs another state \
                         folder (--state)"
                    );
                    None
                }
                Some(_) => Some(Arc::clone(answers)),
                None if self.takes_plain(answers) => Some(Arc::clone(answers)),
                None => {
                    debug!(session = %brief(id), %device, "a device asks");
                    None
                }
            },
        }
    }

    /// One session from its beginning to its end.
    async fn attend(&self, session: SessionInfo, answers: Arc<Answers>) {
        let id = session.session_id.clone();
        let requested = ProviderEvent::Requested {
            session: id.clone(),
            request_type: session.request_type.clone(),
            user: brief(&session.initiator_user_id),
        };
        let values = match answers.rule.parameters.check(&session.parameters) {
            Ok(values) => answers.check(&values).map(|()| values),
            Err(error) => Err(AnswerError::Request(error.to_string())),
        };
        let values = match values {
            Ok(values) => values,
            Err(error) => {
                self.common.tell(requested).await;
                return self.refuse(&id, &error).await;
            }
        };
        let given = match (Requester::of(&session), &self.node) {
            (Requester::Device(device), Some(node)) => {
                let giving =
                    self.give_device(node, &session, &device, &answers, &values, requested);
                within(native::LASTS, giving).await
            }
            _ => {
                let answering = self.answer(&session, &answers, &values, requested);
                within(PLAIN_LASTS, answering).await
            }
        };
        if let Err(reason) = given {
            let reason = brief(&reason);
            info!(session = %id, %reason, "a session came to nothing");
            let failed = ProviderEvent::Failed {
                session: id,
                reason,
            };
            self.common.tell(failed).await;
        }
    }

    /// Takes a session up by an offer, and tells of it. False where another provider was first.
    pub(super) async fn claim(
        &self,
        session: &str,
        offer: String,
        requested: ProviderEvent,
    ) -> Result<bool, String> {
        let said = say(&self.common.server, session, SignalType::Offer, offer).await;
        if let Err(ServerError::Refused { status: 409, .. }) = said {
            debug!(session, "another provider was first");
            return Ok(false);
        }
        said.map_err(|error| error.to_string())?;
        self.common.tell(requested).await;
        Ok(true)
    }

    /// Says why there is no answer, in place of an offer.
    pub(super) async fn refuse(&self, session: &str, error: &AnswerError) {
        let (code, reason) = (error.code().to_owned(), error.to_string());
        let refusal = OfferData::Refusal {
            code: code.clone(),
            message: reason.clone(),
        };
        let refusal = serde_json::to_string(&refusal).unwrap_or_default();
        let server = &self.common.server;
        if let Err(error) = say(server, session, SignalType::Offer, refusal).await {
            debug!(%error, "a refusal was not delivered");
        }
        let refused = ProviderEvent::Refused {
            session: session.to_owned(),
            code,
            reason,
        };
        self.common.tell(refused).await;
    }
}

async fn within(
    limit: Duration,
    given: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let late = || {
        Err(format!(
            "it was not over after {} h",
            limit.as_secs() / 3600
        ))
    };
    timeout(limit, given).await.unwrap_or_else(|_| late())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_that_does_not_end_is_ended() {
        let ended = within(Duration::ZERO, std::future::pending()).await;
        assert_eq!(ended, Err("it was not over after 0 h".to_owned()));
        assert_eq!(within(PLAIN_LASTS, async { Ok(()) }).await, Ok(()));
    }
}
