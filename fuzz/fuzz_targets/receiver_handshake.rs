//! A peer that nf-receiver knows nothing of yet.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::secure::fuzz_receiver_handshake(bytes));
