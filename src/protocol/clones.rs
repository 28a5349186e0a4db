//! One identity on two machines: somebody has copied a disk, with the key on it.
//!
//! Each start of the program makes a number, its run, and tells it in its advert and in the
//! handshake. A device that starts again has another run, and never an earlier one again. So two
//! runs of one device are no clone by themselves: the first may have ended. They are once both
//! are known to be alive at the same time, and that is when
//! - a run shows itself on a link after another one has done so since (a run that has ended never
//!   comes back); or
//! - a run is advertised again, [`GRACE`] or more after another one took its place; or
//! - two runs are advertised under two instance names for [`GRACE`]: mDNS gives the newcomer
//!   another name while somebody defends the first.
//!
//! Addresses decide nothing: one machine has several, and the run is the same on all of them.
//! Adverts are hints, which anybody can forge; what a link shows is proven.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::id::{DeviceId, RunId};

/// How long an advert may outlive its process: goodbyes get lost, and caches hold both for a
/// moment.
pub const GRACE: Duration = Duration::from_secs(10);
/// An alarm ends when nothing has spoken for it during this time.
pub const QUIET: Duration = Duration::from_secs(15 * 60);
/// Most devices that are watched.
const MAX_DEVICES: usize = 4096;
/// Most runs remembered of one device.
const MAX_RUNS: usize = 8;
/// Most addresses remembered of one run.
const MAX_PLACES: usize = 4;

/// The same key is in use twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Which device.
    pub device: DeviceId,
    /// Where its runs were seen, as far as known.
    pub places: Vec<IpAddr>,
    /// Each run has proven the key, on a link; else only adverts say so.
    pub proven: bool,
    /// When that was last noticed.
    at: Instant,
}

/// One start of a device's program.
#[derive(Debug)]
struct Seen {
    run: RunId,
    last: Instant,
    places: BTreeSet<IpAddr>,
    link: OnLink,
    advert: Advertised,
}

/// What links have shown of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnLink {
    Never,
    /// No other run has been on a link since.
    Newest,
    /// Another one has.
    Overtaken,
}

/// What adverts say of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advertised {
    No,
    /// Under this instance name (1 for the plain one, else the number in it), from then on.
    Under(u32, Instant),
    /// Another run took its place then.
    Replaced(Instant),
}

/// Watches for clones. Pure: `now` comes with each input.
#[derive(Debug)]
pub struct Clones {
    devices: HashMap<DeviceId, Vec<Seen>>,
    alarms: HashMap<DeviceId, Alarm>,
}

impl Clones {
    /// Watches this device too: its own run is alive all the time.
    pub fn new(now: Instant, ours: DeviceId, run: RunId) -> Self {
        let mut own = Seen::of(run, now);
        own.advert = Advertised::Under(0, now);
        Self {
            devices: HashMap::from([(ours, vec![own])]),
            alarms: HashMap::new(),
        }
    }

    fn seen(&mut self, now: Instant, device: &DeviceId, run: RunId) -> Option<&mut Vec<Seen>> {
        let full = self.devices.len() >= MAX_DEVICES;
        if full && !self.devices.contains_key(device) {
            return None;
        }
        let runs = self.devices.entry(device.clone()).or_default();
        match runs.iter_mut().find(|seen| seen.run == run) {
            Some(seen) => seen.last = now,
            None => {
                if runs.len() >= MAX_RUNS {
                    // Never our own, which is the only one under the number 0.
                    let removable = |seen: &&Seen| !matches!(seen.advert, Advertised::Under(0, _));
                    let oldest = runs.iter().filter(removable).min_by_key(|seen| seen.last);
                    let oldest = oldest.map(|seen| seen.run);
                    runs.retain(|seen| Some(seen.run) != oldest);
                }
                runs.push(Seen::of(run, now));
            }
        }
        Some(runs)
    }

    /// A device has proven its key on a link, and told its run. The alarm when that is news.
    pub fn on_link(
        &mut self,
        now: Instant,
        device: &DeviceId,
        run: RunId,
        from: Option<IpAddr>,
    ) -> Option<Alarm> {
        let runs = self.seen(now, device, run)?;
        let mut overtaken = false;
        for seen in runs.iter_mut() {
            if seen.run == run {
                overtaken = seen.link == OnLink::Overtaken;
                seen.link = OnLink::Newest;
                seen.note(from);
            } else if seen.link == OnLink::Newest {
                seen.link = OnLink::Overtaken;
            }
        }
        if overtaken {
            return self.raise(now, device, true);
        }
        None
    }

    /// A device advertises a run under the instance name with this number (1 for the plain name).
    /// The alarm when that is news.
    pub fn on_advert(
        &mut self,
        now: Instant,
        device: &DeviceId,
        run: RunId,
        number: u32,
        places: impl IntoIterator<Item = IpAddr>,
    ) -> Option<Alarm> {
        let runs = self.seen(now, device, run)?;
        let at = runs.iter().position(|seen| seen.run == run)?;
        for place in places {
            runs[at].note(Some(place));
        }
        match runs[at].advert {
            Advertised::Under(0, _) => return None,
            Advertised::Under(same, _) if same == number => return None,
            // Caches may still bring it up.
            Advertised::Replaced(then) if now.saturating_duration_since(then) < GRACE => {
                return None;
            }
            _ => {}
        }
        let again = matches!(runs[at].advert, Advertised::Replaced(_));
        for seen in runs.iter_mut() {
            if seen.run == run {
                seen.advert = Advertised::Under(number, now);
            } else if matches!(seen.advert, Advertised::Under(there, _) if there == number) {
                seen.advert = Advertised::Replaced(now);
            }
        }
        if again {
            return self.raise(now, device, false);
        }
        None
    }

    /// A device's advert under that instance name is gone.
    pub fn on_advert_gone(&mut self, device: &DeviceId, number: u32) {
        for seen in self.devices.get_mut(device).into_iter().flatten() {
            let there = matches!(seen.advert, Advertised::Under(there, _) if there == number);
            if there && number != 0 {
                seen.advert = Advertised::No;
            }
        }
    }

    /// The alarms that time has made, and the devices whose alarm is over.
    pub fn tick(&mut self, now: Instant) -> (Vec<Alarm>, Vec<DeviceId>) {
        let old = |seen: &Seen| match seen.advert {
            Advertised::Under(_, since) => now.saturating_duration_since(since) >= GRACE,
            _ => false,
        };
        let twice = |runs: &Vec<Seen>| runs.iter().filter(|seen| old(seen)).count() > 1;
        let devices = self.devices.iter();
        let twice: Vec<_> = devices
            .filter(|(_, runs)| twice(runs))
            .map(|(device, _)| device.clone())
            .collect();
        let raised = twice
            .iter()
            .filter_map(|device| self.raise(now, device, false))
            .collect();
        let over = |alarm: &Alarm| now.saturating_duration_since(alarm.at) >= QUIET;
        let ended = self.alarms.extract_if(|_, alarm| over(alarm));
        (raised, ended.map(|(device, _)| device).collect())
    }

    /// The alarm about a device.
    pub fn alarm(&self, device: &DeviceId) -> Option<&Alarm> {
        self.alarms.get(device)
    }

    /// All alarms, in no order.
    pub fn alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.values()
    }

    /// A device is no longer watched: it is not let in any more, or has another key.
    pub fn forget(&mut self, device: &DeviceId) {
        self.devices.remove(device);
        self.alarms.remove(device);
    }

    /// Notes an alarm. Something is returned when a person has not heard of it yet.
    fn raise(&mut self, now: Instant, device: &DeviceId, proven: bool) -> Option<Alarm> {
        let runs = self.devices.get(device)?;
        let places: BTreeSet<_> = runs.iter().flat_map(|seen| &seen.places).copied().collect();
        let known = self.alarms.get(device);
        let news = known.is_none_or(|known| proven && !known.proven);
        let alarm = Alarm {
            device: device.clone(),
            places: places.into_iter().take(MAX_PLACES).collect(),
            proven: proven || known.is_some_and(|known| known.proven),
            at: now,
        };
        self.alarms.insert(device.clone(), alarm.clone());
        news.then_some(alarm)
    }
}

impl Seen {
    fn of(run: RunId, now: Instant) -> Self {
        Self {
            run,
            last: now,
            places: BTreeSet::new(),
            link: OnLink::Never,
            advert: Advertised::No,
        }
    }

    fn note(&mut self, place: Option<IpAddr>) {
        if self.places.len() < MAX_PLACES {
            self.places.extend(place);
        }
    }
}

#[cfg(test)]
mod tests;
