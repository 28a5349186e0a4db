//! Durations, sizes and other values that are written as text.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::protocol::id::DeviceId;

const DURATIONS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// A whole number and one of the units, with or without a space between.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Reads `500ms`, `10s`, `2m`, `1h`, `1d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    with_unit(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads `64KiB`, `1GB`, or a bare number of bytes.
pub(crate) fn size(text: &str) -> Option<u64> {
    text.trim().parse().ok().or_else(|| with_unit(text, &SIZES))
}

const BITS: [(&str, u64); 3] = [
    ("kbit", 1000 / 8),
    ("Mbit", 1_000_000 / 8),
    ("Gbit", 1_000_000_000 / 8),
];

/// Reads `5MB/s`, `40Mbit/s`, or `5MB` for the first of them; in bytes per second.
pub(crate) fn rate(text: &str) -> Option<u64> {
    let text = text.trim();
    let amount = text.strip_suffix("/s").unwrap_or(text);
    with_unit(amount, &BITS).or_else(|| with_unit(amount, &SIZES))
}

/// Writes a number with the largest unit that divides it.
fn show(number: u64, units: &[(&str, u64)]) -> String {
    let best = units
        .iter()
        .filter(|(_, factor)| number.is_multiple_of(*factor));
    let (unit, factor) = best.max_by_key(|(_, factor)| factor).unwrap_or(&units[0]);
    if number == 0 {
        format!("0{}", units[0].0)
    } else {
        format!("{}{unit}", number / factor)
    }
}

/// The reverse of [`duration`].
pub(super) fn show_duration(duration: Duration) -> String {
    show(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        &DURATIONS,
    )
}

/// The reverse of [`size`].
pub(super) fn show_size(size: u64) -> String {
    show(size, &SIZES)
}

/// A range of addresses, `10.20.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Address and bits of the prefix.
    pub fn as_pair(&self) -> (IpAddr, u8) {
        (self.address, self.prefix)
    }

    /// True when the address is in the range. An IPv4 address is never in an IPv6 range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, other, width) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits().into(), other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let ignored = width - u32::from(self.prefix);
        u128::checked_shr(own ^ other, ignored).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let prefix = prefix.parse().map_err(|_| ())?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(());
        }
        Ok(Self { address, prefix })
    }
}

/// A network interface, as a person names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Interface {
    /// By the name that the system gives it.
    Name(String),
    /// By one of its addresses.
    Address(IpAddr),
}

impl FromStr for Interface {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let fits = (1..=64).contains(&text.len())
            && text
                .chars()
                .all(|c| !c.is_control() && !c.is_whitespace() && c != '/');
        fits.then(|| Self::Name(text.to_owned())).ok_or(())
    }
}

/// A device that is known without discovery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StaticPeer {
    /// The device.
    pub id: DeviceId,
    /// A host name or address, without brackets.
    pub host: String,
    /// The port of its signaling listener.
    pub port: u16,
}

impl FromStr for StaticPeer {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, place) = text.split_once('@').ok_or(())?;
        let (host, port) = place.rsplit_once(':').ok_or(())?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(())?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| ())?;
                inner
            }
            None => host,
        };
        let fits = (1..=253).contains(&host.len())
            && (host.parse::<IpAddr>().is_ok()
                || host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
        let port = port.parse().map_err(|_| ())?;
        if !fits || port == 0 {
            return Err(());
        }
        Ok(Self {
            id: id.parse().map_err(|_| ())?,
            host: host.to_owned(),
            port,
        })
    }
}

/// A device that the config authorizes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authorized {
    /// The device: always the hash of a key, so it must prove itself.
    pub id: DeviceId,
    /// A name for people.
    pub name: Option<String>,
}

impl FromStr for Authorized {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, name) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let id: DeviceId = id.parse().map_err(|_| ())?;
        let name = name.trim();
        if !id.is_self_certifying() || !is_name(name) {
            return Err(());
        }
        let name = (!name.is_empty()).then(|| name.to_owned());
        Ok(Self { id, name })
    }
}

/// Longest name of a device, in bytes (PROTOCOL.md §2).
pub(super) const MAX_NAME: usize = 64;

/// True for what may stand as a device's name in adverts, tables and logs.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit_that_exists_and_must_not_overflow() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration(" 2 m "), Some(Duration::from_secs(120)));
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("1 TB"), Some(1_000_000_000_000));
        assert_eq!(size("17"), Some(17));
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1 week",
            "1s2",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        for bad in ["", "MiB", "-1", "1.5GB", "1 potato", "99999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn rates_are_bytes_or_bits_in_a_second() {
        assert_eq!(rate("5MB/s"), Some(5_000_000));
        assert_eq!(rate("40 Mbit/s"), Some(5_000_000));
        assert_eq!(rate("64KiB"), Some(65_536));
        for bad in ["", "5", "/s", "5MB/h", "5M/s", "-1MB/s", "none"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for ms in [0, 1, 500, 1000, 90_000, 120_000, 86_400_000] {
            let duration_ = Duration::from_millis(ms);
            assert_eq!(duration(&show_duration(duration_)), Some(duration_));
        }
        for bytes in [0, 1, 1000, 1024, 1191, 4 << 20, 1_000_000_000_000] {
            assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
        assert_eq!(show_size(64 << 20), "64MiB");
    }

    #[test]
    fn networks_contain_their_addresses_only() {
        let net: Network = "10.20.0.0/16".parse().unwrap();
        assert!(net.contains("10.20.255.1".parse().unwrap()));
        assert!(!net.contains("10.21.0.1".parse().unwrap()));
        assert!(!net.contains("::ffff:10.20.0.1".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("203.0.113.9".parse().unwrap()));
        let everything: Network = "::/0".parse().unwrap();
        assert!(everything.contains("2001:db8::1".parse().unwrap()));
        let one: Network = "2001:db8::1/128".parse().unwrap();
        assert!(one.contains("2001:db8::1".parse().unwrap()));
        assert!(!one.contains("2001:db8::2".parse().unwrap()));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "x/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn static_peers_have_an_id_a_host_and_a_port() {
        let peer: StaticPeer = "kiosk@[fe80::1]:7000".parse().unwrap();
        assert_eq!((peer.host.as_str(), peer.port), ("fe80::1", 7000));
        assert!("kiosk@lab-3.example:7000".parse::<StaticPeer>().is_ok());
        for bad in [
            "kiosk",
            "kiosk@host",
            "@h:1",
            "a@:1",
            "a@h:0",
            "a@h:70000",
            "a@fe80::1",
            "a@h/x:1",
            "a@[h]:1",
        ] {
            assert!(bad.parse::<StaticPeer>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_ids_that_can_be_proven_are_authorized() {
        let id = DeviceId::of_key(&[1; 32]);
        let named: Authorized = format!("{id} Room 12 / 3").parse().unwrap();
        assert_eq!(named.name.as_deref(), Some("Room 12 / 3"));
        assert!(id.as_str().parse::<Authorized>().unwrap().name.is_none());
        assert!("kiosk".parse::<Authorized>().is_err());
        assert!(format!("{id} \u{1b}[2J").parse::<Authorized>().is_err());
    }
}
