#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| handout_fuzz::targets::trust::roster(data));
