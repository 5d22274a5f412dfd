//! Steady load: a thread that lets exporters send at a rate while the test goes on.
//!
//! What the kernel could not take is no fault of the daemons, so the load looks at the queue of the socket that it
//! sends to and holds back while that is half full: whatever was sent was accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::exporter::Exporters;
use crate::hosts::HeldUdp;

/// Datagrams between two looks at the queue, and how many bytes of receive buffer each may take in the kernel.
const BURST_MAX: u64 = 256;
const KERNEL_BYTES: u64 = 4096;

/// When the load ends by itself.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// It goes on until it is stopped.
    Stopped,
    /// So many datagrams were sent, of all exporters together.
    Sent(u64),
}

/// Exporters at work in a thread.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    held_back: Arc<AtomicU64>,
    thread: JoinHandle<Exporters>,
}

impl Load {
    /// Starts sending at `rate` datagrams a second, or, without one, as fast as `target` is read.
    pub fn start(exporters: Exporters, target: Arc<HeldUdp>, rate: Option<u32>, until: Until) -> Self {
        Self::start_worker(exporters, Some(target), rate, until)
    }

    /// Starts sending at `rate` datagrams a second until stopped, whatever becomes of them.
    pub fn relentless(exporters: Exporters, rate: u32) -> Self {
        Self::start_worker(exporters, None, Some(rate), Until::Stopped)
    }

    fn start_worker(
        exporters: Exporters,
        target: Option<Arc<HeldUdp>>,
        rate: Option<u32>,
        until: Until,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(exporters.total()));
        let held_back = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            exporters,
            target,
            until,
            stop: Arc::clone(&stop),
            sent: Arc::clone(&sent),
            held_back: Arc::clone(&held_back),
        };
        let thread = std::thread::spawn(move || worker.run(rate));
        Self { stop, sent, held_back, thread }
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How often the load held back for a millisecond because the queue was half full.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Waits until the load ends by itself.
    pub fn finish(self) -> Exporters {
        self.thread.join().expect("the load failed")
    }

    /// Ends the load.
    pub fn stop(self) -> Exporters {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

struct Worker {
    exporters: Exporters,
    /// Whose queue is not to be more than half full.
    target: Option<Arc<HeldUdp>>,
    until: Until,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    held_back: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self, rate: Option<u32>) -> Exporters {
        let capacity = self.target.as_ref().map_or(u64::MAX, |target| target.capacity());
        let burst = (capacity / 2 / KERNEL_BYTES).clamp(1, BURST_MAX);
        let started = Instant::now();
        let before = self.exporters.total();
        while !self.stop.load(Ordering::Relaxed) {
            let sent = self.exporters.total();
            let due = rate.map_or(u64::MAX, |rate| before + due(rate, started.elapsed()));
            let end = if let Until::Sent(end) = self.until { end } else { u64::MAX };
            if sent >= end {
                break;
            }
            if sent >= due {
                std::thread::sleep(Duration::from_millis(1));
            } else if self.target.as_ref().is_some_and(|target| target.kernel().queued > capacity / 2) {
                self.held_back.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            } else {
                self.exporters.send(burst.min(due - sent).min(end - sent));
                self.sent.store(self.exporters.total(), Ordering::Relaxed);
            }
        }
        self.exporters
    }
}

/// How many datagrams a rate asks for in this time.
fn due(rate: u32, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(rate) * elapsed.as_nanos() / 1_000_000_000).unwrap()
}
