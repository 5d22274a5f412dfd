//! The sockets of one sender's exporters at one collector, and the ports that the collector saw before.
//!
//! Each address has a bounded number of sockets, so an exporter that keeps changing its port uses up no other
//! exporter's sockets. Its further ports share one socket. Where datagrams bear the exporter's port, they
//! replace each other instead.

use core::net::SocketAddr;
use std::collections::HashMap;

use lru::LruCache;
use socket2::Socket;
use tokio::time::Instant;

use crate::limits::PORT_IDLE;
use crate::receiver::output::segments::Segments;

/// Stands for all ports of an address that have no socket of their own.
const SHARED: u16 = 0;

/// The socket of one exporter.
#[derive(Debug)]
pub(super) struct SourceSocket {
    pub(super) socket: Socket,
    pub(super) segments: Segments,
    /// The source that the collector sees.
    pub(super) seen: SeenSource,
    /// True if the collector saw the same exporter at another port before.
    pub(super) has_moved: bool,
    pub(super) used: Instant,
}
/// The source address under which the collector sees an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenSource {
    /// Address and port.
    pub(super) seen_as: SocketAddr,
    /// Unique among the sources that the collector sees.
    pub(super) number: u64,
}

#[derive(Debug)]
pub(super) struct ExporterSockets {
    /// Most recently used first.
    open: LruCache<SocketAddr, SourceSocket>,
    /// Ports with a socket of their own, by address with port 0.
    addresses: HashMap<SocketAddr, Ports>,
    /// Sources of closed sockets.
    remembered: LruCache<SocketAddr, SeenSource>,
}

#[derive(Debug, Default)]
struct Ports {
    ports: Vec<u16>,
    /// Time of the last search for an idle port.
    looked: Option<Instant>,
}

impl Default for ExporterSockets {
    fn default() -> Self {
        Self { open: LruCache::unbounded(), addresses: HashMap::new(), remembered: LruCache::unbounded() }
    }
}

impl ExporterSockets {
    /// Returns the number of open sockets.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Returns the number of remembered sources of closed sockets.
    pub(super) fn remembered(&self) -> usize {
        self.remembered.len()
    }

    /// Iterates over the open sockets, most recently used first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&SocketAddr, &SourceSocket)> {
        self.open.iter()
    }

    /// Iterates over the exporters of all sockets, including closed ones. Port 0 stands for several ports.
    pub(super) fn served(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.iter().map(|(key, _)| *key).chain(self.remembered.iter().map(|(key, _)| *key))
    }

    pub(super) fn has(&self, key: &SocketAddr) -> bool {
        self.open.contains(key)
    }

    pub(super) fn get_mut(&mut self, key: &SocketAddr) -> Option<&mut SourceSocket> {
        self.open.get_mut(key)
    }

    /// Iterates over the exporters of all sockets, including closed ones, with the source that the collector
    /// saw. The most recently used comes last.
    pub(super) fn seen(&self) -> impl Iterator<Item = (SocketAddr, SeenSource)> {
        let closed = self.remembered.iter().rev().map(|(key, seen)| (*key, *seen));
        closed.chain(self.open.iter().rev().map(|(key, leaving)| (*key, leaving.seen)))
    }

    /// Returns the source under which the collector saw an exporter whose socket was closed.
    pub(super) fn seen_before(&self, key: &SocketAddr) -> Option<SeenSource> {
        self.remembered.peek(key).copied()
    }

    /// Assigns a key to the socket of `exporter`, which has none open: its own address and port, or the
    /// shared port of its address.
    ///
    /// At most `most` ports of an address have sockets of their own. If datagrams bear the exporter's port,
    /// or a port is idle, the least recently used socket is closed to make room.
    pub(super) fn assign_key(
        &mut self,
        exporter: SocketAddr,
        bears_port: bool,
        most: usize,
        now: Instant,
    ) -> SocketAddr {
        let shared = with_port(exporter, SHARED);
        let ports = self.addresses.get_mut(&shared).filter(|ports| ports.ports.len() >= most);
        let Some(ports) = ports else { return exporter };
        let is_early = ports.looked.is_some_and(|looked| now.duration_since(looked) < PORT_IDLE);
        if is_early && !bears_port {
            return shared;
        }
        ports.looked = Some(now);
        let keys = ports.ports.iter().map(|port| with_port(exporter, *port));
        let used = keys.filter_map(|key| Some((key, self.open.peek(&key)?.used)));
        match used.min_by_key(|(_, used)| *used) {
            Some((key, used)) if bears_port || now.duration_since(used) >= PORT_IDLE => {
                self.close(&key);
                exporter
            }
            _ => shared,
        }
    }

    pub(super) fn put(&mut self, key: SocketAddr, leaving: SourceSocket) {
        self.remembered.pop(&key);
        if key.port() != SHARED {
            self.addresses.entry(with_port(key, SHARED)).or_default().ports.push(key.port());
        }
        self.open.put(key, leaving);
    }

    /// Closes the least recently used socket. Returns `false` if there is none.
    pub(super) fn close_oldest(&mut self) -> bool {
        let oldest = self.open.peek_lru().map(|(key, _)| *key);
        oldest.is_some_and(|key| self.close(&key))
    }

    /// Remembers the source of an exporter that has no socket now.
    pub(super) fn remember(&mut self, key: SocketAddr, seen: SeenSource) {
        self.remembered.put(key, seen);
    }

    /// Forgets the source that was remembered first. Returns `false` if there is none.
    pub(super) fn forget_oldest(&mut self) -> bool {
        self.remembered.pop_lru().is_some()
    }

    fn close(&mut self, key: &SocketAddr) -> bool {
        let Some(leaving) = self.open.pop(key) else { return false };
        self.remember(*key, leaving.seen);
        let address = with_port(*key, SHARED);
        if let Some(ports) = self.addresses.get_mut(&address) {
            ports.ports.retain(|port| *port != key.port());
            if ports.ports.is_empty() {
                self.addresses.remove(&address);
            }
        }
        true
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}
