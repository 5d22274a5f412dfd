//! The sockets that datagrams leave from, and runs of datagrams through them.

use core::net::SocketAddr;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::receiver::output::gate::RUN_MAX;
use crate::receiver::output::route;
use crate::receiver::output::watch::Watch;

/// Bytes of send buffer asked for, so that a run of large datagrams to a slow interface goes in one call.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// A socket on a port of its own, from which datagrams go to `collector`.
pub(super) fn open_own(collector: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(collector)?;
    socket.bind(&route::any_port(collector).into())?;
    socket.connect(&collector.into())?;
    Ok(socket)
}

/// A socket from which datagrams go to `collector` as if from `exporter`, which is of the same family. Takes
/// `CAP_NET_RAW` in the user namespace of the network.
pub(super) fn open_as(exporter: SocketAddr, collector: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(collector)?;
    allow_foreign_address(&socket, collector)?;
    // On a machine of exporter and collector both, other sockets may have that address, too.
    socket.set_reuse_address(true)?;
    socket.bind(&exporter.into())?;
    socket.connect(&collector.into())?;
    Ok(socket)
}

/// Whether this process may send as if from others at all: what [`open_as`] needs first.
pub(super) fn may_open_as(collector: SocketAddr) -> io::Result<()> {
    allow_foreign_address(&unbound(collector)?, collector)
}

/// Lets `socket` be bound to addresses that are not this machine's.
fn allow_foreign_address(socket: &Socket, collector: SocketAddr) -> io::Result<()> {
    if collector.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

/// A non-blocking socket whose datagrams IP fragments where the path asks for it.
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

/// From now on `socket` tells of everything that ICMP says about what it sent, not of ports that nobody has alone.
pub(super) fn report_errors(socket: &Socket, collector: SocketAddr) -> io::Result<()> {
    if collector.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    Ok(())
}

/// What became of datagrams that `socket` sent before, if the network told that they did not arrive.
pub(super) fn take_error(socket: &Socket) -> Option<io::Error> {
    let error = socket.take_error().ok().flatten()?;
    // The queue of details holds memory until it is read.
    take_details(socket);
    Some(error)
}

/// The same of what the details tell, oldest first. The kernel says nothing else of an error that it meets in the middle of a
/// call of [`send`]: the call comes to its end before that, as if all were well.
pub(super) fn take_details(socket: &Socket) -> Vec<io::Error> {
    core::iter::from_fn(|| next_detail(socket).ok()).flatten().collect()
}

/// Reads one entry of the queue of details, and says what error it tells of; an error of the call if the queue is empty.
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

/// A watch on the collector's socket; `None` if the collector is on another machine.
pub(super) fn watch(collector: SocketAddr) -> io::Result<Option<Watch>> {
    let Some(ip) = route::source_to(collector)?.filter(|ip| route::is_own(collector, *ip)) else {
        return Ok(None);
    };
    // Without the kernel's part for UDP every socket seems absent: ask for one that is there.
    let asker = UdpSocket::bind(route::any_port(collector))?;
    let source = SocketAddr::new(ip, asker.local_addr()?.port());
    if Watch::open(source, source)?.look()?.is_none() {
        return Err(io::Error::other("the kernel does not tell about UDP sockets (module udp_diag)"));
    }
    Watch::open(source, collector).map(Some)
}

/// Hands a run of 1 to [`RUN_MAX`] payloads to the kernel, and says how many it took: at least one.
pub(super) fn send(socket: &Socket, run: &[&[u8]]) -> io::Result<usize> {
    let payloads: Vec<_> = run.iter().map(|payload| [IoSlice::new(payload)]).collect();
    let mut no_control: [_; RUN_MAX] = core::array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: Vec<_> = payloads
        .iter()
        .zip(&mut no_control)
        .map(|(payload, control)| MMsgHdr::new(payload, control))
        .collect();
    Ok(sendmmsg(socket, &mut messages, SendFlags::DONTWAIT)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_network_says_in_the_middle_of_a_run_is_in_the_details() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let gone = UdpSocket::bind(address).unwrap().local_addr().unwrap();
            let socket = open_own(gone).unwrap();
            report_errors(&socket, gone).unwrap();
            assert!(take_details(&socket).is_empty());
            assert_eq!(send(&socket, &[b"one", b"two", b"three"]).unwrap(), 1);
            assert!(take_error(&socket).is_none());
            let errnos: Vec<_> = take_details(&socket).iter().filter_map(io::Error::raw_os_error).collect();
            assert_eq!(errnos, [libc::ECONNREFUSED]);
            assert!(take_details(&socket).is_empty());
        }
    }
}
