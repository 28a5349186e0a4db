//! `spectrum`: the power spectrum of a band with three carriers in noise, swept in steps as a
//! receiver does whose band is narrower.

use std::io::{Seek, Write};

use num_complex::Complex;

use super::fft::Fft;
use super::noise::{Noise, wave};
use super::npz::{Npz, OVERHEAD};
use super::{GenerateError, Stops, short};
use crate::protocol::provider::Values;

/// Power of the noise in the whole width of a step, against the strongest carrier's.
const NOISE: f64 = 1e-6;
/// Where the carriers are, as parts of the band, and how strong, in dB.
const CARRIERS: [(f64, f64); 3] = [(0.5, 0.0), (0.25, -20.0), (0.75, -30.0)];
/// Most bins of a spectrum.
const MOST: f64 = 1e9;
/// Frequencies that are written at a time.
const BLOCK: u64 = 16 * 1024;

/// A spectrum by the method of Bartlett with Hann's window. Arrays of the file: `frequencies`
/// (float64, Hz, evenly spaced from `frequency_start` on) and `power_db` (float32; 0 dB is a
/// carrier of amplitude 1), of one length; `frequency_start`, `frequency_end`, `sample_rate`,
/// `resolution` (float64, Hz); `fft_size`, `averages`, `seed` (int64); `carrier_frequencies` and
/// `carrier_power_db` (float64): what was put in. The strongest carrier is in the middle.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    start: f64,
    end: f64,
    sample_rate: f64,
    fft_size: usize,
    averages: i64,
    seed: i64,
    bins: u64,
}

impl Spectrum {
    /// From checked parameters.
    pub(super) fn new(values: &Values) -> Result<Self, GenerateError> {
        let (start, end) = (
            values.number("frequency_start"),
            values.number("frequency_end"),
        );
        let (sample_rate, fft_size) = (values.number("sample_rate"), values.integer("fft_size"));
        if end <= start {
            let text = format!("frequency_end ({end}) must be above frequency_start ({start})");
            return Err(GenerateError::Request(text));
        }
        let bins = ((end - start) * fft_size as f64 / sample_rate).floor() + 1.0;
        // A sweep of one bin shows nothing.
        if !(8.0..=MOST).contains(&bins) {
            let text = format!(
                "{start} to {end} Hz at {sample_rate} samples per second and an fft_size of \
                 {fft_size} are {bins:.0} bins: from 8 to {MOST:.0} can be made; a larger \
                 sample_rate makes fewer, a larger fft_size more"
            );
            return Err(GenerateError::Request(text));
        }
        Ok(Self {
            start,
            end,
            sample_rate,
            fft_size: fft_size as usize,
            averages: values.integer("averages"),
            seed: values.integer("seed"),
            bins: bins as u64,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.bins * 12 + 16 * OVERHEAD
    }

    pub(super) fn file_name(&self) -> String {
        format!(
            "spectrum_{}_{}_{}.npz",
            short(self.start),
            short(self.end),
            short(self.sample_rate)
        )
    }

    fn resolution(&self) -> f64 {
        self.sample_rate / self.fft_size as f64
    }

    fn frequency(&self, bin: u64) -> f64 {
        self.start + bin as f64 * self.resolution()
    }

    /// The carriers, in Hz and dB.
    pub fn carriers(&self) -> [(f64, f64); 3] {
        CARRIERS.map(|(part, power)| (self.start + part * (self.end - self.start), power))
    }

    pub(super) fn write<W: Write + Seek>(
        &self,
        to: W,
        stops: Stops<'_>,
    ) -> Result<W, GenerateError> {
        let mut npz = Npz::new(to);
        let mut at = 0;
        npz.stream("frequencies", self.bins, || {
            if stops() {
                return Err(GenerateError::Stopped);
            }
            let end = self.bins.min(at + BLOCK);
            let block: Vec<f64> = (at..end).map(|bin| self.frequency(bin)).collect();
            at = end;
            Ok((!block.is_empty()).then_some(block))
        })?;
        let mut sweep = Sweep::new(self);
        npz.stream("power_db", self.bins, || sweep.next(stops))?;
        npz.scalar("frequency_start", self.start)?;
        npz.scalar("frequency_end", self.end)?;
        npz.scalar("sample_rate", self.sample_rate)?;
        npz.scalar("resolution", self.resolution())?;
        npz.scalar("fft_size", self.fft_size as i64)?;
        npz.scalar("averages", self.averages)?;
        npz.scalar("seed", self.seed)?;
        let carriers = self.carriers();
        npz.array("carrier_frequencies", &carriers.map(|(hertz, _)| hertz))?;
        npz.array("carrier_power_db", &carriers.map(|(_, power)| power))?;
        Ok(npz.finish()?)
    }
}

/// The steps of a sweep, one after the other. Of each the outer eighths are not used, as with a
/// real receiver: there a carrier shows that is beyond the other edge.
struct Sweep<'a> {
    spectrum: &'a Spectrum,
    fft: Fft,
    window: Vec<f64>,
    samples: Vec<Complex<f64>>,
    power: Vec<f64>,
    /// The step, and its first bin that is used.
    step: u64,
    bin: u64,
}

impl<'a> Sweep<'a> {
    fn new(spectrum: &'a Spectrum) -> Self {
        let size = spectrum.fft_size;
        let turn = std::f64::consts::TAU / size as f64;
        let window: Vec<f64> = (0..size)
            .map(|n| 0.5 - 0.5 * libm::cos(turn * n as f64))
            .collect();
        Self {
            spectrum,
            fft: Fft::new(size),
            window,
            samples: vec![Complex::default(); size],
            power: vec![0.0; size],
            step: 0,
            bin: 0,
        }
    }

    /// The powers of the next step's bins.
    fn next(&mut self, stops: Stops<'_>) -> Result<Option<Vec<f32>>, GenerateError> {
        let (spectrum, size) = (self.spectrum, self.spectrum.fft_size);
        let (edge, used) = (size / 8, size as u64 / 4 * 3);
        if self.bin >= spectrum.bins {
            return Ok(None);
        }
        // The step's first bin is at minus half the sample rate.
        let lowest = spectrum.frequency(self.bin) - edge as f64 * spectrum.resolution();
        let center = lowest + spectrum.sample_rate / 2.0;
        // What is beyond the edges, a filter holds back.
        let carriers: Vec<(f64, f64)> = spectrum
            .carriers()
            .into_iter()
            .map(|(hertz, power)| ((hertz - center) / spectrum.sample_rate, power))
            .filter(|(turns, _)| turns.abs() < 0.5)
            .map(|(turns, power)| (turns, libm::pow(10.0, power / 20.0)))
            .collect();
        let mut noise = Noise::new(spectrum.seed as u64, self.step, NOISE);
        self.power.fill(0.0);
        for part in 0..spectrum.averages as u64 {
            if stops() {
                return Err(GenerateError::Stopped);
            }
            for (n, sample) in self.samples.iter_mut().enumerate() {
                let time = part * size as u64 + n as u64;
                let mut value = noise.next();
                for (turns, amplitude) in &carriers {
                    value += wave(*turns, time) * amplitude;
                }
                *sample = value * self.window[n];
            }
            self.fft.forward(&mut self.samples);
            for (power, bin) in self.power.iter_mut().zip(&self.samples) {
                *power += bin.norm_sqr();
            }
        }
        let whole: f64 = self.window.iter().sum();
        let scale = 1.0 / (whole * whole * spectrum.averages as f64);
        let count = used.min(spectrum.bins - self.bin) as usize;
        let powers = (edge..edge + count)
            // The transform begins with frequency 0; the step with minus half the sample rate.
            .map(|bin| self.power[(bin + size / 2) % size])
            .map(|power| (10.0 * libm::log10((power * scale).max(f64::MIN_POSITIVE))) as f32)
            .collect();
        self.bin += used;
        self.step += 1;
        Ok(Some(powers))
    }
}
