//! What the parties of a session say to each other through the rendezvous.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

use crate::net::rendezvous::{Server, ServerError};
use crate::protocol::rendezvous::{SignalInfo, SignalPost, SignalType};

/// How long one question about signals waits for some, in seconds.
const POLL: u64 = 10;
/// How long to wait after a question that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Most signals of one session that are looked at.
const MAX_SIGNALS: usize = 500;
/// Signals that wait for whoever heeds them; while so many do, no more are asked for.
const WAITING: usize = 32;

/// What the other party of a session says, in order, each thing once.
///
/// A task asks for it, one question at a time: who gives up waiting for [`Self::next`] ends no
/// question, and begins none.
pub(super) struct Signals {
    server: Server,
    session: String,
    told: mpsc::Receiver<Result<SignalInfo, ServerError>>,
    /// Ends with this.
    _asking: JoinSet<()>,
}

impl Signals {
    pub(super) fn new(server: Server, session: String) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        let mut asking = JoinSet::new();
        asking.spawn(ask(server.clone(), session.clone(), tell));
        Self {
            server,
            session,
            told,
            _asking: asking,
        }
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// The next one, whenever it comes. After an error none does.
    ///
    /// # Errors
    /// [`ServerError`] where asking again is of no use. Failures that may pass are waited for.
    pub(super) async fn next(&mut self) -> Result<SignalInfo, ServerError> {
        match self.told.recv().await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }
}

async fn ask(server: Server, session: String, tell: mpsc::Sender<Result<SignalInfo, ServerError>>) {
    let (mut after, mut seen) = (0, 0);
    loop {
        match server.signals(&session, after, POLL).await {
            Ok(signals) => {
                // A server that does not know `after` tells all again and again.
                let new = signals.into_iter().filter(|one| one.id > after);
                let mut new: Vec<_> = new.collect();
                new.sort_by_key(|one| one.id);
                if new.is_empty() {
                    // It may not know `wait` either.
                    sleep(Duration::from_millis(300)).await;
                }
                for signal in new {
                    after = signal.id;
                    seen += 1;
                    if seen <= MAX_SIGNALS && tell.send(Ok(signal)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) if error.may_pass() => {
                debug!(%error, "asking for signals again");
                sleep(AGAIN).await;
            }
            Err(error) => {
                // It goes to whoever listens, if anybody does.
                let _ = tell.send(Err(error)).await;
                return;
            }
        }
    }
}

/// Says something to the other party; tried again while that may help.
pub(super) async fn say(
    server: &Server,
    session: &str,
    kind: SignalType,
    data: String,
) -> Result<(), ServerError> {
    let post = SignalPost {
        session_id: session.to_owned(),
        signal_type: kind,
        signal_data: data,
        client: server.client().map(str::to_owned),
    };
    let mut tries = 0;
    loop {
        match server.signal(&post).await {
            Err(error) if error.may_pass() && tries < 5 => {
                tries += 1;
                sleep(AGAIN * tries).await;
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests;
