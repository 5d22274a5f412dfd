//! Figures of collectors, for status and metrics.

use core::net::SocketAddr;

use crate::status::CollectorState;

/// Figures of one collector. Counts run from the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectorFigures {
    /// Address on which the collector listens.
    pub(crate) address: SocketAddr,
    /// State of the collector's socket or path.
    pub(crate) state: CollectorState,
    /// Counts of its main address.
    pub(crate) counts: OutputCounts,
    /// Whole seconds for which datagrams have been held for it; 0 if none are held.
    pub(crate) held_s: u64,
    /// Figures of its address for late datagrams, if it has one.
    pub(crate) late: Option<LateFigures>,
    /// Whole seconds until `catch-up-pace` releases the next datagram; `None` while it delays none.
    pub(crate) paced_s: Option<u64>,
    /// Pairs of an exporter's address and the address under which the collector sees it, most recently used
    /// first.
    pub(crate) seen_as: Vec<(SocketAddr, SocketAddr)>,
}

/// Figures of a collector's address for late datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LateFigures {
    pub(crate) address: SocketAddr,
    /// State of the socket or path there.
    pub(crate) state: CollectorState,
    /// Counts of this address.
    pub(crate) counts: OutputCounts,
    /// Whole seconds for which datagrams have been held for it; 0 if none are held.
    pub(crate) held_s: u64,
}

/// Counters of a destination, from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputCounts {
    /// Datagrams that the kernel accepted for it.
    pub(crate) datagrams: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    /// Datagrams skipped.
    pub(crate) skipped: u64,
    /// Datagrams dropped because the kernel refused to send them, though it sent others.
    pub(crate) refused: u64,
    /// Datagrams with templates and options data that nf-receiver repeated for it.
    pub(crate) templates: u64,
    /// Datagrams that the kernel dropped at the collector's socket while nf-receiver was sending.
    pub(crate) socket_drops: u64,
    /// Upper bound of the datagrams that were unread in the collector's socket when it closed.
    pub(crate) unread: u64,
}
