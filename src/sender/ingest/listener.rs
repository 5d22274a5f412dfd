//! The UDP sockets of ingest, and their drop counters.

use std::net::{SocketAddr, UdpSocket};

use crate::sender::ingest::counters::SocketCounters;
use crate::sender::journal::{self, enable_ancillary_data};

/// The largest number of drops between the first datagram in a socket queue and the newest one.
const QUEUED_BEFORE: u32 = 1 << 24;

/// A UDP socket that receives datagrams from exporters.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) socket: UdpSocket,
    pub(super) local: SocketAddr,
    /// The receive buffer of the socket, in bytes.
    pub(in crate::sender) capacity: usize,
    /// systemd holds the socket too: datagrams in it stay for the next run.
    pub(super) is_held_by_systemd: bool,
    /// The drop counter of the kernel when this process received its first datagram.
    dropped_before: Option<u32>,
}

impl Listener {
    /// Sets up a listener on `socket`, which does not block.
    pub(crate) fn new(socket: UdpSocket, outlives_us: bool) -> std::io::Result<Self> {
        let local = socket.local_addr()?;
        enable_ancillary_data(&socket, local.is_ipv6())?;
        let capacity = rustix::net::sockopt::socket_recv_buffer_size(&socket)?;
        Ok(Self { socket, local, capacity, is_held_by_systemd: outlives_us, dropped_before: None })
    }

    /// The local address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.local
    }

    /// Notes the drop counters of the kernel: `first` with the first datagram of a run of slots, `last` with
    /// the last one.
    pub(super) fn note_drops(&mut self, first: u32, last: u32, counters: &SocketCounters) {
        let before = *self.dropped_before.get_or_insert(first);
        let since = last.wrapping_sub(before);
        // A datagram that was queued before counting began has a lower counter.
        if since <= u32::MAX - QUEUED_BEFORE {
            counters.note_kernel_drops(u64::from(since));
        }
    }

    /// Reads the drop counter of the kernel. A datagram carries it too, but none may follow the drops.
    pub(super) fn read_kernel_drops(&mut self, counters: &SocketCounters) {
        if let Some(first) = self.dropped_before
            && let Some(memory) = journal::socket_memory(&self.socket)
        {
            self.note_drops(first, memory.drops, counters);
        }
    }
}
