//! Telling people outside that something is done, or has failed: on the desktop, and to a webhook.
//! All of it happens on a thread of its own behind a short queue, so that a server that does not
//! answer holds nothing up; what does not fit is dropped, and counted in the log.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::api::{Event, Request};
use super::coordinator::is_no_end;
use super::peer::unix_now;
use super::service::Node;
use crate::config::{Notify, Occasion};
use crate::protocol::names::printable;
use crate::protocol::transfer::{Direction, TransferState};

/// What may wait to be told.
const QUEUE: usize = 64;
/// The wait before the first further try; each one is twice as long.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long the program that shows it on the desktop may take.
const DESKTOP: Duration = Duration::from_secs(5);
/// Characters of a text.
const MAX_TEXT: usize = 400;

/// Something to tell.
#[derive(Debug, Clone)]
struct Notice {
    occasion: Occasion,
    text: String,
    about: Value,
    time: u64,
}

/// Who is told, and how.
pub struct Telling {
    rule: Notify,
    secret: Option<String>,
    device: Value,
}

impl Telling {
    /// By these rules; `secret` is what the webhook wants to see of us. Nothing when nobody is to
    /// be told.
    pub fn new(rule: Notify, secret: Option<String>, device: Value) -> Option<Self> {
        let wanted = rule.desktop || rule.webhook.is_some();
        (wanted && !rule.on.is_empty()).then_some(Self {
            rule,
            secret,
            device,
        })
    }

    /// Tells what happens at the node, for as long as this is polled.
    pub async fn run(self, node: Node) {
        let (queue, notices) = sync_channel(QUEUE);
        let on = self.rule.on.clone();
        let started = thread::Builder::new().name("telling".to_owned());
        if let Err(error) = started.spawn(move || self.work(&notices)) {
            return warn!(%error, "nobody is told what is done: the system gives no thread");
        }
        let mut dropped = 0;
        loop {
            let mut events: mpsc::Receiver<Event> = node.ask(Request::Watch);
            while let Some(event) = events.recv().await {
                let notice = notice_of(&event).filter(|notice| on.contains(&notice.occasion));
                if let Some(notice) = notice
                    && !offer(&queue, notice, &mut dropped)
                {
                    return;
                }
            }
            // We lagged, and were let go.
            debug!("watching again");
            tokio::time::sleep(BACKOFF).await;
        }
    }

    fn work(self, notices: &Receiver<Notice>) {
        let mut desktop = self.rule.desktop;
        let agent = self.rule.webhook.as_ref().map(|url| {
            let plain = url.starts_with("http://");
            let config = ureq::Agent::config_builder()
                .timeout_global(Some(self.rule.timeout))
                // Where it is sent is what the settings say, and nowhere else.
                .max_redirects(0)
                .http_status_as_error(false)
                .user_agent(concat!("handout/", env!("CARGO_PKG_VERSION")));
            match plain {
                true => config.proxy(None).build().new_agent(),
                false => config.build().new_agent(),
            }
        });
        for notice in notices {
            if desktop {
                desktop = show(&notice);
            }
            if let (Some(agent), Some(url)) = (&agent, &self.rule.webhook) {
                self.post(agent, url, &notice);
            }
        }
    }

    fn post(&self, agent: &ureq::Agent, url: &str, notice: &Notice) {
        let body = json!({
            "event": notice.occasion.as_str(),
            "text": notice.text,
            "time": notice.time,
            "device": self.device,
            "about": notice.about,
        });
        let body = body.to_string();
        let mut wait = BACKOFF;
        for attempt in 0..=self.rule.retries {
            let mut request = agent.post(url).header("Content-Type", "application/json");
            if let Some(secret) = &self.secret {
                request = request.header("Authorization", format!("Bearer {secret}"));
            }
            let why = match request.send(body.as_str()) {
                Ok(answer) if answer.status().is_success() => {
                    return debug!(attempt, "the webhook was told");
                }
                Ok(answer) => {
                    let status = answer.status();
                    let again = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
                    if !again {
                        return warn!(
                            %status,
                            "the webhook does not take it: check notify.webhook and \
                             notify.secret_file"
                        );
                    }
                    status.to_string()
                }
                Err(error) => error.to_string(),
            };
            let why = printable(&why);
            if attempt == self.rule.retries {
                return warn!(why, attempt, "the webhook was not told; given up");
            }
            info!(why, attempt, "the webhook was not told; tried again");
            // This thread is for nothing else.
            thread::park_timeout(wait);
            wait = (wait * 2).min(LONGEST_BACKOFF);
        }
    }
}

/// Puts it into the queue. False when nobody takes from it any more.
fn offer(queue: &SyncSender<Notice>, notice: Notice, dropped: &mut u64) -> bool {
    match queue.try_send(notice) {
        Ok(()) if *dropped > 0 => {
            warn!(dropped, "so much happened that not all of it was told");
            *dropped = 0;
            true
        }
        Ok(()) => true,
        Err(TrySendError::Full(_)) => {
            *dropped += 1;
            true
        }
        Err(TrySendError::Disconnected(_)) => false,
    }
}

/// What an event is worth telling, if it is.
fn notice_of(event: &Event) -> Option<Notice> {
    let (occasion, text) = match event {
        Event::Summary {
            name, receivers, ..
        } => {
            let waits = |reason: &String| is_no_end(reason);
            let lack = receivers.iter().filter(|r| r.state != "complete");
            let mut lack = lack
                .map(|r| r.reason.as_ref().is_some_and(waits))
                .peekable();
            if lack.peek().is_some() && lack.all(|waits| waits) {
                return None;
            }
            let have = receivers.iter().filter(|r| r.state == "complete").count();
            let all = receivers.len();
            let occasion = match have == all && all > 0 {
                true => Occasion::Done,
                false => Occasion::Failed,
            };
            (occasion, format!("{name}: {have} of {all} have it"))
        }
        Event::Received { path, .. } => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            let text = format!("{} has arrived", name.to_string_lossy());
            (Occasion::Done, text)
        }
        Event::Transfer(info) if info.direction == Direction::Incoming => {
            let reason = match &info.state {
                TransferState::Failed { reason, .. } | TransferState::Cancelled { reason, .. } => {
                    reason
                }
                _ => return None,
            };
            let (name, from) = (&info.name, &info.device_name);
            let text = format!("{name} from {from} has not arrived: {reason}");
            (Occasion::Failed, text)
        }
        Event::Joined { name, .. } => (Occasion::Joined, format!("{name} has come in")),
        _ => return None,
    };
    Some(Notice {
        occasion,
        text: printable(&text).chars().take(MAX_TEXT).collect(),
        about: serde_json::to_value(event).unwrap_or_default(),
        time: unix_now(),
    })
}

/// Shows it on the desktop, by the program that desktops have for that. False when there is none.
fn show(notice: &Notice) -> bool {
    // Notifications may hold markup (Desktop Notifications Specification).
    let text = notice.text.replace('&', "&amp;").replace('<', "&lt;");
    let urgency = match notice.occasion {
        Occasion::Failed => "--urgency=critical",
        _ => "--urgency=normal",
    };
    let child = Command::new("notify-send")
        .args(["--app-name=Handout", urgency, "--", "Handout", &text])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            warn!(%error, "no notifications on the desktop: notify-send cannot be run (on Debian: apt install libnotify-bin)");
            return false;
        }
    };
    let end = Instant::now() + DESKTOP;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return true,
            Ok(Some(status)) => {
                debug!(%status, "notify-send failed: is there a desktop?");
                return true;
            }
            Ok(None) if Instant::now() < end => thread::park_timeout(Duration::from_millis(50)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return true;
            }
        }
    }
}

/// The telling of a node, where its settings want it told.
pub(super) fn start(telling: Option<Telling>, node: &Node) -> Option<Arc<TellingTask>> {
    let task = actix::spawn(telling?.run(node.clone()));
    Some(Arc::new(TellingTask(task)))
}

/// Ends when it is dropped.
pub(super) struct TellingTask(tokio::task::JoinHandle<()>);

impl Drop for TellingTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::{BroadcastId, DeviceId};

    #[test]
    fn what_does_not_fit_is_dropped_and_nothing_waits() {
        let (queue, taken) = sync_channel(2);
        let notice = Notice {
            occasion: Occasion::Done,
            text: String::new(),
            about: Value::Null,
            time: 0,
        };
        let mut dropped = 0;
        for _ in 0..5 {
            assert!(offer(&queue, notice.clone(), &mut dropped));
        }
        assert_eq!(dropped, 3);
        assert!(taken.recv().is_ok());
        assert!(offer(&queue, notice.clone(), &mut dropped));
        assert_eq!(dropped, 0);
        drop(taken);
        assert!(!offer(&queue, notice, &mut dropped));
    }

    #[test]
    fn a_broadcast_is_done_when_everybody_has_it() {
        let receiver = |state: &str| super::super::api::Receiver {
            device_id: DeviceId::of_key(&[1; 32]),
            name: "a".to_owned(),
            state: state.to_owned(),
            code: None,
            reason: None,
            bytes: 0,
            sent: 0,
            seconds: None,
            already: false,
            verified: true,
        };
        let told = |states: &[&str]| {
            let summary = Event::Summary {
                broadcast: BroadcastId([1; 16]),
                name: "lesson\u{1b}".to_owned(),
                size: 1,
                receivers: states.iter().map(|state| receiver(state)).collect(),
            };
            notice_of(&summary).unwrap()
        };
        assert_eq!(told(&["complete", "complete"]).occasion, Occasion::Done);
        let failed = told(&["complete", "failed"]);
        assert_eq!(failed.occasion, Occasion::Failed);
        assert_eq!(failed.text, "lesson\\u{1b}: 1 of 2 have it");
        assert_eq!(told(&[]).occasion, Occasion::Failed);

        let mut waiting = receiver("cancelled");
        waiting.reason = Some("a newer version takes its place".to_owned());
        let summary = Event::Summary {
            broadcast: BroadcastId([1; 16]),
            name: "lesson".to_owned(),
            size: 1,
            receivers: vec![receiver("complete"), waiting],
        };
        assert!(
            notice_of(&summary).is_none(),
            "the next version is on its way to it"
        );
    }
}
