//! Events as lines for people: what all verbs have in common.

use std::io;

use super::screen::Screen;
use super::session::View;
use super::text::{bytes, foreign, percent};
use crate::actors::api::{CloneInfo, Event, TransferInfo, exit};
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::transfer::{Direction, Side, TransferState};

/// Columns that a device's name may take.
pub const MAX_NAME: usize = 32;
/// Columns that the name of a bundle may take.
pub const MAX_TITLE: usize = 48;
/// Columns that a reason or note may take.
pub const MAX_TEXT: usize = 400;

/// One line for each event that a person wants to know of.
pub struct Plain(Screen);

impl Plain {
    /// Lines on this screen.
    pub fn new(screen: &Screen) -> Self {
        Self(screen.clone())
    }
}

impl View for Plain {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let screen = &self.0;
        if screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Id { device_id, .. } => screen.result(device_id.as_str()),
            Event::Transfer(info) => screen.result(&transfer_line(info)),
            Event::Reloaded { .. } | Event::NotReloaded { .. } => {
                settings_lines(event)
                    .iter()
                    .for_each(|line| screen.note(line));
                Ok(())
            }
            other => {
                if let Some(line) = notice(other) {
                    screen.note(&line);
                }
                Ok(())
            }
        }
    }
}

/// What became of settings that were read again: a line for each change, or for each mistake.
pub fn settings_lines(event: &Event) -> Vec<String> {
    let value = |value: &Option<String>| {
        let text = value.as_deref().unwrap_or("nothing");
        foreign(text, MAX_TITLE)
    };
    match event {
        Event::Reloaded { changes, .. } => {
            let none = changes
                .is_empty()
                .then_some("nothing has changed")
                .into_iter();
            let head = none.map(|what| format!("settings read again: {what}"));
            let lines = changes.iter().map(|change| {
                let (old, new) = (value(&change.old), value(&change.new));
                let restart = if change.restart {
                    ", after a restart"
                } else {
                    ""
                };
                format!(
                    "setting changed: {}: {old} -> {new}{restart}",
                    printable(&change.key)
                )
            });
            head.chain(lines).collect()
        }
        Event::NotReloaded { mistakes } => {
            let head = "the settings are wrong; those from before still hold:".to_owned();
            let lines = mistakes
                .iter()
                .map(|mistake| format!("- {}", printable(&mistake.message)));
            std::iter::once(head).chain(lines).collect()
        }
        _ => Vec::new(),
    }
}

/// What a person must know of, whatever the verb.
pub fn notice(event: &Event) -> Option<String> {
    Some(match event {
        Event::Unauthorized {
            device_id,
            address,
            hint,
        } => format!(
            "not authorized: {device_id} at {} wants to connect; {}",
            foreign(address, MAX_NAME * 2),
            foreign(hint, MAX_TEXT)
        ),
        Event::NotConnected { device_id, reason } => {
            format!(
                "no connection to {}: {}",
                device_id.short(),
                foreign(reason, MAX_TEXT)
            )
        }
        Event::Introduced {
            device_id,
            introducer,
        } => format!(
            "{} was introduced by {}, for {}",
            device_id.short(),
            foreign(&introducer.by_name, MAX_NAME),
            foreign(&introducer.bundle_name, MAX_TITLE)
        ),
        Event::Ran {
            path,
            program,
            how,
            output,
            code,
            ..
        } => {
            let path = printable(&path.to_string_lossy());
            let output = match (code, output.is_empty()) {
                (Some(0), _) | (_, true) => String::new(),
                _ => format!("; it said: {}", foreign(output, MAX_TEXT)),
            };
            let program = foreign(program, MAX_TITLE);
            format!(
                "run for {path}: {program}: {}{output}",
                foreign(how, MAX_TEXT)
            )
        }
        Event::Asked { transfer, .. } => {
            let id = &transfer.to_string()[..8];
            format!(
                "{}: `handout accept {id}` takes it, `handout refuse {id}` does not",
                question(event)?
            )
        }
        Event::Paired {
            device_id,
            name,
            group,
            ..
        } => {
            let (name, id) = (foreign(name, MAX_NAME), device_id.short());
            let group = group.as_deref().map_or_else(String::new, |group| {
                format!(", in {}", foreign(group, MAX_NAME))
            });
            format!("paired with {name} ({id}){group}")
        }
        Event::Joined {
            device_id,
            name,
            group,
            left,
            ..
        } => {
            let (name, id) = (foreign(name, MAX_NAME), device_id.short());
            let group = group.as_deref().map_or_else(String::new, |group| {
                format!(" {}", foreign(group, MAX_NAME))
            });
            format!("{name} ({id}) has joined{group}; {left} more may")
        }
        Event::Distrusted {
            device_id,
            introducer,
            reason,
        } => format!(
            "{} is dropped as a source of {}: {}",
            device_id.short(),
            foreign(&introducer.bundle_name, MAX_TITLE),
            foreign(reason, MAX_TEXT)
        ),
        Event::KeyChanged {
            device_id,
            earlier,
            name,
        } => format!(
            "{} has a new key, signed by its old one: it was {}, and is {device_id} now",
            foreign(name, MAX_NAME),
            earlier.short()
        ),
        Event::KeyRefused {
            device_id,
            address,
            reason,
        } => format!(
            "a change of key to {} (from {}) counts for nothing: {}",
            device_id.short(),
            foreign(address, MAX_NAME * 2),
            foreign(reason, MAX_TEXT)
        ),
        Event::Cloned {
            device_id,
            name,
            ours,
            clone,
        } => {
            let whose = match ours {
                true => "this device's own key".to_owned(),
                false => format!("{} ({})", foreign(name, MAX_NAME), device_id.short()),
            };
            format!("warning: {whose} {}", clone_text(clone))
        }
        Event::Serving { url, token_file } => format!(
            "HTTP API: {url}, with the token in {}",
            crate::protocol::names::printable(&token_file.to_string_lossy())
        ),
        Event::Rendezvous { reason: None } => "at the rendezvous".to_owned(),
        Event::Rendezvous {
            reason: Some(reason),
        } => format!("not at the rendezvous: {}", foreign(reason, MAX_TEXT)),
        Event::Note { text } => foreign(text, MAX_TEXT),
        _ => return None,
    })
}

/// That a key is on two machines, and what to do.
pub fn clone_text(clone: &CloneInfo) -> String {
    let seems = if clone.proven { "is" } else { "seems to be" };
    let at = match clone.addresses.is_empty() {
        true => String::new(),
        false => format!(" ({})", foreign(&clone.addresses.join(", "), MAX_TEXT)),
    };
    format!(
        "{seems} on two machines{at}: {}",
        foreign(&clone.hint, MAX_TEXT)
    )
}

/// What a person is asked.
pub fn question(event: &Event) -> Option<String> {
    let Event::Asked {
        device_name,
        name,
        size,
        files,
        ..
    } = event
    else {
        return None;
    };
    let files = match files {
        None => String::new(),
        Some(1) => " in 1 file".to_owned(),
        Some(files) => format!(" in {files} files"),
    };
    Some(format!(
        "{} offers {} ({}{files})",
        foreign(device_name, MAX_NAME),
        foreign(name, MAX_TITLE),
        bytes(*size)
    ))
}

/// A transfer in one line.
pub fn transfer_line(info: &TransferInfo) -> String {
    let arrow = match info.direction {
        Direction::Outgoing => "to",
        Direction::Incoming => "from",
    };
    let reason = reason(&info.state).map_or_else(String::new, |reason| format!(": {reason}"));
    format!(
        "{} {arrow} {} ({}): {}{reason}",
        foreign(&info.name, MAX_TITLE),
        foreign(&info.device_name, MAX_NAME),
        &info.transfer.to_string()[..8],
        state(info),
    )
}

/// Where a transfer stands, with how much of it is there while that matters.
pub fn state(info: &TransferInfo) -> String {
    let word = info.state.word();
    match info.state {
        TransferState::Active | TransferState::Paused { .. } => {
            let share = percent(info.bytes, info.size);
            format!("{word}, {share} of {}", bytes(info.size))
        }
        TransferState::Pending if info.waits.is_some() => "waiting".to_owned(),
        _ => word.to_owned(),
    }
}

/// Why a transfer stands where it does, and who wanted that.
pub fn reason(state: &TransferState) -> Option<String> {
    let (by, reason) = match state {
        TransferState::Paused { by, reason, .. } | TransferState::Cancelled { by, reason, .. } => {
            (Some(by), reason)
        }
        TransferState::Failed { reason, .. } => (None, reason),
        _ => return None,
    };
    let reason = foreign(reason, MAX_TEXT);
    Some(match by {
        Some(Side::Theirs) => format!("{reason} (on the other device)"),
        Some(Side::Ours) | None => reason,
    })
}

/// The exit code for a single transfer that is over; nothing while it is not.
pub fn exit_code(state: &TransferState) -> Option<u8> {
    match state {
        TransferState::Complete => Some(exit::OK),
        TransferState::Cancelled { code, .. } | TransferState::Failed { code, .. } => {
            Some(match code {
                Code::Integrity => exit::INTEGRITY,
                Code::DiskFull | Code::DiskError | Code::Quota => exit::DISK,
                _ => exit::ERROR,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::{DeviceId, TransferId};

    fn failed(code: Code) -> TransferState {
        let reason = "bad\u{7}".to_owned();
        TransferState::Failed { code, reason }
    }

    #[test]
    fn one_transfer_decides_the_exit_code_of_a_single_reception() {
        assert_eq!(exit_code(&TransferState::Complete), Some(0));
        assert_eq!(exit_code(&failed(Code::Integrity)), Some(6));
        assert_eq!(exit_code(&failed(Code::DiskFull)), Some(7));
        assert_eq!(exit_code(&failed(Code::Quota)), Some(7));
        assert_eq!(exit_code(&failed(Code::Changed)), Some(1));
        assert_eq!(exit_code(&TransferState::Active), None);
    }

    #[test]
    fn what_comes_from_peers_reaches_the_terminal_harmless() {
        let info = TransferInfo {
            transfer: TransferId([0xab; 16]),
            broadcast: None,
            direction: Direction::Incoming,
            device_id: DeviceId::of_key(&[1; 32]),
            device_name: "\u{1b}[2Jeve".to_owned(),
            name: "a\nb".to_owned(),
            bytes: 0,
            size: 10,
            state: failed(Code::Other),
            waits: None,
        };
        let line = transfer_line(&info);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let unauthorized = Event::Unauthorized {
            device_id: DeviceId::of_key(&[1; 32]),
            address: "\u{1b}]0;x".to_owned(),
            hint: "run\r\n".to_owned(),
        };
        let line = notice(&unauthorized).unwrap();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}
