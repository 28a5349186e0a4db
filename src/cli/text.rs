//! Numbers and tables for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unicode_width::UnicodeWidthStr;

use crate::protocol::names::printable;

/// A number of bytes, with a unit of a power of 1024.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // What would be rounded up to 1024.0 gets the next unit already.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A speed in MB/s; a dash where it says nothing.
pub fn speed(bytes: u64, seconds: f64) -> String {
    if bytes == 0 || seconds < 0.001 {
        return "-".to_owned();
    }
    let megabytes = bytes as f64 / seconds / 1e6;
    if megabytes < 10.0 {
        format!("{megabytes:.1} MB/s")
    } else {
        format!("{megabytes:.0} MB/s")
    }
}

/// Seconds, as precise as it matters.
pub fn seconds(seconds: f64) -> String {
    if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds as u64;
        match (whole / 3600, whole / 60 % 60, whole % 60) {
            (0, minutes, 0) => format!("{minutes} min"),
            (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
            (hours, 0, _) => format!("{hours} h"),
            (hours, minutes, _) => format!("{hours} h {minutes} min"),
        }
    }
}

/// Now, in Unix seconds.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// How long something still holds; both in Unix seconds.
pub fn until(end: u64, now: u64) -> String {
    const DAY: u64 = 24 * 3600;
    match end.saturating_sub(now) {
        0 => "expired".to_owned(),
        left if left >= 2 * DAY => format!("for {} days", left / DAY),
        left => format!("for {}", seconds(left as f64)),
    }
}

/// A duration like [`seconds`].
pub fn duration(duration: Duration) -> String {
    seconds(duration.as_secs_f64())
}

/// How much of it is there, in percent; 100 only when all is.
pub fn percent(part: u64, whole: u64) -> String {
    let percent = if part >= whole {
        100
    } else {
        (u128::from(part) * 100 / u128::from(whole)) as u64
    };
    format!("{percent} %")
}

/// A text from someone else for a table or a line: harmless, and at most `width` columns wide.
pub fn foreign(text: &str, width: usize) -> String {
    let text = printable(text);
    if text.width() <= width {
        return text;
    }
    let mut cut = String::new();
    for c in text.chars() {
        if cut.width() + 1 >= width {
            break;
        }
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// Rows under a header, in columns as wide as they must be.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [usize],
}

impl Table {
    /// An empty table; the columns numbered in `right` are aligned to the right.
    pub fn new(header: &[&str], right: &'static [usize]) -> Self {
        let header = header.iter().map(|&cell| cell.to_owned()).collect();
        Self {
            rows: vec![header],
            right,
        }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, header first, without spaces at their ends. Columns that are empty but for their
    /// header are left out.
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &'_ [String], column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<Option<usize>> = (0..columns)
            .map(|column| {
                let filled = self.rows[1..]
                    .iter()
                    .any(|row| !cell(row, column).is_empty());
                let width = |row: &Vec<String>| cell(row, column).width();
                (filled || self.rows.len() == 1)
                    .then(|| self.rows.iter().map(width).max().unwrap_or(0))
            })
            .collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let Some(width) = width else { continue };
                let text = cell(row, column);
                let padding = " ".repeat(width - text.width());
                if !line.is_empty() {
                    line.push_str("  ");
                }
                if self.right.contains(&column) {
                    line.push_str(&padding);
                    line.push_str(&text);
                } else {
                    line.push_str(&text);
                    line.push_str(&padding);
                }
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units_that_fit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(256 << 20), "256.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(speed(100_000_000, 1.0), "100 MB/s");
        assert_eq!(speed(1_500_000, 1.0), "1.5 MB/s");
        assert_eq!(speed(0, 1.0), "-");
        assert_eq!(speed(5, 0.0), "-");
        assert_eq!(seconds(1.26), "1.3 s");
        assert_eq!(seconds(125.0), "2 min 5 s");
        assert_eq!(seconds(7260.0), "2 h 1 min");
        assert_eq!(seconds(600.0), "10 min");
        assert_eq!(seconds(7200.0), "2 h");
        assert_eq!(until(7260, 0), "for 2 h 1 min");
        assert_eq!(until(30 * 86_400, 0), "for 30 days");
        assert_eq!(until(5, 5), "expired");
    }

    #[test]
    fn a_hundred_percent_is_everything() {
        assert_eq!(percent(999, 1000), "99 %");
        assert_eq!(percent(1000, 1000), "100 %");
        assert_eq!(percent(0, 0), "100 %");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99 %");
    }

    #[test]
    fn columns_align_also_under_wide_letters() {
        let mut table = Table::new(&["WHO", "BYTES", "NOTE"], &[1]);
        table.row(["alpha", "5", ""].map(str::to_owned));
        table.row(["日本", "12345", ""].map(str::to_owned));
        let lines = table.lines();
        assert_eq!(lines, ["WHO    BYTES", "alpha      5", "日本   12345"]);
    }

    #[test]
    fn foreign_text_is_harmless_and_cut() {
        assert_eq!(foreign("a\u{1b}[2Jb", 80), "a\\u{1b}[2Jb");
        let cut = foreign(&"日".repeat(50), 11);
        assert!(cut.width() <= 11 && cut.ends_with('…'), "{cut}");
        assert_eq!(foreign("alpha", 5), "alpha");
    }
}
