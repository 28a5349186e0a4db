//! Type 1 of a session: answers requests.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

use crate::actors::service::Node;
use crate::config::Settings;
use crate::dataplane::{PlainFailure, Progress, send_no, send_plain};
use crate::net::plain::PlainChannel;
use crate::net::rendezvous::ServerError;
use crate::protocol::names::{brief, printable};
use crate::protocol::plain::OfferData;
use crate::protocol::provider::Values;
use crate::protocol::rendezvous::{SessionInfo, SignalType};

use super::answers::{Answer, AnswerError, Answers, Folder};
use super::connect::{Direct, Signals, say};
use super::{Common, ProviderEvent, Requester, rules, server};

/// Sessions at once; further ones wait at the rendezvous.
const MAX_SESSIONS: usize = 64;
/// Sessions that are remembered, so that none is looked at twice.
const REMEMBERED: usize = 10_000;
/// How long one question for sessions waits for some, in seconds.
const POLL: u64 = 25;
/// How long to wait before the sessions are looked at again, where none is for us.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest wait between two tries to reach the rendezvous.
const LONGEST: Duration = Duration::from_secs(30);
/// How often progress is told.
const PACE: Duration = Duration::from_millis(500);
/// How long to wait for the other side to close, when all has gone.
const CLOSING: Duration = Duration::from_secs(20);
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
        let mut known = Known::default();
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
            match self.common.server.sessions(patience).await {
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
                        if !known.is_new(&session.session_id) {
                            continue;
                        }
                        let Some(answers) = self.mine(&session) else {
                            continue;
                        };
                        begun = true;
                        let provider = Arc::clone(&self);
                        sessions.spawn(async move { provider.attend(session, answers).await });
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
                self.give_device(node, &session, &device, &answers, &values, requested)
                    .await
            }
            _ => self.answer(&session, &answers, &values, requested).await,
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

    async fn answer(
        &self,
        session: &SessionInfo,
        answers: &Arc<Answers>,
        values: &Values,
        requested: ProviderEvent,
    ) -> Result<(), String> {
        let (common, id) = (&self.common, &session.session_id);
        let (mut direct, offer) = Direct::offer(common)
            .await
            .map_err(|error| error.to_string())?;
        let said = say(&common.server, id, SignalType::Offer, offer).await;
        if let Err(ServerError::Refused { status: 409, .. }) = said {
            debug!(session = %id, "another provider was first");
            return Ok(());
        }
        said.map_err(|error| error.to_string())?;
        common.tell(requested).await;
        let making = {
            let (answers, values) = (Arc::clone(answers), values.clone());
            // It goes on, and is kept, also where this requester goes away.
            tokio::spawn(async move { answers.get(&values).await })
        };
        let mut making = async move { making.await.unwrap_or(Err(AnswerError::Here)) }.boxed();
        let mut signals = Signals::new(common.server.clone(), id.clone());
        let until = Instant::now() + common.settings.rendezvous.fallback_after;
        let failure = match direct.open(&mut signals, until).await {
            Err(reason) => reason,
            Ok(channel) => {
                self.connected(id, false).await;
                let made = tokio::select! {
                    made = &mut making => Ok(made),
                    reason = direct.lost() => Err(reason),
                };
                match made {
                    Err(reason) => reason,
                    Ok(answer) => {
                        let sent = self
                            .send(session, channel, &answer, Some(&mut direct))
                            .await;
                        match sent {
                            Ok(()) => {
                                direct.close().await;
                                return Ok(());
                            }
                            Err(failure) if failure.is_of_the_way() => {
                                making = async move { answer }.boxed();
                                failure.to_string()
                            }
                            Err(failure) => return Err(failure.to_string()),
                        }
                    }
                }
            }
        };
        direct.close().await;
        drop(direct);
        self.relay(session, making, &failure).await
    }

    async fn connected(&self, session: &str, relayed: bool) {
        let event = ProviderEvent::Connected {
            session: session.to_owned(),
            relayed,
            verified: false,
        };
        self.common.tell(event).await;
    }

    /// The same through the rendezvous, which can read it.
    async fn relay(
        &self,
        session: &SessionInfo,
        mut making: Making,
        reason: &str,
    ) -> Result<(), String> {
        let (common, id) = (&self.common, &session.session_id);
        if !common.settings.rendezvous.relay {
            return Err(format!("{reason}; rendezvous.relay is off"));
        }
        let fallback = ProviderEvent::Fallback {
            session: id.clone(),
            reason: brief(reason),
        };
        common.tell(fallback).await;
        // Before the answer is there: the other side does not wait for ever.
        let mut channel = PlainChannel::relayed(&common.server, id)
            .await
            .map_err(|error| error.to_string())?;
        self.connected(id, true).await;
        let answer = loop {
            // Reading keeps the way alive.
            tokio::select! {
                answer = &mut making => break answer,
                said = channel.receive() => match said {
                    Ok(Some(_)) => {}
                    Ok(None) => return Err("the other side has gone".to_owned()),
                    Err(error) => return Err(error.to_string()),
                },
            }
        };
        let sent = self.send(session, channel, &answer, None).await;
        sent.map_err(|error| error.to_string())
    }

    /// Sends an answer, or says why there is none.
    async fn send(
        &self,
        session: &SessionInfo,
        mut channel: PlainChannel,
        answer: &Result<Arc<Answer>, AnswerError>,
        direct: Option<&mut Direct>,
    ) -> Result<(), PlainFailure> {
        let (common, id) = (&self.common, &session.session_id);
        let relayed = channel.is_relayed();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                send_no(&mut channel, error.code(), &error.to_string()).await?;
                channel.finish(CLOSING).await;
                let refused = ProviderEvent::Refused {
                    session: id.clone(),
                    code: error.code().to_owned(),
                    reason: error.to_string(),
                };
                common.tell(refused).await;
                return Ok(());
            }
        };
        let begun = ProviderEvent::Begun {
            session: id.clone(),
            name: answer.name.clone(),
            size: answer.size,
        };
        common.tell(begun).await;
        let began = Instant::now();
        let (pace, progress) = (common.pace(&session.initiator_user_id), Progress::default());
        {
            let sending = send_plain(&mut channel, &answer.path, &answer.name, &pace, &progress);
            tokio::pin!(sending);
            let mut every = interval(PACE);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let lost = async {
                match direct {
                    Some(direct) => direct.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(lost);
            loop {
                tokio::select! {
                    sent = &mut sending => break sent?,
                    reason = &mut lost => {
                        let error = crate::net::link::LinkError::Relay(reason);
                        return Err(error.into());
                    }
                    _ = every.tick() => {
                        let progress = ProviderEvent::Progress {
                            session: id.clone(),
                            bytes: progress.done(),
                        };
                        common.tell(progress).await;
                    }
                }
            }
        }
        channel.finish(CLOSING).await;
        let sent = ProviderEvent::Sent {
            session: id.clone(),
            name: answer.name.clone(),
            bytes: answer.size,
            seconds: began.elapsed().as_secs_f64(),
            relayed,
            verified: false,
        };
        common.tell(sent).await;
        Ok(())
    }
}

/// An answer that is made, or will be.
type Making = BoxFuture<'static, Result<Arc<Answer>, AnswerError>>;

/// Sessions that have been looked at.
#[derive(Default)]
struct Known {
    all: HashSet<String>,
    order: VecDeque<String>,
}

impl Known {
    fn is_new(&mut self, id: &str) -> bool {
        if !self.all.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }
}
