//! `[dht]`: finding devices of other networks without any server.

use std::net::SocketAddr;
use std::str::FromStr;

use super::reader::Reader;

/// `[dht]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhtSettings {
    /// Put notes down for authorized devices, and look for theirs.
    pub enabled: bool,
    /// Nodes that are asked first; those that everybody knows where there are none.
    pub bootstrap: Vec<HostPort>,
    /// Where others reach the signaling listener from outside, besides our own addresses.
    pub addresses: Vec<SocketAddr>,
}

/// `host:port`, where host is a name or an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort(String);

impl HostPort {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostPort {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let fits = (1..=253).contains(&host.len()) && host.bytes().all(name);
        match port.parse::<u16>() {
            Ok(1..) if fits => Ok(Self(text.to_owned())),
            _ => Err(()),
        }
    }
}

impl DhtSettings {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            enabled: r.boolean("dht.enabled"),
            bootstrap: r.list("dht.bootstrap", "\"host:port\""),
            addresses: r.list(
                "dht.addresses",
                "addresses with a port, such as \"203.0.113.5:7000\"",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_a_host_and_a_port() {
        for right in ["router.example.org:6881", "192.0.2.1:1"] {
            assert_eq!(right.parse::<HostPort>().unwrap().as_str(), right);
        }
        for wrong in ["", "host", "host:0", "host:70000", ":1", "a b:1", "[::1]:1"] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
    }
}
