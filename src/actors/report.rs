//! What became of a broadcast, device by device: which seats still miss it, and why.

use serde::{Deserialize, Serialize};

use crate::protocol::id::{BroadcastId, BundleId, DeviceId};
use crate::protocol::message::Code;
use crate::protocol::series::Series;
use crate::store::BroadcastState;

/// A broadcast on record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BroadcastInfo {
    /// Which; nothing where it stands in the config file and has not begun.
    pub broadcast: Option<BroadcastId>,
    /// What it is called.
    pub name: String,
    /// Of which series it is a version.
    pub series: Option<Series>,
    /// Whom it is for, as it was said.
    pub to: Vec<String>,
    /// What is handed out.
    pub bundle: Option<BundleId>,
    /// Bytes in all.
    pub size: u64,
    /// When it was made, in Unix seconds; 0 where it has not begun.
    pub created: u64,
    /// Where it stands.
    pub state: BroadcastState,
    /// How many devices it has a transfer to.
    pub devices: usize,
    /// How many of them have it.
    pub have: usize,
}

/// A broadcast, with every device that it is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The broadcast.
    #[serde(flatten)]
    pub broadcast: BroadcastInfo,
    /// Every device that it is for now, and every one that it was for, by name.
    pub seats: Vec<Seat>,
    /// How many of them do not have it.
    pub missing: usize,
    /// What it waits for, for people, where nothing has been handed out yet.
    pub waits: Option<String>,
}

/// A device that a broadcast is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seat {
    /// Which.
    pub device_id: DeviceId,
    /// Its name for people.
    pub name: String,
    /// The groups that it is in.
    pub groups: Vec<String>,
    /// The state of its transfer; `missing` where there is none, `waiting` where nothing has been
    /// handed out yet.
    pub state: String,
    /// It has everything, verified and in its place.
    pub has_it: bool,
    /// Bytes that it has.
    pub bytes: u64,
    /// Bytes in all.
    pub size: u64,
    /// Payload bytes that this device has sent to it.
    pub sent: u64,
    /// When its transfer last changed, in Unix seconds.
    pub updated: Option<u64>,
    /// Seconds that its chunks moved.
    pub seconds: Option<f64>,
    /// Hash over the whole content, as it has it.
    pub root: Option<String>,
    /// What lets it in, or why nothing does; of a transfer that is over, when it ended.
    pub authorized: String,
    /// Why it does not have it, for programs.
    pub code: Option<Code>,
    /// Why it does not have it, for people.
    pub reason: Option<String>,
}

impl Report {
    /// A table for spreadsheets: a line of titles, then one for each device.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        // Writing to memory does not fail.
        let _ = self.write(&mut writer);
        let bytes = writer.into_inner().unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    }

    fn write(&self, writer: &mut csv::Writer<Vec<u8>>) -> csv::Result<()> {
        writer.write_record([
            "device_id",
            "name",
            "groups",
            "has_it",
            "state",
            "reason",
            "bytes",
            "size",
            "sent",
            "updated",
            "seconds",
            "root",
            "authorized",
            "broadcast",
            "title",
            "series",
            "version",
        ])?;
        let of = &self.broadcast;
        let series = of.series.as_ref();
        for seat in &self.seats {
            writer.write_record([
                cell(seat.device_id.as_str()),
                cell(&seat.name),
                cell(&seat.groups.join("; ")),
                if seat.has_it { "yes" } else { "no" }.to_owned(),
                cell(&seat.state),
                cell(seat.reason.as_deref().unwrap_or_default()),
                seat.bytes.to_string(),
                seat.size.to_string(),
                seat.sent.to_string(),
                seat.updated.map_or_else(String::new, date),
                seat.seconds
                    .map_or_else(String::new, |seconds| format!("{seconds:.1}")),
                cell(seat.root.as_deref().unwrap_or_default()),
                cell(&seat.authorized),
                of.broadcast.map_or_else(String::new, |id| id.to_string()),
                cell(&of.name),
                cell(series.map_or("", |series| series.name.as_str())),
                series.map_or_else(String::new, |series| series.version.to_string()),
            ])?;
        }
        writer.flush()?;
        Ok(())
    }
}

/// Unix seconds as RFC 3339, in UTC.
pub fn date(time: u64) -> String {
    let time = i64::try_from(time).ok();
    let time = time.and_then(|time| chrono::DateTime::from_timestamp(time, 0));
    let date = |time: chrono::DateTime<chrono::Utc>| {
        time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    time.map_or_else(String::new, date)
}

/// Text that shows what it is, and that no spreadsheet takes for a formula.
fn cell(text: &str) -> String {
    let text = crate::protocol::names::printable(text);
    // Some programs skip what is in front of a formula.
    let first = text.trim_start().chars().next();
    match first {
        Some('=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') => format!("'{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, reason: &str) -> Report {
        let seat = Seat {
            device_id: DeviceId::of_key(&[1; 32]),
            name: name.to_owned(),
            groups: vec!["class-3b".to_owned(), "all".to_owned()],
            state: "failed".to_owned(),
            has_it: false,
            bytes: 1,
            size: 2,
            sent: 3,
            updated: Some(1_795_248_000),
            seconds: Some(1.25),
            root: None,
            authorized: "by a person".to_owned(),
            code: None,
            reason: Some(reason.to_owned()),
        };
        Report {
            broadcast: BroadcastInfo {
                broadcast: Some(BroadcastId([7; 16])),
                name: "lesson".to_owned(),
                series: None,
                to: vec!["class-3b".to_owned()],
                bundle: None,
                size: 2,
                created: 0,
                state: BroadcastState::Active,
                devices: 1,
                have: 0,
            },
            seats: vec![seat],
            missing: 1,
            waits: None,
        }
    }

    #[test]
    fn a_table_reads_back_as_it_is() {
        let text = report("Room 3, \"front\"\n", "gone; back, soon").csv();
        let mut read = csv::Reader::from_reader(text.as_bytes());
        let titles = read.headers().unwrap().clone();
        let rows: Vec<_> = read.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 1);
        let of = |title: &str| &rows[0][titles.iter().position(|t| t == title).unwrap()];
        assert_eq!(of("name"), "Room 3, \"front\"\\u{a}");
        assert_eq!(of("reason"), "gone; back, soon");
        assert_eq!(of("has_it"), "no");
        assert_eq!(of("updated"), "2026-11-21T08:00:00Z");
        assert_eq!(of("broadcast"), "07".repeat(16));
    }

    #[test]
    fn no_cell_is_a_formula() {
        for bad in [
            "=1+1",
            "+1",
            "-1",
            "@sum",
            " =cmd|' /C calc'!A0",
            "\t=x",
            "＝1",
        ] {
            let text = report(bad, bad).csv();
            let mut read = csv::Reader::from_reader(text.as_bytes());
            let row = read.records().next().unwrap().unwrap();
            for cell in &row {
                let first = cell.trim_start().chars().next();
                assert!(
                    !matches!(first, Some('=' | '+' | '-' | '@' | '＝')),
                    "{cell:?}"
                );
            }
        }
    }
}
