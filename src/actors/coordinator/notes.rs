//! Devices that are found by the notes that they put down elsewhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tracing::{debug, info};

use super::super::api::Event;
use super::super::network;
use super::super::peer::unix_now;
use super::Coordinator;
use crate::protocol::id::DeviceId;
use crate::protocol::note::LIFETIME;
use crate::protocol::peers::{Source, Upserted};

/// Asks for whom notes are written, and whose are looked for.
#[derive(Message)]
#[rtype(result = "Vec<Acquaintance>")]
pub struct WhoMay;

/// A device that is authorized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquaintance {
    /// Which.
    pub device: DeviceId,
    /// It is not here, as far as we see.
    pub away: bool,
    /// Something waits for it.
    pub wanted: bool,
}

/// A note of a device was found, and it is newer than all before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Noted {
    /// Whose.
    pub device: DeviceId,
    /// Where it says that it listens.
    pub addresses: Vec<SocketAddr>,
}

impl Handler<WhoMay> for Coordinator {
    type Result = MessageResult<WhoMay>;

    fn handle(&mut self, _: WhoMay, _: &mut Context<Self>) -> Self::Result {
        let lifetime = Duration::from_secs(LIFETIME);
        for device_id in self.table.forget_notes(Instant::now(), lifetime) {
            self.emit(&Event::PeerGone { device_id });
        }
        let mut devices = self.trust.all_let_in(unix_now());
        devices.retain(|id| id.is_self_certifying() && *id != self.identity.device_id());
        let all = devices.into_iter().map(|device| {
            let slot = self.peers.get(&device);
            let linked = slot.is_some_and(|slot| slot.session.is_some());
            let source = self.table.get(&device).map(|entry| entry.source);
            let here = linked || source == Some(Source::Discovered) || self.is_met(&device);
            Acquaintance {
                away: !here,
                wanted: slot.is_some_and(|slot| slot.wanted),
                device,
            }
        });
        MessageResult(all.collect())
    }
}

impl Handler<Noted> for Coordinator {
    type Result = ();

    fn handle(&mut self, Noted { device, addresses }: Noted, ctx: &mut Context<Self>) {
        // It may have been revoked while its note was looked for.
        if !self.is_authorized(&device) || device == self.identity.device_id() {
            return;
        }
        let addresses = network::worth_dialling(&self.settings, &addresses);
        if addresses.is_empty() {
            return debug!(%device, "its note leads nowhere");
        }
        let noted = self.table.note(Instant::now(), &device, addresses);
        if noted != Upserted::Unchanged {
            info!(%device, "found by its note in the DHT");
            self.seen(&device, ctx);
        }
    }
}
