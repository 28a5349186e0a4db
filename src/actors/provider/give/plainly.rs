//! Answers to clients that cannot prove who they are, by the plain dialect.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Provider;
use crate::actors::provider::ProviderEvent;
use crate::actors::provider::answers::{Answer, AnswerError, Answers};
use crate::actors::provider::connect::Direct;
use crate::actors::provider::signals::Signals;
use crate::dataplane::{PlainFailure, Progress, send_no, send_plain};
use crate::net::plain::PlainChannel;
use crate::protocol::names::brief;
use crate::protocol::provider::Values;
use crate::protocol::rendezvous::SessionInfo;

/// How often progress is told.
const PACE: Duration = Duration::from_millis(500);
/// How long to wait for the other side to close, when all has gone.
const CLOSING: Duration = Duration::from_secs(20);
/// An answer that is made, or will be.
type Making = BoxFuture<'static, Result<Arc<Answer>, AnswerError>>;

impl Provider {
    pub(super) async fn answer(
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
        if !self.claim(id, offer, requested).await? {
            return Ok(());
        }
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
                common.connected(id, false, false).await;
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
        common.connected(id, true, false).await;
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
        common.begun(id, &answer.name, answer.size).await;
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
            device_id: None,
        };
        common.tell(sent).await;
        Ok(())
    }
}
