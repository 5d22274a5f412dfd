//! Fuzzes the decoder of messages inside a channel.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::framing::fuzz_decoder(bytes));
