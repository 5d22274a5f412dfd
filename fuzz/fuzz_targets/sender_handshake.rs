//! What answers nf-sender, and need not be a receiver.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::secure::fuzz_sender_handshake(bytes));
