//! `id`, `id rotate`, `id new`, `authorize`, `revoke`: who this is, and who may.

use std::io;

use super::Failure;
use super::args::{Authorize, Id};
use super::screen::Screen;
use super::session::{Context, View, ask};
use super::text::foreign;
use super::view::{MAX_NAME, Plain};
use crate::actors::api::{Event, Request, exit};
use crate::actors::service::{self, Mode, StartError};
use crate::store::StoreError;

/// This device's id, alone on stdout.
pub fn id(context: &Context) -> Result<u8, Failure> {
    ask(
        context,
        Mode::Offline,
        Request::Id,
        Plain::new(&context.screen),
    )
}

/// A new key for this device; its new id, alone on stdout.
pub fn renew(context: &Context, what: Id) -> Result<u8, Failure> {
    let (followed, word) = match what {
        Id::Rotate => (true, "rotate"),
        Id::New => (false, "new"),
    };
    let renewed = match service::renew(&context.settings, followed) {
        // It would go on with a key whose secret is gone.
        Err(StoreError::Locked { pid, .. }) => {
            let holder = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            return Err(Failure::Other(format!(
                "handout runs on this state folder{holder}, and its key cannot change meanwhile: \
                 stop it, run `handout id {word}`, and start it again; nothing was changed"
            )));
        }
        other => other.map_err(StartError::Store)?,
    };
    let screen = &context.screen;
    if screen.is_json() {
        screen.object(&Event::Renewed {
            device_id: renewed.device,
            earlier: renewed.earlier,
            followed,
            invites: renewed.invites,
        })?;
        screen.object(&Event::End { code: exit::OK })?;
        return Ok(exit::OK);
    }
    let earlier = renewed.earlier;
    screen.note(&match what {
        Id::Rotate => format!(
            "this device has a new key, and the id below; it was {earlier}. Devices that let it \
             in follow when they next meet it"
        ),
        Id::New => format!(
            "this is another device now, with the id below; it was {earlier}. Whom it has \
             authorized stays; others must authorize it anew"
        ),
    });
    if renewed.invites > 0 {
        let invites = renewed.invites;
        screen.note(&format!(
            "invites that ended, since they name the old id: {invites}"
        ));
    }
    screen.result(renewed.device.as_str())?;
    Ok(exit::OK)
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
