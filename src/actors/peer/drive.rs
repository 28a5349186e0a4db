//! Doing what the negotiation asks for: connections, descriptions, and the session on an open
//! channel.

use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::proofs::random;
use super::{LiveLink, OnLink, OnSession, Peer, Route};
use crate::actors::coordinator::{FromPeer, PeerNews};
use crate::actors::discovery::stream_of;
use crate::actors::signaling::Dial;
use crate::dataplane::{self, SessionError, SessionOptions};
use crate::net::link::{Channel, Link, LinkError, LinkEvent, NATIVE_LABEL};
use crate::protocol::candidate::MAX_CANDIDATES;
use crate::protocol::handshake::{Handshake, Local, Role};
use crate::protocol::names::printable;
use crate::protocol::negotiation::{Failure, Generation, Input, Output};
use crate::protocol::sdp::{SdpFacts, attributes};
use crate::protocol::signal::{Signal, SignalKind};

impl Peer {
    /// Gives the negotiation an input and does all that it asks for.
    pub(super) fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        self.negotiation.handle(Instant::now(), input);
        while let Some(output) = self.negotiation.poll_output() {
            self.act(output, ctx);
        }
        if let Some(tick) = self.tick.take() {
            ctx.cancel_future(tick);
        }
        if let Some(deadline) = self.negotiation.next_deadline() {
            let wait = deadline.saturating_duration_since(Instant::now());
            self.tick = Some(ctx.run_later(wait, |peer, ctx| {
                peer.tick = None;
                peer.step(Input::Tick, ctx);
            }));
        }
    }

    pub(super) fn act(&mut self, output: Output, ctx: &mut Context<Self>) {
        match output {
            Output::MakeOffer { generation } => {
                let relay = self.relay();
                let route = self.route_without_address();
                let options = self.link_options(route.as_ref());
                let made = self.on_data_plane(async move { Link::offer(&options, relay).await });
                let then = made.into_actor(self).map(move |made, peer, ctx| {
                    peer.made(generation, Role::Offerer, made, ctx);
                });
                ctx.spawn(then);
            }
            Output::MakeAnswer { generation, offer } => {
                if let Some(description) = self.offer.take() {
                    self.route = description.route.clone();
                    self.standing = description;
                }
                let options = self.link_options(self.route.as_ref());
                let relay = self.context.relay.clone();
                let made =
                    self.on_data_plane(async move { Link::answer(&options, relay, offer).await });
                let then = made.into_actor(self).map(move |made, peer, ctx| {
                    peer.made(generation, Role::Answerer, made, ctx);
                });
                ctx.spawn(then);
            }
            Output::SendOffer { generation, sdp } => {
                self.write(generation, SignalKind::Offer, sdp, None, ctx);
            }
            Output::SendAnswer { generation, sdp } => {
                let route = self.route.clone();
                self.write(generation, SignalKind::Answer, sdp, route, ctx);
            }
            Output::ApplyAnswer { generation, sdp } => {
                if let Some(link) = self.link_of(generation) {
                    let applied = self.on_data_plane(async move { link.apply_answer(sdp).await });
                    let then = applied.into_actor(self).map(move |applied, peer, ctx| {
                        if let Err(error) = applied {
                            let reason = error.to_string();
                            peer.step(Input::ConnectionLost { generation, reason }, ctx);
                        }
                    });
                    ctx.spawn(then);
                    self.send_candidates();
                    self.trickle(generation);
                }
            }
            Output::AddCandidate { generation, text } => {
                if let Some(link) = self.link_of(generation) {
                    self.context.data_plane.spawn(async move {
                        if let Err(error) = link.add_candidate(text).await {
                            debug!(%error, "a candidate was not taken");
                        }
                    });
                }
            }
            Output::CloseConnection { generation } => {
                if self
                    .link
                    .as_ref()
                    .is_some_and(|live| live.generation == generation)
                {
                    self.link = None;
                    self.commands = None;
                }
            }
            Output::Retrying {
                attempt, reason, ..
            } => {
                debug!(attempt, %reason, "trying again");
                self.tell(
                    PeerNews::Retrying {
                        reason: reason.to_string(),
                    },
                    ctx,
                );
            }
            Output::Connected { .. } => debug!("channel open"),
            Output::NotConnected { reason } => {
                info!(%reason, "not connected");
                let never_up = self.proven.is_none();
                if never_up && matches!(reason, Failure::NoChannel | Failure::Lost(_)) {
                    self.change_way();
                }
                if reason != Failure::Disconnected {
                    self.failures = self.failures.saturating_add(1);
                    // Not awaited: a stopping actor drops its futures, and a message whose
                    // sender no longer waits is never handled. At most one per backoff.
                    if let Some(coordinator) = self.context.coordinator.upgrade() {
                        let refused = matches!(reason, Failure::Refused(_));
                        let (device, reason) = (self.id.clone(), reason.to_string());
                        let news = PeerNews::Down { reason, refused };
                        coordinator.do_send(FromPeer { device, news });
                    }
                }
                // The supervisor starts us again, with nothing left of this link.
                ctx.stop();
            }
            Output::Ignored { reason } => debug!(reason, "ignored"),
        }
    }

    /// Runs a future on the data plane's runtime, where sockets belong.
    pub(super) fn on_data_plane<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LinkError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, LinkError>> + 'static {
        let task = self.context.data_plane.spawn(work);
        async move { task.await.unwrap_or(Err(LinkError::Closed)) }
    }

    pub(super) fn link_of(&self, generation: Generation) -> Option<Arc<Link>> {
        let live = self
            .link
            .as_ref()
            .filter(|live| live.generation == generation)?;
        Some(Arc::clone(&live.link))
    }

    /// A connection and its description are made: sign it and hand it to the negotiation.
    pub(super) fn made(
        &mut self,
        generation: Generation,
        role: Role,
        made: Result<(Link, String, mpsc::Receiver<LinkEvent>), LinkError>,
        ctx: &mut Context<Self>,
    ) {
        if generation != self.negotiation.generation() {
            return; // Overtaken; dropping the link closes it.
        }
        let signed = made
            .map_err(|e| e.to_string())
            .and_then(|(link, sdp, events)| {
                let facts = SdpFacts::read(&sdp).map_err(|e| e.to_string())?;
                let sdp = self.sign(role, &sdp).map_err(|e| e.to_string())?;
                Ok((link, sdp, facts, events))
            });
        let (link, sdp, facts, events) = match signed {
            Ok(signed) => signed,
            Err(reason) => {
                warn!(%reason, "no connection could be made");
                return self.step(Input::ConnectionLost { generation, reason }, ctx);
            }
        };
        let candidates = attributes(&sdp)
            .filter(|(name, _)| *name == "candidate")
            .map(|(_, value)| format!("candidate:{value}"))
            .collect();
        let link = Arc::new(link);
        self.link = Some(LiveLink {
            link,
            generation,
            role,
            facts,
            candidates,
            late: Vec::new(),
            trickles: false,
        });
        ctx.add_stream(futures::StreamExt::map(stream_of(events), move |event| {
            OnLink(generation, event)
        }));
        let input = match role {
            Role::Offerer => Input::LocalOffer { generation, sdp },
            Role::Answerer => Input::LocalAnswer { generation, sdp },
        };
        self.step(input, ctx);
    }

    /// Writes a description to the peer and tells the negotiation how that went.
    pub(super) fn write(
        &mut self,
        generation: Generation,
        kind: SignalKind,
        data: String,
        route: Option<Route>,
        ctx: &mut Context<Self>,
    ) {
        let signal = Signal {
            kind,
            peer_id: self.context.identity.device_id(),
            data,
        };
        let route = route.or_else(|| self.route_without_address());
        if let Some(route) = route.filter(|route| self.write_by(route, &signal)) {
            self.route = Some(route);
            if kind == SignalKind::Answer {
                self.trickle(generation);
            }
            return self.step(Input::Delivered { generation }, ctx);
        }
        if self.addresses.is_empty() {
            let reason = "no address is known for it".to_owned();
            return self.step(Input::Undeliverable { generation, reason }, ctx);
        }
        let dial = self.context.signaling.send(Dial {
            addresses: self.addresses.clone(),
        });
        // Whoever knows us under an earlier key would take us for a stranger.
        let change = self.context.change();
        let by_mail = signal.clone();
        let delivering = async move {
            let route = dial
                .await
                .map_err(|error| format!("signaling is not running: {error}"))??;
            if let Some(change) = change {
                let shown = route.deliver(&change).await;
                shown.map_err(|error| error.to_string())?;
            }
            route
                .deliver(&signal)
                .await
                .map_err(|error| error.to_string())?;
            Ok(route)
        };
        let then = delivering
            .into_actor(self)
            .map(move |delivered, peer, ctx| {
                let input = match delivered {
                    Ok(route) => {
                        peer.route = Some(Route::Tcp(route));
                        if kind == SignalKind::Answer {
                            peer.trickle(generation);
                        }
                        Input::Delivered { generation }
                    }
                    Err(_) if peer.met && peer.write_by(&Route::Mail, &by_mail) => {
                        peer.route = Some(Route::Mail);
                        Input::Delivered { generation }
                    }
                    Err(reason) => Input::Undeliverable { generation, reason },
                };
                peer.step(input, ctx);
            });
        ctx.spawn(then);
    }

    /// Sends our candidates one by one, as the first drafts of the protocol ask for: the
    /// initiator when the answer is there, the responder when the first candidate has come.
    /// They stand in the description as well, which is enough for whoever has been introduced.
    pub(super) fn send_candidates(&mut self) {
        let peer_id = self.context.identity.device_id();
        if let (Some(live), Some(Route::Tcp(route))) = (self.link.as_mut(), &self.route) {
            for data in std::mem::take(&mut live.candidates) {
                let signal = Signal {
                    kind: SignalKind::Ice,
                    peer_id: peer_id.clone(),
                    data,
                };
                if route.try_send(&signal).is_err() {
                    return;
                }
            }
        }
    }

    /// From now on the other side can use each candidate of ours as it is found.
    fn trickle(&mut self, generation: Generation) {
        let Some(live) = self
            .link
            .as_mut()
            .filter(|live| live.generation == generation)
        else {
            return;
        };
        live.trickles = true;
        for line in std::mem::take(&mut live.late) {
            self.send_candidate(line);
        }
    }

    /// A STUN or TURN server has answered after the description was made.
    pub(super) fn found_candidate(&mut self, generation: Generation, line: String) {
        let Some(live) = self
            .link
            .as_mut()
            .filter(|live| live.generation == generation)
        else {
            return;
        };
        match live.trickles {
            true => self.send_candidate(line),
            false if live.late.len() < MAX_CANDIDATES => live.late.push(line),
            false => {}
        }
    }

    fn send_candidate(&self, data: String) {
        let signal = Signal {
            kind: SignalKind::Ice,
            peer_id: self.context.identity.device_id(),
            data,
        };
        if let Some(route) = &self.route
            && !self.write_by(route, &signal)
        {
            debug!("a candidate of ours could not be sent");
        }
    }

    pub(super) fn open(
        &mut self,
        generation: Generation,
        channel: Channel,
        ctx: &mut Context<Self>,
    ) {
        let Some(live) = self
            .link
            .as_ref()
            .filter(|live| live.generation == generation)
        else {
            return;
        };
        if channel.label() != NATIVE_LABEL {
            debug!(label = %printable(channel.label()), "a channel in a dialect that is not served");
            return;
        }
        if self.commands.is_some() {
            debug!("a second channel on one link is left alone");
            return;
        }
        let nonce = match random() {
            Ok(nonce) => nonce,
            Err(error) => return self.lost(generation, error.to_string(), ctx),
        };
        let handshake = self.standing.tied.is_some().then(|| {
            let local = Local {
                role: live.role,
                identity: &self.context.identity,
                name: &self.context.name,
                device: &self.context.device_type,
                cert: live.facts.fingerprint,
                nonce,
                run: Some(self.context.run),
            };
            Handshake::new(&local, self.id.clone())
        });
        let settled = self.context.live();
        let options = SessionOptions {
            peer: self.id.clone(),
            handshake,
            offerer: live.role == Role::Offerer,
            window: settled.window,
            stall: settled.stall,
            checkpoint: settled.checkpoint,
            receptions: self.context.receptions.clone(),
            upload: self.context.upload.clone(),
            download: self.context.download.clone(),
        };
        let (commands, queue) = mpsc::channel(64);
        let (events, news) = mpsc::channel(64);
        self.commands = Some(commands);
        ctx.add_stream(futures::StreamExt::map(stream_of(news), move |event| {
            OnSession(generation, event)
        }));
        let session = self
            .context
            .data_plane
            .spawn(async move { dataplane::run(channel, options, queue, events).await });
        // How it ends is told by its last event, unless it fails altogether.
        let then = session.into_actor(self).map(move |ended, peer, ctx| {
            if let Err(panicked) = ended {
                peer.lost(generation, format!("the session failed: {panicked}"), ctx);
            }
        });
        ctx.spawn(then);
        self.step(Input::ChannelOpen { generation }, ctx);
    }

    /// A session has ended. A device that has proven itself, and broken the protocol then, is
    /// named and kept out for a while.
    pub(super) fn over(
        &mut self,
        generation: Generation,
        outcome: Result<(), SessionError>,
        ctx: &mut Context<Self>,
    ) {
        let reason = match outcome {
            Ok(()) => "the other side closed the connection".to_owned(),
            Err(error) => {
                if error.is_misconduct() && self.proven == Some(generation) {
                    warn!(device = %self.id, %error, "dropped");
                    self.faults.add(Instant::now());
                }
                error.to_string()
            }
        };
        self.lost(generation, reason, ctx);
    }

    pub(super) fn lost(&mut self, generation: Generation, reason: String, ctx: &mut Context<Self>) {
        self.step(Input::ConnectionLost { generation, reason }, ctx);
    }
}
