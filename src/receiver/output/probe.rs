//! Whether datagrams with addresses of others reach a collector on this machine, found out with test datagrams.
//!
//! They go the way of the collector's own, as if from an address that no exporter has, to a socket beside the collector's:
//! on its IP address, and on a port that is free. So the collector never notices.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io;
use std::net::UdpSocket;
use std::time::Instant;

use crate::receiver::output::{route, socket, without_v4_mapping};

/// How long a test datagram may take within one machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// Payload lengths that are tried: one that passes any link whole, and one that few do.
const SHORT: usize = 64;
const LONG: usize = 8000;

/// Bytes at the front of each payload that nobody can guess.
const TOKEN: usize = 16;

/// Addresses for documentation, which no exporter has. RFC 5737.
const FOREIGN_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 1)];

/// The same of IPv6. RFC 3849, RFC 9637.
const FOREIGN_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1)];

/// What became of the test datagrams.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// They arrived as they were sent.
    Arrived,
    /// None were sent: the collector is on another machine.
    Elsewhere,
    /// None were sent: this process may not send from addresses of others.
    NotPermitted,
    /// None were sent: there was no way to try it.
    NotTried(io::Error),
    /// The kernel did not take one that was to come from this address.
    Refused(IpAddr, io::Error),
    /// One from this address was taken and did not arrive.
    Lost(IpAddr),
    /// One from this address, with so many bytes of payload, was taken and did not arrive; a short one did.
    LongLost(IpAddr, usize),
    /// One from the first of these addresses and ports arrived as if from the second.
    Rewritten(SocketAddr, SocketAddr),
}

/// Tries it for the collector at `collector`. Takes a few milliseconds, or up to a second if nothing arrives.
pub(crate) fn probe(collector: SocketAddr) -> Outcome {
    attempt(without_v4_mapping(collector)).err().unwrap_or(Outcome::Arrived)
}

/// Anything but an arrival is an error.
fn attempt(collector: SocketAddr) -> Result<(), Outcome> {
    match is_here(collector).map_err(Outcome::NotTried)? {
        Some(true) => {}
        Some(false) => return Err(Outcome::Elsewhere),
        None => return Err(Outcome::NotTried(io::Error::other("no route leads there"))),
    }
    let inbox = inbox(collector).map_err(Outcome::NotTried)?;
    let beside = inbox.local_addr().map_err(Outcome::NotTried)?;
    socket::may_open_as(beside).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => Outcome::NotPermitted,
        _ => Outcome::NotTried(error),
    })?;
    let exporter = foreign_address(beside).map_err(Outcome::NotTried)?;
    let refused = |error| Outcome::Refused(exporter.ip(), error);
    let outlet = socket::open_as(exporter, beside).map_err(refused)?;
    let sent_as = outlet.local_addr().map_err(Outcome::NotTried)?.as_socket().unwrap_or(exporter);
    for length in [SHORT, LONG] {
        let payload = payload(length).map_err(Outcome::NotTried)?;
        socket::send_each(&outlet, &[&payload]).map_err(refused)?;
        match arrived(&inbox, &payload).map_err(Outcome::NotTried)? {
            None if length == SHORT => return Err(Outcome::Lost(exporter.ip())),
            None => return Err(Outcome::LongLost(exporter.ip(), length)),
            Some(from) if !is_same(from, sent_as) => return Err(Outcome::Rewritten(sent_as, from)),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether the address is one of this machine's; `None` if there is no route to it.
fn is_here(address: SocketAddr) -> io::Result<Option<bool>> {
    Ok(route::source_to(address)?.map(|source| route::is_own(address, source)))
}

/// A socket on the collector's address, with a port that nobody has.
fn inbox(collector: SocketAddr) -> io::Result<UdpSocket> {
    let mut beside = collector;
    beside.set_port(0);
    UdpSocket::bind(beside)
}

/// An address, and any port, of the family of `collector` that is neither this machine's nor an exporter's.
fn foreign_address(collector: SocketAddr) -> io::Result<SocketAddr> {
    let v4 = FOREIGN_V4.map(IpAddr::from);
    let v6 = FOREIGN_V6.map(IpAddr::from);
    let candidates = if collector.is_ipv4() { v4.as_slice() } else { v6.as_slice() };
    for ip in candidates {
        if is_here(SocketAddr::new(*ip, collector.port()))? != Some(true) {
            return Ok(SocketAddr::new(*ip, 0));
        }
    }
    Err(io::Error::other("this machine has all of the addresses that are meant for examples"))
}

/// A payload like no other.
fn payload(length: usize) -> io::Result<Vec<u8>> {
    let mut token = [0; TOKEN];
    getrandom::fill(&mut token).map_err(io::Error::other)?;
    Ok(token.into_iter().cycle().take(length).collect())
}

/// Waits for `payload`, and says where it came from; `None` if it does not come.
fn arrived(inbox: &UdpSocket, payload: &[u8]) -> io::Result<Option<SocketAddr>> {
    let deadline = Instant::now() + PATIENCE;
    let mut room = vec![0; payload.len() + 1];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        inbox.set_read_timeout(Some(left))?;
        match inbox.recv_from(&mut room) {
            Ok((length, from)) if room.get(..length) == Some(payload) => return Ok(Some(from)),
            // Somebody else's.
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether these are the same address and port; scopes and flow labels need not be.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_elsewhere_is_not_tried() {
        for address in ["192.0.2.77:9995", "[2001:db8::77]:9995"] {
            let outcome = probe(address.parse().unwrap());
            assert!(matches!(outcome, Outcome::Elsewhere | Outcome::NotTried(_)), "{outcome:?}");
        }
    }

    #[test]
    fn only_the_expected_payload_counts_as_arrived_and_its_origin_is_told() {
        let inbox = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = UdpSocket::bind("127.0.0.2:0").unwrap();
        let expected = payload(64).unwrap();
        for sent in [payload(64).unwrap(), payload(65).unwrap(), expected.clone()] {
            from.send_to(&sent, inbox.local_addr().unwrap()).unwrap();
        }
        assert_eq!(arrived(&inbox, &expected).unwrap(), Some(from.local_addr().unwrap()));
    }

    #[test]
    fn an_address_that_stands_for_an_exporter_is_of_the_collectors_family_and_not_this_machines() {
        for collector in ["127.0.0.1:9995", "[::1]:9995"] {
            let collector: SocketAddr = collector.parse().unwrap();
            let foreign = foreign_address(collector).unwrap();
            assert_eq!(foreign.is_ipv4(), collector.is_ipv4());
            assert!(UdpSocket::bind(foreign).is_err());
        }
    }
}
