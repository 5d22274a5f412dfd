//! Fuzzes nf-receiver's side of the handshake with an unauthenticated peer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::secure::fuzz_receiver_handshake(bytes));
