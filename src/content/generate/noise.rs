//! Noise that is the same for the same seed: splitmix64 (Steele, Lea, Flood 2014) for the bits,
//! Box-Muller for the normal distribution.

use std::f64::consts::TAU;

use num_complex::Complex;

/// A stream of complex normal numbers.
#[derive(Debug, Clone)]
pub(super) struct Noise {
    state: u64,
    /// Standard deviation of the real and of the imaginary part.
    deviation: f64,
}

impl Noise {
    /// Noise of this mean power. Different streams of one seed have nothing in common.
    pub(super) fn new(seed: u64, stream: u64, power: f64) -> Self {
        let mut noise = Self {
            state: seed,
            deviation: (power / 2.0).sqrt(),
        };
        // Far apart, wherever the seeds and streams are neighbours.
        noise.state = noise.bits() ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03);
        noise.state = noise.bits();
        noise
    }

    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number.
    pub(super) fn next(&mut self) -> Complex<f64> {
        const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
        // Never 0, whose logarithm is infinite.
        let first = ((self.bits() >> 11) + 1) as f64 * UNIT;
        let second = (self.bits() >> 11) as f64 * UNIT;
        let length = self.deviation * (-2.0 * libm::log(first)).sqrt();
        turned(TAU * second) * length
    }
}

/// A wave of this many turns in a sample, at a sample's number; exact also after hours of samples.
pub(super) fn wave(turns: f64, sample: u64) -> Complex<f64> {
    let turns = turns.rem_euclid(1.0);
    // In two parts, so that no digit of the phase is lost where the number is large.
    let (high, low) = ((sample >> 20) as f64, (sample & 0xf_ffff) as f64);
    let phase = ((turns * 1_048_576.0).rem_euclid(1.0) * high).rem_euclid(1.0) + turns * low;
    turned(TAU * phase.rem_euclid(1.0))
}

/// The number of length 1 at this angle. Its digits are the same on every system: the sine of the
/// system's own library need not be.
pub(super) fn turned(angle: f64) -> Complex<f64> {
    Complex::new(libm::cos(angle), libm::sin(angle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_those_of_splitmix64_and_the_power_is_what_was_asked_for() {
        let mut noise = Noise::new(0, 0, 1.0);
        noise.state = 1_234_567;
        // The published test vector.
        assert_eq!(noise.bits(), 6_457_827_717_110_365_317);
        assert_eq!(noise.bits(), 3_203_168_211_198_807_973);
        let mut noise = Noise::new(7, 3, 0.25);
        let count = 100_000;
        let all: Vec<_> = (0..count).map(|_| noise.next()).collect();
        let power = all.iter().map(Complex::norm_sqr).sum::<f64>() / f64::from(count);
        let mean = all.iter().sum::<Complex<f64>>() / f64::from(count);
        assert!((power - 0.25).abs() < 0.005, "{power}");
        assert!(mean.norm() < 0.01, "{mean}");
        let mut other = Noise::new(7, 4, 0.25);
        assert_ne!(other.next(), all[0]);
    }

    #[test]
    fn a_wave_keeps_its_phase_for_hours() {
        let turns = 1.0 / 8.0;
        for sample in [0_u64, 1, 7, 1 << 20, (1 << 40) + 8, (1 << 40) + 3] {
            let exact = Complex::cis(TAU * (sample % 8) as f64 / 8.0);
            assert!((wave(turns, sample) - exact).norm() < 1e-9, "{sample}");
        }
        assert!((wave(-0.25, 1) - Complex::new(0.0, -1.0)).norm() < 1e-12);
    }
}
