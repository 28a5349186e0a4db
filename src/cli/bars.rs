//! Progress: a bar for each transfer on a terminal, lines now and then elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::screen::Screen;
use super::text::{bytes, foreign, percent, speed};
use super::view::{MAX_NAME, reason};
use crate::actors::api::TransferInfo;
use crate::protocol::id::TransferId;
use crate::protocol::transfer::TransferState;

/// More bars than this do not fit a screen; further transfers are in the total only.
const MAX_BARS: usize = 30;
/// Without a terminal, a line about progress comes this often at most.
const PACE: Duration = Duration::from_secs(1);

/// How far a number of transfers are.
pub struct Bars {
    screen: Screen,
    transfers: HashMap<TransferId, Entry>,
    total: Option<ProgressBar>,
    with_total: bool,
    last_line: Option<(Instant, u64)>,
}

struct Entry {
    bar: Option<ProgressBar>,
    bytes: u64,
    size: u64,
    is_final: bool,
}

impl Bars {
    /// No bars yet. With a total, finished transfers stay in sight, and without a terminal there
    /// are lines about progress.
    pub fn new(screen: &Screen, with_total: bool) -> Self {
        Self {
            screen: screen.clone(),
            transfers: HashMap::new(),
            total: None,
            with_total,
            last_line: None,
        }
    }

    /// A transfer, as it now stands.
    pub fn transfer(&mut self, info: &TransferInfo) {
        let is_final = info.state.is_final();
        if is_final && !self.with_total {
            if let Some(Entry { bar: Some(bar), .. }) = self.transfers.remove(&info.transfer) {
                bar.finish_and_clear();
                self.screen.bars().remove(&bar);
            }
            return;
        }
        if !self.transfers.contains_key(&info.transfer) {
            let entry = Entry {
                bar: self.new_bar(info),
                bytes: 0,
                size: info.size,
                is_final,
            };
            self.transfers.insert(info.transfer, entry);
        }
        if let Some(entry) = self.transfers.get_mut(&info.transfer) {
            entry.is_final = is_final;
            entry.bytes = info.bytes;
            if let Some(bar) = &entry.bar {
                bar.set_position(info.bytes);
                bar.set_message(message(&info.state));
                if is_final {
                    bar.abandon();
                }
            }
        }
        self.show_total();
    }

    /// A transfer has come further.
    pub fn progress(&mut self, id: TransferId, bytes: u64) {
        if let Some(entry) = self.transfers.get_mut(&id) {
            entry.bytes = bytes.min(entry.size);
            if let Some(bar) = &entry.bar {
                bar.set_position(entry.bytes);
            }
            self.show_total();
        }
    }

    /// Takes all bars from the screen.
    pub fn clear(&mut self) {
        let bars = self.transfers.drain().filter_map(|(_, entry)| entry.bar);
        for bar in bars.chain(self.total.take()) {
            bar.finish_and_clear();
        }
    }

    fn new_bar(&mut self, info: &TransferInfo) -> Option<ProgressBar> {
        let drawn = self.transfers.values().filter(|entry| entry.bar.is_some());
        if !self.screen.has_bars() || drawn.count() >= MAX_BARS {
            return None;
        }
        let prefix = foreign(&info.device_name, MAX_NAME.min(20));
        let bar = self.add(info.size, prefix);
        // A resumed transfer's speed does not count what was there before.
        bar.set_position(info.bytes);
        bar.reset_eta();
        if self.with_total && self.total.is_none() {
            self.total = Some(self.add(0, "total".to_owned()));
        }
        Some(bar)
    }

    fn add(&self, size: u64, prefix: String) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{prefix:<20} {bar:30.cyan/dim} {percent:>3} %  {binary_bytes:>11}  {decimal_bytes_per_sec:>12}  {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─");
        let bar = ProgressBar::new(size).with_style(style).with_prefix(prefix);
        match &self.total {
            Some(total) => self.screen.bars().insert_before(total, bar),
            None => self.screen.bars().add(bar),
        }
    }

    fn show_total(&mut self) {
        let bytes_done: u64 = self.transfers.values().map(|entry| entry.bytes).sum();
        let size = self.transfers.values().map(|entry| entry.size).sum();
        if let Some(total) = &self.total {
            total.set_length(size);
            total.set_position(bytes_done);
            let open = self.transfers.values().filter(|entry| !entry.is_final);
            total.set_message(format!("{} to go", open.count()));
        } else if self.with_total && !self.screen.has_bars() {
            self.line(bytes_done, size);
        }
    }

    fn line(&mut self, bytes_done: u64, size: u64) {
        let now = Instant::now();
        let (last, before) = *self.last_line.get_or_insert((now, bytes_done));
        let since = now.duration_since(last);
        if since < PACE || bytes_done <= before {
            return;
        }
        self.last_line = Some((now, bytes_done));
        let complete = self.transfers.values().filter(|entry| entry.is_final);
        self.screen.note(&format!(
            "{} of {}, {}, {}; {} of {} receivers done",
            bytes(bytes_done),
            bytes(size),
            percent(bytes_done, size),
            speed(bytes_done - before, since.as_secs_f64()),
            complete.count(),
            self.transfers.len(),
        ));
    }
}

fn message(state: &TransferState) -> String {
    match state {
        TransferState::Pending => "waiting for it".to_owned(),
        TransferState::Active => String::new(),
        state => match reason(state) {
            Some(reason) => format!("{}: {}", state.word(), foreign(&reason, 60)),
            None => state.word().to_owned(),
        },
    }
}
