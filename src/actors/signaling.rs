//! Signaling's actor: owns the TCP listener, dials for peers, and hands what comes in to the
//! coordinator, which knows whose it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::WeakAddr;
use actix::prelude::*;
use tokio::runtime::Handle;
use tracing::{error, info};

use crate::net::signaling::{ConnectionHandle, Limits, SignalEvent, SignalingServer};
use crate::protocol::id::DeviceId;

use super::coordinator::Coordinator;
use super::discovery::stream_of;

/// Wait before the listener is bound again.
const REBIND: Duration = Duration::from_secs(2);

/// How long one address may take to answer.
const DIAL_LIMIT: Duration = Duration::from_secs(3);

/// Owns the listener.
pub struct Signaling {
    server: Arc<SignalingServer>,
    ours: DeviceId,
    limits: Limits,
    bound: SocketAddr,
    data_plane: Handle,
    coordinator: Option<WeakAddr<Coordinator>>,
    events: Option<tokio::sync::mpsc::Receiver<SignalEvent>>,
    listening: bool,
}

impl Signaling {
    /// Takes over a listener that has been bound, so that a port in use is an error at start.
    pub fn new(
        server: SignalingServer,
        events: tokio::sync::mpsc::Receiver<SignalEvent>,
        ours: DeviceId,
        limits: Limits,
        data_plane: Handle,
    ) -> Self {
        let (bound, server) = (server.local_addr(), Arc::new(server));
        Self {
            server,
            ours,
            limits,
            bound,
            data_plane,
            coordinator: None,
            events: Some(events),
            listening: true,
        }
    }

    fn rebind(&mut self, ctx: &mut Context<Self>) {
        let (bound, ours, limits) = (self.bound, self.ours.clone(), self.limits.clone());
        let binding = self
            .data_plane
            .spawn(async move { SignalingServer::bind(bound, ours, limits).await });
        let then = binding
            .into_actor(self)
            .map(|outcome, actor, ctx| match outcome {
                Ok(Ok((server, events))) => {
                    info!(address = %actor.bound, "listening again");
                    actor.server = Arc::new(server);
                    actor.listening = true;
                    ctx.add_stream(stream_of(events));
                }
                failed => {
                    error!(?failed, "the signaling port cannot be bound; trying again");
                    ctx.run_later(REBIND, |actor, ctx| actor.rebind(ctx));
                }
            });
        ctx.spawn(then);
    }
}

impl Actor for Signaling {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.events.take() {
            Some(events) => {
                ctx.add_stream(stream_of(events));
            }
            None => self.rebind(ctx),
        }
    }
}

impl Supervised for Signaling {}

/// Tells the actor whom to hand messages to.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ReportTo(pub WeakAddr<Coordinator>);

impl Handler<ReportTo> for Signaling {
    type Result = ();

    fn handle(&mut self, to: ReportTo, _: &mut Context<Self>) {
        self.coordinator = Some(to.0);
    }
}

/// A signaling message that came in.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Heard(pub SignalEvent);

impl StreamHandler<SignalEvent> for Signaling {
    fn handle(&mut self, event: SignalEvent, _: &mut Context<Self>) {
        // Anybody can send these: a coordinator with a full mailbox misses some, and whoever
        // meant it tries again.
        if let Some(coordinator) = self.coordinator.as_ref().and_then(WeakAddr::upgrade) {
            let _ = coordinator.try_send(Heard(event));
        }
    }

    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.listening = false;
        ctx.run_later(REBIND, |actor, ctx| actor.rebind(ctx));
    }
}

/// Opens a signaling connection to the first of these addresses that answers.
#[derive(Message)]
#[rtype(result = "Result<ConnectionHandle, String>")]
pub struct Dial {
    /// In order of preference.
    pub addresses: Vec<SocketAddr>,
}

impl Handler<Dial> for Signaling {
    type Result = ResponseFuture<Result<ConnectionHandle, String>>;

    fn handle(&mut self, dial: Dial, _: &mut Context<Self>) -> Self::Result {
        let server = Arc::clone(&self.server);
        let dialing = self.data_plane.spawn(async move {
            let mut reason = "no address".to_owned();
            for address in dial.addresses {
                match server.connect(address, DIAL_LIMIT).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => reason = format!("{address}: {error}"),
                }
            }
            Err(reason)
        });
        Box::pin(async move { dialing.await.unwrap_or_else(|e| Err(e.to_string())) })
    }
}

/// Whether the port is listened on.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Listens;

impl Handler<Listens> for Signaling {
    type Result = bool;

    fn handle(&mut self, _: Listens, _: &mut Context<Self>) -> bool {
        self.listening
    }
}
