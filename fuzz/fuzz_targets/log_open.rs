//! Opens stores whose log was patched, replaced or forged.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rescind_fuzz::bodies::log_open(data));
