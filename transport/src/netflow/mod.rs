//! Reads NetFlow, IPFIX and sFlow datagrams: their exporters from the headers, losses before nf-sender from the
//! sequence numbers, and from the templates the definitions that a collector needs and the places of flow records,
//! which compression uses.
//!
//! Nothing here changes or refuses a datagram. What flow records and the fields of templates mean is the
//! collector's business, but for where the two addresses are.

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
mod recent;
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
