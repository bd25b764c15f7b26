//! Runs sequences of operations, faults, kills and power cuts against a naive model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rescind_fuzz::bodies::operations(data));
