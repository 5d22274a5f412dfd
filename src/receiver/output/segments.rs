//! Runs of datagrams, handed to the kernel in one call.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::PAYLOAD_MAX;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::Socket;

use crate::receiver::output::queue_guard::RUN_MAX;
use crate::receiver::output::slices::front;

/// Result of handing a run to the kernel in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendOutcome {
    /// Datagrams handed over from the front of the run, at least one.
    pub(super) offered: usize,
    /// Datagrams that the kernel accepted, at least one.
    pub(super) accepted: usize,
    /// True if they went as one segmented send, which succeeds or fails as a whole.
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
    if let [payload] = run {
        // Runs of one datagram are common, because exporters take turns. They need no message header.
        rustix::net::send(socket, payload, SendFlags::DONTWAIT)?;
        return Ok(1);
    }
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
    use std::net::UdpSocket;

    use nf_transport_core::internal_error::expecting_internal_errors;

    use super::*;
    use crate::receiver::output::socket::{open_own, report_errors, take_details, take_error};

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
