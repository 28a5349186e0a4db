//! Settings that are read again while the node runs.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::config::{Change, Settings};
use crate::protocol::names::printable;

use super::super::api::{Event, Mistake, exit};
use super::requests::answer;
use super::{Coordinator, offer_event};

/// Who may wait for the settings to be read again; whoever comes later is sent away.
const MAX_WAITING: usize = 64;

/// How settings change.
pub(super) struct Changing {
    /// Who else follows them.
    followers: watch::Sender<Arc<Settings>>,
    /// They are being read.
    reading: bool,
    /// Who has asked meanwhile: the file may have changed again.
    waiting: Vec<mpsc::Sender<Event>>,
}

impl Changing {
    pub(super) fn new(followers: watch::Sender<Arc<Settings>>) -> Self {
        Self {
            followers,
            reading: false,
            waiting: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Arc<Settings> {
        Arc::clone(&self.followers.borrow())
    }
}

impl Coordinator {
    /// Reads the settings again, off this thread, and takes what can be taken. When they are wrong
    /// everything stays as it is.
    pub(super) fn on_reload(&mut self, reply: mpsc::Sender<Event>, ctx: &mut Context<Self>) {
        if self.changing.reading {
            if self.changing.waiting.len() < MAX_WAITING {
                self.changing.waiting.push(reply);
            } else {
                super::sending::fail(&reply, "too many ask for that at once", exit::ERROR);
            }
            return;
        }
        self.read_settings(vec![reply], ctx);
    }

    fn read_settings(&mut self, replies: Vec<mpsc::Sender<Event>>, ctx: &mut Context<Self>) {
        self.changing.reading = true;
        let settings = Arc::clone(&self.settings);
        let reading = self
            .data_plane
            .spawn_blocking(move || settings.load_again());
        ctx.spawn(reading.into_actor(self).map(move |read, coordinator, ctx| {
            coordinator.changing.reading = false;
            let event = match read {
                Ok(Ok(new)) => coordinator.take_settings(new, ctx),
                Ok(Err(error)) => {
                    let mistakes = Mistake::all(&error);
                    let lines: Vec<_> = mistakes.iter().map(|m| &*m.message).collect();
                    warn!(mistakes = %lines.join("; "), "the settings are wrong: those \
                                  from before still hold");
                    Event::NotReloaded { mistakes }
                }
                Err(error) => Event::Error {
                    message: format!("the settings could not be read: {error}"),
                },
            };
            coordinator.emit(&event);
            for reply in replies {
                if matches!(event, Event::Reloaded { .. }) {
                    answer(&reply, [event.clone()]);
                } else {
                    offer_event(&reply, &event);
                    offer_event(&reply, &Event::End { code: exit::USAGE });
                }
            }
            let waiting = std::mem::take(&mut coordinator.changing.waiting);
            if !waiting.is_empty() {
                coordinator.read_settings(waiting, ctx);
            }
        }));
    }

    /// These settings take the place of those from before, as far as that can be without a
    /// restart. Links stay up and keep what they were made with.
    fn take_settings(&mut self, new: Settings, ctx: &mut Context<Self>) -> Event {
        let (next, changes) = self.settings.renewed(new);
        for warning in next.warnings() {
            warn!("{}", printable(&warning.to_string()));
        }
        let file = next.file().map(ToOwned::to_owned);
        let (configured, admins) = next.lets_in();
        self.trust.configure(configured, admins);
        self.trust.declare(next.declared_groups());
        self.settings = Arc::new(next);
        if let Some(context) = &self.context {
            context.renew(Arc::clone(&self.settings));
        }
        self.changing
            .followers
            .send_replace(Arc::clone(&self.settings));
        report(&changes);
        self.tell_table_who_may();
        let rules = Arc::clone(&self.settings);
        self.take_up_plans(&rules.broadcasts, ctx);
        self.drive(ctx);
        Event::Reloaded { file, changes }
    }
}

/// One line for what holds now, and for what does not.
fn report(changes: &[Change]) {
    let list = |restart| {
        let some = changes.iter().filter(|change| change.restart == restart);
        let some: Vec<_> = some.map(line).collect();
        (!some.is_empty()).then(|| some.join("; "))
    };
    match (list(false), list(true)) {
        (None, None) => info!("the settings were read again: nothing has changed"),
        (Some(now), None) => info!(%now, "the settings were read again"),
        (now, Some(restart)) => {
            let now = now.unwrap_or_else(|| "nothing".to_owned());
            warn!(%now, %restart, "the settings were read again; some need a restart");
        }
    }
}

fn line(change: &Change) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
    let text = format!(
        "{}: {} -> {}",
        change.key,
        value(&change.old),
        value(&change.new)
    );
    printable(&text)
}
