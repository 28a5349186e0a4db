//! A link to a device that is not let in yet: it may say what first contact needs, and nothing
//! else, until its owner admits it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::session::{PairStep, PairThen, SessionCommand, SessionError, SessionEvent};
use crate::net::link::{Channel, Incoming, LinkError};
use crate::protocol::message::Message;

/// A guest is let in within this time: people may have to walk over and compare a code.
const GUEST_LIMIT: Duration = Duration::from_secs(180);
/// Messages of a guest; every way of pairing needs fewer.
const MAX_MESSAGES: usize = 16;

/// Serves a guest until it is admitted.
pub(super) async fn admit(
    channel: &Channel,
    commands: &mut mpsc::Receiver<SessionCommand>,
    events: &mpsc::Sender<SessionEvent>,
) -> Result<(), SessionError> {
    timeout_at(
        Instant::now() + GUEST_LIMIT,
        converse(channel, commands, events),
    )
    .await
    .map_err(|_| SessionError::NotLetIn)?
}

async fn converse(
    channel: &Channel,
    commands: &mut mpsc::Receiver<SessionCommand>,
    events: &mpsc::Sender<SessionEvent>,
) -> Result<(), SessionError> {
    let mut heard = 0;
    loop {
        let step = tokio::select! {
            command = commands.recv() => match command {
                None => return Err(LinkError::Closed.into()),
                Some(SessionCommand::Pair(step)) => step,
                Some(SessionCommand::Flush(done)) => {
                    channel.flushed().await;
                    let _ = done.send(());
                    continue;
                }
                // Transfers wait for a member.
                Some(_) => continue,
            },
            message = channel.receive() => {
                heard += 1;
                let message = match message {
                    None => return Err(LinkError::Closed.into()),
                    Some(Incoming::Text(text)) if heard <= MAX_MESSAGES => Message::decode(&text)
                        .map_err(|error| SessionError::Protocol(error.to_string()))?,
                    Some(_) => return Err(SessionError::NotLetIn),
                };
                let Message::Pair(message) = message else {
                    return Err(SessionError::NotLetIn);
                };
                let (reply, step) = oneshot::channel();
                let paired = SessionEvent::Paired { message, reply };
                events.send(paired).await.map_err(|_| LinkError::Closed)?;
                step.await.map_err(|_| SessionError::NotLetIn)?
            }
        };
        let PairStep { say, then } = step;
        for message in say {
            channel.send_text(&Message::Pair(message).encode()).await?;
        }
        match then {
            PairThen::Wait => {}
            PairThen::Admit => return Ok(()),
            PairThen::Close => {
                channel.flushed().await;
                return Err(SessionError::NotLetIn);
            }
        }
    }
}
