//! What we read out of an SDP text, whoever wrote it: the facts that a proof signs.
//!
//! The WebRTC stack parses the same text with its own parser. Where the two could see different
//! things (lines broken by a lone carriage return, several values of one attribute) the text is
//! refused here.

use super::framer::MAX_OBJECT;

/// Why the facts of an SDP text cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Longer than a signaling message can be.
    #[error("the SDP has {0} bytes, more than {MAX_OBJECT}")]
    TooLong(usize),
    /// Characters that have no place in an SDP text.
    #[error("the SDP holds control characters")]
    ControlCharacters,
    /// An attribute that every WebRTC description has is not there.
    #[error("the SDP has no a={0} line")]
    Missing(&'static str),
    /// An attribute's value makes no sense.
    #[error("the SDP has an a={0} line that cannot be read")]
    Malformed(&'static str),
    /// The same attribute with two values.
    #[error("the SDP has two different a={0} lines")]
    Contradicting(&'static str),
}

/// Which side of the DTLS handshake the writer takes (RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Either: left to the answer.
    ActPass,
    /// It opens the handshake.
    Active,
    /// It waits for it.
    Passive,
}

impl Setup {
    /// The word in the SDP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ActPass => "actpass",
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

/// The facts of an SDP text that tie it to one connection of one device.
#[derive(Clone, PartialEq, Eq)]
pub struct SdpFacts {
    /// SHA-256 of the DTLS certificate; the same in all `a=fingerprint` lines.
    pub fingerprint: [u8; 32],
    /// `a=setup`.
    pub setup: Setup,
    /// `a=ice-ufrag`.
    pub ufrag: String,
    /// `a=ice-pwd`.
    pub pwd: String,
}

impl std::fmt::Debug for SdpFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The password opens the ICE checks, so it stays out of logs.
        f.debug_struct("SdpFacts")
            .field("setup", &self.setup)
            .field("ufrag", &self.ufrag)
            .finish_non_exhaustive()
    }
}

/// The `a=` lines of an SDP text, in order: name and value (empty without a colon), trimmed.
pub fn attributes(sdp: &str) -> impl Iterator<Item = (&str, &str)> {
    sdp.split('\n').filter_map(attribute)
}

/// One line as an attribute, or `None` when it is something else.
pub fn attribute(line: &str) -> Option<(&str, &str)> {
    let body = line.trim().strip_prefix("a=")?;
    let (name, value) = body.split_once(':').unwrap_or((body, ""));
    Some((name.trim(), value.trim()))
}

impl SdpFacts {
    /// Reads the facts, at session and at media level alike.
    ///
    /// # Errors
    /// [`SdpError`] when one is missing, unreadable, or there with two values.
    pub fn read(sdp: &str) -> Result<Self, SdpError> {
        if sdp.len() > MAX_OBJECT {
            return Err(SdpError::TooLong(sdp.len()));
        }
        let lines = || {
            sdp.split('\n')
                .map(|line| line.strip_suffix('\r').unwrap_or(line))
        };
        if lines().any(|line| line.chars().any(|c| c.is_control() && c != '\t')) {
            return Err(SdpError::ControlCharacters);
        }
        let (mut fingerprint, mut setup, mut ufrag, mut pwd) = (None, None, None, None);
        for (name, value) in attributes(sdp) {
            // Names are case-sensitive (RFC 8866 §6). Ours are compared without case, so that a
            // more generous parser finds nothing that was not looked at here.
            match name.to_ascii_lowercase().as_str() {
                "fingerprint" => same(
                    &mut fingerprint,
                    read_fingerprint(value).ok_or(SdpError::Malformed("fingerprint"))?,
                    "fingerprint",
                )?,
                "setup" => {
                    let value = match value {
                        "actpass" => Setup::ActPass,
                        "active" => Setup::Active,
                        "passive" => Setup::Passive,
                        _ => return Err(SdpError::Malformed("setup")),
                    };
                    same(&mut setup, value, "setup")?;
                }
                "ice-ufrag" => same(&mut ufrag, token(value, 4, "ice-ufrag")?, "ice-ufrag")?,
                "ice-pwd" => same(&mut pwd, token(value, 22, "ice-pwd")?, "ice-pwd")?,
                _ => {}
            }
        }
        Ok(Self {
            fingerprint: fingerprint.ok_or(SdpError::Missing("fingerprint"))?,
            setup: setup.ok_or(SdpError::Missing("setup"))?,
            ufrag: ufrag.ok_or(SdpError::Missing("ice-ufrag"))?.to_owned(),
            pwd: pwd.ok_or(SdpError::Missing("ice-pwd"))?.to_owned(),
        })
    }
}

fn same<T: PartialEq>(slot: &mut Option<T>, value: T, name: &'static str) -> Result<(), SdpError> {
    match slot {
        Some(before) if *before != value => Err(SdpError::Contradicting(name)),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// ICE credentials: visible ASCII of the lengths of RFC 8839 §5.4.
fn token<'a>(value: &'a str, min: usize, name: &'static str) -> Result<&'a str, SdpError> {
    let fits = (min..=256).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
    fits.then_some(value).ok_or(SdpError::Malformed(name))
}

/// `sha-256 AB:CD:…` (RFC 8122). Other hash functions are not taken.
fn read_fingerprint(value: &str) -> Option<[u8; 32]> {
    let (function, hex) = value.split_once(' ')?;
    if !function.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut out = [0; 32];
    let mut pairs = hex.trim().split(':');
    for byte in &mut out {
        let pair = pairs.next()?;
        let is_hex = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = is_hex.then(|| u8::from_str_radix(pair, 16).ok())??;
    }
    pairs.next().is_none().then_some(out)
}

/// An SDP text for tests: one data-channel section with the given credentials.
#[cfg(test)]
pub(crate) fn example(fingerprint: u8, setup: &str, ufrag: &str, pwd: &str) -> String {
    let hex = vec![format!("{fingerprint:02X}"); 32].join(":");
    format!(
        "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 {hex}\r\n\
         a=group:BUNDLE 0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
         c=IN IP4 0.0.0.0\r\na=setup:{setup}\r\na=mid:0\r\na=sctp-port:5000\r\n\
         a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n\
         a=candidate:1 1 udp 2130706431 192.168.1.5 50000 typ host\r\na=end-of-candidates\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PWD: &str = "0123456789abcdef012345";

    #[test]
    fn facts_are_found_at_session_and_media_level() {
        let sdp = example(0xab, "actpass", "ufrag", PWD);
        let facts = SdpFacts::read(&sdp).unwrap();
        assert_eq!(facts.fingerprint, [0xab; 32]);
        assert_eq!(facts.setup, Setup::ActPass);
        assert_eq!((facts.ufrag.as_str(), facts.pwd.as_str()), ("ufrag", PWD));
        assert!(!format!("{facts:?}").contains(PWD));
    }

    #[test]
    fn a_second_value_of_any_fact_is_refused_wherever_it_hides() {
        let sdp = example(0xab, "actpass", "ufrag", PWD);
        let other = example(0xac, "active", "gurag", "9123456789abcdef012345");
        for name in ["fingerprint", "setup", "ice-ufrag", "ice-pwd"] {
            let line = other
                .lines()
                .find(|l| l.starts_with(&format!("a={name}")))
                .unwrap();
            let hidden = line.replacen("a=", "a= ", 1);
            let shouted = line.replace(name, &name.to_uppercase());
            for extra in [line, &hidden, &shouted] {
                let error = SdpFacts::read(&format!("{sdp}{extra}\r\n")).unwrap_err();
                assert!(
                    error.to_string().contains("two different"),
                    "{extra}: {error}"
                );
            }
            let without = sdp
                .lines()
                .filter(|l| !l.starts_with(&format!("a={name}")))
                .collect::<Vec<_>>()
                .join("\n");
            assert!(matches!(SdpFacts::read(&without), Err(SdpError::Missing(n)) if n == name));
        }
    }

    #[test]
    fn other_hash_functions_and_lone_carriage_returns_are_refused() {
        let sdp = example(0xab, "actpass", "ufrag", PWD);
        let sha1 = format!("{sdp}a=fingerprint:sha-1 AB:AB\r\n");
        assert_eq!(
            SdpFacts::read(&sha1),
            Err(SdpError::Malformed("fingerprint"))
        );
        let split = sdp.replace("s=-\r\n", "s=-\ra=x\r\n");
        assert_eq!(SdpFacts::read(&split), Err(SdpError::ControlCharacters));
    }
}
