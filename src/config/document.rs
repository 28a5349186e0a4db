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

/// Reads a file. Each value names as its origin the place of its key, an item of a list its own.
/// Values on lines with a slip are `Nil`: nobody can know what they were meant to be.
pub(super) fn parse(source: &str, text: &str) -> (Map<String, Value>, Vec<Slip>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Document {
        source,
        text,
        faulty: Vec::new(),
    };
    let mut slips: Vec<Slip> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or_default();
        let place = reader.place(&span);
        let (first, last) = (reader.line(span.start), reader.line(span.end));
        reader.faulty.extend(first..=last);
        // What follows from a slip on the same line is no second one.
        if slips
            .last()
            .is_none_or(|slip| slip.place.line != place.line)
        {
            let message = error.message().replace('\n', ", ");
            slips.push(Slip { place, message });
        }
    }
    let table = reader.table(table.get_ref());
    (table, slips)
}

struct Document<'a> {
    source: &'a str,
    text: &'a str,
    /// Lines with slips, counted from 1.
    faulty: Vec<usize>,
}

impl Document<'_> {
    fn before(&self, at: usize) -> &str {
        let at = self.text.floor_char_boundary(at.min(self.text.len()));
        &self.text[..at]
    }

    fn line(&self, at: usize) -> usize {
        self.before(at).matches('\n').count() + 1
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.before(span.start);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            source: self.source.to_owned(),
            line: Some(self.line(span.start)),
            column: Some(before[start..].chars().count() + 1),
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Map<String, Value> {
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            let kind = match value.get_ref() {
                // A section may go on behind a slip.
                DeValue::Table(table) => ValueKind::Table(self.table(table)),
                DeValue::Array(items) if is_list_of_tables(items) => self.kind(value),
                _ if self.is_faulty(&key.span()) || self.is_faulty(&value.span()) => ValueKind::Nil,
                _ => self.kind(value),
            };
            let origin = self.place(&key.span()).to_string();
            (name.clone().into_owned(), Value::new(Some(&origin), kind))
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

    fn is_faulty(&self, span: &Range<usize>) -> bool {
        let last = self.line(span.end.saturating_sub(1).max(span.start));
        let lines = self.line(span.start)..=last;
        self.faulty.iter().any(|line| lines.contains(line))
    }
}

fn is_list_of_tables(items: &[Spanned<DeValue<'_>>]) -> bool {
    items
        .iter()
        .any(|item| matches!(item.get_ref(), DeValue::Table(_)))
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
        let text = "[log]\nlevel = info\nformat = \"json\"\n[signaling]\nport = \nretries = 2\n\
                    [receive\nmode = \"ask\"\n[transfer]\nretention = 5\nretention = 6\n\
                    [device]\nname = \"open\ntype = \"mobile\"\n";
        let (table, slips) = parse("f", text);
        let lines: Vec<_> = slips.iter().filter_map(|slip| slip.place.line).collect();
        assert_eq!(lines, [2, 5, 7, 11, 13], "{slips:?}");
        let of = |section: &str, key: &str| {
            let section = table[section].clone().into_table().unwrap();
            section[key].kind.clone()
        };
        assert_eq!(of("log", "level"), ValueKind::Nil);
        assert_eq!(of("log", "format"), ValueKind::String("json".into()));
        assert_eq!(of("signaling", "port"), ValueKind::Nil);
        assert_eq!(of("signaling", "retries"), ValueKind::I64(2));
        assert_eq!(of("device", "type"), ValueKind::String("mobile".into()));
    }
}
