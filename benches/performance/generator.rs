//! The generator: exporters on loopback that send stamped datagrams at a rate, in bursts.
//!
//! A tick of one millisecond models the bursts in which exporters flush their caches. All datagrams due at a
//! tick are sent at once by one exporter; the next tick's by the next exporter. A generator that cannot keep
//! the rate reports it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use crate::messages::{COUNT, Messages};
use crate::numbers::{float, index};
use crate::payload::{self, Content, LEN, Stamp};

/// Time between bursts.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// After a delay the generator catches up at this multiple of its rate, not in one large burst.
const CATCH_UP: f64 = 4.0;

/// Allowed excess of the total time: 2 % plus one delay by other work of the machine.
const LATENESS: f64 = 1.02;
const HOLD_UP: Duration = Duration::from_millis(15);

/// System call that sends datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// One message per datagram (`sendmmsg`).
    Plain,
    /// One long message that the kernel cuts into datagrams (`UDP_SEGMENT`).
    Gso,
}

impl Sending {
    /// Sends the first `count` datagrams on a prepared socket.
    pub(crate) fn send(self, socket: &UdpSocket, messages: &mut Messages, count: usize) {
        match self {
            Self::Plain => messages.send(socket, count),
            // Ignore errors: the collector may not be listening yet.
            Self::Gso => drop(socket.send(messages.joined(count))),
        }
    }

    pub(crate) fn prepare(self, socket: &UdpSocket) {
        if self == Self::Gso {
            setsockopt(socket, UdpGsoSegment, &i32::try_from(LEN).unwrap()).unwrap();
        }
    }
}

/// Times at which the datagrams of a run were sent.
pub(crate) struct Timetable {
    pub(crate) run: u32,
    pub(crate) content: Content,
    epoch: Instant,
    /// Nanoseconds since the epoch, by number.
    sent: Vec<AtomicU64>,
}

impl Timetable {
    pub(crate) fn new(run: u32, total: u64) -> Arc<Self> {
        Self::of(Content::Same, run, total)
    }

    /// Does the same for datagrams with this content.
    pub(crate) fn of(content: Content, run: u32, total: u64) -> Arc<Self> {
        let sent = (0..total).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { run, content, epoch: Instant::now(), sent })
    }

    pub(crate) fn total(&self) -> u64 {
        u64::try_from(self.sent.len()).unwrap()
    }

    /// Nanoseconds since the epoch.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap()
    }

    /// Returns the time at which this number was sent; `None` if the run has no such number.
    pub(crate) fn sent_at(&self, number: u32) -> Option<u64> {
        self.sent.get(index(number)).map(|sent| sent.load(Ordering::Relaxed))
    }
}

/// Exporters with a socket each.
pub(crate) struct Generator {
    sockets: Vec<UdpSocket>,
    sequences: Vec<u32>,
    sending: Sending,
    messages: Messages,
}

/// Result of a run of the generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GeneratorResult {
    pub(crate) took: Duration,
    /// The rate was kept.
    pub(crate) kept: bool,
    /// Nanoseconds since the timetable's epoch.
    pub(crate) ended_at: u64,
}

impl Generator {
    /// Creates exporters with separate addresses and ports. The targets are assigned in turn.
    pub(crate) fn new(exporters: u16, targets: &[SocketAddr], sending: Sending) -> Self {
        let targets = targets.iter().cycle();
        let sockets: Vec<_> =
            (0..exporters).zip(targets).map(|(number, target)| connected(number, *target)).collect();
        for socket in &sockets {
            sending.prepare(socket);
        }
        let mut messages = Messages::new(LEN);
        (0..COUNT).for_each(|at| messages.slot(at).copy_from_slice(&payload::template()));
        Self { sequences: vec![0; sockets.len()], sockets, sending, messages }
    }

    /// Returns the number of datagrams sent by each exporter.
    pub(crate) fn sequences(&self) -> &[u32] {
        &self.sequences
    }

    /// Sends all datagrams of the timetable, those that are due at each `every`.
    pub(crate) fn run(&mut self, timetable: &Timetable, rate: f64, every: Duration) -> GeneratorResult {
        let (total, began) = (timetable.total(), Instant::now());
        let burst_max = (CATCH_UP * rate * every.as_secs_f64()).ceil();
        let (mut sent, mut tick) = (0, 0);
        while sent < total {
            tick += 1;
            std::thread::sleep((began + every * tick).saturating_duration_since(Instant::now()));
            let owed = (began.elapsed().as_secs_f64() * rate).floor().min(float(total)) - float(sent);
            let exporter = index(tick) % self.sockets.len();
            let mut burst = crate::numbers::count(owed.clamp(0.0, burst_max));
            while burst > 0 {
                let part = burst.min(u64::try_from(COUNT).unwrap());
                self.send(timetable, exporter, sent, part);
                sent += part;
                burst -= part;
            }
        }
        let took = began.elapsed();
        let planned = Duration::from_secs_f64(float(total) / rate * LATENESS);
        GeneratorResult { took, kept: took <= planned + HOLD_UP, ended_at: timetable.now() }
    }

    /// Sends all datagrams of the timetable as fast as possible. Calls `wait` before every `calls` calls.
    pub(crate) fn flood(&mut self, timetable: &Timetable, calls: usize, wait: impl Fn()) {
        let (total, part) = (timetable.total(), u64::try_from(COUNT).unwrap());
        for (call, first) in (0..total).step_by(COUNT).enumerate() {
            if call % calls == 0 {
                wait();
            }
            self.send(timetable, call % self.sockets.len(), first, part.min(total - first));
        }
    }

    /// Sends the next datagrams of one exporter with one call.
    fn send(&mut self, timetable: &Timetable, exporter: usize, first: u64, count: u64) {
        let first = u32::try_from(first).unwrap();
        let count = u32::try_from(count).unwrap();
        for at in 0..count {
            let stamp = Stamp {
                run: timetable.run,
                number: first + at,
                exporter: u16::try_from(exporter).unwrap(),
                sequence: self.sequences[exporter],
            };
            self.sequences[exporter] += 1;
            let datagram = self.messages.slot(index(at));
            timetable.content.write(stamp.number, datagram);
            stamp.write(datagram);
        }
        let now = timetable.now();
        (first..first + count).for_each(|number| timetable.sent[index(number)].store(now, Ordering::Relaxed));
        self.sending.send(&self.sockets[exporter], &mut self.messages, index(count));
    }
}

fn connected(exporter: u16, target: SocketAddr) -> UdpSocket {
    let [high, low] = (exporter + 2).to_be_bytes();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 1, high, low), 0)).unwrap();
    socket.connect(target).unwrap();
    socket
}
