//! The kernel's view of the socket that a datagram to a collector on this machine would reach
//! (`sock_diag(7)`). The kernel uses the same look-up as for delivery, so wildcard, dual-stack and shared
//! ports are found correctly.

use core::net::SocketAddr;
use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::receiver::output::system_error::SystemError;

/// Index of the loopback interface in every network namespace. Datagrams to the machine's own addresses
/// arrive there.
const LOOPBACK_INDEX: u32 = 1;

/// The cookie that matches any socket.
const ANY_COOKIE: [u8; 8] = [0xFF; 8];

/// Buffer size for a reply: one socket and its attributes.
const REPLY_ROOM: usize = 4096;

/// Reason why the collector's socket cannot be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WatchError {
    /// The kernel did not answer, or with an error.
    #[error("{0}")]
    Failed(SystemError),
    /// The reply is malformed, or of another kind.
    #[error("cannot parse the kernel's reply about the collector's socket")]
    Unreadable,
    /// The reply lacks an attribute.
    #[error("the kernel's reply lacks the socket's memory")]
    NoMemory,
}

impl From<io::Error> for WatchError {
    fn from(error: io::Error) -> Self {
        Self::Failed((&error).into())
    }
}

/// The receive queue of the collector's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiveQueue {
    /// Identifies the socket; another socket on the same port has another cookie.
    pub(super) cookie: [u8; 8],
    /// Bytes of kernel memory in the queue. Unless the queue is empty, this may include up to a quarter of
    /// `limit` for datagrams that the collector has already read.
    pub(super) queued: u32,
    /// Bytes of kernel memory above which the kernel drops.
    pub(super) limit: u32,
    /// Datagrams dropped so far, modulo 2^32.
    pub(super) drops: u32,
}

/// A reusable query to the kernel.
#[derive(Debug)]
pub(super) struct Watch {
    netlink: Socket,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Watch {
    /// Watches the socket that a datagram from `source` to `collector` reaches.
    pub(super) fn open(source: SocketAddr, collector: SocketAddr) -> io::Result<Self> {
        let netlink = Socket::new(NETLINK_SOCK_DIAG)?;
        let request = request(source, collector);
        Ok(Self { netlink, request, reply: Vec::with_capacity(REPLY_ROOM) })
    }

    /// Queries the kernel. Returns `None` if no such socket exists. Never waits: the kernel replies within
    /// the call.
    pub(super) fn look(&mut self) -> Result<Option<ReceiveQueue>, WatchError> {
        self.netlink.send(&self.request, 0)?;
        self.reply.clear();
        self.netlink.recv(&mut self.reply, libc::MSG_DONTWAIT)?;
        let reply = NetlinkMessage::<SockDiagMessage>::deserialize(&self.reply);
        let reply = reply.map_err(|_| WatchError::Unreadable)?;
        match reply.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                receive_queue(&response).map(Some)
            }
            NetlinkPayload::Error(error) if error.to_io().kind() == io::ErrorKind::NotFound => Ok(None),
            NetlinkPayload::Error(error) => Err(error.to_io().into()),
            _ => Err(WatchError::Unreadable),
        }
    }
}

/// Returns an upper estimate of the kernel memory that a datagram occupies in a receive queue, in bytes. The
/// kernel rounds its buffer, including headers and bookkeeping, up to a power of two and adds a structure of
/// its own. Measured on Linux 6.18: 832 for 0 bytes, 2,304 for 1,464, 16,640 for 8,000, 66,342 for 65,507.
pub(super) fn memory_of(payload_len: usize) -> u64 {
    let buffer = payload_len.saturating_add(512).checked_next_power_of_two().unwrap_or(usize::MAX);
    u64::try_from(buffer).unwrap_or(u64::MAX).saturating_add(512)
}

/// Returns a lower estimate of the kernel memory that a datagram occupies in a receive queue, in bytes.
pub(super) fn memory_at_least(payload_len: usize) -> u64 {
    u64::try_from(payload_len).unwrap_or(u64::MAX).saturating_add(512)
}

fn receive_queue(response: &InetResponse) -> Result<ReceiveQueue, WatchError> {
    let memory = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::MemInfo(memory) => Some(memory),
        _ => None,
    });
    let memory = memory.ok_or(WatchError::NoMemory)?;
    Ok(ReceiveQueue {
        cookie: response.header.socket_id.cookie,
        queued: memory.receive_queue,
        limit: memory.receive_queue_max,
        drops: memory.drops,
    })
}

fn request(source: SocketAddr, collector: SocketAddr) -> Vec<u8> {
    let interface_id = match collector {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => v6.scope_id(),
        _ => LOOPBACK_INDEX,
    };
    let request = InetRequest {
        family: if collector.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::SKMEMINFO,
        states: StateFlags::all(),
        // For UDP the kernel expects source and destination as in the datagram, not as seen from the socket
        // that it looks up.
        socket_id: SocketId {
            source_port: source.port(),
            destination_port: collector.port(),
            source_address: source.ip(),
            destination_address: collector.ip(),
            interface_id,
            cookie: ANY_COOKIE,
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn look(from: &UdpSocket, to: SocketAddr) -> Option<ReceiveQueue> {
        Watch::open(from.local_addr().unwrap(), to).unwrap().look().unwrap()
    }

    #[test]
    fn bound_and_wildcard_sockets_are_found() {
        for (from, listen, to) in [
            ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.1:0", "0.0.0.0:0", "127.0.0.1"),
            ("127.0.0.1:0", "[::]:0", "127.0.0.1"),
            ("[::1]:0", "[::1]:0", "::1"),
            ("[::1]:0", "[::]:0", "::1"),
        ] {
            let from = UdpSocket::bind(from).unwrap();
            let listener = UdpSocket::bind(listen).unwrap();
            let to = SocketAddr::new(to.parse().unwrap(), listener.local_addr().unwrap().port());
            assert_eq!(look(&from, to).map(|queue| queue.queued), Some(0), "{listen}");
            drop(listener);
            assert_eq!(look(&from, to), None, "{listen}");
        }
    }

    #[test]
    fn memory_estimates_bound_the_kernels_value() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let from = UdpSocket::bind(address).unwrap();
            let to = UdpSocket::bind(address).unwrap();
            let to_address = to.local_addr().unwrap();
            let mut watch = Watch::open(from.local_addr().unwrap(), to_address).unwrap();
            let lengths = (0..3000).chain([3700, 7800, 8000, 15_990, 20_000, 40_000, 65_507]);
            for length in lengths {
                from.send_to(&vec![0; length], to_address).unwrap();
                let queued = watch.look().unwrap().unwrap().queued;
                let expected = memory_at_least(length)..=memory_of(length);
                assert!(expected.contains(&u64::from(queued)), "{length}: {queued}");
                to.recv(&mut [0; 10]).unwrap();
            }
        }
    }
}
