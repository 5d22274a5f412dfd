//! The sink: a collector that checks every byte, the order, losses and repeats, and notes how long each datagram was on
//! its way. It reads by recvmmsg without GRO, as nfcapd and its like do, and has a large receive buffer.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nf_transport_kit::kernel_socket::{KernelSocket, enlarge, receive_buffer};

use crate::generator::Timetable;
use crate::messages::Messages;
use crate::numbers::{float, index, quantile};
use crate::payload::{self, Stamp};

/// Longer than any datagram of these, so that a longer one is seen as such.
const SLOT: usize = 2048;

/// How long the reader waits before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(50);

/// A socket, its reader, and what came of the present run.
pub(crate) struct Sink {
    addr: SocketAddr,
    kernel: KernelSocket,
    capacity: u64,
    tally: Arc<Mutex<Tally>>,
    closing: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// Different datagrams, whole or not.
    pub(crate) arrived: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) corrupted: u64,
    /// Nanoseconds since the timetable's epoch.
    pub(crate) first_at: u64,
    pub(crate) last_at: u64,
    /// Milliseconds that each was on its way.
    latencies: Vec<f64>,
    /// What the kernel dropped at the sink's own socket so far: no fault of the relay.
    pub(crate) kernel_drops: u64,
}

impl Arrivals {
    /// The milliseconds within which this share of all came.
    pub(crate) fn latency(&self, share: f64) -> f64 {
        quantile(&self.latencies, share).unwrap_or(f64::NAN)
    }

    /// Datagrams a second from the first to the last arrival.
    pub(crate) fn rate(&self) -> f64 {
        float(self.arrived) / (float(self.last_at.saturating_sub(self.first_at)) / 1e9)
    }
}

impl Sink {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        enlarge(&socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (addr, kernel) = (socket.local_addr().unwrap(), KernelSocket::of(&socket));
        let capacity = u64::try_from(receive_buffer(&socket)).unwrap();
        let tally = Arc::new(Mutex::new(Tally::new(Timetable::new(0, 0), &[])));
        let closing = Arc::new(AtomicBool::new(false));
        let (notes, closed) = (Arc::clone(&tally), Arc::clone(&closing));
        let reader = std::thread::spawn(move || read(&socket, &notes, &closed));
        Self { addr, kernel, capacity, tally, closing, reader: Some(reader) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Begins a run: from now on only its datagrams count. The exporters have sent so many before.
    pub(crate) fn begin(&self, timetable: &Arc<Timetable>, sequences: &[u32]) {
        *self.tally.lock().unwrap() = Tally::new(Arc::clone(timetable), sequences);
    }

    /// Different datagrams of the run so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.tally.lock().unwrap().seen.arrived
    }

    /// Waits until all are there, or none has come for as long as `stall`; says whether all are.
    pub(crate) fn wait_for_all(&self, stall: Duration) -> bool {
        let total = self.tally.lock().unwrap().timetable.total();
        let (mut arrived, mut since) = (self.arrived(), Instant::now());
        while arrived < total && since.elapsed() < stall {
            std::thread::sleep(Duration::from_millis(1));
            let now = self.arrived();
            if now > arrived {
                (arrived, since) = (now, Instant::now());
            }
        }
        arrived >= total
    }

    /// Bytes that its socket holds at the most.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes that wait at its socket.
    pub(crate) fn queued(&self) -> u64 {
        self.kernel.figures().queued
    }

    pub(crate) fn arrivals(&self) -> Arrivals {
        let seen = self.tally.lock().unwrap().seen.clone();
        Arrivals { kernel_drops: self.kernel.figures().dropped, ..seen }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        drop(self.reader.take().map(JoinHandle::join));
    }
}

fn read(socket: &UdpSocket, tally: &Mutex<Tally>, closing: &AtomicBool) {
    let mut messages = Messages::new(SLOT);
    let mut expected = payload::template();
    while !closing.load(Ordering::Relaxed) {
        let count = messages.receive(socket);
        let mut tally = tally.lock().unwrap();
        let now = tally.timetable.now();
        (0..count).for_each(|at| tally.note(messages.received(at), now, &mut expected));
    }
}

/// What the reader knows of a run.
struct Tally {
    timetable: Arc<Timetable>,
    /// By number: whether it came.
    came: Vec<bool>,
    /// By exporter: the number of its own that should come next.
    next: Vec<u32>,
    seen: Arrivals,
}

impl Tally {
    fn new(timetable: Arc<Timetable>, sequences: &[u32]) -> Self {
        let total = usize::try_from(timetable.total()).unwrap();
        let seen = Arrivals { latencies: Vec::with_capacity(total), ..Arrivals::default() };
        Self { timetable, came: vec![false; total], next: sequences.to_vec(), seen }
    }

    fn note(&mut self, datagram: &[u8], now: u64, expected: &mut [u8]) {
        let stamp = Stamp::read(datagram);
        let Some(stamp) = stamp.filter(|stamp| stamp.run == self.timetable.run) else {
            return; // a late one of another run
        };
        stamp.write(expected);
        let sent_at = self.timetable.sent_at(stamp.number);
        let next = self.next.get_mut(usize::from(stamp.exporter));
        let (true, Some(sent_at), Some(next)) = (datagram == expected, sent_at, next) else {
            self.seen.corrupted += 1;
            return;
        };
        if std::mem::replace(&mut self.came[index(stamp.number)], true) {
            self.seen.repeated += 1;
            return;
        }
        self.seen.out_of_order += u64::from(stamp.sequence < *next);
        *next = (*next).max(stamp.sequence + 1);
        if self.seen.arrived == 0 {
            self.seen.first_at = now;
        }
        self.seen.arrived += 1;
        self.seen.last_at = now;
        self.seen.latencies.push(float(now.saturating_sub(sent_at)) / 1e6);
    }
}
