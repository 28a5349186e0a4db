//! What one link has to do with introductions: their messages and signaling go to the session's
//! owner, and a device that is only introduced may say nothing else than neighbours do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outgoing::Shared;
use super::session::{SessionError, SessionEvent, Standing};
use crate::net::link::LinkError;
use crate::protocol::frame::Frame;
use crate::protocol::message::{Acknowledgement, Code, Decision, Message};
use crate::protocol::rate::Rate;

/// Messages about introductions, and HAVE, that a link may bring in a while.
const RATE: (u32, Duration) = (512, Duration::from_secs(10));

/// The part of a session that deals with neighbours.
pub(super) struct Neighbours {
    standing: Standing,
    shared: Arc<Shared>,
    rate: Rate,
}

impl Neighbours {
    pub(super) fn new(standing: Standing, shared: Arc<Shared>) -> Self {
        let rate = Rate::new(RATE.0, RATE.1);
        Self {
            standing,
            shared,
            rate,
        }
    }

    /// Takes what belongs to neighbours, and gives back what does not.
    pub(super) async fn on_message(
        &mut self,
        message: Message,
    ) -> Result<Option<Message>, SessionError> {
        let event = match message {
            Message::Ack { .. } => return Ok(Some(message)),
            _ if self.standing == Standing::Neighbour => return self.not_let_in(message).await,
            Message::Introduce(introduction) => SessionEvent::Introduce(introduction),
            Message::EndIntroduction {
                bundle,
                peer,
                reason,
            } => SessionEvent::EndIntroduction {
                bundle,
                peer,
                reason,
            },
            Message::Signal {
                with,
                passed,
                kind,
                data,
            } => SessionEvent::Signal {
                with,
                passed,
                kind,
                data,
            },
            other => return Ok(Some(other)),
        };
        self.count()?;
        self.tell(event).await?;
        Ok(None)
    }

    /// Takes a frame that belongs to neighbours, and gives back one that does not.
    pub(super) async fn on_frame(&mut self, frame: Frame) -> Result<Option<Frame>, SessionError> {
        if self.standing == Standing::Neighbour {
            return Ok(None);
        }
        Ok(Some(frame))
    }

    /// A device that is only introduced says something that it may not. An offer is answered, so
    /// that the people there learn why.
    async fn not_let_in(&self, message: Message) -> Result<Option<Message>, SessionError> {
        if let Message::StartTransfer(start) = message {
            let refused = Acknowledgement {
                handle: start.handle,
                status: Decision::Refused,
                have: None,
                acks: false,
                root: None,
                code: Some(Code::Unauthorized),
                reason: Some("this device is not authorized".to_owned()),
            };
            self.shared
                .say(&Message::StartTransferAcknowledged(refused))
                .await?;
            self.shared.channel.flushed().await;
        }
        Err(SessionError::NotLetIn)
    }

    fn count(&mut self) -> Result<(), SessionError> {
        if self.rate.take(Instant::now()) {
            return Ok(());
        }
        Err(SessionError::Protocol(
            "far too many messages about introductions".to_owned(),
        ))
    }

    async fn tell(&self, event: SessionEvent) -> Result<(), SessionError> {
        let told = self.shared.events.send(event).await;
        told.map_err(|_| LinkError::Closed.into())
    }
}
