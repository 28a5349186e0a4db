//! `[limits]`: how fast bundles go and come; and `[[limits.at]]`: at some hours, or to some devices.

use super::broadcasts::{opening, zone};
use super::reader::Reader;
use super::receive;
use super::shapes::{self, Shape};
use super::tables::{List, Table};
use crate::protocol::allowance::Share;
use crate::protocol::hours::Hours;
use crate::protocol::plan::calendar::Zone;

/// Rules as they stand in a file. At most so many, because each message looks at those in force.
pub(super) const LIST: List = List {
    name: "limits.at",
    keys: &["hours", "time_zone", "rate", "who"],
    most: 100,
};

/// The lowest rate at which bundles may come in: windows are acknowledged as a whole, and a sender
/// that waits too long for that gives up.
const MIN_RECEIVE: u64 = 64_000;

/// `[limits]`. Rates are bytes per second; `None` for no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// What leaves this device, to all others together.
    pub rate: Option<u64>,
    /// What leaves for each device.
    pub rate_per_device: Option<u64>,
    /// What comes in, from all together.
    pub receive_rate: Option<u64>,
    /// What holds besides, at some hours or for some devices.
    pub at: Vec<LimitRule>,
}

/// A limit at some hours, or for some devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRule {
    /// When it holds; nothing for always.
    pub hours: Option<Hours>,
    /// Whose clock the hours are of.
    pub zone: Zone,
    /// Bytes per second, to these devices together.
    pub rate: u64,
    /// Device ids, names of devices, and groups; nothing for all devices.
    pub who: Option<Vec<String>>,
}

impl LimitRule {
    fn read(r: &mut Reader<'_>, table: &Table) -> Option<Self> {
        let written = shapes::rate(Share::MIN_RATE);
        let allowed = written.allowed.replace(", or \"none\"", "");
        let rate = Shape::new(allowed, |value| (written.parse)(value).flatten());
        let zone = zone(r, table);
        let hours = table.take(r, "hours", &opening());
        let who = table.take(r, "who", &receive::who());
        if !table.has("hours") && !table.has("who") {
            let allowed = "there, or who (limits.rate is for all devices at all hours)";
            table.wrong(r, "hours", allowed, "left out");
        }
        Some(Self {
            hours,
            zone,
            rate: table.needs(r, "rate", &rate)?,
            who,
        })
    }

    /// Whether it holds at that time, in Unix seconds.
    pub fn holds(&self, now: u64) -> bool {
        let local = self.zone.local(now);
        let open = |hours: &Hours| local.is_some_and(|local| hours.is_open(local));
        self.hours.as_ref().is_none_or(open)
    }
}

impl LimitSettings {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let rate = shapes::rate(Share::MIN_RATE);
        Self {
            rate: r.shaped("limits.rate", &rate),
            rate_per_device: r.shaped("limits.rate_per_device", &rate),
            receive_rate: r.shaped("limits.receive_rate", &shapes::rate(MIN_RECEIVE)),
            at: {
                let tables = LIST.tables(r);
                let rules = tables.iter().map(|table| LimitRule::read(r, table));
                rules.collect::<Vec<_>>().into_iter().flatten().collect()
            },
        }
    }
}
