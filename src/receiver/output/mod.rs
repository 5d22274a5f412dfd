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
use std::sync::Arc;

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
    fn open(address: SocketAddr) -> Result<Self, OutputError> {
        UdpOutput::open(address).map(Self::Udp).map_err(|cause| OutputError { address, cause })
    }

    /// Where its collector listens.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Udp(output) => output.address(),
        }
    }

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
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    outputs: Vec<Arc<Output>>,
}

impl Outputs {
    /// An output for each of `addresses`, at least one, inside a tokio runtime. Those that are here already stay as they
    /// are, with their counters; others are opened. Never waits for a collector.
    pub(crate) fn changed_to(&self, addresses: &[SocketAddr]) -> Result<Self, OutputError> {
        let mut outputs: Vec<Arc<Output>> = Vec::new();
        for address in addresses.iter().copied().map(without_v4_mapping) {
            let is_known = |output: &&Arc<Output>| output.address() == address;
            if outputs.iter().any(|output| is_known(&output)) {
                continue;
            }
            let output = match self.outputs.iter().find(is_known) {
                Some(output) => output.clone(),
                None => Arc::new(Output::open(address)?),
            };
            outputs.push(output);
        }
        Ok(Self { outputs })
    }

    /// The outputs, in the order of their addresses.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Output>> {
        self.outputs.iter()
    }

    /// Where the collectors listen.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.outputs.iter().map(|output| output.address())
    }

    /// The counters of every collector, in the order of their addresses.
    pub(crate) fn counters(&self) -> Vec<CollectorCounters> {
        self.outputs.iter().map(|output| output.counters()).collect()
    }
}

/// An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) as what it is.
fn without_v4_mapping(address: SocketAddr) -> SocketAddr {
    let canonical = address.ip().to_canonical();
    if canonical == address.ip() { address } else { SocketAddr::new(canonical, address.port()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v4_address_in_v6_clothes_is_taken_as_v4() {
        for (given, expected) in [
            ("[::ffff:127.0.0.1]:9995", "127.0.0.1:9995"),
            ("[fe80::1%3]:9995", "[fe80::1%3]:9995"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(without_v4_mapping(given.parse().unwrap()), expected.parse().unwrap());
        }
    }

    #[tokio::test]
    async fn other_collectors_leave_those_that_stay_as_they_were() {
        let [first, second, third] =
            ["127.0.0.1:4001", "127.0.0.1:4002", "[::1]:4003"].map(|text| text.parse().unwrap());
        let before = Outputs::default().changed_to(&[first, second]).unwrap();
        let after = before.changed_to(&[third, second, second]).unwrap();
        assert_eq!(after.addresses().collect::<Vec<_>>(), [third, second]);
        assert!(Arc::ptr_eq(&before.outputs[1], &after.outputs[1]));
    }
}
