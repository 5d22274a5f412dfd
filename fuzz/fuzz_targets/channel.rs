//! Fuzzes the receiving end of an encrypted channel with altered bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::secure::fuzz_channel(bytes));
