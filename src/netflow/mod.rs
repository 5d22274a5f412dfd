//! What NetFlow and IPFIX datagrams tell about their exporters: from their headers who they are, from their
//! sequence numbers what was lost before it could be received, and from their templates what a collector must
//! know to decode, and where flow records lie, which compression makes use of.
//!
//! Nothing here changes or refuses a datagram. What flow records and the fields of templates mean is the
//! collector's business, but for where the two addresses are.

mod definitions;
mod domain;
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
mod table;
mod template;
mod templates;

pub use fuzz::fuzz_netflow;
pub use header::{Header, Sequence};
pub use kept::{Kept, KeptRecord, KeptTemplate};
pub use lacking::Repeats;
pub use missing::Missing;
pub use recipient::{RECIPIENTS, Recipient};
pub use table::{Exporter, ExporterKey, ExporterTable};
pub use templates::{News, TemplateMemory};

#[cfg(test)]
mod tests;
