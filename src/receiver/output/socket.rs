//! The sockets that send datagrams, and runs of datagrams through them.

use core::net::SocketAddr;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::PAYLOAD_MAX;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::receiver::output::queue_guard::RUN_MAX;
use crate::receiver::output::route;
use crate::receiver::output::slices::front;
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
/// call of [`send`] only here: that call stops early, as if it had succeeded.
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

/// Result of handing a run to the kernel in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendOutcome {
    /// Datagrams handed over from the front of the run, at least one.
    pub(super) offered: usize,
    /// Datagrams that the kernel accepted, at least one.
    pub(super) accepted: usize,
    /// Whether they went as one segmented send, which succeeds or fails as a whole.
    pub(super) as_one: bool,
}

/// Hands payloads from the front of a run of 1 to [`RUN_MAX`] to the kernel. Payloads of equal length, and a
/// shorter one after them, go as one segmented send where that works for their length (`UDP_SEGMENT`,
/// udp(7)). Others go one by one.
pub(super) fn send(socket: &Socket, run: &[&[u8]], segments: &mut Segments) -> io::Result<SendOutcome> {
    let equal = segments.fitting(run);
    if equal > 1 {
        match send_as_one(socket, front(run, equal)) {
            Ok(()) => return Ok(SendOutcome { offered: equal, accepted: equal, as_one: true }),
            Err(error) if is_unfit(&error) => segments.are_unfit(run.first().map_or(0, |first| first.len())),
            // A filter may refuse one datagram, or all of them because the combined packet is too long.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(error) => return Err(error),
        }
    }
    let run = front(run, segments.unequal(run));
    let taken = send_each(socket, run)?;
    Ok(SendOutcome { offered: run.len(), accepted: taken, as_one: false })
}

/// The payloads that can go from a socket as one segmented send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segments {
    /// The longest length that may work. Lengths that IP would have to fragment do not.
    longest: usize,
}

impl Default for Segments {
    fn default() -> Self {
        Self { longest: PAYLOAD_MAX }
    }
}

impl Segments {
    /// Returns how many from the front of `run` may go as one segmented send; 1 if none may.
    fn fitting(self, run: &[&[u8]]) -> usize {
        let length = run.first().map_or(0, |first| first.len());
        if length == 0 || length > self.longest {
            return 1;
        }
        let most = (PAYLOAD_MAX / length).min(RUN_MAX);
        let equal = run.iter().take(most).take_while(|payload| payload.len() == length).count();
        let last = run.get(equal).filter(|last| (1..length).contains(&last.len()) && equal < RUN_MAX);
        equal + usize::from(last.is_some_and(|last| equal * length + last.len() <= PAYLOAD_MAX))
    }

    /// Returns how many from the front of `run` go one by one before a segmented send is possible.
    fn unequal(self, run: &[&[u8]]) -> usize {
        let worth_it = |from: &usize| self.fitting(run.get(*from..).unwrap_or_default()) > 2;
        (1..run.len()).find(worth_it).unwrap_or(run.len())
    }

    /// Notes that payloads of this length do not work.
    fn are_unfit(&mut self, length: usize) {
        self.longest = self.longest.min(length.saturating_sub(1));
    }
}

/// Returns whether the error means that the interface cannot segment, or not to this length.
fn is_unfit(error: &io::Error) -> bool {
    let unfit = [libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
    error.raw_os_error().is_some_and(|errno| unfit.contains(&errno))
}

fn send_as_one(socket: &Socket, run: &[&[u8]]) -> io::Result<()> {
    let payloads: Vec<_> = run.iter().map(|payload| IoSlice::new(payload)).collect();
    let length = run.first().map(|first| u16::try_from(first.len()));
    // With a length of 0 the kernel would send all payloads as one datagram.
    let Some(Ok(length @ 1..)) = length else {
        note_internal_error("a segmented send has no length");
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let segment = [ControlMessage::UdpGsoSegments(&length)];
    sendmsg::<()>(socket.as_raw_fd(), &payloads, &segment, MsgFlags::MSG_DONTWAIT, None)?;
    Ok(())
}

/// Hands the payloads of a run of 1 to [`RUN_MAX`] to the kernel one by one. Returns how many it accepted, at
/// least one.
pub(super) fn send_each(socket: &Socket, run: &[&[u8]]) -> io::Result<usize> {
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
    use nf_transport_core::internal_error::expecting_internal_errors;

    use super::*;

    #[test]
    fn errors_within_a_run_are_in_the_error_queue() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let gone = UdpSocket::bind(address).unwrap().local_addr().unwrap();
            let socket = open_own(gone, None).unwrap();
            report_errors(&socket, gone).unwrap();
            assert!(take_details(&socket).is_empty());
            assert_eq!(send_each(&socket, &[b"one", b"two", b"three"]).unwrap(), 1);
            assert!(take_error(&socket).is_none());
            let errnos: Vec<_> = take_details(&socket).iter().filter_map(io::Error::raw_os_error).collect();
            assert_eq!(errnos, [libc::ECONNREFUSED]);
            assert!(take_details(&socket).is_empty());
        }
    }

    /// Sends all of `payloads`. Returns the number sent in each call, and whether as one segmented send.
    fn send_all(socket: &Socket, payloads: &[Vec<u8>], segments: &mut Segments) -> Vec<(usize, bool)> {
        let run: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let (mut rest, mut calls) = (&run[..], Vec::new());
        while !rest.is_empty() {
            let handed = send(socket, rest, segments).unwrap();
            assert_eq!(handed.accepted, handed.offered);
            calls.push((handed.accepted, handed.as_one));
            rest = &rest[handed.accepted..];
        }
        calls
    }

    fn payloads(lengths: &[usize]) -> Vec<Vec<u8>> {
        (0..).zip(lengths).map(|(number, length)| vec![number; *length]).collect()
    }

    #[test]
    fn equal_lengths_go_as_one_segmented_send() {
        let cases = [
            (vec![100, 100, 100, 100], vec![(4, true)]),
            (vec![100, 100, 100, 7], vec![(4, true)]),
            (vec![100, 100, 100, 0], vec![(3, true), (1, false)]),
            (vec![100, 50, 50, 50, 50], vec![(2, true), (3, true)]),
            (vec![50, 100, 100, 70], vec![(1, false), (3, true)]),
            (vec![0, 0, 0], vec![(3, false)]),
            (vec![30_000, 30_000, 30_000], vec![(2, true), (1, false)]),
            (vec![65_507], vec![(1, false)]),
        ];
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let collector = UdpSocket::bind(address).unwrap();
            let socket = open_own(collector.local_addr().unwrap(), None).unwrap();
            for (lengths, expected) in &cases {
                let payloads = payloads(lengths);
                assert_eq!(&send_all(&socket, &payloads, &mut Segments::default()), expected, "{lengths:?}");
                for payload in payloads {
                    let mut buffer = vec![0; 1 << 16];
                    let length = collector.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[..length], payload);
                }
            }
        }
    }

    #[test]
    fn an_unfit_length_is_not_tried_twice() {
        let mut segments = Segments::default();
        segments.are_unfit(1465);
        let run = payloads(&[1465, 1465, 1464, 1464, 1464, 1464]);
        let run: Vec<&[u8]> = run.iter().map(Vec::as_slice).collect();
        assert_eq!(segments.fitting(&run), 1);
        assert_eq!(segments.unequal(&run), 2);
        assert_eq!(segments.fitting(&run[2..]), 4);
    }

    #[test]
    fn payloads_without_a_length_are_not_merged() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = open_own(collector.local_addr().unwrap(), None).unwrap();
        let (sent, errors) = expecting_internal_errors(|| send_as_one(&socket, &[b"", b"two"]));
        assert_eq!((is_unfit(&sent.unwrap_err()), errors), (true, 1));
    }

    #[test]
    fn a_segmented_send_is_refused_as_a_whole() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let gone = UdpSocket::bind(address).unwrap().local_addr().unwrap();
            let socket = open_own(gone, None).unwrap();
            assert_eq!(send_all(&socket, &payloads(&[10, 10, 10]), &mut Segments::default()), [(3, true)]);
            let error = take_error(&socket).and_then(|error| error.raw_os_error());
            assert_eq!(error, Some(libc::ECONNREFUSED));
        }
    }
}
