//! Collectors: a UDP socket and a thread that checks each datagram on arrival.
//!
//! nf-receiver sends from its own address, so the payload alone identifies the exporter.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::chatter::{self, Pattern};
use crate::kernel_socket::{KernelFigures, KernelSocket, enlarge, receive_buffer};
use crate::pair::STALL;
use crate::tally::{CollectorReport, ExporterTally};

/// Larger than any datagram, so that none is truncated.
const BUFFER: usize = 1 << 16;

/// Settings with which a collector reads its socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Use the system's default receive buffer, as most collectors do, instead of the largest possible one.
    pub has_default_buffer: bool,
    pub pace: ReadingPace,
}

/// Speed at which a collector reads.
#[derive(Clone, Copy, Debug, Default)]
pub enum ReadingPace {
    /// As fast as possible.
    #[default]
    Unhindered,
    /// Spends this CPU time on each datagram.
    Work(Duration),
    /// At most this number of datagrams per second.
    PerSecond(u32),
}

impl Reading {
    /// Settings with the system's default receive buffer.
    pub fn by_default(pace: ReadingPace) -> Self {
        Self { has_default_buffer: true, pace }
    }
}

/// A collector of generated datagrams. It detects missing, repeated, reordered and altered ones.
pub struct Collector {
    reader: SocketReader,
    shared: Arc<Observed<CollectorReport>>,
}

impl Collector {
    /// Starts a collector for the datagrams that `exporters` exporters send by `pattern`.
    pub fn start(exporters: u16, pattern: Pattern) -> Self {
        Self::start_on("127.0.0.1:0", exporters, pattern)
    }

    /// Does the same on this address.
    pub fn start_on(bind: &str, exporters: u16, pattern: Pattern) -> Self {
        Self::start_reading(bind, exporters, pattern, Reading::default())
    }

    /// Does the same with these settings for reading.
    pub fn start_reading(bind: &str, exporters: u16, pattern: Pattern, reading: Reading) -> Self {
        let report = CollectorReport {
            exporters: vec![ExporterTally::default(); exporters.into()],
            ..CollectorReport::default()
        };
        let shared = Arc::new(Observed::new(report));
        let notes = Arc::clone(&shared);
        let mut expected = Vec::new();
        let reader = SocketReader::start(bind, reading, move |payload| {
            let claim = chatter::identify(payload);
            if let Some((exporter, number)) = claim {
                pattern.datagram(exporter, number, &mut expected);
            }
            let templates_only = chatter::is_templates_only(payload);
            notes.update(|report| count_datagram(report, claim, payload == expected, templates_only));
        });
        Self { reader, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.reader.addr
    }

    /// Returns the kernel's figures for the collector's socket.
    pub fn kernel(&self) -> KernelFigures {
        self.reader.kernel.figures()
    }

    /// Returns the receive buffer of the collector's socket, in bytes.
    pub fn capacity(&self) -> usize {
        receive_buffer(&self.reader.socket)
    }

    /// Waits until the collector has read everything in its socket.
    pub fn wait_until_drained(&self) {
        self.reader.kernel.wait_until_drained();
    }

    /// Returns the counts so far.
    pub fn report(&self) -> CollectorReport {
        let mut report = self.shared.lock().seen.clone();
        report.kernel_drops = self.reader.kernel.figures().dropped;
        report
    }

    /// Returns the number of distinct datagrams so far.
    pub fn arrived(&self) -> u64 {
        self.shared.lock().arrived
    }

    /// Waits until `total` distinct datagrams have arrived. Panics with all counts if none arrives for as
    /// long as `stall`.
    pub fn wait_for(&self, total: u64, stall: Duration) {
        if let Err(arrived) = self.shared.wait_for(total, stall) {
            let picture = self.report().picture(&vec![0; self.report().exporters.len()]);
            panic!("{arrived} of {total} datagrams arrived, then none for {stall:?}\n{picture}");
        }
    }

    /// Waits until all of `sent` has arrived, as [`Self::wait_for`] does, and returns the counts.
    pub fn wait_for_all(&self, sent: &[u32], stall: Duration) -> CollectorReport {
        let total = sent.iter().map(|sent| u64::from(*sent)).sum();
        if let Err(arrived) = self.shared.wait_for(total, stall) {
            let picture = self.report().picture(sent);
            panic!("{arrived} of {total} datagrams arrived, then none for {stall:?}\n{picture}");
        }
        self.report()
    }
}

/// Counts one datagram. Returns whether it is a new one.
fn count_datagram(
    report: &mut CollectorReport,
    claim: Option<(u16, u32)>,
    exact: bool,
    templates_only: bool,
) -> bool {
    let Some((exporter, number)) = claim else {
        report.templates += u64::from(templates_only);
        report.foreign += u64::from(!templates_only);
        return false;
    };
    match report.exporters.get_mut(usize::from(exporter)) {
        Some(tally) if exact => tally.count(number),
        Some(tally) => {
            tally.corrupted += 1;
            false
        }
        None => {
            report.foreign += 1;
            false
        }
    }
}

/// A collector that keeps all payloads, for small numbers of arbitrary datagrams.
pub struct Inbox {
    reader: SocketReader,
    shared: Arc<Observed<Vec<Vec<u8>>>>,
}

impl Inbox {
    /// Starts a collector on a free port of this address.
    pub fn start(bind: &str) -> Self {
        let shared = Arc::new(Observed::new(Vec::new()));
        let notes = Arc::clone(&shared);
        let reader = SocketReader::start(bind, Reading::default(), move |payload| {
            notes.update(|seen: &mut Vec<Vec<u8>>| {
                seen.push(payload.to_vec());
                true
            });
        });
        Self { reader, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.reader.addr
    }

    /// Waits for `total` payloads and returns all in order of arrival. Panics if none arrives for as long as
    /// `stall`.
    pub fn wait_for(&self, total: usize, stall: Duration) -> Vec<Vec<u8>> {
        let outcome = self.shared.wait_for(u64::try_from(total).unwrap(), stall);
        let drops = self.reader.kernel.figures().dropped;
        assert_eq!(outcome, Ok(()), "fewer than {total} datagrams arrived ({drops} dropped at the inbox)");
        self.shared.lock().seen.clone()
    }
}

/// State that the reader thread updates and tests wait for.
struct Observed<T> {
    state: Mutex<ReaderState<T>>,
    reached: Condvar,
}

struct ReaderState<T> {
    seen: T,
    arrived: u64,
    /// Number of arrived datagrams at which the waiting thread is woken.
    wanted: u64,
}

impl<T> Observed<T> {
    fn new(seen: T) -> Self {
        Self {
            state: Mutex::new(ReaderState { seen, arrived: 0, wanted: u64::MAX }),
            reached: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReaderState<T>> {
        self.state.lock().unwrap()
    }

    /// Records a datagram with `note`, which returns whether it counts as arrived.
    fn update(&self, note: impl FnOnce(&mut T) -> bool) {
        let mut state = self.lock();
        state.arrived += u64::from(note(&mut state.seen));
        if state.arrived >= state.wanted {
            self.reached.notify_all();
        }
    }

    /// Waits until `total` datagrams have arrived. Only one thread may wait at a time. The error is the
    /// number of arrived datagrams when none arrived for as long as `stall`.
    fn wait_for(&self, total: u64, stall: Duration) -> Result<(), u64> {
        let mut state = self.lock();
        state.wanted = total;
        while state.arrived < total {
            let before = state.arrived;
            let (next, waited) =
                self.reached.wait_timeout_while(state, stall, |state| state.arrived < total).unwrap();
            state = next;
            if waited.timed_out() && state.arrived == before {
                return Err(before);
            }
        }
        Ok(())
    }
}

/// The socket and its reader thread.
struct SocketReader {
    addr: SocketAddr,
    kernel: KernelSocket,
    socket: UdpSocket,
    closing: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl SocketReader {
    fn start(bind: &str, reading: Reading, mut take: impl FnMut(&[u8]) + Send + 'static) -> Self {
        let socket = UdpSocket::bind(bind).unwrap();
        if !reading.has_default_buffer {
            enlarge(&socket);
        }
        let incoming = socket.try_clone().unwrap();
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            let mut due = Instant::now();
            loop {
                let received = incoming.recv(&mut buffer);
                if closed.load(Ordering::SeqCst) {
                    break;
                }
                let began = Instant::now();
                take(&buffer[..received.unwrap()]);
                match reading.pace {
                    ReadingPace::Unhindered => {}
                    ReadingPace::Work(time) => {
                        while began.elapsed() < time {
                            std::hint::spin_loop();
                        }
                    }
                    ReadingPace::PerSecond(rate) => {
                        // A delay of up to 20 ms is caught up, so that the rate is kept.
                        let lag_max = Duration::from_millis(20);
                        due = due.max(began.checked_sub(lag_max).unwrap_or(began));
                        due += Duration::from_secs(1) / rate;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                }
            }
        });
        let addr = socket.local_addr().unwrap();
        Self { addr, kernel: KernelSocket::find(&socket), socket, closing, reader: Some(reader) }
    }
}

impl Drop for SocketReader {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Linux wakes the reader of an unconnected UDP socket, although it also returns an error.
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap_or_default();
        drop(self.reader.take().map(JoinHandle::join));
    }
}

/// Receives at least `expected` payloads and all others that are queued then. Returns them by source address.
pub fn payloads_by_source(collector: &UdpSocket, expected: usize) -> HashMap<SocketAddr, Vec<Vec<u8>>> {
    collector.set_read_timeout(Some(STALL)).unwrap();
    let mut payloads: HashMap<SocketAddr, Vec<Vec<u8>>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    for received in 0.. {
        collector.set_nonblocking(received >= expected).unwrap();
        match collector.recv_from(&mut buffer) {
            Ok((length, from)) => payloads.entry(from).or_default().push(buffer[..length].to_vec()),
            Err(error) => {
                assert!(received >= expected, "{received} of {expected} payloads arrived: {error}");
                break;
            }
        }
    }
    payloads
}
