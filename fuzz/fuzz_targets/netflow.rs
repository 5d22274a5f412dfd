//! Fuzzes the parser of exporters' datagrams, which anyone can send.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    nf_transport_core::netflow::fuzz_netflow(bytes, std::time::Instant::now());
});
