//! Distinguishes a path that loses large packets from a receiver that is blocked.
//!
//! Both look alike to the session: data is in flight and nothing is acknowledged, while heartbeats arrive.
//! TCP shows the difference:
//!
//! - A receiver that does not read closes its window, and no segment is in flight.
//! - On a path that loses large packets (an MTU black hole), TCP retransmits a segment without success.
//! - A device of this host that drops them, such as a tunnel, leaves them unsent although the window is open.
//!
//! Does no I/O and never reads the clock: the caller passes both.

use std::time::{Duration, Instant};

use crate::host::TcpProgress;
use crate::limits::HEARTBEATS_UNACKNOWLEDGED;

/// Watches one connection.
#[derive(Debug)]
pub(crate) struct StallDetector {
    heartbeat: Duration,
    /// The time of the last bytes from the receiver.
    last_bytes_at: Instant,
    /// Since when TCP acknowledged nothing new, and the bytes acknowledged until then.
    since: Option<(Instant, u64)>,
    /// TCP retransmitted a segment or could not send one, as of the last check.
    is_retransmitting: bool,
    /// The time of the next check.
    next_check: Instant,
}

/// The longest interval between two checks of TCP.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(1);

impl StallDetector {
    pub(crate) fn new(heartbeat: Duration, now: Instant) -> Self {
        Self { heartbeat, last_bytes_at: now, since: None, is_retransmitting: false, next_check: now }
    }

    /// Notes bytes from the receiver. After a longer silence than heartbeats explain, the path was down in
    /// both directions, and the time before does not count.
    pub(crate) fn note_bytes(&mut self, now: Instant) {
        if self.is_silent(now) {
            self.since = None;
        }
        self.last_bytes_at = now;
    }

    /// Notes an acknowledgement of the receiver, which ends a stall.
    pub(crate) fn acknowledged(&mut self) {
        self.since = None;
    }

    /// The time of the next call of [`Self::observe`] while data is in flight.
    pub(crate) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Evaluates the state of TCP.
    pub(crate) fn observe(&mut self, tcp: TcpProgress, now: Instant) {
        self.next_check = now + (self.heartbeat / 4).min(CHECK_INTERVAL_MAX);
        self.is_retransmitting = tcp.timeouts > 0 || tcp.bytes_refused > 0;
        let acknowledged = tcp.bytes_acknowledged;
        let is_same = self.since.is_some_and(|(_, before)| before == acknowledged);
        if tcp.segments_unacknowledged == 0 && tcp.bytes_refused == 0 {
            self.since = None;
        } else if !is_same {
            self.since = Some((now, acknowledged));
        }
    }

    /// Returns for how long TCP has acknowledged nothing new while data is in flight and the receiver
    /// answers.
    fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let (since, _) = self.since.filter(|_| !self.is_silent(now))?;
        Some(now.saturating_duration_since(since))
    }

    /// The duration of a stall that ends the session. It ends before the receiver, which receives nothing,
    /// ends it.
    pub(crate) fn patience(&self) -> Duration {
        self.heartbeat * HEARTBEATS_UNACKNOWLEDGED
    }

    /// Returns `true` if the session must end now.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        self.is_retransmitting && self.stalled_for(now).is_some_and(|stalled| stalled >= self.patience())
    }

    /// Returns the duration of the stall if it explains why the receiver has ended the session now. The first
    /// time-out of TCP may not have passed yet.
    pub(crate) fn explains_end(&self, now: Instant) -> Option<Duration> {
        self.stalled_for(now).filter(|stalled| *stalled >= self.heartbeat)
    }

    fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_bytes_at) > self.heartbeat * 3 / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(5);

    /// A detector and its start time.
    fn detector() -> (StallDetector, Instant) {
        let now = Instant::now();
        (StallDetector::new(HEARTBEAT, now), now)
    }

    fn tcp(bytes_acknowledged: u64, segments_unacknowledged: u32, timeouts: u8) -> TcpProgress {
        TcpProgress { bytes_acknowledged, segments_unacknowledged, timeouts, ..TcpProgress::default() }
    }

    /// Checks once a second for `seconds`, with a heartbeat every 5 s. Returns the second in which it stalls.
    fn stalls_after(
        seconds: u64,
        look: impl Fn(u64) -> TcpProgress,
        hears: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let (mut detector, began) = detector();
        (0..seconds).find(|second| {
            let now = began + Duration::from_secs(*second);
            if second % 5 == 0 && hears(*second) {
                detector.note_bytes(now);
            }
            detector.observe(look(*second), now);
            detector.is_stalled(now)
        })
    }

    #[test]
    fn a_segment_resent_for_two_heartbeats_stalls() {
        assert_eq!(stalls_after(60, |_| tcp(7, 10, 3), |_| true), Some(10));
    }

    #[test]
    fn a_closed_window_is_no_stall() {
        assert_eq!(stalls_after(3600, |_| tcp(7, 0, 0), |_| true), None);
    }

    #[test]
    fn data_that_this_host_drops_itself_is_a_stall() {
        let look = |_| TcpProgress { bytes_refused: 9000, ..tcp(7, 0, 0) };
        assert_eq!(stalls_after(60, look, |_| true), Some(10));
    }

    #[test]
    fn slow_progress_is_no_stall() {
        let look = |second: u64| tcp(second / 8, 10, 2);
        assert_eq!(stalls_after(3600, look, |_| true), None);
    }

    #[test]
    fn no_timeouts_mean_no_stall() {
        assert_eq!(stalls_after(3600, |_| tcp(7, 10, 0), |_| true), None);
    }

    #[test]
    fn a_path_that_is_down_both_ways_is_no_stall() {
        assert_eq!(stalls_after(60, |_| tcp(7, 10, 3), |second| second == 0), None);
    }

    #[test]
    fn an_outage_before_does_not_count() {
        let hears = |second| second == 0 || second >= 20;
        assert_eq!(stalls_after(60, |_| tcp(7, 10, 3), hears), Some(30));
    }

    #[test]
    fn an_acknowledged_stall_explains_no_end() {
        let (mut detector, now) = detector();
        detector.observe(tcp(7, 1, 0), now);
        detector.acknowledged();
        let later = now + 20 * HEARTBEAT;
        detector.note_bytes(later);
        assert_eq!(detector.explains_end(later), None);
    }

    #[test]
    fn a_stall_of_one_heartbeat_explains_an_end() {
        let (mut detector, now) = detector();
        detector.observe(tcp(7, 1, 1), now);
        let later = now + HEARTBEAT;
        assert_eq!(detector.explains_end(now + Duration::from_secs(4)), None);
        assert_eq!((detector.explains_end(later), detector.is_stalled(later)), (Some(HEARTBEAT), false));
    }
}
