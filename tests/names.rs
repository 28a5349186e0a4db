//! Names from hostile devices, on their whole way: from the bytes of a bundle's head through the
//! sink to the disk. Each is refused before anything is written, or it lies in the destination
//! under exactly its path. Around the destination are things that must stay as they are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use handout::content::{Sink, SinkError};
use handout::protocol::id::TransferId;
use handout::protocol::identity::Identity;
use handout::protocol::manifest::{
    ChunkHash, Head, HeadError, MAX_ENTRIES, Page, bundle_id, page_digest, page_statement, root_of,
    root_statement,
};
use handout::protocol::names::{BundlePath, Conflict};
use handout::protocol::policy::Collision;

const CONTENT: &[u8] = b"came over the wire";

/// A destination deep in a folder of things that are no business of any sender.
struct Place {
    base: tempfile::TempDir,
    before: BTreeMap<PathBuf, Thing>,
}

/// Everything about a file or folder that somebody could change.
#[derive(Debug, PartialEq, Eq)]
struct Thing {
    mode: u32,
    modified: (i64, i64),
    content: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        // In memory where there is such a place: nothing here depends on what a disk does.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let base = base.expect("a folder");
        let at = base.path();
        for folder in ["", "1", "1/2", "1/2/3"] {
            let folder = at.join(folder);
            fs::create_dir_all(folder.join("etc")).expect("a folder");
            for file in ["x", "a", "passwd", "etc/passwd", ".profile", "dest.txt"] {
                fs::write(folder.join(file), "not yours").expect("a file");
            }
        }
        let mut place = Self {
            before: BTreeMap::new(),
            base,
        };
        fs::create_dir(place.dest()).expect("a folder");
        place.before = place.around();
        place
    }

    fn dest(&self) -> PathBuf {
        self.base.path().join("1/2/3/dest")
    }

    /// All that is around the destination; the destination's own times are its own business.
    fn around(&self) -> BTreeMap<PathBuf, Thing> {
        let mut things = BTreeMap::new();
        walk(self.base.path(), &self.dest(), &mut |path, meta| {
            let content = if meta.is_file() {
                fs::read(path).expect("a file that can be read")
            } else {
                Vec::new()
            };
            let thing = Thing {
                mode: meta.mode(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                content,
            };
            things.insert(path.to_owned(), thing);
        });
        things
    }

    fn assert_untouched(&self, by: &str) {
        assert!(self.around() == self.before, "{by} got out");
    }

    /// The bytes of the paths of all files and folders in the destination, relative to it.
    fn inside(&self) -> Vec<(Vec<u8>, bool)> {
        let (dest, mut found) = (self.dest(), Vec::new());
        walk(&dest, Path::new(""), &mut |path, meta| {
            let path = path.strip_prefix(&dest).expect("below it");
            found.push((path.as_os_str().as_bytes().to_vec(), meta.is_file()));
        });
        found.sort();
        found
    }

    /// Empties the destination.
    fn clear(&self) {
        for entry in fs::read_dir(self.dest()).expect("a folder") {
            let path = entry.expect("an entry").path();
            let removed = match fs::symlink_metadata(&path).expect("something").is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.expect("removed");
        }
    }
}

fn walk(at: &Path, except: &Path, seen: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(at).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path == except {
            continue;
        }
        let meta = fs::symlink_metadata(&path).expect("something");
        seen(&path, &meta);
        if meta.is_dir() {
            walk(&path, except, seen);
        }
    }
}

/// What a head may call this way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum As {
    /// A file of a folder bundle.
    Entry,
    /// An empty folder of a folder bundle.
    Folder,
    /// The bundle: a file.
    File,
    /// The bundle: a folder with one file in it.
    Tree,
}

const ALL: [As; 4] = [As::Entry, As::Folder, As::File, As::Tree];

/// A head as a sender may write it; `names` are what stands between quotes.
fn head(what: As, names: &[&[u8]]) -> Vec<u8> {
    let quoted = |name: &[u8]| [b"\"", name, b"\""].concat();
    let file = |name: &[u8]| {
        let size = format!(",\"size\":{}}}", CONTENT.len());
        [b"{\"path\":", &quoted(name)[..], size.as_bytes()].concat()
    };
    let (name, kind) = match what {
        As::Entry | As::Folder => (&b"bundle"[..], "folder"),
        As::File => (names[0], "file"),
        As::Tree => (names[0], "folder"),
    };
    let files: Vec<_> = match what {
        As::Entry | As::File => names.iter().map(|name| file(name)).collect(),
        As::Folder => Vec::new(),
        As::Tree => vec![file(b"inner")],
    };
    let dirs: Vec<_> = match what {
        As::Folder => names.iter().map(|name| quoted(name)).collect(),
        _ => Vec::new(),
    };
    [
        b"{\"v\":1,\"name\":",
        &quoted(name)[..],
        format!(",\"kind\":\"{kind}\",\"chunk_size\":65536,\"files\":[").as_bytes(),
        &files.join(&b','),
        b"],\"dirs\":[",
        &dirs.join(&b','),
        b"]}",
    ]
    .concat()
}

/// Receives a bundle whose files all have [`CONTENT`], from a sender that signs whatever it likes.
fn receive(dest: &Path, head: &[u8]) -> Result<PathBuf, SinkError> {
    let origin = Identity::from_seed(&[4; 32]);
    let (id, key) = (origin.device_id(), origin.public_key());
    let mut sink = Sink::open(dest, &id, &key, TransferId([5; 16]), head)?;
    let bundle = bundle_id(head);
    let mut digests = Vec::new();
    for number in 0..sink.layout().page_count() {
        let chunks = sink.layout().page_chunks(number);
        let hashes = chunks.map(|_| ChunkHash::of(CONTENT)).collect();
        let page = Page { number, hashes }.encode();
        digests.push(page_digest(&page));
        let signature = origin.sign(&page_statement(&bundle, number, &page_digest(&page)));
        sink.put_page(number, &page, &signature)?;
    }
    for index in 0..sink.layout().chunk_count() {
        sink.write_chunk(index, CONTENT)?;
    }
    let root = root_of(&bundle, digests);
    sink.check_root(&root, &origin.sign(&root_statement(&bundle, &root)))?;
    Ok(sink.finish(Collision::KeepBoth)?.path)
}

/// The head is refused, nothing is written, and the reason is harmless to read.
fn assert_refused(place: &Place, head: &[u8], by: &str) -> HeadError {
    let refused = match receive(&place.dest(), head) {
        Err(SinkError::Head(refused)) => refused,
        Err(other) => panic!("{by}: {other}"),
        Ok(at) => panic!("{by} lies at {at:?}"),
    };
    let said = refused.to_string();
    let harmful = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}');
    assert!(!said.chars().any(harmful), "{by}: {said:?}");
    assert!(place.inside().is_empty(), "{by} left something");
    refused
}

/// It comes, and lies in the destination under exactly these paths.
fn assert_placed(place: &Place, what: As, names: &[&str], head: &[u8], by: &str) {
    let finished = receive(&place.dest(), head).unwrap_or_else(|error| panic!("{by}: {error}"));
    let mut expected: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    for name in names {
        let (path, is_file) = match what {
            As::Entry => (format!("bundle/{name}"), true),
            As::Folder => (format!("bundle/{name}"), false),
            As::File => ((*name).to_owned(), true),
            As::Tree => (format!("{name}/inner"), true),
        };
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        expected.extend(parents.map(|parent| (parent.as_bytes().to_vec(), false)));
        if is_file {
            let content = fs::read(place.dest().join(&path));
            assert_eq!(content.expect("the file"), CONTENT, "{by}");
        }
        expected.insert(path.into_bytes(), is_file);
    }
    let expected: Vec<_> = expected.into_iter().collect();
    assert!(place.inside() == expected, "{by}: {:?}", place.inside());
    assert_eq!(finished.parent(), Some(&*place.dest()), "{by}");
    place.clear();
}

/// What stands in the corpus, as bytes of a JSON text: only `\xHH` is the corpus's own.
fn json_bytes(written: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), written);
    while let Some(at) = rest.find('\\') {
        out.extend(&rest.as_bytes()[..at]);
        let byte = rest
            .get(at + 2..at + 4)
            .filter(|_| rest[at + 1..].starts_with('x'));
        let byte = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let taken = if let Some(byte) = byte {
            out.push(byte);
            at + 4
        } else {
            let next = rest[at + 1..].chars().next().map_or(0, char::len_utf8);
            out.extend(&rest.as_bytes()[at..at + 1 + next]);
            at + 1 + next
        };
        rest = &rest[taken..];
    }
    out.extend(rest.as_bytes());
    out
}

/// The name that a JSON reader makes of it, if any.
fn name_of(json: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", json, b"\""].concat()).ok()
}

#[test]
fn each_of_a_thousand_hostile_names_is_refused_or_lies_exactly_where_it_says() {
    let corpus = include_str!("names.txt");
    let place = Place::new();
    let (mut refused, mut taken, mut classes) = (0, 0, 0);
    for (number, line) in (1..).zip(corpus.lines()) {
        classes += usize::from(line.starts_with("# "));
        let Some((verdict, rest)) = line.split_once('\t') else {
            assert!(line.is_empty() || line.starts_with('#'), "line {number}");
            continue;
        };
        let by = &format!("tests/names.txt:{number}: {line}");
        let json: Vec<Vec<u8>> = rest.split('\t').map(json_bytes).collect();
        let json: Vec<&[u8]> = json.iter().map(Vec::as_slice).collect();
        let names: Vec<Option<String>> = json.iter().map(|json| name_of(json)).collect();
        let names: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
        match (verdict, json.len(), names.len()) {
            ("-", 1, _) => {
                refused += 1;
                assert!(
                    names.iter().all(|name| BundlePath::new(*name).is_err()),
                    "{by}"
                );
                for what in ALL {
                    assert_refused(&place, &head(what, &json), by);
                }
            }
            ("+", 1, 1) => {
                taken += 1;
                let single = BundlePath::single(names[0]).is_ok();
                assert_eq!(single, !names[0].contains('/'), "{by}");
                for what in ALL {
                    let head = head(what, &json);
                    if single || matches!(what, As::Entry | As::Folder) {
                        assert_placed(&place, what, &names, &head, by);
                    } else {
                        assert_refused(&place, &head, by);
                    }
                }
            }
            ("=", 2, 2) => {
                taken += 2;
                let head = head(As::Entry, &json);
                assert_placed(&place, As::Entry, &names, &head, by);
            }
            ("~", 2, 2) => {
                refused += 1;
                for name in &names {
                    assert!(BundlePath::new(*name).is_ok(), "{by}");
                }
                for what in [As::Entry, As::Folder] {
                    // A folder may be named by itself and as part of a path.
                    let nested = |a: &str, b: &str| b.starts_with(&format!("{a}/"));
                    if what == As::Folder
                        && (nested(names[0], names[1]) || nested(names[1], names[0]))
                    {
                        continue;
                    }
                    for pair in [[json[0], json[1]], [json[1], json[0]]] {
                        let error = assert_refused(&place, &head(what, &pair), by);
                        assert!(matches!(error, HeadError::Conflict { .. }), "{by}: {error}");
                    }
                }
            }
            _ => panic!("{by}: no such line can be"),
        }
        place.assert_untouched(by);
    }
    assert!(
        refused >= 1000 && taken >= 300 && classes >= 20,
        "{refused}, {taken}, {classes}"
    );
}

/// Paths made of what attackers use, and of anything.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(vec![
            "..", ".", "", "...", "..\\", "\\", "C:", "c:\\", "~", "NUL", "com1", "LPT³", "aux.txt",
            ".handout", ".Handout", "HANDOU~1", "a.", "a ", " a", "x:y", "\0", "\u{1b}[2J", "\u{202e}",
            ".\u{200b}.", "%2e%2e", "etc", "passwd", "x", "\u{e9}", "e\u{301}", "ß", "SS", "\u{ff0f}",
        ]).prop_map(str::to_owned),
        2 => "[a-zA-Z0-9._ -]{1,12}",
        1 => any::<String>(),
        1 => "[a-z]{200,300}",
    ];
    let separator = prop::sample::select(vec!["/", "/", "/", "\\", "//", ""]);
    let more = prop::collection::vec((separator, part.clone()), 0..8);
    (prop::bool::weighted(0.1), part, more).prop_map(|(absolute, first, more)| {
        let mut path = if absolute { "/" } else { "" }.to_owned() + &first;
        path.extend(
            more.into_iter()
                .flat_map(|(between, part)| [between.to_owned(), part]),
        );
        path
    })
}

/// What this system takes for an ordinary name may lead out on another: there `\\` parts folders,
/// `:` begins a stream or ends a drive, and dots and spaces at the end are dropped.
fn assert_tame_on_windows(path: &str) {
    let wild = |c: char| matches!(c, '\\' | ':') || c.is_control();
    assert!(!path.contains(wild), "{path:?}");
    for part in path.split('/') {
        assert_eq!(part.trim_end_matches(['.', ' ']), part, "{path:?}");
    }
}

#[test]
fn no_path_of_any_kind_gets_out_of_the_destination() {
    let place = Place::new();
    let mut config = ProptestConfig::with_cases(2000);
    config.failure_persistence = None;
    let mut runner = prop::test_runner::TestRunner::new(config);
    let taken = std::cell::Cell::new(0);
    let outcome = runner.run(&hostile(), |path| {
        let quoted = serde_json::to_vec(&path).expect("text");
        let json = &quoted[1..quoted.len() - 1];
        let by = &format!("{path:?}");
        if BundlePath::new(&*path).is_ok() {
            taken.set(taken.get() + 1);
            assert_tame_on_windows(&path);
            assert_placed(&place, As::Entry, &[&path], &head(As::Entry, &[json]), by);
        } else {
            for what in ALL {
                assert_refused(&place, &head(what, &[json]), by);
            }
        }
        place.assert_untouched(by);
        Ok(())
    });
    outcome.expect("no escape");
    assert!(
        taken.get() > 100,
        "only {} paths were tried on the disk",
        taken.get()
    );
}

/// A head with so many files in folders of a hundred, which count too.
fn crowd(entries: usize) -> Vec<u8> {
    let (mut files, mut left, mut folder) = (Vec::new(), entries, 0);
    while left > 1 {
        let here = (left - 1).min(100);
        files.extend((0..here).map(|n| format!("{{\"path\":\"{folder}/{n}\",\"size\":0}}")));
        (left, folder) = (left - 1 - here, folder + 1);
    }
    let dirs = if left == 1 { "\"last\"" } else { "" };
    let files = files.join(",");
    format!(
        "{{\"v\":1,\"name\":\"crowd\",\"kind\":\"folder\",\"chunk_size\":65536,\
         \"files\":[{files}],\"dirs\":[{dirs}]}}"
    )
    .into_bytes()
}

#[test]
fn a_bundle_of_100_000_entries_arrives_and_one_more_is_too_many() {
    assert_eq!(MAX_ENTRIES, 100_000);
    let place = Place::new();
    let refused = assert_refused(&place, &crowd(MAX_ENTRIES + 1), "one entry too many");
    let too_many = |error: &HeadError| {
        matches!(
            error,
            HeadError::Conflict {
                source: Conflict::TooMany,
                ..
            }
        )
    };
    assert!(too_many(&refused), "{refused}");
    // As a list that is too long in itself, of files and of folders.
    for list in ["files", "dirs"] {
        let entries = (0..=MAX_ENTRIES).map(|n| match list {
            "files" => format!("{{\"path\":\"{n}\",\"size\":0}}"),
            _ => format!("\"{n}\""),
        });
        let entries = entries.collect::<Vec<_>>().join(",");
        let other = if list == "files" { "dirs" } else { "files" };
        let head = format!(
            "{{\"v\":1,\"name\":\"crowd\",\"kind\":\"folder\",\"chunk_size\":65536,\
             \"{list}\":[{entries}],\"{other}\":[]}}"
        );
        // While it is being read: a list without end must not fill the memory.
        let error = assert_refused(&place, head.as_bytes(), list);
        assert!(matches!(error, HeadError::Malformed(_)), "{error}");
    }
    let whole = crowd(MAX_ENTRIES);
    let read = Head::decode(&whole).expect("as many as may be");
    receive(&place.dest(), &whole).expect("it arrives");
    let inside = place.inside();
    assert_eq!(
        inside.len(),
        MAX_ENTRIES + 1,
        "with the bundle's own folder"
    );
    assert_eq!(
        inside.iter().filter(|(_, file)| *file).count(),
        read.files.len()
    );
    place.assert_untouched("a crowd");
}
