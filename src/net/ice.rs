//! STUN and TURN servers for a link, by their addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::warn;
use webrtc::peer_connection::RTCIceServer;

use crate::protocol::ice::{IceKind, IceServer};

/// What looking up a server's name may take. The stack would look names up on the task that moves
/// a link's packets, so it only ever gets addresses.
const LOOKUP_LIMIT: Duration = Duration::from_secs(1);

/// The servers with addresses for names, all looked up at once. Those that have none in time are
/// left out, and said.
pub async fn resolve(servers: &[IceServer]) -> Vec<RTCIceServer> {
    let looking = servers.iter().map(|server| async move {
        let url = &server.url;
        let found = timeout(LOOKUP_LIMIT, addresses(&url.host, url.port)).await;
        let addresses = match found {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                warn!(server = %url, %error, "this STUN or TURN server has no address");
                return None;
            }
            Err(_) => {
                let seconds = LOOKUP_LIMIT.as_secs();
                warn!(server = %url, seconds, "nobody says what address this STUN or TURN server has");
                return None;
            }
        };
        let scheme = match url.kind {
            IceKind::Stun => "stun",
            IceKind::Turn => "turn",
        };
        let urls = addresses.iter().map(|at| format!("{scheme}:{at}"));
        Some(RTCIceServer {
            urls: urls.collect(),
            username: server.username.clone(),
            credential: server.credential.clone(),
        })
    });
    join_all(looking).await.into_iter().flatten().collect()
}

/// One address of each kind that a name has.
///
/// # Errors
/// When nobody knows the name.
pub async fn addresses(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let all: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let one = |v4: bool| all.iter().find(|at| at.is_ipv4() == v4).copied();
    Ok([one(true), one(false)].into_iter().flatten().collect())
}

/// What the stack asks us to look up: an address and port, brackets or not.
pub fn literal(place: &str) -> Option<SocketAddr> {
    place.parse().ok().or_else(|| {
        let (host, port) = place.rsplit_once(':')?;
        Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_places_are_read_with_and_without_brackets() {
        let v6: SocketAddr = "[2001:db8::2]:3478".parse().unwrap();
        assert_eq!(literal("[2001:db8::2]:3478"), Some(v6));
        assert_eq!(literal("2001:db8::2:3478"), Some(v6));
        assert_eq!(literal("192.0.2.1:9"), Some("192.0.2.1:9".parse().unwrap()));
        assert_eq!(literal("example.org:9"), None);
    }
}
