//! The ways that signaling with a device takes.

use std::net::SocketAddr;

use super::Peer;
use crate::actors::coordinator::PassOn;
use crate::actors::network;
use crate::net::link::LinkOptions;
use crate::net::signaling::ConnectionHandle;
use crate::protocol::candidate::Reach;
use crate::protocol::id::DeviceId;
use crate::protocol::signal::Signal;

/// Where a signaling message came from, and where answers to it go.
#[derive(Clone)]
pub enum Route {
    /// A signaling connection over TCP.
    Tcp(ConnectionHandle),
    /// The link to the device that introduced this one to us.
    Through(DeviceId),
    /// A rendezvous where both devices are.
    Mail,
}

impl Route {
    /// Whether this is the same way, and not only one to the same device.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(a), Self::Tcp(b)) => a.id() == b.id(),
            (Self::Through(a), Self::Through(b)) => a == b,
            (Self::Mail, Self::Mail) => true,
            _ => false,
        }
    }
}

impl Peer {
    /// How far away the device may be, by the way that signaling with it takes.
    pub(super) fn reach_by(&self, route: Option<&Route>) -> Reach {
        let settings = &self.context.live().settings;
        match route {
            // The offer to it may take either way.
            None if self.met => Reach::Anywhere,
            Some(Route::Mail) => Reach::Anywhere,
            Some(Route::Tcp(connection)) => {
                network::reach_of(settings, &[connection.remote().ip()])
            }
            Some(Route::Through(_)) => Reach::Link,
            None => {
                let ips: Vec<_> = self.addresses.iter().map(SocketAddr::ip).collect();
                network::reach_of(settings, &ips)
            }
        }
    }

    /// What a link over that way is made with.
    pub(super) fn link_options(&self, route: Option<&Route>) -> LinkOptions {
        let told = self.context.ice_servers();
        let settings = &self.context.live().settings;
        network::link_options_to(settings, self.reach_by(route), &told)
    }

    /// Writes a message by a route. False when it cannot be written; over a link it may still
    /// get lost, which the negotiation notices.
    pub(super) fn write_by(&self, route: &Route, signal: &Signal) -> bool {
        match route {
            Route::Tcp(connection) => connection.try_send(signal).is_ok(),
            Route::Through(via) => {
                let coordinator = self.context.coordinator.upgrade();
                let Some(coordinator) = coordinator else {
                    return false;
                };
                coordinator.do_send(PassOn {
                    via: via.clone(),
                    to: self.id.clone(),
                    signal: signal.clone(),
                });
                true
            }
            Route::Mail => {
                let mail = self.context.mail.as_ref();
                mail.is_some_and(|mail| mail.try_send(&self.id, signal))
            }
        }
    }

    /// The way to a device of which no address is known: by its introducer, or by mail.
    pub(super) fn route_without_address(&self) -> Option<Route> {
        match &self.through {
            _ if !self.addresses.is_empty() => None,
            Some(via) => Some(Route::Through(via.clone())),
            None => self.met.then_some(Route::Mail),
        }
    }
}
