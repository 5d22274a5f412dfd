//! Fuzzes the parser of batches, after their checksums were verified.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::batch::fuzz_batch(bytes));
