//! Where datagrams to one collector come from: a socket for each exporter.
//!
//! Each socket either has the exporter's own address and port, or a port of this machine that no other exporter has. There
//! are never more than the share of this destination: the one unused longest makes room.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use lru::LruCache;
use socket2::Socket;
use tokio::time::Instant;

use crate::config::Source;
use crate::limits::SEEN_AS_SHOWN;
use crate::receiver::output::budget::{SocketBudget, SocketShare};
use crate::receiver::output::reach::PROBE_WAIT;
use crate::receiver::output::socket::{self, Segments};
use crate::service::is_out_of_files;

/// How long after it was used last a socket is asked for what ICMP said.
const ANSWERS_WITHIN: Duration = PROBE_WAIT.saturating_add(Duration::from_secs(1));

/// How often at the most all of these sockets are asked.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// One of so many sockets is closed when files run short.
const GIVEN_UP: usize = 8;

/// The sockets.
#[derive(Debug)]
pub(super) struct Sources {
    collector: SocketAddr,
    source: Source,
    /// Whether what ICMP says is to be told.
    hears_errors: bool,
    sockets: LruCache<SocketAddr, Leaving>,
    share: SocketShare,
    asked: Instant,
}

/// The socket of one exporter.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) socket: Socket,
    pub(super) segments: Segments,
    /// The address and port that the collector sees.
    pub(super) seen_as: SocketAddr,
    used: Instant,
}

impl Sources {
    pub(super) fn new(
        collector: SocketAddr,
        source: Source,
        hears_errors: bool,
        budget: &Arc<SocketBudget>,
    ) -> Self {
        let (sockets, share) = (LruCache::unbounded(), SocketShare::of(budget));
        Self { collector, source, hears_errors, sockets, share, asked: Instant::now() }
    }

    /// The socket for datagrams of `exporter`.
    pub(super) fn socket(&mut self, exporter: SocketAddr) -> io::Result<&mut Leaving> {
        let now = Instant::now();
        if !self.sockets.contains(&exporter) {
            while self.sockets.len() >= self.share.sockets() && self.sockets.pop_lru().is_some() {}
            let leaving = match self.open(exporter, now) {
                // There are fewer files than sockets may be: the one unused longest goes.
                Err(error) if is_out_of_files(&error) && self.sockets.pop_lru().is_some() => {
                    self.open(exporter, now)?
                }
                other => other?,
            };
            self.sockets.push(exporter, leaving);
        }
        let leaving = self.sockets.get_mut(&exporter).ok_or(io::ErrorKind::NotFound)?;
        leaving.used = now;
        Ok(leaving)
    }

    /// Closes some of the sockets unused longest, but not the last one, and says how many are left.
    pub(super) fn give_up_some(&mut self) -> usize {
        let count = self.sockets.len().div_ceil(GIVEN_UP).min(self.sockets.len().saturating_sub(1));
        for _ in 0..count {
            self.sockets.pop_lru();
        }
        self.sockets.len()
    }

    /// Whether datagrams of `exporter` can bear its own address: a collector is reached in one family only, and addresses
    /// that count on one link alone mean nothing here.
    pub(super) fn can_bear(&self, exporter: SocketAddr) -> bool {
        let ip = exporter.ip();
        let is_link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        exporter.is_ipv4() == self.collector.is_ipv4()
            && exporter.port() != 0
            && !(ip.is_unspecified() || ip.is_multicast() || is_link_local)
    }

    /// Whether the collector will see the next datagram of `exporter` come from where it saw the last one.
    pub(super) fn is_seen_as_before(&self, exporter: SocketAddr) -> bool {
        self.sockets.contains(&exporter) || self.bears(exporter)
    }

    /// Whether datagrams of `exporter` are to bear its own address.
    fn bears(&self, exporter: SocketAddr) -> bool {
        self.source == Source::Exporter && self.can_bear(exporter)
    }

    fn open(&self, exporter: SocketAddr, now: Instant) -> io::Result<Leaving> {
        let socket = if self.bears(exporter) {
            socket::open_as(exporter, self.collector).or_else(|error| match error.raw_os_error() {
                Some(libc::EPERM) => Err(io::Error::new(
                    error.kind(),
                    "sending from the addresses of exporters takes CAP_NET_RAW, and PrivateUsers=no: \
                     `nf-receiver check` tells more",
                )),
                // Somebody on this machine has that address and port, it is a port for the privileged, the address means
                // nothing on the way there, as 127.0.0.1 does not beyond this machine, or no route leads there from it.
                Some(
                    libc::EADDRINUSE
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::EADDRNOTAVAIL
                    | libc::EAFNOSUPPORT
                    | libc::EHOSTUNREACH
                    | libc::ENETUNREACH,
                ) => socket::open_own(self.collector),
                _ => Err(error),
            })?
        } else {
            socket::open_own(self.collector)?
        };
        if self.hears_errors {
            socket::report_errors(&socket, self.collector)?;
        }
        let seen_as = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Leaving { socket, segments: Segments::default(), seen_as, used: now })
    }

    /// What ICMP said of late about datagrams that were sent, if it was bad.
    pub(super) fn take_error(&mut self, now: Instant) -> Option<io::Error> {
        if !self.hears_errors || now.duration_since(self.asked) < ASKED_EVERY {
            return None;
        }
        self.asked = now;
        // The one used last comes first.
        let recent = self
            .sockets
            .iter()
            .map(|(_, leaving)| leaving)
            .take_while(|leaving| now.duration_since(leaving.used) < ANSWERS_WITHIN);
        recent.filter_map(|leaving| socket::take_error(&leaving.socket)).filter(is_unreachable).last()
    }

    /// Exporters that the collector sees under another address, and which; the one used last first, and no more than are
    /// shown.
    pub(super) fn seen_as(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let all = self.sockets.iter().map(|(exporter, leaving)| (*exporter, leaving.seen_as));
        all.filter(|(exporter, seen_as)| exporter != seen_as).take(SEEN_AS_SHOWN).collect()
    }
}

/// Whether the error tells that a collector cannot be reached, by itself or by the network.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EACCES
        )
    )
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;
    use std::net::UdpSocket;

    use super::*;

    fn sources(collector: &UdpSocket, source: Source, bound: usize) -> Sources {
        let budget = SocketBudget::new(NonZeroUsize::new(bound).unwrap(), usize::MAX);
        Sources::new(collector.local_addr().unwrap(), source, false, &budget)
    }

    fn exporter(number: u16) -> SocketAddr {
        format!("192.0.2.1:{number}").parse().unwrap()
    }

    /// Which address the collector sees when a datagram of `exporter` is sent.
    fn seen(sources: &mut Sources, collector: &UdpSocket, exporter: SocketAddr) -> SocketAddr {
        let leaving = sources.socket(exporter).unwrap();
        assert_eq!(socket::send(&leaving.socket, &[b"x"], &mut leaving.segments).unwrap().taken, 1);
        collector.recv_from(&mut [0; 2]).unwrap().1
    }

    #[tokio::test]
    async fn each_exporter_has_a_port_of_its_own_for_as_long_as_there_is_room() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 2);
        let first = seen(&mut sources, &collector, exporter(1));
        let second = seen(&mut sources, &collector, exporter(2));
        assert_ne!(first, second);
        assert_eq!(seen(&mut sources, &collector, exporter(1)), first);
        assert_eq!(sources.seen_as(), [(exporter(1), first), (exporter(2), second)]);
        let third = seen(&mut sources, &collector, exporter(3));
        assert_eq!(sources.seen_as(), [(exporter(3), third), (exporter(1), first)]);
    }

    #[tokio::test]
    async fn sockets_unused_longest_are_given_up_but_not_the_last() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 100);
        let seen: Vec<_> =
            (0..10).map(|number| seen(&mut sources, &collector, exporter(number + 1))).collect();
        assert_eq!(sources.give_up_some(), 8);
        assert_eq!(sources.seen_as().last(), Some(&(exporter(3), seen[2])));
        for _ in 0..8 {
            sources.give_up_some();
        }
        assert_eq!(sources.seen_as(), [(exporter(10), seen[9])]);
    }

    #[tokio::test]
    async fn a_smaller_share_closes_sockets_when_the_next_one_opens() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let budget = SocketBudget::new(NonZeroUsize::new(100).unwrap(), 10);
        let mut sources = Sources::new(collector.local_addr().unwrap(), Source::Own, false, &budget);
        for number in 1..=10 {
            seen(&mut sources, &collector, exporter(number));
        }
        let _other = SocketShare::of(&budget);
        seen(&mut sources, &collector, exporter(11));
        assert_eq!(sources.sockets.len(), 5);
    }

    #[tokio::test]
    async fn addresses_of_the_other_family_or_of_one_link_cannot_be_borne() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let v4 = sources(&collector, Source::Exporter, 2);
        for (exporter, expected) in [
            ("192.0.2.1:9", true),
            ("127.0.0.5:9", true),
            ("192.0.2.1:0", false),
            ("[2001:db8::1]:9", false),
            ("0.0.0.0:9", false),
            ("224.0.0.1:9", false),
            ("255.255.255.255:9", false),
            ("169.254.1.1:9", false),
        ] {
            assert_eq!(v4.can_bear(exporter.parse().unwrap()), expected, "{exporter}");
        }
        let collector = UdpSocket::bind("[::1]:0").unwrap();
        let v6 = sources(&collector, Source::Exporter, 2);
        assert!(v6.can_bear("[2001:db8::1]:9".parse().unwrap()));
        assert!(!v6.can_bear("[fe80::1]:9".parse().unwrap()));
    }
}
