//! Batches of a sender, whose checksums are right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::batch::fuzz_batch(bytes));
