//! What is counted, for Prometheus. Names and units are conventional; no label names a device, a
//! file or anything else that others choose, so their number is fixed.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::protocol::transfer::Direction;

/// Label and value.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The words that a transfer's state has.
const STATES: [&str; 7] = [
    "pending",
    "offered",
    "active",
    "paused",
    "complete",
    "cancelled",
    "failed",
];

/// The counters of a process. They begin at zero with it.
pub struct Metrics {
    registry: Registry,
    transfers: Family<Labels<2>, Gauge>,
    ended: Family<Labels<2>, Counter>,
    payload: Family<Labels<1>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// Broadcasts that are not over.
    pub broadcasts: Gauge,
    /// Broadcasts that are over.
    pub broadcasts_ended: Counter,
    /// Devices that are let in.
    pub devices_authorized: Gauge,
    /// Devices on the network now.
    pub devices_seen: Gauge,
    /// Links that stand.
    pub links: Gauge,
    /// Offers that wait for a person.
    pub questions: Gauge,
    /// Tries to connect of devices that nobody let in.
    pub refused: Counter,
    /// Listeners that were let go because they were too slow.
    pub listeners_dropped: Counter,
    /// Lines of the audit log that wait for the disk.
    pub audit_waiting: Gauge,
    /// 1 when the last look at the process's health found nothing.
    pub healthy: Gauge,
    /// HTTP requests by the class of their status: `2xx` to `5xx`.
    requests: Family<Labels<1>, Counter>,
    /// Streams of events that are open.
    pub streams: Gauge,
    memory: Gauge,
    descriptors: Gauge,
    threads: Gauge,
    cpu: Counter<f64, AtomicU64>,
}

fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 4.0, 9))
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Outgoing => "outgoing",
        Direction::Incoming => "incoming",
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let new = Self {
            registry: Registry::default(),
            transfers: Family::default(),
            ended: Family::default(),
            payload: Family::default(),
            durations: Family::new_with_constructor(durations as fn() -> Histogram),
            broadcasts: Gauge::default(),
            broadcasts_ended: Counter::default(),
            devices_authorized: Gauge::default(),
            devices_seen: Gauge::default(),
            links: Gauge::default(),
            questions: Gauge::default(),
            refused: Counter::default(),
            listeners_dropped: Counter::default(),
            audit_waiting: Gauge::default(),
            healthy: Gauge::default(),
            requests: Family::default(),
            streams: Gauge::default(),
            memory: Gauge::default(),
            descriptors: Gauge::default(),
            threads: Gauge::default(),
            cpu: Counter::default(),
        };
        // Lines that are always there can be watched from the first moment.
        for direction in [Direction::Outgoing, Direction::Incoming] {
            for state in STATES {
                new.transfers(direction, state).set(0);
            }
            for result in ["complete", "cancelled", "failed"] {
                let _ = new
                    .ended
                    .get_or_create(&[("direction", word(direction)), ("result", result)]);
            }
            let _ = new.payload.get_or_create(&[("direction", word(direction))]);
            let _ = new
                .durations
                .get_or_create(&[("direction", word(direction))]);
        }
        let mut all = Registry::default();
        let ours = all.sub_registry_with_prefix("handout");
        let version: Family<Labels<1>, Gauge> = Family::default();
        version
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        ours.register("build_info", "The version that runs", version);
        ours.register(
            "transfers",
            "Transfers on record, by state",
            new.transfers.clone(),
        );
        ours.register(
            "transfers_ended",
            "Transfers that ended since the start",
            new.ended.clone(),
        );
        ours.register_with_unit(
            "payload",
            "Payload moved over links since the start",
            Unit::Bytes,
            new.payload.clone(),
        );
        ours.register_with_unit(
            "transfer_duration",
            "From the first chunk until everything is in its place",
            Unit::Seconds,
            new.durations.clone(),
        );
        for (name, help, gauge) in [
            (
                "broadcasts_active",
                "Broadcasts that are not over",
                &new.broadcasts,
            ),
            (
                "devices_authorized",
                "Devices that are let in",
                &new.devices_authorized,
            ),
            (
                "devices_seen",
                "Devices on the network now",
                &new.devices_seen,
            ),
            ("links", "Links that stand", &new.links),
            (
                "offers_waiting",
                "Offers that wait for a person",
                &new.questions,
            ),
            (
                "audit_lines_waiting",
                "Lines of the audit log that wait for the disk",
                &new.audit_waiting,
            ),
            (
                "healthy",
                "1 when the last look at /health found nothing",
                &new.healthy,
            ),
            (
                "api_streams",
                "Streams of events that are open",
                &new.streams,
            ),
        ] {
            ours.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "broadcasts_ended",
                "Broadcasts that ended since the start",
                &new.broadcasts_ended,
            ),
            (
                "connections_refused",
                "Tries to connect of devices that nobody let in",
                &new.refused,
            ),
            (
                "listeners_dropped",
                "Listeners that were too slow for the events",
                &new.listeners_dropped,
            ),
        ] {
            ours.register(name, help, counter.clone());
        }
        ours.register(
            "api_requests",
            "HTTP requests, by status",
            new.requests.clone(),
        );
        let process = all.sub_registry_with_prefix("process");
        process.register_with_unit(
            "resident_memory",
            "Memory in use",
            Unit::Bytes,
            new.memory.clone(),
        );
        process.register("open_fds", "Open file descriptors", new.descriptors.clone());
        process.register("threads", "Threads", new.threads.clone());
        process.register_with_unit("cpu", "Processor time", Unit::Seconds, new.cpu.clone());
        let started: Gauge<f64, AtomicU64> = Gauge::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        started.set(now.map_or(0.0, |now| now.as_secs_f64()));
        process.register_with_unit("start_time", "When it was started", Unit::Seconds, started);
        Self {
            registry: all,
            ..new
        }
    }

    /// How many transfers of this kind there are.
    pub fn transfers(&self, direction: Direction, state: &'static str) -> Gauge {
        let labels = [("direction", word(direction)), ("state", state)];
        self.transfers.get_or_create(&labels).clone()
    }

    /// The words for states, for [`Metrics::transfers`].
    pub fn states() -> [&'static str; 7] {
        STATES
    }

    /// A transfer has ended: `complete`, `cancelled` or `failed`.
    pub fn transfer_ended(
        &self,
        direction: Direction,
        result: &'static str,
        took: Option<Duration>,
    ) {
        let labels = [("direction", word(direction)), ("result", result)];
        self.ended.get_or_create(&labels).inc();
        if let (Some(took), "complete") = (took, result) {
            let labels = [("direction", word(direction))];
            self.durations
                .get_or_create(&labels)
                .observe(took.as_secs_f64());
        }
    }

    /// Payload has moved.
    pub fn moved(&self, direction: Direction, bytes: u64) {
        let labels = [("direction", word(direction))];
        self.payload.get_or_create(&labels).inc_by(bytes);
    }

    /// An HTTP request was answered.
    pub fn answered(&self, status: u16) {
        let class = match status {
            0..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&[("status", class)]).inc();
    }

    /// All of it, in the OpenMetrics text format.
    pub fn text(&self) -> String {
        self.look_at_process();
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn look_at_process(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of = |name: &str| -> Option<i64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        self.memory.set(of("VmRSS:").unwrap_or(0) * 1024);
        self.threads.set(of("Threads:").unwrap_or(0));
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count());
        self.descriptors.set(open.try_into().unwrap_or(i64::MAX));
        // proc_pid_stat(5): in hundredths of a second, after the name, which is in brackets.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after.split_whitespace().skip(11).take(2);
        let used = ticks
            .filter_map(|ticks| ticks.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0;
        self.cpu.inc_by((used - self.cpu.get()).max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_conventional_and_every_line_is_there_from_the_start() {
        let metrics = Metrics::new();
        metrics.moved(Direction::Outgoing, 5);
        metrics.transfer_ended(
            Direction::Outgoing,
            "complete",
            Some(Duration::from_millis(200)),
        );
        metrics.answered(401);
        let text = metrics.text();
        for line in [
            "handout_payload_bytes_total{direction=\"outgoing\"} 5",
            "handout_payload_bytes_total{direction=\"incoming\"} 0",
            "handout_transfers_ended_total{direction=\"outgoing\",result=\"complete\"} 1",
            "handout_transfers_ended_total{direction=\"incoming\",result=\"failed\"} 0",
            "handout_transfers{direction=\"incoming\",state=\"active\"} 0",
            "handout_transfer_duration_seconds_count{direction=\"outgoing\"} 1",
            "handout_api_requests_total{status=\"4xx\"} 1",
            "handout_links 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 1e6);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_start_time_seconds ") > 1.7e9);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
    }
}
