//! The contestants: what they must do, and how a run is measured, the same for all.

mod carrier;
mod handout;
mod process;
mod quic;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use process::Usage;

/// The first argument of a process that this program started as its own sender or receiver.
pub const ROLE: &str = "--role";

/// What is to be moved.
pub struct Job<'a> {
    /// The file.
    pub source: &'a Path,
    /// How many processes each get all of it.
    pub receivers: usize,
    /// Where everything of this run is written.
    pub folder: &'a Path,
}

/// What a run took.
pub struct Outcome {
    /// From the first byte at any receiver until the last one has its file.
    pub data: Duration,
    /// From the start of the sender's process until the last receiver has its file.
    pub wall: Duration,
    /// Of the sender's process.
    pub sender: Usage,
    /// CPU of all receivers together, memory of the largest.
    pub receivers: Usage,
    /// What arrived.
    pub files: Vec<PathBuf>,
}

impl Outcome {
    /// MB/s for this many bytes, from the first one on.
    pub fn rate(&self, bytes: u64) -> f64 {
        bytes as f64 / 1e6 / self.data.as_secs_f64()
    }
}

/// Something that moves a file from one process to others.
pub trait Contestant {
    /// For the table and the command line.
    fn name(&self) -> &'static str;
    /// Moves it once; an error is for people.
    fn run(&self, job: &Job<'_>) -> Result<Outcome, String>;
}

/// Everyone, the reference first.
pub fn all() -> Vec<Box<dyn Contestant>> {
    vec![
        Box::new(carrier::Rival { carrier: "quic" }),
        Box::new(carrier::Rival { carrier: "tls" }),
        Box::new(handout::Handout),
    ]
}

/// Is the sender or a receiver of a rival: `sender CARRIER FOLDER SOURCE N`, or
/// `receiver CARRIER FOLDER TARGET PORT`.
pub fn play(arguments: &[String]) -> Result<(), String> {
    let [role, carrier, folder, file, number] = arguments else {
        return Err(format!("{ROLE} takes 5 arguments, not {arguments:?}"));
    };
    let (folder, file) = (Path::new(folder), Path::new(file));
    let number: u16 = number
        .parse()
        .map_err(|_| format!("not a number: {number}"))?;
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    runtime
        .block_on(async {
            match (role.as_str(), carrier.as_str()) {
                ("sender", "quic") => quic::send(folder, file, number).await,
                ("receiver", "quic") => quic::receive(folder, file, number).await,
                ("sender", "tls") => tls::send(folder, file, number).await,
                ("receiver", "tls") => tls::receive(folder, file, number).await,
                _ => Err(format!("no {role} for {carrier}").into()),
            }
        })
        .map_err(|e: carrier::Error| format!("{carrier} {role}: {e}"))
}
