//! Distinguishes a path that loses large packets from a receiver that is held up.
//!
//! Both look alike to the session: data is under way and nothing is acknowledged, while heartbeats arrive. TCP knows the
//! difference. A receiver that does not read closes its window, and then no segment is under way. On a path that loses large
//! packets (a path MTU black hole), TCP repeats a segment over and over and nothing new is acknowledged. A device of this host
//! that drops them, such as a tunnel, leaves them unsent although the window is open.
//!
//! Does no I/O and never reads the clock: the caller passes both.

use std::time::{Duration, Instant};

use crate::host::TcpProgress;
use crate::limits::HEARTBEATS_UNACKNOWLEDGED;

/// Watches one connection.
#[derive(Debug)]
pub(crate) struct StallDetector {
    heartbeat: Duration,
    /// When the receiver was heard last.
    heard: Instant,
    /// Since when nothing new was acknowledged by TCP, and how many bytes were acknowledged then.
    since: Option<(Instant, u64)>,
    /// Whether TCP has repeated a segment, or could not send one, as of the last look.
    is_repeating: bool,
    /// When to look at TCP next.
    look_at: Instant,
}

/// The longest time between two looks at TCP.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

impl StallDetector {
    pub(crate) fn new(heartbeat: Duration, now: Instant) -> Self {
        Self { heartbeat, heard: now, since: None, is_repeating: false, look_at: now }
    }

    /// The receiver was heard. If it was silent for longer than heartbeats explain, the path was down in both directions: then
    /// the time before does not count.
    pub(crate) fn heard(&mut self, now: Instant) {
        if self.is_silent(now) {
            self.since = None;
        }
        self.heard = now;
    }

    /// The receiver acknowledged something: all was well until now.
    pub(crate) fn acknowledged(&mut self) {
        self.since = None;
    }

    /// When to call [`Self::observe`] next while data is under way.
    pub(crate) fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Takes in how TCP fares at the moment.
    pub(crate) fn observe(&mut self, tcp: TcpProgress, now: Instant) {
        self.look_at = now + (self.heartbeat / 4).min(LOOK_EVERY_MAX);
        self.is_repeating = tcp.timeouts > 0 || tcp.bytes_refused > 0;
        let acknowledged = tcp.bytes_acknowledged;
        let is_same = self.since.is_some_and(|(_, before)| before == acknowledged);
        if tcp.segments_unacknowledged == 0 && tcp.bytes_refused == 0 {
            self.since = None;
        } else if !is_same {
            self.since = Some((now, acknowledged));
        }
    }

    /// For how long nothing new was acknowledged by TCP although something is under way and the receiver is heard.
    fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let (since, _) = self.since.filter(|_| !self.is_silent(now))?;
        Some(now.saturating_duration_since(since))
    }

    /// The time after which a session counts as not working. It ends before the receiver, which hears nothing, ends it.
    pub(crate) fn patience(&self) -> Duration {
        self.heartbeat * HEARTBEATS_UNACKNOWLEDGED
    }

    /// Whether the session must be given up now.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        self.is_repeating && self.stalled_for(now).is_some_and(|stalled| stalled >= self.patience())
    }

    /// For how long the connection has stalled, if that explains why the receiver has ended it now. TCP's first time-out may
    /// still be to come.
    pub(crate) fn explains_end(&self, now: Instant) -> Option<Duration> {
        self.stalled_for(now).filter(|stalled| *stalled >= self.heartbeat)
    }

    fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) > self.heartbeat * 3 / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(5);

    /// A detector, and a clock that stands at its beginning.
    fn detector() -> (StallDetector, Instant) {
        let now = Instant::now();
        (StallDetector::new(HEARTBEAT, now), now)
    }

    fn tcp(bytes_acknowledged: u64, segments_unacknowledged: u32, timeouts: u8) -> TcpProgress {
        TcpProgress { bytes_acknowledged, segments_unacknowledged, timeouts, ..TcpProgress::default() }
    }

    /// Looks once a second for `seconds`, with a heartbeat every 5 s; returns after how many seconds it stalls.
    fn stalls_after(
        seconds: u64,
        look: impl Fn(u64) -> TcpProgress,
        hears: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let (mut detector, began) = detector();
        (0..seconds).find(|second| {
            let now = began + Duration::from_secs(*second);
            if second % 5 == 0 && hears(*second) {
                detector.heard(now);
            }
            detector.observe(look(*second), now);
            detector.is_stalled(now)
        })
    }

    #[test]
    fn a_segment_repeated_for_two_heartbeats_is_a_stall() {
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
    fn unacknowledged_data_without_timeouts_is_no_stall() {
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
    fn what_was_acknowledged_since_does_not_explain_an_end() {
        let (mut detector, now) = detector();
        detector.observe(tcp(7, 1, 0), now);
        detector.acknowledged();
        let later = now + 20 * HEARTBEAT;
        detector.heard(later);
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
