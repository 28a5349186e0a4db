//! Bundles that others offer to us.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use crate::content;
use crate::dataplane::{OfferReply, SessionCommand};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::id::{DeviceId, Root, TransferId};
use crate::protocol::identity::{b64, unb64};
use crate::protocol::message::{Code, StartTransfer};
use crate::protocol::names::printable;
use crate::protocol::roles::Roles;
use crate::protocol::transfer::{Direction, Side, TransferEvent, TransferState};
use crate::store::TransferRecord;

use super::super::api::Event;
use super::super::peer::{Command, unix_now};
use super::super::store::{Job, keep};
use super::{Coordinator, Transfer};

/// How often, and how many times, it is tried to remove a partial bundle.
const DISCARD_POLL: Duration = Duration::from_millis(500);
const DISCARD_TRIES: u32 = 600;

impl Coordinator {
    /// Decides about an offer. Whoever is asked here has a session, so it is authorized.
    pub(super) fn on_offer(
        &mut self,
        device: &DeviceId,
        offer: StartTransfer,
        reply: oneshot::Sender<OfferReply>,
        ctx: &mut Context<Self>,
    ) {
        match self.consider(device, &offer) {
            Err((code, reason)) => {
                debug!(%device, ?code, %reason, "offer refused");
                let _ = reply.send(match code {
                    Code::Paused => OfferReply::Pause { code, reason },
                    code => OfferReply::Refuse { code, reason },
                });
            }
            Ok(Known::Complete { record, root }) => {
                // Reading the files' sizes and times is disk work: not on this thread.
                let digest = record.stat_digest.as_deref().and_then(unb64);
                let stat = digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok());
                let (path, heads) = (record.destination.clone(), self.heads.clone());
                let look = self.data_plane.spawn_blocking(move || {
                    path.zip(stat).is_some_and(|(path, stat)| {
                        heads.is_unchanged(&record.bundle, &path, &stat)
                    })
                });
                let device = device.clone();
                ctx.spawn(look.into_actor(self).map(move |unchanged, coordinator, _| {
                    if matches!(unchanged, Ok(true)) {
                        let _ = reply.send(OfferReply::Complete { root });
                    } else {
                        coordinator.accept(&device, &offer, None, reply);
                    }
                }));
            }
            Ok(Known::Partial(earlier)) => {
                // What was durable is looked up on the store's thread.
                let id = earlier.id;
                let chunks = offer.chunks;
                let looked_up = self.store.send(Job::new(move |store| {
                    let stored = store.progress(&id).ok().flatten();
                    stored.and_then(|bytes| ChunkSet::from_stored(&bytes, chunks).ok())
                }));
                let device = device.clone();
                ctx.spawn(
                    looked_up
                        .into_actor(self)
                        .map(move |found, coordinator, _| {
                            if id != offer.id {
                                coordinator.transfers.remove(&id);
                                keep(&coordinator.store, "a transfer's new id", move |store| {
                                    store.remove_transfer(&id).map(|_| ())
                                });
                            }
                            coordinator.accept(&device, &offer, found.ok().flatten(), reply);
                        }),
                );
            }
            Ok(Known::New) => self.accept(device, &offer, None, reply),
        }
    }

    fn consider(&self, device: &DeviceId, offer: &StartTransfer) -> Result<Known, (Code, String)> {
        let receive = &self.settings.receive;
        if !self.is_let_in(device) {
            return Err((Code::Unauthorized, "this device is not authorized".into()));
        }
        if !self.roles_of(device).allow(Roles::SEND) {
            let reason = "this device may not send here (its roles)".to_owned();
            return Err((Code::Unauthorized, reason));
        }
        if !receive.enabled {
            return Err((
                Code::Declined,
                "this device does not receive (receive.enabled)".into(),
            ));
        }
        if offer.size > receive.max_bundle {
            let most = receive.max_bundle;
            let reason = format!(
                "the bundle has {} bytes, at most {most} are taken",
                offer.size
            );
            return Err((Code::Quota, reason));
        }
        if let Some(known) = self.transfers.get(&offer.id) {
            if known.record.peer != *device || known.record.direction != Direction::Incoming {
                return Err((Code::BadRequest, "that transfer's id is taken".into()));
            }
            if let TransferState::Cancelled { reason, .. } = &known.record.state {
                return Err((Code::Cancelled, format!("it was cancelled: {reason}")));
            }
        }
        let earlier = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .find(|record| {
                record.direction == Direction::Incoming
                    && record.origin == offer.origin
                    && record.bundle == offer.bundle
                    && !matches!(
                        record.state,
                        TransferState::Cancelled { .. } | TransferState::Failed { .. }
                    )
            });
        match earlier {
            None => Ok(Known::New),
            Some(record) => match (&record.state, record.root) {
                (TransferState::Complete, Some(root)) if offer.root.is_none_or(|r| r == root) => {
                    Ok(Known::Complete {
                        record: Box::new(record.clone()),
                        root,
                    })
                }
                (TransferState::Complete, _) => Ok(Known::New),
                (
                    TransferState::Paused {
                        by: Side::Ours,
                        code: Code::Paused,
                        reason,
                    },
                    _,
                ) => Err((Code::Paused, reason.clone())),
                _ => Ok(Known::Partial(Box::new(record.clone()))),
            },
        }
    }

    fn accept(
        &mut self,
        device: &DeviceId,
        offer: &StartTransfer,
        checkpoint: Option<ChunkSet>,
        reply: oneshot::Sender<OfferReply>,
    ) {
        let destination = self.settings.receive.destination.clone();
        // A complete transfer that is offered again under the same id begins anew.
        let begins = self
            .transfers
            .get(&offer.id)
            .is_none_or(|t| t.record.state.is_final());
        if begins {
            let record = TransferRecord {
                id: offer.id,
                direction: Direction::Incoming,
                broadcast: None,
                peer: device.clone(),
                origin: offer.origin.clone(),
                bundle: offer.bundle,
                name: printable(&offer.name).chars().take(255).collect(),
                size: offer.size,
                state: TransferState::Pending,
                updated: unix_now(),
                destination: Some(destination.clone()),
                root: None,
                stat_digest: None,
                bytes_done: 0,
            };
            self.transfers.insert(offer.id, Transfer::of(record));
        }
        info!(transfer = %offer.id, %device, name = %printable(&offer.name), size = offer.size, "offered");
        let resumed = self.advance(offer.id, TransferEvent::Offer)
            || (self.advance(offer.id, TransferEvent::Resume { by: Side::Ours }));
        let Some(transfer) = self.transfers.get(&offer.id).filter(|_| resumed) else {
            let reason = "the transfer cannot start now".to_owned();
            let _ = reply.send(OfferReply::Refuse {
                code: Code::Busy,
                reason,
            });
            return;
        };
        let progress = Arc::clone(&transfer.progress);
        let reserve = self.settings.receive.reserve;
        let heads = self.heads.clone();
        let accept = OfferReply::Accept {
            destination,
            reserve,
            checkpoint,
            heads,
            progress,
        };
        let _ = reply.send(accept);
    }

    pub(super) fn on_received(
        &mut self,
        id: TransferId,
        root: Root,
        path: PathBuf,
        stat: [u8; 32],
        ctx: &mut Context<Self>,
    ) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        transfer.record.root = Some(root);
        transfer.record.destination = Some(path.clone());
        transfer.record.stat_digest = Some(b64(&stat));
        transfer.progress.restart(transfer.record.size);
        let (device_id, bytes) = (transfer.record.peer.clone(), transfer.record.size);
        info!(transfer = %id, path = %path.display(), "received");
        self.advance(id, TransferEvent::Complete);
        let root = root.to_string();
        self.emit(&Event::Received {
            transfer: id,
            device_id,
            path,
            bytes,
            root,
        });
        // Only when the record is safe may the last trace in the destination go.
        let recorded = self.store.send(Job::new(|store| store.flush()));
        ctx.spawn(
            recorded
                .into_actor(self)
                .map(move |recorded, coordinator, _| {
                    if matches!(recorded, Ok(Ok(()))) {
                        coordinator.discard_partial(id);
                    }
                }),
        );
    }

    /// Transfers that rest because the disk was full go on by themselves when there is room.
    pub(super) fn retry_full_disks(&mut self) {
        let retry: Duration = self.settings.transfer.disk_retry;
        let now = unix_now();
        let due: Vec<_> = self
            .transfers
            .values()
            .filter(|transfer| {
                let record = &transfer.record;
                let full = matches!(
                    record.state,
                    TransferState::Paused {
                        by: Side::Ours,
                        code: Code::DiskFull,
                        ..
                    }
                );
                full && record.direction == Direction::Incoming
                    && now.saturating_sub(record.updated) >= retry.as_secs()
            })
            .map(|transfer| {
                (
                    transfer.record.id,
                    transfer.record.peer.clone(),
                    transfer.record.size,
                )
            })
            .collect();
        for (id, peer, size) in due {
            let missing = size.saturating_sub(self.transfers[&id].progress.done());
            let destination = &self.settings.receive.destination;
            let reserve = self.settings.receive.reserve;
            if content::check_space(destination, missing, reserve).is_ok() {
                self.command(&peer, Command(SessionCommand::Resume(id)));
            }
            if let Some(transfer) = self.transfers.get_mut(&id) {
                transfer.record.updated = now;
            }
        }
    }

    /// What a cancelled incoming transfer has left on the disk goes away.
    pub(super) fn discard_partial(&self, id: TransferId) {
        if !self.is_incoming(id) {
            return;
        }
        let record = &self.transfers[&id].record;
        let (origin, bundle) = (record.origin.clone(), record.bundle);
        let destination = self.settings.receive.destination.clone();
        self.data_plane.spawn(async move {
            let mut every = tokio::time::interval(DISCARD_POLL);
            for _ in 0..DISCARD_TRIES {
                every.tick().await;
                let (destination, origin) = (destination.clone(), origin.clone());
                let removing = move || content::discard_partial(&destination, &origin, &bundle);
                match tokio::task::spawn_blocking(removing).await {
                    // Its worker is still making the last bytes durable.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    Ok(Err(error)) => return warn!(%error, "a partial bundle could not be removed"),
                    _ => return,
                }
            }
            warn!("a partial bundle that is no longer wanted is still in use");
        });
    }
}

/// What an offer means to us.
enum Known {
    New,
    Partial(Box<TransferRecord>),
    Complete {
        record: Box<TransferRecord>,
        root: Root,
    },
}
