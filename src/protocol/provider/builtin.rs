//! The generators that are built in, and what they take.

use std::collections::BTreeMap;

use super::{Kind, MAX_INTEGER, Parameter, Parameters, Value};

/// Highest frequency and sample rate, in Hz.
const HIGHEST: f64 = 1e12;

/// A generator that is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generator {
    /// A power spectrum.
    Spectrum,
    /// Complex samples.
    Signal,
}

impl Generator {
    /// All of them, and their names.
    pub const ALL: [(&'static str, Self); 2] =
        [("spectrum", Self::Spectrum), ("signal", Self::Signal)];

    /// What it takes.
    pub fn parameters(self) -> Parameters {
        let hertz = |min| Parameter::needed(Kind::Number { min, max: HIGHEST });
        let seed = Parameter::needed(Kind::Integer {
            min: 0,
            max: MAX_INTEGER,
        })
        .or(Value::Integer(0));
        let own = match self {
            Self::Spectrum => {
                let sizes = (6..=16).map(|power| Value::Integer(1 << power));
                let fft_size = Parameter {
                    choices: sizes.collect(),
                    ..Parameter::needed(Kind::Integer {
                        min: 64,
                        max: 65_536,
                    })
                    .or(Value::Integer(1024))
                };
                let averages = Kind::Integer { min: 1, max: 1000 };
                vec![
                    ("frequency_start", hertz(0.0)),
                    ("frequency_end", hertz(0.0)),
                    ("sample_rate", hertz(1.0)),
                    ("fft_size", fft_size),
                    (
                        "averages",
                        Parameter::needed(averages).or(Value::Integer(16)),
                    ),
                ]
            }
            Self::Signal => {
                let duration = Kind::Number {
                    min: 1e-6,
                    max: 86_400.0,
                };
                vec![
                    ("duration", Parameter::needed(duration)),
                    ("frequency", hertz(-HIGHEST)),
                    ("sample_rate", hertz(1.0)),
                ]
            }
        };
        let all = own.into_iter().chain([("seed", seed)]);
        let all: BTreeMap<_, _> = all.map(|(name, one)| (name.to_owned(), one)).collect();
        Parameters(all)
    }
}
