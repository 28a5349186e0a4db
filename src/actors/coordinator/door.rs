//! The door: which devices that nobody has let in may have a link all the same, as guests, and
//! what is known of them until they are let in or gone.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::dataplane::{PairStep, PairThen, SessionCommand, Standing};
use crate::net::signaling::SignalEvent;
use crate::protocol::handshake::Binding;
use crate::protocol::id::{DeviceId, InviteId};
use crate::protocol::identity::PublicKey;
use crate::protocol::invite::Issued;
use crate::protocol::message::Code;
use crate::protocol::pairing::guests::Guests;
use crate::protocol::pairing::{PairMessage, Parties, Step};
use crate::protocol::proof::{self, Expected};
use crate::protocol::replay::ReplayCache;
use crate::protocol::signal::{Signal, SignalKind};
use crate::store::{Authorization, GrantedBy};

use super::super::api::Event;
use super::super::peer::{Command, unix_now};
use super::invites::Joining;
use super::kiosk::Kiosk;
use super::pairing::{Asked, Machine};
use super::{Coordinator, SessionInfo};

/// Who may come in, and who is about to.
pub(super) struct Door {
    guests: Guests,
    /// Devices with a link on which they have proven their key.
    present: HashMap<DeviceId, Present>,
    /// The pairing that a person has asked for.
    pub(super) asked: Option<Asked>,
    /// The invite that we are to come in by.
    pub(super) joining: Option<Joining>,
    /// Whom we have joined, by an invite or by the PIN that it shows: the link is made again and
    /// again, since nobody else may know the way.
    pub(super) joined: Option<DeviceId>,
    pub(super) invites: BTreeMap<InviteId, Issued>,
}

/// A device with a link.
pub(super) struct Present {
    key: PublicKey,
    binding: Binding,
    /// Its session, until it is let in.
    held: Option<SessionInfo>,
    pub(super) machine: Option<Machine>,
}

impl Door {
    /// A door with the invites that are on record.
    pub(super) fn new(invites: Vec<Issued>) -> Self {
        Self {
            guests: Guests::default(),
            present: HashMap::new(),
            asked: None,
            joining: None,
            joined: None,
            invites: invites.into_iter().map(|i| (i.id, i)).collect(),
        }
    }

    /// Devices that are here, or on their way, without being let in.
    pub(super) fn guests(&self) -> usize {
        self.guests.len()
    }

    pub(super) fn is_present(&self, device: &DeviceId) -> bool {
        self.present.contains_key(device)
    }

    /// True when we are out to come to know this very device.
    pub(super) fn wants(&self, device: &DeviceId) -> bool {
        let named = self.asked.as_ref().and_then(Asked::device);
        let issuer = self.joining.as_ref().map(Joining::issuer);
        [named, issuer, self.joined.as_ref()].contains(&Some(device))
    }

    /// True when strangers may come to the door: somebody waits for whoever comes, or there are
    /// invites. One that has ended counts for a day, so that its holders are told.
    fn is_open(&self, now: u64) -> bool {
        self.asked
            .as_ref()
            .is_some_and(|asked| asked.target.is_none())
            || self
                .invites
                .values()
                .any(|invite| !invite.is_forgotten(now))
    }

    /// How many devices are typing the PIN that stands.
    pub(super) fn standing_pins(&self) -> usize {
        let machines = self.present.values().map(|present| &present.machine);
        machines
            .filter(|machine| matches!(machine, Some(Machine::Standing(_))))
            .count()
    }

    /// A device must go.
    pub(super) fn shut(&mut self, device: &DeviceId) {
        self.forget(device);
        self.joined.take_if(|joined| joined == device);
    }

    /// A device's link is gone.
    fn forget(&mut self, device: &DeviceId) {
        self.guests.leave(device);
        self.present.remove(device);
    }

    pub(super) fn machine(&mut self, device: &DeviceId) -> Option<&mut Option<Machine>> {
        self.present
            .get_mut(device)
            .map(|present| &mut present.machine)
    }

    /// Devices that a pairing, or a join, is going on with.
    pub(super) fn busy(&self) -> impl Iterator<Item = &DeviceId> {
        let busy = self.present.iter().filter(|(_, p)| p.machine.is_some());
        busy.map(|(device, _)| device)
    }
}

impl Coordinator {
    /// May a message of a device that is not let in be looked at? Else why not, where it is worth
    /// a word.
    pub(super) fn knock(&mut self, heard: &SignalEvent) -> Result<(), Option<String>> {
        let device = &heard.signal.peer_id;
        if self.door.wants(device) {
            return Ok(());
        }
        let kiosk = self.kiosk.as_ref().is_some_and(Kiosk::has_pin);
        if !device.is_self_certifying() || !(kiosk || self.door.is_open(unix_now())) {
            return Err(None);
        }
        if heard.signal.kind != SignalKind::Offer {
            return match self.door.guests.contains(device) {
                true => Ok(()),
                false => Err(None),
            };
        }
        let now = Instant::now();
        let told = |why: &dyn std::fmt::Display| Some(why.to_string());
        self.door.guests.knock(now).map_err(|why| told(&why))?;
        // Only a key's holder gets a place. The peer spends the nonce, so here it is not.
        proof::verify(
            &heard.signal.data,
            device,
            &self.identity.device_id(),
            Expected::Offer,
            unix_now(),
            self.settings.signaling.max_clock_skew.as_secs(),
            &mut ReplayCache::new(1),
        )
        .map_err(|why| told(&why))?;
        self.door
            .guests
            .enter(now, device, heard.from.ip())
            .map_err(|why| told(&why))
    }

    /// Answers the offer of a device that gets no link with a line; nothing is kept of it.
    pub(super) fn turn_away(&mut self, heard: &SignalEvent, reason: Option<String>) {
        let device = heard.signal.peer_id.clone();
        if heard.signal.kind != SignalKind::Offer {
            return;
        }
        let data = match &reason {
            Some(reason) => reason.clone(),
            // A copy of its old state, or a backup.
            None if self.trust.current(&device) != &device => format!(
                "not authorized: this key was given up, its device now has the id {}; if this is \
                 a copy of that device, stop handout here and run: handout id new",
                self.trust.current(&device)
            ),
            None if device.is_self_certifying() => format!(
                "not authorized there: on that device, run: handout authorize {device}, or pair both: \
                 handout pair"
            ),
            None => "devices without a key are not let in here: its owner can allow them with \
                     trust.plain_peers"
                .to_owned(),
        };
        let error = Signal {
            kind: SignalKind::Error,
            peer_id: self.identity.device_id(),
            data,
        };
        let _ = heard.connection.send_last(&error);
        if let Some(reason) = reason {
            debug!(%device, address = %heard.from, %reason, "a stranger was turned away");
            return;
        }
        info!(%device, address = %heard.from, "a device that is not authorized wants to connect");
        let event = Event::Unauthorized {
            hint: format!("to let it in, run: handout authorize {device}, or handout pair"),
            device_id: device,
            address: heard.from.to_string(),
        };
        self.emit(&event);
    }

    /// What a device that has a link may do on it; nothing when the link must go.
    pub(super) fn standing_of(&self, device: &DeviceId, proven: bool) -> Option<Standing> {
        let joined = self.door.joined.as_ref() == Some(device);
        if proven && self.door.wants(device) && !joined {
            Some(Standing::Asked)
        } else if self.is_let_in(device) {
            Some(Standing::Member)
        } else if proven && self.door.guests.contains(device) {
            Some(Standing::Guest)
        } else if proven && self.is_introduced(device) {
            Some(Standing::Neighbour)
        } else {
            None
        }
    }

    /// Keeps what is known of a link. Gives the session back when the device is let in.
    pub(super) fn receive_guest(
        &mut self,
        device: &DeviceId,
        standing: Standing,
        session: SessionInfo,
        proven: Option<(PublicKey, Binding)>,
    ) -> Option<SessionInfo> {
        let member = matches!(standing, Standing::Member | Standing::Neighbour);
        let Some((key, binding)) = proven else {
            return member.then_some(session);
        };
        self.door.guests.arrived(device);
        let (session, held) = match member {
            true => (Some(session), None),
            false => (None, Some(session)),
        };
        let present = Present {
            key,
            binding,
            held,
            machine: None,
        };
        self.door.present.insert(device.clone(), present);
        session
    }

    /// The ends of the link to a device that has proven its key.
    pub(super) fn parties(&self, device: &DeviceId) -> Option<Parties> {
        let present = self.door.present.get(device)?;
        Some(Parties {
            binding: present.binding,
            ours: self.identity.public_key(),
            theirs: present.key,
        })
    }

    /// Its name for people, also while it is a guest.
    pub(super) fn guest_name(&self, device: &DeviceId) -> String {
        let present = self.door.present.get(device);
        let held = present.and_then(|present| present.held.as_ref());
        match held {
            Some(session) if !session.name.is_empty() => session.name.clone(),
            _ => self.name_of(device),
        }
    }

    /// Says something to a device that a pairing goes on with.
    pub(super) fn tell_guest(
        &self,
        device: &DeviceId,
        say: impl IntoIterator<Item = PairMessage>,
        then: PairThen,
    ) {
        let say = say.into_iter().collect();
        let step = PairStep { say, then };
        self.command(device, Command(SessionCommand::Pair(step)));
    }

    /// What to write down about a device that a pairing has let in; what was decided about it
    /// before stays.
    pub(super) fn admission(&self, device: &DeviceId, by: GrantedBy) -> Authorization {
        let known = self.trust.authorization(device);
        let known = known.filter(|entry| entry.is_valid_at(unix_now()));
        let fresh = || Authorization {
            device: device.clone(),
            name: self.guest_name(device),
            key: None,
            since: unix_now(),
            by,
            expires: None,
            roles: None,
            via: None,
        };
        let key = self.door.present.get(device).map(|present| present.key);
        Authorization {
            key,
            ..known.cloned().unwrap_or_else(fresh)
        }
    }

    /// A device is let in: from here on its link is like any other.
    pub(super) fn admit(&mut self, device: &DeviceId, ctx: &mut Context<Self>) {
        self.door.guests.leave(device);
        let Some(present) = self.door.present.get_mut(device) else {
            return;
        };
        present.machine = None;
        let key = present.key;
        if let Some(mut session) = present.held.take() {
            session.standing = Standing::Member;
            self.welcome(device, session, Some(key));
        }
        self.drive(ctx);
    }

    /// The link of a device is gone. True when that is no news to anybody else: it was a guest.
    pub(super) fn guest_gone(&mut self, device: &DeviceId, reason: &str) -> bool {
        let arrived = self.door.is_present(device);
        self.door.forget(device);
        let slot = self.peers.get(device);
        let had_session = slot.is_some_and(|slot| slot.session.is_some());
        let news = slot.is_none_or(|slot| slot.error.as_deref() != Some(reason));
        if !arrived {
            self.join_failed(device, reason);
            self.pairing_delayed(device, reason, news);
        }
        self.pin_tries_over();
        if had_session {
            return false;
        }
        if self.door.wants(device) {
            // It is tried again all the time: worth a word when something else is wrong.
            return !news;
        }
        if self.is_let_in(device) || self.is_introduced(device) {
            return false;
        }
        self.peers.remove(device);
        true
    }

    /// Lets go of what has taken too long, or nobody waits for any more.
    pub(super) fn tend_door(&mut self, ctx: &mut Context<Self>) {
        for device in self.door.guests.late(Instant::now()) {
            debug!(%device, "a guest did not arrive");
            self.door.forget(&device);
            if !self.is_let_in(&device) && !self.is_introduced(&device) {
                self.peers.remove(&device);
            }
        }
        self.tend_asked(ctx);
        self.tend_invites();
    }

    /// A device that we no longer want to come to know: its link goes, unless it is let in.
    pub(super) fn let_go(&mut self, device: &DeviceId) {
        if self.door.wants(device) || self.is_let_in(device) || self.is_introduced(device) {
            return;
        }
        match self.door.is_present(device) {
            // The last word is on its way; the session ends after it.
            true => self.want(device, false),
            false => {
                self.peers.remove(device);
            }
        }
    }

    /// Ends what goes on with a device, with a word to it.
    pub(super) fn give_up_on(&mut self, device: &DeviceId, reason: &str) {
        if let Some(machine) = self.door.machine(device) {
            *machine = None;
            let no = reject(Code::Declined, reason);
            self.tell_guest(device, [no], PairThen::Close);
        }
    }
}

/// A refusal.
pub(super) fn reject(code: Code, reason: &str) -> PairMessage {
    let reason = reason.to_owned();
    PairMessage::Reject { code, reason }
}

/// What to say with a step, and what comes then.
pub(super) fn words_of(step: Step, showing: bool) -> (Option<PairMessage>, PairThen) {
    let then = match (&step, showing) {
        (Step::End { .. }, _) => PairThen::Close,
        (Step::Grant { .. }, _) => PairThen::Admit,
        (Step::Show { .. }, _) | (_, true) => PairThen::AwaitPerson,
        _ => PairThen::Listen,
    };
    let say = match step {
        Step::Say(message) => Some(message),
        Step::Show { say, .. } | Step::Grant { say } | Step::End { say, .. } => say,
        Step::Wait => None,
    };
    (say, then)
}

/// True when whoever asked has gone.
pub(super) fn has_gone(reply: &mpsc::Sender<Event>) -> bool {
    reply.is_closed()
}
