//! The own socket of an output, and runs of datagrams through it.

use core::net::SocketAddr;
use std::io::{self, IoSlice};

use rustix::net::addr::SocketAddrArg;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::datagram::Datagram;
use crate::receiver::output::gate::RUN_MAX;
use crate::receiver::output::route;
use crate::receiver::output::watch::Watch;

/// Bytes of send buffer asked for, so that a run of large datagrams to a slow interface goes in one call.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// A non-blocking socket on any port, whose datagrams IP fragments where the path asks for it.
pub(super) fn open(collector: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(collector), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    if collector.is_ipv4() {
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
    } else {
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?;
    }
    socket.bind(&route::any_port(collector).into())?;
    Ok(socket)
}

/// A watch on the collector's socket as `socket` reaches it; `None` if the collector is on another machine.
pub(super) fn watch(socket: &Socket, collector: SocketAddr) -> io::Result<Option<Watch>> {
    let Some(ip) = route::source_to(collector)?.filter(|ip| route::is_own(collector, *ip)) else {
        return Ok(None);
    };
    let own = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let source = SocketAddr::new(ip, own.port());
    // Without the kernel's part for UDP every socket seems absent: ask for one that is there.
    if Watch::open(source, source)?.look()?.is_none() {
        return Err(io::Error::other("the kernel does not tell about UDP sockets (module udp_diag)"));
    }
    Watch::open(source, collector).map(Some)
}

/// Hands a run of 1 to [`RUN_MAX`] datagrams to the kernel, and says how many it took: at least one.
pub(super) fn send(socket: &UdpSocket, collector: SocketAddr, run: &[Datagram<'_>]) -> io::Result<usize> {
    let address = collector.as_any();
    let payloads: Vec<_> = run.iter().map(|datagram| [IoSlice::new(datagram.payload)]).collect();
    let mut no_control: [_; RUN_MAX] = core::array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: Vec<_> = payloads
        .iter()
        .zip(&mut no_control)
        .map(|(payload, control)| MMsgHdr::new_with_addr(&address, payload, control))
        .collect();
    Ok(sendmmsg(socket, &mut messages, SendFlags::DONTWAIT)?)
}
