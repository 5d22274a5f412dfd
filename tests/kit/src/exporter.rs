//! Exporters: sockets on loopback that send generated datagrams, numbered from 0 per exporter.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;

use socket2::{Domain, Protocol, Socket, Type};

use crate::chatter::Pattern;

/// A group of exporters with one target. Exporter `n` sends from 127.0.0.(n + 2) and its own port.
pub struct Exporters {
    pattern: Pattern,
    first: u16,
    sockets: Vec<UdpSocket>,
    sent: Vec<u32>,
    turn: usize,
    buffer: Vec<u8>,
}

impl Exporters {
    /// Creates the exporters with these numbers.
    pub fn new(numbers: Range<u16>, target: SocketAddr, pattern: Pattern) -> Self {
        let first = numbers.start;
        let sockets: Vec<_> = numbers.map(|exporter| connected(exporter, target)).collect();
        Self { pattern, first, sent: vec![0; sockets.len()], sockets, turn: 0, buffer: Vec::new() }
    }

    /// Returns the number of datagrams sent so far, by exporter.
    pub fn sent(&self) -> &[u32] {
        &self.sent
    }

    /// Returns the number of datagrams sent so far by all exporters.
    pub fn total(&self) -> u64 {
        self.sent.iter().map(|sent| u64::from(*sent)).sum()
    }

    /// Sends the next datagrams, one exporter after another.
    pub fn send(&mut self, datagrams: u64) {
        for _ in 0..datagrams {
            let place = self.turn;
            self.turn = (place + 1) % self.sockets.len();
            let exporter = self.first + u16::try_from(place).unwrap();
            self.pattern.datagram(exporter, self.sent[place], &mut self.buffer);
            let sent = self.sockets[place].send(&self.buffer);
            assert_eq!(sent.expect("an exporter can send"), self.buffer.len());
            self.sent[place] += 1;
        }
    }
}

fn connected(exporter: u16, target: SocketAddr) -> UdpSocket {
    let last = u8::try_from(exporter + 2).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
    socket.connect(target).unwrap();
    socket
}

/// Binds a socket to this address, which need not be one of this machine's. Needs root. Several such sockets
/// can have the same address.
pub fn bind_as(addr: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).unwrap();
    if addr.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
        .unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.into()
}
