//! Decodes journal records.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rescind_fuzz::bodies::record_decode(data));
