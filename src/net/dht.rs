//! The BitTorrent Mainline DHT, as a place where small items lie for a while (BEP 44).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, ToSocketAddrs};
use std::time::Duration;

use futures::StreamExt;
use mainline::async_dht::AsyncDht;
use mainline::{Dht as Mainline, MutableItem, SigningKey};
use tokio::time::timeout;

/// What one put or one look-up may take: two or three seconds are usual.
const LIMIT: Duration = Duration::from_secs(20);
/// Items that are looked at in one look-up: each of the nodes around it may say something else.
const MAX_ITEMS: usize = 64;

/// How to be part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhtOptions {
    /// Nodes that are asked first, as `host:port`; those that everybody knows where there are none.
    pub bootstrap: Vec<String>,
    /// Stay on loopback.
    pub loopback: bool,
}

/// Why something is not in the DHT.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// Too few nodes answered, or they have something newer.
    #[error("the DHT did not take it: {0}")]
    Refused(String),
    /// Nothing came back.
    #[error("the DHT has not answered for {} s", LIMIT.as_secs())]
    Silent,
}

/// Part of the DHT, until it is dropped. It runs on a thread of its own.
#[derive(Clone)]
pub struct Dht(AsyncDht);

impl std::fmt::Debug for Dht {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dht")
    }
}

impl Dht {
    /// Joins it. This looks names up, so it blocks.
    ///
    /// # Errors
    /// When there is no socket, or none of the nodes that were named has an address.
    pub fn start(options: &DhtOptions) -> io::Result<Self> {
        let mut builder = Mainline::builder();
        if !options.bootstrap.is_empty() {
            let known = options.bootstrap.iter().flat_map(to_v4);
            let known: Vec<SocketAddrV4> = known.collect();
            if known.is_empty() {
                let text = "none of the nodes in dht.bootstrap has an IPv4 address";
                return Err(io::Error::other(text));
            }
            builder.bootstrap(&known);
        }
        if options.loopback {
            builder.bind_address(Ipv4Addr::LOCALHOST);
        }
        Ok(Self(builder.build()?.as_async()))
    }

    /// Whether any other node answers.
    pub async fn answers(&self) -> bool {
        matches!(timeout(LIMIT, self.0.bootstrapped()).await, Ok(true))
    }

    /// The address that other nodes see us at, once they have said so.
    pub async fn seen_at(&self) -> Option<Ipv4Addr> {
        let info = timeout(LIMIT, self.0.info()).await.ok()?;
        info.public_address().map(|at| *at.ip())
    }

    /// Puts an item under the key pair of `seed`. Of two, that with the higher `order` stays.
    ///
    /// # Errors
    /// When no node has taken it.
    pub async fn put(&self, seed: &[u8; 32], item: &[u8], order: i64) -> Result<(), DhtError> {
        let item = MutableItem::new(SigningKey::from_bytes(seed), item, order, None);
        match timeout(LIMIT, self.0.put_mutable(item, None)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(DhtError::Refused(error.to_string())),
            Err(_) => Err(DhtError::Silent),
        }
    }

    /// Everything that nodes have under the key pair of `seed`, each once, in no order.
    pub async fn get(&self, seed: &[u8; 32]) -> Vec<Vec<u8>> {
        let key = SigningKey::from_bytes(seed).verifying_key();
        let mut found: Vec<Vec<u8>> = Vec::new();
        let all = self.0.get_mutable(key.as_bytes(), None, None);
        let mut all = all.take(MAX_ITEMS);
        let reading = async {
            while let Some(item) = all.next().await {
                if !found.iter().any(|known| *known == item.value()) {
                    found.push(item.value().to_vec());
                }
            }
        };
        // What has come until then counts.
        let _ = timeout(LIMIT, reading).await;
        found
    }
}

/// The DHT of this kind has IPv4 addresses only.
fn to_v4(place: &String) -> Vec<SocketAddrV4> {
    let found = place.to_socket_addrs().into_iter().flatten();
    let v4 = found.filter_map(|at| match at {
        std::net::SocketAddr::V4(v4) => Some(v4),
        std::net::SocketAddr::V6(_) => None,
    });
    v4.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_one_puts_the_other_finds_and_the_newest_stays() {
        let net = mainline::Testnet::builder(8).build().unwrap();
        let options = DhtOptions {
            bootstrap: net.bootstrap.clone(),
            loopback: true,
        };
        let (one, other) = (Dht::start(&options).unwrap(), Dht::start(&options).unwrap());
        assert!(other.get(&[7; 32]).await.is_empty());
        one.put(&[7; 32], b"first", 1).await.unwrap();
        assert_eq!(other.get(&[7; 32]).await, [b"first"]);
        one.put(&[7; 32], b"second", 2).await.unwrap();
        assert_eq!(other.get(&[7; 32]).await, [b"second"]);
        assert!(other.get(&[8; 32]).await.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dht_of_which_no_node_answers_is_told_from_one_that_does() {
        let net = mainline::Testnet::builder(3).build().unwrap();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().unwrap().to_string();
        for (bootstrap, answers) in [(net.bootstrap.clone(), true), (vec![silent], false)] {
            let options = DhtOptions {
                bootstrap,
                loopback: true,
            };
            assert_eq!(Dht::start(&options).unwrap().answers().await, answers);
        }
    }

    #[test]
    fn bootstrap_nodes_without_an_address_are_an_error() {
        let options = DhtOptions {
            bootstrap: vec!["[::1]:9".to_owned()],
            loopback: true,
        };
        let error = Dht::start(&options).unwrap_err();
        assert!(error.to_string().contains("dht.bootstrap"), "{error}");
    }
}
