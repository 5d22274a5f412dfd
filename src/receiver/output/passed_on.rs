//! State of a collector that one run hands over to the next.

use core::net::SocketAddr;

/// State of a destination that one run hands over to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PassedOn {
    /// Generation of the recipient for which repeats were counted.
    pub(crate) generation: u64,
    /// Cookie of the collector's socket; `None` for a remote collector.
    pub(crate) socket: Option<[u8; 8]>,
    /// Triples of a sender's number, one of its exporters, and the address under which the collector sees it.
    pub(crate) exporters: Vec<(u64, SocketAddr, SocketAddr)>,
}
