//! Fuzzes the parser of a batch's columnar records, which a sender sends to nf-receiver.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nf_transport_core::batch::fuzz_columnar(bytes));
