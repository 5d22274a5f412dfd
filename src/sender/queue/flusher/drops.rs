//! Counts and logs the datagrams that the limits of the spool drop.

use std::sync::Arc;
use std::time::Instant;

use nf_transport_core::sequence::{Gap, GapReason};

use crate::host::LoggedCount;
use crate::host::systemd::messages::sender;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::queue::Queue;
use crate::sender::queue::fair_share::ThinnedLoss;
use crate::sender::queue::holdings::Shares;
use crate::sender::queue::state::QueueState;
use crate::status::{count_of, name_dropped};

/// The account of dropped datagrams.
#[derive(Debug)]
pub(super) struct DropAccounts {
    queue: Arc<Queue>,
    counters: Arc<IngestCounters>,
    /// Datagrams dropped since the start.
    dropped: u64,
    log: LoggedCount,
}

impl DropAccounts {
    pub(super) fn new(queue: Arc<Queue>, counters: Arc<IngestCounters>) -> Self {
        Self { queue, counters, dropped: 0, log: LoggedCount::default() }
    }

    /// Accounts for datagrams dropped one by one (`thinned`) and with their segments (`dropped`).
    pub(super) fn account(&mut self, thinned: &[ThinnedLoss], dropped: &[(Gap, Shares)]) {
        // Lock order: state, then counters. The status holds no counters while it reads the state.
        let mut state = self.queue.state();
        // A segment may be thinned first and then dropped as a whole, so this order matters.
        for loss in thinned {
            let count = state.lose_thinned(loss.thinned);
            self.counters.note_dropped_shares(count, &loss.shares);
            self.dropped += count;
        }
        for (gap, shares) in dropped {
            let count = state.lose(*gap);
            self.counters.note_dropped_shares(count, shares);
            self.dropped += count;
        }
    }

    /// Drops the oldest batches of a nearly full ring, as the spool rejects them. Batches in flight stay.
    pub(super) fn drop_from_ring(&mut self, state: &mut QueueState) {
        if !state.tail().is_nearly_full() {
            return;
        }
        while state.tail().is_pressing()
            && let Some((entry, _)) = state.tail().oldest()
            && state.in_flight() <= entry.batch.first()
        {
            let (first, end) = (entry.batch.first(), entry.batch.end());
            self.counters.note_dropped_batch(&entry.batch);
            self.dropped += state.lose(Gap { first, end, reason: GapReason::SpoolFull });
            self.queue.pop_tail(state, end);
        }
    }

    /// Logs the number of dropped datagrams, by exporter, if `due`.
    pub(super) fn log(&mut self, due: fn(&mut LoggedCount, u64, Instant) -> Option<u64>) {
        let Some(count) = due(&mut self.log, self.dropped, Instant::now()) else { return };
        let exporters = name_dropped(
            self.counters.dropped_exporters().take_unlogged(|_| true),
            self.counters.take_unlogged_unknown(),
        );
        let of = if exporters.is_empty() { String::new() } else { format!(", of {exporters}") };
        tracing::warn!(
            message_id = sender::DATAGRAMS_DROPPED,
            datagrams = count,
            exporters,
            "dropped {} by the spool's limits{of}; see 'dropped' in the status",
            count_of(count, "datagram")
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use nf_transport_core::sequence::Position;
    use nf_transport_core::spool::Policy;
    use tokio::sync::watch;

    use super::*;
    use crate::config::Reconnect;
    use crate::sender::queue::recovery::recover;
    use crate::sender::report::Reporter;
    use crate::sender::uplink::dial::ChannelMode;
    use crate::sender::uplink::state::{UplinkSettings, UplinkView};

    /// More time than the test ever takes.
    const HANG: Duration = Duration::from_secs(60);

    #[test]
    fn drops_and_status_do_not_block_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let run = recover(directory.path(), None, Policy::default(), &Arc::default()).unwrap();
        let counters = Arc::new(IngestCounters::new([]));
        let settings = UplinkSettings {
            id: "brno-edge".parse().unwrap(),
            receivers: Vec::new(),
            channel_mode: ChannelMode::LoopbackOnly,
            heartbeat: Duration::from_secs(5),
            reconnect: Reconnect { first: HANG, factor: 1, longest: HANG, jitter: 0.0 },
        };
        let reporter = Reporter {
            settings: watch::channel(settings).1,
            queue: run.queue.clone(),
            directory: directory.path().to_owned(),
            counters: counters.clone(),
            view: UplinkView::new(&[]),
            pace: Arc::default(),
            journal: run.location.clone(),
        };
        let mut drops = DropAccounts::new(run.queue.clone(), counters);
        let is_over = Arc::new(AtomicBool::new(false));
        let is_over_here = is_over.clone();
        let accounting = thread::spawn(move || {
            let gap = Gap { first: Position(0), end: Position(1), reason: GapReason::SpoolFull };
            while !is_over_here.load(Ordering::Relaxed) {
                drops.account(&[], &[(gap, Shares::default())]);
            }
        });
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            (0..5000).for_each(|_| drop(reporter.status()));
            ended.send(()).unwrap();
        });
        end.recv_timeout(HANG).expect("the status answers 5,000 times");
        is_over.store(true, Ordering::Relaxed);
        accounting.join().unwrap();
    }
}
