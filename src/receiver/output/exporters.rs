//! The sockets of one sender's exporters at one collector, and the ports that the collector saw before.
//!
//! An address has a bounded number of sockets, so that an exporter that sends from ever new ports takes no
//! other's: its other ports share one more or, where datagrams bear the exporter's port, make room for each other.

use core::net::SocketAddr;
use std::collections::HashMap;

use lru::LruCache;
use tokio::time::Instant;

use crate::limits::PORT_IDLE;
use crate::receiver::output::source_sockets::Leaving;

/// The port that stands for all ports of an address that have no socket of their own.
const SHARED: u16 = 0;

/// What the collector sees of an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The address and port.
    pub(super) seen_as: SocketAddr,
    /// Unique among the addresses and ports that the collector sees.
    pub(super) number: u64,
}

/// The sockets.
#[derive(Debug)]
pub(super) struct Exporters {
    /// The one used last comes first.
    open: LruCache<SocketAddr, Leaving>,
    /// The ports of each address that have a socket of their own.
    addresses: HashMap<SocketAddr, Ports>,
    /// Of sockets that were closed.
    remembered: LruCache<SocketAddr, Seen>,
}

#[derive(Debug, Default)]
struct Ports {
    ports: Vec<u16>,
    /// When they were last looked through for one that is idle.
    looked: Option<Instant>,
}

impl Default for Exporters {
    fn default() -> Self {
        Self { open: LruCache::unbounded(), addresses: HashMap::new(), remembered: LruCache::unbounded() }
    }
}

impl Exporters {
    /// Sockets that are open.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Ports that are remembered of closed ones.
    pub(super) fn remembered(&self) -> usize {
        self.remembered.len()
    }

    /// All sockets, the one used last first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&SocketAddr, &Leaving)> {
        self.open.iter()
    }

    /// The addresses and ports of all sockets, closed ones too; port 0 stands for several.
    pub(super) fn had(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.iter().map(|(key, _)| *key).chain(self.remembered.iter().map(|(key, _)| *key))
    }

    pub(super) fn has(&self, key: &SocketAddr) -> bool {
        self.open.contains(key)
    }

    pub(super) fn get_mut(&mut self, key: &SocketAddr) -> Option<&mut Leaving> {
        self.open.get_mut(key)
    }

    /// All addresses and ports, of closed sockets too, and what the collector saw of each; the one used last comes last.
    pub(super) fn seen(&self) -> impl Iterator<Item = (SocketAddr, Seen)> {
        let closed = self.remembered.iter().rev().map(|(key, seen)| (*key, *seen));
        closed.chain(self.open.iter().rev().map(|(key, leaving)| (*key, leaving.seen)))
    }

    /// What the collector saw of an exporter whose socket was closed.
    pub(super) fn seen_before(&self, key: &SocketAddr) -> Option<Seen> {
        self.remembered.peek(key).copied()
    }

    /// The address and port by which the socket of `exporter`, which has none open, is to be found: its own, or that which
    /// others of its ports share.
    /// At most `most` ports of an address have sockets of their own. Where datagrams bear the exporter's port, or a port is
    /// idle, the oldest one's socket is closed for it.
    pub(super) fn key_of(
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

    pub(super) fn put(&mut self, key: SocketAddr, leaving: Leaving) {
        self.remembered.pop(&key);
        if key.port() != SHARED {
            self.addresses.entry(with_port(key, SHARED)).or_default().ports.push(key.port());
        }
        self.open.put(key, leaving);
    }

    /// Closes the socket that was used longest ago; false if there is none.
    pub(super) fn close_oldest(&mut self) -> bool {
        let oldest = self.open.peek_lru().map(|(key, _)| *key);
        oldest.is_some_and(|key| self.close(&key))
    }

    /// Keeps what the collector saw of an exporter that has no socket now.
    pub(super) fn remember(&mut self, key: SocketAddr, seen: Seen) {
        self.remembered.put(key, seen);
    }

    /// Forgets the port that was remembered first; false if there is none.
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
