//! Exporters, collectors, a link that breaks on request, and the real daemons as processes. The tests, the
//! demo and the benchmarks use them.
//!
//! Everything runs on loopback without privileges, unless an item states otherwise. No wait is a fixed sleep:
//! each waits for a condition. A wait that times out reports the observed state.

#![expect(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot continue fails there and prints the reason"
)]

pub mod chatter;
pub mod collector;
#[cfg(feature = "captures")]
pub mod corpus;
pub mod daemon;
#[cfg(feature = "captures")]
pub mod decoder;
pub mod exporter;
pub mod field_cases;
#[cfg(feature = "formats")]
pub mod flow_exports;
#[cfg(feature = "formats")]
pub mod hostile;
pub mod hosts;
pub mod kernel_socket;
pub mod link;
pub mod load;
pub mod meddler;
#[cfg(feature = "captures")]
pub mod netflow_tools;
pub mod other_host;
pub mod pair;
pub mod samples;
pub mod tally;
pub mod wall_clock;
