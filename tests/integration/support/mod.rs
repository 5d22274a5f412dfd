//! What the tests, the demo and the benchmarks drive the real daemons with: exporters, collectors, a link that
//! breaks on request, and the daemons themselves as processes.
//!
//! Everything is on loopback and needs no privilege. Nothing waits by sleeping for luck: each wait is for a fact,
//! and one that does not come true ends in a report of what was seen instead.

pub(crate) mod chatter;
pub(crate) mod collector;
pub(crate) mod corpus;
pub(crate) mod daemon;
pub(crate) mod decoder;
pub(crate) mod exporter;
pub(crate) mod field_cases;
pub(crate) mod flow_exports;
pub(crate) mod hostile;
pub(crate) mod hosts;
pub(crate) mod kernel_socket;
pub(crate) mod link;
pub(crate) mod load;
pub(crate) mod meddler;
pub(crate) mod netflow_tools;
pub(crate) mod other_host;
pub(crate) mod pair;
pub(crate) mod pki;
pub(crate) mod samples;
pub(crate) mod tally;
pub(crate) mod wall_clock;
