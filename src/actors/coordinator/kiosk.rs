//! The kiosk: a device that nobody sits at lets others in by itself, by an invite that stands or a
//! PIN that stands, and tells in two files how to come in.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use actix::prelude::*;
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use tracing::{error, info, warn};

use crate::config;
use crate::dataplane::{Handled, PairThen};
use crate::protocol::id::{DeviceId, InviteId};
use crate::protocol::invite::{self, Invite, Issued, Secret, Standing};
use crate::protocol::message::Code;
use crate::protocol::pairing::pin::{PinExchange, pin_from};
use crate::protocol::pairing::standing::{StandingClosed, StandingPin};
use crate::protocol::pairing::{PairMessage, Parties, Step};
use crate::store::{Authorization, GrantedBy};

use super::super::api::Event;
use super::super::network;
use super::super::peer::{random, unix_now};
use super::super::store::{Job, keep};
use super::Coordinator;
use super::door::{reject, words_of};
use super::pairing::Machine;

/// How often it is looked at whether what is shown still holds.
const LOOK: Duration = Duration::from_secs(5);
/// What an authorization by the PIN names as what it came by.
const BY_PIN: &str = "the kiosk's PIN";
/// How many visitors whose time is over are kept on record at most, and how long at least.
const VISITORS_KEPT: usize = 50;
const VISITORS_KEPT_FOR: u64 = 3600;
const DAY: u64 = 24 * 3600;

/// What the kiosk starts with.
pub struct KioskStart {
    /// The rules.
    pub rule: config::Kiosk,
    /// The secret of the invite that stands, if one does.
    pub secret: Option<Secret>,
    /// The PIN of the file, if there is one.
    pub pin: Option<String>,
}

pub(super) struct Kiosk {
    rule: config::Kiosk,
    invite: Option<InviteId>,
    pin: Option<StandingPin>,
    fixed_pin: Option<String>,
    /// Which day it is, and how many have come by the PIN on it.
    came: (u64, u32),
    looked: Option<Instant>,
    /// What the files say.
    shown: Option<String>,
    /// Why they could not be written, the last time.
    fault: Option<String>,
}

impl Kiosk {
    /// True when strangers may come to the door because of it.
    pub(super) fn has_pin(&self) -> bool {
        self.pin.is_some()
    }

    /// Counts one that comes by the PIN. False when as many came today as may.
    fn count(&mut self, now: u64) -> bool {
        if self.came.0 != now / DAY {
            self.came = (now / DAY, 0);
        }
        let may = self.came.1 < self.rule.per_day;
        self.came.1 += u32::from(may);
        may
    }
}

impl Coordinator {
    /// Opens the kiosk, or forgets the invite of one that is no longer.
    pub(super) fn open_kiosk(&mut self, start: Option<KioskStart>) {
        let current = start.as_ref().and_then(|start| start.secret.as_ref());
        let current = current.map(Secret::id);
        let stood = self.door.invites.values();
        let stood = stood.filter(|i| i.standing.is_some() && Some(i.id) != current);
        for old in stood.map(|invite| invite.id).collect::<Vec<_>>() {
            self.forget_invite(old);
        }
        let Some(KioskStart { rule, secret, pin }) = start else {
            return;
        };
        self.kiosk = Some(Kiosk {
            invite: None,
            pin: None,
            fixed_pin: pin,
            came: (0, 0),
            looked: None,
            shown: None,
            fault: None,
            rule,
        });
        if let Some(secret) = secret {
            self.put_standing_invite(secret);
        }
        self.renew_standing_pin();
    }

    /// The invite that stands; what is on record of it stays.
    fn put_standing_invite(&mut self, secret: Secret) {
        let Some(kiosk) = &mut self.kiosk else { return };
        let (id, now, rule) = (secret.id(), unix_now(), &kiosk.rule);
        kiosk.invite = Some(id);
        let known = self.door.invites.remove(&id);
        let (created, used, day) = match known {
            Some(known) => (
                known.created,
                known.used,
                known.standing.map_or(0, |standing| standing.day),
            ),
            None => (now, Vec::new(), now / DAY),
        };
        let issued = Issued {
            id,
            secret,
            created,
            expires: u64::from(u32::MAX),
            uses: rule.per_day,
            used,
            group: Some(rule.group.clone()),
            roles: Some(rule.roles),
            revoked: false,
            standing: Some(Standing {
                day,
                stay: rule.stay.as_secs(),
            }),
        };
        let kept = issued.clone();
        keep(&self.store, "the kiosk's invite", move |store| {
            store.put_invite(kept)
        });
        self.door.invites.insert(id, issued);
    }

    fn renew_standing_pin(&mut self) {
        let Some(kiosk) = &mut self.kiosk else { return };
        if kiosk.rule.pin == config::KioskPin::Off {
            return;
        }
        let pin = match (&kiosk.fixed_pin, random()) {
            (Some(pin), _) => pin.clone(),
            (None, Ok(bytes)) => pin_from(bytes),
            (None, Err(error)) => return error!(%error, "no PIN for the kiosk"),
        };
        let now = Instant::now();
        match &mut kiosk.pin {
            Some(standing) => standing.renew(now, pin),
            None => kiosk.pin = Some(StandingPin::new(now, pin, kiosk.rule.pin_every)),
        }
        kiosk.looked = None;
    }

    /// Sees to it that what stands, stands, and that the files say so.
    pub(super) fn tend_kiosk(&mut self, ctx: &mut Context<Self>) {
        let under_way = self.door.standing_pins();
        let Some(kiosk) = &mut self.kiosk else { return };
        let now = Instant::now();
        if let Some(pin) = &mut kiosk.pin {
            if pin.close_if_spent(now, under_way) {
                let seconds = pin.left(now).as_secs();
                warn!(
                    seconds,
                    "the kiosk's PIN was typed wrong three times; it is closed for a while"
                );
                kiosk.looked = None;
            } else if pin.is_due(now) {
                self.renew_standing_pin();
            }
        }
        let Some(kiosk) = &mut self.kiosk else { return };
        if kiosk.looked.is_some_and(|at| now - at < LOOK) {
            return;
        }
        kiosk.looked = Some(now);
        let invite = kiosk.invite.and_then(|id| self.door.invites.get_mut(&id));
        if let Some(invite) = invite {
            invite.turn(unix_now());
            if invite.revoked {
                self.replace_standing_invite(ctx);
            }
        }
        self.forget_visitors();
        self.show_kiosk(ctx);
    }

    /// Somebody has taken the invite back: whoever has a copy of it stays out, and a new one is
    /// shown.
    fn replace_standing_invite(&mut self, ctx: &mut Context<Self>) {
        let Some(kiosk) = &mut self.kiosk else { return };
        kiosk.invite = None;
        if kiosk.rule.secret_file.is_some() {
            return warn!(
                "the kiosk's invite was revoked: for a new one, change the text in \
                 kiosk.secret_file and start the service again"
            );
        }
        let renewed = self
            .store
            .send(Job::new(|store| store.renew_kiosk_secret()));
        ctx.spawn(
            renewed
                .into_actor(self)
                .map(|renewed, node, _| match renewed {
                    Ok(Ok(secret)) => {
                        info!("the kiosk has a new invite");
                        node.put_standing_invite(secret);
                        if let Some(kiosk) = &mut node.kiosk {
                            kiosk.looked = None;
                        }
                    }
                    Ok(Err(error)) => error!(%error, "the kiosk gets no new invite"),
                    Err(error) => error!(%error, "the kiosk gets no new invite"),
                }),
        );
    }

    /// Visitors whose time is over make room for others.
    fn forget_visitors(&mut self) {
        let Some(kiosk) = &self.kiosk else { return };
        let now = unix_now();
        let over = |entry: &&Authorization| {
            let ends = entry.expires.unwrap_or(u64::MAX);
            entry.by == GrantedBy::Invite && ends.saturating_add(VISITORS_KEPT_FOR) < now
        };
        let gone = self.trust.authorizations().filter(over);
        let gone: Vec<DeviceId> = gone.map(|entry| entry.device.clone()).collect();
        if gone.len() <= VISITORS_KEPT {
            return;
        }
        info!(visitors = gone.len(), "their time is over; forgotten");
        let mut group = self.trust.group(&kiosk.rule.group).cloned();
        if let Some(group) = &mut group {
            group.members.retain(|member| !gone.contains(member));
            self.trust.put_group(group.clone());
        }
        for device in &gone {
            self.trust.forget(device);
        }
        keep(&self.store, "visitors", move |store| {
            store.forget(&gone)?;
            group.map_or(Ok(()), |group| store.put_group(group))
        });
    }

    /// What to write down about a device that comes in by what stands. What a person has decided
    /// about it holds.
    pub(super) fn visitor(&self, device: &DeviceId, by_pin: bool) -> Option<Authorization> {
        let rule = &self.kiosk.as_ref()?.rule;
        let entry = self.admission(device, GrantedBy::Invite);
        if entry.by != GrantedBy::Invite {
            return Some(entry);
        }
        let invite = self.kiosk.as_ref()?.invite;
        Some(Authorization {
            roles: Some(rule.roles),
            expires: Some(unix_now().saturating_add(rule.stay.as_secs())),
            via: match by_pin {
                true => Some(BY_PIN.to_owned()),
                false => invite.map(|invite| invite.to_string()),
            },
            ..entry
        })
    }

    /// A device types the PIN that stands. Nothing when none does.
    pub(super) fn answer_standing_pin(
        &mut self,
        parties: Parties,
        share: &str,
    ) -> Option<Result<(Machine, PairMessage), PairMessage>> {
        let kiosk = self.kiosk.as_mut()?;
        let standing = kiosk.pin.as_mut()?;
        if let Err(closed) = standing.take() {
            let code = match closed {
                StandingClosed::Busy => Code::Busy,
                StandingClosed::Closed => Code::Unauthorized,
            };
            return Some(Err(reject(code, &closed.to_string())));
        }
        let pin = standing.pin().unwrap_or_default().to_owned();
        Some(match PinExchange::answer(&pin, parties, share) {
            Ok((machine, answer)) => Ok((Machine::Standing(machine), answer)),
            Err(why) => Err(reject(Code::BadRequest, &why.to_string())),
        })
    }

    /// Goes on with a device that types the PIN that stands.
    pub(super) fn go_on_standing(
        &mut self,
        device: &DeviceId,
        mut machine: PinExchange,
        message: PairMessage,
        handled: Handled,
        ctx: &mut Context<Self>,
    ) {
        let step = machine.on_message(message);
        match &step {
            Step::Grant { .. } => return self.welcome_visitor(device, machine, step, handled, ctx),
            Step::End { why, .. } => info!(%device, %why, "not let in by the kiosk's PIN"),
            _ => {
                if let Some(slot) = self.door.machine(device) {
                    *slot = Some(Machine::Standing(machine));
                }
            }
        }
        let (say, then) = words_of(step, false);
        self.tell_guest(device, say, then);
    }

    /// The PIN was right: written down first, then said.
    fn welcome_visitor(
        &mut self,
        device: &DeviceId,
        machine: PinExchange,
        step: Step,
        handled: Handled,
        ctx: &mut Context<Self>,
    ) {
        let Some(kiosk) = &mut self.kiosk else { return };
        if let Some(pin) = &mut kiosk.pin {
            pin.succeeded();
        }
        if !kiosk.count(unix_now()) {
            let no = reject(Code::Quota, "no more devices are let in today");
            return self.tell_guest(device, [no], PairThen::Close);
        }
        let group = kiosk.rule.group.clone();
        let Some(entry) = self.visitor(device, true) else {
            return;
        };
        if let Some(slot) = self.door.machine(device) {
            *slot = Some(Machine::Standing(machine));
        }
        let (device, name) = (device.clone(), entry.name.clone());
        let granted = self.grant(entry, Some(&group));
        ctx.spawn(granted.into_actor(self).map(move |granted, node, ctx| {
            if let Some(slot) = node.door.machine(&device) {
                *slot = None;
            }
            if let Err(error) = granted {
                warn!(error = error.reason, %device, "a visitor is not let in");
                let no = reject(Code::Unauthorized, "this device is not let in here");
                return node.tell_guest(&device, [no], PairThen::Close);
            }
            let (say, then) = words_of(step, false);
            node.tell_guest(&device, say, then);
            drop(handled);
            info!(%device, "let in by the kiosk's PIN");
            node.emit(&Event::Paired {
                device_id: device.clone(),
                name,
                by: GrantedBy::Invite,
                group: Some(group.clone()),
            });
            node.give_open_broadcasts(&device, Some(&group));
            node.admit(&device, ctx);
        }));
    }

    /// Writes the files anew where they would say something else.
    fn show_kiosk(&mut self, ctx: &mut Context<Self>) {
        let (Some(kiosk), Some(context)) = (&self.kiosk, &self.context) else {
            return;
        };
        let invite = kiosk.invite.and_then(|id| self.door.invites.get(&id));
        let invite = invite.map(|issued| {
            let mut addresses = network::reachable(&self.settings, context.port);
            addresses.truncate(invite::MAX_ADDRESSES);
            Invite {
                issuer: self.identity.device_id(),
                secret: issued.secret.clone(),
                expires: u32::MAX,
                addresses,
            }
        });
        let reachable = network::reachable(&self.settings, context.port);
        let place = reachable
            .first()
            .map(|at| format!("{}@{at}", self.identity.device_id()));
        let text = kiosk.text(
            &self.settings.device.name,
            place.as_deref(),
            invite.as_ref(),
        );
        let Some(kiosk) = &mut self.kiosk else { return };
        if kiosk.shown.as_ref() == Some(&text) {
            return;
        }
        kiosk.shown = Some(text.clone());
        let folder = kiosk.rule.show.clone();
        let folder = folder.unwrap_or_else(|| self.settings.state.dir.join("kiosk"));
        let drawn = invite.and_then(|invite| drawing(&invite.url()));
        let place = folder.clone();
        let writing = self.data_plane.spawn_blocking(move || {
            fs::create_dir_all(&folder)?;
            replace(&folder.join("kiosk.txt"), text.as_bytes())?;
            match drawn {
                Some(drawn) => replace(&folder.join("kiosk.svg"), drawn.as_bytes()),
                None => match fs::remove_file(folder.join("kiosk.svg")) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                },
            }
        });
        ctx.spawn(writing.into_actor(self).map(move |written, node, _| {
            let Some(kiosk) = &mut node.kiosk else { return };
            let fault = match written {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = &fault {
                kiosk.shown = None;
                if kiosk.fault != fault {
                    error!(
                        error,
                        folder = %place.display(),
                        "the files that tell how to come in cannot be written; tried again"
                    );
                }
            }
            kiosk.fault = fault;
        }));
    }
}

impl Kiosk {
    /// How to come in, for people.
    fn text(&self, name: &str, place: Option<&str>, invite: Option<&Invite>) -> String {
        let mut text = format!("{name}: how to receive from it\n");
        if let Some(invite) = invite {
            let (token, url) = (invite.token(), invite.url());
            text.push_str(&format!(
                "\nRun this, with the token or what the QR code holds:\n\n  handout receive \
                 --invite {token}\n\n{url}\n"
            ));
        }
        if let Some(standing) = &self.pin {
            match standing.pin() {
                Some(pin) => {
                    text.push_str(&format!(
                        "\nOr run this, and type the PIN {} {}:\n\n  handout receive --pin \
                         {name:?}\n",
                        &pin[..pin.len() / 2],
                        &pin[pin.len() / 2..]
                    ));
                    if let Some(place) = place {
                        text.push_str(&format!(
                            "\nor, where it is not found by that name:\n\n  handout receive --pin \
                             {place}\n"
                        ));
                    }
                }
                None => text.push_str(
                    "\nThe PIN was typed wrong too often. It can be used again in a while.\n",
                ),
            }
        }
        text
    }
}

/// The QR code of a URL, as an image.
fn drawing(url: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(url.to_ascii_uppercase(), EcLevel::M).ok()?;
    let drawn = code.render::<svg::Color<'_>>();
    Some({ drawn }.min_dimensions(400, 400).build())
}

/// Puts a file that everybody may read in the place of what is there, at once.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
