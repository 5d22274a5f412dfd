//! A short wait that follows the traffic, for a `max-delay` of 0 and for small sockets: a lone datagram is
//! received at once, a burst as one piece, and an even stream in about one piece each millisecond.

use core::time::Duration;
use std::time::Instant;

use crate::limits::COALESCING_MAX;
use crate::sender::ingest::coalescing::flood::time_at_peak;

/// The wait for the rest of a burst: the shortest sleep, which the timer slack of the kernel makes about 50
/// us long.
const BURST_WAIT: Duration = Duration::from_micros(1);

/// The shortest wait that coalesces more than one burst.
const SHORT_WAIT: Duration = Duration::from_micros(60);

/// The span of measurement before the wait is adjusted.
const SPAN: Duration = Duration::from_millis(10);

/// With fewer datagrams in a span, each is received alone: 1,000 a second.
const FEW_DATAGRAMS: u64 = 10;

/// More pieces in a span are too many: slightly more than one per millisecond.
const PIECES_MAX: u64 = 12;

/// The payload bytes of a piece that is large enough: two full batches.
const PIECE_BYTES: u64 = 128 * 1024;

/// The largest overhead of a datagram in a socket queue, in bytes of kernel memory.
const OVERHEAD_BYTES: u64 = 1536;

/// The counts of the current span, and the wait that follows from the last one.
#[derive(Debug)]
pub(super) struct AdaptiveWait {
    /// The bytes of kernel memory that may fill during a wait, in the smallest socket.
    room: u64,
    /// The longest wait: at the peak rate it does not fill `room`.
    longest: Duration,
    began: Instant,
    /// Counts since `began`.
    pieces: u64,
    datagrams: u64,
    bytes: u64,
    time: Duration,
}

impl AdaptiveWait {
    /// Sets up the wait for sockets of which the smallest may fill by `room` bytes meanwhile.
    pub(super) fn new(room: u64, now: Instant) -> Self {
        let longest = COALESCING_MAX.min(time_at_peak(room));
        Self { room, longest, began: now, pieces: 0, datagrams: 0, bytes: 0, time: Duration::ZERO }
    }

    /// Notes a received piece.
    pub(super) fn note_received(&mut self, datagrams: u64, bytes: u64, now: Instant) {
        self.pieces += 1;
        self.datagrams += datagrams;
        self.bytes += bytes;
        let span = now.duration_since(self.began);
        if span >= SPAN {
            self.time = self.next_time(span);
            (self.began, self.pieces, self.datagrams, self.bytes) = (now, 0, 0, 0);
        }
    }

    /// The wait after the first datagram of a piece.
    pub(super) fn time(&self) -> Duration {
        self.time
    }

    fn next_time(&self, span: Duration) -> Duration {
        let spans = u64::try_from(span.as_nanos() / SPAN.as_nanos()).unwrap_or(u64::MAX);
        if self.datagrams < FEW_DATAGRAMS.saturating_mul(spans) {
            return Duration::ZERO;
        }
        let time = if self.pieces > PIECES_MAX.saturating_mul(spans) {
            (self.time * 2).max(SHORT_WAIT)
        } else {
            Some(self.time / 2).filter(|time| *time >= SHORT_WAIT).unwrap_or(BURST_WAIT)
        };
        time.min(self.longest).min(self.time_to_fill(span))
    }

    /// The time in which a piece is complete or a socket fills up, whichever is shorter.
    fn time_to_fill(&self, span: Duration) -> Duration {
        let time_for = |amount: u64, of: u64| {
            let nanos = span.as_nanos() * u128::from(amount) / u128::from(of.max(1));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        // The kernel rounds the memory of a payload up to twice its size.
        let memory =
            self.bytes.saturating_mul(2).saturating_add(self.datagrams.saturating_mul(OVERHEAD_BYTES));
        time_for(PIECE_BYTES, self.bytes).min(time_for(self.room, memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates one second with a burst of `datagrams` of 1,464 bytes every `every`. Returns the wait at the
    /// end and the number of pieces in the last 100 ms.
    fn after_a_second(room: u64, every: Duration, datagrams: u64) -> (Duration, u64) {
        let began = Instant::now();
        let mut wait = AdaptiveWait::new(room, began);
        let (mut now, mut waiting, mut pieces) = (began, 0, 0);
        let mut bursts = (1..).map(|number| began + every * number).peekable();
        while now < began + Duration::from_secs(1) {
            now = now.max(*bursts.peek().unwrap()) + wait.time();
            while bursts.next_if(|burst| *burst <= now).is_some() {
                waiting += datagrams;
            }
            pieces += u64::from(now > began + Duration::from_millis(900));
            wait.note_received(waiting, waiting * 1464, now);
            waiting = 0;
        }
        (wait.time(), pieces)
    }

    #[test]
    fn few_datagrams_are_received_one_by_one() {
        for every in [2, 5, 1000] {
            let (time, pieces) = after_a_second(u64::MAX, Duration::from_millis(every), 1);
            assert_eq!((time, pieces >= 100 / every), (Duration::ZERO, true), "{every}");
        }
    }

    #[test]
    fn a_burst_is_received_as_one_piece() {
        for (every, datagrams) in [(1, 5), (1, 20), (1, 60), (10, 200)] {
            let (time, pieces) = after_a_second(u64::MAX, Duration::from_millis(every), datagrams);
            assert_eq!(time, BURST_WAIT, "{datagrams}");
            assert!((100 / every..=100 / every + 1).contains(&pieces), "{datagrams}: {pieces}");
        }
    }

    #[test]
    fn a_flood_is_received_two_batches_at_a_time() {
        let (time, _) = after_a_second(u64::MAX, Duration::from_micros(3), 1);
        let bytes = time.as_secs_f64() / 3e-6 * 1464.0;
        assert!((bytes - 131_072.0).abs() < 2000.0, "{bytes}");
    }

    #[test]
    fn an_even_stream_is_received_once_a_millisecond() {
        for every in [16, 50, 333] {
            let (time, pieces) = after_a_second(u64::MAX, Duration::from_micros(every), 1);
            assert!(time <= COALESCING_MAX, "{every}: {time:?}");
            assert!((70..=210).contains(&pieces), "{every}: {pieces}");
        }
    }

    #[test]
    fn a_sudden_flood_fills_the_room_at_most() {
        for room in [576_u32, 53_248, 106_496] {
            let (time, _) = after_a_second(room.into(), Duration::from_micros(50), 1);
            assert!(time > Duration::ZERO && time < COALESCING_MAX);
            // 10 Gbit/s.
            assert!(time.as_secs_f64() * 1.25e9 <= f64::from(room), "{room}: {time:?}");
        }
    }

    #[test]
    fn the_next_datagram_shows_the_end_of_a_flood() {
        let mut now = Instant::now();
        let mut wait = AdaptiveWait::new(u64::MAX, now);
        for _ in 0..200 {
            now += Duration::from_micros(100);
            wait.note_received(30, 43_920, now);
        }
        assert!(wait.time() > BURST_WAIT);
        wait.note_received(1, 1464, now + Duration::from_secs(1));
        assert_eq!(wait.time(), Duration::ZERO);
    }
}
