//! `[limits]`: how fast bundles go and come.

use super::reader::Reader;
use super::shapes;
use crate::protocol::allowance::Share;

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
}

impl LimitSettings {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let rate = shapes::rate(Share::MIN_RATE);
        Self {
            rate: r.shaped("limits.rate", &rate),
            rate_per_device: r.shaped("limits.rate_per_device", &rate),
            receive_rate: r.shaped("limits.receive_rate", &shapes::rate(MIN_RECEIVE)),
        }
    }
}
