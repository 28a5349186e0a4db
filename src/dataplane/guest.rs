//! A link to a device that is not let in yet, or that has not let us in: it may say what first
//! contact needs, and nothing else, until its owner admits it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::session::{PairThen, SessionCommand, SessionError, SessionEvent, Standing};
use crate::net::link::{Channel, Incoming, LinkError};
use crate::protocol::frame::Handle;
use crate::protocol::message::{Acknowledgement, Code, Decision, Message};
use crate::protocol::pairing::PairMessage;

/// A guest is let in within this time: people may have to walk over and compare a code.
const GUEST_LIMIT: Duration = Duration::from_secs(180);
/// A guest that has something to say says it within this time.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// Messages of a guest; every way of pairing needs fewer.
const MAX_MESSAGES: usize = 16;

/// Serves a guest until it is admitted. Returns what it has said early, where we had asked it to
/// let us in.
pub(super) async fn admit(
    channel: &Channel,
    standing: Standing,
    commands: &mut mpsc::Receiver<SessionCommand>,
    events: &mpsc::Sender<SessionEvent>,
) -> Result<Vec<Message>, SessionError> {
    let end = Instant::now() + GUEST_LIMIT;
    let mut until = Instant::now() + QUIET_LIMIT;
    let (mut heard, mut early) = (0, Vec::new());
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
            message = timeout_at(until, channel.receive()) => {
                heard += 1;
                let message = match message {
                    Err(_) => return Err(SessionError::NotLetIn),
                    Ok(None) => return Err(LinkError::Closed.into()),
                    Ok(Some(Incoming::Text(text))) if heard <= MAX_MESSAGES => Message::decode(&text)
                        .map_err(|error| SessionError::Protocol(error.to_string()))?,
                    Ok(Some(_)) => return Err(SessionError::NotLetIn),
                };
                match message {
                    Message::Pair(message) => {
                        ask(events, message).await?;
                        until = end.min(Instant::now() + QUIET_LIMIT);
                        continue;
                    }
                    message if standing == Standing::Asked => {
                        early.push(message);
                        continue;
                    }
                    // It counts us as let in: it was here before, or let us in on its side alone.
                    Message::StartTransfer(start) => {
                        refuse_offer(channel, start.handle).await?;
                        channel.flushed().await;
                        return Err(SessionError::NotLetIn);
                    }
                    _ => return Err(SessionError::NotLetIn),
                }
            }
        };
        say(channel, step.say).await?;
        match step.then {
            PairThen::Listen => until = end.min(Instant::now() + QUIET_LIMIT),
            PairThen::AwaitPerson => until = end,
            PairThen::Admit => return Ok(early),
            PairThen::Close => {
                channel.flushed().await;
                return Err(SessionError::NotLetIn);
            }
        }
    }
}

/// Tells the session's owner of a message, and waits until it has been dealt with: what follows
/// from it comes as a command.
pub(super) async fn ask(
    events: &mpsc::Sender<SessionEvent>,
    message: PairMessage,
) -> Result<(), SessionError> {
    let (handled, is_handled) = oneshot::channel();
    let paired = SessionEvent::Paired { message, handled };
    events.send(paired).await.map_err(|_| LinkError::Closed)?;
    // Nothing is sent through it.
    let _ = is_handled.await;
    Ok(())
}

/// Answers the offer of a device that may not make any, so that the people there learn why.
pub(super) async fn refuse_offer(channel: &Channel, handle: Handle) -> Result<(), LinkError> {
    let refused = Acknowledgement {
        handle,
        status: Decision::Refused,
        have: None,
        acks: false,
        pages_first: false,
        root: None,
        code: Some(Code::Unauthorized),
        reason: Some("this device is not authorized".to_owned()),
    };
    let refused = Message::StartTransferAcknowledged(refused);
    channel.send_text(&refused.encode()).await
}

/// Says it, in order.
pub(super) async fn say(channel: &Channel, messages: Vec<PairMessage>) -> Result<(), LinkError> {
    for message in messages {
        channel.send_text(&Message::Pair(message).encode()).await?;
    }
    Ok(())
}
