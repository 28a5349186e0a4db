//! What the table of limits in docs/SECURITY.md names is there: each constant with its value, each
//! key of the config file with its default, each test. So the table cannot rot unseen.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/SECURITY.md";
const SECTION: &str = "## What others cost us: the limits";

#[test]
fn every_constant_key_and_test_in_the_table_of_limits_is_there() {
    let page = read(PAGE).unwrap();
    let (_, section) = page.split_once(SECTION).expect("the section");
    let config = read("config/default.toml").unwrap();
    let (mut faults, mut rows) = (Vec::new(), 0);
    for line in section.lines().take_while(|line| !line.starts_with("## ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &["", what, limit, _, tests, ""] = &cells[..] else {
            continue;
        };
        if what == "what" || what.starts_with("---") {
            continue;
        }
        rows += 1;
        let found = (limits(limit, &config).into_iter()).chain(tests_of(tests));
        faults.extend(found.map(|fault| format!("{what}: {fault}")));
    }
    assert!(rows > 60, "only {rows} rows were understood");
    assert!(faults.is_empty(), "in {PAGE}:\n{}", faults.join("\n"));
}

#[test]
fn what_is_not_there_or_has_another_value_is_found() {
    let config = "[signaling]\nretries = 3\nbackoff = \"1s\"\n[receive]\nmax_files = 100000\n";
    for good in [
        "`protocol::framer::MAX_OBJECT` = 262,144; `signaling.retries` = 3",
        "`protocol::framer::MAX_OBJECT` = 256 KiB, and more words",
        "`dataplane::session::HANDSHAKE_LIMIT` = 10 s",
        "`signaling.backoff` = 1s, `receive.max_files` = 100,000, `net::signaling::Limits`",
    ] {
        assert_eq!(limits(good, config), [""; 0], "{good}");
    }
    for bad in [
        "`protocol::framer::MAX_OBJECTS` = 262,144",
        "`protocol::framer::MAX_OBJECT` = 262,145",
        "`protocol::frame::MAX_OBJECT` = 262,144",
        "`dataplane::session::HANDSHAKE_LIMIT` = 11 s",
        "`net::signaling::Limit`",
        "`signaling.retry` = 3",
        "`signaling.retries` = 4",
        "`signaling.max_files` = 100,000",
    ] {
        assert_eq!(limits(bad, config).len(), 1, "{bad}");
    }
    let framer = "protocol::framer::tests::depth_length_and_brackets_are_bounded_and_checked";
    let here = "tests/limits.rs:what_is_not_there_or_has_another_value_is_found";
    assert_eq!(
        tests_of(&format!("`{framer}`, `tests/lab/join.py`, `{here}`")),
        [""; 0]
    );
    for bad in [
        "`protocol::framer::tests::depth_length_and_brackets`",
        "`protocol::frame::tests::depth_length_and_brackets_are_bounded_and_checked`",
        "`tests/lab/joins.py`",
        "`tests/limits.rs:what_is_not_there`",
        "a test without a name",
        "",
    ] {
        assert_eq!(tests_of(bad).len(), 1, "{bad}");
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The faults of the cell that says what the limit is.
fn limits(cell: &str, config: &str) -> Vec<String> {
    let mut faults = Vec::new();
    // Between backticks stands a name, after it perhaps a value.
    let mut parts = cell.split('`').skip(1);
    while let (Some(name), Some(after)) = (parts.next(), parts.next()) {
        let said = after.strip_prefix(" = ").map(value_said);
        let last = name.rsplit("::").next().unwrap_or_default();
        let fault = if name.contains("::") && last.chars().any(char::is_lowercase) {
            let there = declared(name, "struct ").is_some();
            (!there).then(|| "there is no such struct".to_owned())
        } else if name.contains("::") {
            match declared(name, "const ") {
                None => Some("there is no such constant".to_owned()),
                Some(text) => said.and_then(|said| differs(&said, &expression(&text))),
            }
        } else if let Some((section, key)) = name.rsplit_once('.') {
            match default_of(config, section, key) {
                None => Some("there is no such key".to_owned()),
                Some(default) => said.and_then(|said| differs(&said, &default)),
            }
        } else {
            Some("neither a constant nor a key".to_owned())
        };
        faults.extend(fault.map(|fault| format!("{name}: {fault}")));
    }
    faults
}

/// The text after ` = ` up to where the value ends.
fn value_said(text: &str) -> String {
    let end = text.find([';', '(']).unwrap_or(text.len());
    let text = &text[..end];
    // A comma ends it, but not one between digits.
    let comma = text
        .char_indices()
        .find(|(at, c)| *c == ',' && !text[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    text[..comma.map_or(text.len(), |(at, _)| at)]
        .trim()
        .to_owned()
}

fn differs(said: &str, there: &str) -> Option<String> {
    let same = match (number(said), number(there)) {
        (Some(said), Some(there)) => said == there,
        // Not numbers that this can read: as long as the one begins like the other.
        _ => said.starts_with(there),
    };
    (!same).then(|| format!("it says {said:?}, and is {there:?}"))
}

/// A number with its unit, as bytes, seconds or a count: the first words of what is said.
fn number(text: &str) -> Option<u128> {
    let plain = text.replace([',', '_'], "");
    let digits = plain.find(|c: char| !c.is_ascii_digit());
    let (digits, rest) = plain.split_at(digits.unwrap_or(plain.len()));
    let factor = match rest.split_whitespace().next().unwrap_or_default() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "d" => 24 * 3600,
        _ => 1,
    };
    Some(digits.parse::<u128>().ok()? * factor)
}

/// The value of a constant, worked out where it is a product or a shift of numbers.
fn expression(text: &str) -> String {
    let text = text
        .trim_start_matches("Duration::from_secs(")
        .trim_end_matches(')');
    let mut product = text.split('*').map(|factor| {
        let mut shifts = factor.split("<<").map(|part| number(part.trim()));
        let first = shifts.next()??;
        shifts.try_fold(first, |value, by| value.checked_shl(by? as u32))
    });
    let value = product.try_fold(1u128, |all, factor| all.checked_mul(factor?));
    value.map_or(text.to_owned(), |value| value.to_string())
}

/// What follows the `=` of a declaration in a module, or its beginning.
fn declared(path: &str, word: &str) -> Option<String> {
    let (module, name) = path.rsplit_once("::")?;
    files_of(module).into_iter().find_map(|file| {
        let text = read(file)?;
        let line = text.lines().find(|line| {
            let after = line.split_once(word).map(|(_, after)| after);
            after.is_some_and(|after| {
                after.strip_prefix(name).is_some_and(|rest| {
                    !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                })
            })
        })?;
        let value = line.split_once(" = ").map_or(line, |(_, value)| value);
        Some(value.trim_end_matches(';').to_owned())
    })
}

/// The default of a key, without quotes.
fn default_of(config: &str, section: &str, key: &str) -> Option<String> {
    let (_, after) = config.split_once(&format!("[{section}]\n"))?;
    let mut lines = after.lines().take_while(|line| !line.starts_with('['));
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
    Some(value.trim_matches('"').to_owned())
}

/// The faults of the cell that names the tests.
fn tests_of(cell: &str) -> Vec<String> {
    if cell == "-" {
        return Vec::new();
    }
    let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        return vec![format!("{cell:?} names no test")];
    }
    let missing = names.into_iter().filter(|name| !is_test(name));
    missing
        .map(|name| format!("{name}: there is no such test"))
        .collect()
}

fn is_test(name: &str) -> bool {
    let Some((module, test)) = name.rsplit_once("::") else {
        // A script, or a test of its own binary, as `file:name`.
        let (file, test) = name.split_once(':').unwrap_or((name, ""));
        let named = format!("fn {test}(");
        return read(file).is_some_and(|text| test.is_empty() || text.contains(&named));
    };
    let function = format!("fn {test}(");
    let inline = module.strip_suffix("::tests");
    files_of(module).into_iter().any(|file| {
        // Tests may stand in the file of what they are about, after everything else.
        let text = read(&file).unwrap_or_default();
        let own = inline.is_none_or(|inline| !files_of(inline).contains(&file));
        match own {
            true => text.contains(&function),
            false => text
                .split_once("mod tests {")
                .is_some_and(|(_, tests)| tests.contains(&function)),
        }
    })
}

/// The files in which a module may stand.
fn files_of(module: &str) -> Vec<PathBuf> {
    let path = format!("src/{}", module.replace("::", "/"));
    let mut files = vec![format!("{path}.rs"), format!("{path}/mod.rs")];
    if let Some(parent) = path.strip_suffix("/tests") {
        files.extend([
            format!("{parent}_tests.rs"),
            format!("{parent}.rs"),
            format!("{parent}/mod.rs"),
        ]);
    }
    files.into_iter().map(PathBuf::from).collect()
}
