//! Tests of the two daemons as processes, with real sockets, on loopback; and of the kit that drives them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails there"
)]

mod kit;
mod support;
