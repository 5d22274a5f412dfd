//! The source sockets of datagrams to one collector: one socket for each exporter of each sender.
//!
//! Each socket has either the exporter's own address and port, or a port of this machine that no other
//! exporter has. A collector sees an exporter at the same port for as long as possible: a port is remembered
//! when its socket closes.
//!
//! The number of sockets never exceeds the share of this destination. To open one more, the sender with most
//! sockets closes its least recently used one.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use socket2::Socket;
use tokio::time::Instant;

use crate::config::Source;
use crate::host::is_out_of_files;
use crate::limits::{PORTS_PER_ADDRESS, PORTS_REMEMBERED, SEEN_AS_SHOWN};
use crate::receiver::output::budget::{SocketBudget, SocketShare};
use crate::receiver::output::exporters::{ExporterSockets, SeenSource};
use crate::receiver::output::reachability::PROBE_WAIT;
use crate::receiver::output::socket::{self, Segments};
use crate::receiver::state::templates::next_number;

/// Time after its last use for which a socket is checked for ICMP errors.
const ANSWERS_WITHIN: Duration = PROBE_WAIT.saturating_add(Duration::from_secs(1));

/// Shortest interval between two checks of all these sockets.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// When file descriptors run out, one in this many sockets is closed.
const CLOSED_PER_SHORTAGE: usize = 8;

/// One address gets at most one in this many sockets, however few there are.
const SHARE_OF_ADDRESS: usize = 4;

#[derive(Debug)]
pub(super) struct SourceSockets {
    collector: SocketAddr,
    source: Source,
    /// Whether ICMP errors are read and reported.
    reads_icmp_errors: bool,
    /// By the number of the sender.
    senders: HashMap<u64, ExporterSockets>,
    share: SocketShare,
    asked: Instant,
}

/// The socket of one exporter.
#[derive(Debug)]
pub(super) struct SourceSocket {
    pub(super) socket: Socket,
    pub(super) segments: Segments,
    /// The source that the collector sees.
    pub(super) seen: SeenSource,
    /// Whether the collector saw the same exporter at another port before.
    pub(super) has_moved: bool,
    pub(super) used: Instant,
}

/// Returns whether datagrams of `exporter` to `collector` can bear the exporter's own address. A collector is
/// reached in one family only, and link-local addresses have no meaning here.
pub(super) fn can_bear(collector: SocketAddr, exporter: SocketAddr) -> bool {
    let ip = exporter.ip();
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    exporter.is_ipv4() == collector.is_ipv4()
        && exporter.port() != 0
        && !(ip.is_unspecified() || ip.is_multicast() || is_link_local)
}

impl SourceSockets {
    pub(super) fn new(
        collector: SocketAddr,
        source: Source,
        hears_errors: bool,
        budget: &Arc<SocketBudget>,
    ) -> Self {
        let share = SocketShare::of(budget);
        Self {
            collector,
            source,
            reads_icmp_errors: hears_errors,
            senders: HashMap::new(),
            share,
            asked: Instant::now(),
        }
    }

    /// Returns the socket for datagrams of `exporter` that come from the sender with this number. Opens it if
    /// needed.
    pub(super) fn socket(&mut self, sender: u64, exporter: SocketAddr) -> io::Result<&mut SourceSocket> {
        let now = Instant::now();
        let is_open = self.exporters(sender).is_some_and(|exporters| exporters.has(&exporter));
        let key = if is_open { exporter } else { self.find_or_open(sender, exporter, now)? };
        let leaving = self.senders.get_mut(&sender).and_then(|exporters| exporters.get_mut(&key));
        let leaving = leaving.ok_or(io::ErrorKind::NotFound)?;
        leaving.used = now;
        Ok(leaving)
    }

    /// Opens the socket for `exporter`, unless its address has a shared one. Returns the key of the socket.
    fn find_or_open(&mut self, sender: u64, exporter: SocketAddr, now: Instant) -> io::Result<SocketAddr> {
        let bears = self.bears(exporter);
        let most = PORTS_PER_ADDRESS.min(self.share.sockets() / SHARE_OF_ADDRESS).max(1);
        let key = self.senders.entry(sender).or_default().key_of(exporter, bears, most, now);
        if !self.exporters(sender).is_some_and(|exporters| exporters.has(&key)) {
            self.make_room();
            let leaving = match self.open(sender, key, now) {
                // Fewer files may be open than the bound of sockets: close one and retry.
                Err(error) if is_out_of_files(&error) && self.close_one() => self.open(sender, key, now)?,
                other => other?,
            };
            self.senders.entry(sender).or_default().put(key, leaving);
        }
        Ok(key)
    }

    fn exporters(&self, sender: u64) -> Option<&ExporterSockets> {
        self.senders.get(&sender)
    }

    /// Closes sockets until there is room for one more, and forgets ports if too many are remembered.
    fn make_room(&mut self) {
        self.senders.retain(|_, exporters| exporters.open() + exporters.remembered() > 0);
        let (mut open, mut remembered) =
            self.senders.values().fold((0, 0), |(open, remembered), exporters| {
                (open + exporters.open(), remembered + exporters.remembered())
            });
        while open >= self.share.sockets() && self.close_one() {
            open -= 1;
            remembered += 1;
        }
        while remembered > PORTS_REMEMBERED {
            let most = self.senders.values_mut().max_by_key(|exporters| exporters.remembered());
            if !most.is_some_and(ExporterSockets::forget_oldest) {
                break;
            }
            remembered -= 1;
        }
    }

    /// Closes the least recently used socket of the sender with most sockets. Returns `false` if there is
    /// none.
    fn close_one(&mut self) -> bool {
        let most = self.senders.values_mut().max_by_key(|exporters| exporters.open());
        most.is_some_and(ExporterSockets::close_oldest)
    }

    /// Closes some of the sockets, but never the last one. Returns the number that is left.
    pub(super) fn close_some(&mut self) -> usize {
        let open = |sources: &Self| sources.senders.values().map(ExporterSockets::open).sum::<usize>();
        let before = open(self);
        let count = before.div_ceil(CLOSED_PER_SHORTAGE).min(before.saturating_sub(1));
        for _ in 0..count {
            self.close_one();
        }
        open(self)
    }

    /// Returns whether datagrams of `exporter` must bear its own address.
    fn bears(&self, exporter: SocketAddr) -> bool {
        self.source == Source::Exporter && can_bear(self.collector, exporter)
    }

    /// Opens the socket of an exporter, or the one that several of its ports share.
    fn open(&self, sender: u64, key: SocketAddr, now: Instant) -> io::Result<SourceSocket> {
        let before = self.exporters(sender).and_then(|exporters| exporters.seen_before(&key));
        let socket = if self.bears(key) {
            self.open_as(key)?
        } else {
            socket::open_own(self.collector, before.map(|seen| seen.seen_as.port()))?
        };
        if self.reads_icmp_errors {
            socket::report_errors(&socket, self.collector)?;
        }
        let seen_as = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let same = before.filter(|seen| seen.seen_as == seen_as);
        let seen = same.unwrap_or_else(|| SeenSource { seen_as, number: next_number() });
        let has_moved = before.is_some() && same.is_none();
        Ok(SourceSocket { socket, segments: Segments::default(), seen, has_moved, used: now })
    }

    /// Opens a socket with the exporter's address. Falls back to an own address where that is not possible.
    fn open_as(&self, exporter: SocketAddr) -> io::Result<Socket> {
        socket::open_as(exporter, self.collector).or_else(|error| match error.raw_os_error() {
            Some(libc::EPERM) => Err(io::Error::new(
                error.kind(),
                "sending from exporters' addresses needs CAP_NET_RAW and PrivateUsers=no; run nf-receiver \
                 check for details",
            )),
            // The address and port are in use on this machine, the port is privileged, the address is invalid
            // on this path (127.0.0.1 to another machine), or there is no route from it.
            Some(
                libc::EADDRINUSE
                | libc::EACCES
                | libc::EINVAL
                | libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH,
            ) => socket::open_own(self.collector, None),
            _ => Err(error),
        })
    }

    /// Iterates over the source that the collector sees, or saw, of each exporter, with the number of its
    /// sender.
    pub(super) fn seen(&self) -> impl Iterator<Item = (u64, SocketAddr, SocketAddr)> {
        self.senders.iter().flat_map(|(number, exporters)| {
            exporters.seen().map(|(exporter, seen)| (*number, exporter, seen.seen_as))
        })
    }

    /// Remembers the source that the collector saw of an exporter in an earlier run, so that it sees the same
    /// one again. Returns the number of the source.
    pub(super) fn remember(&mut self, sender: u64, exporter: SocketAddr, seen_as: SocketAddr) -> u64 {
        let number = next_number();
        self.senders.entry(sender).or_default().remember(exporter, SeenSource { seen_as, number });
        number
    }

    /// Iterates over the exporters that had a socket, each with the number of its sender.
    pub(super) fn served(&self) -> impl Iterator<Item = (u64, SocketAddr)> {
        let of_sender = |(number, exporters): (&u64, &ExporterSockets)| {
            let number = *number;
            exporters.served().map(move |key| (number, key)).collect::<Vec<_>>()
        };
        self.senders.iter().flat_map(of_sender)
    }

    /// Takes the latest ICMP error about datagrams that were sent recently.
    pub(super) fn take_error(&mut self, now: Instant) -> Option<io::Error> {
        if !self.reads_icmp_errors || now.duration_since(self.asked) < ASKED_EVERY {
            return None;
        }
        self.asked = now;
        let is_recent = |leaving: &&SourceSocket| now.duration_since(leaving.used) < ANSWERS_WITHIN;
        // The sockets of each sender are sorted by last use.
        let recent = self
            .senders
            .values()
            .flat_map(|exporters| exporters.iter().map(|(_, leaving)| leaving).take_while(is_recent));
        recent.filter_map(|leaving| socket::take_error(&leaving.socket)).filter(is_unreachable).last()
    }

    /// Returns pairs of an exporter's address and the address under which the collector sees it, where they
    /// differ. Those of each sender are sorted by last use, and the list is limited to [`SEEN_AS_SHOWN`].
    /// Port 0 stands for ports that share a socket.
    pub(super) fn seen_as(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let all = self.senders.values().flat_map(ExporterSockets::iter);
        let all = all.map(|(exporter, leaving)| (*exporter, leaving.seen.seen_as));
        all.filter(|(exporter, seen_as)| exporter != seen_as).take(SEEN_AS_SHOWN).collect()
    }
}

/// Returns whether the error means that the collector or its network is unreachable.
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
    use std::collections::HashSet;
    use std::net::UdpSocket;

    use super::*;
    use crate::limits::PORT_IDLE;

    /// The numbers of two senders.
    const SENDER: u64 = 1;
    const OTHER: u64 = 2;

    fn sources(collector: &UdpSocket, source: Source, bound: usize) -> SourceSockets {
        let budget = SocketBudget::new(NonZeroUsize::new(bound).unwrap(), usize::MAX);
        SourceSockets::new(collector.local_addr().unwrap(), source, false, &budget)
    }

    fn exporter(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 2055).into()
    }

    /// Sends a datagram of `exporter`. Returns the source address that the collector sees.
    fn seen_of(
        sources: &mut SourceSockets,
        collector: &UdpSocket,
        sender: u64,
        exporter: SocketAddr,
    ) -> SocketAddr {
        let leaving = sources.socket(sender, exporter).unwrap();
        assert_eq!(socket::send(&leaving.socket, &[b"x"], &mut leaving.segments).unwrap().accepted, 1);
        collector.recv_from(&mut [0; 2]).unwrap().1
    }

    fn seen(sources: &mut SourceSockets, collector: &UdpSocket, exporter: SocketAddr) -> SocketAddr {
        seen_of(sources, collector, SENDER, exporter)
    }

    fn open(sources: &SourceSockets) -> usize {
        sources.senders.values().map(ExporterSockets::open).sum()
    }

    #[tokio::test]
    async fn each_exporter_has_its_own_port() {
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

    /// Ports outside the range of ephemeral ports, which the kernel gives to no other process.
    fn fixed_ports() -> impl Iterator<Item = u16> {
        let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        (first..32_000).filter(|port| UdpSocket::bind(("0.0.0.0", *port)).is_ok())
    }

    /// Makes `sources` remember that the collector saw `exporter` at this port.
    fn remember(sources: &mut SourceSockets, exporter: SocketAddr, port: u16) -> SeenSource {
        let seen = SeenSource { seen_as: ([127, 0, 0, 1], port).into(), number: next_number() };
        sources.senders.entry(SENDER).or_default().remember(exporter, seen);
        seen
    }

    #[tokio::test]
    async fn a_port_is_remembered_when_its_socket_closes() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 2);
        let exporters: Vec<_> = (1..=20).map(exporter).collect();
        let ports = exporters.iter().zip(fixed_ports());
        let remembered: Vec<_> =
            ports.map(|(exporter, port)| remember(&mut sources, *exporter, port)).collect();
        for _ in 0..3 {
            for (exporter, before) in exporters.iter().zip(&remembered) {
                assert_eq!(seen(&mut sources, &collector, *exporter), before.seen_as);
                let leaving = sources.socket(SENDER, *exporter).unwrap();
                assert_eq!((leaving.seen, leaving.has_moved), (*before, false));
            }
        }
    }

    #[tokio::test]
    async fn a_port_taken_meanwhile_is_replaced() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 1);
        let port = fixed_ports().next().unwrap();
        let before = remember(&mut sources, exporter(1), port);
        let _taken = UdpSocket::bind(before.seen_as).unwrap();
        assert_ne!(seen(&mut sources, &collector, exporter(1)), before.seen_as);
        let leaving = sources.socket(SENDER, exporter(1)).unwrap();
        assert!(leaving.has_moved && leaving.seen.number > before.number);
    }

    #[tokio::test]
    async fn changing_ports_use_few_sockets() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 1024);
        let other = seen(&mut sources, &collector, exporter(9));
        let mut local = HashSet::new();
        let from_port = |port| SocketAddr::from(([192, 0, 2, 1], port));
        for port in (1..=1060).cycle().take(5000) {
            local.insert(seen(&mut sources, &collector, from_port(port)));
        }
        assert_eq!((local.len(), open(&sources)), (PORTS_PER_ADDRESS + 1, PORTS_PER_ADDRESS + 2));
        assert_eq!(seen(&mut sources, &collector, exporter(9)), other);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_port_makes_room_for_a_new_one() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 8);
        let from_port = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let all = [1, 2, 3, 4].map(|port| seen(&mut sources, &collector, from_port(port)));
        assert_eq!(all[2], all[3], "two have sockets of their own");
        tokio::time::advance(PORT_IDLE).await;
        assert_eq!(seen(&mut sources, &collector, from_port(2)), all[1]);
        assert_ne!(seen(&mut sources, &collector, from_port(3)), all[2]);
        assert_eq!(seen(&mut sources, &collector, from_port(2)), all[1]);
        assert_eq!(seen(&mut sources, &collector, from_port(1)), all[2], "shared by the others");
    }

    #[tokio::test]
    async fn two_senders_of_one_exporter_have_two_ports() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 8);
        let ports = [SENDER, OTHER].map(|sender| seen_of(&mut sources, &collector, sender, exporter(1)));
        assert_ne!(ports[0], ports[1]);
    }

    #[tokio::test]
    async fn many_exporters_take_no_socket_of_others() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 10);
        seen_of(&mut sources, &collector, OTHER, exporter(1));
        for number in 1..=100 {
            seen(&mut sources, &collector, exporter(number));
        }
        assert_eq!(open(&sources), 10);
        assert_eq!(sources.senders[&OTHER].open(), 1);
    }

    #[tokio::test]
    async fn remembered_ports_are_bounded() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 1);
        for number in 0..u32::try_from(PORTS_REMEMBERED).unwrap() + 100 {
            sources.socket(u64::from(number % 7), (number.to_be_bytes(), 1).into()).unwrap();
        }
        let remembered: usize = sources.senders.values().map(ExporterSockets::remembered).sum();
        assert!(remembered <= PORTS_REMEMBERED, "{remembered}");
    }

    #[tokio::test]
    async fn shedding_closes_unused_sockets_first() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, Source::Own, 100);
        let seen: Vec<_> =
            (0..10).map(|number| seen(&mut sources, &collector, exporter(number + 1))).collect();
        assert_eq!(sources.close_some(), 8);
        assert_eq!(sources.seen_as().last(), Some(&(exporter(3), seen[2])));
        for _ in 0..8 {
            sources.close_some();
        }
        assert_eq!(sources.seen_as(), [(exporter(10), seen[9])]);
    }

    #[tokio::test]
    async fn a_smaller_share_applies_at_the_next_open() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let budget = SocketBudget::new(NonZeroUsize::new(100).unwrap(), 10);
        let mut sources = SourceSockets::new(collector.local_addr().unwrap(), Source::Own, false, &budget);
        for number in 1..=10 {
            seen(&mut sources, &collector, exporter(number));
        }
        let _other = SocketShare::of(&budget);
        seen(&mut sources, &collector, exporter(11));
        assert_eq!(open(&sources), 5);
    }

    #[tokio::test]
    async fn link_local_and_other_family_are_not_borne() {
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
            assert_eq!(can_bear(v4.collector, exporter.parse().unwrap()), expected, "{exporter}");
        }
        let collector = UdpSocket::bind("[::1]:0").unwrap();
        let v6 = sources(&collector, Source::Exporter, 2);
        assert!(can_bear(v6.collector, "[2001:db8::1]:9".parse().unwrap()));
        assert!(!can_bear(v6.collector, "[fe80::1]:9".parse().unwrap()));
    }
}
