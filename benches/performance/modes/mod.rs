//! The modes. Each measures one subject and adds its figures to the results.

pub(crate) mod catch_up;
pub(crate) mod compression;
pub(crate) mod cost;
pub(crate) mod disk;
pub(crate) mod exporters;
pub(crate) mod idle;
pub(crate) mod ingest;
pub(crate) mod max_delay;
pub(crate) mod options;
pub(crate) mod rate;
pub(crate) mod senders;
pub(crate) mod spaced;
pub(crate) mod start;
mod trace;

/// Topic: 1 where the generator was the limit, so that the relay's own limit is unknown, otherwise 0.
pub(crate) const GENERATOR: &str = "generator";
