//! A test whether datagrams with foreign source addresses reach a collector on this machine.
//!
//! Test datagrams take the same path as those to the collector. Their source is an address that no exporter
//! has. Their target is a socket on the collector's IP address and a free port, so the collector does not
//! receive them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io;
use std::net::UdpSocket;
use std::time::Instant;

use crate::receiver::output::resolved::without_v4_mapping;
use crate::receiver::output::{route, segments, socket};

/// Time that a test datagram may take within one machine.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Payload lengths of the test datagrams: one that passes any link unfragmented, and one that few links pass
/// so.
const SHORT: usize = 64;
const LONG: usize = 8000;

/// Length in bytes of the random token at the front of each payload.
const TOKEN: usize = 16;

/// Addresses for documentation, which no exporter has. RFC 5737.
const FOREIGN_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 1)];

/// IPv6 addresses for documentation. RFC 3849, RFC 9637.
const FOREIGN_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1)];

/// Result of the test.
#[derive(Debug)]
pub(crate) enum ProbeOutcome {
    /// All test datagrams arrived unchanged.
    Arrived,
    /// None were sent: the collector is on another machine.
    Elsewhere,
    /// None were sent: this process may not send from foreign addresses.
    NotPermitted,
    /// None were sent: the test could not be run.
    NotTried(io::Error),
    /// The kernel refused to send one from this address.
    Refused(IpAddr, io::Error),
    /// One from this address was sent and did not arrive.
    Lost(IpAddr),
    /// One from this address with this payload length was sent and did not arrive; a short one did.
    LongLost(IpAddr, usize),
    /// One from the first of these addresses and ports arrived as if from the second.
    Rewritten(SocketAddr, SocketAddr),
}

/// Tests the path to `collector`. Takes a few milliseconds, or up to a second if a test datagram does not
/// arrive.
pub(crate) fn probe(collector: SocketAddr) -> ProbeOutcome {
    attempt(without_v4_mapping(collector)).err().unwrap_or(ProbeOutcome::Arrived)
}

/// Every outcome but an arrival is an `Err`, so that `?` ends the test.
fn attempt(collector: SocketAddr) -> Result<(), ProbeOutcome> {
    match is_here(collector).map_err(ProbeOutcome::NotTried)? {
        Some(true) => {}
        Some(false) => return Err(ProbeOutcome::Elsewhere),
        None => return Err(ProbeOutcome::NotTried(io::Error::other("there is no route to it"))),
    }
    let inbox = inbox(collector).map_err(ProbeOutcome::NotTried)?;
    let beside = inbox.local_addr().map_err(ProbeOutcome::NotTried)?;
    socket::may_open_as(beside).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => ProbeOutcome::NotPermitted,
        _ => ProbeOutcome::NotTried(error),
    })?;
    let exporter = foreign_address(beside).map_err(ProbeOutcome::NotTried)?;
    let refused = |error| ProbeOutcome::Refused(exporter.ip(), error);
    let outlet = socket::open_as(exporter, beside).map_err(refused)?;
    let sent_as = outlet.local_addr().map_err(ProbeOutcome::NotTried)?.as_socket().unwrap_or(exporter);
    for length in [SHORT, LONG] {
        let payload = payload(length).map_err(ProbeOutcome::NotTried)?;
        segments::send_each(&outlet, &[&payload]).map_err(refused)?;
        match arrived(&inbox, &payload).map_err(ProbeOutcome::NotTried)? {
            None if length == SHORT => return Err(ProbeOutcome::Lost(exporter.ip())),
            None => return Err(ProbeOutcome::LongLost(exporter.ip(), length)),
            Some(from) if !is_same(from, sent_as) => return Err(ProbeOutcome::Rewritten(sent_as, from)),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Returns whether the address is one of this machine's; `None` if there is no route to it.
fn is_here(address: SocketAddr) -> io::Result<Option<bool>> {
    Ok(route::source_to(address)?.map(|source| route::is_own(address, source)))
}

/// Opens a socket on the collector's address and a free port.
fn inbox(collector: SocketAddr) -> io::Result<UdpSocket> {
    let mut beside = collector;
    beside.set_port(0);
    UdpSocket::bind(beside)
}

/// Returns an address with port 0, of the family of `collector`, that is neither this machine's nor an
/// exporter's.
fn foreign_address(collector: SocketAddr) -> io::Result<SocketAddr> {
    let v4 = FOREIGN_V4.map(IpAddr::from);
    let v6 = FOREIGN_V6.map(IpAddr::from);
    let candidates = if collector.is_ipv4() { v4.as_slice() } else { v6.as_slice() };
    for ip in candidates {
        if is_here(SocketAddr::new(*ip, collector.port()))? != Some(true) {
            return Ok(SocketAddr::new(*ip, 0));
        }
    }
    Err(io::Error::other("all documentation addresses belong to this machine"))
}

/// Returns a payload with a random token.
fn payload(length: usize) -> io::Result<Vec<u8>> {
    let mut token = [0; TOKEN];
    getrandom::fill(&mut token).map_err(io::Error::other)?;
    Ok(token.into_iter().cycle().take(length).collect())
}

/// Waits for `payload`. Returns its source address, or `None` if it does not arrive in time.
fn arrived(inbox: &UdpSocket, payload: &[u8]) -> io::Result<Option<SocketAddr>> {
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let mut room = vec![0; payload.len() + 1];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        inbox.set_read_timeout(Some(left))?;
        match inbox.recv_from(&mut room) {
            Ok((length, from)) if room.get(..length) == Some(payload) => return Ok(Some(from)),
            // A datagram of another process.
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether address and port are equal. Scopes and flow labels may differ.
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
    fn a_remote_collector_is_not_tested() {
        for address in ["192.0.2.77:9995", "[2001:db8::77]:9995"] {
            let outcome = probe(address.parse().unwrap());
            assert!(matches!(outcome, ProbeOutcome::Elsewhere | ProbeOutcome::NotTried(_)), "{outcome:?}");
        }
    }

    #[test]
    fn only_the_expected_payload_counts_as_arrived() {
        let inbox = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = UdpSocket::bind("127.0.0.2:0").unwrap();
        let expected = payload(64).unwrap();
        for sent in [payload(64).unwrap(), payload(65).unwrap(), expected.clone()] {
            from.send_to(&sent, inbox.local_addr().unwrap()).unwrap();
        }
        assert_eq!(arrived(&inbox, &expected).unwrap(), Some(from.local_addr().unwrap()));
    }

    #[test]
    fn test_addresses_are_foreign_and_of_one_family() {
        for collector in ["127.0.0.1:9995", "[::1]:9995"] {
            let collector: SocketAddr = collector.parse().unwrap();
            let foreign = foreign_address(collector).unwrap();
            assert_eq!(foreign.is_ipv4(), collector.is_ipv4());
            assert!(UdpSocket::bind(foreign).is_err());
        }
    }
}
