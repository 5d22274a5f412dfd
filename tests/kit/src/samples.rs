//! Samples of nf-sender's status, taken at intervals across restarts of the daemon. Each sample is checked:
//! every datagram must be counted in exactly one place.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::Program;

/// One sample of the status.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Time since the first sample.
    pub at: Duration,
    /// State of the link in the status; `None` if no daemon answered.
    pub state: Option<String>,
    /// Datagrams in the spool.
    pub queued: u64,
}

/// Thread that takes samples.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Sample>>>,
    thread: JoinHandle<()>,
}

impl Sampler {
    /// Starts to take samples from the daemon at this control socket.
    pub fn start(control: PathBuf, interval: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (stopped, samples) = (Arc::clone(&stop), Arc::clone(&taken));
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let sample = sample(&control, began.elapsed());
                samples.lock().unwrap().push(sample);
                std::thread::sleep(interval);
            }
        });
        Self { stop, taken, thread }
    }

    /// Returns the latest sample.
    pub fn latest(&self) -> Option<Sample> {
        self.taken.lock().unwrap().last().cloned()
    }

    /// Stops sampling and returns all samples. Panics if the counters of a sample do not add up.
    pub fn finish(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a sample of the status");
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

fn sample(control: &Path, at: Duration) -> Sample {
    let status = Program::Sender.status(control);
    if let Some(status) = &status {
        assert_conserved(status);
    }
    let state = status.as_ref().map(|status| status["state"].as_str().unwrap().to_owned());
    Sample { at, state, queued: status.map_or(0, |status| count(&status, "/queued/datagrams")) }
}

/// Panics unless received + recovered = acknowledged + queued + dropped.
pub fn assert_conserved(status: &Value) {
    let taken_in = count(status, "/received/datagrams") + count(status, "/recovered/datagrams");
    let reasons = ["spool_full", "too_old", "corrupt"];
    let dropped: u64 = reasons.iter().map(|reason| count(status, &format!("/dropped/{reason}"))).sum();
    let accounted = count(status, "/acknowledged/datagrams") + count(status, "/queued/datagrams") + dropped;
    assert_eq!(
        taken_in, accounted,
        "received + recovered differs from acknowledged + queued + dropped in\n{status:#}"
    );
}

/// Returns the number at this JSON pointer of a status.
pub fn count(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in\n{status:#}"))
}
