//! The sockets that send datagrams, and the errors that arrive there.

use core::net::SocketAddr;
use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::receiver::output::route;
use crate::receiver::output::watch::Watch;

/// Requested send buffer in bytes, so that a run of large datagrams to a slow interface fits in one call.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// Opens a socket on a port of its own, connected to `collector`. It gets the `wanted` port if that is free.
pub(super) fn open_own(collector: SocketAddr, wanted: Option<u16>) -> io::Result<Socket> {
    let socket = unbound(collector)?;
    let mut address = route::any_port(collector);
    address.set_port(wanted.unwrap_or_default());
    if socket.bind(&address.into()).is_err() {
        socket.bind(&route::any_port(collector).into())?;
    }
    socket.connect(&collector.into())?;
    Ok(socket)
}

/// Opens a socket bound to the address of `exporter`, connected to `collector` of the same family. Needs
/// `CAP_NET_RAW` in the user namespace of the network.
pub(super) fn open_as(exporter: SocketAddr, collector: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(collector)?;
    allow_foreign_address(&socket, collector)?;
    // If exporter and collector are both on this machine, other sockets may be bound to that address as well.
    socket.set_reuse_address(true)?;
    socket.bind(&exporter.into())?;
    socket.connect(&collector.into())?;
    Ok(socket)
}

/// Fails if this process may not send from foreign addresses, which [`open_as`] needs.
pub(super) fn may_open_as(collector: SocketAddr) -> io::Result<()> {
    allow_foreign_address(&unbound(collector)?, collector)
}

/// Allows `socket` to be bound to addresses that are not this machine's.
fn allow_foreign_address(socket: &Socket, collector: SocketAddr) -> io::Result<()> {
    if collector.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

/// Opens a non-blocking socket whose datagrams IP fragments where the path needs it.
fn unbound(collector: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(collector), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    if collector.is_ipv4() {
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
    } else {
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?;
    }
    Ok(socket)
}

/// Makes `socket` report all ICMP errors about its datagrams, not only closed ports.
pub(super) fn report_errors(socket: &Socket, collector: SocketAddr) -> io::Result<()> {
    if collector.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    Ok(())
}

/// Takes the pending ICMP error about datagrams that `socket` sent earlier.
pub(super) fn take_error(socket: &Socket) -> Option<io::Error> {
    let error = socket.take_error().ok().flatten()?;
    // The error queue holds memory until it is read.
    take_details(socket);
    Some(error)
}

/// Takes the errors in the socket's error queue, oldest first. The kernel reports an error in the middle of a
/// call of `segments::send` only here: that call stops early, as if it had succeeded.
pub(super) fn take_details(socket: &Socket) -> Vec<io::Error> {
    core::iter::from_fn(|| next_detail(socket).ok()).flatten().collect()
}

/// Reads one entry of the error queue and returns its error. Fails if the queue is empty.
fn next_detail(socket: &Socket) -> nix::Result<Option<io::Error>> {
    let mut payload = [0u8; 1];
    let mut payload = [IoSliceMut::new(&mut payload)];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut payload, Some(&mut control), flags)?;
    let detail = message.cmsgs()?.find_map(|detail| match detail {
        ControlMessageOwned::Ipv4RecvErr(detail, _) | ControlMessageOwned::Ipv6RecvErr(detail, _) => {
            i32::try_from(detail.ee_errno).ok()
        }
        _ => None,
    });
    Ok(detail.map(io::Error::from_raw_os_error))
}

/// Opens a watch on the collector's socket. Returns `None` for a collector on another machine.
pub(super) fn watch(collector: SocketAddr) -> io::Result<Option<Watch>> {
    let Some(ip) = route::source_to(collector)?.filter(|ip| route::is_own(collector, *ip)) else {
        return Ok(None);
    };
    // Without the kernel module for UDP every socket seems absent, so look up one that exists.
    let asker = UdpSocket::bind(route::any_port(collector))?;
    let source = SocketAddr::new(ip, asker.local_addr()?.port());
    if Watch::open(source, source)?.look().map_err(io::Error::other)?.is_none() {
        return Err(io::Error::other("the kernel does not report UDP sockets (module udp_diag)"));
    }
    Watch::open(source, collector).map(Some)
}
