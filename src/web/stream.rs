//! Answers that go on: events as they happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{Error, HttpResponse, web};
use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Shared;
use super::answers::named;
use super::problem::Problem;
use crate::actors::api::{Event, Request};
use crate::actors::service::Node;

/// How often a stream shows that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Events that may wait for a listener; beyond it the listener is let go, and told.
const ROOM: usize = 256;

/// How many streams there may be.
pub(super) struct Places {
    most: usize,
    taken: AtomicUsize,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            taken: AtomicUsize::new(0),
        }
    }
}

/// A stream's place, given back when it is dropped.
struct Place {
    places: Arc<Places>,
    node: Node,
}

impl Place {
    fn take(shared: &Shared) -> Result<Self, Problem> {
        let places = Arc::clone(&shared.places);
        if places.taken.fetch_add(1, Ordering::SeqCst) >= places.most {
            places.taken.fetch_sub(1, Ordering::SeqCst);
            let detail = format!(
                "there are {} streams of events already (api.max_streams)",
                places.most
            );
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
        let node = shared.node.clone();
        node.metrics().streams.inc();
        Ok(Self { places, node })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::SeqCst);
        self.node.metrics().streams.dec();
    }
}

/// How events are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-Sent Events.
    Sse,
    /// JSON lines.
    Lines,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    fn event(self, event: &Event) -> String {
        let (name, value) = named(event);
        self.named(&name, &value.to_string())
    }

    fn named(self, name: &str, json: &str) -> String {
        match self {
            // JSON has no line ends of its own.
            Self::Sse => format!("event: {name}\ndata: {json}\n\n"),
            Self::Lines => format!("{json}\n"),
        }
    }

    fn heartbeat(self) -> &'static str {
        match self {
            Self::Sse => ": still here\n\n",
            Self::Lines => "\n",
        }
    }
}

struct Going {
    events: mpsc::Receiver<Event>,
    heartbeat: Interval,
    form: Form,
    over: bool,
    place: Place,
}

impl Going {
    async fn next(&mut self) -> String {
        tokio::select! {
            biased;
            event = self.events.recv() => match event {
                Some(event) => {
                    self.over = matches!(event, Event::End { .. });
                    self.form.event(&event)
                }
                None => {
                    self.over = true;
                    self.last_word()
                }
            },
            _ = self.heartbeat.tick() => self.form.heartbeat().to_owned(),
        }
    }

    /// Why the events have ended without an end.
    fn last_word(&self) -> String {
        if !self.place.node.is_running() {
            let gone = r#"{"event":"error","message":"the service has ended"}"#;
            return self.form.named("error", gone);
        }
        self.place.node.metrics().listeners_dropped.inc();
        let lagged = format!(
            r#"{{"event":"lagged","message":"more than {ROOM} events waited for this listener, and it misses some: connect again, and ask for the state anew"}}"#
        );
        self.form.named("lagged", &lagged)
    }
}

/// Asks, and answers with events as they come, until the end or until the listener goes.
pub(super) fn answer(
    shared: &web::Data<Shared>,
    request: Request,
    form: Form,
) -> Result<HttpResponse, Problem> {
    let place = Place::take(shared)?;
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let going = Going {
        events: shared.node.ask_with(request, ROOM),
        heartbeat,
        form,
        over: false,
        place,
    };
    // The first heartbeat comes at once, and shows that it has begun.
    let body = stream::unfold(going, |mut going| async move {
        if going.over {
            return None;
        }
        let text = going.next().await;
        Some((Ok::<_, Error>(Bytes::from(text)), going))
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type(form.content_type())
        .streaming(body))
}
