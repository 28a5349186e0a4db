//! What links tell: that they are there or gone, what was offered on them, and how transfers end.

use std::net::IpAddr;

use actix::prelude::*;

use crate::dataplane::{SessionEvent, Standing, TransferEnd};
use crate::net::link::Path;
use crate::protocol::id::{DeviceId, TransferId};
use crate::protocol::message::Code;
use crate::protocol::transfer::{Side, TransferEvent};

use super::super::store::keep;
use super::{Coordinator, SessionInfo, leftovers};

/// What a peer actor has to say.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromPeer {
    /// Which device.
    pub device: DeviceId,
    /// What happened.
    pub news: PeerNews,
}

/// What happens to a peer.
pub enum PeerNews {
    /// It has signaled from this address, and a link has been made.
    Reached(IpAddr),
    /// Its link is open, and its packets travel this way.
    Travels(Path),
    /// What stood, or was coming to be, was closed because we asked for it.
    Closed,
    /// Its session says something.
    Session(SessionEvent),
    /// A try to connect failed, another follows.
    Retrying {
        /// Why.
        reason: String,
    },
    /// Its offer was refused.
    Refused {
        /// Why.
        reason: String,
    },
    /// There is no link, and for now none is tried.
    Down {
        /// Why.
        reason: String,
        /// The other side said no.
        refused: bool,
    },
}

impl Handler<FromPeer> for Coordinator {
    type Result = ();

    fn handle(&mut self, FromPeer { device, news }: FromPeer, ctx: &mut Context<Self>) {
        match news {
            PeerNews::Session(event) => self.on_session(&device, event, ctx),
            PeerNews::Reached(address) => {
                if let Some(slot) = self.peers.get_mut(&device) {
                    slot.from = Some(address);
                }
            }
            PeerNews::Travels(path) => {
                if let Some(slot) = self.peers.get_mut(&device) {
                    slot.path = Some(path);
                }
            }
            // It may have come up after it was asked to go, and before it went.
            PeerNews::Closed => {
                let slot = self.peers.get(&device);
                if slot.is_some_and(|slot| slot.session.is_some()) {
                    self.on_down(&device, "the link was closed on this side".to_owned());
                    self.drive(ctx);
                }
            }
            PeerNews::Retrying { reason } | PeerNews::Refused { reason } => {
                if let Some(slot) = self.peers.get_mut(&device) {
                    slot.error = Some(reason);
                }
            }
            PeerNews::Down { reason, refused } => {
                if let Some(slot) = self.peers.get_mut(&device) {
                    slot.refused = refused;
                }
                self.on_down(&device, reason);
            }
        }
    }
}

impl Coordinator {
    fn on_session(&mut self, device: &DeviceId, event: SessionEvent, ctx: &mut Context<Self>) {
        match event {
            SessionEvent::Up {
                name,
                device_type,
                proven,
                run,
                reply,
            } => {
                let session = SessionInfo {
                    name,
                    device_type,
                    verified: proven.is_some(),
                    standing: Standing::Member,
                };
                self.on_up(device, session, proven, reply);
                // Rules may name it, and it may be served as a neighbour.
                self.keep_limits();
                self.note_run(device, run);
                self.drive(ctx);
            }
            SessionEvent::Paired { message, handled } => {
                self.on_paired(device, message, handled, ctx)
            }
            SessionEvent::Introduce(introduction) => self.on_introduced(device, &introduction),
            SessionEvent::EndIntroduction {
                bundle,
                peer,
                reason,
            } => self.on_introduction_ended(device, &peer, &bundle, &reason),
            SessionEvent::Signal {
                with,
                passed: true,
                kind,
                data,
            } => self.hear_through(device, with, kind, data),
            SessionEvent::Signal {
                with, kind, data, ..
            } => self.pass_between(device, &with, kind, data),
            SessionEvent::Offered { offer, reply } => self.on_offer(device, *offer, reply, ctx),
            SessionEvent::Active { id } => {
                if self.belongs(id, device) {
                    self.advance(id, TransferEvent::Accept);
                    self.swarm.plan_soon();
                }
            }
            SessionEvent::Checkpoint { id, have } => {
                if self.belongs(id, device) {
                    let stored = have.to_stored();
                    keep(&self.store, "progress", move |store| {
                        store.put_progress(&id, &stored)
                    });
                }
            }
            SessionEvent::Received {
                id,
                root,
                path,
                stat,
                recorded,
            } => {
                if self.belongs(id, device) {
                    self.on_received(id, root, path, stat, Some(recorded), ctx);
                }
                self.drive(ctx);
            }
            SessionEvent::Ended { id, end } => {
                if let Some(slot) = self.peers.get_mut(device)
                    && slot.sending == Some(id)
                {
                    slot.sending = None;
                }
                if self.belongs(id, device) {
                    self.on_end(id, end);
                    self.swarm.plan_soon();
                }
                self.drive(ctx);
                self.finish_broadcasts();
            }
            // The peer's actor has seen to it.
            SessionEvent::Over(_) => {}
            SessionEvent::Wanted { id } => {
                if self.belongs(id, device)
                    && self.advance(id, TransferEvent::Resume { by: Side::Theirs })
                {
                    self.advance(id, TransferEvent::Disconnect);
                    self.drive(ctx);
                }
            }
        }
    }

    /// Ids come from the other side: only its own transfers follow from what it says.
    fn belongs(&self, id: TransferId, device: &DeviceId) -> bool {
        self.transfers
            .get(&id)
            .is_some_and(|transfer| transfer.record.peer == *device)
    }

    fn on_end(&mut self, id: TransferId, end: TransferEnd) {
        self.end_reception(id);
        let side = |by_us| if by_us { Side::Ours } else { Side::Theirs };
        let happened = match end {
            TransferEnd::Complete { root, already } => {
                if let Some(transfer) = self.transfers.get_mut(&id) {
                    transfer.record.root = Some(root);
                    transfer.already = already;
                }
                TransferEvent::Complete
            }
            // Recorded when the person said so, who may have resumed it since.
            TransferEnd::Paused {
                by_us: true,
                code: Code::Paused,
                ..
            } => return,
            TransferEnd::Paused {
                by_us,
                code,
                reason,
            } => TransferEvent::Pause {
                by: side(by_us),
                code,
                reason,
            },
            TransferEnd::Cancelled {
                by_us,
                code,
                reason,
            } => {
                match by_us {
                    true => self.discard_partial(id),
                    false => self.leave_to_next(id),
                }
                TransferEvent::Cancel {
                    by: side(by_us),
                    code,
                    reason,
                }
            }
            TransferEnd::Failed { code, reason } => {
                if leftovers::is_policy(code) {
                    self.discard_partial(id);
                }
                TransferEvent::Fail { code, reason }
            }
        };
        self.advance(id, happened);
    }
}
