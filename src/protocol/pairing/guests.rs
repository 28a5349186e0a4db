//! How many devices that nobody has let in may be connected, or connecting, at once: guests.
//! Bounded in all, per address and in time, so that strangers only ever take room from strangers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::protocol::id::DeviceId;

/// Guests at once.
pub const MAX_GUESTS: usize = 64;
/// Guests at once from one address (IPv6: one /64): a class behind one router must fit.
pub const MAX_PER_ADDRESS: usize = 48;
/// Offers of strangers that are looked at in a row, and how many a second after that: each costs
/// a signature check and a place in the memory for proofs.
pub const BURST: u32 = 64;
const PER_SECOND: u32 = 32;
/// A guest whose channel is not open by then makes room.
pub const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);

/// Why a stranger is not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Too many in all, or from its address.
    #[error("too many devices that are not let in are connected: try again in a moment")]
    Full,
    /// Too many offers in a short time.
    #[error("too many offers in a short time: try again in a moment")]
    TooFast,
}

/// The places for guests.
#[derive(Debug, Default)]
pub struct Guests {
    places: HashMap<DeviceId, Place>,
    /// Offers used up, and when that was last counted.
    used: Option<(f64, Instant)>,
}

#[derive(Debug)]
struct Place {
    network: IpAddr,
    since: Instant,
    arrived: bool,
}

impl Guests {
    /// Counts an offer of a stranger, before anything is done with it.
    ///
    /// # Errors
    /// [`NoRoom::TooFast`] when there were too many.
    pub fn knock(&mut self, now: Instant) -> Result<(), NoRoom> {
        let (used, last) = self.used.unwrap_or((0.0, now));
        let drained = now.saturating_duration_since(last).as_secs_f64() * f64::from(PER_SECOND);
        let used = (used - drained).max(0.0);
        if used + 1.0 > f64::from(BURST) {
            self.used = Some((used, now));
            return Err(NoRoom::TooFast);
        }
        self.used = Some((used + 1.0, now));
        Ok(())
    }

    /// Gives a device that has shown a valid proof a place; one that has one keeps it.
    ///
    /// # Errors
    /// [`NoRoom::Full`] when there is none.
    pub fn enter(&mut self, now: Instant, device: &DeviceId, from: IpAddr) -> Result<(), NoRoom> {
        if self.places.contains_key(device) {
            return Ok(());
        }
        let network = network_of(from);
        let neighbours = self.places.values().filter(|p| p.network == network);
        if self.places.len() >= MAX_GUESTS || neighbours.count() >= MAX_PER_ADDRESS {
            return Err(NoRoom::Full);
        }
        let (since, arrived) = (now, false);
        self.places.insert(
            device.clone(),
            Place {
                network,
                since,
                arrived,
            },
        );
        Ok(())
    }

    /// Its channel is open: from here on its session limits its time.
    pub fn arrived(&mut self, device: &DeviceId) {
        if let Some(place) = self.places.get_mut(device) {
            place.arrived = true;
        }
    }

    /// It is gone, or let in.
    pub fn leave(&mut self, device: &DeviceId) {
        self.places.remove(device);
    }

    /// True when it has a place.
    pub fn contains(&self, device: &DeviceId) -> bool {
        self.places.contains_key(device)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Those that have taken too long to arrive.
    pub fn late(&self, now: Instant) -> Vec<DeviceId> {
        let late = |place: &Place| {
            !place.arrived && now.saturating_duration_since(place.since) >= ARRIVAL_LIMIT
        };
        let places = self.places.iter().filter(|(_, place)| late(place));
        places.map(|(device, _)| device.clone()).collect()
    }
}

/// What counts as one address: a household or a machine has a whole /64 of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: usize) -> DeviceId {
        format!("device-{n}").parse().unwrap()
    }

    fn v4(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn places_are_bounded_in_all_and_per_address() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        for n in 0..MAX_PER_ADDRESS {
            assert_eq!(guests.enter(now, &device(n), v4(1)), Ok(()));
        }
        assert_eq!(guests.enter(now, &device(99), v4(1)), Err(NoRoom::Full));
        // Whoever is in stays in.
        assert_eq!(guests.enter(now, &device(0), v4(1)), Ok(()));
        for n in MAX_PER_ADDRESS..MAX_GUESTS {
            assert_eq!(guests.enter(now, &device(n), v4(2)), Ok(()));
        }
        assert_eq!(guests.enter(now, &device(99), v4(3)), Err(NoRoom::Full));
        guests.leave(&device(0));
        assert_eq!(guests.enter(now, &device(99), v4(3)), Ok(()));
        assert_eq!(guests.len(), MAX_GUESTS);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        for n in 0..MAX_PER_ADDRESS {
            let address = format!("fd00::1:{n:x}").parse().unwrap();
            assert_eq!(guests.enter(now, &device(n), address), Ok(()));
        }
        let same = "fd00::ffff:1".parse().unwrap();
        assert_eq!(guests.enter(now, &device(99), same), Err(NoRoom::Full));
        let other = "fd00:0:0:1::1".parse().unwrap();
        assert_eq!(guests.enter(now, &device(99), other), Ok(()));
    }

    #[test]
    fn offers_of_strangers_are_bounded_by_rate() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(guests.knock(now), Ok(()));
        }
        assert_eq!(guests.knock(now), Err(NoRoom::TooFast));
        let later = now + Duration::from_secs(1);
        let taken = (0..1000).filter(|_| guests.knock(later).is_ok()).count();
        assert_eq!(taken, PER_SECOND as usize);
        let much_later = now + Duration::from_secs(3600);
        let taken = (0..1000)
            .filter(|_| guests.knock(much_later).is_ok())
            .count();
        assert_eq!(taken, BURST as usize);
    }

    #[test]
    fn whoever_does_not_arrive_makes_room() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        guests.enter(now, &device(1), v4(1)).unwrap();
        guests.enter(now, &device(2), v4(1)).unwrap();
        guests.arrived(&device(2));
        assert!(guests.late(now + ARRIVAL_LIMIT / 2).is_empty());
        assert_eq!(guests.late(now + ARRIVAL_LIMIT), [device(1)]);
    }
}
