//! Pairing by code and by PIN, as a person has asked for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::info;

use crate::dataplane::{Handled, PairThen};
use crate::protocol::id::DeviceId;
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::pairing::code::CodePairing;
use crate::protocol::pairing::pin::{PinDoor, PinExchange, pin_from, read_pin};
use crate::protocol::pairing::{Ended, PairMessage, Parties, Step};
use crate::store::GrantedBy;

use super::super::api::{Event, PairWay, exit};
use super::super::peer::random;
use super::door::{has_gone, reject, words_of};
use super::sending::fail;
use super::{Coordinator, offer_event};

/// Longest that a device waits for another one to pair with.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// A pairing that a person has asked for.
pub(super) struct Asked {
    way: Way,
    /// With whom; nothing for whoever comes.
    pub(super) target: Option<Target>,
    until: Instant,
    reply: mpsc::Sender<Event>,
}

/// A device that was named.
pub(super) enum Target {
    /// Not seen yet.
    Word(String),
    Device(DeviceId),
}

enum Way {
    Code,
    TypePin(String),
    ShowPin { pin: String, door: PinDoor },
}

/// What goes on with a device.
pub(super) enum Machine {
    Code(CodePairing),
    Pin(PinExchange),
    /// It types the PIN that stands here.
    Standing(PinExchange),
    /// We have shown it an invite.
    Join,
}

impl Asked {
    /// The device that was named, once it is known which one that is.
    pub(super) fn device(&self) -> Option<&DeviceId> {
        match &self.target {
            Some(Target::Device(device)) => Some(device),
            _ => None,
        }
    }

    fn by(&self) -> GrantedBy {
        match self.way {
            Way::Code => GrantedBy::Code,
            Way::TypePin(_) | Way::ShowPin { .. } => GrantedBy::Pin,
        }
    }

    fn note(&self, text: String) {
        offer_event(&self.reply, &Event::Note { text });
    }
}

impl Coordinator {
    pub(super) fn on_pair(
        &mut self,
        with: Option<String>,
        addresses: Vec<SocketAddr>,
        way: PairWay,
        wait: Duration,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        if self.context.is_none() {
            return fail(&reply, "pairing needs the network", exit::ERROR);
        }
        if self
            .door
            .asked
            .as_ref()
            .is_some_and(|a| !has_gone(&a.reply))
        {
            let reason = "another pairing is going on on this device: end that first";
            return fail(&reply, reason, exit::ERROR);
        }
        let now = Instant::now();
        let wait = wait.min(MAX_WAIT);
        let way = match way {
            PairWay::Code => Way::Code,
            PairWay::TypePin(typed) => match (read_pin(&typed), &with) {
                (Some(pin), Some(_)) => Way::TypePin(pin),
                (None, _) => return fail(&reply, "a PIN has six digits", exit::USAGE),
                (_, None) => {
                    return fail(&reply, "say which device shows the PIN", exit::USAGE);
                }
            },
            PairWay::ShowPin => match random() {
                Ok(bytes) => {
                    let (pin, door) = (pin_from(bytes), PinDoor::open(now, wait));
                    let (shown, seconds) = (pin.clone(), wait.as_secs());
                    offer_event(
                        &reply,
                        &Event::PairPin {
                            pin: shown,
                            seconds,
                        },
                    );
                    Way::ShowPin { pin, door }
                }
                Err(error) => return fail(&reply, &error.to_string(), exit::ERROR),
            },
        };
        self.door.asked = Some(Asked {
            way,
            target: with.map(Target::Word),
            until: now + wait,
            reply,
        });
        self.find_target(addresses, ctx);
    }

    /// Which device the person means, as soon as it is there.
    fn find_target(&mut self, addresses: Vec<SocketAddr>, ctx: &mut Context<Self>) {
        let Some(asked) = &self.door.asked else {
            return;
        };
        let Some(Target::Word(word)) = &asked.target else {
            return;
        };
        let named = self.table.iter().map(|entry| &entry.advert.id);
        let many = named.filter(|id| self.name_of(id) == *word).count() > 1;
        let id = word.parse().ok().filter(DeviceId::is_self_certifying);
        let device = match self.find_device(word) {
            _ if id.is_some() => id,
            Ok(device) => Some(device),
            Err(reason) if many => {
                fail(&asked.reply, &reason, exit::USAGE);
                self.door.asked = None;
                return;
            }
            Err(_) => None,
        };
        let Some(device) = device else { return };
        if device == self.identity.device_id() || !device.is_self_certifying() {
            let reason = "only another device that has a key can be paired with";
            fail(&asked.reply, reason, exit::USAGE);
            self.door.asked = None;
            return;
        }
        if let Some(asked) = &mut self.door.asked {
            asked.target = Some(Target::Device(device.clone()));
        }
        if !addresses.is_empty() {
            self.add_static_peer(device.clone(), addresses, ctx);
        }
        self.want(&device, true);
        // Where it is let in on our side there may be a link already.
        self.begin_pairing(&device);
    }

    /// Makes the first step towards a device that we are out to come to know, now that it has a
    /// link.
    pub(super) fn begin_pairing(&mut self, device: &DeviceId) {
        let Some(parties) = self.parties(device) else {
            return;
        };
        let asked = self.door.asked.as_ref();
        let asked = asked.filter(|asked| asked.device() == Some(device));
        let begun = match asked.map(|asked| &asked.way) {
            Some(Way::Code) => match random() {
                Ok(nonce) => {
                    let (machine, commit) = CodePairing::begin(parties, nonce);
                    Some((Machine::Code(machine), commit))
                }
                Err(error) => return self.pairing_over(&error.to_string(), exit::ERROR),
            },
            Some(Way::TypePin(pin)) => {
                let (machine, share) = PinExchange::typed(pin, parties);
                Some((Machine::Pin(machine), share))
            }
            Some(Way::ShowPin { .. }) | None => self.show_invite(device, &parties),
        };
        if let (Some((machine, first)), Some(slot)) = (begun, self.door.machine(device)) {
            *slot = Some(machine);
            self.tell_guest(device, [first], PairThen::Listen);
        }
    }

    /// A device says something about coming to know each other.
    pub(super) fn on_paired(
        &mut self,
        device: &DeviceId,
        message: PairMessage,
        handled: Handled,
        ctx: &mut Context<Self>,
    ) {
        let (Some(parties), Some(slot)) = (self.parties(device), self.door.machine(device)) else {
            return self.tell_guest(device, None, PairThen::Close);
        };
        let machine = slot.take();
        match (machine, message) {
            (_, PairMessage::Invite { invite, mac }) => {
                self.redeem(device, &parties, invite, &mac, handled, ctx);
            }
            (Some(Machine::Join), message) => self.on_join_answer(device, message, handled, ctx),
            (Some(Machine::Code(mut code)), message) => {
                let step = code.on_message(message);
                self.go_on(device, Machine::Code(code), step, Some(handled), ctx);
            }
            (Some(Machine::Pin(mut pin)), message) => {
                let step = pin.on_message(message);
                self.go_on(device, Machine::Pin(pin), step, Some(handled), ctx);
            }
            (Some(Machine::Standing(pin)), message) => {
                self.go_on_standing(device, pin, message, handled, ctx);
            }
            (None, message) if !message.begins() => {
                // What had begun has ended here: the word about it is on its way.
            }
            (None, message) => match self.respond(device, parties, message) {
                Ok((machine @ Machine::Standing(_), answer)) => {
                    if let Some(slot) = self.door.machine(device) {
                        *slot = Some(machine);
                    }
                    self.tell_guest(device, [answer], PairThen::Listen);
                }
                Ok((machine, answer)) => {
                    let step = Step::Say(answer);
                    self.go_on(device, machine, step, Some(handled), ctx);
                }
                Err(no) => self.tell_guest(device, [no], PairThen::Close),
            },
        }
    }

    /// A device begins a pairing: is somebody here waiting for that?
    fn respond(
        &mut self,
        device: &DeviceId,
        parties: Parties,
        message: PairMessage,
    ) -> Result<(Machine, PairMessage), PairMessage> {
        let busy = self.door.busy().any(|other| other != device);
        let not_now = || {
            let reason = "nobody is pairing on that device now: run `handout pair` there";
            reject(Code::Busy, reason)
        };
        let unreadable = |why: Ended| reject(Code::BadRequest, &why.to_string());
        let shows = |asked: &Asked| matches!(asked.way, Way::ShowPin { .. });
        if let PairMessage::Pin { share } = &message
            && !self.door.asked.as_ref().is_some_and(shows)
            && let Some(answered) = self.answer_standing_pin(parties, share)
        {
            return answered;
        }
        let asked = self.door.asked.as_mut().ok_or_else(not_now)?;
        if asked.device().is_some_and(|named| named != device) {
            return Err(not_now());
        }
        match (&mut asked.way, message) {
            (Way::Code, PairMessage::Commit { .. }) if busy => Err(reject(
                Code::Busy,
                "that device is pairing with another one now: try again in a moment",
            )),
            (Way::Code, PairMessage::Commit { commit }) => {
                let nonce = random().map_err(|_| not_now())?;
                let (machine, answer) =
                    CodePairing::respond(parties, &commit, nonce).map_err(unreadable)?;
                Ok((Machine::Code(machine), answer))
            }
            (Way::ShowPin { pin, door }, PairMessage::Pin { share }) => {
                let closed = |why| reject(Code::Unauthorized, &format!("{why}"));
                door.take(Instant::now()).map_err(closed)?;
                let (machine, answer) =
                    PinExchange::answer(pin, parties, &share).map_err(unreadable)?;
                Ok((Machine::Pin(machine), answer))
            }
            (Way::ShowPin { .. }, PairMessage::Commit { .. }) => Err(reject(
                Code::Declined,
                "that device shows a PIN: type it with `handout pair DEVICE --pin`",
            )),
            (_, PairMessage::Pin { .. }) => Err(reject(
                Code::Declined,
                "that device shows no PIN: run `handout pair --show-pin` there",
            )),
            _ => Err(not_now()),
        }
    }

    /// A person has compared the codes.
    pub(super) fn on_pair_answer(
        &mut self,
        device: &DeviceId,
        yes: bool,
        ctx: &mut Context<Self>,
    ) -> Result<(), String> {
        match self.door.machine(device).map(Option::take) {
            Some(Some(Machine::Code(mut code))) => {
                let step = code.answer(yes);
                self.go_on(device, Machine::Code(code), step, None, ctx);
                Ok(())
            }
            Some(other) => {
                if let Some(slot) = self.door.machine(device) {
                    *slot = other;
                }
                Err("that device waits for no answer".to_owned())
            }
            None => Err("that device is not connected any more".to_owned()),
        }
    }

    /// Does what a step asks for.
    fn go_on(
        &mut self,
        device: &DeviceId,
        machine: Machine,
        step: Step,
        handled: Option<Handled>,
        ctx: &mut Context<Self>,
    ) {
        let showing = matches!(&machine, Machine::Code(code) if code.is_showing());
        let name = self.guest_name(device);
        let Some(asked) = &self.door.asked else {
            // Whoever asked has gone meanwhile.
            let no = reject(Code::Declined, "it was given up on the other device");
            return self.tell_guest(device, [no], PairThen::Close);
        };
        match &step {
            Step::Grant { .. } => {
                let by = asked.by();
                // It goes on until it is written down: nobody else's turn comes in between.
                if let Some(slot) = self.door.machine(device) {
                    *slot = Some(machine);
                }
                return self.agreed(device, by, step, handled, ctx);
            }
            Step::End { why, .. } => {
                let why = why.clone();
                let (say, then) = words_of(step, showing);
                self.tell_guest(device, say, then);
                return self.pairing_failed(device, &why);
            }
            Step::Show { code, .. } => {
                let event = Event::PairCode {
                    device_id: device.clone(),
                    name,
                    code: code.clone(),
                };
                offer_event(&asked.reply, &event);
            }
            Step::Say(_) | Step::Wait => {}
        }
        if let Some(slot) = self.door.machine(device) {
            *slot = Some(machine);
        }
        let (say, then) = words_of(step, showing);
        self.tell_guest(device, say, then);
    }

    /// Both sides agree: written down first, then said.
    fn agreed(
        &mut self,
        device: &DeviceId,
        by: GrantedBy,
        step: Step,
        handled: Option<Handled>,
        ctx: &mut Context<Self>,
    ) {
        let entry = self.admission(device, by);
        let name = entry.name.clone();
        let device = device.clone();
        let granted = self.grant(entry, None);
        ctx.spawn(granted.into_actor(self).map(move |granted, node, ctx| {
            if let Err(error) = granted {
                let no = reject(Code::DiskError, "it could not be written down");
                node.tell_guest(&device, [no], PairThen::Close);
                return node.pairing_over(&error.reason, error.code);
            }
            let (say, then) = words_of(step, false);
            node.tell_guest(&device, say, then);
            drop(handled);
            info!(%device, ?by, "paired");
            let event = Event::Paired {
                device_id: device.clone(),
                name,
                by,
                group: None,
            };
            if let Some(asked) = node.door.asked.take() {
                if matches!(asked.way, Way::TypePin(_)) {
                    // As by an invite: the other one was come to, and need not know the way back.
                    node.door.joined = Some(device.clone());
                }
                offer_event(&asked.reply, &event);
                offer_event(&asked.reply, &Event::End { code: exit::OK });
            }
            node.emit(&event);
            node.admit(&device, ctx);
        }));
    }

    /// The device that was named cannot be reached, so far.
    pub(super) fn pairing_delayed(&self, device: &DeviceId, reason: &str, news: bool) {
        let asked = self.door.asked.as_ref();
        if let Some(asked) = asked.filter(|asked| news && asked.device() == Some(device)) {
            let name = self.name_of(device);
            asked.note(format!(
                "no connection to {name} yet: {}",
                printable(reason)
            ));
        }
    }

    /// It came to nothing with this device. Whoever waits for anybody goes on waiting.
    fn pairing_failed(&mut self, device: &DeviceId, why: &Ended) {
        let name = self.guest_name(device);
        let Some(asked) = &self.door.asked else {
            return;
        };
        let busy = matches!(
            why,
            Ended::Refused {
                code: Code::Busy,
                ..
            }
        );
        match &asked.way {
            // It is tried again.
            _ if busy => asked.note(format!("{name}: {why}")),
            Way::Code if asked.target.is_none() && *why != Ended::Declined => {
                asked.note(format!("no pairing with {name}: {why}"));
            }
            Way::ShowPin { .. } => {
                asked.note(format!("{name} is not let in: {why}"));
                self.pin_tries_over();
            }
            Way::Code | Way::TypePin(_) => {
                let reason = format!("no pairing with {name}: {why}");
                self.pairing_over(&reason, exit::UNAUTHORIZED);
            }
        }
    }

    /// The PIN is dead once the last guess has failed.
    pub(super) fn pin_tries_over(&mut self) {
        let Some(Asked {
            way: Way::ShowPin { door, .. },
            ..
        }) = &self.door.asked
        else {
            return;
        };
        if door.is_spent() && self.door.busy().next().is_none() {
            let reason = "the PIN was guessed wrong three times and is dead: run this again";
            self.pairing_over(reason, exit::UNAUTHORIZED);
        }
    }

    /// The pairing that was asked for has failed.
    fn pairing_over(&mut self, reason: &str, code: u8) {
        if let Some(asked) = self.door.asked.take() {
            fail(&asked.reply, reason, code);
            self.end_pairings(&asked);
        }
    }

    fn end_pairings(&mut self, asked: &Asked) {
        let busy: Vec<DeviceId> = self.door.busy().cloned().collect();
        for device in busy {
            let machine = self.door.machine(&device);
            if !matches!(machine, Some(Some(Machine::Join | Machine::Standing(_)))) {
                self.give_up_on(&device, "it was given up on the other device");
            }
        }
        if let Some(device) = asked.device() {
            self.let_go(device);
        }
    }

    /// Ends a pairing that nobody waits for any more, or whose time is over.
    pub(super) fn tend_asked(&mut self, ctx: &mut Context<Self>) {
        let Some(asked) = &self.door.asked else {
            return;
        };
        if has_gone(&asked.reply) {
            if let Some(asked) = self.door.asked.take() {
                self.end_pairings(&asked);
            }
        } else if Instant::now() >= asked.until {
            let reason = match &asked.target {
                Some(Target::Word(word)) => format!(
                    "no device called {:?} was seen: `handout peers` lists those that are here; \
                     where discovery does not reach it, write ID@HOST:PORT",
                    printable(word)
                ),
                _ => "no device was paired in the given time; run it again on both devices"
                    .to_owned(),
            };
            self.pairing_over(&reason, exit::NO_RECEIVER);
        } else {
            self.find_target(Vec::new(), ctx);
        }
    }
}
