//! What the worker of a sink does about neighbours: whom it believes, who has brought how much,
//! and what it makes known of the bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reception::{Reception, RelayEvent};
use super::sink_worker::From;
use crate::content::Sink;
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::id::{DeviceId, Root};
use crate::protocol::identity::Signature;

/// How often the origin is told what came from neighbours.
const TELL: Duration = Duration::from_millis(250);

/// One bundle's neighbours, as its sink sees them.
pub(super) struct Help {
    pub(super) reception: Arc<Reception>,
    brought: BTreeMap<DeviceId, u64>,
    liars: BTreeSet<DeviceId>,
    /// The origin has not been told of chunks that came from neighbours.
    untold: bool,
    told: Instant,
}

impl Help {
    pub(super) fn new(reception: Arc<Reception>) -> Self {
        Self {
            reception,
            brought: BTreeMap::new(),
            liars: BTreeSet::new(),
            untold: false,
            told: Instant::now(),
        }
    }

    /// Makes the bundle readable for neighbours as soon as there is something of it.
    pub(super) fn give_reader(&self, sink: &mut Sink) {
        if !self.reception.needs_reader() || sink.have().is_empty() {
            return;
        }
        match sink.reader() {
            Ok(reader) => self.reception.readable(reader),
            Err(error) => tracing::debug!(%error, "neighbours get nothing of this bundle"),
        }
    }

    /// Nothing of a neighbour that has lied, or sends what nobody can use, is looked at.
    pub(super) fn ignores(&self, from: &From) -> bool {
        matches!(from, From::Neighbour(peer) if self.reception.shuns(peer))
    }

    /// Whether a neighbour's page is worth taking: the origin signed it, and it says nothing else
    /// than the page that is there. A neighbour can hold one of an earlier time; it must not undo
    /// what the origin has said since.
    pub(super) fn takes_page(
        &mut self,
        sink: &Sink,
        number: u32,
        bytes: &[u8],
        signature: &Signature,
        peer: &DeviceId,
    ) -> bool {
        if self.reception.shuns(peer) {
            return false;
        }
        let known = sink.signed_page(number);
        if known.as_ref().is_some_and(|known| known.bytes == bytes) {
            return false;
        }
        match sink.check_page(number, bytes, signature) {
            Err(error) => self.distrust(peer, &error.to_string()),
            Ok(_) if known.is_some() => {
                tracing::info!(%peer, page = number, "a neighbour has another version");
                self.reception.shun(peer);
            }
            Ok(_) => return true,
        }
        false
    }

    /// A chunk was written that was missing.
    pub(super) fn wrote(&mut self, index: u32, bytes: u64, from: &From) {
        self.reception.wrote(index);
        if let From::Neighbour(peer) = from {
            *self.brought.entry(peer.clone()).or_default() += bytes;
            self.untold = true;
        }
    }

    /// What the origin should hear now about chunks that it need not send.
    pub(super) fn elsewhere(&mut self, have: &ChunkSet) -> Option<ChunkSet> {
        if !self.untold || self.told.elapsed() < TELL {
            return None;
        }
        (self.untold, self.told) = (false, Instant::now());
        Some(have.clone())
    }

    /// A neighbour has sent what cannot be true.
    pub(super) fn distrust(&mut self, peer: &DeviceId, reason: &str) {
        if self.liars.insert(peer.clone()) {
            let event = self.reception.distrust(peer, reason);
            self.reception.report(event);
        }
    }

    /// Tells how much of the bundle came from whom.
    pub(super) fn tell_who_helped(&mut self) {
        let id = self.reception.transfer;
        for (peer, bytes) in std::mem::take(&mut self.brought) {
            self.reception
                .report(RelayEvent::Relayed { id, peer, bytes });
        }
    }

    /// The bundle is whole, and there is no link to its origin to say it on.
    pub(super) fn finished_alone(&self, root: Root, path: PathBuf, stat: [u8; 32]) {
        let id = self.reception.transfer;
        self.reception.report(RelayEvent::Received {
            id,
            root,
            path,
            stat,
        });
    }
}
