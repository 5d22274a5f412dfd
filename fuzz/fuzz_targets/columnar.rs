//! The records of a batch in columns, as a sender gives them to nf-receiver.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::batch::fuzz_columnar(bytes));
