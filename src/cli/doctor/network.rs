//! What of the network may stand in the way: which interfaces there are, whether multicast passes
//! in and out, and whether devices that are heard of can be reached.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Finding, Level};
use crate::actors::api::PeerInfo;
use crate::cli::text::foreign;
use crate::cli::view::MAX_NAME;
use crate::config::{Interface, Settings};
use crate::net::interfaces::{self, InterfaceAddress, Selection};

/// Where mDNS is spoken (RFC 6762).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
/// How long a TCP connection on one network may take.
const REACH: Duration = Duration::from_secs(2);
/// Devices that are tried.
const MOST_REACHED: usize = 32;

/// The interfaces that are used, and what is to be said about them.
pub struct Interfaces {
    pub used: Vec<InterfaceAddress>,
    pub found: Vec<Finding>,
}

/// What an interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wired,
    Wireless,
    Vpn,
    Container,
}

/// Judges by the name, and by what the kernel tells of it (`Documentation/ABI/testing/sysfs-class-net`).
fn kind(name: &str) -> Kind {
    let told = |what: &str| fs::read_to_string(format!("/sys/class/net/{name}/{what}"));
    let is = |what: &str| fs::metadata(format!("/sys/class/net/{name}/{what}")).is_ok();
    let begins = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    // ARPHRD_NONE, ARPHRD_PPP, ARPHRD_TUNNEL: no Ethernet below.
    let link = told("type").unwrap_or_default();
    if begins(&[
        "tun",
        "tap",
        "wg",
        "ppp",
        "tailscale",
        "zt",
        "nebula",
        "utun",
    ]) || is("tun_flags")
        || matches!(link.trim(), "65534" | "512" | "768")
    {
        Kind::Vpn
    } else if begins(&[
        "docker", "br-", "virbr", "cni", "podman", "lxc", "lxd", "vnet", "flannel", "cali",
    ]) || (begins(&["veth"]))
    {
        Kind::Container
    } else if is("wireless") || is("phy80211") {
        Kind::Wireless
    } else {
        Kind::Wired
    }
}

/// Looks at the interfaces.
pub fn interfaces(settings: &Settings) -> Interfaces {
    let all = match interfaces::list() {
        Ok(all) => all,
        Err(error) => {
            let what = format!("the system does not tell its network addresses: {error}");
            return Interfaces {
                used: Vec::new(),
                found: vec![Finding::new(Level::Problem, "interfaces", what)],
            };
        }
    };
    let discovery = &settings.discovery;
    let selection = if discovery.loopback_only {
        Selection::Loopback
    } else if discovery.interfaces.is_empty() {
        Selection::All
    } else {
        let words = discovery
            .interfaces
            .iter()
            .map(|interface| match interface {
                Interface::Name(name) => name.clone(),
                Interface::Address(address) => address.to_string(),
            });
        Selection::Chosen(words.collect())
    };
    let mut found = Vec::new();
    for name in interfaces::unknown(&all, &selection) {
        let what = format!("none is called {name:?}, or it is down");
        let there: BTreeSet<&str> = all.iter().map(|a| a.name.as_str()).collect();
        let there: Vec<&str> = there.into_iter().collect();
        let todo = format!("discovery.interfaces: there are {}", there.join(", "));
        found.push(Finding::new(Level::Problem, "interfaces", what).todo(todo));
    }
    let used = interfaces::select(&all, &selection);
    if used.is_empty() {
        let what = "no network interface with an address is up: nobody can be reached";
        found.push(
            Finding::new(Level::Problem, "interfaces", what)
                .todo("plug the cable in, or join the wireless network; see: ip address"),
        );
    }
    let names: BTreeSet<&str> = used.iter().map(|a| a.name.as_str()).collect();
    let real: Vec<&str> = names
        .iter()
        .filter(|name| matches!(kind(name), Kind::Wired | Kind::Wireless))
        .copied()
        .collect();
    for name in &names {
        let at: Vec<String> = used
            .iter()
            .filter(|a| a.name == *name)
            .map(|a| format!("{}/{}", a.ip, a.prefix))
            .collect();
        let at = at.join(", ");
        let only = format!("discovery.interfaces = {real:?}");
        found.push(match kind(name) {
            Kind::Wired => Finding::fine("interfaces", format!("{name} at {at}")),
            Kind::Wireless => Finding::new(
                Level::Note,
                "interfaces",
                format!("{name} at {at} is wireless: many networks isolate clients there"),
            ),
            Kind::Vpn => Finding::new(
                Level::Warning,
                "interfaces",
                format!("{name} at {at} is a VPN: devices of this room are not behind it, and traffic may take it"),
            )
            .todo(only),
            Kind::Container => Finding::new(
                Level::Warning,
                "interfaces",
                format!("{name} at {at} is for containers or virtual machines: no device of this room is behind it"),
            )
            .todo(only),
        });
    }
    Interfaces { used, found }
}

/// The networks of the interfaces that are used, for people.
pub fn subnets(used: &[InterfaceAddress]) -> Vec<String> {
    let mut all: Vec<String> = used
        .iter()
        .filter_map(|a| match a.ip {
            IpAddr::V4(ip) if a.prefix <= 32 => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(a.prefix))
                    .unwrap_or_default();
                let network = Ipv4Addr::from(u32::from(ip) & mask);
                Some(format!("{network}/{}", a.prefix))
            }
            _ => None,
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// What was heard on one interface.
struct Heard {
    ourselves: bool,
    others: BTreeSet<Ipv4Addr>,
}

/// Sends a question to everybody on each interface, and hears who speaks.
pub fn multicast(used: &[InterfaceAddress], wait: Duration) -> Vec<Finding> {
    let ours: Vec<IpAddr> = used.iter().map(|a| a.ip).collect();
    let trying: Vec<_> = used
        .iter()
        .filter_map(|address| match address.ip {
            IpAddr::V4(ip) => Some((address.name.clone(), ip)),
            IpAddr::V6(_) => None,
        })
        .map(|(name, ip)| {
            let ours = ours.clone();
            let tried = thread::spawn(move || ask_everybody(ip, &ours, wait));
            (name, tried)
        })
        .collect();
    trying
        .into_iter()
        .map(|(name, tried)| {
            let heard = tried
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("it cannot be tried")));
            judge(&name, heard)
        })
        .collect()
}

fn judge(name: &str, heard: io::Result<Heard>) -> Finding {
    let allow = "on this machine let UDP port 5353 in and out: nft insert rule inet filter input udp \
                 dport 5353 accept; or: ufw allow 5353/udp; or: firewall-cmd --add-service=mdns";
    match heard {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let what = format!("{name}: a firewall on this machine does not let mDNS out");
            Finding::new(Level::Problem, "multicast", what).todo(allow)
        }
        Err(error) => {
            let what = format!("{name}: mDNS cannot be sent: {error}");
            Finding::new(Level::Problem, "multicast", what)
                .todo("see that the interface is up and takes multicast: ip link")
        }
        Ok(Heard {
            ourselves: false,
            others,
        }) if others.is_empty() => {
            let what = format!(
                "{name}: not even our own question came back: a firewall on this machine keeps mDNS \
                 out"
            );
            Finding::new(Level::Problem, "multicast", what).todo(allow)
        }
        Ok(Heard { others, .. }) if others.is_empty() => {
            let what = format!(
                "{name}: it goes out, and nobody else is heard: no other device speaks mDNS here, or \
                 the network drops multicast or isolates clients"
            );
            Finding::new(Level::Warning, "multicast", what).todo(
                "start handout on another device and run this again; if it still hears nobody, give \
                 `handout doctor --for-it` to who runs the network, or name devices by their \
                 addresses (--to ID@HOST:PORT, discovery.static_peers)",
            )
        }
        Ok(Heard { others, .. }) => {
            let count = others.len();
            let what = format!("{name}: out and in; others heard: {count}");
            Finding::fine("multicast", what)
        }
    }
}

fn ask_everybody(ip: Ipv4Addr, ours: &[IpAddr], wait: Duration) -> io::Result<Heard> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Else it would hear what comes on other interfaces, for other programs.
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT).into())?;
    socket.join_multicast_v4(&GROUP, &ip)?;
    socket.set_multicast_if_v4(&ip)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(255)?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let question = question(id);
    socket.send_to(&question, &SocketAddrV4::new(GROUP, PORT).into())?;
    let (end, mut again) = (Instant::now() + wait, Instant::now() + wait / 2);
    let mut heard = Heard {
        ourselves: false,
        others: BTreeSet::new(),
    };
    let socket = UdpSocket::from(socket);
    let mut buffer = [0; 9000];
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(heard);
        }
        if now >= again {
            // Wireless networks lose multicast.
            socket.send_to(&question, (GROUP, PORT))?;
            again = end;
        }
        let step = (end - now).min(Duration::from_millis(100));
        socket.set_read_timeout(Some(step))?;
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let SocketAddr::V4(from) = from else {
            continue;
        };
        if !ours.contains(&IpAddr::V4(*from.ip())) {
            heard.others.insert(*from.ip());
        } else if length == question.len() {
            heard.ourselves |= buffer[..length] == question[..];
        }
    }
}

/// A question for all services that there are (RFC 6763, 9), with an id that marks it as ours.
fn question(id: [u8; 2]) -> Vec<u8> {
    let mut packet = vec![id[0], id[1], 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["_services", "_dns-sd", "_udp", "local"] {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    // PTR, IN.
    packet.extend([0, 12, 0, 1]);
    packet
}

/// Whether devices that are heard of can be reached: where they cannot, clients are isolated from
/// each other, or a firewall is there.
pub fn reach(peers: &[PeerInfo]) -> Vec<Finding> {
    let trying: Vec<_> = peers
        .iter()
        .filter(|peer| !peer.connected && !peer.addresses.is_empty())
        .take(MOST_REACHED)
        .map(|peer| {
            let name = format!(
                "{} ({})",
                foreign(&peer.name, MAX_NAME),
                peer.device_id.short()
            );
            let addresses: Vec<SocketAddr> = peer
                .addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect();
            let tried = thread::spawn(move || {
                let mut why = None;
                for address in addresses {
                    match TcpStream::connect_timeout(&address, REACH) {
                        Ok(_) => return Ok(address),
                        Err(error) => why = Some((address, error)),
                    }
                }
                Err(why)
            });
            (name, tried)
        })
        .collect();
    let mut found = Vec::new();
    let connected = peers.iter().filter(|peer| peer.connected).count();
    let mut reached = 0;
    for (name, tried) in trying {
        match tried.join() {
            Ok(Ok(_)) => reached += 1,
            Ok(Err(Some((address, error)))) => {
                let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                let what = format!("{name} is heard of, and {address} cannot be reached: {error}");
                found.push(
                    Finding::new(Level::Problem, "reach", what).todo(match refused {
                        true => "it is there, but handout does not run on it any more, or its \
                                 firewall refuses: start it there, and run this there"
                            .to_owned(),
                        false => format!(
                            "on that device let TCP port {} in; if it does, the network isolates \
                             clients from each other: give `handout doctor --for-it` to who runs it",
                            address.port()
                        ),
                    }),
                );
            }
            _ => {}
        }
    }
    if reached + connected > 0 {
        let what = format!("{} devices can be reached", reached + connected);
        found.push(Finding::fine("reach", what));
    } else if found.is_empty() {
        let what = "no device was heard of, so none was tried";
        found.push(Finding::new(Level::Note, "reach", what));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_told_apart_by_their_names() {
        assert_eq!(kind("wg0"), Kind::Vpn);
        assert_eq!(kind("tun7"), Kind::Vpn);
        assert_eq!(kind("docker0"), Kind::Container);
        assert_eq!(kind("br-1234"), Kind::Container);
        assert_eq!(kind("br0"), Kind::Wired, "a bridge of the machine itself");
        assert_eq!(kind("enp3s0"), Kind::Wired);
    }

    #[test]
    fn the_question_is_one_of_dns() {
        let packet = question([1, 2]);
        assert_eq!(packet.len(), 12 + 10 + 8 + 5 + 6 + 1 + 4);
        assert_eq!(packet[..6], [1, 2, 0, 0, 0, 1]);
    }

    #[test]
    fn networks_are_named_once() {
        let address = |ip: &str, prefix| InterfaceAddress {
            name: "eth0".to_owned(),
            ip: ip.parse().unwrap(),
            prefix,
            index: None,
        };
        let used = [
            address("10.1.2.3", 16),
            address("10.1.9.9", 16),
            address("192.168.1.77", 24),
            address("fd00::1", 64),
        ];
        assert_eq!(subnets(&used), ["10.1.0.0/16", "192.168.1.0/24"]);
        assert_eq!(subnets(&[address("10.0.0.1", 0)]), ["0.0.0.0/0"]);
    }
}
