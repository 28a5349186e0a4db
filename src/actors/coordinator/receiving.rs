//! Bundles that others offer to us.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;
use tracing::info;

use crate::content::Before;
use crate::dataplane::OfferReply;
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::destination::{Filling, fill};
use crate::protocol::id::{DeviceId, Root, TransferId};
use crate::protocol::identity::{b64, unb64};
use crate::protocol::message::{Code, StartTransfer};
use crate::protocol::names::printable;
use crate::protocol::policy::{self, Mode, Refusal, Standing, Taken, Terms, Usage, Verdict, Whom};
use crate::protocol::series::Series;
use crate::protocol::transfer::{Direction, Side, TransferEvent, TransferState};
use crate::store::{Account, After, GrantedBy, Question, TransferRecord};

use super::super::api::Event;
use super::super::peer::unix_now;
use super::super::store::{Job, keep};
use super::sending::new_id;
use super::{Coordinator, Transfer};

/// Refused offers of one device that are put on record within a minute. Further ones are refused
/// all the same, but each record costs a write to the disk.
const REFUSALS_RECORDED: usize = 16;

/// What an offer means to us.
enum Known {
    New,
    /// An unfinished transfer goes on.
    Begun(TransferId),
    /// A person here has paused it.
    Resting {
        code: Code,
        reason: String,
    },
    Complete {
        record: Box<TransferRecord>,
        root: Root,
    },
    /// Not a case for the policy; nothing is recorded.
    Barred(Refusal),
}

/// What of a bundle the policy asks for.
pub(super) struct About<'a> {
    name: &'a str,
    series: Option<&'a Series>,
    hand_in: bool,
}

impl<'a> About<'a> {
    pub(super) fn offer(offer: &'a StartTransfer) -> Self {
        Self {
            name: &offer.name,
            series: offer.series.as_ref(),
            hand_in: offer.hand_in,
        }
    }

    pub(super) fn record(record: &'a TransferRecord) -> Self {
        Self {
            name: &record.name,
            series: record.series.as_ref(),
            hand_in: record.hand_in,
        }
    }

    /// What the sender calls the broadcast; the bundle, where it has no broadcast.
    pub(super) fn broadcast(&self) -> &'a str {
        self.series.map_or(self.name, |series| series.name.as_str())
    }
}

impl Coordinator {
    /// Decides about an offer. Whoever is asked here has a session, so it is authorized.
    pub(super) fn on_offer(
        &mut self,
        device: &DeviceId,
        offer: StartTransfer,
        reply: oneshot::Sender<OfferReply>,
        ctx: &mut Context<Self>,
    ) {
        match self.look_up(device, &offer) {
            Known::New => self.decide(device, offer, None, reply, ctx),
            Known::Begun(earlier) => self.decide(device, offer, Some(earlier), reply, ctx),
            Known::Resting { code, reason } => {
                let _ = reply.send(OfferReply::Pause { code, reason });
            }
            Known::Barred(Refusal { code, reason }) => {
                info!(%device, ?code, %reason, "offer refused");
                let _ = reply.send(OfferReply::Refuse { code, reason });
            }
            Known::Complete { record, root } => {
                // Reading the files' sizes and times is disk work: not on this thread.
                let digest = record.stat_digest.as_deref().and_then(unb64);
                let stat = digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok());
                let (path, heads) = (record.destination.clone(), self.heads.clone());
                let here = Event::Here {
                    transfer: record.id,
                    device_id: device.clone(),
                    name: record.name.clone(),
                    path: path.clone().unwrap_or_default(),
                    bytes: record.size,
                };
                let look = self.data_plane.spawn_blocking(move || {
                    path.zip(stat).is_some_and(|(path, stat)| {
                        heads.is_unchanged(&record.bundle, &path, &stat)
                    })
                });
                let device = device.clone();
                ctx.spawn(
                    look.into_actor(self)
                        .map(move |unchanged, coordinator, ctx| {
                            if matches!(unchanged, Ok(true)) {
                                coordinator.emit(&here);
                                coordinator.renumber(&offer, root);
                                let _ = reply.send(OfferReply::Complete { root });
                            } else {
                                coordinator.decide(&device, offer, None, reply, ctx);
                            }
                        }),
                );
            }
        }
    }

    fn look_up(&self, device: &DeviceId, offer: &StartTransfer) -> Known {
        let barred = |code, reason: &str| {
            let reason = reason.to_owned();
            Known::Barred(Refusal { code, reason })
        };
        if !self.is_let_in(device) {
            return barred(Code::Unauthorized, "this device is not authorized");
        }
        if self.only_fetches && !self.trust.is_vouched(device, unix_now()) {
            return barred(
                Code::Busy,
                "this device only waits for something that it has asked for; a service on it would \
                 take this",
            );
        }
        if offer.hand_in {
            if !self.is_member(device) {
                return barred(
                    Code::Unauthorized,
                    "this device is let in for one request alone",
                );
            }
            if !self.settings.hand_in.enabled {
                return barred(
                    Code::Declined,
                    "this device takes nothing back now (hand_in.enabled)",
                );
            }
        } else if !self.may_send(device) {
            return barred(
                Code::Unauthorized,
                "this device may not send here (its roles)",
            );
        }
        let same_id = self.transfers.get(&offer.id).map(|known| &known.record);
        if let Some(record) = same_id {
            if record.peer != *device || record.direction != Direction::Incoming {
                return barred(Code::BadRequest, "that transfer's id is taken");
            }
            if let TransferState::Cancelled { code, reason, .. } = &record.state {
                return barred(*code, &format!("it was cancelled: {reason}"));
            }
        }
        let same_bundle = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| {
                record.direction == Direction::Incoming
                    && record.origin == offer.origin
                    && record.bundle == offer.bundle
                    && !matches!(
                        record.state,
                        TransferState::Cancelled { .. } | TransferState::Failed { .. }
                    )
            })
            // Versions of the same sizes are one bundle with different roots.
            .max_by_key(|record| {
                let unfinished = record.state != TransferState::Complete;
                let same = record.root.is_some() && record.root == offer.root;
                (unfinished, same, record.updated, record.id)
            });
        for record in [same_id, same_bundle].into_iter().flatten() {
            if let TransferState::Paused {
                by: Side::Ours,
                code: Code::Paused,
                reason,
            } = &record.state
            {
                return Known::Resting {
                    code: Code::Paused,
                    reason: reason.clone(),
                };
            }
        }
        let terms = self.terms_for(device, &About::offer(offer));
        let takes = self.takes(offer.hand_in) && terms.mode != Mode::Refuse;
        // What was asked for is wanted in that folder.
        let is_elsewhere = |record: &TransferRecord| {
            let at = record.destination.as_deref();
            self.only_fetches && !at.is_some_and(|at| at.starts_with(&terms.destination))
        };
        match same_bundle {
            None => Known::New,
            Some(record) => match (&record.state, record.root) {
                (TransferState::Complete, Some(root))
                    if takes && !is_elsewhere(record) && offer.root.is_none_or(|r| r == root) =>
                {
                    Known::Complete {
                        record: Box::new(record.clone()),
                        root,
                    }
                }
                (TransferState::Complete, _) => Known::New,
                _ => Known::Begun(record.id),
            },
        }
    }

    /// What the policy says about a device. Names count that this side has given it, not what it
    /// calls itself: it could call itself anything.
    pub(super) fn terms_for(&self, device: &DeviceId, about: &About<'_>) -> Terms {
        let groups = self.groups_of(device);
        let broadcast = about.broadcast();
        let mut terms = match about.hand_in {
            true => self.settings.hand_in.terms.clone(),
            false => self.as_rules_name(device, broadcast, |whom| {
                self.settings.receive.policy.terms_for(whom)
            }),
        };
        // Names may be the same, or made to be: ids are not.
        let name = match self.name_of(device) {
            name if name == device.short() => name,
            name => format!("{name} ({})", device.short()),
        };
        terms.destination = fill(
            &terms.destination,
            &Filling {
                device: &name,
                group: groups.first().map(String::as_str),
                broadcast,
                date: &chrono::Local::now().format("%Y-%m-%d").to_string(),
            },
        );
        terms
    }

    fn takes(&self, hand_in: bool) -> bool {
        match hand_in {
            true => self.settings.hand_in.enabled,
            false => self.only_fetches || self.settings.receive.enabled,
        }
    }

    /// What follows from the words by which rules may name a device: its ids, the names that it
    /// has here, its groups; and from the broadcast that it is about, where it is about one.
    pub(super) fn as_rules_name<T>(
        &self,
        device: &DeviceId,
        broadcast: &str,
        then: impl FnOnce(&Whom<'_>) -> T,
    ) -> T {
        let decided = self
            .trust
            .authorization(device)
            .filter(|entry| !matches!(entry.by, GrantedBy::Invite | GrantedBy::Other))
            .map(|entry| entry.name.as_str());
        let settings = &self.settings;
        let members = settings.groups.iter().flat_map(|group| &group.members);
        let configured = settings.trust.authorized.iter().chain(members);
        let configured = configured
            .filter(|entry| self.trust.current(&entry.id) == device)
            .filter_map(|entry| entry.name.as_deref());
        // Rules may name an id that it had before.
        let earlier = self.trust.all_ids(device).map(DeviceId::as_str);
        let groups = self.groups_of(device);
        then(&Whom {
            id: device.as_str(),
            names: decided
                .into_iter()
                .chain(configured)
                .chain(earlier)
                .collect(),
            groups: groups.iter().map(String::as_str).collect(),
            broadcast,
        })
    }

    fn decide(
        &mut self,
        device: &DeviceId,
        offer: StartTransfer,
        earlier: Option<TransferId>,
        reply: oneshot::Sender<OfferReply>,
        ctx: &mut Context<Self>,
    ) {
        let mut terms = self.terms_for(device, &About::offer(&offer));
        let known = earlier.and_then(|id| self.transfers.get(&id));
        let known = known.map(|transfer| &transfer.record);
        // What has come lies where it was begun, whatever the policy says by now.
        if let Some(begun) = known.and_then(|record| record.destination.clone()) {
            terms.destination = begun;
        }
        let standing = match known {
            None => Standing::New,
            Some(record) if record.peer != *device => Standing::Begun,
            Some(record) => match record.question {
                None => Standing::Begun,
                Some(Question::Open { .. }) => Standing::Asked,
                Some(Question::Accepted) => Standing::Approved,
            },
        };
        let considered = policy::Offer {
            name: &offer.name,
            kind: offer.kind,
            size: offer.size,
            files: offer.files,
            standing,
        };
        let usage = self.usage(device, &terms, [Some(offer.id), earlier]);
        let mut verdict = terms.consider(&considered, &usage);
        if !self.takes(offer.hand_in) {
            let reason = "the receiver takes nothing now (receive.enabled)".to_owned();
            // A verb that runs for a moment, perhaps: nobody has decided against it.
            let code = Code::Busy;
            verdict = Verdict::Refuse(Refusal { code, reason });
        }
        match verdict {
            Verdict::Refuse(refusal) => {
                let Refusal { code, reason } = refusal.clone();
                let _ = reply.send(OfferReply::Refuse { code, reason });
                self.record_refusal(device, &offer, earlier, &terms, refusal);
            }
            Verdict::Ask => {
                self.enter(device, &offer, earlier, &terms.destination);
                let reason = self.ask_person(offer.id, offer.files);
                let code = Code::Asking;
                let _ = reply.send(OfferReply::Pause { code, reason });
            }
            Verdict::Accept => self.begin_or_resume(device, offer, earlier, terms, reply, ctx),
        }
    }

    /// What counts towards quotas, apart from the unfinished transfers in question.
    fn usage(&self, device: &DeviceId, terms: &Terms, except: [Option<TransferId>; 2]) -> Usage {
        let taken = self
            .transfers
            .values()
            .filter(|transfer| transfer.record.direction == Direction::Incoming)
            .filter(|transfer| {
                let record = &transfer.record;
                record.state.is_final() || !except.contains(&Some(record.id))
            })
            .map(|transfer| Taken {
                same_device: transfer.record.peer == *device,
                asked: transfer.record.is_asked(),
                state: &transfer.record.state,
                size: transfer.record.size,
                arrived: transfer.progress.done().min(transfer.record.size),
                changed: transfer.record.updated,
            });
        Usage::of(taken, terms.quota_period, unix_now())
    }

    /// Puts a refusal on record, so that it is seen here as well.
    fn record_refusal(
        &mut self,
        device: &DeviceId,
        offer: &StartTransfer,
        earlier: Option<TransferId>,
        terms: &Terms,
        Refusal { code, reason }: Refusal,
    ) {
        let name = printable(&offer.name);
        info!(%device, %name, ?code, %reason, "offer refused");
        let now = unix_now();
        let recent = self.transfers.values().map(|transfer| &transfer.record);
        let recent = recent.filter(|record| {
            let failed = matches!(record.state, TransferState::Failed { .. });
            let incoming = record.direction == Direction::Incoming;
            let just_now = now.abs_diff(record.updated) < 60;
            failed && incoming && just_now && record.peer == *device
        });
        if earlier.is_none() && recent.count() >= REFUSALS_RECORDED {
            return;
        }
        self.enter(device, offer, earlier, &terms.destination);
        self.advance(offer.id, TransferEvent::Fail { code, reason });
        if earlier.is_some() {
            self.discard_partial(offer.id);
        }
    }

    fn begin_or_resume(
        &mut self,
        device: &DeviceId,
        offer: StartTransfer,
        earlier: Option<TransferId>,
        terms: Terms,
        reply: oneshot::Sender<OfferReply>,
        ctx: &mut Context<Self>,
    ) {
        let Some(id) = earlier else {
            return self.accept(device, &offer, None, terms, None, reply);
        };
        // What was durable is looked up on the store's thread.
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
                    let found = found.ok().flatten();
                    coordinator.accept(&device, &offer, earlier, terms, found, reply);
                }),
        );
    }

    /// Sees to it that an offer has an unfinished record under its id: the one of an earlier run,
    /// or a new one.
    fn enter(
        &mut self,
        device: &DeviceId,
        offer: &StartTransfer,
        earlier: Option<TransferId>,
        destination: &Path,
    ) {
        let moved = earlier
            .filter(|earlier| *earlier != offer.id)
            .and_then(|earlier| self.transfers.remove(&earlier));
        if let Some(Transfer { mut record, .. }) = moved {
            let old = std::mem::replace(&mut record.id, offer.id);
            if record.peer != *device {
                // What a person said about one device's offer is not said about another's.
                record.question = None;
                record.peer = device.clone();
            }
            keep(&self.store, "a transfer's new id", move |store| {
                store.remove_transfer(&old).map(|_| ())
            });
            self.transfers.insert(offer.id, Transfer::of(record));
            return;
        }
        if let Some(known) = self.transfers.get(&offer.id) {
            let record = &known.record;
            match &record.state {
                TransferState::Complete => self.set_aside(offer.id),
                state if state.is_final() => {}
                _ if record.bundle == offer.bundle => return,
                // The sender's files have changed since: what came of the others is of no use.
                _ => self.discard_partial(offer.id),
            }
        }
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
            destination: Some(destination.to_owned()),
            root: None,
            stat_digest: None,
            bytes_done: 0,
            question: None,
            series: offer.series.clone(),
            hand_in: offer.hand_in,
            after: None,
            account: Account::default(),
        };
        self.transfers.insert(offer.id, Transfer::of(record));
    }

    /// Keeps a complete transfer that begins anew with other content under another id: what it
    /// brought is still here, and counts towards quotas.
    fn set_aside(&mut self, id: TransferId) {
        let Ok(new) = new_id().map(TransferId) else {
            return;
        };
        let Some(Transfer { mut record, .. }) = self.transfers.remove(&id) else {
            return;
        };
        record.id = new;
        self.transfers.insert(new, Transfer::of(record.clone()));
        keep(&self.store, "a transfer", move |store| {
            store.put_aside(record)
        });
    }

    fn accept(
        &mut self,
        device: &DeviceId,
        offer: &StartTransfer,
        earlier: Option<TransferId>,
        terms: Terms,
        checkpoint: Option<ChunkSet>,
        reply: oneshot::Sender<OfferReply>,
    ) {
        self.enter(device, offer, earlier, &terms.destination);
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
        let heads = self.heads.clone();
        let before = Before {
            arrived: self.earlier_than(offer),
            abandoned: self.abandoned_for(offer),
        };
        let accept = OfferReply::Accept {
            terms: Box::new(terms),
            checkpoint,
            heads,
            progress,
            before,
        };
        let _ = reply.send(accept);
    }

    pub(super) fn on_received(
        &mut self,
        id: TransferId,
        root: Root,
        path: PathBuf,
        stat: [u8; 32],
        told: Option<oneshot::Sender<()>>,
        ctx: &mut Context<Self>,
    ) {
        let Some(record) = self.transfers.get(&id).map(|transfer| &transfer.record) else {
            return;
        };
        let terms = self.terms_for(&record.peer, &About::record(record));
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        // Recorded with the arrival, so that neither is there without the other.
        transfer.record.after = (!terms.run.is_empty()).then_some(After::Due);
        transfer.record.root = Some(root);
        transfer.record.destination = Some(path.clone());
        transfer.record.stat_digest = Some(b64(&stat));
        transfer.progress.restart(transfer.record.size);
        let (device_id, bytes) = (transfer.record.peer.clone(), transfer.record.size);
        let shown = printable(&path.to_string_lossy());
        info!(transfer = %id, path = %shown, "received");
        let of_series = transfer.record.series.is_some();
        self.advance(id, TransferEvent::Complete);
        let root = root.to_string();
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        if of_series {
            self.find_versions_again(folder.clone(), ctx);
        }
        self.emit(&Event::Received {
            transfer: id,
            device_id,
            path,
            bytes,
            root,
        });
        // Only when the record is safe may the last trace in the destination go, and the sender be
        // told.
        let recorded = self.store.send(Job::new(|store| store.flush()));
        ctx.spawn(
            recorded
                .into_actor(self)
                .map(move |recorded, coordinator, ctx| {
                    if matches!(recorded, Ok(Ok(()))) {
                        if let Some(told) = told {
                            let _ = told.send(());
                        }
                        coordinator.discard_in(id, folder);
                        coordinator.run_what_is_due(ctx);
                    }
                }),
        );
    }
}
