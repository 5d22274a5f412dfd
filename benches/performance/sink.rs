//! The sink: a collector that checks every byte, the order, losses and repeats, and records the latency of
//! each datagram. It reads by recvmmsg without GRO, as nfcapd and similar collectors do, and has a large
//! receive buffer.

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

/// Larger than any valid datagram, so that a longer one is detected.
const SLOT: usize = 2048;

/// Time after which the reader checks whether it must end.
const PATIENCE: Duration = Duration::from_millis(50);

/// A socket, its reader, and the results of the current run.
pub(crate) struct Sink {
    addr: SocketAddr,
    kernel: KernelSocket,
    capacity: u64,
    state: Arc<Mutex<RunArrivals>>,
    closing: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Arrivals of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// Distinct datagrams that arrived.
    pub(crate) arrived: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) corrupted: u64,
    /// Nanoseconds since the timetable's epoch.
    pub(crate) first_at: u64,
    pub(crate) last_at: u64,
    /// Latency of each datagram in milliseconds.
    latencies: Vec<f64>,
    /// Datagrams that the kernel dropped at the sink's own socket so far. The relay is not at fault for
    /// these.
    pub(crate) kernel_drops: u64,
}

impl Arrivals {
    /// Returns the latency in milliseconds that this share of the datagrams did not exceed.
    pub(crate) fn latency(&self, share: f64) -> f64 {
        quantile(&self.latencies, share).unwrap_or(f64::NAN)
    }

    /// Returns the rate in datagrams per second from the first to the last arrival.
    pub(crate) fn rate(&self) -> f64 {
        float(self.arrived) / (float(self.last_at.saturating_sub(self.first_at)) / 1e9)
    }
}

impl Sink {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        enlarge(&socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (addr, kernel) = (socket.local_addr().unwrap(), KernelSocket::find(&socket));
        let capacity = u64::try_from(receive_buffer(&socket)).unwrap();
        let state = Arc::new(Mutex::new(RunArrivals::new(Timetable::new(0, 0), &[])));
        let closing = Arc::new(AtomicBool::new(false));
        let (notes, closed) = (Arc::clone(&state), Arc::clone(&closing));
        let reader = std::thread::spawn(move || read(&socket, &notes, &closed));
        Self { addr, kernel, capacity, state, closing, reader: Some(reader) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts a run, so that only its datagrams count. `sequences` holds the number of earlier datagrams of
    /// each exporter.
    pub(crate) fn begin(&self, timetable: &Arc<Timetable>, sequences: &[u32]) {
        *self.state.lock().unwrap() = RunArrivals::new(Arc::clone(timetable), sequences);
    }

    /// Returns the number of distinct datagrams of the run so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.state.lock().unwrap().seen.arrived
    }

    /// Waits until all datagrams have arrived, or none has for as long as `stall`. Returns whether all have.
    pub(crate) fn wait_for_all(&self, stall: Duration) -> bool {
        let total = self.state.lock().unwrap().timetable.total();
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

    /// Returns the capacity of the sink's socket in bytes.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Returns the bytes queued at the sink's socket.
    pub(crate) fn queued(&self) -> u64 {
        self.kernel.figures().queued
    }

    pub(crate) fn arrivals(&self) -> Arrivals {
        let seen = self.state.lock().unwrap().seen.clone();
        Arrivals { kernel_drops: self.kernel.figures().dropped, ..seen }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        drop(self.reader.take().map(JoinHandle::join));
    }
}

fn read(socket: &UdpSocket, state: &Mutex<RunArrivals>, closing: &AtomicBool) {
    let mut messages = Messages::new(SLOT);
    while !closing.load(Ordering::Relaxed) {
        let count = messages.receive(socket);
        let mut state = state.lock().unwrap();
        let now = state.timetable.now();
        (0..count).for_each(|at| state.count(messages.received(at), now));
    }
}

/// State of the reader for the current run.
struct RunArrivals {
    timetable: Arc<Timetable>,
    /// Arrived datagrams by number.
    has_arrived: Vec<bool>,
    /// Next sequence number of each exporter.
    next: Vec<u32>,
    /// The datagram that should arrive.
    expected: Vec<u8>,
    seen: Arrivals,
}

impl RunArrivals {
    fn new(timetable: Arc<Timetable>, sequences: &[u32]) -> Self {
        let total = usize::try_from(timetable.total()).unwrap();
        let seen = Arrivals { latencies: Vec::with_capacity(total), ..Arrivals::default() };
        Self {
            timetable,
            has_arrived: vec![false; total],
            next: sequences.to_vec(),
            expected: payload::template(),
            seen,
        }
    }

    fn count(&mut self, datagram: &[u8], now: u64) {
        let stamp = Stamp::read(datagram);
        let Some(stamp) = stamp.filter(|stamp| stamp.run == self.timetable.run) else {
            return; // late datagram of another run
        };
        self.timetable.content.write(stamp.number, &mut self.expected);
        stamp.write(&mut self.expected);
        let sent_at = self.timetable.sent_at(stamp.number);
        let next = self.next.get_mut(usize::from(stamp.exporter));
        let (true, Some(sent_at), Some(next)) = (datagram == self.expected, sent_at, next) else {
            self.seen.corrupted += 1;
            return;
        };
        if std::mem::replace(&mut self.has_arrived[index(stamp.number)], true) {
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
