//! Fuzzes nf-sender's side of the handshake with a peer that need not be a receiver.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::secure::fuzz_sender_handshake(bytes));
