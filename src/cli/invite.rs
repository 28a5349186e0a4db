//! `invite`: letting in whoever has a token.

use std::io::{self, IsTerminal};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use tokio::sync::mpsc;

use super::Failure;
use super::args::{Invite, Invites};
use super::screen::Screen;
use super::session::{Context, View, ask, ask_service, follow, node, show, unread};
use super::text::{Table, foreign, seconds};
use super::view::{MAX_NAME, notice};
use crate::actors::api::{Event, InviteInfo, Request, exit};
use crate::actors::service::Mode;

/// Makes an invite and, where no service runs, lets devices in until it has ended; or lists and
/// revokes those on record.
pub fn run(context: &Context, options: Invite) -> Result<u8, Failure> {
    let mut view = Tokens::new(context, options.qr);
    match options.what {
        Some(Invites::List) => return ask(context, Mode::Offline, Request::Invites, view),
        Some(Invites::Revoke { id: what }) => {
            return ask(context, Mode::Offline, Request::RevokeInvite { what }, view);
        }
        None => {}
    }
    let addresses = addresses(&options.address)?;
    let request = Request::Invite {
        uses: options.uses,
        for_ms: u64::try_from(options.life.as_millis()).unwrap_or(u64::MAX),
        group: options.group,
        roles: options.roles,
        addresses,
    };
    if let Some(code) = ask_service(context, request.clone(), &mut view)? {
        return Ok(code);
    }
    let (screen, life) = (context.screen.clone(), options.life);
    node(context, Mode::Send, move |node| async move {
        view.serves = true;
        // Watching begins first, so that nobody comes unseen.
        let watched = node.ask(Request::Watch);
        let events = continued(node.ask(request), watched);
        serve(events, &mut view, &screen, life).await
    })
}

/// An answer without its end, where that is no failure, and then what happens.
fn continued(
    mut made: mpsc::Receiver<Event>,
    mut watched: mpsc::Receiver<Event>,
) -> mpsc::Receiver<Event> {
    let (both, events) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(event) = made.recv().await {
            let over = matches!(event, Event::End { code: exit::OK });
            if over || both.send(event).await.is_err() {
                break;
            }
        }
        while let Some(event) = watched.recv().await {
            if both.send(event).await.is_err() {
                return;
            }
        }
    });
    events
}

/// Shows the new invite and who comes, until nobody more may.
async fn serve(
    events: mpsc::Receiver<Event>,
    view: &mut Tokens,
    screen: &Screen,
    life: Duration,
) -> u8 {
    let served = follow(events, view, screen, exit::OK);
    if let Ok(code) = tokio::time::timeout(life, served).await {
        return code;
    }
    screen.note("the invite has expired");
    let code = match view.joined {
        0 => exit::NO_RECEIVER,
        _ => exit::OK,
    };
    match show(view, screen, &Event::End { code }) {
        Ok(()) => code,
        Err(error) => unread(&error, screen, code),
    }
}

fn addresses(given: &[String]) -> Result<Vec<SocketAddr>, Failure> {
    let mut all = Vec::new();
    for text in given {
        let found = text.to_socket_addrs();
        let found = found.map_err(|error| {
            Failure::Usage(format!("{text:?} is no address as HOST:PORT: {error}"))
        })?;
        all.extend(found);
    }
    Ok(all)
}

/// Invites, new and old, and who comes in.
struct Tokens {
    screen: Screen,
    qr: bool,
    list: Vec<InviteInfo>,
    /// This process lets them in itself.
    serves: bool,
    serving: bool,
    joined: usize,
    left: Option<u32>,
}

impl Tokens {
    fn new(context: &Context, qr: bool) -> Self {
        Self {
            screen: context.screen.clone(),
            qr: qr || io::stdout().is_terminal(),
            list: Vec::new(),
            serves: false,
            serving: false,
            joined: 0,
            left: None,
        }
    }

    fn new_invite(&self, info: &InviteInfo, url: &str, token: &str) -> io::Result<()> {
        if self.qr {
            for line in qr(url).lines() {
                self.screen.result(line)?;
            }
        }
        self.screen.result(url)?;
        self.screen.result(token)?;
        let uses = match info.uses {
            1 => "one device".to_owned(),
            uses => format!("{uses} devices"),
        };
        self.screen.note(&format!(
            "lets in {uses} for {}; on each, run: handout receive --invite TOKEN",
            seconds(info.seconds as f64)
        ));
        if self.serves {
            let note = "letting devices in until it has ended; Ctrl-C ends it sooner";
            self.screen.note(note);
        }
        Ok(())
    }
}

impl View for Tokens {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if let Event::Joined { left, .. } = event {
            self.joined += 1;
            self.left = Some(*left);
        }
        let made = matches!(event, Event::Invite(info) if info.token.is_some());
        if made && self.serves {
            self.serving = true;
        }
        if self.screen.is_json() {
            return Ok(());
        }
        match event {
            Event::Invite(info) => match (&info.url, &info.token) {
                (Some(url), Some(token)) => self.new_invite(info, url, token)?,
                _ => self.list.push(info.clone()),
            },
            Event::End { code: exit::OK } if !self.list.is_empty() => {
                for line in table(&self.list).lines() {
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

    fn finished(&self) -> Option<u8> {
        (self.serving && self.left == Some(0)).then_some(exit::OK)
    }
}

/// The URL as half blocks, light on dark. Capitals take less room in it, and mean the same.
fn qr(url: &str) -> String {
    let code = QrCode::with_error_correction_level(url.to_ascii_uppercase(), EcLevel::L);
    code.map(|code| {
        code.render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build()
    })
    .unwrap_or_default()
}

fn table(invites: &[InviteInfo]) -> Table {
    let mut table = Table::new(&["INVITE", "GROUP", "ROLES", "LEFT", "OF", "FOR"], &[3, 4]);
    for info in invites {
        table.row([
            info.invite.to_string(),
            foreign(info.group.as_deref().unwrap_or_default(), MAX_NAME),
            info.roles
                .map(|roles| roles.to_string())
                .unwrap_or_default(),
            info.left.to_string(),
            info.uses.to_string(),
            match &info.ended {
                Some(ended) => ended.clone(),
                None if info.each_day => "each day".to_owned(),
                None => seconds(info.seconds as f64),
            },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::{DeviceId, InviteId};
    use crate::protocol::invite::{Invite as Token, Secret};

    #[test]
    fn a_qr_code_of_an_invite_fits_a_terminal_of_80_by_40() {
        let invite = Token {
            issuer: DeviceId::of_key(&[1; 32]),
            secret: Secret::new([7; 16]),
            expires: 1,
            addresses: vec!["10.0.0.1:47800".parse().unwrap(); 2],
        };
        let drawn = qr(&invite.url());
        assert!(drawn.lines().count() <= 40 && drawn.lines().count() > 10);
        assert!(drawn.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn the_list_says_what_is_left_and_what_has_ended() {
        let info = InviteInfo {
            invite: InviteId([0xab; 8]),
            token: None,
            url: None,
            uses: 30,
            left: 12,
            expires: 0,
            seconds: 90,
            each_day: false,
            group: Some("class-3b\u{1b}".to_owned()),
            roles: None,
            ended: None,
        };
        let ended = InviteInfo {
            ended: Some("used up".to_owned()),
            left: 0,
            ..info.clone()
        };
        let lines = table(&[info, ended]).lines();
        assert!(lines[1].starts_with("abababababababab  class-3b\\u{1b}"));
        assert!(lines[1].ends_with("12  30  90.0 s") && lines[2].ends_with("0  30  used up"));
    }
}
