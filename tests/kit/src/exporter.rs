//! Exporters: sockets of their own on loopback that send the made-up datagrams, each numbered from 0.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;

use socket2::{Domain, Protocol, Socket, Type};

use crate::chatter::Pattern;

/// Some exporters with one target. Exporter `n` sends from 127.0.0.(n + 2) and a port of its own.
pub struct Exporters {
    pattern: Pattern,
    first: u16,
    sockets: Vec<UdpSocket>,
    sent: Vec<u32>,
    turn: usize,
    buffer: Vec<u8>,
}

impl Exporters {
    /// The exporters with these numbers.
    pub fn new(numbers: Range<u16>, target: SocketAddr, pattern: Pattern) -> Self {
        let first = numbers.start;
        let sockets: Vec<_> = numbers.map(|exporter| connected(exporter, target)).collect();
        Self { pattern, first, sent: vec![0; sockets.len()], sockets, turn: 0, buffer: Vec::new() }
    }

    /// How many datagrams each exporter has sent so far.
    pub fn sent(&self) -> &[u32] {
        &self.sent
    }

    /// How many datagrams all exporters have sent so far.
    pub fn total(&self) -> u64 {
        self.sent.iter().map(|sent| u64::from(*sent)).sum()
    }

    /// Sends the next datagrams, the exporters taking turns.
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

/// A socket that sends as if from this address, which need not be this machine's. Takes root. Others that do the same may
/// have the address, too.
pub fn bind_as(addr: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).unwrap();
    if addr.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
        .unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.into()
}
