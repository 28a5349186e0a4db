//! Discovery's actor: owns the mDNS daemon and tells the coordinator who is seen.

use std::time::Duration;

use actix::WeakAddr;
use actix::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::net::discovery::{Discovery as Daemon, DiscoveryEvent, DiscoveryOptions};

use super::coordinator::Coordinator;

/// Backoff before browsing again, doubled up to the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Advertises this device and watches for others.
pub struct Discovery {
    options: DiscoveryOptions,
    daemon: Option<Daemon>,
    data_plane: Handle,
    coordinator: WeakAddr<Coordinator>,
    backoff: Duration,
}

impl Discovery {
    /// Not started yet.
    pub fn new(
        options: DiscoveryOptions,
        data_plane: Handle,
        coordinator: WeakAddr<Coordinator>,
    ) -> Self {
        Self {
            options,
            daemon: None,
            data_plane,
            coordinator,
            backoff: BACKOFF.0,
        }
    }

    fn browse(&mut self, ctx: &mut Context<Self>) {
        // The daemon's tasks live on the data plane's runtime.
        let started = {
            let _inside = self.data_plane.enter();
            Daemon::start(self.options.clone())
        };
        match started {
            Ok((daemon, events)) => {
                self.daemon = Some(daemon);
                ctx.add_stream(stream_of(events));
            }
            Err(error) => {
                warn!(%error, "no discovery now; static peers still work");
                self.again(ctx);
            }
        }
    }

    fn again(&mut self, ctx: &mut Context<Self>) {
        self.daemon = None;
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF.1);
        ctx.run_later(wait, |actor, ctx| actor.browse(ctx));
    }
}

impl Actor for Discovery {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.browse(ctx);
    }
}

impl Supervised for Discovery {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.daemon = None;
    }
}

impl StreamHandler<DiscoveryEvent> for Discovery {
    fn handle(&mut self, event: DiscoveryEvent, _: &mut Context<Self>) {
        if let DiscoveryEvent::Stopped(reason) = &event {
            info!(%reason, "browsing stopped");
            return;
        }
        self.backoff = BACKOFF.0;
        // Strangers can advertise as fast as they like: what does not fit is dropped, and comes
        // again with the next advert.
        if let Some(coordinator) = self.coordinator.upgrade() {
            let _ = coordinator.try_send(Seen(event));
        }
    }

    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.again(ctx);
    }
}

/// Says goodbye to the network and waits until that is sent.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Goodbye;

impl Handler<Goodbye> for Discovery {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Goodbye, ctx: &mut Context<Self>) -> Self::Result {
        let daemon = self.daemon.take();
        let stopping = self.data_plane.spawn(async move {
            if let Some(daemon) = daemon {
                daemon.stop().await;
            }
        });
        // Not `stop`: the node would take that for a failure.
        ctx.set_mailbox_capacity(1);
        Box::pin(async move {
            let _ = stopping.await;
        })
    }
}

/// Something seen on the network, for the coordinator.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Seen(pub DiscoveryEvent);

/// Whether devices are looked for.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Browses;

impl Handler<Browses> for Discovery {
    type Result = bool;

    fn handle(&mut self, _: Browses, _: &mut Context<Self>) -> bool {
        self.daemon.is_some()
    }
}

/// A channel as a stream for an actor.
pub(super) fn stream_of<T: 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl futures::Stream<Item = T> + 'static {
    futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    })
}
