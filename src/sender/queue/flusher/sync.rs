//! Syncs the spool to disk, in a thread of its own where the flusher does not wait for it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nf_transport_core::spool::SyncJob;

use crate::host::systemd::messages::sender;
use crate::host::{LogLimit, Pulse, Suppressed};
use crate::sender::queue::Queue;

/// The interval at which the flusher checks a running sync.
const SYNC_CHECK: Duration = Duration::from_millis(10);

/// The sync state of the spool.
#[derive(Debug)]
pub(super) struct SpoolSync {
    queue: Arc<Queue>,
    pulse: Pulse,
    unsynced_since: Option<Instant>,
    /// A running sync of earlier batches, in a thread of its own as it may take long, and the time of the
    /// next check.
    running: Option<(JoinHandle<io::Result<()>>, Instant)>,
    complaints: LogLimit<()>,
}

impl SpoolSync {
    pub(super) fn new(queue: Arc<Queue>, pulse: Pulse) -> Self {
        Self { queue, pulse, unsynced_since: None, running: None, complaints: LogLimit::default() }
    }

    /// Returns `true` while a sync runs.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns the time of the next check or sync. A sync is due `after` the first unsynced append.
    pub(super) fn due(&self, after: Duration) -> Option<Instant> {
        match &self.running {
            Some((_, check_at)) => Some(*check_at),
            None => self.unsynced_since.map(|since| since + after),
        }
    }

    /// Notes that a batch was appended to the spool.
    pub(super) fn note_appended(&mut self) {
        self.unsynced_since.get_or_insert_with(Instant::now);
    }

    /// Notes that the spool is empty.
    pub(super) fn note_empty(&mut self) {
        self.unsynced_since = None;
    }

    /// Starts a sync if the first unsynced append was `after` ago. The spool can be used meanwhile.
    pub(super) fn start_if_due(&mut self, after: Duration) {
        match &mut self.running {
            Some((thread, check_at)) if !thread.is_finished() => *check_at = Instant::now() + SYNC_CHECK,
            _ => {
                self.wait();
                if self.unsynced_since.is_some_and(|since| since.elapsed() >= after) {
                    let outcome = self.start();
                    self.note_outcome(outcome);
                }
            }
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let Some(job) = self.job()? else { return Ok(()) };
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(move || job.run())?;
        self.running = Some((thread, Instant::now() + SYNC_CHECK));
        Ok(())
    }

    /// Syncs the spool now.
    pub(super) fn run(&mut self) {
        self.wait();
        let job = self.job();
        let disk = self.pulse.away();
        let outcome = job.and_then(|job| job.map_or(Ok(()), |job| job.run()));
        drop(disk);
        self.note_outcome(outcome);
    }

    /// Waits for the end of the running sync.
    pub(super) fn wait(&mut self) {
        if let Some((thread, _)) = self.running.take() {
            let disk = self.pulse.away();
            let failed = || Err(io::Error::other("the sync thread has failed"));
            let outcome = thread.join().unwrap_or_else(|_| failed());
            drop(disk);
            self.note_outcome(outcome);
        }
    }

    /// Returns the sync that is due, and counts everything as synced.
    fn job(&mut self) -> io::Result<Option<SyncJob<File>>> {
        self.unsynced_since = None;
        let _disk = self.pulse.away();
        self.queue.spool().sync_job()
    }

    fn note_outcome(&mut self, outcome: io::Result<()>) {
        let Err(error) = outcome else { return };
        self.queue.spool().sync_failed();
        self.unsynced_since = Some(Instant::now());
        let Some(held_back) = self.complaints.admit((), Instant::now()) else { return };
        tracing::error!(
            message_id = sender::SPOOL_FAILS,
            %error,
            held_back,
            "cannot sync the spool to disk: {error}; a power loss now would lose datagrams; check the disk{}",
            Suppressed(held_back)
        );
    }
}
