//! The time for which ingest lets datagrams coalesce in the socket before it receives them.
//!
//! - A lone datagram is received at once, a burst as one piece, and an even stream in fewer pieces.
//! - Each piece costs both daemons and the kernels far more than the datagrams in it.

use core::time::Duration;
use std::time::Instant;

use crate::limits::COALESCING_MAX;

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

/// The peak rate that may begin at any moment: 10 Gbit/s, in bytes per second.
const PEAK_RATE: u64 = 1_250_000_000;

/// The counts of the current span, and the wait that follows from the last one.
#[derive(Debug)]
pub(crate) struct Coalescing {
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

impl Coalescing {
    /// Sets up coalescing for sockets of which the smallest queues `capacity` bytes. Three quarters stay free
    /// for datagrams that arrive while ingest works.
    pub(crate) fn new(capacity: usize, now: Instant) -> Self {
        let room = u64::try_from(capacity / 4).unwrap_or(u64::MAX);
        let time_at_peak = Duration::from_nanos(room.saturating_mul(1_000_000_000) / PEAK_RATE);
        let longest = COALESCING_MAX.min(time_at_peak);
        Self { room, longest, began: now, pieces: 0, datagrams: 0, bytes: 0, time: Duration::ZERO }
    }

    /// Notes a received piece.
    pub(crate) fn note_received(&mut self, datagrams: u64, bytes: u64, now: Instant) {
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
    pub(crate) fn time(&self) -> Duration {
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
    fn after_a_second(capacity: usize, every: Duration, datagrams: u64) -> (Duration, u64) {
        let began = Instant::now();
        let mut coalescing = Coalescing::new(capacity, began);
        let (mut now, mut waiting, mut pieces) = (began, 0, 0);
        let mut bursts = (1..).map(|number| began + every * number).peekable();
        while now < began + Duration::from_secs(1) {
            now = now.max(*bursts.peek().unwrap()) + coalescing.time();
            while bursts.next_if(|burst| *burst <= now).is_some() {
                waiting += datagrams;
            }
            pieces += u64::from(now > began + Duration::from_millis(900));
            coalescing.note_received(waiting, waiting * 1464, now);
            waiting = 0;
        }
        (coalescing.time(), pieces)
    }

    #[test]
    fn few_datagrams_are_received_one_by_one() {
        for every in [2, 5, 1000] {
            let (time, pieces) = after_a_second(usize::MAX, Duration::from_millis(every), 1);
            assert_eq!((time, pieces >= 100 / every), (Duration::ZERO, true), "{every}");
        }
    }

    #[test]
    fn a_burst_is_received_as_one_piece() {
        for (every, datagrams) in [(1, 5), (1, 20), (1, 60), (10, 200)] {
            let (time, pieces) = after_a_second(usize::MAX, Duration::from_millis(every), datagrams);
            assert_eq!(time, BURST_WAIT, "{datagrams}");
            assert!((100 / every..=100 / every + 1).contains(&pieces), "{datagrams}: {pieces}");
        }
    }

    #[test]
    fn a_flood_is_received_two_batches_at_a_time() {
        let (time, _) = after_a_second(usize::MAX, Duration::from_micros(3), 1);
        let bytes = time.as_secs_f64() / 3e-6 * 1464.0;
        assert!((bytes - 131_072.0).abs() < 2000.0, "{bytes}");
    }

    #[test]
    fn an_even_stream_is_received_once_a_millisecond() {
        for every in [16, 50, 333] {
            let (time, pieces) = after_a_second(usize::MAX, Duration::from_micros(every), 1);
            assert!(time <= COALESCING_MAX, "{every}: {time:?}");
            assert!((70..=210).contains(&pieces), "{every}: {pieces}");
        }
    }

    #[test]
    fn a_sudden_flood_fills_a_quarter_at_most() {
        for capacity in [2304_u32, 212_992, 425_984] {
            let (time, _) = after_a_second(usize::try_from(capacity).unwrap(), Duration::from_micros(50), 1);
            assert!(time > Duration::ZERO && time < COALESCING_MAX);
            // 10 Gbit/s.
            assert!(time.as_secs_f64() * 1.25e9 <= f64::from(capacity) / 4.0, "{capacity}: {time:?}");
        }
    }

    #[test]
    fn the_next_datagram_shows_the_end_of_a_flood() {
        let mut now = Instant::now();
        let mut coalescing = Coalescing::new(usize::MAX, now);
        for _ in 0..200 {
            now += Duration::from_micros(100);
            coalescing.note_received(30, 43_920, now);
        }
        assert!(coalescing.time() > BURST_WAIT);
        coalescing.note_received(1, 1464, now + Duration::from_secs(1));
        assert_eq!(coalescing.time(), Duration::ZERO);
    }
}
