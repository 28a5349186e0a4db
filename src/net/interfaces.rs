//! The network interfaces of this machine, and which of them we use.

use std::io;
use std::net::IpAddr;

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's name, such as `eth0`.
    pub name: String,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network prefix.
    pub prefix: u8,
    /// The interface's number, which link-local IPv6 addresses need.
    pub index: Option<u32>,
}

/// Which interfaces are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection {
    /// All except loopback.
    #[default]
    All,
    /// Only loopback: tests, and the demo on one machine.
    Loopback,
    /// Those that a person named, by interface name or by one of their addresses. Loopback too,
    /// when named.
    Chosen(Vec<String>),
}

impl Selection {
    /// Whether an address of an interface belongs to it. An address in the list stands for
    /// that address alone, a name for all addresses of the interface.
    pub fn takes(&self, name: &str, ip: IpAddr) -> bool {
        match self {
            Self::All => !ip.is_loopback(),
            Self::Loopback => ip.is_loopback(),
            Self::Chosen(wanted) => wanted
                .iter()
                .any(|w| w == name || w.parse::<IpAddr>().is_ok_and(|wanted| wanted == ip)),
        }
    }
}

/// All addresses of all interfaces that are up, with loopback.
///
/// # Errors
/// When the operating system does not tell.
pub fn list() -> io::Result<Vec<InterfaceAddress>> {
    let mut found: Vec<_> = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(if_addrs::Interface::is_oper_up)
        .map(|interface| {
            let (ip, prefix) = match &interface.addr {
                if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
                if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
            };
            InterfaceAddress {
                name: interface.name,
                ip,
                prefix,
                index: interface.index,
            }
        })
        .collect();
    found.sort_by(|a, b| (&a.name, a.ip).cmp(&(&b.name, b.ip)));
    Ok(found)
}

/// Those addresses that belong to the selection.
pub fn select(all: &[InterfaceAddress], selection: &Selection) -> Vec<InterfaceAddress> {
    let taken = all.iter().filter(|a| selection.takes(&a.name, a.ip));
    taken.cloned().collect()
}

/// What [`Selection::Chosen`] names although nothing here is called so: worth a warning.
pub fn unknown<'a>(all: &[InterfaceAddress], selection: &'a Selection) -> Vec<&'a str> {
    let Selection::Chosen(wanted) = selection else {
        return Vec::new();
    };
    let is_known = |w: &String| {
        let one = Selection::Chosen(vec![w.clone()]);
        all.iter().any(|a| one.takes(&a.name, a.ip))
    };
    let unknown = wanted.iter().filter(|w| !is_known(w));
    unknown.map(String::as_str).collect()
}

/// The networks that the addresses lie in, as the candidate policy wants them.
pub fn networks(addresses: &[InterfaceAddress]) -> Vec<(IpAddr, u8)> {
    addresses.iter().map(|a| (a.ip, a.prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str, ip: &str) -> InterfaceAddress {
        InterfaceAddress {
            name: name.into(),
            ip: ip.parse().unwrap(),
            prefix: 24,
            index: None,
        }
    }

    fn selected(selection: &Selection) -> Vec<String> {
        let all = [
            address("lo", "127.0.0.1"),
            address("eth0", "10.0.0.2"),
            address("eth0", "fe80::2"),
            address("docker0", "172.17.0.1"),
        ];
        let taken = select(&all, selection);
        taken.iter().map(|a| a.ip.to_string()).collect()
    }

    #[test]
    fn interfaces_are_chosen_by_name_or_address_and_loopback_only_on_request() {
        assert_eq!(
            selected(&Selection::All),
            ["10.0.0.2", "fe80::2", "172.17.0.1"]
        );
        assert_eq!(selected(&Selection::Loopback), ["127.0.0.1"]);
        let chosen = |names: &[&str]| {
            selected(&Selection::Chosen(
                names.iter().map(|n| n.to_string()).collect(),
            ))
        };
        assert_eq!(chosen(&["eth0"]), ["10.0.0.2", "fe80::2"]);
        assert_eq!(chosen(&["10.0.0.2", "lo"]), ["127.0.0.1", "10.0.0.2"]);
        assert!(chosen(&["wlan0"]).is_empty());
    }

    #[test]
    fn names_that_no_interface_has_are_told() {
        let all = [address("eth0", "10.0.0.2")];
        let selection = Selection::Chosen(vec!["eth0".into(), "wlan0".into(), "10.0.0.3".into()]);
        assert_eq!(unknown(&all, &selection), ["wlan0", "10.0.0.3"]);
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        let all = list().unwrap();
        assert!(all.iter().any(|a| a.ip.is_loopback() && a.prefix >= 8));
    }
}
