use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use super::*;
use crate::protocol::provider::Parameters;

/// The arrays of a file: what NumPy calls the elements, the shape, and the bytes.
type Arrays = BTreeMap<String, (String, Vec<u8>)>;

fn never() -> bool {
    false
}

fn product(generator: Generator, json: &str) -> Result<Product, GenerateError> {
    let parameters: Parameters = generator.parameters();
    let values = parameters.check(json).expect("parameters that fit");
    Product::new(generator, &values)
}

fn made(product: &Product) -> Vec<u8> {
    let to = Cursor::new(Vec::new());
    let made = match product {
        Product::Spectrum(spectrum) => spectrum.write(to, &never),
        Product::Signal(signal) => signal.write(to, &never),
    };
    made.unwrap().into_inner()
}

fn arrays(file: Vec<u8>) -> Arrays {
    let mut zip = zip::ZipArchive::new(Cursor::new(file)).unwrap();
    let mut arrays = Arrays::new();
    for at in 0..zip.len() {
        let mut entry = zip.by_index(at).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let said = String::from_utf8(bytes[10..header].to_vec()).unwrap();
        let name = entry
            .name()
            .unwrap()
            .strip_suffix(".npy")
            .unwrap()
            .to_owned();
        arrays.insert(name, (said, bytes.split_off(header)));
    }
    arrays
}

fn doubles(arrays: &Arrays, name: &str) -> Vec<f64> {
    assert!(arrays[name].0.contains("'<f8'"));
    let parts = arrays[name].1.chunks_exact(8);
    parts
        .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn floats(arrays: &Arrays, name: &str) -> Vec<f32> {
    let parts = arrays[name].1.chunks_exact(4);
    parts
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

const SPECTRUM: &str =
    r#"{"frequency_start":100000000,"frequency_end":104000000,"sample_rate":1000000}"#;

#[test]
fn a_spectrum_has_its_axis_and_its_carriers_where_they_were_put() {
    let product = product(Generator::Spectrum, SPECTRUM).unwrap();
    let file = made(&product);
    assert!(file.len() as u64 <= product.size());
    assert!(file.len() as u64 + 8192 > product.size());
    let arrays = arrays(file);
    let (axis, power) = (doubles(&arrays, "frequencies"), floats(&arrays, "power_db"));
    assert_eq!(axis.len(), 4 * 1024 + 1);
    assert_eq!(power.len(), axis.len());
    assert_eq!((axis[0], axis[axis.len() - 1]), (100e6, 104e6));
    let step = 1e6 / 1024.0;
    assert!(
        axis.windows(2)
            .all(|pair| (pair[1] - pair[0] - step).abs() < 1e-6)
    );
    let Product::Spectrum(spectrum) = &product else {
        panic!("a spectrum")
    };
    let near = |hertz: f64, within: f64| {
        let all = axis.iter().zip(&power);
        let near = all.filter(|(axis, _)| (**axis - hertz).abs() <= within);
        let (axis, power) = near.max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        (*axis, f64::from(*power))
    };
    for (hertz, level) in spectrum.carriers() {
        let (at, found) = near(hertz, 300e3);
        assert!((at - hertz).abs() <= step, "{at} for {hertz}");
        // A carrier between two bins loses at most 1.42 dB.
        assert!(
            (-1.5..0.1).contains(&(found - level)),
            "{found} for {level}"
        );
    }
    // Nothing but noise elsewhere: no mirror of a carrier in a neighbouring step.
    let carriers = spectrum.carriers();
    let far = |hertz: f64| {
        carriers
            .iter()
            .all(|(c, _)| (hertz - c).abs() > 60.0 * step)
    };
    let highest = axis.iter().zip(&power).filter(|(axis, _)| far(**axis));
    let highest = highest.map(|(_, power)| *power).fold(f32::MIN, f32::max);
    assert!(highest < -75.0, "{highest}");
    // The noise: its power, spread over the bins, and what Hann's window adds.
    let mut sorted = power.clone();
    sorted.sort_by(f32::total_cmp);
    let median = f64::from(sorted[sorted.len() / 2]);
    let expected = 10.0 * (1e-6 * 1.5 / 1024.0_f64).log10();
    assert!((median - expected).abs() < 1.0, "{median} for {expected}");
    assert_eq!(
        doubles(&arrays, "carrier_frequencies"),
        [102e6, 101e6, 103e6]
    );
}

#[test]
fn a_signal_has_its_carrier_where_it_was_put_also_when_it_is_folded() {
    for (frequency, center) in [(1250.0, 0.0), (-2000.0, 0.0), (100_001_000.0, 1e8)] {
        let json = format!(r#"{{"duration":0.512,"frequency":{frequency},"sample_rate":8000}}"#);
        let arrays = arrays(made(&product(Generator::Signal, &json).unwrap()));
        assert!(arrays["samples"].0.contains("'<c8'"));
        assert!(arrays["samples"].0.contains("(4096,)"));
        let parts = floats(&arrays, "samples");
        let mut samples: Vec<_> = parts
            .chunks_exact(2)
            .map(|p| rustfft::num_complex::Complex::new(p[0], p[1]))
            .collect();
        let power = samples.iter().map(|s| s.norm_sqr()).sum::<f32>() / 4096.0;
        assert!((power - 1.0001).abs() < 0.001, "{power}");
        rustfft::FftPlannerScalar::new()
            .plan_fft_forward(4096)
            .process(&mut samples);
        let norms = samples.iter().map(|s| s.norm());
        let (peak, _) = norms
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap();
        let peak = if peak < 2048 {
            peak as f64
        } else {
            peak as f64 - 4096.0
        };
        let said = doubles(&arrays, "center_frequency")[0];
        assert_eq!(said, center);
        let found = peak * 8000.0 / 4096.0 + said;
        assert!((found - frequency).abs() <= 8000.0 / 4096.0, "{found}");
    }
}

#[test]
fn the_same_request_is_the_same_bytes_and_another_seed_is_not() {
    let signal = |seed: u32| {
        let json =
            format!(r#"{{"duration":0.01,"frequency":1e3,"sample_rate":48e3,"seed":{seed}}}"#);
        made(&product(Generator::Signal, &json).unwrap())
    };
    assert_eq!(signal(1), signal(1));
    assert_ne!(signal(1), signal(2));
    let spectrum = || made(&product(Generator::Spectrum, SPECTRUM).unwrap());
    assert_eq!(spectrum(), spectrum());
}

#[test]
fn the_bytes_are_those_that_every_system_makes() {
    let hash = |file: Vec<u8>| blake3::hash(&file).to_hex().to_string();
    let json = r#"{"duration":0.01,"frequency":100001000,"sample_rate":48e3,"seed":7}"#;
    let signal = made(&product(Generator::Signal, json).unwrap());
    assert_eq!(
        hash(signal),
        "7a86bcfeeaea491abaeedfb72dfffe804a8b7b6c0b4e636cad940b2676e31644"
    );
    let spectrum = made(&product(Generator::Spectrum, SPECTRUM).unwrap());
    assert_eq!(
        hash(spectrum),
        "70976c3dc6b3b65521de081b5ed4991a143095f54d6f491fd52884598bfca8a1"
    );
}

#[test]
fn what_is_too_large_or_makes_no_sense_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let json = r#"{"duration":10,"frequency":1e3,"sample_rate":1e6}"#;
    let large = product(Generator::Signal, json).unwrap();
    assert_eq!(large.file_name(), "signal_1000_1000000_10.npz");
    let refused = large.write(&path, 80_000_000, &never);
    assert!(matches!(refused, Err(GenerateError::TooLarge { .. })));
    assert!(!path.exists());
    let stopped = large.write(&path, u64::MAX, &|| true);
    assert!(matches!(stopped, Err(GenerateError::Stopped)));
    for json in [
        r#"{"frequency_start":2e6,"frequency_end":1e6,"sample_rate":1e6}"#,
        r#"{"frequency_start":1e6,"frequency_end":1000001,"sample_rate":1e6}"#,
        r#"{"frequency_start":0,"frequency_end":1e12,"sample_rate":1}"#,
    ] {
        let refused = product(Generator::Spectrum, json);
        assert!(matches!(refused, Err(GenerateError::Request(_))), "{json}");
    }
}
