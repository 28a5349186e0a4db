//! One file by the plain dialect (PROTOCOL.md §19), in either direction. Nothing here is verified:
//! whoever shows what came of it says so.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::time::timeout;

use super::{Pacer, Progress};
use crate::content::{Download, SinkError};
use crate::net::link::{Incoming, LinkError};
use crate::net::plain::PlainChannel;
use crate::protocol::allowance::Lane;
use crate::protocol::names::safe_component;
use crate::protocol::plain::{PIECE, PlainError, PlainText, Reception, Size, Step};
use crate::protocol::policy::{Collision, Refusal, Terms};

/// Bytes that are read, and written, at a time.
const BLOCK: usize = 1 << 20;

/// The least that the other side must take, in bytes for each second that it lets us wait.
const LEAST: u64 = 1024;
/// Over how much waiting that is looked at.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a file did not come over, or go over.
#[derive(Debug, thiserror::Error)]
pub enum PlainFailure {
    /// The way broke.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The other side broke the rules, or said no.
    #[error(transparent)]
    Other(#[from] PlainError),
    /// Our own rules are against it.
    #[error(transparent)]
    Policy(#[from] Refusal),
    /// It cannot be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// It cannot be read.
    #[error("reading the file: {0}")]
    Read(#[from] io::Error),
    /// Nothing comes.
    #[error("nothing has come for {} s", .0.as_secs())]
    Silent(Duration),
    /// The other side takes next to nothing.
    #[error("the other side takes less than {LEAST} bytes a second")]
    Slow,
    /// A part of this program failed.
    #[error("this device's part of the program failed: {0}")]
    Failed(String),
}

impl PlainFailure {
    /// Whether another way may do better: this one broke, and nobody has decided anything.
    pub fn is_of_the_way(&self) -> bool {
        matches!(
            self,
            Self::Link(_) | Self::Silent(_) | Self::Other(PlainError::Short { .. })
        )
    }
}

/// How fast bytes go or come, and as whose.
#[derive(Clone)]
pub struct Pace {
    /// What all together may.
    pub pacer: Pacer,
    /// In which lane.
    pub lane: Lane,
}

/// Sends a file under a name. Returns when all of it was handed over; [`PlainChannel::finish`]
/// waits until it has arrived.
///
/// # Errors
/// [`PlainFailure`]
pub async fn send_plain(
    channel: &mut PlainChannel,
    path: &Path,
    name: &str,
    pace: &Pace,
    progress: &Progress,
) -> Result<(), PlainFailure> {
    let path = path.to_owned();
    let opened = blocking(move || {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok::<_, io::Error>((file, size))
    });
    let (mut file, size) = opened.await??;
    progress.restart(0);
    let metadata = PlainText::File {
        filename: name.to_owned(),
        size: Size(size),
    };
    let metadata = serde_json::to_string(&metadata).map_err(io::Error::from)?;
    channel.send_text(&metadata).await?;
    let (mut left, mut taking) = (size, Taking::default());
    while left > 0 {
        let read = blocking(move || {
            let mut block = vec![0; left.min(BLOCK as u64) as usize];
            file.read_exact(&mut block)?;
            Ok::<_, io::Error>((file, block))
        });
        let (again, block) = read.await??;
        file = again;
        left -= block.len() as u64;
        for piece in block.chunks(PIECE) {
            pace.pacer.pass(&pace.lane, piece.len() as u64).await;
            let began = Instant::now();
            channel.send(BytesMut::from(piece)).await?;
            taking.note(piece.len() as u64, began.elapsed())?;
            progress.advance(piece.len() as u64);
        }
    }
    Ok(())
}

/// How fast the other side takes what it is sent. Only the time counts in which there was no room
/// for more: how slowly we send is our own affair.
#[derive(Default)]
struct Taking {
    bytes: u64,
    waited: Duration,
}

impl Taking {
    fn note(&mut self, bytes: u64, waited: Duration) -> Result<(), PlainFailure> {
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < PATIENCE {
            return Ok(());
        }
        let over = std::mem::take(self);
        match over.bytes < LEAST * over.waited.as_secs() {
            true => Err(PlainFailure::Slow),
            false => Ok(()),
        }
    }
}

/// Tells the other side that no file comes, and why.
///
/// # Errors
/// [`LinkError`]
pub async fn send_no(
    channel: &mut PlainChannel,
    code: &str,
    message: &str,
) -> Result<(), LinkError> {
    let said = PlainText::Error {
        code: code.to_owned(),
        message: message.to_owned(),
    };
    let said = serde_json::to_string(&said).unwrap_or_default();
    channel.send_text(&said).await
}

/// What is taken, and where it goes.
pub struct PlainTerms {
    /// Sizes, names and the folder.
    pub terms: Terms,
    /// Tells this file from others that come at the same time.
    pub id: String,
    /// How long to wait until it begins.
    pub patience: Duration,
    /// How long nothing may come after that.
    pub stall: Duration,
}

/// A file has begun to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// What it will be called.
    pub name: String,
    /// Its bytes.
    pub size: u64,
}

/// Receives one file. `begun` is told when it begins. Returns where it is, and its bytes.
///
/// # Errors
/// [`PlainFailure`]; nothing of the file is left then.
pub async fn receive_plain(
    channel: &mut PlainChannel,
    terms: &PlainTerms,
    pace: &Pace,
    progress: &Arc<Progress>,
    begun: &mut (dyn FnMut(Begun) + Send),
) -> Result<(PathBuf, u64), PlainFailure> {
    let mut reception = Reception::default();
    let coming = Coming::default();
    let mut block = Vec::new();
    progress.restart(0);
    loop {
        let patience = match reception.has_begun() {
            true => terms.stall,
            false => terms.patience,
        };
        let message = match timeout(patience, channel.receive()).await {
            Ok(message) => message?,
            Err(_) => return Err(PlainFailure::Silent(patience)),
        };
        match message {
            None if !reception.has_begun() => return Err(LinkError::Closed.into()),
            None => return Err(reception.cut().into()),
            Some(Incoming::Text(text)) => {
                if let Step::Begin { name, size } = reception.text(&text)? {
                    let download = begin(terms, name, size).await?;
                    begun(Begun {
                        name: download.name().to_owned(),
                        size,
                    });
                    coming.put(download);
                }
            }
            Some(Incoming::Binary(bytes)) => {
                let count = bytes.len() as u64;
                reception.bytes(count)?;
                pace.pacer.pass(&pace.lane, count).await;
                block.extend_from_slice(&bytes);
                progress.advance(count);
            }
        }
        let whole = reception.is_complete();
        if block.len() >= BLOCK || whole {
            let (bytes, slot) = (std::mem::take(&mut block), Arc::clone(&coming.0));
            let only = terms.terms.collision == Collision::Refuse;
            let written = blocking(move || {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                // It is gone where nobody waits for it any more.
                let Some(download) = slot.as_mut() else {
                    return Ok(None);
                };
                download.write(&bytes)?;
                match whole {
                    true => slot.take().map(|whole| whole.finish(only)).transpose(),
                    false => Ok(None),
                }
            });
            if let Some(path) = written.await?? {
                return Ok((path, reception.got()));
            }
        }
    }
}

/// The file that comes. When nobody waits for it any more, what is there of it is removed before
/// that is told, also where a thread is just writing to it.
#[derive(Default)]
struct Coming(Arc<Mutex<Option<Download>>>);

impl Coming {
    fn put(&self, download: Download) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(download);
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

async fn begin(terms: &PlainTerms, name: String, size: u64) -> Result<Download, PlainFailure> {
    // Under the name that it will have.
    terms.terms.check_single(&safe_component(&name), size)?;
    let (id, reserve) = (terms.id.clone(), terms.terms.reserve);
    let dest = terms.terms.destination.clone();
    let begun = blocking(move || Download::begin(&dest, &name, &id, size, reserve));
    Ok(begun.await??)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PlainFailure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| PlainFailure::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces that go until the other side is too slow, when each has to wait so long for room.
    fn taken(wait: Duration) -> usize {
        let mut taking = Taking::default();
        let pieces = (0..10_000).take_while(|_| taking.note(PIECE as u64, wait).is_ok());
        pieces.count()
    }

    #[test]
    fn whoever_takes_next_to_nothing_is_given_up() {
        // A piece just before each of them would have waited too long.
        assert_eq!(taken(Duration::from_secs(29)), 2);
        assert_eq!(taken(Duration::from_secs(15)), 10_000);
        // However slowly we read or send ourselves.
        assert_eq!(taken(Duration::ZERO), 10_000);
        assert!(!PlainFailure::Slow.is_of_the_way(), "no other way is tried");
    }
}
