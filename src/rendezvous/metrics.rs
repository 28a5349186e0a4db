//! What is counted, for Prometheus.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::turn::TurnTotals;

/// Upper ends of the ranges that durations are counted in, in seconds.
const RANGES: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    /// The pattern of the path, never what was asked for.
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

/// The numbers of one server.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram>,
    /// Sessions that were begun.
    pub(super) sessions: Counter,
    /// Those that somebody provides for.
    pub(super) claims: Counter,
    /// Signals that were taken.
    pub(super) signals: Counter,
    /// Long polls that wait.
    pub(super) waiting: Gauge,
    /// Sessions that are open, here and on servers that share the database.
    pub(super) open: Gauge,
    /// Devices whose sockets are open here, as of the last look.
    pub(super) devices: Gauge,
    /// Signals between devices.
    pub(super) mails: Counter,
    /// Relayed links that are open here.
    pub(super) relays: Gauge,
    /// Bytes that they have carried.
    pub(super) relayed: Counter,
    /// Connections that were closed because their address had enough.
    pub(super) crowded: Counter,
    turn_allocations: Gauge,
    turn_bytes: Gauge,
    turn_refused: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("handout_rendezvous"),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(RANGES)),
            sessions: Counter::default(),
            claims: Counter::default(),
            signals: Counter::default(),
            waiting: Gauge::default(),
            open: Gauge::default(),
            devices: Gauge::default(),
            mails: Counter::default(),
            relays: Gauge::default(),
            relayed: Counter::default(),
            crowded: Counter::default(),
            turn_allocations: Gauge::default(),
            turn_bytes: Gauge::default(),
            turn_refused: Gauge::default(),
        };
        let to = &mut metrics.registry;
        let help = "Answers, by route and status";
        to.register("requests", help, metrics.requests.clone());
        let help = "Time to an answer that did not wait for others, in seconds";
        to.register("request_seconds", help, metrics.durations.clone());
        to.register("sessions", "Sessions begun", metrics.sessions.clone());
        let help = "Sessions that somebody provides for";
        to.register("claims", help, metrics.claims.clone());
        to.register("signals", "Signals taken", metrics.signals.clone());
        to.register("long_polls", "Requests that wait", metrics.waiting.clone());
        to.register("open_sessions", "Open sessions", metrics.open.clone());
        let help = "Devices whose sockets are open";
        to.register("devices", help, metrics.devices.clone());
        to.register("mails", "Signals between devices", metrics.mails.clone());
        to.register("relays", "Open relayed links", metrics.relays.clone());
        let help = "Bytes on relayed links";
        to.register("relayed_bytes", help, metrics.relayed.clone());
        let help = "Connections closed because their address had enough";
        to.register("crowded_connections", help, metrics.crowded.clone());
        let help = "Addresses that the TURN server has given away";
        to.register("turn_allocations", help, metrics.turn_allocations.clone());
        let help = "Bytes that the TURN server has passed on";
        to.register("turn_bytes", help, metrics.turn_bytes.clone());
        let help = "Requests that the TURN server has left unanswered";
        to.register("turn_refused", help, metrics.turn_refused.clone());
        metrics
    }

    /// Counts an answer; its time only where it did not wait for others.
    pub(super) fn answered(&self, route: &'static str, status: u16, took: Option<Duration>) {
        self.requests
            .get_or_create(&Answered { route, status })
            .inc();
        if let Some(took) = took {
            self.durations
                .get_or_create(&Route { route })
                .observe(took.as_secs_f64());
        }
    }

    /// Takes up what the TURN server has counted.
    pub(super) fn turn(&self, totals: TurnTotals) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.turn_allocations.set(number(totals.allocations as u64));
        self.turn_bytes.set(number(totals.bytes));
        self.turn_refused.set(number(totals.refused));
    }

    /// All of it, in the format of OpenMetrics.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
