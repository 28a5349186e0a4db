//! How fast one machine feeds many, against the best that the same machine does without WebRTC.
//!
//! `cargo bench` moves a file from one process to 1, 4 and 8 others over loopback: through QUIC
//! (quinn), through TLS on TCP (rustls), and through the program itself. Each contestant reads the
//! same file and writes to the same kind of folder; what arrived is checked after the clock stops.
//!
//! ```text
//! cargo bench --bench link -- [--size MIB] [--receivers 1,4,8] [--dir FOLDER] [NAME...]
//! ```
//! `HANDOUT_BENCH_MIB` is another way to say `--size` (1024); `HANDOUT` names another program to run
//! in place of the one that was just built.

mod rivals;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rivals::{Contestant, Job, Outcome, Usage};

const MIB: u64 = 1 << 20;
const GIB: f64 = (1u64 << 30) as f64;
const REFERENCE: &str = "quic";

struct Options {
    size: u64,
    receivers: Vec<usize>,
    folder: Option<PathBuf>,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = if arguments.first().is_some_and(|a| a == rivals::ROLE) {
        arguments.remove(0);
        rivals::play(&arguments)
    } else {
        options(arguments).and_then(|options| race(&options))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: Vec<String>) -> Result<Options, String> {
    let mut options = Options {
        size: 1024,
        receivers: vec![1, 4, 8],
        folder: None,
        names: Vec::new(),
    };
    if let Ok(size) = std::env::var("HANDOUT_BENCH_MIB") {
        options.size = number(&size)?;
    }
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => {} // cargo adds it
            "--size" => options.size = number(&value()?)?,
            "--receivers" => {
                options.receivers = value()?.split(',').map(number).collect::<Result<_, _>>()?;
            }
            "--dir" => options.folder = Some(value()?.into()),
            name if !name.starts_with('-') => options.names.push(argument),
            unknown => return Err(format!("unknown option {unknown}")),
        }
    }
    Ok(options)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// Runs every contestant for every number of receivers and prints the table.
fn race(options: &Options) -> Result<(), String> {
    // Memory, where there is some: the contest is about moving bytes, not about this machine's disk.
    let shm = Path::new("/dev/shm");
    let parent = match &options.folder {
        Some(folder) => folder.clone(),
        None if shm.is_dir() => shm.to_owned(),
        None => std::env::temp_dir(),
    };
    let folder = tempfile::Builder::new()
        .prefix("handout-bench-")
        .tempdir_in(&parent)
        .map_err(|e| format!("{}: {e}", parent.display()))?;
    let source = folder.path().join("source.bin");
    let wanted = make_file(&source, options.size).map_err(|e| format!("the source file: {e}"))?;

    println!(
        "{} MiB to each receiver, in {}",
        options.size,
        parent.display()
    );
    println!(
        "{:<8} {:>2} {:>8} {:>10} {:>7} {:>11} {:>11} {:>10} {:>10}",
        "", "N", "MB/s", "from start", "x quic", "sender", "receivers", "sender", "receiver"
    );
    println!(
        "{:<8} {:>2} {:>8} {:>10} {:>7} {:>11} {:>11} {:>10} {:>10}",
        "", "", "in all", "MB/s", "", "CPU s/GiB", "CPU s/GiB", "peak MB", "peak MB"
    );
    let mut failures = Vec::new();
    for &receivers in &options.receivers {
        let mut reference = None;
        for contestant in rivals::all() {
            let name = contestant.name();
            if !options.names.is_empty() && !options.names.iter().any(|n| n == name) {
                continue;
            }
            match run(
                contestant.as_ref(),
                &source,
                receivers,
                folder.path(),
                &wanted,
            ) {
                Ok(outcome) => {
                    let rate = outcome.rate(receivers as u64 * options.size * MIB);
                    if name == REFERENCE {
                        reference = Some(rate);
                    }
                    print_row(name, receivers, options.size, &outcome, reference);
                }
                Err(why) => {
                    println!("{name:<8} {receivers:>2} failed: {why}");
                    failures.push(name);
                }
            }
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failures.join(", ")))
    }
}

/// One run in a folder of its own, with what arrived compared to what was sent.
fn run(
    contestant: &dyn Contestant,
    source: &Path,
    receivers: usize,
    folder: &Path,
    wanted: &blake3::Hash,
) -> Result<Outcome, String> {
    let own = tempfile::tempdir_in(folder).map_err(|e| e.to_string())?;
    let outcome = contestant.run(&Job {
        source,
        receivers,
        folder: own.path(),
    })?;
    for file in &outcome.files {
        let got = hash(file).map_err(|e| format!("{}: {e}", file.display()))?;
        if got != *wanted {
            return Err(format!("{} differs from what was sent", file.display()));
        }
    }
    Ok(outcome)
}

fn print_row(name: &str, receivers: usize, size: u64, outcome: &Outcome, reference: Option<f64>) {
    let bytes = receivers as u64 * size * MIB;
    let per_gib = |usage: &Usage| usage.cpu.as_secs_f64() / (bytes as f64 / GIB);
    println!(
        "{name:<8} {receivers:>2} {:>8.0} {:>10.0} {:>7} {:>11.2} {:>11.2} {:>10.0} {:>10.0}",
        outcome.rate(bytes),
        bytes as f64 / 1e6 / outcome.wall.as_secs_f64(),
        reference.map_or("-".to_owned(), |r| format!(
            "{:.2}",
            outcome.rate(bytes) / r
        )),
        per_gib(&outcome.sender),
        per_gib(&outcome.receivers),
        outcome.sender.peak as f64 / 1e6,
        outcome.receivers.peak as f64 / 1e6,
    );
}

/// A file of random bytes; gives their hash.
fn make_file(path: &Path, mib: u64) -> std::io::Result<blake3::Hash> {
    let (mut file, mut hasher) = (File::create(path)?, blake3::Hasher::new());
    let mut block = vec![0; MIB as usize];
    for _ in 0..mib {
        getrandom::fill(&mut block).map_err(|e| std::io::Error::other(e.to_string()))?;
        hasher.update(&block);
        file.write_all(&block)?;
    }
    Ok(hasher.finalize())
}

fn hash(path: &Path) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}
