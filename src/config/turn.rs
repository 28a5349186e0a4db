//! `[rendezvous.turn]`: a STUN and TURN server beside the rendezvous.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::reader::Reader;
use super::shapes::{Shape, text};

const KIB: u64 = 1 << 10;

/// `[rendezvous.turn]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnServe {
    /// The UDP address and port to listen on; nothing for no such server.
    pub bind: Option<SocketAddr>,
    /// The address that others reach it by; nothing where that is the one of `bind`.
    pub public_address: Option<IpAddr>,
    /// The ports that it gives away.
    pub ports: Ports,
    /// The file with the secret of credentials, absolute; nothing for one that is made at start.
    pub secret_file: Option<PathBuf>,
    /// How long a credential holds.
    pub credentials_for: Duration,
    /// Datagrams may go to inner networks, and to this machine.
    pub allow_private: bool,
    /// Addresses that it gives away at once.
    pub max_allocations: usize,
    /// Those of one user; at most `max_allocations`.
    pub user_allocations: usize,
    /// Bytes of one user in a day.
    pub user_day: u64,
}

/// A range of UDP ports, `49152-65535`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// First and last.
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl FromStr for Ports {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').ok_or(())?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| ());
        let (first, last) = (port(first)?, port(last)?);
        match 1024 <= first && first <= last {
            true => Ok(Self { first, last }),
            false => Err(()),
        }
    }
}

/// Something that may be left empty.
fn perhaps<T: FromStr>(allowed: &str) -> Shape<'static, Option<T>> {
    Shape::new(format!("empty, or {allowed}"), |value| {
        match text(value)?.trim() {
            "" => Some(None),
            written => written.parse().ok().map(Some),
        }
    })
}

impl TurnServe {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let address = "an address with a port, such as \"0.0.0.0:3478\"";
        let turn = Self {
            bind: r.shaped("rendezvous.turn.bind", &perhaps(address)),
            public_address: r.shaped(
                "rendezvous.turn.public_address",
                &perhaps("an IPv4 or IPv6 address"),
            ),
            ports: r.parsed(
                "rendezvous.turn.ports",
                "a range of ports of 1024 and more, such as \"49152-65535\"",
            ),
            secret_file: r.path("rendezvous.turn.secret_file"),
            credentials_for: r.duration("rendezvous.turn.credentials_for", ["1m", "30d"]),
            allow_private: r.boolean("rendezvous.turn.allow_private"),
            max_allocations: r.number("rendezvous.turn.max_allocations", 0..=60_000),
            user_allocations: r.number("rendezvous.turn.user_allocations", 0..=60_000),
            user_day: r.size("rendezvous.turn.user_day", 64 * KIB..=u64::MAX),
        };
        r.in_order(
            ("rendezvous.turn.user_allocations", turn.user_allocations),
            ("rendezvous.turn.max_allocations", turn.max_allocations),
        );
        let everywhere = turn.bind.is_some_and(|bind| bind.ip().is_unspecified());
        if everywhere && turn.public_address.is_none() {
            let allowed = "the address that others reach the TURN server by, since it listens on \
                           all (rendezvous.turn.bind)";
            let key = "rendezvous.turn.public_address";
            r.wrong(
                "rendezvous.turn.bind",
                key,
                allowed.to_owned(),
                "\"\"".to_owned(),
            );
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_range_that_goes_upwards() {
        assert_eq!("2000-3000".parse::<Ports>().unwrap().range(), 2000..=3000);
        assert_eq!("2000 - 2000".parse::<Ports>().unwrap().range(), 2000..=2000);
        for wrong in ["", "2000", "3000-2000", "0-9", "80-90", "2000-70000", "a-b"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
    }
}
