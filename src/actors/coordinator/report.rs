//! What became of broadcasts: answers for whoever asks later.

use std::collections::BTreeSet;

use actix::prelude::*;
use tokio::sync::mpsc;

use crate::protocol::id::{BroadcastId, DeviceId};
use crate::protocol::roles::Roles;
use crate::protocol::transfer::TransferState;
use crate::store::{BroadcastRecord, BroadcastState};

use super::super::api::{Event, exit};
use super::super::peer::unix_now;
use super::super::report::{BroadcastInfo, Report, Seat};
use super::super::store::Job;
use super::requests::answer;
use super::sending::fail;
use super::{Coordinator, Transfer};

impl Coordinator {
    /// All broadcasts on record, oldest first.
    pub(super) fn on_broadcasts(&mut self, reply: mpsc::Sender<Event>, ctx: &mut Context<Self>) {
        let stored = self.store.send(Job::new(|store| store.broadcasts()));
        let answering = stored.into_actor(self).map(move |stored, this, _| {
            match stored {
                Ok(records) => {
                    let infos = records.iter().map(|record| this.broadcast_info(record));
                    answer(&reply, infos.map(Event::BroadcastInfo));
                }
                Err(error) => fail(&reply, &error.to_string(), exit::ERROR),
            };
        });
        ctx.spawn(answering);
    }

    /// The report of one broadcast; the exit code says whether somebody misses it.
    pub(super) fn on_report(
        &mut self,
        what: String,
        version: Option<u64>,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let stored = self.store.send(Job::new(|store| store.broadcasts()));
        let answering = stored.into_actor(self).map(move |stored, this, _| {
            let records = match stored {
                Ok(records) => records,
                Err(error) => return fail(&reply, &error.to_string(), exit::ERROR),
            };
            let begun = version.is_some() || records.iter().any(|of| is_of(of, &what));
            let report = match (begun, this.report_of_plan(&what)) {
                (false, Some(report)) => Ok(report),
                _ => chosen(&records, &what, version).map(|record| this.report(record)),
            };
            match report {
                Ok(report) => {
                    let code = match report.missing {
                        0 if report.seats.is_empty() => exit::NO_RECEIVER,
                        0 => exit::OK,
                        _ => exit::SOME_FAILED,
                    };
                    let events = [Event::Report(Box::new(report)), Event::End { code }];
                    actix::spawn(async move {
                        for event in events {
                            if reply.send(event).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                Err(reason) => fail(&reply, &reason, exit::USAGE),
            }
        });
        ctx.spawn(answering);
    }

    fn of_broadcast(&self, id: BroadcastId) -> impl Iterator<Item = &Transfer> {
        let all = self.transfers.values();
        all.filter(move |transfer| transfer.record.broadcast == Some(id))
    }

    fn broadcast_info(&self, record: &BroadcastRecord) -> BroadcastInfo {
        let complete = |transfer: &&Transfer| transfer.record.state == TransferState::Complete;
        BroadcastInfo {
            broadcast: Some(record.id),
            name: record.name.clone(),
            series: record.series.clone(),
            to: record.to.clone(),
            bundle: record.bundle,
            size: record.size,
            created: record.created,
            state: record.state,
            devices: self.of_broadcast(record.id).count(),
            have: self.of_broadcast(record.id).filter(complete).count(),
        }
    }

    fn report(&self, record: &BroadcastRecord) -> Report {
        let meant = self.meant_by(&record.to);
        // What the config file no longer hands to a device, that one does not lack.
        let planned = self.plans.keeps(record.id);
        let counts = |of: &&Transfer| {
            let record = &of.record;
            !planned
                || meant.contains(&record.peer)
                || record.state == TransferState::Complete
                || !record.state.is_final()
        };
        let mut seats: Vec<Seat> = self
            .of_broadcast(record.id)
            .filter(counts)
            .map(|transfer| self.seat_of(transfer))
            .collect();
        let known: BTreeSet<DeviceId> = seats.iter().map(|seat| seat.device_id.clone()).collect();
        for device in meant {
            if !known.contains(&device) {
                let reason = if record.state == BroadcastState::Active {
                    "never seen: nothing was begun for it yet"
                } else {
                    "never seen: it was not among the receivers when the broadcast was made"
                };
                seats.push(self.seat_without(device, "missing", reason, record.size));
            }
        }
        seats.sort_by(|a, b| (&a.name, &a.device_id).cmp(&(&b.name, &b.device_id)));
        Report {
            broadcast: self.broadcast_info(record),
            missing: seats.iter().filter(|seat| !seat.has_it).count(),
            seats,
            waits: None,
        }
    }

    /// The report of a broadcast of the config file of which nothing has been handed out yet.
    fn report_of_plan(&mut self, what: &str) -> Option<Report> {
        let mut rules = self.settings.broadcasts.iter();
        let rule = rules.find(|rule| rule.name.as_str() == what)?;
        let rule = rule.clone();
        let plan = self.plan_info(&rule, false);
        let waits = plan.why.unwrap_or_else(|| {
            let waits = match plan.state.as_str() {
                "waiting" => "its time has not come yet",
                "settling" => "its files are being looked at, and must rest first",
                _ => "it begins when it can",
            };
            waits.to_owned()
        });
        let reason = format!("nothing has been handed out yet: {waits}");
        let devices = self.meant_by(&rule.to).into_iter();
        let seats = devices.map(|device| self.seat_without(device, "waiting", &reason, 0));
        let mut seats: Vec<Seat> = seats.collect();
        seats.sort_by(|a, b| (&a.name, &a.device_id).cmp(&(&b.name, &b.device_id)));
        Some(Report {
            broadcast: BroadcastInfo {
                broadcast: None,
                name: rule.name.to_string(),
                series: None,
                to: rule.to,
                bundle: None,
                size: 0,
                created: 0,
                state: BroadcastState::Active,
                devices: 0,
                have: 0,
            },
            missing: seats.len(),
            seats,
            waits: Some(waits),
        })
    }

    /// Every device that the words mean now, those too that may not receive.
    fn meant_by(&self, to: &[String]) -> BTreeSet<DeviceId> {
        let (mut devices, now) = (BTreeSet::new(), unix_now());
        for word in to {
            let group = word.strip_prefix('@').unwrap_or(word);
            if word == "all" {
                let mut all = self.all_let_in();
                all.retain(|device| self.roles_of(device).allow(Roles::RECEIVE));
                devices.extend(all);
            } else if let Some(members) = self.trust.members(group, now) {
                devices.extend(members);
            } else if let Ok(device) = self.find_any_device(word) {
                devices.insert(device);
            }
        }
        devices.remove(&self.identity.device_id());
        devices
    }

    fn seat_of(&self, transfer: &Transfer) -> Seat {
        let record = &transfer.record;
        let has_it = record.state == TransferState::Complete;
        let (code, reason) = match &record.state {
            TransferState::Cancelled { code, reason, .. }
            | TransferState::Failed { code, reason }
            | TransferState::Paused { code, reason, .. } => (Some(*code), Some(reason.clone())),
            TransferState::Complete => (None, None),
            TransferState::Active => (None, Some("it is under way".to_owned())),
            TransferState::Offered => {
                let reason = "it was offered, and the device has not answered yet";
                (None, Some(reason.to_owned()))
            }
            TransferState::Pending => (None, Some(self.why_pending(&record.peer))),
        };
        let authorized = match (&record.account.authorized, record.state.is_final()) {
            (Some(then), true) => then.clone(),
            _ => self.trust.why(&record.peer, unix_now()).0,
        };
        Seat {
            device_id: record.peer.clone(),
            name: self.name_of(&record.peer),
            groups: self.groups_of(&record.peer),
            state: record.state.word().to_owned(),
            has_it,
            bytes: transfer.progress.done().min(record.size),
            size: record.size,
            sent: transfer.moved(),
            updated: Some(record.updated),
            seconds: match transfer.took() {
                Some(took) => Some(took.as_secs_f64()),
                None => record.account.millis.map(|millis| millis as f64 / 1000.0),
            },
            root: record.root.map(|root| root.to_string()),
            authorized,
            code,
            reason,
        }
    }

    fn why_pending(&self, device: &DeviceId) -> String {
        let slot = self.peers.get(device);
        let error = slot.and_then(|slot| slot.error.clone());
        if slot.is_some_and(|slot| slot.session.is_some()) {
            return "it is connected, and waits for its turn".to_owned();
        }
        match (error, self.table.get(device).is_some()) {
            (Some(error), true) => format!("it is here, and there is no link to it: {error}"),
            (None, true) => "it is here, and a link to it is being made".to_owned(),
            (Some(error), false) => {
                format!("it is not here now; the last try to reach it: {error}")
            }
            (None, false) if self.context.is_none() => {
                "it waits: no service runs here that could send it".to_owned()
            }
            (None, false) => {
                "it is not here: check that it is switched on, in this network and receives"
                    .to_owned()
            }
        }
    }

    /// A device that a broadcast is for, and was never begun for.
    fn seat_without(&self, device: DeviceId, state: &str, reason: &str, size: u64) -> Seat {
        let reason = match self.roles_of(&device).allow(Roles::RECEIVE) {
            true => reason,
            false => "never seen: it is not authorized to receive from this device",
        };
        Seat {
            name: self.name_of(&device),
            groups: self.groups_of(&device),
            state: state.to_owned(),
            has_it: false,
            bytes: 0,
            size,
            sent: 0,
            updated: None,
            seconds: None,
            root: None,
            authorized: self.trust.why(&device, unix_now()).0,
            code: None,
            reason: Some(reason.to_owned()),
            device_id: device,
        }
    }
}

/// True for a version of the series of that name.
fn is_of(record: &BroadcastRecord, what: &str) -> bool {
    let series = record.series.as_ref();
    series.is_some_and(|of| of.name.as_str() == what)
}

/// The broadcast that a word means: by its id, its beginning, its name, or that of its series; of
/// several the highest version, and then the newest.
fn chosen<'a>(
    records: &'a [BroadcastRecord],
    what: &str,
    version: Option<u64>,
) -> Result<&'a BroadcastRecord, String> {
    let series = |record: &BroadcastRecord| is_of(record, what);
    let begun =
        |record: &&BroadcastRecord| what.len() >= 4 && record.id.to_string().starts_with(what);
    let by_id: Vec<_> = records.iter().filter(begun).collect();
    let named =
        |record: &&BroadcastRecord| series(record) || (record.name == what && version.is_none());
    let fits = |record: &&BroadcastRecord| match (version, &record.series) {
        (None, _) => true,
        (Some(version), Some(of)) => of.version == version,
        (Some(_), None) => false,
    };
    match by_id[..] {
        [one] => return Ok(one),
        [_, ..] => {
            return Err(format!(
                "{what:?} is the beginning of {} broadcasts: use more of the id",
                by_id.len()
            ));
        }
        [] => {}
    }
    // The records are oldest first, and of equals the last one counts.
    let age = |record: &&BroadcastRecord| {
        let version = record.series.as_ref().map(|of| of.version);
        (series(record), version, record.created)
    };
    let found = records.iter().filter(named).filter(fits).max_by_key(age);
    found.ok_or_else(|| {
        let version = version.map_or_else(String::new, |version| format!(" in version {version}"));
        format!("no broadcast or series is called {what:?}{version}: `handout report` lists them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::allowance::Share;
    use crate::protocol::series::{Series, SeriesName};

    fn record(n: u8, name: &str, series: Option<(&str, u64)>) -> BroadcastRecord {
        BroadcastRecord {
            id: BroadcastId([n; 16]),
            paths: vec!["/srv/a".into()],
            name: name.to_owned(),
            to: vec!["all".to_owned()],
            created: n.into(),
            state: BroadcastState::Done,
            bundle: None,
            size: 0,
            share: Share::default(),
            hand_in: false,
            series: series.map(|(name, version)| Series {
                name: SeriesName::new(name).unwrap(),
                version,
            }),
        }
    }

    #[test]
    fn a_broadcast_is_found_by_id_name_or_series_and_of_several_the_newest_is_meant() {
        let records = [
            record(1, "slides", None),
            record(2, "slides", None),
            record(3, "lab", Some(("weekly", 7))),
            record(4, "lab", Some(("weekly", 6))),
        ];
        let found = |what: &str, version| chosen(&records, what, version).map(|r| r.created);
        assert_eq!(found("slides", None), Ok(2));
        assert_eq!(found("0101", None), Ok(1));
        assert_eq!(found("weekly", None), Ok(3), "the highest version");
        assert_eq!(found("weekly", Some(6)), Ok(4));
        assert!(found("weekly", Some(5)).unwrap_err().contains("version 5"));
        assert!(found("slides", Some(1)).is_err());
        assert!(found("010", None).is_err(), "too short");
        assert!(found("nothing", None).is_err());
    }
}
