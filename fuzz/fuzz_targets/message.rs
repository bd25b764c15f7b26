//! Hands forged messages to a replica.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rescind_fuzz::bodies::message(data));
