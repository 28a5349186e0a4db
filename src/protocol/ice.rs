//! STUN and TURN servers, as settings and a rendezvous name them.

use std::fmt;
use std::str::FromStr;

/// Most servers that are asked for one link. More only make the search for a path longer.
pub const MAX_SERVERS: usize = 8;
/// The port where none is named (RFC 8489 §18.6, RFC 8656 §18).
const DEFAULT_PORT: u16 = 3478;
/// Bytes of a host name (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IceKind {
    /// It tells us how we look from outside.
    Stun,
    /// It passes our datagrams on, for those that know its credential.
    Turn,
}

/// Where a server is: `stun:host:port` or `turn:host:port`, over UDP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IceUrl {
    /// What it does.
    pub kind: IceKind,
    /// A name, or a literal address without brackets.
    pub host: String,
    /// Its UDP port.
    pub port: u16,
}

/// Why a server's URL is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IceUrlError {
    /// Not of this form.
    #[error("a STUN or TURN server is written stun:host:port or turn:host:port")]
    Malformed,
    /// TLS or TCP.
    #[error("only STUN and TURN over UDP are used, not stuns:, turns: or transport=tcp")]
    NotUdp,
}

impl FromStr for IceUrl {
    type Err = IceUrlError;

    fn from_str(text: &str) -> Result<Self, IceUrlError> {
        let (scheme, rest) = text.split_once(':').ok_or(IceUrlError::Malformed)?;
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "stun" => IceKind::Stun,
            "turn" => IceKind::Turn,
            "stuns" | "turns" => return Err(IceUrlError::NotUdp),
            _ => return Err(IceUrlError::Malformed),
        };
        let place = match rest.split_once('?') {
            None | Some((_, "transport=udp")) => rest.split('?').next().unwrap_or(rest),
            Some((_, "transport=tcp")) => return Err(IceUrlError::NotUdp),
            Some(_) => return Err(IceUrlError::Malformed),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest.split_once(']').ok_or(IceUrlError::Malformed)?;
                let literal: Result<std::net::Ipv6Addr, _> = inner.parse();
                literal.map_err(|_| IceUrlError::Malformed)?;
                let port = match after {
                    "" => None,
                    after => Some(after.strip_prefix(':').ok_or(IceUrlError::Malformed)?),
                };
                (inner, port)
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| IceUrlError::Malformed)?,
            None => DEFAULT_PORT,
        };
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        let fits = (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(name);
        if port == 0 || !fits {
            return Err(IceUrlError::Malformed);
        }
        Ok(Self {
            kind,
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for IceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            IceKind::Stun => "stun",
            IceKind::Turn => "turn",
        };
        match self.host.contains(':') {
            true => write!(f, "{kind}:[{}]:{}", self.host, self.port),
            false => write!(f, "{kind}:{}:{}", self.host, self.port),
        }
    }
}

/// A server, and what it wants to be told.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    /// Where it is.
    pub url: IceUrl,
    /// The name that a TURN server knows us by; empty for STUN.
    pub username: String,
    /// The secret that goes with it.
    pub credential: String,
}

/// Without the credential: it would get into logs.
impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceServer({})", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn servers_are_read_and_written() {
        let cases = [
            ("stun:stun.example.org", "stun:stun.example.org:3478"),
            ("STUN:192.0.2.7:19302", "stun:192.0.2.7:19302"),
            ("turn:host:5000?transport=udp", "turn:host:5000"),
            ("turn:[2001:db8::2]:3479", "turn:[2001:db8::2]:3479"),
            ("stun:[2001:db8::2]", "stun:[2001:db8::2]:3478"),
        ];
        for (text, shown) in cases {
            let url: IceUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_not_a_server_over_udp_is_refused_with_the_reason() {
        use IceUrlError::*;
        let cases = [
            ("turns:host:443", NotUdp),
            ("stuns:host", NotUdp),
            ("turn:host?transport=tcp", NotUdp),
            ("http://host", Malformed),
            ("stun:", Malformed),
            ("stun", Malformed),
            ("stun:host:0", Malformed),
            ("stun:host:70000", Malformed),
            ("stun:ho st:1", Malformed),
            ("stun:host\u{1b}[31m", Malformed),
            ("stun:user@host", Malformed),
            ("turn:host?x=y", Malformed),
            ("stun:[fe80::1%eth0]:1", Malformed),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<IceUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_credential_is_never_shown() {
        let server = IceServer {
            url: "turn:host".parse().unwrap(),
            username: "u".to_owned(),
            credential: "hunter2".to_owned(),
        };
        assert!(!format!("{server:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_alike(text in "\\PC{0,40}|(stun|turn):[a-z0-9.:\\[\\]?]{0,30}") {
            if let Ok(url) = text.parse::<IceUrl>() {
                prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
        }
    }
}
