//! Versions of what was received: which are here, and going back to an earlier one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::content::{self, Abandoned, Earlier, Listed};
use crate::protocol::id::{DeviceId, Root};
use crate::protocol::identity::unb64;
use crate::protocol::message::StartTransfer;
use crate::protocol::names::STAGING;
use crate::protocol::series::SeriesName;
use crate::protocol::transfer::{Direction, TransferState};
use crate::store::TransferRecord;

use super::super::api::{Event, VersionInfo, exit};
use super::super::store::keep;
use super::Coordinator;
use super::requests::answer;
use super::sending::fail;

/// Earlier bundles whose files are looked through for chunks of a new one.
const MAX_EARLIER: usize = 3;

/// Where a series lies.
type Place = (PathBuf, DeviceId, SeriesName);

impl Coordinator {
    /// Folders that bundles go into, or have gone into.
    fn destinations(&self) -> BTreeSet<PathBuf> {
        let policy = &self.settings.receive.policy;
        let rules = policy
            .rules
            .iter()
            .filter_map(|rule| rule.changes.destination.as_ref());
        let named = rules.chain([&policy.defaults.destination]).cloned();
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let arrived = records
            .filter(|record| record.direction == Direction::Incoming)
            .filter(|record| record.series.is_some() && record.state == TransferState::Complete)
            .filter_map(|record| record.destination.as_deref()?.parent())
            // What is kept lies below a destination's own folder.
            .map(|folder| {
                let ours = folder
                    .ancestors()
                    .find(|at| at.file_name() == Some(STAGING.as_ref()));
                ours.and_then(Path::parent).unwrap_or(folder).to_owned()
            });
        named.chain(arrived).collect()
    }

    fn version_info(&self, listed: Listed) -> VersionInfo {
        VersionInfo {
            device_name: self.name_of(&listed.origin),
            device_id: listed.origin,
            series: listed.series,
            path: listed.path,
            size: listed.size,
            current: listed.current,
            changed: listed.changed,
            rolled_back: listed.held,
        }
    }

    /// Looks through all destinations, off this thread, and goes on with what is there.
    fn look_for_versions(
        &self,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, Vec<(PathBuf, Listed)>, &mut Context<Self>) + 'static,
    ) {
        let destinations = self.destinations();
        let looking = self.data_plane.spawn_blocking(move || {
            let each = destinations.into_iter();
            each.flat_map(|dest| {
                content::list(&dest)
                    .into_iter()
                    .map(move |one| (dest.clone(), one))
            })
            .collect()
        });
        let looked = looking.into_actor(self);
        ctx.spawn(looked.map(move |found, coordinator, ctx| {
            then(coordinator, found.unwrap_or_default(), ctx);
        }));
    }

    pub(super) fn on_versions(&mut self, reply: mpsc::Sender<Event>, ctx: &mut Context<Self>) {
        self.look_for_versions(ctx, move |coordinator, found, _| {
            let infos = found
                .into_iter()
                .map(|(_, one)| coordinator.version_info(one));
            answer(&reply, infos.map(Event::Version));
        });
    }

    pub(super) fn on_roll_back(
        &mut self,
        what: String,
        to: Option<u64>,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        self.look_for_versions(ctx, move |coordinator, found, ctx| {
            match coordinator.series_meant(&what, &found) {
                Ok(place) => coordinator.roll_back(place, to, reply, ctx),
                Err(reason) => fail(&reply, &reason, exit::USAGE),
            }
        });
    }

    /// The one series that a word means: its name, or the id of a transfer that brought a version
    /// of it.
    fn series_meant(&self, what: &str, found: &[(PathBuf, Listed)]) -> Result<Place, String> {
        let brought = |one: &Listed| {
            let records = self.transfers.values().map(|transfer| &transfer.record);
            let mut by = records.filter(|record| {
                record.direction == Direction::Incoming
                    && record.origin == one.origin
                    && record.bundle == one.bundle
                    && record
                        .series
                        .as_ref()
                        .is_some_and(|s| s.name == one.series.name)
            });
            what.len() >= 4 && by.any(|record| record.id.to_string().starts_with(what))
        };
        let meant: BTreeSet<Place> = found
            .iter()
            .filter(|(_, one)| one.series.name.as_str() == what || brought(one))
            .map(|(dest, one)| (dest.clone(), one.origin.clone(), one.series.name.clone()))
            .collect();
        let mut meant = meant.into_iter();
        match (meant.next(), meant.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(format!(
                "no version of {what:?} is here: `handout versions` lists what there is"
            )),
            (Some(_), Some(_)) => Err(format!(
                "{what:?} is there more than once, from several devices or in several folders: name \
                 a transfer instead (`handout transfers`)"
            )),
        }
    }

    fn roll_back(
        &mut self,
        (dest, origin, name): Place,
        to: Option<u64>,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let moving = self.data_plane.spawn_blocking(move || {
            let moved = content::roll_back(&dest, &origin, &name, to);
            moved.map(|current| (current, content::list(&dest)))
        });
        let moved = moving.into_actor(self);
        ctx.spawn(moved.map(move |moved, coordinator, _| match moved {
            Ok(Ok((current, all))) => {
                let series = &current.series;
                info!(%series, path = ?current.path, "a person went back to it");
                all.iter().for_each(|one| coordinator.note_place(one));
                let info = coordinator.version_info(current);
                answer(&reply, [Event::Version(info)]);
            }
            Ok(Err(error)) => fail(&reply, &error.to_string(), exit::ERROR),
            Err(error) => fail(&reply, &error.to_string(), exit::ERROR),
        }));
    }

    /// What is offered as a new version has the content of the one that is here.
    pub(super) fn renumber(&mut self, offer: &StartTransfer, root: Root) {
        // Without its root, what is offered may well be another content of the same sizes.
        let Some(series) = offer.series.clone().filter(|_| offer.root == Some(root)) else {
            return;
        };
        let records = self
            .transfers
            .values_mut()
            .map(|transfer| &mut transfer.record);
        let mut same = records.filter(|record| {
            record.direction == Direction::Incoming
                && record.state == TransferState::Complete
                && (&record.origin, record.bundle) == (&offer.origin, offer.bundle)
                && record.root == Some(root)
                && record
                    .series
                    .as_ref()
                    .is_some_and(|was| was.name == series.name && was < &series)
        });
        let Some(record) = same.next() else { return };
        record.series = Some(series.clone());
        let record = record.clone();
        let place = record
            .destination
            .as_deref()
            .and_then(Path::parent)
            .map(Path::to_owned);
        keep(&self.store, "the number of a version", move |store| {
            store.put_transfer(record)
        });
        let origin = offer.origin.clone();
        if let Some(dest) = place {
            self.data_plane.spawn_blocking(move || {
                if let Err(error) = content::renumber(&dest, &origin, &series, &root) {
                    warn!(%error, %series, "its number could not be noted");
                }
            });
        }
    }

    /// Puts on record where the versions in a destination lie now: what is kept is not sent again,
    /// and its chunks serve for later versions.
    pub(super) fn find_versions_again(&mut self, dest: PathBuf, ctx: &mut Context<Self>) {
        let looking = self.data_plane.spawn_blocking(move || content::list(&dest));
        ctx.spawn(looking.into_actor(self).map(|found, coordinator, _| {
            for one in found.unwrap_or_default() {
                coordinator.note_place(&one);
            }
        }));
    }

    /// Where earlier bundles lie of which an offered one may be another version: those of its
    /// series, else those of its name, from the same origin; the newest first. Others are not
    /// looked at: which of its chunks are here is something that a receiver tells the sender.
    pub(super) fn earlier_than(&self, offer: &StartTransfer) -> Vec<Earlier> {
        let name = offer.series.as_ref().map(|series| &series.name);
        let mut alike: Vec<&TransferRecord> = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| record.direction == Direction::Incoming)
            .filter(|record| record.origin == offer.origin && record.id != offer.id)
            .filter(|record| record.state == TransferState::Complete)
            .filter(|record| {
                let series = record.series.as_ref().map(|series| &series.name);
                (name.is_some() && series == name) || record.name == offer.name
            })
            .collect();
        alike.sort_by_key(|record| std::cmp::Reverse((record.updated, record.id)));
        let place = |record: &TransferRecord| {
            let stat = unb64(record.stat_digest.as_deref()?)?.try_into().ok()?;
            let (bundle, path) = (record.bundle, record.destination.clone()?);
            let head = None;
            Some(Earlier {
                bundle,
                path,
                stat,
                head,
            })
        };
        alike
            .into_iter()
            .filter_map(place)
            .take(MAX_EARLIER)
            .collect()
    }

    /// Where earlier versions of the offered one's series lie that were given up, or are about to be,
    /// before they were whole; the newest first.
    pub(super) fn abandoned_for(&self, offer: &StartTransfer) -> Vec<Abandoned> {
        let Some(series) = &offer.series else {
            return Vec::new();
        };
        let records = self.transfers.values().map(|transfer| &transfer.record);
        let mut older: Vec<(u64, &TransferRecord)> = records
            .filter(|record| record.direction == Direction::Incoming)
            .filter(|record| record.origin == offer.origin && record.bundle != offer.bundle)
            .filter(|record| record.state != TransferState::Complete)
            .filter_map(|record| {
                let of = record.series.as_ref()?;
                let is_older = of.name == series.name && of.version < series.version;
                is_older.then_some((of.version, record))
            })
            .collect();
        older.sort_by_key(|(version, record)| std::cmp::Reverse((*version, record.id)));
        let place = |record: &TransferRecord| Abandoned {
            destination: self.place_of(record),
            origin: record.origin.clone(),
            bundle: record.bundle,
        };
        let older = older.into_iter().map(|(_, record)| place(record));
        older.take(MAX_EARLIER).collect()
    }

    fn note_place(&mut self, one: &Listed) {
        let records = self
            .transfers
            .values_mut()
            .map(|transfer| &mut transfer.record);
        let mut moved = Vec::new();
        for record in records {
            let same = record.direction == Direction::Incoming
                && record.origin == one.origin
                && record.bundle == one.bundle
                && record.root == Some(one.root)
                && record.state == TransferState::Complete
                && record
                    .series
                    .as_ref()
                    .is_some_and(|s| s.name == one.series.name);
            if same && record.destination.as_ref() != Some(&one.path) {
                record.destination = Some(one.path.clone());
                moved.push(record.clone());
            }
        }
        for record in moved {
            keep(&self.store, "where a version lies", move |store| {
                store.put_transfer(record)
            });
        }
    }
}
