//! A config file as it was written: its values, each with the line where it stands, and what of it
//! is not TOML. One slip does not hide the rest of the file.

use std::ops::Range;

use config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::Place;

/// What is not TOML, with its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slip {
    pub place: Place,
    /// What the parser says.
    pub message: String,
}

/// How often a file is read again without the lines that are not TOML: the parser gives up at some
/// slips, and says nothing of what is behind them.
const ROUNDS: usize = 100;

/// Reads a file. Each value names as its origin the place of its key, an item of a list its own.
/// Lines with a slip count as empty, unless they are headers.
pub(super) fn parse(source: &str, text: &str) -> (Map<String, Value>, Vec<Slip>) {
    let mut lines: Vec<&str> = text.split('\n').collect();
    let mut slips: Vec<Slip> = Vec::new();
    for round in 1.. {
        let text = lines.join("\n");
        let document = Document::new(source, &text);
        let (table, errors) = DeTable::parse_recoverable(&text);
        let mut left_out = false;
        for error in errors {
            let place = document.place(&error.span().unwrap_or_default());
            // What follows from a slip on the same line is no second one.
            if slips.iter().any(|slip| slip.place.line == place.line) {
                continue;
            }
            if let Some(line) = place.line.and_then(|line| lines.get_mut(line - 1))
                && !line.trim_start().starts_with('[')
            {
                *line = "";
                left_out = true;
            }
            let message = error.message().replace('\n', ", ");
            slips.push(Slip { place, message });
        }
        if !left_out || round == ROUNDS {
            slips.sort_by_key(|slip| slip.place.line);
            return (document.table(table.get_ref()), slips);
        }
    }
    unreachable!("the last round returns")
}

struct Document<'a> {
    source: &'a str,
    text: &'a str,
    /// Where each line starts.
    starts: Vec<usize>,
}

impl<'a> Document<'a> {
    fn new(source: &'a str, text: &'a str) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(newlines).collect();
        Self {
            source,
            text,
            starts,
        }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let at = self
            .text
            .floor_char_boundary(span.start.min(self.text.len()));
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts[line - 1];
        Place {
            source: self.source.to_owned(),
            line: Some(line),
            column: Some(self.text[start..at].chars().count() + 1),
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Map<String, Value> {
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            let origin = self.place(&key.span()).to_string();
            let value = Value::new(Some(&origin), self.kind(value));
            (name.clone().into_owned(), value)
        };
        table.iter().map(entry).collect()
    }

    fn kind(&self, value: &Spanned<DeValue<'_>>) -> ValueKind {
        match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.clone().into_owned()),
            DeValue::Integer(number) => integer(number),
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => ValueKind::Float(number),
                Err(_) => ValueKind::String(number.to_string()),
            },
            DeValue::Boolean(yes) => ValueKind::Boolean(*yes),
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Table(table) => ValueKind::Table(self.table(table)),
            DeValue::Array(items) => {
                let item = |item: &Spanned<_>| {
                    let origin = self.place(&item.span()).to_string();
                    Value::new(Some(&origin), self.kind(item))
                };
                ValueKind::Array(items.iter().map(item).collect())
            }
        }
    }
}

fn integer(number: &DeInteger<'_>) -> ValueKind {
    let (digits, radix) = (number.as_str(), number.radix());
    i64::from_str_radix(digits, radix)
        .map(ValueKind::I64)
        .or_else(|_| u64::from_str_radix(digits, radix).map(ValueKind::U64))
        .or_else(|_| i128::from_str_radix(digits, radix).map(ValueKind::I128))
        // No setting is that large: it is wrong, and shown as it was written.
        .unwrap_or_else(|_| ValueKind::String(number.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line_also_in_lists_of_tables() {
        let text = "# é\n[log]\nlevel = \"info\"\n\n[[receive.from]]\n  who = [\n\"a\"]\n\n\
                    [[receive.from]]\nmode = \"ask\"\n";
        let (table, slips) = parse("/etc/x.toml", text);
        assert_eq!(slips, []);
        let log = table["log"].clone().into_table().unwrap();
        assert_eq!(log["level"].origin(), Some("/etc/x.toml:3:1"));
        let receive = table["receive"].clone().into_table().unwrap();
        let rules = receive["from"].clone().into_array().unwrap();
        assert_eq!(rules[0].origin(), Some("/etc/x.toml:5:1"));
        assert_eq!(rules[1].origin(), Some("/etc/x.toml:9:1"));
        let first = rules[0].clone().into_table().unwrap();
        assert_eq!(first["who"].origin(), Some("/etc/x.toml:6:3"));
    }

    #[test]
    fn slips_have_their_lines_and_the_rest_is_read() {
        let text = "[log]\nlevel = info\nformat = \"json\"\n[signaling]\nport 7\nretries = 2\n\
                    [receive\nmode = \"ask\"\n[transfer]\nretention = 5\nretention = 6\n\
                    [device]\nname = \"open\ntype = \"mobile\"\n";
        let (table, slips) = parse("f", text);
        let lines: Vec<_> = slips.iter().filter_map(|slip| slip.place.line).collect();
        assert_eq!(lines, [2, 5, 7, 11, 13], "{slips:?}");
        let of = |section: &str, key: &str| {
            let section = table[section].clone().into_table().unwrap();
            section[key].kind.clone()
        };
        assert!(
            !table["log"]
                .clone()
                .into_table()
                .unwrap()
                .contains_key("level")
        );
        assert_eq!(of("log", "format"), ValueKind::String("json".into()));
        assert_eq!(of("signaling", "retries"), ValueKind::I64(2));
        assert_eq!(of("device", "type"), ValueKind::String("mobile".into()));
    }
}
