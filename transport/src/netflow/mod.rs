//! Reads NetFlow, IPFIX and sFlow datagrams:
//!
//! - headers give the exporters,
//! - sequence numbers give the losses before nf-sender,
//! - templates give the definitions that a collector needs, and the places of flow records for compression.
//!
//! Nothing here changes or rejects a datagram. Collectors interpret flow records and template fields. This
//! module only finds the two addresses in them.

mod contents;
mod definitions;
mod domain;
mod export;
mod fuzz;
mod header;
mod kept;
mod lacking;
mod missing;
mod option_values;
mod options;
mod recipient;
mod record_lengths;
mod repeat;
mod sets;
mod shared_domain;
mod table;
mod template;
mod templates;

pub use export::{ExportFormat, Source};
pub use fuzz::fuzz_netflow;
pub use header::{Header, Sequence};
pub use kept::{Kept, KeptDomain, KeptRecord, KeptTemplate};
pub use lacking::Repeats;
pub use missing::Unusable;
pub use recipient::{RECIPIENTS, Recipient};
pub use shared_domain::{SharedDomain, shared_domains};
pub use table::{ExporterFigures, ExporterTable};
pub use templates::{News, TemplateMemory};

#[cfg(test)]
mod tests;
