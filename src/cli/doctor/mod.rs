//! `doctor`: what stands in the way on this machine and network, and what to do about it; with or
//! without a running service.

mod firewall;
mod helpers;
mod machine;
mod network;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Failure;
use super::args::Doctor;
use super::demo::Scratch;
use super::session::{Context, client_runtime};
use crate::actors::api::{Event, PeerInfo, Request, exit};
use crate::actors::control::Client;
use crate::actors::service::{self, Mode};
use crate::protocol::names::printable;
use crate::store::Store;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Fine,
    /// Good to know.
    Note,
    /// It may fail, or be slow.
    Warning,
    /// It fails.
    Problem,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    level: Level,
    /// What it is about: one word.
    about: &'static str,
    /// What was found.
    what: String,
    /// What to do.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    todo: Option<String>,
}

impl Finding {
    fn new(level: Level, about: &'static str, what: impl Into<String>) -> Self {
        Self {
            level,
            about,
            what: what.into(),
            todo: None,
        }
    }

    fn fine(about: &'static str, what: impl Into<String>) -> Self {
        Self::new(Level::Fine, about, what)
    }

    fn todo(self, todo: impl Into<String>) -> Self {
        Self {
            todo: Some(todo.into()),
            ..self
        }
    }
}

/// Looks, and says what was found. Exit code 1 when there is a problem.
pub fn run(context: &Context, options: &Doctor) -> Result<u8, Failure> {
    let (settings, screen) = (&context.settings, &context.screen);
    let service = client_runtime()?.block_on(service_of(context, options.wait));
    let mut found = machine::state(settings, service.is_some());
    found.extend(machine::port(settings, service.is_some()));
    let interfaces = network::interfaces(settings);
    found.extend(interfaces.found);
    found.extend(network::multicast(&interfaces.used, options.wait));
    found.extend(firewall::look(settings));
    let peers = match service {
        Some(peers) => peers,
        None => look_around(context, options.wait),
    };
    found.extend(network::reach(&peers));
    found.extend(client_runtime()?.block_on(helpers::look(settings)));
    found.push(machine::clock(settings));
    found.extend(machine::disk(settings));
    found.extend(machine::limits(settings));
    let worst = found.iter().map(|finding| finding.level).max();
    let code = match worst {
        Some(Level::Problem) => exit::ERROR,
        _ => exit::OK,
    };
    if options.for_it {
        let text = for_it(&found, &network::subnets(&interfaces.used), settings);
        if screen.is_json() {
            screen.object(&json!({"event": "document", "text": text}))?;
            screen.object(&Event::End { code })?;
        } else {
            screen.result(text.trim_end())?;
        }
        return Ok(code);
    }
    for finding in &found {
        if screen.is_json() {
            let mut object = serde_json::to_value(finding).unwrap_or_default();
            object["event"] = json!("finding");
            screen.object(&object)?;
        } else {
            lines(finding)
                .iter()
                .try_for_each(|line| screen.result(line))?;
        }
    }
    if screen.is_json() {
        screen.object(&Event::End { code })?;
    } else {
        let count = |level| found.iter().filter(|f| f.level == level).count();
        screen.note(&format!(
            "{} problems, {} warnings; `handout doctor --for-it` writes to who runs the network",
            count(Level::Problem),
            count(Level::Warning)
        ));
    }
    Ok(code)
}

fn lines(finding: &Finding) -> Vec<String> {
    let word = match finding.level {
        Level::Fine => "ok     ",
        Level::Note => "note   ",
        Level::Warning => "WARNING",
        Level::Problem => "PROBLEM",
    };
    let mut lines = vec![format!(
        "{word}  {}: {}",
        finding.about,
        printable(&finding.what)
    )];
    if let Some(todo) = &finding.todo {
        let todo = todo.lines().map(printable);
        lines.extend(todo.map(|line| format!("         -> {line}")));
    }
    lines
}

/// The devices that a running service knows; nothing when none answers.
async fn service_of(context: &Context, wait: Duration) -> Option<Vec<PeerInfo>> {
    let client = Client::connect(&context.settings.state.dir).await?;
    let mut events = client.ask(Request::Peers);
    let mut peers = Vec::new();
    let heard = async {
        while let Some(event) = events.recv().await {
            match event {
                Event::Peer(peer) => peers.push(peer),
                Event::End { code } => return code == exit::OK,
                _ => {}
            }
        }
        false
    };
    let answered = tokio::time::timeout(wait.max(Duration::from_secs(5)), heard).await;
    answered.unwrap_or(false).then_some(peers)
}

/// The devices that are seen within a while, where no service runs. Where a node cannot be
/// started, others have said why.
fn look_around(context: &Context, wait: Duration) -> Vec<PeerInfo> {
    let mut settings = context.settings.clone();
    // The port may be the trouble.
    settings.signaling.port = 0;
    // A look makes no device: where there is none yet, one that is gone afterwards looks around.
    let scratch = match Store::is_at(&settings.state.dir) {
        true => None,
        false => match Scratch::new() {
            Ok(scratch) => Some(scratch),
            Err(_) => return Vec::new(),
        },
    };
    if let Some(scratch) = &scratch {
        settings.state.dir = scratch.path().to_owned();
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let ran = service::run(settings, Mode::Send, move |node| async move {
        tokio::time::sleep(wait).await;
        let mut events = node.ask(Request::Peers);
        while let Some(event) = events.recv().await {
            match event {
                Event::Peer(peer) => {
                    let _ = sender.send(peer);
                }
                Event::End { .. } => break,
                _ => {}
            }
        }
        exit::OK
    });
    match ran {
        Ok(_) => receiver.into_iter().collect(),
        Err(_) => Vec::new(),
    }
}

/// What the IT department needs to know.
fn for_it(found: &[Finding], subnets: &[String], settings: &crate::config::Settings) -> String {
    let port = match settings.signaling.port {
        0 => "any (on request we fix one: signaling.port in our configuration)".to_owned(),
        port => port.to_string(),
    };
    let subnets = match subnets {
        [] => "(no network interface is up at the moment)".to_owned(),
        some => some.join(", "),
    };
    let mut text = format!(
        "To the IT department\n\n\
         We use Handout, which hands out files to many devices on the local network. Nothing goes \
         to the Internet; every device proves its identity by a key, and all content is encrypted \
         (DTLS) and signed. For this, devices in {subnets} must be able to exchange the following \
         with each other:\n\n\
         1. UDP port 5353 to 224.0.0.251 (and ff02::fb): mDNS, by which devices find each other. \
         Multicast must be passed on between wireless and wired clients (no multicast filter; \
         IGMP snooping with a querier, or off).\n\
         2. TCP, port {port}: a few kilobytes for each connection, to agree on it.\n\
         3. UDP between any two ports above 1023: the files (WebRTC data channels).\n\
         4. No isolation between clients (also called AP isolation, client isolation, private \
         VLAN or guest mode).\n\n\
         If 1 is not possible, we can name devices by their addresses.\n"
    );
    let open: Vec<_> = found.iter().filter(|f| f.level >= Level::Warning).collect();
    text.push_str(match open.is_empty() {
        true => "\nOn this device nothing was found that stands in the way.\n",
        false => "\nWhat was found on one of our devices:\n\n",
    });
    for finding in open {
        text.push_str(&format!(
            "- {}: {}\n",
            finding.about,
            printable(&finding.what)
        ));
        for line in finding.todo.iter().flat_map(|todo| todo.lines()) {
            text.push_str(&format!("  {}\n", printable(line)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_harmless_and_says_what_to_do() {
        let finding =
            Finding::new(Level::Problem, "port", "held by \u{1b}[2J").todo("stop it\nnow");
        let lines = lines(&finding);
        assert_eq!(lines[0], "PROBLEM  port: held by \\u{1b}[2J");
        assert_eq!(lines[1..], ["         -> stop it", "         -> now"]);
    }
}
