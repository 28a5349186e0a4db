//! Groups, and the rosters that admins sign.

use actix::prelude::*;
use tokio::sync::mpsc;
use tracing::info;

use crate::protocol::id::DeviceId;
use crate::protocol::peers::display_name;
use crate::protocol::roles::Roles;
use crate::protocol::roster::{Draft, MAX_VERSION, Member, Roster, Terms};
use crate::protocol::trust::{Admission, Floor, MAX_MEMBERS, check_group_name};
use crate::store::{Group, Store, StoreError};

use super::super::api::{Event, GroupInfo, GroupRequest, RosterInfo, exit};
use super::super::peer::unix_now;
use super::super::store::{Job, on_disk};
use super::Coordinator;
use super::requests::answer;
use super::sending::fail;

/// Why a request about groups is not served, and the exit code that says so.
type Refused = (String, u8);

/// What has to be on disk before the answer is given.
type Change = Box<dyn FnOnce(&mut Store) -> Result<(), StoreError> + Send>;

fn usage(reason: impl ToString) -> Refused {
    (reason.to_string(), exit::USAGE)
}

/// Where something is that no verb changes.
fn in_file(what: &str) -> String {
    format!("{what} in the config file: change it there, and run `handout reload`")
}

impl Coordinator {
    pub(super) fn on_group(
        &mut self,
        request: GroupRequest,
        reply: mpsc::Sender<Event>,
        ctx: &mut Context<Self>,
    ) {
        let (events, change) = match self.group_request(request) {
            Ok(done) => done,
            Err((reason, code)) => return fail(&reply, &reason, code),
        };
        let stored = self.store.send(Job::new(move |store| {
            change(store)?;
            store.flush()
        }));
        ctx.spawn(
            on_disk(stored)
                .into_actor(self)
                .map(move |stored, coordinator, ctx| {
                    match stored {
                        Ok(()) => answer(&reply, events),
                        Err(error) => fail(&reply, &error.reason, error.code),
                    }
                    coordinator.drive(ctx);
                }),
        );
    }

    fn group_request(&mut self, request: GroupRequest) -> Result<(Vec<Event>, Change), Refused> {
        let nothing = || -> Change { Box::new(|_| Ok(())) };
        match request {
            GroupRequest::List => {
                let names = self.trust.group_names();
                let infos = names.into_iter().map(|name| self.group_info(name));
                Ok((infos.map(Event::Group).collect(), nothing()))
            }
            GroupRequest::Show { group } => {
                self.must_be_group(&group)?;
                Ok((vec![Event::Group(self.group_info(&group))], nothing()))
            }
            GroupRequest::Add { group, devices } => {
                let devices = self.find_devices(&devices)?;
                let group = self.group_with(&group, &devices).map_err(usage)?;
                let strangers = devices.iter().filter(|id| !self.is_let_in(id));
                let notes = strangers.map(|id| Event::Note {
                    text: format!("{id} is not authorized: run `handout authorize {id}`"),
                });
                let notes: Vec<_> = notes.collect();
                Ok(self.change_group(group, notes))
            }
            GroupRequest::Remove { group, devices } if devices.is_empty() => {
                self.must_be_group(&group)?;
                self.trust.remove_group(&group);
                self.shut_out_whoever_may_no_longer();
                let text = match self.trust.declared(&group) {
                    None => format!("the group {group} and its rosters are gone"),
                    Some(_) => format!(
                        "what was said here about the group {group}, and its rosters, are gone; {}",
                        in_file("it still stands")
                    ),
                };
                let change: Change = Box::new(move |store| {
                    store.remove_rosters(&group)?;
                    store.remove_group(&group).map(|_| ())
                });
                Ok((vec![Event::Note { text }], change))
            }
            GroupRequest::Remove { group, devices } => {
                let devices = self.find_devices(&devices)?;
                let mut changed = self.own_group(&group)?;
                changed.members.retain(|id| !devices.contains(id));
                let (mut events, change) = self.change_group(changed, Vec::new());
                let members = self.trust.members(&group, unix_now()).unwrap_or_default();
                let left = devices.iter().filter(|id| members.contains(id));
                let notes: Vec<_> = left.map(|id| self.stays_in(&group, id)).collect();
                events.extend(notes.into_iter().map(|text| Event::Note { text }));
                Ok((events, change))
            }
            GroupRequest::Roles { group, roles } => {
                let declared = self.trust.declared(&group).map(|_| Event::Note {
                    text: format!(
                        "this is for members that were put into {group} here; {}",
                        in_file("what its other members may stands")
                    ),
                });
                let group = Group {
                    roles,
                    ..self.own_group(&group)?
                };
                Ok(self.change_group(group, declared.into_iter().collect()))
            }
            GroupRequest::Export { group, note } => {
                let draft = self.draft(group, note)?;
                let (text, group) = (draft.to_text(), draft.group);
                // Whatever the next verb would refuse is said now.
                Draft::read(text.as_bytes()).map_err(usage)?;
                Ok((vec![Event::Roster { group, text }], nothing()))
            }
            GroupRequest::Sign {
                draft,
                seconds,
                version,
            } => self.sign_roster(&draft, seconds, version),
            GroupRequest::Import { roster, admin } => self.import_roster(&roster, admin.as_ref()),
        }
    }

    /// Why a device is still in a group after it was taken out of what a person has put together.
    fn stays_in(&self, group: &str, device: &DeviceId) -> String {
        let by_roster = self.trust.rosters_for(group);
        let by_roster = by_roster
            .filter(|roster| roster.is_valid_at(unix_now()))
            .any(|roster| {
                roster
                    .members
                    .keys()
                    .any(|id| self.trust.current(id) == device)
            });
        let shut = format!("`handout revoke {device}` shuts it out");
        match by_roster {
            true => format!("{device} stays in it by a roster: {shut}"),
            false => format!("{}; {shut}", in_file(&format!("{device} stands in it"))),
        }
    }

    fn must_be_group(&self, name: &str) -> Result<(), Refused> {
        let known = self.trust.group_names().contains(name);
        known.then_some(()).ok_or_else(|| {
            usage(format!(
                "no group is called {name:?}: `handout group list` lists them"
            ))
        })
    }

    /// A group as a person made it; empty where there are only rosters of it.
    fn own_group(&self, name: &str) -> Result<Group, Refused> {
        self.must_be_group(name)?;
        let own = self.trust.group(name).cloned();
        Ok(own.unwrap_or_else(|| Group {
            name: name.to_owned(),
            members: Vec::new(),
            roles: None,
        }))
    }

    fn find_devices(&self, words: &[String]) -> Result<Vec<DeviceId>, Refused> {
        let found = words.iter().map(|word| self.find_any_device(word));
        found.collect::<Result<_, _>>().map_err(usage)
    }

    /// A group, made where there is none, with these devices in it.
    pub(super) fn group_with<'a>(
        &self,
        name: &str,
        devices: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Group, String> {
        check_group_name(name).map_err(|error| error.to_string())?;
        let mut group = self.own_group(name).unwrap_or_else(|_| Group {
            name: name.to_owned(),
            members: Vec::new(),
            roles: None,
        });
        for device in devices {
            if !group.members.contains(device) {
                group.members.push(device.clone());
            }
        }
        if group.members.len() > MAX_MEMBERS {
            return Err(format!(
                "the group {name} would have {} members, at most {MAX_MEMBERS} are kept",
                group.members.len()
            ));
        }
        Ok(group)
    }

    fn change_group(&mut self, group: Group, mut events: Vec<Event>) -> (Vec<Event>, Change) {
        self.trust.put_group(group.clone());
        events.insert(0, Event::Group(self.group_info(&group.name)));
        (events, Box::new(move |store| store.put_group(group)))
    }

    fn group_info(&self, name: &str) -> GroupInfo {
        let members = self.trust.members(name, unix_now()).unwrap_or_default();
        let rosters = self.trust.rosters_for(name).map(|roster| RosterInfo {
            admin: roster.admin.clone(),
            version: roster.terms.version,
            expires: roster.terms.expires,
            note: roster.note.clone(),
            devices: roster.members.len(),
        });
        GroupInfo {
            name: name.to_owned(),
            roles: self.trust.group_roles(name),
            members: members.iter().map(|id| self.peer_info(id)).collect(),
            rosters: rosters.collect(),
        }
    }

    fn draft(&self, group: String, note: String) -> Result<Draft, Refused> {
        self.must_be_group(&group)?;
        let members = self.trust.members(&group, unix_now()).unwrap_or_default();
        let provable = members.into_iter().filter(DeviceId::is_self_certifying);
        let devices = provable.map(|id| Member {
            name: display_name(&self.name_of(&id)),
            roles: self.trust.authorization(&id).and_then(|entry| entry.roles),
            id,
        });
        // Whoever imports it is to receive from this device, too.
        let ours = Member {
            id: self.identity.device_id(),
            name: display_name(&self.settings.device.name),
            roles: Some(Roles::ALL),
        };
        Ok(Draft {
            note,
            roles: self.trust.group_roles(&group),
            devices: std::iter::once(ours).chain(devices).collect(),
            group,
        })
    }

    /// Signs a roster. Its version is noted before anybody gets to see it, so that no other one
    /// ever has it.
    fn sign_roster(
        &mut self,
        draft: &str,
        seconds: u64,
        version: Option<u64>,
    ) -> Result<(Vec<Event>, Change), Refused> {
        let draft = Draft::read(draft.as_bytes()).map_err(usage)?;
        let (now, ours) = (unix_now(), self.identity.device_id());
        let last = self.trust.floor(&ours, &draft.group);
        let last = last.map_or(0, |floor| floor.version);
        let version = version.unwrap_or_else(|| now.max(last + 1).min(MAX_VERSION));
        if version <= last {
            return Err(usage(format!(
                "version {last} of this roster was signed before: the next one must be higher"
            )));
        }
        let terms = Terms {
            version,
            issued: now,
            expires: now.saturating_add(seconds),
        };
        let roster = Roster::sign(draft, terms, &self.identity).map_err(usage)?;
        let floor = Floor::of(&roster);
        self.trust.put_floor(floor.clone());
        let event = Event::Roster {
            group: roster.group.clone(),
            text: String::from_utf8_lossy(roster.as_bytes()).into_owned(),
        };
        Ok((vec![event], Box::new(move |store| store.put_floor(floor))))
    }

    fn import_roster(
        &mut self,
        text: &str,
        named: Option<&DeviceId>,
    ) -> Result<(Vec<Event>, Change), Refused> {
        let roster = Roster::read(text.as_bytes()).map_err(usage)?;
        let skew = self.settings.signaling.max_clock_skew.as_secs();
        let admission = self.trust.admit(&roster, named, unix_now(), skew);
        match admission.map_err(|error| (error.to_string(), exit::UNAUTHORIZED))? {
            Admission::Known => {
                let text = "this very roster was imported before; nothing changes".to_owned();
                let events = vec![
                    Event::Note { text },
                    Event::Group(self.group_info(&roster.group)),
                ];
                return Ok((events, Box::new(|_| Ok(()))));
            }
            Admission::New => {}
        }
        info!(group = roster.group, admin = %roster.admin, version = roster.terms.version, "roster");
        self.trust.put_roster(roster.clone());
        self.shut_out_whoever_may_no_longer();
        self.tell_table_who_may();
        let mut events = vec![Event::Group(self.group_info(&roster.group))];
        let revoked = roster.members.keys().filter(|id| self.trust.is_revoked(id));
        events.extend(revoked.map(|id| Event::Note {
            text: format!("{id} stays out: it was revoked here by a person"),
        }));
        Ok((events, Box::new(move |store| store.put_roster(&roster))))
    }

    /// The devices that a group means as receivers; those that may not receive are told of.
    pub(super) fn receivers_in(
        &self,
        group: &str,
        notes: &mut Vec<String>,
    ) -> Option<Vec<DeviceId>> {
        let (may, may_not): (Vec<_>, Vec<_>) = self
            .trust
            .members(group, unix_now())?
            .into_iter()
            .partition(|id| self.roles_of(id).allow(Roles::RECEIVE));
        notes.extend(may_not.iter().map(|id| {
            let name = self.name_of(id);
            format!("{name} ({id}) of the group {group} is not authorized to receive")
        }));
        Some(may)
    }
}
