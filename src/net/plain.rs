//! What the plain dialect is spoken on: a data channel, or a WebSocket of a rendezvous, which can
//! read what goes over it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::link::{Channel, Incoming, LinkError};
use super::rendezvous::{Server, Socket, why_closed};
use crate::protocol::plain::PlainText;

/// How long the other party may take to come to the rendezvous.
const MEETING: Duration = Duration::from_secs(65);
/// A message that finds no room for this long never will.
const SENDING: Duration = Duration::from_secs(60);
/// How long a WebSocket may take to close.
const CLOSING: Duration = Duration::from_secs(10);

/// An open way for the plain dialect.
pub enum PlainChannel {
    /// Direct, by WebRTC.
    Direct(Channel),
    /// Through the rendezvous.
    Relayed(Box<Socket>),
}

impl PlainChannel {
    /// The way through the rendezvous for the two parties of a session, once both are there.
    ///
    /// # Errors
    /// [`LinkError`]
    pub async fn relayed(server: &Server, session_id: &str) -> Result<Self, LinkError> {
        let path = format!("/api/ice/relay/{session_id}");
        let mut socket = server.socket(&path).await?;
        let joining = async {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let said = serde_json::from_str(&text);
                        if matches!(said, Ok(PlainText::Joined)) {
                            return Ok(());
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let said = frame.map(|frame| frame.reason.to_string());
                        let said = said.filter(|said| !said.is_empty());
                        let reason = said.unwrap_or_else(|| why_closed(None));
                        return Err(LinkError::Relay(reason));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(broken(&error)),
                    None => return Err(LinkError::Relay(why_closed(None))),
                }
            }
        };
        match timeout(MEETING, joining).await {
            Ok(joined) => joined?,
            Err(_) => {
                let text = "the other side did not come to the rendezvous".to_owned();
                return Err(LinkError::Relay(text));
            }
        }
        Ok(Self::Relayed(Box::new(socket)))
    }

    /// Whether it goes through a rendezvous, which can read it.
    pub fn is_relayed(&self) -> bool {
        matches!(self, Self::Relayed(_))
    }

    /// Sends text; waits while there is no room for it.
    ///
    /// # Errors
    /// [`LinkError`]
    pub async fn send_text(&mut self, text: &str) -> Result<(), LinkError> {
        match self {
            Self::Direct(channel) => channel.send_text(text).await,
            Self::Relayed(socket) => send(socket, Message::text(text)).await,
        }
    }

    /// Sends bytes; waits while there is no room for them.
    ///
    /// # Errors
    /// [`LinkError`]
    pub async fn send(&mut self, bytes: BytesMut) -> Result<(), LinkError> {
        match self {
            Self::Direct(channel) => channel.send(bytes).await,
            Self::Relayed(socket) => send(socket, Message::Binary(bytes.freeze())).await,
        }
    }

    /// The next message; nothing at the end.
    ///
    /// # Errors
    /// [`LinkError`]
    pub async fn receive(&mut self) -> Result<Option<Incoming>, LinkError> {
        let socket = match self {
            Self::Direct(channel) => return Ok(channel.receive().await),
            Self::Relayed(socket) => socket,
        };
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Ok(Some(Incoming::Text(Bytes::from(text))));
                }
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(Incoming::Binary(bytes))),
                Some(Ok(Message::Close(frame))) => {
                    // A reason is what broke a rule or a limit.
                    return match frame.map(|frame| frame.reason.to_string()) {
                        Some(reason) if !reason.is_empty() => Err(LinkError::Relay(reason)),
                        _ => Ok(None),
                    };
                }
                Some(Ok(_)) => {}
                None | Some(Err(SocketError::ConnectionClosed)) => return Ok(None),
                Some(Err(error)) => return Err(broken(&error)),
            }
        }
    }

    /// Waits until what was sent has arrived, and for a while until the other side closes: whoever
    /// closes first may take the tail of it along.
    pub async fn finish(mut self, patience: Duration) {
        match &mut self {
            Self::Direct(channel) => {
                channel.flushed().await;
                let closing = async { while channel.receive().await.is_some() {} };
                let _ = timeout(patience, closing).await;
            }
            Self::Relayed(socket) => {
                let closing = async {
                    let _ = socket.close().await;
                    while let Some(Ok(_)) = socket.next().await {}
                };
                let _ = timeout(CLOSING, closing).await;
            }
        }
    }
}

async fn send(socket: &mut Socket, message: Message) -> Result<(), LinkError> {
    match timeout(SENDING, socket.send(message)).await {
        Ok(sent) => sent.map_err(|error| broken(&error)),
        Err(_) => Err(LinkError::Stalled(SENDING)),
    }
}

fn broken(error: &SocketError) -> LinkError {
    LinkError::Relay(why_closed(Some(error)))
}
