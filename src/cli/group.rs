//! `group`: named sets of devices, and the rosters that admins sign.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Failure;
use super::args::{Group, GroupRoles};
use super::screen::Screen;
use super::session::{Context, View, ask};
use super::text::{Table, foreign, now, until};
use super::view::{MAX_NAME, MAX_TEXT, Plain};
use crate::actors::api::{Event, GroupInfo, GroupRequest, Request};
use crate::actors::service::Mode;
use crate::protocol::roster::MAX_ROSTER;

/// Asks for what the verb says.
pub fn run(context: &Context, verb: Group) -> Result<u8, Failure> {
    let brief = matches!(verb, Group::List);
    let request = match verb {
        Group::List => GroupRequest::List,
        Group::Show { group } => GroupRequest::Show { group },
        Group::Add { group, devices } => GroupRequest::Add { group, devices },
        Group::Remove { group, devices, .. } => GroupRequest::Remove { group, devices },
        Group::Roles { group, roles } => GroupRequest::Roles {
            group,
            roles: match roles {
                GroupRoles::Unsaid => None,
                GroupRoles::Said(roles) => Some(roles),
            },
        },
        Group::Export { group, admin_note } => GroupRequest::Export {
            group,
            note: admin_note,
        },
        Group::Sign {
            file,
            lifetime,
            version,
        } => GroupRequest::Sign {
            draft: read(&file)?,
            seconds: lifetime.as_secs(),
            version,
        },
        Group::Import { file, admin } => GroupRequest::Import {
            roster: read(&file)?,
            admin,
        },
    };
    let view = Groups {
        screen: context.screen.clone(),
        brief,
    };
    ask(context, Mode::Offline, Request::Group(request), view)
}

/// A file, or standard input for `-`. What is too long is read a little further, so that whoever
/// checks it notices.
fn read(path: &Path) -> Result<String, Failure> {
    let limit = MAX_ROSTER as u64 + 1;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map(|_| text)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}

/// Groups and rosters, for people.
struct Groups {
    screen: Screen,
    brief: bool,
}

impl View for Groups {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Group(group) if self.brief => self.screen.result(&title(group)),
            Event::Group(group) => lines(group, now())
                .iter()
                .try_for_each(|line| self.screen.result(line)),
            Event::Roster { text, .. } => self.screen.result(text.trim_end()),
            other => Plain::new(&self.screen).event(other),
        }
    }
}

fn title(group: &GroupInfo) -> String {
    let name = foreign(&group.name, MAX_NAME * 2);
    let devices = match group.members.len() {
        1 => "1 device".to_owned(),
        n => format!("{n} devices"),
    };
    let roles = group.roles.map(|roles| format!(", may {roles}"));
    format!("{name}: {devices}{}", roles.unwrap_or_default())
}

fn lines(group: &GroupInfo, now: u64) -> Vec<String> {
    let mut lines = vec![title(group)];
    lines.extend(group.rosters.iter().map(|roster| {
        let note = match roster.note.as_str() {
            "" => String::new(),
            note => format!(" ({})", foreign(note, MAX_TEXT)),
        };
        format!(
            "roster of {}, version {}, {} devices, {}{note}",
            roster.admin,
            roster.version,
            roster.devices,
            until(roster.expires, now)
        )
    }));
    if group.members.is_empty() {
        return lines;
    }
    let mut table = Table::new(&["NAME", "DEVICE ID", "MAY", "WHY"], &[]);
    for member in &group.members {
        table.row([
            foreign(&member.name, MAX_NAME),
            member.device_id.to_string(),
            member.roles.to_string(),
            foreign(&member.why, MAX_TEXT),
        ]);
    }
    lines.extend(table.lines());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::api::RosterInfo;
    use crate::protocol::id::DeviceId;
    use crate::protocol::roles::Roles;

    #[test]
    fn a_group_is_shown_with_its_rosters_and_what_an_admin_wrote_is_harmless() {
        let group = GroupInfo {
            name: "class".to_owned(),
            roles: Some(Roles::RECEIVE),
            members: vec![],
            rosters: vec![RosterInfo {
                admin: DeviceId::of_key(&[1; 32]),
                version: 7,
                expires: 90_000,
                note: "a\u{1b}[2Jb".to_owned(),
                devices: 30,
            }],
        };
        let lines = lines(&group, 0);
        assert_eq!(lines[0], "class: 0 devices, may receive");
        assert!(lines[1].contains("version 7, 30 devices, for 25 h"));
        assert!(!lines[1].contains('\u{1b}'), "{}", lines[1]);
    }
}
