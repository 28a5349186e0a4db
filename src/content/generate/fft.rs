//! The Fourier transform, by the method of Cooley and Tukey for powers of two. Libraries are faster,
//! but what they compute differs in its last digits from version to version and system to system.

use std::f64::consts::TAU;

use num_complex::Complex;

use super::noise::turned;

/// Transforms of one size.
pub(super) struct Fft {
    /// The factors of the last and largest step, of which all others use some.
    factors: Vec<Complex<f64>>,
}

impl Fft {
    /// For so many samples: a power of two from 2 on.
    pub(super) fn new(size: usize) -> Self {
        let angle = |at: usize| -TAU * at as f64 / size as f64;
        Self {
            factors: (0..size / 2).map(|at| turned(angle(at))).collect(),
        }
    }

    /// From time to frequency, in place; not scaled.
    pub(super) fn forward(&self, samples: &mut [Complex<f64>]) {
        let size = samples.len();
        for at in 0..size {
            let reversed = at.reverse_bits() >> (usize::BITS - size.trailing_zeros());
            if at < reversed {
                samples.swap(at, reversed);
            }
        }
        let mut half = 1;
        while half < size {
            let factors = self.factors.iter().step_by(size / 2 / half);
            for block in samples.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((low, high), factor) in low.iter_mut().zip(high).zip(factors.clone()) {
                    let turned = *high * factor;
                    (*low, *high) = (*low + turned, *low - turned);
                }
            }
            half *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::noise::Noise;
    use super::*;

    #[test]
    fn it_is_the_transform_that_others_compute() {
        for size in [2, 64, 1024, 65_536] {
            let mut noise = Noise::new(size as u64, 0, 1.0);
            let mut ours: Vec<_> = (0..size).map(|_| noise.next()).collect();
            let mut theirs = ours.clone();
            Fft::new(size).forward(&mut ours);
            let mut planner = rustfft::FftPlannerScalar::new();
            planner.plan_fft_forward(size).process(&mut theirs);
            let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).norm());
            let most = apart.fold(0.0, f64::max);
            assert!(most < 1e-10 * size as f64, "{size}: {most}");
        }
    }
}
