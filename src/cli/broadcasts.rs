//! `broadcasts`: what the config file hands out, and who has it.

use std::io;

use super::Failure;
use super::screen::Screen;
use super::session::{Context, View, ask};
use super::text::{Table, foreign, percent, until};
use super::view::{MAX_NAME, MAX_TEXT, Plain};
use crate::actors::api::{Event, PlanInfo, Request, exit};
use crate::actors::service::Mode;

/// Shows each broadcast of the config file with its devices.
pub fn run(context: &Context) -> Result<u8, Failure> {
    let view = Broadcasts {
        screen: context.screen.clone(),
        any: false,
    };
    ask(context, Mode::Offline, Request::Plans, view)
}

struct Broadcasts {
    screen: Screen,
    any: bool,
}

impl View for Broadcasts {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Plan(info) => {
                if std::mem::replace(&mut self.any, true) {
                    self.screen.result("")?;
                }
                lines(info)
                    .iter()
                    .try_for_each(|line| self.screen.result(line))
            }
            Event::End { code: exit::OK } if !self.any => {
                self.screen
                    .note("the config file has no [[broadcast]]: `handout config show`");
                Ok(())
            }
            other => Plain::new(&self.screen).event(other),
        }
    }
}

fn lines(info: &PlanInfo) -> Vec<String> {
    let mut title = format!("{}: {}", info.series, info.state);
    if let Some(why) = &info.why {
        title.push_str(&format!(" ({})", foreign(why, MAX_TEXT)));
    }
    if let Some(version) = info.version {
        title.push_str(&format!(", version {version}"));
    }
    let mut lines = vec![title];
    let to: Vec<_> = info.to.iter().map(|word| foreign(word, MAX_NAME)).collect();
    lines.push(format!("to {}", to.join(", ")));
    if !info.unknown.is_empty() {
        let words = info.unknown.iter().map(|word| foreign(word, MAX_NAME));
        let words: Vec<_> = words.collect();
        lines.push(format!("nobody is called {} yet", words.join(", ")));
    }
    if let Some(next) = info.next {
        lines.push(format!("next time: {}", ahead(next, info.now)));
    }
    if let Some(deadline) = info.deadline.filter(|end| *end > info.now) {
        let left = until(deadline, info.now);
        lines.push(format!("devices are waited for {left}"));
    }
    if info.receivers.is_empty() {
        return lines;
    }
    let complete = info.receivers.iter();
    let complete = complete.filter(|one| one.state == "complete").count();
    lines.push(format!("{complete} of {} have it", info.receivers.len()));
    let mut table = Table::new(&["DEVICE", "DEVICE ID", "STATE", "WHY"], &[]);
    let mut receivers: Vec<_> = info.receivers.iter().collect();
    receivers.sort_by(|a, b| (&a.name, &a.device_id).cmp(&(&b.name, &b.device_id)));
    for one in receivers {
        let state = match one.state.as_str() {
            "active" => format!("active, {}", percent(one.bytes, one.size)),
            word => word.to_owned(),
        };
        table.row([
            foreign(&one.name, MAX_NAME),
            one.device_id.to_string(),
            state,
            foreign(one.reason.as_deref().unwrap_or_default(), MAX_TEXT),
        ]);
    }
    lines.extend(table.lines());
    lines
}

/// How far ahead a moment is.
fn ahead(at: u64, now: u64) -> String {
    let minutes = at.saturating_sub(now).div_ceil(60);
    match minutes {
        0 => "now".to_owned(),
        1..120 => format!("in {minutes} min"),
        120..2880 => format!("in {} h", minutes / 60),
        _ => format!("in {} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::api::PlanReceiver;
    use crate::protocol::id::{DeviceId, TransferId};

    #[test]
    fn a_broadcast_is_shown_with_who_has_it_and_why_not_and_harmlessly() {
        let receiver = |n: u8, state: &str| PlanReceiver {
            device_id: DeviceId::of_key(&[n; 32]),
            name: format!("Seat {n}"),
            transfer: TransferId([n; 16]),
            state: state.to_owned(),
            reason: (n == 2).then(|| "no\u{1b}[2J room".to_owned()),
            bytes: 5,
            size: 10,
        };
        let info = PlanInfo {
            series: "lessons".parse().unwrap(),
            state: "resting".to_owned(),
            why: Some("Mon-Fri 08:00-16:00".to_owned()),
            version: Some(1_795_276_800),
            broadcast: None,
            began: Some(1000),
            next: Some(10_000),
            deadline: None,
            now: 1000,
            to: vec!["class-3b".to_owned()],
            unknown: vec!["class-3b".to_owned()],
            receivers: vec![receiver(2, "paused"), receiver(1, "complete")],
        };
        let lines = lines(&info);
        let title = "lessons: resting (Mon-Fri 08:00-16:00), version 1795276800";
        assert_eq!(lines[0], title);
        assert_eq!(lines[2], "nobody is called class-3b yet");
        assert_eq!(lines[3], "next time: in 2 h");
        assert_eq!(lines[4], "1 of 2 have it");
        assert!(lines[6].starts_with("Seat 1") && lines[6].contains("complete"));
        assert!(lines[7].contains("room") && !lines[7].contains('\u{1b}'));
    }
}
