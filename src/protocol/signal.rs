//! The messages of signaling (PROTOCOL.md §3).

use serde::{Deserialize, Serialize};

use super::framer::{FramerError, JsonFramer, MAX_OBJECT};
use super::id::{DeviceId, IdError};

/// What a signaling message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignalKind {
    /// An SDP offer.
    Offer,
    /// The SDP answer to it.
    Answer,
    /// One ICE candidate.
    Ice,
    /// Why the other side's last message was refused, for people.
    Error,
    /// How the writer came to its key (PROTOCOL.md §15).
    Rotation,
}

impl SignalKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Answer => "answer",
            Self::Ice => "ice",
            Self::Error => "error",
            Self::Rotation => "rotation",
        }
    }
}

/// One signaling message. Nothing in it is proven: `peer_id` is a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signal {
    /// What `data` is.
    pub kind: SignalKind,
    /// Who says it wrote this.
    pub peer_id: DeviceId,
    /// SDP, candidate, a text for people, or changes of key.
    pub data: String,
}

/// Why bytes are not a signaling message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// Above the size limit, too deep, or not one JSON object.
    #[error(transparent)]
    Framing(#[from] FramerError),
    /// The object ends too early, or something follows it.
    #[error("not exactly one JSON object")]
    NotOneObject,
    /// Not JSON, or a member has the wrong type.
    #[error(
        "not a signaling message (line {line}, column {column}): it needs the texts kind, peer_id and data"
    )]
    Malformed {
        /// Line of the object, from 1.
        line: usize,
        /// Column in that line, from 1.
        column: usize,
    },
    /// A member is missing.
    #[error("the member {0} is missing")]
    Missing(&'static str),
    /// Not one of [`SignalKind`].
    #[error("kind must be offer, answer, ice, error or rotation")]
    UnknownKind,
    /// Not a device id.
    #[error("peer_id: {0}")]
    BadId(#[from] IdError),
}

#[derive(Deserialize)]
struct Raw {
    kind: Option<String>,
    peer_id: Option<String>,
    data: Option<String>,
}

impl Signal {
    /// Reads one message from the bytes of one JSON object. Members it does not know are
    /// skipped.
    ///
    /// # Errors
    /// See [`SignalError`]; their texts hold nothing that a terminal could act on.
    pub fn parse(object: &[u8]) -> Result<Self, SignalError> {
        // serde_json allows 128 levels and any size, so the limits are checked before it runs.
        let (mut framer, mut rest) = (JsonFramer::new(MAX_OBJECT), object);
        let whole = framer.next_object(&mut rest)?;
        if whole.is_none() || !rest.iter().all(u8::is_ascii_whitespace) {
            return Err(SignalError::NotOneObject);
        }
        let raw: Raw = serde_json::from_slice(object).map_err(|e| SignalError::Malformed {
            line: e.line(),
            column: e.column(),
        })?;
        let kind = match raw.kind.ok_or(SignalError::Missing("kind"))?.as_str() {
            "offer" => SignalKind::Offer,
            "answer" => SignalKind::Answer,
            "ice" => SignalKind::Ice,
            "error" => SignalKind::Error,
            "rotation" => SignalKind::Rotation,
            _ => return Err(SignalError::UnknownKind),
        };
        Ok(Self {
            kind,
            peer_id: raw
                .peer_id
                .ok_or(SignalError::Missing("peer_id"))?
                .parse()?,
            data: raw.data.ok_or(SignalError::Missing("data"))?,
        })
    }

    /// The message as one line, with the line end.
    pub fn encode(&self) -> String {
        let mut line = serde_json::to_string(self).expect("three texts are always valid JSON");
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_message_of_the_first_draft_parses_and_extra_keys_are_skipped() {
        let text =
            br#" { "kind": "ice", "v": [{"x":null}], "peer_id": "abc_1", "data": "candidate:1" } "#;
        let signal = Signal::parse(text).unwrap();
        assert_eq!(signal.kind, SignalKind::Ice);
        assert_eq!(signal.peer_id.as_str(), "abc_1");
        assert_eq!(signal.data, "candidate:1");
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let parse = |text: &str| Signal::parse(text.as_bytes()).unwrap_err();
        let faults = [
            (r#"{"kind":"bye","peer_id":"a","data":""}"#, "kind must be"),
            (r#"{"kind":"ice","data":""}"#, "peer_id is missing"),
            (r#"{"kind":"ice","peer_id":"a"}"#, "data is missing"),
            (r#"{"kind":"ice","peer_id":"../a","data":""}"#, "peer_id"),
            (r#"{"kind":"ice","peer_id":"a","data":7}"#, "column"),
            (
                r#"{"kind":"ice","kind":"ice","peer_id":"a","data":""}"#,
                "column",
            ),
            (
                r#"{"kind":"ice","peer_id":"a","data":""} {}"#,
                "exactly one",
            ),
            (r#"{"kind":"ice""#, "exactly one"),
            ("", "exactly one"),
            ("[]", "should begin"),
        ];
        for (text, expected) in faults {
            let error = parse(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!(r#"{{"kind":{}"#, "[".repeat(100));
        assert_eq!(parse(&deep), SignalError::Framing(FramerError::TooDeep(16)));
        let long = format!(
            r#"{{"kind":"ice","peer_id":"a","data":"{}"}}"#,
            "x".repeat(MAX_OBJECT)
        );
        assert!(matches!(
            parse(&long),
            SignalError::Framing(FramerError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire_as_one_line(data: String, kind in 0usize..5) {
            let kind = [
                SignalKind::Offer,
                SignalKind::Answer,
                SignalKind::Ice,
                SignalKind::Error,
                SignalKind::Rotation,
            ][kind];
            let signal = Signal { kind, peer_id: "abc".parse().unwrap(), data };
            let line = signal.encode();
            prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            prop_assert_eq!(Signal::parse(line.as_bytes()), Ok(signal));
        }
    }
}
