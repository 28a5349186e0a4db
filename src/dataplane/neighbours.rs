//! What one link has to do with introductions. Their messages and signaling go to the session's
//! owner; chunks of bundles that both sides were introduced for are exchanged; and what a device
//! that is only introduced says besides is not heard.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::exchange::{Exchange, Order};
use super::guest;
use super::outgoing::Shared;
use super::reception::{BundleKey, Receptions};
use super::session::{SessionError, SessionEvent, Standing};
use crate::net::link::LinkError;
use crate::protocol::exchange::Have;
use crate::protocol::frame::Frame;
use crate::protocol::id::DeviceId;
use crate::protocol::message::Message;
use crate::protocol::rate::Rate;

/// Messages that a link may bring in a while about introductions, HAVE, and what is not heard.
/// Each WANT names chunks, and how many an exchange counts.
const RATE: (u32, Duration) = (1024, Duration::from_secs(10));
/// How often it is looked whether there is something to say.
const TICK: Duration = Duration::from_millis(200);
/// Bundles that are exchanged on one link at a time.
const MAX_EXCHANGES: usize = 16;

/// The part of a session that deals with neighbours.
pub(super) struct Neighbours {
    peer: DeviceId,
    standing: Standing,
    shared: Arc<Shared>,
    receptions: Receptions,
    rate: Rate,
    exchanges: HashMap<BundleKey, Exchange>,
    /// What came before our side knew that it is introduced.
    early: HashMap<BundleKey, Have>,
    orders: mpsc::Sender<Order>,
    next: Instant,
}

impl Neighbours {
    pub(super) fn new(
        peer: DeviceId,
        standing: Standing,
        shared: Arc<Shared>,
        receptions: Receptions,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self {
            peer,
            standing,
            shared,
            receptions,
            rate: Rate::new(RATE.0, RATE.1),
            exchanges: HashMap::new(),
            early: HashMap::new(),
            orders,
            next: Instant::now(),
        }
    }

    /// Exchanges chunks of a bundle from now on.
    pub(super) async fn begin(&mut self, bundle: BundleKey) -> Result<(), SessionError> {
        if self.exchanges.len() < MAX_EXCHANGES && !self.exchanges.contains_key(&bundle) {
            let (peer, shared) = (self.peer.clone(), Arc::clone(&self.shared));
            let mut exchange = Exchange::new(bundle.clone(), peer, shared, self.orders.clone());
            exchange.tend(&self.receptions).await?;
            if let Some(have) = self.early.remove(&bundle) {
                exchange.on_have(have).await?;
            }
            self.exchanges.insert(bundle, exchange);
        }
        Ok(())
    }

    /// No longer exchanges chunks of a bundle.
    pub(super) async fn end(&mut self, bundle: &BundleKey) -> Result<(), SessionError> {
        self.early.remove(bundle);
        match self.exchanges.remove(bundle) {
            Some(mut exchange) => exchange.detach().await,
            None => Ok(()),
        }
    }

    /// Waits until [`Neighbours::tick`] is due; for ever while nothing is exchanged.
    pub(super) async fn due(&self) {
        if self.exchanges.is_empty() {
            pending::<()>().await;
        }
        tokio::time::sleep_until(self.next).await;
    }

    /// Says and asks what is to be said and asked by now.
    pub(super) async fn tick(&mut self) -> Result<(), SessionError> {
        self.next = Instant::now() + TICK;
        for exchange in self.exchanges.values_mut() {
            exchange.tend(&self.receptions).await?;
        }
        Ok(())
    }

    /// Takes what belongs to neighbours, and gives back what does not.
    pub(super) async fn on_message(
        &mut self,
        message: Message,
    ) -> Result<Option<Message>, SessionError> {
        let event = match message {
            Message::Ack { handle, bytes } => {
                let mut all = self.exchanges.values();
                let Some(exchange) = all.find(|exchange| exchange.serves_as(handle)) else {
                    return Ok(Some(message));
                };
                if !exchange.acknowledge(bytes) {
                    self.count()?;
                }
                return Ok(None);
            }
            Message::Have(have) if !self.shared.is_ours(have.handle) => {
                self.count()?;
                return self.on_have(*have).await;
            }
            Message::Want { handle, chunks } => {
                let mut all = self.exchanges.values_mut();
                let served = match all.find(|exchange| exchange.serves_as(handle)) {
                    Some(exchange) => exchange.on_want(&chunks)?,
                    None => false,
                };
                if !served {
                    self.count()?;
                }
                return Ok(None);
            }
            _ if self.standing == Standing::Neighbour => {
                self.count()?;
                return self.not_let_in(message).await;
            }
            Message::Have(have) => {
                self.count()?;
                self.shared.heard_of_elsewhere(have.handle, &have.have)?;
                return Ok(None);
            }
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
        let told = self.shared.events.send(event).await;
        told.map_err(|_| LinkError::Closed)?;
        Ok(None)
    }

    async fn on_have(&mut self, have: Have) -> Result<Option<Message>, SessionError> {
        let bundle = (have.origin.clone(), have.bundle);
        if let Some(exchange) = self.exchanges.get_mut(&bundle) {
            exchange.on_have(have).await?;
        } else if self.early.len() < MAX_EXCHANGES || self.early.contains_key(&bundle) {
            self.early.insert(bundle, have);
        }
        Ok(None)
    }

    /// Takes a frame that belongs to neighbours, and gives back one that does not.
    pub(super) async fn on_frame(&mut self, frame: Frame) -> Result<Option<Frame>, SessionError> {
        let handle = frame.handle();
        let mut all = self.exchanges.values_mut();
        match all.find(|exchange| exchange.is_served_as(handle)) {
            Some(exchange) => exchange.on_frame(frame).await.map(|()| None),
            None => Ok((self.standing == Standing::Member).then_some(frame)),
        }
    }

    /// A device that is only introduced says something that it may not: it is as if it had said
    /// nothing. An offer is answered, so that the people there learn why: it may well have let us
    /// in.
    async fn not_let_in(&self, message: Message) -> Result<Option<Message>, SessionError> {
        if let Message::StartTransfer(start) = message {
            guest::refuse_offer(&self.shared.channel, start.handle).await?;
        }
        Ok(None)
    }

    /// The link ends because of what the other side did: where that breaks the rules between
    /// neighbours, it is named, and dropped for all that it was introduced for. Else it would
    /// come again at once.
    pub(super) async fn blame(&self, error: &SessionError) {
        let guilty = match error {
            SessionError::Neighbour(_) => true,
            SessionError::Protocol(_) => self.standing == Standing::Neighbour,
            _ => false,
        };
        if guilty {
            let reason = error.to_string();
            self.receptions.name_offender(&self.peer, reason).await;
        }
    }

    fn count(&mut self) -> Result<(), SessionError> {
        if self.rate.take(Instant::now().into_std()) {
            return Ok(());
        }
        Err(SessionError::Neighbour("it sends far too many messages"))
    }
}
