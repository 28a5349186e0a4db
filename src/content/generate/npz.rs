//! NumPy's file of several arrays: an uncompressed ZIP archive of .npy files (NEP 1, format 1.0).
//! Written in one pass, with fixed times, so that the same arrays are the same bytes.

use std::io::{self, Seek, Write};

use num_complex::Complex;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// What an array may hold: little-endian, of a fixed size.
pub(super) trait Element: Copy {
    /// NumPy's word for it.
    const DESCR: &'static str;
    /// Its bytes in a file.
    const SIZE: u64;
    fn put(self, out: &mut Vec<u8>);
}

macro_rules! element {
    ($type:ty, $descr:literal) => {
        impl Element for $type {
            const DESCR: &'static str = $descr;
            const SIZE: u64 = size_of::<$type>() as u64;
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    };
}

element!(f64, "<f8");
element!(f32, "<f4");
element!(i64, "<i8");

impl Element for Complex<f32> {
    const DESCR: &'static str = "<c8";
    const SIZE: u64 = 8;
    fn put(self, out: &mut Vec<u8>) {
        self.re.put(out);
        self.im.put(out);
    }
}

/// Bytes of what is not an array's data: headers and the directory, generously, per array.
pub(super) const OVERHEAD: u64 = 512;

/// Such a file while it is written.
pub(super) struct Npz<W: Write + Seek> {
    zip: ZipWriter<W>,
    bytes: Vec<u8>,
}

impl<W: Write + Seek> Npz<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            zip: ZipWriter::new(to),
            bytes: Vec::new(),
        }
    }

    /// Begins an array of so many elements, or of none around a single one.
    fn begin<T: Element>(&mut self, name: &str, length: Option<u64>) -> io::Result<()> {
        let header = header(T::DESCR, length);
        let size = length.unwrap_or(1) * T::SIZE + header.len() as u64;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .large_file(size >= u64::from(u32::MAX));
        self.zip.start_file(format!("{name}.npy"), options)?;
        self.zip.write_all(&header)
    }

    /// A number.
    pub(super) fn scalar<T: Element>(&mut self, name: &str, value: T) -> io::Result<()> {
        self.begin::<T>(name, None)?;
        self.write(std::iter::once(value)).map(drop)
    }

    /// A short array.
    pub(super) fn array<T: Element>(&mut self, name: &str, values: &[T]) -> io::Result<()> {
        self.begin::<T>(name, Some(values.len() as u64))?;
        self.write(values.iter().copied()).map(drop)
    }

    /// A long array of `length` elements, part by part; `part` gives nothing at the end.
    ///
    /// # Errors
    /// Also when the parts are not `length` elements in all.
    pub(super) fn stream<T: Element, E: From<io::Error>>(
        &mut self,
        name: &str,
        length: u64,
        mut part: impl FnMut() -> Result<Option<Vec<T>>, E>,
    ) -> Result<(), E> {
        self.begin::<T>(name, Some(length))?;
        let mut written = 0;
        while let Some(values) = part()? {
            written += self.write(values.into_iter())?;
        }
        if written != length {
            let text = format!("{name} has {written} elements in place of {length}");
            return Err(io::Error::other(text).into());
        }
        Ok(())
    }

    fn write<T: Element>(&mut self, values: impl Iterator<Item = T>) -> io::Result<u64> {
        self.bytes.clear();
        values.for_each(|value| value.put(&mut self.bytes));
        self.zip.write_all(&self.bytes)?;
        Ok(self.bytes.len() as u64 / T::SIZE)
    }

    pub(super) fn finish(self) -> io::Result<W> {
        Ok(self.zip.finish()?)
    }
}

/// The header of an array, padded so that its data begin at a multiple of 64 bytes.
fn header(descr: &str, length: Option<u64>) -> Vec<u8> {
    let shape = length.map_or("()".to_owned(), |length| format!("({length},)"));
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    const BEFORE: usize = 10;
    let padding = (BEFORE + text.len() + 1).next_multiple_of(64) - BEFORE - text.len() - 1;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    // At most two hundred bytes: it fits.
    let length = text.len() as u16;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&length.to_le_bytes());
    header.extend_from_slice(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_nep_1_says_and_data_begin_at_a_multiple_of_64() {
        for length in [None, Some(0), Some(7), Some(u64::MAX)] {
            let header = header("<c8", length);
            assert_eq!(header.len() % 64, 0);
            assert_eq!(&header[..8], b"\x93NUMPY\x01\x00");
            let said = u16::from_le_bytes([header[8], header[9]]);
            assert_eq!(usize::from(said), header.len() - 10);
            assert_eq!(header.last(), Some(&b'\n'));
        }
        let text = header("<c8", Some(7));
        let text = std::str::from_utf8(&text[10..]).unwrap();
        let dict = "{'descr': '<c8', 'fortran_order': False, 'shape': (7,), }";
        assert_eq!(text.trim_end(), dict);
    }

    #[test]
    fn an_array_that_is_shorter_than_announced_is_an_error() {
        let mut npz = Npz::new(io::Cursor::new(Vec::new()));
        let mut parts = vec![vec![1.0_f64; 3]];
        let short = npz.stream("a", 4, || Ok::<_, io::Error>(parts.pop()));
        assert!(short.unwrap_err().to_string().contains("3 elements"));
    }
}
