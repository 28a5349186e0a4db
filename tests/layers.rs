//! Imports go downwards only, and the protocol layer stays pure. The sources are read as text, so
//! the rule also holds for code that no test reaches.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer's height. A module uses itself and lower rows only; modules of one row do not know
/// each other. `lib.rs` and `main.rs` stand above all of them.
const HEIGHT: &[(&str, u8)] = &[
    ("protocol", 0),
    ("net", 1),
    ("content", 1),
    ("store", 1),
    ("config", 1),
    ("dataplane", 2),
    ("actors", 3),
    ("web", 4),
    ("rendezvous", 4),
    ("cli", 5),
];

/// What the protocol layer must not name outside its tests: runtimes, sockets, disks and clocks.
/// Each entry is a run of tokens.
const IMPURE: &[&[&str]] = &[
    &["tokio"],
    &["actix"],
    &["actix_rt"],
    &["webrtc"],
    &["mdns_sd"],
    &["sled"],
    &["cap_std"],
    &["rustix"],
    &["socket2"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["std", "::", "fs"],
    &["fs", "::"],
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
];

#[test]
fn imports_go_downwards_and_the_protocol_is_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.len() > 8, "found only {} source files", files.len());
    let mut faults = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable source file");
        let shown = file.strip_prefix(root).expect("under the package");
        faults.extend(check(shown.to_str().expect("an ASCII path"), &text));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn an_import_upwards_is_found_with_file_and_line() {
    let found = check(
        "src/net/tcp.rs",
        "//! Sockets.\nuse crate::protocol::id::DeviceId;\nuse crate::actors::Peer;\n",
    );
    assert_eq!(
        found,
        ["src/net/tcp.rs:3: `net` must not use `actors`: imports go downwards only"]
    );
}

#[test]
fn every_spelling_of_an_import_is_seen() {
    for planted in [
        "use crate::{protocol::id, cli::Args};",
        "use crate::{\n    protocol::{id, frame},\n    cli,\n};",
        "use super::super::cli;",
        "mod inner {\n    use super::super::super::cli;\n}",
        "fn f() { crate::cli::main(); }",
        "fn f() { let _ = \"}\"; let _ = '\\''; crate::cli::main(); }",
        "use handout::cli;",
        "use crate::*;",
    ] {
        let found = check("src/content/read.rs", planted);
        assert_eq!(found.len(), 1, "{planted}\n{found:?}");
    }
}

#[test]
fn siblings_do_not_know_each_other() {
    let found = check("src/store/mod.rs", "use crate::content::Reader;");
    assert_eq!(found.len(), 1);
    assert!(check("src/store/mod.rs", "use crate::store::Tree;").is_empty());
}

#[test]
fn clocks_sockets_and_disks_in_the_protocol_are_found() {
    for planted in [
        "fn f() { let _ = std::time::Instant::now(); }",
        "use std::fs;",
        "use std::{fmt, fs::File};",
        "use std::net::{IpAddr, UdpSocket};",
        "use tokio::time::sleep;",
        "fn f() -> u64 { SystemTime::now() }",
    ] {
        assert!(
            !check("src/protocol/id.rs", planted).is_empty(),
            "{planted}"
        );
        assert!(
            check("src/net/clock.rs", planted).is_empty(),
            "only the protocol layer is pure: {planted}"
        );
    }
}

#[test]
fn tests_in_a_file_of_their_own_may_name_clocks_when_they_are_declared_as_tests() {
    let clock = "fn f() { let _ = std::time::Instant::now(); }";
    assert!(check("src/protocol/id_tests.rs", clock).is_empty());
    assert!(!check("src/protocol/id_testing.rs", clock).is_empty());
    assert_eq!(check("src/protocol/id.rs", "mod id_tests;").len(), 1);
    for guarded in [
        "#[cfg(test)]\nmod id_tests;",
        "#[cfg(test)]\n#[path = \"id_tests.rs\"]\nmod tests;",
    ] {
        assert!(check("src/protocol/id.rs", guarded).is_empty(), "{guarded}");
    }
}

#[test]
fn comments_strings_and_inner_modules_are_no_imports() {
    for harmless in [
        "/// Not crate::cli, and no Instant::now().",
        "/* crate::cli /* nested */ tokio */",
        "const S: &str = \"crate::cli tokio\";",
        "const S: &str = r#\"use crate::cli; \"quoted\" tokio\"#;",
        "fn f<'a>(x: &'a str) -> char { 'x' }",
        "use std::time::Instant;",
        "#[cfg(test)]\nmod tests {\n    fn t() { let _ = std::time::Instant::now(); }\n}",
    ] {
        let found = check("src/protocol/id.rs", harmless);
        assert!(found.is_empty(), "{harmless}\n{found:?}");
    }
    // A child that is called like a layer is not that layer.
    assert!(
        check(
            "src/net/mod.rs",
            "use self::cli::X; mod a { use super::cli; }"
        )
        .is_empty()
    );
}

#[test]
fn a_new_top_level_module_must_be_given_a_place() {
    let found = check("src/pages/mod.rs", "use crate::actors::Hub;");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("tests/layers.rs"), "{found:?}");
}

/// All `.rs` files under a folder.
fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn height(module: &str) -> Option<u8> {
    HEIGHT.iter().find(|(m, _)| *m == module).map(|(_, h)| *h)
}

/// The faults of one source file, as `path:line: what`. The path begins with `src/`.
fn check(path: &str, text: &str) -> Vec<String> {
    let module_path = module_path(path);
    let Some(module) = module_path.first() else {
        return Vec::new(); // lib.rs and main.rs may use everything
    };
    let Some(own) = height(module) else {
        return vec![format!(
            "{path}:1: `{module}` has no place among the layers: give it one in tests/layers.rs"
        )];
    };
    let tokens = tokens(text);
    let mut faults = Vec::new();
    for (line, used) in imports(&tokens, module_path.len()) {
        if used == "*" {
            faults.push(format!(
                "{path}:{line}: a glob over the whole crate hides which layers are used"
            ));
        } else if used != *module && height(&used).is_some_and(|h| h >= own) {
            faults.push(format!(
                "{path}:{line}: `{module}` must not use `{used}`: imports go downwards only"
            ));
        }
    }
    if module == "protocol" && !is_test_file(path) {
        faults.extend(impurities(path, &tokens));
    }
    faults.extend(unguarded_test_files(path, &tokens));
    faults
}

/// Tests may stand in a file of their own, `tests.rs` or `…_tests.rs`.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// Declarations of such files that are not under `#[cfg(test)]`: they would be product code that
/// the rules for tests apply to.
fn unguarded_test_files(path: &str, tokens: &[Token]) -> Vec<String> {
    let guard = ["#", "[", "cfg", "(", "test", ")", "]"];
    let path_attribute = ["#", "[", "path", "=", "]"]; // its string is no token
    let ends_with = |tokens: &[Token], words: &[&str]| {
        tokens.len() >= words.len()
            && (tokens[tokens.len() - words.len()..].iter().zip(words)).all(|(t, w)| t.text == *w)
    };
    let mut faults = Vec::new();
    for (at, window) in tokens.windows(3).enumerate() {
        let [declares, name, end] = window else {
            continue;
        };
        let of_tests = name.text == "tests" || name.text.ends_with("_tests");
        if declares.text != "mod" || end.text != ";" || !of_tests {
            continue;
        }
        let mut before = &tokens[..at];
        if ends_with(before, &path_attribute) {
            before = &before[..before.len() - path_attribute.len()];
        }
        if !ends_with(before, &guard) {
            let (line, name) = (name.line, &name.text);
            faults.push(format!(
                "{path}:{line}: `mod {name};` wants `#[cfg(test)]` before it, as its name says tests"
            ));
        }
    }
    faults
}

fn impurities(path: &str, tokens: &[Token]) -> Vec<String> {
    let tests = test_modules(tokens);
    let mut faults = Vec::new();
    for start in 0..tokens.len() {
        if tests.iter().any(|range| range.contains(&start)) {
            continue;
        }
        let named = IMPURE.iter().find(|words| {
            words.len() <= tokens.len() - start
                && words
                    .iter()
                    .zip(&tokens[start..])
                    .all(|(w, t)| *w == t.text)
        });
        if let Some(words) = named {
            let (line, words) = (tokens[start].line, words.concat());
            faults.push(format!(
                "{path}:{line}: `protocol` is pure and must not name `{words}`"
            ));
        }
    }
    faults
}

/// `src/net/tcp.rs` is `[net, tcp]`, `src/net/mod.rs` is `[net]`, `src/lib.rs` is `[]`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").expect("a path under src/");
    let mut parts: Vec<String> = inner
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if parts.last().is_some_and(|last| last == "mod") || matches!(inner, "lib.rs" | "main.rs") {
        parts.pop();
    }
    parts
}

/// Every top-level module that the file names, with the line: through `crate::`, through the
/// crate's own name, and through enough `super::` to arrive at the root.
fn imports(tokens: &[Token], depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut blocks: Vec<bool> = Vec::new(); // for each open brace: is it a module's?
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" => blocks.push(at >= 2 && tokens[at - 2].text == "mod"),
            "}" => {
                blocks.pop();
            }
            "crate" | "handout" if next_is(tokens, at + 1, "::") => {
                heads(tokens, at + 2, &mut found);
                at += 1;
            }
            "super" => {
                let mut supers = 1;
                while next_is(tokens, at + 1, "::") && next_is(tokens, at + 2, "super") {
                    supers += 1;
                    at += 2;
                }
                let here = depth + blocks.iter().filter(|is_module| **is_module).count();
                if supers >= here && next_is(tokens, at + 1, "::") {
                    heads(tokens, at + 2, &mut found);
                    at += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn next_is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|t| t.text == text)
}

/// The first names of a path or of each path in a group, `a::b` or `{a::b, c}`.
fn heads(tokens: &[Token], at: usize, found: &mut Vec<(usize, String)>) {
    if !next_is(tokens, at, "{") {
        found.extend(tokens.get(at).map(|t| (t.line, t.text.clone())));
        return;
    }
    let mut depth = 0;
    let mut expects_name = true;
    for token in &tokens[at..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => expects_name = depth == 1,
            _ if expects_name && depth == 1 => {
                found.push((token.line, token.text.clone()));
                expects_name = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

/// Where the `#[cfg(test)] mod … { }` blocks are, as ranges of tokens.
fn test_modules(tokens: &[Token]) -> Vec<std::ops::Range<usize>> {
    let opening = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut ranges = Vec::new();
    for start in 0..tokens.len().saturating_sub(opening.len()) {
        if !opening
            .iter()
            .zip(&tokens[start..])
            .all(|(w, t)| *w == t.text)
        {
            continue;
        }
        let mut depth = 0;
        for (i, token) in tokens.iter().enumerate().skip(start) {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if token.text == "}" && depth == 0 {
                ranges.push(start..i);
                break;
            }
        }
    }
    ranges
}

struct Token {
    line: usize,
    text: String,
}

/// Words, `::` and single signs; no comments, strings, characters or lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let is = |at: usize, c: char| chars.get(at) == Some(&c);
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut at) = (Vec::new(), 0);
    let mut line = 1;
    while at < chars.len() {
        let start = at;
        let first = chars[at];
        let mut keep = false;
        if first == '/' && is(at + 1, '/') {
            while at < chars.len() && !is(at, '\n') {
                at += 1;
            }
        } else if first == '/' && is(at + 1, '*') {
            let mut depth = 0;
            while at < chars.len() {
                if is(at, '/') && is(at + 1, '*') {
                    depth += 1;
                    at += 2;
                } else if is(at, '*') && is(at + 1, '/') {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    at += 1;
                }
            }
        } else if let Some(end) = raw_string_end(&chars, at) {
            at = end;
        } else if first == '"' {
            at += 1;
            while at < chars.len() && !is(at, '"') {
                at += if is(at, '\\') { 2 } else { 1 };
            }
            at += 1;
        } else if first == '\'' && is(at + 1, '\\') {
            at += 3; // the quote, the backslash and the sign after it
            while at < chars.len() && !is(at, '\'') {
                at += 1;
            }
            at += 1;
        } else if first == '\'' && is(at + 2, '\'') {
            at += 3;
        } else if word(first) {
            while at < chars.len() && word(chars[at]) {
                at += 1;
            }
            keep = true;
        } else if first == ':' && is(at + 1, ':') {
            at += 2;
            keep = true;
        } else {
            at += 1;
            keep = !first.is_whitespace() && first != '\'';
        }
        let piece = &chars[start..at.min(chars.len())];
        if keep {
            out.push(Token {
                line,
                text: piece.iter().collect(),
            });
        }
        line += piece.iter().filter(|c| **c == '\n').count();
    }
    out
}

/// Where a raw string that begins here ends, or nothing if none begins here.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let mut open = at + usize::from(matches!(chars[at], 'b' | 'c'));
    if chars.get(open) != Some(&'r') {
        return None;
    }
    open += 1;
    let hashes = chars[open..].iter().take_while(|c| **c == '#').count();
    if chars.get(open + hashes) != Some(&'"') {
        return None;
    }
    let body = open + hashes + 1;
    let end = (body..chars.len()).find(|&i| {
        chars[i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    });
    Some(end.map_or(chars.len(), |quote| quote + 1 + hashes))
}
