//! The plain dialect: one file over the channel `file-transfer`, or over a rendezvous's WebSocket,
//! without proof of who sends it or that it is whole (PROTOCOL.md §19). A text message says what
//! comes, binary messages are its bytes.

use serde::{Deserialize, Serialize};

/// Bytes of a file in one message: what the other clients send, and all can take.
pub const PIECE: usize = 16 * 1024;
/// Bytes of a text message.
pub const MAX_TEXT: usize = 16 * 1024;
/// Bytes of a file's name.
pub const MAX_NAME: usize = 1024;
/// Text messages that say nothing which is known, before the file.
pub const MAX_IGNORED: u32 = 100;
/// Largest size: beyond it, numbers in JSON are not exact (2^53).
pub const MAX_SIZE: u64 = 1 << 53;

/// A text message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum PlainText {
    /// A file comes.
    #[serde(rename = "file-metadata")]
    File {
        /// What its sender calls it; unchecked text.
        filename: String,
        /// Its bytes. Some programs write all numbers as fractions.
        size: Size,
    },
    /// It does not come. Other clients' programs do not know this word and pass it over.
    #[serde(rename = "error")]
    Error {
        /// For programs.
        code: String,
        /// For people; unchecked text.
        message: String,
    },
    /// A rendezvous's word: from now on, messages go to the other party.
    #[serde(rename = "joined")]
    Joined,
    /// Something else, which is passed over.
    #[serde(other)]
    Other,
}

/// Bytes of a file, as JSON numbers of all kinds say them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Number", into = "u64")]
pub struct Size(pub u64);

impl TryFrom<serde_json::Number> for Size {
    type Error = &'static str;
    fn try_from(number: serde_json::Number) -> Result<Self, Self::Error> {
        let whole = number.as_u64().or_else(|| {
            let float = number.as_f64()?;
            let fits = float.fract() == 0.0 && (0.0..=MAX_SIZE as f64).contains(&float);
            fits.then_some(float as u64)
        });
        match whole {
            Some(size) if size <= MAX_SIZE => Ok(Self(size)),
            _ => Err("a size is a whole number from 0 to 2^53"),
        }
    }
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

/// What the provider says in place of an offer, where it gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum OfferData {
    /// An SDP offer.
    #[serde(rename = "offer")]
    Offer {
        /// It.
        sdp: String,
    },
    /// A Handout device has the data, and offers it by the native dialect.
    #[serde(rename = "handout")]
    Handout {
        /// Its id; unchecked.
        device_id: String,
        /// What it is called that comes, once that is known; unchecked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// It has given it, or found that it was there.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        done: bool,
    },
    /// It does not give that. Other clients do not know this word, and wait until they give up.
    #[serde(rename = "refusal")]
    Refusal {
        /// For programs.
        code: String,
        /// For people; unchecked text.
        message: String,
    },
}

/// An SDP answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerData {
    /// `answer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// It.
    pub sdp: String,
}

/// Why what came is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlainError {
    /// Bytes without a file.
    #[error("bytes came before it was said which file they are")]
    NoFile,
    /// More than was announced.
    #[error("more bytes came than the {0} that were announced")]
    TooMany(u64),
    /// The channel ended too soon.
    #[error("the connection ended after {got} of {size} bytes")]
    Short {
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        size: u64,
    },
    /// Messages that say nothing.
    #[error("the other side says nothing that is understood")]
    Babble,
    /// Its name or size cannot be.
    #[error("the other side announces a file that cannot be: {0}")]
    Metadata(String),
    /// The other side says that it does not come.
    #[error("{message} ({code})")]
    Refused {
        /// For programs.
        code: String,
        /// For people, made harmless.
        message: String,
    },
}

/// What to do after a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// This file begins. Its name is unchecked text.
    Begin {
        /// What its sender calls it.
        name: String,
        /// Its bytes.
        size: u64,
    },
    /// The message's bytes are the next ones of the file.
    Write,
    /// The same, and they are the last ones.
    WriteLast,
}

/// How far the reception of a file is. It ends with the first one.
#[derive(Debug, Default)]
pub struct Reception {
    size: Option<u64>,
    got: u64,
    ignored: u32,
}

impl Reception {
    /// A text message came. A file of no bytes is complete with [`Step::Begin`].
    pub fn text(&mut self, text: &[u8]) -> Result<Step, PlainError> {
        let read: Option<serde_json::Value> = (text.len() <= MAX_TEXT)
            .then(|| serde_json::from_slice(text).ok())
            .flatten();
        let said = read.as_ref().and_then(|json| json.get("type")?.as_str());
        let is_file = said == Some("file-metadata");
        let message = read.as_ref().map(PlainText::deserialize);
        match message {
            Some(Ok(PlainText::File { filename, size })) if self.size.is_none() => {
                if filename.len() > MAX_NAME {
                    let text = format!("its name has more than {MAX_NAME} bytes");
                    return Err(PlainError::Metadata(text));
                }
                self.size = Some(size.0);
                Ok(Step::Begin {
                    name: filename,
                    size: size.0,
                })
            }
            Some(Ok(PlainText::Error { code, message })) => Err(PlainError::Refused {
                code: super::names::brief(&code),
                message: super::names::brief(&message),
            }),
            Some(Err(error)) if is_file => {
                let text = super::names::brief(&error.to_string());
                Err(PlainError::Metadata(text))
            }
            _ => {
                self.ignored += 1;
                match self.ignored > MAX_IGNORED {
                    true => Err(PlainError::Babble),
                    false => Ok(Step::Wait),
                }
            }
        }
    }

    /// So many bytes came.
    pub fn bytes(&mut self, count: u64) -> Result<Step, PlainError> {
        let size = self.size.ok_or(PlainError::NoFile)?;
        self.got = self.got.saturating_add(count);
        if self.got > size {
            return Err(PlainError::TooMany(size));
        }
        Ok(match self.is_complete() {
            true => Step::WriteLast,
            false => Step::Write,
        })
    }

    /// Whether all of it is here.
    pub fn is_complete(&self) -> bool {
        self.size == Some(self.got)
    }

    /// Whether a file was announced.
    pub fn has_begun(&self) -> bool {
        self.size.is_some()
    }

    /// Bytes that came.
    pub fn got(&self) -> u64 {
        self.got
    }

    /// What it means that the channel has ended now.
    pub fn cut(&self) -> PlainError {
        PlainError::Short {
            got: self.got,
            size: self.size.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = br#"{"filename":"a.npz","size":5,"type":"file-metadata"}"#;

    #[test]
    fn a_file_is_announced_and_then_comes_in_pieces() {
        let mut reception = Reception::default();
        assert_eq!(reception.text(b"hello"), Ok(Step::Wait));
        assert_eq!(reception.text(br#"{"type":"other"}"#), Ok(Step::Wait));
        let begin = Step::Begin {
            name: "a.npz".into(),
            size: 5,
        };
        assert_eq!(reception.text(FILE), Ok(begin));
        assert_eq!(reception.bytes(3), Ok(Step::Write));
        assert!(!reception.is_complete());
        assert_eq!(reception.bytes(2), Ok(Step::WriteLast));
        assert!(reception.is_complete());
        // As Go writes large numbers.
        let large = br#"{"filename":"a","size":1.048576e+06,"type":"file-metadata"}"#;
        let begin = Reception::default().text(large).unwrap();
        assert!(matches!(
            begin,
            Step::Begin {
                size: 1_048_576,
                ..
            }
        ));
        let ours = PlainText::File {
            filename: "a.npz".into(),
            size: Size(5),
        };
        let ours = serde_json::to_string(&ours).unwrap();
        assert_eq!(
            ours,
            r#"{"type":"file-metadata","filename":"a.npz","size":5}"#
        );
        let empty = br#"{"filename":"a","size":0,"type":"file-metadata"}"#;
        let mut reception = Reception::default();
        reception.text(empty).unwrap();
        assert!(reception.is_complete());
    }

    #[test]
    fn what_breaks_the_rules_is_an_error() {
        let mut reception = Reception::default();
        assert_eq!(reception.bytes(1), Err(PlainError::NoFile));
        reception.text(FILE).unwrap();
        assert_eq!(reception.text(FILE), Ok(Step::Wait), "one file only");
        assert_eq!(reception.bytes(6), Err(PlainError::TooMany(5)));
        for bad in [
            r#"{"filename":"a","size":-1,"type":"file-metadata"}"#,
            r#"{"filename":"a","size":1.5,"type":"file-metadata"}"#,
            r#"{"filename":"a","size":"5","type":"file-metadata"}"#,
            r#"{"filename":7,"size":5,"type":"file-metadata"}"#,
            r#"{"size":5,"type":"file-metadata"}"#,
            r#"{"filename":"a","size":1e300,"type":"file-metadata"}"#,
        ] {
            let got = Reception::default().text(bad.as_bytes());
            assert!(matches!(got, Err(PlainError::Metadata(_))), "{bad} {got:?}");
        }
        let error = br#"{"type":"error","code":"busy","message":"\u001b[2J"}"#;
        let refused = Reception::default().text(error).unwrap_err().to_string();
        assert!(refused.contains("busy") && !refused.contains('\u{1b}'));
        let mut babbled = Reception::default();
        for _ in 0..MAX_IGNORED {
            assert_eq!(babbled.text(b"?"), Ok(Step::Wait));
        }
        assert_eq!(babbled.text(b"?"), Err(PlainError::Babble));
    }
}
