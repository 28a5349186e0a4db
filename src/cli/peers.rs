//! `peers`: who is here, and who may.

use std::io;
use std::time::Duration;

use super::Failure;
use super::args::Peers;
use super::screen::Screen;
use super::session::{Context, Interrupts, View, client_runtime, follow, node};
use super::text::{Table, foreign, now, until};
use super::view::{MAX_NAME, MAX_TEXT, MAX_TITLE, clone_text, notice};
use crate::actors::api::{Event, PeerInfo, Request, exit};
use crate::actors::control::Client;
use crate::actors::service::Mode;
use crate::protocol::roles::Roles;
use crate::protocol::trust::NOTHING_SAID;

/// Lists devices: those that the running service knows, else those that are seen in a while.
pub fn run(context: &Context, options: &Peers) -> Result<u8, Failure> {
    let screen = context.screen.clone();
    let mut list = List::new(&screen);
    let state = context.settings.state.dir.clone();
    let asked = client_runtime()?.block_on(async {
        let events = Client::connect(&state).await?.ask(Request::Peers);
        Some(follow(events, &mut list, &screen, exit::INTERRUPTED).await)
    });
    if let Some(code) = asked {
        return Ok(code);
    }
    let wait = options.wait;
    let mode = if wait.is_zero() {
        Mode::Offline
    } else {
        Mode::Send
    };
    node(context, mode, move |node| async move {
        if !wait.is_zero() && interrupted_within(wait).await {
            return exit::INTERRUPTED;
        }
        let events = node.ask(Request::Peers);
        follow(events, &mut list, &screen, exit::INTERRUPTED).await
    })
}

/// Waits; true when a signal came meanwhile.
async fn interrupted_within(wait: Duration) -> bool {
    let Ok(mut interrupts) = Interrupts::new() else {
        return true;
    };
    tokio::time::timeout(wait, interrupts.next()).await.is_ok()
}

/// Collects devices into a table.
struct List {
    screen: Screen,
    peers: Vec<PeerInfo>,
}

impl List {
    fn new(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            peers: Vec::new(),
        }
    }
}

impl View for List {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Peer(peer) => self.peers.push(peer.clone()),
            Event::End { code: exit::OK } if self.peers.is_empty() => self.screen.note(
                "no device is authorized and none was seen; on the other device, run: handout receive",
            ),
            Event::End { .. } if !self.peers.is_empty() => {
                for line in table(&self.peers, now()).lines() {
                    self.screen.result(&line)?;
                }
            }
            other => {
                if let Some(line) = notice(other) {
                    self.screen.note(&line);
                }
            }
        }
        Ok(())
    }
}

fn table(peers: &[PeerInfo], now: u64) -> Table {
    let mut table = Table::new(
        &[
            "NAME",
            "DEVICE ID",
            "TYPE",
            "MAY",
            "LINK",
            "AT",
            "GROUPS",
            "WHY",
            "TROUBLE",
        ],
        &[],
    );
    for peer in peers {
        let link = match (peer.connected, peer.verified) {
            (false, _) if peer.addresses.is_empty() => "away",
            (false, _) => "here",
            (true, true) => "connected",
            (true, false) => "connected, unverified",
        };
        table.row([
            foreign(&peer.name, MAX_NAME),
            peer.device_id.to_string(),
            foreign(&peer.device_type, MAX_NAME),
            may(peer),
            link.to_owned(),
            peer.addresses
                .first()
                .map(|address| foreign(address, MAX_TEXT))
                .unwrap_or_default(),
            foreign(&peer.groups.join(", "), MAX_TITLE),
            why(peer, now),
            trouble(peer),
        ]);
    }
    table
}

/// What is wrong with it: its key on two machines, else why there is no link.
fn trouble(peer: &PeerInfo) -> String {
    match (&peer.clone, &peer.error) {
        (Some(clone), _) => clone_text(clone),
        (None, Some(error)) => foreign(error, MAX_TEXT),
        (None, None) => String::new(),
    }
}

/// What it may do; only `yes` when that is everything.
fn may(peer: &PeerInfo) -> String {
    match (peer.authorized, peer.roles) {
        (false, _) => match peer.introduced.first() {
            Some(introducer) => format!(
                "introduced by {} for {}",
                foreign(&introducer.by_name, MAX_NAME),
                foreign(&introducer.bundle_name, MAX_TITLE)
            ),
            None => "no".to_owned(),
        },
        (true, Roles::ALL) => "yes".to_owned(),
        (true, roles) => roles.to_string(),
    }
}

/// Who said so, and for how long it holds. Nothing about strangers.
fn why(peer: &PeerInfo, now: u64) -> String {
    let known = peer.authorized || peer.why != NOTHING_SAID;
    let until = peer.expires.map(|end| format!(", {}", until(end, now)));
    match known {
        true => foreign(&peer.why, MAX_TEXT) + &until.unwrap_or_default(),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::api::{CloneInfo, Introducer};
    use crate::protocol::id::{BundleId, DeviceId};

    #[test]
    fn the_table_says_who_may_and_who_has_proven_nothing() {
        let peer = PeerInfo {
            device_id: DeviceId::of_key(&[1; 32]),
            name: "al\u{1b}pha".to_owned(),
            device_type: "desktop".to_owned(),
            addresses: vec!["10.0.0.1:7000".to_owned()],
            authorized: true,
            roles: Roles::RECEIVE,
            groups: vec!["class".to_owned()],
            why: "by a person".to_owned(),
            expires: None,
            path: None,
            connected: true,
            verified: false,
            introduced: vec![],
            error: None,
            clone: None,
        };
        let member = PeerInfo {
            roles: Roles::ALL,
            expires: Some(7260),
            ..peer.clone()
        };
        let away = PeerInfo {
            addresses: vec![],
            authorized: false,
            groups: vec![],
            why: NOTHING_SAID.to_owned(),
            connected: false,
            ..peer.clone()
        };
        let introduced = PeerInfo {
            introduced: vec![Introducer {
                by: DeviceId::of_key(&[2; 32]),
                by_name: "Room 12".to_owned(),
                bundle: BundleId([3; 32]),
                bundle_name: "lesson\u{7}".to_owned(),
            }],
            ..away.clone()
        };
        let cloned = PeerInfo {
            clone: Some(CloneInfo {
                addresses: vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()],
                proven: true,
                hint: "run: handout id new".to_owned(),
            }),
            ..peer.clone()
        };
        let lines = table(&[peer, away, member, introduced, cloned], 0).lines();
        assert!(lines[5].contains("two machines (10.0.0.1, 10.0.0.2)"));
        assert!(lines[5].ends_with("run: handout id new"), "{}", lines[5]);
        assert!(lines[4].contains("introduced by Room 12 for lesson\\u{7}"));
        assert!(lines[1].contains("receive") && lines[1].contains("class   by a person"));
        assert!(lines[3].contains("yes") && lines[3].contains("by a person, for 2 h 1 min"));
        assert!(lines[1].contains("connected, unverified"));
        assert!(lines[1].starts_with("al\\u{1b}pha"));
        assert!(lines[2].contains("no") && lines[2].ends_with("away"));
        assert!(lines[0].contains("TROUBLE"));
    }
}
