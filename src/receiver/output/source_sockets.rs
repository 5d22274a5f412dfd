//! Where datagrams to one collector come from: a socket for each exporter of each sender.
//!
//! Each socket either has the exporter's own address and port, or a port of this machine that no other exporter has. A
//! collector sees an exporter at the same port for as long as possible: a port is remembered when its socket closes.
//!
//! There are never more sockets than the share of this destination: the sender that has most closes the one that it used
//! longest ago.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use socket2::Socket;
use tokio::time::Instant;

use crate::config::SourceAddress;
use crate::host::is_out_of_files;
use crate::limits::{PORTS_PER_ADDRESS, PORTS_REMEMBERED, SEEN_AS_SHOWN};
use crate::receiver::output::budget::{SocketBudget, SocketShare};
use crate::receiver::output::exporters::{Exporters, Seen};
use crate::receiver::output::reachability::PROBE_WAIT;
use crate::receiver::output::socket::{self, Segments};
use crate::receiver::state::templates::next_number;

/// How long after it was used last a socket is asked for what ICMP said.
const ANSWERS_WITHIN: Duration = PROBE_WAIT.saturating_add(Duration::from_secs(1));

/// How often at the most all of these sockets are asked.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// One of so many sockets is closed when files run short.
const GIVEN_UP: usize = 8;

/// One address has at most one of so many sockets, however few there are.
const SHARE_OF_ADDRESS: usize = 4;

/// The sockets.
#[derive(Debug)]
pub(super) struct Sources {
    collector: SocketAddr,
    source: SourceAddress,
    /// Whether what ICMP says is to be told.
    hears_errors: bool,
    /// By the number of the sender.
    senders: HashMap<u64, Exporters>,
    share: SocketShare,
    asked: Instant,
}

/// The socket of one exporter.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) socket: Socket,
    pub(super) segments: Segments,
    /// What the collector sees.
    pub(super) seen: Seen,
    /// The collector saw the same exporter at another port before.
    pub(super) has_moved: bool,
    pub(super) used: Instant,
}

/// Whether datagrams of `exporter` to `collector` can bear the exporter's own address: a collector is reached in one family only,
/// and addresses that count on one link alone mean nothing here.
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

impl Sources {
    pub(super) fn new(
        collector: SocketAddr,
        source: SourceAddress,
        hears_errors: bool,
        budget: &Arc<SocketBudget>,
    ) -> Self {
        let share = SocketShare::of(budget);
        Self { collector, source, hears_errors, senders: HashMap::new(), share, asked: Instant::now() }
    }

    /// The socket for datagrams of `exporter`, which come by the sender of this number.
    pub(super) fn socket(&mut self, sender: u64, exporter: SocketAddr) -> io::Result<&mut Leaving> {
        let now = Instant::now();
        let is_open = self.exporters(sender).is_some_and(|exporters| exporters.has(&exporter));
        let key = if is_open { exporter } else { self.opened(sender, exporter, now)? };
        let leaving = self.senders.get_mut(&sender).and_then(|exporters| exporters.get_mut(&key));
        let leaving = leaving.ok_or(io::ErrorKind::NotFound)?;
        leaving.used = now;
        Ok(leaving)
    }

    /// Opens the socket for `exporter`, unless its address has one that it shares. Returns by which address it is found.
    fn opened(&mut self, sender: u64, exporter: SocketAddr, now: Instant) -> io::Result<SocketAddr> {
        let bears = self.bears(exporter);
        let most = PORTS_PER_ADDRESS.min(self.share.sockets() / SHARE_OF_ADDRESS).max(1);
        let key = self.senders.entry(sender).or_default().key_of(exporter, bears, most, now);
        if !self.exporters(sender).is_some_and(|exporters| exporters.has(&key)) {
            self.make_room();
            let leaving = match self.open(sender, key, now) {
                // There are fewer files than sockets may be: one closes.
                Err(error) if is_out_of_files(&error) && self.close_one() => self.open(sender, key, now)?,
                other => other?,
            };
            self.senders.entry(sender).or_default().put(key, leaving);
        }
        Ok(key)
    }

    fn exporters(&self, sender: u64) -> Option<&Exporters> {
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
            if !most.is_some_and(Exporters::forget_oldest) {
                break;
            }
            remembered -= 1;
        }
    }

    /// Closes the socket that the sender with most of them used longest ago; false if there is none.
    fn close_one(&mut self) -> bool {
        let most = self.senders.values_mut().max_by_key(|exporters| exporters.open());
        most.is_some_and(Exporters::close_oldest)
    }

    /// Closes some of the sockets, but not the last one, and says how many are left.
    pub(super) fn give_up_some(&mut self) -> usize {
        let open = |sources: &Self| sources.senders.values().map(Exporters::open).sum::<usize>();
        let before = open(self);
        let count = before.div_ceil(GIVEN_UP).min(before.saturating_sub(1));
        for _ in 0..count {
            self.close_one();
        }
        open(self)
    }

    /// Whether datagrams of `exporter` are to bear its own address.
    fn bears(&self, exporter: SocketAddr) -> bool {
        self.source == SourceAddress::Exporter && can_bear(self.collector, exporter)
    }

    /// Opens the socket of an exporter, or the one that stands for several of its ports.
    fn open(&self, sender: u64, key: SocketAddr, now: Instant) -> io::Result<Leaving> {
        let before = self.exporters(sender).and_then(|exporters| exporters.seen_before(&key));
        let socket = if self.bears(key) {
            self.open_as(key)?
        } else {
            socket::open_own(self.collector, before.map(|seen| seen.seen_as.port()))?
        };
        if self.hears_errors {
            socket::report_errors(&socket, self.collector)?;
        }
        let seen_as = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let same = before.filter(|seen| seen.seen_as == seen_as);
        let seen = same.unwrap_or_else(|| Seen { seen_as, number: next_number() });
        let has_moved = before.is_some() && same.is_none();
        Ok(Leaving { socket, segments: Segments::default(), seen, has_moved, used: now })
    }

    /// A socket that bears the exporter's address, or an own one where that is not possible.
    fn open_as(&self, exporter: SocketAddr) -> io::Result<Socket> {
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
            ) => socket::open_own(self.collector, None),
            _ => Err(error),
        })
    }

    /// What the collector sees, or saw, of each exporter, by the number of its sender.
    pub(super) fn seen(&self) -> impl Iterator<Item = (u64, SocketAddr, SocketAddr)> {
        self.senders.iter().flat_map(|(number, exporters)| {
            exporters.seen().map(|(exporter, seen)| (*number, exporter, seen.seen_as))
        })
    }

    /// Remembers what the collector saw of an exporter in an earlier run, so that it sees the same again. Returns the number of the
    /// socket.
    pub(super) fn remember(&mut self, sender: u64, exporter: SocketAddr, seen_as: SocketAddr) -> u64 {
        let number = next_number();
        self.senders.entry(sender).or_default().remember(exporter, Seen { seen_as, number });
        number
    }

    /// The exporters that had a socket, each with the number of its sender.
    pub(super) fn had(&self) -> impl Iterator<Item = (u64, SocketAddr)> {
        let of_sender = |(number, exporters): (&u64, &Exporters)| {
            let number = *number;
            exporters.had().map(move |key| (number, key)).collect::<Vec<_>>()
        };
        self.senders.iter().flat_map(of_sender)
    }

    /// What ICMP said recently about datagrams that were sent, if it was bad.
    pub(super) fn take_error(&mut self, now: Instant) -> Option<io::Error> {
        if !self.hears_errors || now.duration_since(self.asked) < ASKED_EVERY {
            return None;
        }
        self.asked = now;
        let is_recent = |leaving: &&Leaving| now.duration_since(leaving.used) < ANSWERS_WITHIN;
        // Of each sender, the one used last comes first.
        let recent = self
            .senders
            .values()
            .flat_map(|exporters| exporters.iter().map(|(_, leaving)| leaving).take_while(is_recent));
        recent.filter_map(|leaving| socket::take_error(&leaving.socket)).filter(is_unreachable).last()
    }

    /// Exporters that the collector sees under another address, and which; of each sender the one used last first, and no
    /// more than are shown. Port 0 stands for those of an exporter's ports that share a socket.
    pub(super) fn seen_as(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let all = self.senders.values().flat_map(Exporters::iter);
        let all = all.map(|(exporter, leaving)| (*exporter, leaving.seen.seen_as));
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
    use std::collections::HashSet;
    use std::net::UdpSocket;

    use super::*;
    use crate::limits::PORT_IDLE;

    /// The numbers of two senders.
    const SENDER: u64 = 1;
    const OTHER: u64 = 2;

    fn sources(collector: &UdpSocket, source: SourceAddress, bound: usize) -> Sources {
        let budget = SocketBudget::new(NonZeroUsize::new(bound).unwrap(), usize::MAX);
        Sources::new(collector.local_addr().unwrap(), source, false, &budget)
    }

    fn exporter(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 2055).into()
    }

    /// Which address the collector sees when a datagram of `exporter` is sent.
    fn seen_of(
        sources: &mut Sources,
        collector: &UdpSocket,
        sender: u64,
        exporter: SocketAddr,
    ) -> SocketAddr {
        let leaving = sources.socket(sender, exporter).unwrap();
        assert_eq!(socket::send(&leaving.socket, &[b"x"], &mut leaving.segments).unwrap().taken, 1);
        collector.recv_from(&mut [0; 2]).unwrap().1
    }

    fn seen(sources: &mut Sources, collector: &UdpSocket, exporter: SocketAddr) -> SocketAddr {
        seen_of(sources, collector, SENDER, exporter)
    }

    fn open(sources: &Sources) -> usize {
        sources.senders.values().map(Exporters::open).sum()
    }

    #[tokio::test]
    async fn each_exporter_has_a_port_of_its_own_for_as_long_as_there_is_room() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 2);
        let first = seen(&mut sources, &collector, exporter(1));
        let second = seen(&mut sources, &collector, exporter(2));
        assert_ne!(first, second);
        assert_eq!(seen(&mut sources, &collector, exporter(1)), first);
        assert_eq!(sources.seen_as(), [(exporter(1), first), (exporter(2), second)]);
        let third = seen(&mut sources, &collector, exporter(3));
        assert_eq!(sources.seen_as(), [(exporter(3), third), (exporter(1), first)]);
    }

    /// Ports that no other process is given by the kernel, as they are not in its range of ephemeral ports.
    fn fixed_ports() -> impl Iterator<Item = u16> {
        let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        (first..32_000).filter(|port| UdpSocket::bind(("0.0.0.0", *port)).is_ok())
    }

    /// Makes the collector have seen `exporter` at this port; returns what it saw.
    fn remember(sources: &mut Sources, exporter: SocketAddr, port: u16) -> Seen {
        let seen = Seen { seen_as: ([127, 0, 0, 1], port).into(), number: next_number() };
        sources.senders.entry(SENDER).or_default().remember(exporter, seen);
        seen
    }

    #[tokio::test]
    async fn a_port_is_remembered_when_its_socket_closes() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 2);
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
    async fn a_port_that_somebody_took_meanwhile_is_replaced() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 1);
        let port = fixed_ports().next().unwrap();
        let before = remember(&mut sources, exporter(1), port);
        let _taken = UdpSocket::bind(before.seen_as).unwrap();
        assert_ne!(seen(&mut sources, &collector, exporter(1)), before.seen_as);
        let leaving = sources.socket(SENDER, exporter(1)).unwrap();
        assert!(leaving.has_moved && leaving.seen.number > before.number);
    }

    #[tokio::test]
    async fn an_exporter_with_ever_new_ports_takes_few_sockets_and_no_others() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 1024);
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
    async fn an_idle_port_makes_room_for_a_new_one_of_its_address() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 8);
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
    async fn two_senders_with_the_same_exporter_have_a_port_each() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 8);
        let ports = [SENDER, OTHER].map(|sender| seen_of(&mut sources, &collector, sender, exporter(1)));
        assert_ne!(ports[0], ports[1]);
    }

    #[tokio::test]
    async fn a_sender_with_many_exporters_takes_no_socket_of_one_with_few() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 10);
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
        let mut sources = sources(&collector, SourceAddress::Own, 1);
        for number in 0..u32::try_from(PORTS_REMEMBERED).unwrap() + 100 {
            sources.socket(u64::from(number % 7), (number.to_be_bytes(), 1).into()).unwrap();
        }
        let remembered: usize = sources.senders.values().map(Exporters::remembered).sum();
        assert!(remembered <= PORTS_REMEMBERED, "{remembered}");
    }

    #[tokio::test]
    async fn sockets_unused_longest_are_given_up_but_not_the_last() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sources = sources(&collector, SourceAddress::Own, 100);
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
        let mut sources = Sources::new(collector.local_addr().unwrap(), SourceAddress::Own, false, &budget);
        for number in 1..=10 {
            seen(&mut sources, &collector, exporter(number));
        }
        let _other = SocketShare::of(&budget);
        seen(&mut sources, &collector, exporter(11));
        assert_eq!(open(&sources), 5);
    }

    #[tokio::test]
    async fn addresses_of_the_other_family_or_of_one_link_cannot_be_borne() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let v4 = sources(&collector, SourceAddress::Exporter, 2);
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
        let v6 = sources(&collector, SourceAddress::Exporter, 2);
        assert!(can_bear(v6.collector, "[2001:db8::1]:9".parse().unwrap()));
        assert!(!can_bear(v6.collector, "[fe80::1]:9".parse().unwrap()));
    }
}
