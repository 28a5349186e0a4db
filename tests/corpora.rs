//! The committed corpora of the fuzz targets, tried with the same functions that the fuzzer calls:
//! whatever has once crashed a decoder does not do so again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use handout::protocol;

#[path = "fuzz/src/targets.rs"]
mod targets;

fn below(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz")
        .join(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_input_of_the_corpora_passes() {
    let mut bytes = 0;
    for (name, target) in targets::ALL {
        let inputs = files(&below("corpus").join(name));
        assert!(
            (10..=100).contains(&inputs.len()),
            "{name} has {} inputs",
            inputs.len()
        );
        for input in inputs {
            let data = fs::read(&input).expect("a readable input");
            bytes += data.len();
            let passed = std::panic::catch_unwind(|| target(&data));
            assert!(passed.is_ok(), "{} crashes its target", input.display());
        }
    }
    assert!(bytes <= 300 * 1024, "the corpora have {bytes} bytes");
}

#[test]
fn every_target_is_in_the_list_and_has_its_program_and_its_corpus() {
    let listed: BTreeSet<_> = targets::ALL
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    let stems = |folder| -> BTreeSet<_> {
        let stem = |file: &PathBuf| file.file_stem().unwrap().to_string_lossy().into_owned();
        files(&below(folder)).iter().map(stem).collect()
    };
    assert_eq!(stems("src/bin"), listed);
    assert_eq!(stems("corpus"), listed);
}
