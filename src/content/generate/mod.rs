//! Data that is made here: signals and spectra in NumPy's format, the same bytes for the same
//! request.

mod fft;
mod noise;
mod npz;
mod signal;
mod spectrum;

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use crate::protocol::provider::{Generator, Values};
pub use signal::Signal;
pub use spectrum::Spectrum;

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The request makes no sense, though each of its parameters does.
    #[error("{0}")]
    Request(String),
    /// What is asked for would be too large.
    #[error("that would be {size} bytes, and at most {most} are given: ask for less")]
    TooLarge {
        /// Its bytes.
        size: u64,
        /// The most that are given.
        most: u64,
    },
    /// It took too long, or nobody wants it any more.
    #[error("stopped before it was done")]
    Stopped,
    /// The file could not be written.
    #[error("writing: {0}")]
    Io(#[from] io::Error),
}

/// Whether to stop; asked every few thousand samples.
pub type Stops<'a> = &'a dyn Fn() -> bool;

/// What is to be made.
#[derive(Debug, Clone, PartialEq)]
pub enum Product {
    /// A power spectrum.
    Spectrum(Spectrum),
    /// Samples.
    Signal(Signal),
}

impl Product {
    /// From a generator's checked parameters.
    pub fn new(generator: Generator, values: &Values) -> Result<Self, GenerateError> {
        Ok(match generator {
            Generator::Spectrum => Self::Spectrum(Spectrum::new(values)?),
            Generator::Signal => Self::Signal(Signal::new(values)?),
        })
    }

    /// Bytes of the file, or a little more.
    pub fn size(&self) -> u64 {
        match self {
            Self::Spectrum(spectrum) => spectrum.size(),
            Self::Signal(signal) => signal.size(),
        }
    }

    /// What the file is called.
    pub fn file_name(&self) -> String {
        match self {
            Self::Spectrum(spectrum) => spectrum.file_name(),
            Self::Signal(signal) => signal.file_name(),
        }
    }

    /// Writes it to `path`, which must not be there yet. `most` bytes are the limit, checked
    /// before anything is made.
    pub fn write(&self, path: &Path, most: u64, stops: Stops<'_>) -> Result<(), GenerateError> {
        let size = self.size();
        if size > most {
            return Err(GenerateError::TooLarge { size, most });
        }
        let file = BufWriter::with_capacity(256 * 1024, File::create_new(path)?);
        let file = match self {
            Self::Spectrum(spectrum) => spectrum.write(file, stops),
            Self::Signal(signal) => signal.write(file, stops),
        }?;
        file.into_inner().map_err(io::Error::from)?;
        Ok(())
    }
}

/// A number for a file name: without a point where it is whole.
fn short(number: f64) -> String {
    format!("{number}")
}

#[cfg(test)]
mod tests;
