//! What the header of a NetFlow or IPFIX datagram tells about the exporter, and what its sequence numbers tell
//! about datagrams that were lost before they could be received.
//!
//! Nothing here changes, refuses or looks further into a datagram: flow records and templates are the
//! collector's business.

mod header;
mod missing;
mod table;

pub use header::{Header, Sequence};
pub use missing::Missing;
pub use table::{Exporter, ExporterKey, ExporterTable};
