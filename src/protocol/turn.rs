//! What a TURN server of ours holds its clients to: credentials that expire, and whom it sends
//! datagrams to. Nothing here knows a socket or a clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use data_encoding::BASE64;
use ring::hmac;

/// Longest name of a user, in bytes.
pub const MAX_USER: usize = 128;

/// What a client shows a TURN server.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnCredential {
    /// `<when it expires, in Unix seconds>:<user>`
    pub username: String,
    /// base64(HMAC-SHA1(secret, username)), as all TURN servers that know this scheme have it.
    pub credential: String,
}

impl TurnCredential {
    /// A credential of `user` that holds until `expires`.
    pub fn new(secret: &[u8], user: &str, expires: u64) -> Self {
        let username = format!("{expires}:{user}");
        let credential = password(secret, &username);
        Self {
            username,
            credential,
        }
    }
}

/// Without the credential: it would get into logs.
impl std::fmt::Debug for TurnCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TurnCredential({:?})", self.username)
    }
}

/// The password that goes with a username.
pub fn password(secret: &[u8], username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    BASE64.encode(hmac::sign(&key, username.as_bytes()).as_ref())
}

/// The user that a username is of, while it holds.
pub fn user_of(username: &str, now: u64) -> Option<&str> {
    let (expires, user) = username.split_once(':')?;
    let digits = expires.bytes().all(|b| b.is_ascii_digit());
    let expires: u64 = expires.parse().ok().filter(|_| digits)?;
    let fits = (1..=MAX_USER).contains(&user.len());
    (fits && now < expires).then_some(user)
}

/// No host can have such an address, or everybody has it.
fn is_nobody(ip: IpAddr) -> bool {
    let nobody = match ip {
        IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 240..),
        IpAddr::V6(_) => false,
    };
    nobody || ip.is_unspecified() || ip.is_multicast()
}

fn is_inner_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_loopback()
        || ip.is_link_local()
        || ip.is_private()
        || (a == 100 && (64..128).contains(&b)) // shared by providers, RFC 6598
        || (a == 198 && (b & 0xfe) == 18) // benchmarks, RFC 2544
        || (a, b, c) == (192, 0, 0) // RFC 6890
}

fn is_inner_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    ip.is_loopback()
        || ip.is_unicast_link_local()
        || ip.is_unique_local()
        || (s[0] & 0xffc0) == 0xfec0 // site-local of old
        || s[0] == 0x2002 // 6to4, Teredo and NAT64 wrap IPv4 addresses of any kind
        || (s[0], s[1]) == (0x2001, 0)
        || (s[0], s[1]) == (0x64, 0xff9b)
        || s[..6] == [0; 6] // ::a.b.c.d
}

/// Whether a relay may exchange datagrams with such an address. Without `allow_private` only with
/// those of the public net, so that nobody reaches the server's own network, or the server itself,
/// through it.
pub fn may_relay(ip: IpAddr, allow_private: bool) -> bool {
    let ip = ip.to_canonical();
    let inner = match ip {
        IpAddr::V4(v4) => is_inner_v4(v4),
        IpAddr::V6(v6) => is_inner_v6(v6),
    };
    !is_nobody(ip) && (allow_private || !inner)
}

/// What a datagram for the server's own port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// To be passed on.
    Data,
    /// It asks for something.
    Request {
        /// RFC 8489 §5: what.
        method: u16,
        /// How many peers it names.
        peers: usize,
    },
    /// Nothing for a server.
    Other,
}

/// The method that asks how one looks from outside.
pub const BINDING: u16 = 1;
/// The method that asks for an address on the server.
pub const ALLOCATE: u16 = 3;
const SEND: u16 = 6;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

impl Heading {
    /// Reads the beginning of a datagram, and the types of its attributes.
    pub fn of(datagram: &[u8]) -> Self {
        let (Some(&[a, b, c, d]), Some(magic)) = (datagram.first_chunk(), datagram.get(4..8))
        else {
            return Self::Other;
        };
        if (0x40..0x80).contains(&a) {
            return Self::Data;
        }
        let length = usize::from(u16::from_be_bytes([c, d]));
        let Some(mut rest) = datagram.get(20..20 + length) else {
            return Self::Other;
        };
        if a >= 0x40 || magic != MAGIC {
            return Self::Other;
        }
        let kind = u16::from_be_bytes([a, b]);
        // The two bits of the class lie between those of the method.
        let method = (kind & 0xf) | ((kind & 0xe0) >> 1) | ((kind & 0x3e00) >> 2);
        match (kind & 0x0110, method) {
            (0x0010, SEND) => return Self::Data,
            (0x0000, _) => {}
            _ => return Self::Other,
        }
        let mut peers = 0;
        while let Some(&[t1, t2, l1, l2]) = rest.first_chunk() {
            if u16::from_be_bytes([t1, t2]) == XOR_PEER_ADDRESS {
                peers += 1;
            }
            let length = usize::from(u16::from_be_bytes([l1, l2])).next_multiple_of(4);
            rest = rest.get(4 + length..).unwrap_or_default();
        }
        Self::Request { method, peers }
    }
}

/// Asks a STUN server how we look from there. The id must be random.
pub fn binding_request(id: [u8; 12]) -> [u8; 20] {
    let mut request = [0; 20];
    request[1] = 1;
    request[4..8].copy_from_slice(&MAGIC);
    request[8..].copy_from_slice(&id);
    request
}

/// What a STUN server answers to that.
pub fn binding_answer(datagram: &[u8], id: [u8; 12]) -> Option<SocketAddr> {
    let head = datagram.first_chunk::<20>()?;
    let fits = head[..2] == [1, 1] && head[4..8] == MAGIC && head[8..] == id;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let mut rest = datagram.get(20..20 + length).filter(|_| fits)?;
    while let Some(&[t1, t2, l1, l2]) = rest.first_chunk() {
        let length = usize::from(u16::from_be_bytes([l1, l2]));
        let value = rest.get(4..4 + length)?;
        if u16::from_be_bytes([t1, t2]) == XOR_MAPPED_ADDRESS {
            return unmasked(value, &id);
        }
        rest = rest
            .get(4 + length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    None
}

/// RFC 8489 §14.2.
fn unmasked(value: &[u8], id: &[u8; 12]) -> Option<SocketAddr> {
    let (&[_, family, p1, p2], ip) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([p1 ^ MAGIC[0], p2 ^ MAGIC[1]]);
    let mask = MAGIC.iter().chain(id);
    let ip: Vec<u8> = ip.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    let ip: IpAddr = match family {
        1 => <[u8; 4]>::try_from(ip).ok()?.into(),
        2 => <[u8; 16]>::try_from(ip).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_credential_is_that_of_the_usual_scheme_and_expires() {
        // By `printf 1000:ada | openssl dgst -sha1 -hmac secret -binary | base64`.
        let made = TurnCredential::new(b"secret", "ada", 1000);
        assert_eq!(made.username, "1000:ada");
        assert_eq!(made.credential, "l7mYx5x7akZ9Ywt1jJ0TrYh8n44=");
        assert_eq!(user_of(&made.username, 999), Some("ada"));
        assert_eq!(user_of(&made.username, 1000), None);
        assert!(!format!("{made:?}").contains(&made.credential));
        let long = format!("9:{}", "a".repeat(MAX_USER + 1));
        for wrong in ["", "ada", "1000", ":ada", "+9:ada", "9:", "x:ada", &long] {
            assert_eq!(user_of(wrong, 0), None, "{wrong}");
        }
        assert_eq!(user_of("9:a:b", 0), Some("a:b"));
    }

    #[test]
    fn nobody_reaches_an_inner_network_through_a_relay() {
        let public = [
            "203.0.113.7",
            "8.8.8.8",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
        ];
        let inner = [
            "127.0.0.1",
            "127.8.8.8",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.254",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.19.0.1",
            "192.0.0.8",
            "::1",
            "fe80::1",
            "fd00::1",
            "fec0::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "2001::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
        ];
        let nobody = [
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "240.0.0.1",
            "224.0.0.1",
            "::",
            "ff02::1",
        ];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for text in public {
            assert!(
                may_relay(ip(text), false) && may_relay(ip(text), true),
                "{text}"
            );
        }
        for text in inner {
            assert!(!may_relay(ip(text), false), "{text}");
            assert!(may_relay(ip(text), true), "{text}");
        }
        for text in nobody {
            assert!(
                !may_relay(ip(text), false) && !may_relay(ip(text), true),
                "{text}"
            );
        }
    }

    fn stun(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, value) in attributes {
            body.extend(name.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut out = kind.to_be_bytes().to_vec();
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(MAGIC);
        out.extend([7; 12]);
        out.extend(body);
        out
    }

    #[test]
    fn datagrams_are_told_apart_and_the_peers_of_a_request_counted() {
        let request = |method, peers| Heading::Request { method, peers };
        let peer: (u16, &[u8]) = (XOR_PEER_ADDRESS, &[0; 8]);
        let odd: (u16, &[u8]) = (0x0006, b"abc");
        assert_eq!(Heading::of(&stun(0x0001, &[])), request(BINDING, 0));
        assert_eq!(Heading::of(&stun(0x0003, &[odd])), request(ALLOCATE, 0));
        assert_eq!(
            Heading::of(&stun(0x0008, &[odd, peer, odd, peer])),
            request(8, 2)
        );
        assert_eq!(Heading::of(&stun(0x0016, &[peer])), Heading::Data);
        assert_eq!(Heading::of(&[0x40, 0, 0, 1, 9, 0, 0, 0]), Heading::Data);
        // Answers, other indications, no magic, cut off.
        for other in [stun(0x0101, &[]), stun(0x0111, &[]), stun(0x0011, &[])] {
            assert_eq!(Heading::of(&other), Heading::Other);
        }
        assert_eq!(Heading::of(&[0; 40]), Heading::Other);
        assert_eq!(Heading::of(&stun(0x0001, &[peer])[..24]), Heading::Other);
    }

    #[test]
    fn what_a_stun_server_sees_is_read_from_its_answer_to_us_alone() {
        // RFC 5769 §2.2: 192.0.2.1:32853.
        let id = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let mapped: (u16, &[u8]) = (
            XOR_MAPPED_ADDRESS,
            &[0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43],
        );
        let software: (u16, &[u8]) = (0x8022, b"test vector");
        let mut answer = stun(0x0101, &[software, mapped]);
        answer[8..20].copy_from_slice(&id);
        let seen = Some("192.0.2.1:32853".parse().unwrap());
        assert_eq!(binding_answer(&answer, id), seen);
        assert_eq!(binding_answer(&answer, [1; 12]), None);
        assert_eq!(binding_answer(&answer[..answer.len() - 1], id), None);
        assert_eq!(
            Heading::of(&binding_request(id)),
            Heading::Request {
                method: BINDING,
                peers: 0
            }
        );
    }

    proptest! {
        #[test]
        fn no_datagram_panics(datagram: Vec<u8>, attributes: Vec<u8>) {
            binding_answer(&datagram, [7; 12]);
            let mut answer = stun(0x0101, &[]);
            answer[2..4].copy_from_slice(&(attributes.len() as u16).to_be_bytes());
            answer.extend(&attributes);
            binding_answer(&answer, [7; 12]);
            Heading::of(&datagram);
            let mut framed = stun(0x0008, &[]);
            framed[2..4].copy_from_slice(&(attributes.len() as u16).to_be_bytes());
            framed.extend(attributes);
            Heading::of(&framed);
        }
    }
}
