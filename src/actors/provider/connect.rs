//! The way between the two parties of a session: WebRTC, with signals that go through the
//! rendezvous, else the rendezvous itself.

use std::collections::HashSet;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::net::link::{Link, LinkError, LinkEvent, NATIVE_LABEL};
use crate::net::plain::PlainChannel;
use crate::protocol::candidate::{CandidatePolicy, MAX_CANDIDATES, filter_sdp};
use crate::protocol::names::brief;
use crate::protocol::plain::{AnswerData, OfferData};
use crate::protocol::rendezvous::{SignalInfo, SignalType};

use super::Common;
use super::signals::{Signals, say};

/// A connection that is being made, or is there.
pub(super) struct Direct {
    link: Link,
    events: mpsc::Receiver<LinkEvent>,
    candidates: Candidates,
}

/// Candidates of the other side, each added once, as far as the policy takes them.
struct Candidates {
    policy: CandidatePolicy,
    seen: HashSet<String>,
    early: Vec<String>,
    described: bool,
}

impl Candidates {
    fn new(policy: CandidatePolicy, described: bool) -> Self {
        Self {
            policy,
            seen: HashSet::new(),
            early: Vec::new(),
            described,
        }
    }

    async fn add(&mut self, link: &Link, data: &str) {
        let line = match self.policy.read(data, None) {
            Ok(candidate) => candidate.to_string(),
            Err(error) => return debug!(%error, "a candidate is not used"),
        };
        if self.seen.len() >= MAX_CANDIDATES || !self.seen.insert(line.clone()) {
            return;
        }
        match self.described {
            true => add(link, line).await,
            // They are of no use before the description is there.
            false => self.early.push(line),
        }
    }

    async fn described(&mut self, link: &Link) {
        self.described = true;
        for line in std::mem::take(&mut self.early) {
            add(link, line).await;
        }
    }
}

async fn add(link: &Link, line: String) {
    if let Err(error) = link.add_candidate(line).await {
        debug!(%error, "a candidate is not used");
    }
}

impl Direct {
    /// Begins a connection, for the party that provides. Returns the offer's data.
    pub(super) async fn offer(common: &Common) -> Result<(Self, String), LinkError> {
        let options = common.link_options().await;
        let (link, sdp, events) = Link::offer_plain(&options).await?;
        let direct = Self {
            link,
            events,
            candidates: Candidates::new(common.policy.clone(), false),
        };
        Ok((direct, json!({ "type": "offer", "sdp": sdp }).to_string()))
    }

    /// Answers an offer, for the party that asks. Returns the answer's data.
    pub(super) async fn answer(common: &Common, offer: &str) -> Result<(Self, String), LinkError> {
        let options = common.link_options().await;
        let offer = filter_sdp(offer, &common.policy);
        let (link, sdp, events) = Link::answer(&options, None, offer).await?;
        let direct = Self {
            link,
            events,
            candidates: Candidates::new(common.policy.clone(), true),
        };
        Ok((direct, json!({ "type": "answer", "sdp": sdp }).to_string()))
    }

    /// A candidate that came before this connection was begun.
    pub(super) async fn early(&mut self, data: &str) {
        self.candidates.add(&self.link, data).await;
    }

    /// Waits until the connection is open.
    ///
    /// # Errors
    /// Why it will not be, for people.
    pub(super) async fn open(
        &mut self,
        signals: &mut Signals,
        until: Instant,
    ) -> Result<PlainChannel, String> {
        loop {
            let event = tokio::select! {
                event = self.events.recv() => Ok(event),
                signal = timeout_at(until, signals.next()) => Err(signal),
            };
            match event {
                Ok(Some(LinkEvent::Open(channel))) if channel.label() == NATIVE_LABEL => {
                    return Err("the other side speaks another dialect".to_owned());
                }
                Ok(Some(LinkEvent::Open(channel))) => return Ok(PlainChannel::Direct(channel)),
                Ok(Some(LinkEvent::Lost(reason))) => return Err(reason.into_owned()),
                Ok(Some(LinkEvent::Candidate(line))) => trickle(signals, line),
                Ok(None) => return Err("the connection is closed".to_owned()),
                Err(Ok(Ok(signal))) => self.hear(&signal).await?,
                Err(Ok(Err(error))) => return Err(error.to_string()),
                Err(Err(_)) => return Err("no direct connection came about in time".to_owned()),
            }
        }
    }

    async fn hear(&mut self, signal: &SignalInfo) -> Result<(), String> {
        match signal.signal_type {
            SignalType::Candidate => self.candidates.add(&self.link, &signal.signal_data).await,
            SignalType::Answer if !self.candidates.described => {
                let Ok(answer) = serde_json::from_str::<AnswerData>(&signal.signal_data) else {
                    return Ok(());
                };
                if answer.kind != "answer" {
                    return Ok(());
                }
                let sdp = filter_sdp(&answer.sdp, &self.candidates.policy);
                let applied = self.link.apply_answer(sdp).await;
                applied.map_err(|error| brief(&error.to_string()))?;
                self.candidates.described(&self.link).await;
            }
            SignalType::Answer | SignalType::Offer => {}
        }
        Ok(())
    }

    /// Waits until the connection is lost.
    pub(super) async fn lost(&mut self) -> String {
        loop {
            match self.events.recv().await {
                Some(LinkEvent::Lost(reason)) => return reason.into_owned(),
                Some(LinkEvent::Open(_) | LinkEvent::Candidate(_)) => {}
                None => return "the connection is closed".to_owned(),
            }
        }
    }

    pub(super) async fn close(&self) {
        self.link.close().await;
    }
}

/// Tells the other side of a candidate that came after the description.
fn trickle(signals: &Signals, line: String) {
    let (server, session) = (signals.server().clone(), signals.session().to_owned());
    let data = json!({ "candidate": line, "sdpMid": "0", "sdpMLineIndex": 0 }).to_string();
    // There are only so many, and the connection waits for none of them.
    tokio::spawn(async move {
        if let Err(error) = say(&server, &session, SignalType::Candidate, data).await {
            debug!(%error, "a candidate was not told");
        }
    });
}

/// What the provider has said in its offer; nothing where that is not understood.
pub(super) fn offer_data(signal: &SignalInfo) -> Option<OfferData> {
    let is_offer = signal.signal_type == SignalType::Offer;
    is_offer
        .then(|| serde_json::from_str(&signal.signal_data).ok())
        .flatten()
}
