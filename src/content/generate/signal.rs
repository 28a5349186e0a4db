//! `signal`: complex samples of one carrier in noise.

use std::io::{Seek, Write};

use num_complex::Complex;

use super::noise::{Noise, wave};
use super::npz::{Npz, OVERHEAD};
use super::{GenerateError, Stops, short};
use crate::protocol::provider::Values;

/// Power of the noise, against that of the carrier: 40 dB below it.
const NOISE: f64 = 1e-4;
/// Samples that are made at a time.
const BLOCK: u64 = 16 * 1024;
/// Most samples: beyond it a sample's number is not exact any more.
const MOST: f64 = 1e12;

/// The samples of a carrier of amplitude 1. Arrays of the file: `samples` (complex64);
/// `sample_rate`, `frequency`, `center_frequency`, `duration` (float64, Hz and s); `seed` (int64).
///
/// Frequency 0 of the samples stands for `center_frequency`: 0 where the carrier is below half the
/// sample rate, else the multiple of the sample rate that is nearest to it, as sampling folds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    duration: f64,
    frequency: f64,
    sample_rate: f64,
    seed: i64,
    samples: u64,
}

impl Signal {
    /// From checked parameters.
    pub(super) fn new(values: &Values) -> Result<Self, GenerateError> {
        let (duration, sample_rate) = (values.number("duration"), values.number("sample_rate"));
        let samples = (duration * sample_rate).round();
        if !(1.0..=MOST).contains(&samples) {
            let text = format!(
                "{duration} s at {sample_rate} samples per second are {samples:.0} samples: from 1 \
                 to {MOST:.0} can be made"
            );
            return Err(GenerateError::Request(text));
        }
        Ok(Self {
            duration,
            frequency: values.number("frequency"),
            sample_rate,
            seed: values.integer("seed"),
            samples: samples as u64,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.samples * 8 + 8 * OVERHEAD
    }

    pub(super) fn file_name(&self) -> String {
        format!(
            "signal_{}_{}_{}.npz",
            short(self.frequency),
            short(self.sample_rate),
            short(self.duration)
        )
    }

    /// What frequency 0 of the samples stands for, in Hz.
    pub fn center(&self) -> f64 {
        (self.frequency / self.sample_rate).round() * self.sample_rate
    }

    pub(super) fn write<W: Write + Seek>(
        &self,
        to: W,
        stops: Stops<'_>,
    ) -> Result<W, GenerateError> {
        let mut npz = Npz::new(to);
        let turns = (self.frequency - self.center()) / self.sample_rate;
        let mut noise = Noise::new(self.seed as u64, 0, NOISE);
        let mut at = 0;
        npz.stream("samples", self.samples, || {
            if stops() {
                return Err(GenerateError::Stopped);
            }
            let end = self.samples.min(at + BLOCK);
            let block: Vec<Complex<f32>> = (at..end)
                .map(|sample| {
                    let value = wave(turns, sample) + noise.next();
                    Complex::new(value.re as f32, value.im as f32)
                })
                .collect();
            at = end;
            Ok((!block.is_empty()).then_some(block))
        })?;
        npz.scalar("sample_rate", self.sample_rate)?;
        npz.scalar("frequency", self.frequency)?;
        npz.scalar("center_frequency", self.center())?;
        npz.scalar("duration", self.duration)?;
        npz.scalar("seed", self.seed)?;
        Ok(npz.finish()?)
    }
}
