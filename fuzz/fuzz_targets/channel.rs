//! What comes over an encrypted channel, changed on the way.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::secure::fuzz_channel(bytes));
