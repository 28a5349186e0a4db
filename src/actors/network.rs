//! Which of this machine's addresses are used, looked up anew for every connection: a laptop
//! moves, and a kiosk boots before its network is there.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tracing::warn;

use crate::config::{Interface, Settings};
use crate::net::interfaces::{self, InterfaceAddress, Selection};
use crate::net::link::LinkOptions;
use crate::protocol::candidate::{CandidateError, CandidatePolicy, Reach};
use crate::protocol::ice::{IceKind, IceServer, MAX_SERVERS};

/// Host candidates in one description: more only make the search for a path longer.
const MAX_ADDRESSES: usize = 8;
/// Bytes in an SCTP packet on links that leave our networks: with the headers of a TURN server it
/// still fits the tunnels that home lines are behind.
const FAR_MTU: u32 = 1191;
/// Bytes of a file with a TURN server's credential.
const MAX_CREDENTIAL: u64 = 1024;

/// The interfaces that the settings choose.
pub fn selection(settings: &Settings) -> Selection {
    let discovery = &settings.discovery;
    if discovery.loopback_only {
        Selection::Loopback
    } else if discovery.interfaces.is_empty() {
        Selection::All
    } else {
        let names = discovery
            .interfaces
            .iter()
            .map(|interface| match interface {
                Interface::Name(name) => name.clone(),
                Interface::Address(address) => address.to_string(),
            });
        Selection::Chosen(names.collect())
    }
}

fn used(settings: &Settings) -> Vec<InterfaceAddress> {
    let all = interfaces::list().unwrap_or_else(|error| {
        warn!(%error, "the system does not tell its network addresses");
        Vec::new()
    });
    for name in interfaces::unknown(&all, &selection(settings)) {
        warn!(name, "no interface is called so (discovery.interfaces)");
    }
    used_of(&all, settings)
}

/// Those of all addresses that the settings choose.
fn used_of(all: &[InterfaceAddress], settings: &Settings) -> Vec<InterfaceAddress> {
    let loopback = settings.network.loopback || settings.discovery.loopback_only;
    let mut used = interfaces::select(all, &selection(settings));
    used.extend(
        all.iter()
            .filter(|a| loopback && a.ip.is_loopback())
            .cloned(),
    );
    used.dedup();
    used
}

/// The addresses of this machine that may be used now, in order.
///
/// # Errors
/// When the system does not tell.
pub fn own_addresses(settings: &Settings) -> std::io::Result<Vec<IpAddr>> {
    Ok(usable(&used_of(&interfaces::list()?, settings)))
}

/// The addresses that a link can be made from, in order, each once.
fn usable(addresses: &[InterfaceAddress]) -> Vec<IpAddr> {
    let usable = addresses.iter().map(|a| a.ip).filter(|ip| is_usable(*ip));
    let mut usable: Vec<IpAddr> = usable.collect();
    usable.sort();
    usable.dedup();
    usable
}

/// Where other machines may reach the signaling listener at this port.
pub fn reachable(settings: &Settings, port: u16) -> Vec<SocketAddr> {
    let bound = settings.signaling.bind;
    if !bound.is_unspecified() {
        return vec![SocketAddr::new(bound, port)];
    }
    let mut ips = link_options(settings).addresses;
    ips.retain(|ip| bound.is_ipv6() || ip.is_ipv4());
    ips.into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect()
}

/// Options for a link made now.
pub fn link_options(settings: &Settings) -> LinkOptions {
    let network = &settings.network;
    let addresses = if network.addresses.is_empty() {
        let mut addresses = usable(&used(settings));
        addresses.truncate(MAX_ADDRESSES);
        addresses
    } else {
        network.addresses.clone()
    };
    LinkOptions {
        addresses,
        loopback: network.loopback || settings.discovery.loopback_only,
        ice: Vec::new(),
        udp_buffer: network.udp_buffer as usize,
        mtu: u32::from(network.mtu),
        send_buffer: network.send_buffer as usize,
        ice_disconnected: network.ice_disconnected,
        ice_failed: network.ice_failed,
    }
}

/// The same for a device so far away. `told` are the servers that a rendezvous has named.
pub fn link_options_to(settings: &Settings, reach: Reach, told: &[IceServer]) -> LinkOptions {
    let mut options = link_options(settings);
    if reach == Reach::Anywhere {
        options.ice = ice_servers(settings, told);
        options.mtu = options.mtu.min(FAR_MTU);
    }
    options
}

/// The STUN and TURN servers that may be asked now: those of the settings first.
pub fn ice_servers(settings: &Settings, told: &[IceServer]) -> Vec<IceServer> {
    let network = &settings.network;
    let turn = |kind| kind == IceKind::Turn;
    let needed = network.ice_servers.iter().any(|url| turn(url.kind));
    let credential = match &network.ice_credential_file {
        Some(path) if needed => read_credential(path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "no credential for TURN (network.ice_credential_file)");
            String::new()
        }),
        _ => String::new(),
    };
    let own = network.ice_servers.iter().map(|url| IceServer {
        url: url.clone(),
        username: match turn(url.kind) {
            true => network.ice_username.clone(),
            false => String::new(),
        },
        credential: match turn(url.kind) {
            true => credential.clone(),
            false => String::new(),
        },
    });
    let all = own.chain(told.iter().cloned());
    // A TURN server that gets no credential only costs time.
    let useful = all.filter(|server| !turn(server.url.kind) || !server.credential.is_empty());
    useful.take(MAX_SERVERS).collect()
}

fn read_credential(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_CREDENTIAL).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// How far a device may be that we signal with at one of these addresses: off our networks are
/// only those that the DHT has led to us or us to.
pub fn reach_of(settings: &Settings, addresses: &[IpAddr]) -> Reach {
    if !settings.dht.enabled {
        return Reach::Link;
    }
    let here = candidate_policy(settings, Reach::Link);
    let far = |ip: &IpAddr| here.check_address(*ip, 1) == Err(CandidateError::ElsewhereOnTheNet);
    match addresses.iter().any(far) {
        true => Reach::Anywhere,
        false => Reach::Link,
    }
}

/// What of a note's addresses is worth a try: any host, as for candidates.
pub fn worth_dialling(settings: &Settings, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let policy = candidate_policy(settings, Reach::Anywhere);
    let fits = |at: &&SocketAddr| policy.check_address(at.ip(), at.port()).is_ok();
    addresses.iter().filter(fits).copied().collect()
}

/// Where a device on another network may reach the signaling listener at this port: first what the
/// settings say, then as the DHT sees us, then our own addresses.
pub fn reachable_from_afar(
    settings: &Settings,
    port: u16,
    seen_at: Option<IpAddr>,
) -> Vec<SocketAddr> {
    let mut all = settings.dht.addresses.clone();
    all.extend(seen_at.map(|ip| SocketAddr::new(ip, port)));
    for at in reachable(settings, port) {
        if !all.contains(&at) {
            all.push(at);
        }
    }
    worth_dialling(settings, &all)
}

/// Link-local IPv6 needs a scope, which candidates do not carry; IPv6 loopback adds nothing to
/// that of IPv4.
fn is_usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
    }
}

/// Which candidates of a device so far away are believed now.
pub fn candidate_policy(settings: &Settings, reach: Reach) -> CandidatePolicy {
    CandidatePolicy {
        reach,
        allow_loopback: settings.network.loopback || settings.discovery.loopback_only,
        on_link: interfaces::networks(&used(settings)),
        networks: settings
            .network
            .networks
            .iter()
            .map(|network| network.as_pair())
            .collect(),
    }
}

/// Where the signaling listener is bound.
pub fn signaling_address(settings: &Settings) -> SocketAddr {
    SocketAddr::new(settings.signaling.bind, settings.signaling.port)
}
