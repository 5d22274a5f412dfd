//! Where datagrams go: the collectors.
//!
//! An output takes datagrams in order and says after each step how many it has taken for good. It waits as long
//! as its collector cannot take more, holds nothing itself, and never passes a datagram over. Many tasks may
//! deliver to it at once: they take turns.

mod gate;
mod route;
mod socket;
mod trouble;
mod udp;
mod watch;

pub(crate) use udp::UdpOutput;

use core::net::SocketAddr;
use std::io;

use crate::datagram::Datagram;
use crate::status::CollectorState;

/// The counters of one collector, from the start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CollectorCounters {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What is known about it.
    pub(crate) state: CollectorState,
    /// Datagrams handed to the kernel for it.
    pub(crate) delivered_datagrams: u64,
    /// Bytes of their payloads.
    pub(crate) delivered_bytes: u64,
    /// Whole seconds for which datagrams have been waiting for it; 0 if none wait.
    pub(crate) held_s: u64,
    /// Datagrams that the kernel dropped at the collector's socket, from any source, since it is watched.
    pub(crate) socket_drops: u64,
}

/// Why an output cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open a socket for collector {address}: {cause}")]
pub(crate) struct OutputError {
    address: SocketAddr,
    #[source]
    cause: io::Error,
}

/// One collector.
#[derive(Debug)]
pub(crate) enum Output {
    /// Reached by UDP.
    Udp(UdpOutput),
}

impl Output {
    /// Delivers the datagrams from number `*done` on, in order, and counts `*done` up with each one that is
    /// handed over for good. May be dropped at any point and called again with the same `done`.
    pub(super) async fn deliver(&self, datagrams: &[Datagram<'_>], done: &mut usize) {
        match self {
            Self::Udp(output) => output.deliver(datagrams, done).await,
        }
    }

    /// Its counters.
    pub(crate) fn counters(&self) -> CollectorCounters {
        match self {
            Self::Udp(output) => output.counters(),
        }
    }
}

/// Every collector. Each one gets every datagram.
#[derive(Debug)]
pub(crate) struct Outputs {
    outputs: Vec<Output>,
}

impl Outputs {
    /// Opens an output for each of `addresses`, at least one, inside a tokio runtime. Never waits for a
    /// collector.
    pub(crate) fn new(addresses: &[SocketAddr]) -> Result<Self, OutputError> {
        let open = |address: &SocketAddr| {
            let address = *address;
            let output = UdpOutput::open(address).map_err(|cause| OutputError { address, cause })?;
            Ok(Output::Udp(output))
        };
        Ok(Self { outputs: addresses.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The outputs, in the order of their addresses.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Output> {
        self.outputs.iter()
    }

    /// Where the collectors listen.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.outputs.iter().map(|output| match output {
            Output::Udp(output) => output.address(),
        })
    }

    /// The counters of every collector, in the order of their addresses.
    pub(crate) fn counters(&self) -> Vec<CollectorCounters> {
        self.outputs.iter().map(Output::counters).collect()
    }
}
