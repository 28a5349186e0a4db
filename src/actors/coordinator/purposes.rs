//! Devices that are let in for one request at a rendezvous, and for nothing else: they get what they
//! have asked for, or give what they were asked for, and are no members in anything.

use std::path::PathBuf;
use std::time::Duration;

use actix::prelude::*;

use crate::content::MADE;
use crate::protocol::id::DeviceId;
use crate::protocol::roles::Roles;
use crate::protocol::trust::{Purpose, Vouched};

use super::super::peer::unix_now;
use super::Coordinator;

/// Lets a device in for one purpose and a time; nothing of it is kept on disk.
#[derive(Message)]
#[rtype(result = "Result<Purpose, String>")]
pub struct Vouch {
    /// Which.
    pub device: DeviceId,
    /// What it may do.
    pub roles: Roles,
    /// For how long at most.
    pub lasts: Duration,
    /// Why, for people.
    pub why: String,
}

/// Takes that back: the purpose is over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unvouch(pub DeviceId, pub Purpose);

impl Handler<Vouch> for Coordinator {
    type Result = Result<Purpose, String>;

    fn handle(&mut self, vouch: Vouch, _: &mut Context<Self>) -> Self::Result {
        let now = unix_now();
        let vouched = Vouched {
            roles: vouch.roles,
            until: now.saturating_add(vouch.lasts.as_secs()),
            why: vouch.why,
        };
        let purpose = self.trust.vouch(vouch.device, vouched, now)?;
        self.watch_at_once();
        Ok(purpose)
    }
}

impl Handler<Unvouch> for Coordinator {
    type Result = ();

    fn handle(&mut self, Unvouch(device, purpose): Unvouch, _: &mut Context<Self>) {
        self.trust.unvouch(&device, purpose);
    }
}

impl Coordinator {
    /// Whether a device may have the files of a broadcast: for what answers its request that is
    /// enough, for all else it takes more.
    pub(super) fn may_receive(&self, device: &DeviceId, paths: &[PathBuf]) -> bool {
        let made = self.settings.state.dir.join(MADE);
        let answers = !paths.is_empty() && paths.iter().all(|path| path.starts_with(&made));
        let purposes = match answers {
            true => self.trust.roles_for_purposes(device, unix_now()),
            false => Roles::NONE,
        };
        self.roles_of(device).union(purposes).allow(Roles::RECEIVE)
    }

    /// Whether a device may send here: always, or something that was asked of it.
    pub(super) fn may_send(&self, device: &DeviceId) -> bool {
        let purposes = self.trust.roles_for_purposes(device, unix_now());
        self.roles_of(device).union(purposes).allow(Roles::SEND)
    }

    /// Let in for more than one request.
    pub(super) fn is_member(&self, device: &DeviceId) -> bool {
        self.trust.is_member(device, unix_now()) || self.is_plain_and_welcome(device)
    }
}
