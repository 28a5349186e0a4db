//! The lists of tests/removals.py fit the code: each pattern stands where it says, once, and the
//! test that must notice is there. A pattern that no longer fits tries nothing.

use std::fs;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// The text of a key that must be there.
fn text<'a>(table: &'a DeTable<'_>, key: &str) -> &'a str {
    let found = table.get(key).and_then(|value| value.get_ref().as_str());
    found.unwrap_or_else(|| panic!("{key} is left out"))
}

/// The items of a list; none where it is left out.
fn items<'a>(table: &'a DeTable<'_>, key: &str) -> impl Iterator<Item = &'a DeValue<'a>> {
    let list = table.get(key).and_then(|value| value.get_ref().as_array());
    list.into_iter()
        .flat_map(|items| items.iter())
        .map(|item| item.get_ref())
}

/// All files below a folder.
fn files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn every_pattern_stands_in_the_code_once_and_its_test_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut lists, mut sources) = (Vec::new(), Vec::new());
    files(&root.join("tests/removals"), &mut lists);
    files(&root.join("src"), &mut sources);
    files(&root.join("tests"), &mut sources);
    let (mut wrong, mut checks) = (Vec::new(), 0);
    for list in lists {
        let list = fs::read_to_string(&list).unwrap();
        let list = DeTable::parse(&list).unwrap();
        for removal in items(list.get_ref(), "removal") {
            let removal = removal.as_table().unwrap();
            let check = text(removal, "check");
            let mut places = vec![(text(removal, "file"), text(removal, "old"))];
            for place in items(removal, "more") {
                let place = place.as_array().unwrap();
                let part = |n: usize| place[n].get_ref().as_str().unwrap();
                places.push((part(0), part(1)));
            }
            for (file, old) in places {
                let code = fs::read_to_string(root.join(file)).unwrap_or_default();
                let count = code.matches(old).count();
                if count != 1 {
                    wrong.push(format!("{check}: {count} places look like it in {file}"));
                }
            }
            let test = text(removal, "test");
            let (module, name) = test.rsplit_once("::").unwrap();
            let layer = module.split("::").next().unwrap();
            let layer = match layer.starts_with("tests/") {
                true => root.join(layer),
                false => root.join("src").join(layer),
            };
            let named = format!("fn {name}(");
            let mut here = sources.iter().filter(|source| source.starts_with(&layer));
            if !here.any(|source| fs::read_to_string(source).unwrap().contains(&named)) {
                wrong.push(format!("{check}: there is no test {test}"));
            }
            checks += 1;
        }
    }
    assert!(checks > 200, "only {checks} checks were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
