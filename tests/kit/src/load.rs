//! Steady load: a thread in which exporters send at a rate while the test continues.
//!
//! A datagram that the kernel drops at a full socket is no fault of the daemons. So the load pauses while the
//! queue of its target socket is half full, and every sent datagram is accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::exporter::Exporters;
use crate::hosts::HeldUdp;

/// Most datagrams between two checks of the queue, and the bytes of receive buffer that each can use.
const BURST_MAX: u64 = 256;
const KERNEL_BYTES: u64 = 4096;

/// Condition that ends the load.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// Runs until it is stopped.
    Stopped,
    /// Runs until the exporters together have sent this number of datagrams.
    Sent(u64),
}

/// Exporters that send in a thread.
pub struct SteadyLoad {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    held_back: Arc<AtomicU64>,
    thread: JoinHandle<Exporters>,
}

impl SteadyLoad {
    /// Starts to send `rate` datagrams a second, or without a rate as fast as `target` is read.
    pub fn start(exporters: Exporters, target: Arc<HeldUdp>, rate: Option<u32>, until: Until) -> Self {
        Self::start_worker(exporters, Some(target), rate, until)
    }

    /// Starts to send `rate` datagrams a second until stopped, even if the kernel drops them.
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

    /// Returns the number of datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns how often the load paused for a millisecond because the queue was half full.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Waits until the load ends by itself, and returns the exporters.
    pub fn finish(self) -> Exporters {
        self.thread.join().expect("the load failed")
    }

    /// Stops the load and returns the exporters.
    pub fn stop(self) -> Exporters {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

struct Worker {
    exporters: Exporters,
    /// Socket whose queue must stay at most half full.
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

/// Returns the number of datagrams due at this rate after this time.
fn due(rate: u32, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(rate) * elapsed.as_nanos() / 1_000_000_000).unwrap()
}
