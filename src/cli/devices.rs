//! `id`, `authorize`, `revoke`: who this is, and who may.

use std::io;

use super::Failure;
use super::args::Authorize;
use super::screen::Screen;
use super::session::{Context, View, ask};
use super::text::foreign;
use super::view::{MAX_NAME, Plain};
use crate::actors::api::{Event, Request};
use crate::actors::service::Mode;

/// This device's id, alone on stdout.
pub fn id(context: &Context) -> Result<u8, Failure> {
    ask(
        context,
        Mode::Offline,
        Request::Id,
        Plain::new(&context.screen),
    )
}

/// Lets a device exchange files with this one.
pub fn authorize(context: &Context, options: Authorize) -> Result<u8, Failure> {
    let request = Request::Authorize {
        device: options.device,
        name: options.name,
        roles: options.roles,
        group: options.group,
        seconds: options.lifetime.map(|lifetime| lifetime.as_secs()),
    };
    ask(context, Mode::Offline, request, Decided::of(context))
}

/// No longer lets it.
pub fn revoke(context: &Context, device: String) -> Result<u8, Failure> {
    let request = Request::Revoke { device };
    ask(context, Mode::Offline, request, Decided::of(context))
}

/// What was decided about a device.
struct Decided(Screen);

impl Decided {
    fn of(context: &Context) -> Self {
        Self(context.screen.clone())
    }
}

impl View for Decided {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Peer(peer) if !self.0.is_json() => {
                let name = foreign(&peer.name, MAX_NAME);
                let id = &peer.device_id;
                self.0.result(&if peer.authorized {
                    format!("authorized: {name} ({id})")
                } else {
                    format!("not authorized any more: {name} ({id})")
                })
            }
            other => Plain::new(&self.0).event(other),
        }
    }
}
