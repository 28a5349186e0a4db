//! The addresses that the TURN server gives away, and what may pass through them.

use std::any::Any;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::net::UdpSocket;
use turn::relay::RelayAddressGenerator;
use webrtc_util::Conn;

use super::accounts::{Accounts, Place};
use crate::protocol::turn::may_relay;

/// Ports that are tried for one address.
const TRIES: u16 = 64;

/// Where relays are, and whom they talk to.
#[derive(Debug)]
pub struct Ground {
    /// The address that their sockets are bound to.
    pub bind: IpAddr,
    /// The address that others know them by.
    pub public: IpAddr,
    /// Their ports.
    pub ports: RangeInclusive<u16>,
    /// They may talk to inner networks.
    pub allow_private: bool,
    /// All addresses of this machine.
    pub own: Vec<IpAddr>,
    /// The ports that are given away now: others of the range may be some other program's.
    pub given: Mutex<HashSet<u16>>,
}

impl Ground {
    fn given(&self) -> MutexGuard<'_, HashSet<u16>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of the relays, by the address that others know it by.
    fn is_relay(&self, at: SocketAddr) -> bool {
        at.ip().to_canonical() == self.public && self.given().contains(&at.port())
    }

    fn may_talk_to(&self, at: SocketAddr) -> bool {
        let ip = at.ip().to_canonical();
        let own = !self.allow_private && (self.own.contains(&ip) || ip == self.public);
        self.is_relay(at) || (at.port() != 0 && !own && may_relay(ip, self.allow_private))
    }

    /// Where packets for that address really go: another relay of ours is reached directly, since
    /// not every router sends back what comes from inside for its own address.
    fn way_to(&self, at: SocketAddr) -> SocketAddr {
        match self.is_relay(at) && !self.bind.is_unspecified() {
            true => SocketAddr::new(self.bind, at.port()),
            false => at,
        }
    }

    /// The address that others know the sender by.
    fn known_as(&self, from: SocketAddr) -> SocketAddr {
        let inside = from.ip() == self.bind && self.given().contains(&from.port());
        match inside {
            true => SocketAddr::new(self.public, from.port()),
            false => from,
        }
    }
}

/// Gives addresses away, to the user that was authenticated last. Datagrams are looked at one by
/// one, so that is whoever asks.
pub struct Addresses {
    /// Where.
    pub ground: Arc<Ground>,
    /// To whom, and how many.
    pub accounts: Arc<Accounts>,
    /// Who has shown a credential in the datagram that is being looked at.
    pub user: Arc<Mutex<Option<String>>>,
}

fn refused(text: &str) -> turn::Error {
    turn::Error::Other(text.to_owned())
}

#[async_trait]
impl RelayAddressGenerator for Addresses {
    fn validate(&self) -> Result<(), turn::Error> {
        Ok(())
    }

    async fn allocate_conn(
        &self,
        use_ipv4: bool,
        requested_port: u16,
    ) -> Result<(Arc<dyn Conn + Send + Sync>, SocketAddr), turn::Error> {
        let ground = &self.ground;
        if use_ipv4 != ground.bind.is_ipv4() {
            return Err(refused("no address of that family"));
        }
        let user = self.user.lock().unwrap_or_else(PoisonError::into_inner);
        let user = user.clone().ok_or_else(|| refused("nobody asks"))?;
        let place = self.accounts.take(&user, Instant::now());
        let place = place.ok_or_else(|| refused("too many addresses, or bytes of today"))?;
        let bound = match requested_port {
            0 => bind_any(ground),
            port if ground.ports.contains(&port) => bind(ground.bind, port),
            _ => return Err(refused("not one of the relays' ports")),
        };
        let socket = bound.map_err(|error| refused(&error.to_string()))?;
        let port = socket
            .local_addr()
            .map_err(|error| refused(&error.to_string()))?
            .port();
        ground.given().insert(port);
        let relay = Relay {
            socket,
            port,
            ground: Arc::clone(ground),
            place,
        };
        Ok((Arc::new(relay), SocketAddr::new(ground.public, port)))
    }
}

fn bind(ip: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((ip, port))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Some port of the range, from one that nobody can guess.
fn bind_any(ground: &Ground) -> io::Result<UdpSocket> {
    let mut random = [0; 2];
    getrandom::fill(&mut random)?;
    let (first, last) = (*ground.ports.start(), *ground.ports.end());
    let width = u32::from(last.saturating_sub(first)) + 1;
    let begin = u32::from(u16::from_be_bytes(random));
    let mut failed = io::Error::from(io::ErrorKind::AddrInUse);
    for n in 0..TRIES.into() {
        let offset = (begin + n) % width;
        // `offset` is less than the width of a range of ports.
        let port = first.saturating_add(offset as u16);
        match bind(ground.bind, port) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The socket of one address that was given away.
struct Relay {
    socket: UdpSocket,
    port: u16,
    ground: Arc<Ground>,
    place: Place,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Before the socket is closed, after which the port may be anybody's.
        self.ground.given().remove(&self.port);
    }
}

type Answer<T> = Result<T, webrtc_util::Error>;

#[async_trait]
impl Conn for Relay {
    async fn connect(&self, _: SocketAddr) -> Answer<()> {
        Err(webrtc_util::Error::Other("a relay is not connected".into()))
    }

    async fn recv(&self, buf: &mut [u8]) -> Answer<usize> {
        Ok(self.recv_from(buf).await?.0)
    }

    async fn recv_from(&self, buf: &mut [u8]) -> Answer<(usize, SocketAddr)> {
        loop {
            // An unreachable peer shows as an error here, and is none of the relay's.
            let Ok((length, from)) = self.socket.recv_from(buf).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let from = self.ground.known_as(from);
            if !self.ground.may_talk_to(from) {
                self.place.refuse();
            } else if self.place.carry(length, Instant::now()) {
                return Ok((length, from));
            }
        }
    }

    async fn send(&self, _: &[u8]) -> Answer<usize> {
        Err(webrtc_util::Error::Other("a relay is not connected".into()))
    }

    async fn send_to(&self, buf: &[u8], target: SocketAddr) -> Answer<usize> {
        if !self.ground.may_talk_to(target) {
            self.place.refuse();
            let text = format!("datagrams for {} are not passed on", target.ip());
            return Err(webrtc_util::Error::Other(text));
        }
        if !self.place.carry(buf.len(), Instant::now()) {
            let text = "this user's bytes of today are spent".to_owned();
            return Err(webrtc_util::Error::Other(text));
        }
        Ok(self.socket.send_to(buf, self.ground.way_to(target)).await?)
    }

    fn local_addr(&self) -> Answer<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        None
    }

    async fn close(&self) -> Answer<()> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground(allow_private: bool) -> Ground {
        Ground {
            bind: [192, 168, 0, 2].into(),
            public: [203, 0, 113, 9].into(),
            ports: 50_000..=50_010,
            allow_private,
            own: vec![[192, 168, 0, 2].into(), [198, 51, 100, 7].into()],
            given: Mutex::new([50_003].into()),
        }
    }

    #[test]
    fn a_relay_talks_to_the_public_net_and_to_other_relays_and_never_to_the_server() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let closed = ground(false);
        for allowed in ["203.0.113.10:9", "203.0.113.9:50003", "[2606:4700::1]:9"] {
            assert!(closed.may_talk_to(at(allowed)), "{allowed}");
        }
        let refused = [
            "203.0.113.9:8080",
            "203.0.113.9:50004",
            "203.0.113.9:50011",
            "198.51.100.7:53",
            "192.168.0.2:50003",
            "192.168.0.3:80",
            "127.0.0.1:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:203.0.113.9]:8080",
            "203.0.113.10:0",
        ];
        for refused in refused {
            assert!(!closed.may_talk_to(at(refused)), "{refused}");
        }
        assert!(ground(true).may_talk_to(at("192.168.0.3:80")));
        assert!(!ground(true).may_talk_to(at("224.0.0.1:80")));
    }

    #[test]
    fn relays_reach_each_other_without_the_router() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let ground = ground(false);
        assert_eq!(
            ground.way_to(at("203.0.113.9:50003")),
            at("192.168.0.2:50003")
        );
        assert_eq!(
            ground.way_to(at("203.0.113.9:50004")),
            at("203.0.113.9:50004")
        );
        assert_eq!(
            ground.known_as(at("192.168.0.2:50003")),
            at("203.0.113.9:50003")
        );
        assert_eq!(
            ground.known_as(at("192.168.0.3:50003")),
            at("192.168.0.3:50003")
        );
        assert_eq!(
            ground.known_as(at("192.168.0.2:50004")),
            at("192.168.0.2:50004")
        );
    }
}
