//! ICE candidates of others: hints, so read strictly and filtered (PROTOCOL.md §3).

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use super::sdp;

/// Most candidates taken in one negotiation.
pub const MAX_CANDIDATES: usize = 32;
const MAX_LINE: usize = 1024;

/// What kind of address a candidate has (RFC 8445 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CandidateKind {
    /// An address of the device itself.
    Host,
    /// As seen by a STUN server.
    ServerReflexive,
    /// As seen by the other side.
    PeerReflexive,
    /// On a TURN server.
    Relay,
}

/// Where a candidate points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CandidateAddress {
    /// A literal address.
    Ip(IpAddr),
    /// A browser's `<uuid>.local` name. Never resolved: the browser's own checks reach us.
    Local,
}

/// One candidate, read from its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Groups candidates of the same base.
    pub foundation: String,
    /// 1, because data channels have no RTCP.
    pub component: u16,
    /// RFC 8445 §5.1.2.
    pub priority: u32,
    /// Where.
    pub address: CandidateAddress,
    /// UDP port.
    pub port: u16,
    /// What kind of address.
    pub kind: CandidateKind,
    /// The connection it says it belongs to, where it says so.
    pub ufrag: Option<String>,
}

/// Why a candidate is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CandidateError {
    /// Not a candidate at all.
    #[error("not an ICE candidate")]
    Malformed,
    /// The mark for "no more candidates".
    #[error("the end of the candidates")]
    End,
    /// TCP, or something unknown.
    #[error("only UDP candidates are used")]
    NotUdp,
    /// A `.local` name.
    #[error("names are not resolved")]
    Name,
    /// No host can have this address or port.
    #[error("the address is unspecified, multicast, broadcast, or port 0")]
    NoHost,
    /// Loopback, and not enabled.
    #[error("loopback addresses are not enabled")]
    Loopback,
    /// Neither on the link nor in a configured network.
    #[error("the address is neither on this link nor in a configured network")]
    ElsewhereOnTheNet,
    /// It means something on one link only, and that is not ours.
    #[error("the address is of another link")]
    OtherLink,
    /// It names another connection.
    #[error("the candidate belongs to another connection (its ufrag differs)")]
    OtherConnection,
}

/// The JSON form, as browsers make it.
#[derive(Deserialize)]
struct Json {
    candidate: String,
    #[serde(rename = "usernameFragment")]
    ufrag: Option<String>,
}

impl Candidate {
    /// Reads the bare line `candidate:…` (with or without `a=`), or the JSON form.
    ///
    /// # Errors
    /// [`CandidateError::Malformed`], [`CandidateError::End`], [`CandidateError::NotUdp`].
    pub fn parse(text: &str) -> Result<Self, CandidateError> {
        if text.len() > MAX_LINE {
            return Err(CandidateError::Malformed);
        }
        let text = text.trim();
        if text.starts_with('{') {
            let json: Json = serde_json::from_str(text).map_err(|_| CandidateError::Malformed)?;
            let mut candidate = Self::parse_line(json.candidate.trim())?;
            match (&candidate.ufrag, json.ufrag) {
                (Some(a), Some(b)) if *a != b => return Err(CandidateError::OtherConnection),
                (None, Some(b)) => candidate.ufrag = Some(b),
                _ => {}
            }
            return Ok(candidate);
        }
        Self::parse_line(text)
    }

    fn parse_line(line: &str) -> Result<Self, CandidateError> {
        let malformed = CandidateError::Malformed;
        let line = line.strip_prefix("a=").unwrap_or(line);
        if line.is_empty() || line == "candidate:" || line == "end-of-candidates" {
            return Err(CandidateError::End);
        }
        let mut words = line
            .strip_prefix("candidate:")
            .ok_or(malformed)?
            .split_ascii_whitespace();
        let mut word = || words.next().ok_or(malformed);
        let foundation = word()?;
        // ice-char (RFC 8839 §5.1), and what else implementations write.
        if foundation.len() > 32 || !foundation.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(malformed);
        }
        let component = word()?.parse().map_err(|_| malformed)?;
        let transport = word()?;
        let priority = word()?.parse().map_err(|_| malformed)?;
        let address = word()?;
        let port = word()?.parse().map_err(|_| malformed)?;
        if word()? != "typ" {
            return Err(malformed);
        }
        let kind = match word()? {
            "host" => CandidateKind::Host,
            "srflx" => CandidateKind::ServerReflexive,
            "prflx" => CandidateKind::PeerReflexive,
            "relay" => CandidateKind::Relay,
            _ => return Err(malformed),
        };
        if !transport.eq_ignore_ascii_case("udp") {
            return Err(CandidateError::NotUdp);
        }
        let address = match address.parse::<IpAddr>() {
            Ok(ip) => CandidateAddress::Ip(ip.to_canonical()),
            Err(_) if address.to_ascii_lowercase().ends_with(".local") => CandidateAddress::Local,
            Err(_) => return Err(malformed),
        };
        let mut ufrag = None;
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if name == "ufrag" {
                ufrag = Some(value.to_owned());
            }
        }
        Ok(Self {
            foundation: foundation.to_owned(),
            component,
            priority,
            address,
            port,
            kind,
            ufrag,
        })
    }
}

/// The line, written anew from what was read: nothing else of what came is passed on.
/// Reflexive and relayed candidates get an empty related address, as browsers write it.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, empty) = match self.kind {
            CandidateKind::Host => ("host", ""),
            CandidateKind::ServerReflexive => ("srflx", " raddr 0.0.0.0 rport 0"),
            CandidateKind::PeerReflexive => ("prflx", " raddr 0.0.0.0 rport 0"),
            CandidateKind::Relay => ("relay", " raddr 0.0.0.0 rport 0"),
        };
        let Self {
            foundation,
            component,
            priority,
            port,
            ..
        } = self;
        write!(f, "candidate:{foundation} {component} udp {priority} ")?;
        match &self.address {
            CandidateAddress::Ip(ip) => write!(f, "{ip}")?,
            CandidateAddress::Local => f.write_str("unresolved.local")?,
        }
        write!(f, " {port} typ {kind}{empty}")
    }
}

/// How far from here a device may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// On a network of ours, or in a configured one: whom we met there.
    #[default]
    Link,
    /// Wherever there is a way: a device that is let in, and that we met through a rendezvous or
    /// the DHT. Its candidates may be those of NATs and TURN servers.
    Anywhere,
}

/// Which candidates of others we send packets to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CandidatePolicy {
    /// How far away the other side may be.
    pub reach: Reach,
    /// Take 127.0.0.0/8 and ::1, for several programs on one machine.
    pub allow_loopback: bool,
    /// The addresses of our own interfaces and the length of their network prefixes.
    pub on_link: Vec<(IpAddr, u8)>,
    /// More networks that the config allows.
    pub networks: Vec<(IpAddr, u8)>,
}

impl CandidatePolicy {
    /// Checks one candidate.
    ///
    /// # Errors
    /// Why it is not used.
    pub fn check(&self, candidate: &Candidate) -> Result<IpAddr, CandidateError> {
        let CandidateAddress::Ip(ip) = candidate.address else {
            return Err(CandidateError::Name);
        };
        self.check_address(ip, candidate.port)?;
        Ok(ip)
    }

    /// Checks an address that packets would be sent to.
    ///
    /// # Errors
    /// Why it is not used.
    pub fn check_address(&self, ip: IpAddr, port: u16) -> Result<(), CandidateError> {
        let ip = ip.to_canonical();
        let broadcast = match ip {
            IpAddr::V4(v4) => {
                // 0.0.0.0/8 is nobody, 240.0.0.0/4 is nobody's yet.
                matches!(v4.octets()[0], 0 | 240..)
                    || self
                        .on_link
                        .iter()
                        .any(|net| is_broadcast_of(v4.into(), *net))
            }
            IpAddr::V6(_) => false,
        };
        if port == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
            return Err(CandidateError::NoHost);
        }
        if ip.is_loopback() {
            return match self.allow_loopback {
                true => Ok(()),
                false => Err(CandidateError::Loopback),
            };
        }
        let mut known = self.on_link.iter().chain(&self.networks);
        if known.any(|net| contains(*net, ip)) {
            return Ok(());
        }
        match self.reach {
            Reach::Link => Err(CandidateError::ElsewhereOnTheNet),
            Reach::Anywhere if is_of_one_link(ip) => Err(CandidateError::OtherLink),
            Reach::Anywhere => Ok(()),
        }
    }

    /// Reads a candidate message and checks it: policy, and that it belongs to the connection
    /// with this `ufrag` (where both say).
    ///
    /// # Errors
    /// Why it is not used.
    pub fn read(&self, text: &str, ufrag: Option<&str>) -> Result<Candidate, CandidateError> {
        let candidate = Candidate::parse(text)?;
        if let (Some(said), Some(signed)) = (&candidate.ufrag, ufrag)
            && said != signed
        {
            return Err(CandidateError::OtherConnection);
        }
        self.check(&candidate)?;
        Ok(candidate)
    }
}

/// True when `ip` lies in the network of the address and prefix length `net`.
pub fn contains(net: (IpAddr, u8), ip: IpAddr) -> bool {
    let (bits, net_bits, ip_bits) = match (net.0.to_canonical(), ip.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (32, u128::from(a.to_bits()), u128::from(b.to_bits())),
        (IpAddr::V6(a), IpAddr::V6(b)) => (128, a.to_bits(), b.to_bits()),
        _ => return false,
    };
    let host_bits = bits - u32::from(net.1).min(bits);
    (net_bits ^ ip_bits).checked_shr(host_bits).unwrap_or(0) == 0
}

/// Link-local addresses mean another host on each link.
fn is_of_one_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_broadcast_of(ip: IpAddr, net: (IpAddr, u8)) -> bool {
    let IpAddr::V4(v4) = ip else { return false };
    let host_bits = 32u32.saturating_sub(u32::from(net.1));
    let ones = 1u64.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1) as u32;
    net.0.is_ipv4() && host_bits >= 2 && contains(net, ip) && v4.to_bits() & ones == ones
}

/// The SDP text with only those `a=candidate` lines that the policy takes, at most
/// [`MAX_CANDIDATES`], written anew; everything else stays as it is, so a proof still holds.
pub fn filter_sdp(sdp: &str, policy: &CandidatePolicy) -> String {
    let mut out = String::with_capacity(sdp.len());
    let mut taken = 0;
    for line in sdp.split_inclusive('\n') {
        let is_candidate = sdp::attribute(line)
            .is_some_and(|(name, _)| name.to_ascii_lowercase().starts_with("candidate"));
        if !is_candidate {
            out.push_str(line);
        } else if taken < MAX_CANDIDATES
            && let Ok(candidate) = policy.read(line, None)
        {
            taken += 1;
            let end = &line[line.trim_end_matches(['\r', '\n']).len()..];
            out.push_str(&format!("a={candidate}{end}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> CandidatePolicy {
        CandidatePolicy {
            reach: Reach::Link,
            allow_loopback: false,
            on_link: vec![
                ("192.168.1.5".parse().unwrap(), 24),
                ("fe80::1".parse().unwrap(), 64),
            ],
            networks: vec![("10.0.0.0".parse().unwrap(), 8)],
        }
    }

    fn read(address: &str, port: u16) -> Result<Candidate, CandidateError> {
        policy().read(
            &format!("candidate:1 1 udp 5 {address} {port} typ host"),
            None,
        )
    }

    #[test]
    fn both_forms_are_read_and_written_anew() {
        let line = "candidate:842163049 1 UDP 1677729535 10.1.2.3 46154 typ srflx raddr 192.168.1.9 rport 46154 generation 0 ufrag EEtu network-id 3";
        let bare = policy().read(line, Some("EEtu")).unwrap();
        let json = serde_json::json!({ "candidate": line, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "EEtu" });
        assert_eq!(
            policy().read(&json.to_string(), Some("EEtu")),
            Ok(bare.clone())
        );
        assert_eq!(
            bare.to_string(),
            "candidate:842163049 1 udp 1677729535 10.1.2.3 46154 typ srflx raddr 0.0.0.0 rport 0"
        );
        assert_eq!(
            policy().read(line, Some("other")),
            Err(CandidateError::OtherConnection)
        );
        assert_eq!(
            Candidate::parse(r#"{"candidate":""}"#),
            Err(CandidateError::End)
        );
    }

    #[test]
    fn only_hosts_on_the_link_or_in_configured_networks_are_taken() {
        use CandidateError::*;
        let cases = [
            ("192.168.1.77", 5, Ok(())),
            ("::ffff:192.168.1.77", 5, Ok(())),
            ("10.255.0.1", 5, Ok(())),
            ("fe80::77", 5, Ok(())),
            ("192.168.2.77", 5, Err(ElsewhereOnTheNet)),
            ("2001:db8::1", 5, Err(ElsewhereOnTheNet)),
            ("192.168.1.77", 0, Err(NoHost)),
            ("192.168.1.255", 5, Err(NoHost)),
            ("255.255.255.255", 5, Err(NoHost)),
            ("224.0.0.251", 5, Err(NoHost)),
            ("ff02::fb", 5, Err(NoHost)),
            ("0.0.0.0", 5, Err(NoHost)),
            ("::", 5, Err(NoHost)),
            ("127.0.0.1", 5, Err(Loopback)),
            ("::ffff:127.0.0.1", 5, Err(Loopback)),
            ("::1", 5, Err(Loopback)),
            ("0a1b.local", 5, Err(Name)),
            ("example.org", 5, Err(Malformed)),
            ("fe80::1%eth0", 5, Err(Malformed)),
        ];
        for (address, port, expected) in cases {
            assert_eq!(
                read(address, port).map(|_| ()),
                expected,
                "{address} {port}"
            );
        }
        let tcp = "candidate:1 1 tcp 5 192.168.1.7 9 typ host tcptype active";
        assert_eq!(policy().read(tcp, None), Err(NotUdp));
        let looped = CandidatePolicy {
            allow_loopback: true,
            ..Default::default()
        };
        assert_eq!(
            looped.check_address("127.0.0.1".parse().unwrap(), 5),
            Ok(())
        );
    }

    #[test]
    fn whom_we_met_elsewhere_may_be_anywhere_but_here_and_nowhere() {
        use CandidateError::*;
        let far = CandidatePolicy {
            reach: Reach::Anywhere,
            ..policy()
        };
        let cases = [
            ("203.0.113.5", Ok(())),
            ("2001:db8::1", Ok(())),
            ("172.16.0.9", Ok(())),
            ("192.168.1.77", Ok(())),
            ("127.0.0.1", Err(Loopback)),
            ("::ffff:127.0.0.1", Err(Loopback)),
            ("::1", Err(Loopback)),
            ("0.0.0.1", Err(NoHost)),
            ("255.255.255.255", Err(NoHost)),
            ("250.1.2.3", Err(NoHost)),
            ("192.168.1.255", Err(NoHost)),
            ("224.0.0.251", Err(NoHost)),
            ("ff02::fb", Err(NoHost)),
            ("169.254.1.1", Err(OtherLink)),
            // The lab's own link: not another one.
            ("fe80::77", Ok(())),
            ("x.local", Err(Name)),
        ];
        for kind in [
            "host",
            "srflx raddr 10.0.0.1 rport 9",
            "relay raddr 0.0.0.0 rport 9",
        ] {
            for (address, expected) in cases {
                let line = format!("candidate:1 1 udp 5 {address} 9 typ {kind}");
                let read = far.read(&line, None).map(|_| ());
                assert_eq!(read, expected, "{line}");
            }
        }
        assert_eq!(
            far.check_address("203.0.113.5".parse().unwrap(), 0),
            Err(NoHost)
        );
    }

    #[test]
    fn an_sdp_keeps_only_the_candidates_that_pass_and_all_its_other_lines() {
        let sdp = "v=0\r\na=x\r\na=candidate:1 1 udp 5 192.168.1.7 9 typ host ufrag x\r\n\
                   a=candidate:2 1 udp 5 8.8.8.8 9 typ host\r\na= candidate:3 1 udp 5 8.8.8.8 9 typ host\r\n\
                   a=candidate:4 1 udp 5 x.local 9 typ host\r\na=end-of-candidates\r\n";
        let expected =
            "v=0\r\na=x\r\na=candidate:1 1 udp 5 192.168.1.7 9 typ host\r\na=end-of-candidates\r\n";
        assert_eq!(filter_sdp(sdp, &policy()), expected);
        let many = "a=candidate:1 1 udp 5 192.168.1.7 9 typ host\n".repeat(100);
        assert_eq!(filter_sdp(&many, &policy()).lines().count(), MAX_CANDIDATES);
    }

    #[test]
    fn a_candidate_of_any_length_is_not_read() {
        let line = "candidate:1 1 udp 1 192.168.1.5 50000 typ host";
        let long = |spaces| Candidate::parse(&(line.to_owned() + &" ".repeat(spaces)));
        assert!(long(MAX_LINE - line.len()).is_ok());
        assert_eq!(
            long(MAX_LINE - line.len() + 1),
            Err(CandidateError::Malformed)
        );
    }

    #[test]
    fn networks_of_any_prefix_length_compare_without_overflow() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert!(contains((ip("0.0.0.0"), 0), ip("8.8.8.8")));
        assert!(contains((ip("::"), 0), ip("2001:db8::1")));
        assert!(contains((ip("10.0.0.1"), 200), ip("10.0.0.1")));
        assert!(!contains((ip("10.0.0.1"), 32), ip("10.0.0.2")));
        assert!(!contains((ip("::"), 0), ip("8.8.8.8")));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,80}", tail in "[ -~]{0,80}") {
            let _ = Candidate::parse(&text);
            let _ = Candidate::parse(&format!("candidate:1 1 udp 5 {tail}"));
            let _ = filter_sdp(&format!("a=candidate:{text}\na={tail}"), &policy());
        }

        #[test]
        fn what_was_written_reads_the_same(priority: u32, port in 1u16.., v4: [u8; 4], v6: [u8; 16], six: bool, kind in 0usize..4) {
            let candidate = Candidate {
                foundation: "f1".into(), component: 1, priority, port,
                address: CandidateAddress::Ip(if six { IpAddr::from(v6).to_canonical() } else { v4.into() }),
                kind: [CandidateKind::Host, CandidateKind::ServerReflexive, CandidateKind::PeerReflexive, CandidateKind::Relay][kind],
                ufrag: None,
            };
            prop_assert_eq!(Candidate::parse(&candidate.to_string()), Ok(candidate));
        }
    }
}
