//! What the tests, the demo and the benchmarks drive the real daemons with: exporters, collectors, a link that
//! breaks on request, and the daemons themselves as processes.
//!
//! Everything is on loopback and needs no privilege. Nothing waits by sleeping for luck: each wait is for a fact,
//! and one that does not come true ends in a report of what was seen instead.

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
