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

use crate::config::SourceAddress;
use crate::host::is_out_of_files;
use crate::limits::{PORTS_PER_ADDRESS, PORTS_REMEMBERED, SEEN_AS_SHOWN};
use crate::receiver::numbers::next_number;
use crate::receiver::output::budget::{SocketBudget, SocketShare};
use crate::receiver::output::exporter_sockets::{ExporterSockets, SeenSource, SourceSocket};
use crate::receiver::output::reachability::PROBE_WAIT;
use crate::receiver::output::segments::Segments;
use crate::receiver::output::socket;
use crate::receiver::output::system_error::SystemError;

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
    source: SourceAddress,
    /// True if ICMP errors are read and reported.
    reads_icmp_errors: bool,
    /// By the number of the sender.
    senders: HashMap<u64, ExporterSockets>,
    share: SocketShare,
    asked: Instant,
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
        source: SourceAddress,
        hears_errors: bool,
        budget: &Arc<SocketBudget>,
    ) -> Self {
        let share = SocketShare::within(budget);
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
        let key = self.senders.entry(sender).or_default().assign_key(exporter, bears, most, now);
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
        self.source == SourceAddress::Exporter && can_bear(self.collector, exporter)
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
            Some(libc::EPERM) => Err(io::Error::new(error.kind(), SystemError::NoForeignSource)),
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
mod tests;
