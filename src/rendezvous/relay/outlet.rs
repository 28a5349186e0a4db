//! What goes out to one end of a relayed link: one message at a time, and none is taken before the
//! one before it is on its way.

use actix_web::HttpResponse;
use actix_web::body::{BodyStream, BoxBody};
use actix_ws::CloseCode;
use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;

use crate::protocol::rendezvous::ServerSays;

/// Longest reason of a close message, in bytes (RFC 6455, 5.5).
const MAX_REASON: usize = 123;

/// A message as it goes over the wire.
pub(super) struct Frame {
    bytes: Bytes,
    last: bool,
}

/// What messages are (RFC 6455, 5.2).
#[derive(Debug, Clone, Copy)]
pub(super) enum Opcode {
    Text = 1,
    Binary = 2,
    Ping = 9,
    Pong = 10,
}

impl Frame {
    pub(super) fn new(opcode: Opcode, payload: &[u8]) -> Self {
        Self {
            bytes: framed(opcode as u8, payload),
            last: false,
        }
    }

    /// What comes before all that the other end sends.
    pub(super) fn joined() -> Self {
        let says = serde_json::to_string(&ServerSays::Joined).unwrap_or_default();
        Self::new(Opcode::Text, says.as_bytes())
    }

    pub(super) fn close(code: CloseCode, reason: &str) -> Self {
        let mut payload = u16::from(code).to_be_bytes().to_vec();
        let end = reason.floor_char_boundary(MAX_REASON);
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        Self {
            bytes: framed(8, &payload),
            last: true,
        }
    }
}

/// A server's frame: whole, and not masked.
fn framed(opcode: u8, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.len() + 10);
    bytes.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => bytes.push(length as u8),
        length @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// Puts an outlet in the place of the one that an answer has, which keeps up to 32 messages.
pub(super) fn install(answer: HttpResponse) -> (HttpResponse, mpsc::Sender<Frame>) {
    let (sender, receiver) = mpsc::channel(1);
    let answer = answer.map_body(|_, before| {
        // Dropping it says that the connection is closed: it has to stay until then.
        let state = (receiver, before, false);
        let frames = stream::unfold(state, |(mut receiver, before, over)| async move {
            if over {
                return None;
            }
            let frame: Frame = receiver.recv().await?;
            let item = Ok::<_, std::convert::Infallible>(frame.bytes);
            Some((item, (receiver, before, frame.last)))
        });
        BoxBody::new(BodyStream::new(Box::pin(frames)))
    });
    (answer, sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_lengths_of_the_standard() {
        assert_eq!(&framed(1, b"ab")[..], [0x81, 2, b'a', b'b']);
        assert_eq!(&framed(2, &[0; 126])[..4], [0x82, 126, 0, 126]);
        let large = framed(2, &[0; 65_536]);
        assert_eq!(&large[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(large.len(), 65_536 + 10);
        let close = Frame::close(CloseCode::Policy, &"é".repeat(100));
        assert!(close.last && close.bytes.len() == 2 + 2 + 122);
        assert_eq!(&close.bytes[..4], [0x88, 124, 0x03, 0xf0]);
    }
}
