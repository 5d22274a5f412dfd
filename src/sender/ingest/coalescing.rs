//! How long ingest lets datagrams gather before it takes them. A lone one leaves at once, a burst as one, and what comes in many
//! small pieces in fewer: each piece costs both daemons, and the kernel between them, far more than the datagrams in it.

use core::time::Duration;
use std::time::Instant;

use crate::limits::COALESCING_MAX;

/// How long the rest of a burst is waited for: the shortest sleep, which the kernel makes some 50 us long (its timer slack).
const BURST: Duration = Duration::from_micros(1);

/// The shortest time that lets more than a burst gather.
const SHORT: Duration = Duration::from_micros(60);

/// How long is looked at what comes, before the time to gather is changed.
const SPAN: Duration = Duration::from_millis(10);

/// Fewer datagrams in a span than this are taken one by one: 1,000 a second.
const FEW: u64 = 10;

/// More pieces in a span than this are too many: some more than one each millisecond.
const PIECES: u64 = 12;

/// Bytes of payload of a piece that need not be larger: two full batches.
const PIECE: u64 = 128 * 1024;

/// Bytes of kernel memory that a datagram takes in a socket's queue beside its payload, at the most.
const OVERHEAD: u64 = 1536;

/// Bytes of kernel memory a second that may come all of a sudden: those of 10 Gbit/s.
const PEAK: u64 = 1_250_000_000;

/// What came in the present span, and what follows from the last one.
#[derive(Debug)]
pub(crate) struct Coalescing {
    /// Bytes of kernel memory that may fill while nobody takes datagrams: of the smallest socket.
    room: u64,
    /// The longest time to gather: at the peak the room does not fill.
    longest: Duration,
    began: Instant,
    /// Since then.
    pieces: u64,
    datagrams: u64,
    bytes: u64,
    time: Duration,
}

impl Coalescing {
    /// Where the smallest socket queues `capacity` bytes. Most of that stays free for what comes while ingest is at work.
    pub(crate) fn new(capacity: usize, now: Instant) -> Self {
        let room = u64::try_from(capacity / 4).unwrap_or(u64::MAX);
        let time_at_peak = Duration::from_nanos(room.saturating_mul(1_000_000_000) / PEAK);
        let longest = COALESCING_MAX.min(time_at_peak);
        Self { room, longest, began: now, pieces: 0, datagrams: 0, bytes: 0, time: Duration::ZERO }
    }

    /// A piece of so many datagrams with so many bytes of payload was just taken.
    pub(crate) fn note(&mut self, datagrams: u64, bytes: u64, now: Instant) {
        self.pieces += 1;
        self.datagrams += datagrams;
        self.bytes += bytes;
        let span = now.duration_since(self.began);
        if span >= SPAN {
            self.time = self.next_time(span);
            (self.began, self.pieces, self.datagrams, self.bytes) = (now, 0, 0, 0);
        }
    }

    /// How long to wait, once the first datagram of a piece is there.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    fn next_time(&self, span: Duration) -> Duration {
        let spans = u64::try_from(span.as_nanos() / SPAN.as_nanos()).unwrap_or(u64::MAX);
        if self.datagrams < FEW.saturating_mul(spans) {
            return Duration::ZERO;
        }
        let time = if self.pieces > PIECES.saturating_mul(spans) {
            (self.time * 2).max(SHORT)
        } else {
            Some(self.time / 2).filter(|time| *time >= SHORT).unwrap_or(BURST)
        };
        time.min(self.longest).min(self.time_to_fill(span))
    }

    /// The time in which a piece is complete, or a socket has no more room, whichever is shorter.
    fn time_to_fill(&self, span: Duration) -> Duration {
        let time_for = |amount: u64, of: u64| {
            let nanos = span.as_nanos() * u128::from(amount) / u128::from(of.max(1));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        // The kernel rounds what a payload takes up to twice its size.
        let memory = self.bytes.saturating_mul(2).saturating_add(self.datagrams.saturating_mul(OVERHEAD));
        time_for(PIECE, self.bytes).min(time_for(self.room, memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sockets of this many bytes, to which a burst of so many datagrams of 1,464 bytes comes each time `every` has gone by: how
    /// long ingest lets them gather, after a second, and how many pieces it took in the last tenth of that.
    fn after_a_second(capacity: usize, every: Duration, datagrams: u64) -> (Duration, u64) {
        let began = Instant::now();
        let mut gathering = Coalescing::new(capacity, began);
        let (mut now, mut waiting, mut pieces) = (began, 0, 0);
        let mut bursts = (1..).map(|number| began + every * number).peekable();
        while now < began + Duration::from_secs(1) {
            now = now.max(*bursts.peek().unwrap()) + gathering.time();
            while bursts.next_if(|burst| *burst <= now).is_some() {
                waiting += datagrams;
            }
            pieces += u64::from(now > began + Duration::from_millis(900));
            gathering.note(waiting, waiting * 1464, now);
            waiting = 0;
        }
        (gathering.time(), pieces)
    }

    #[test]
    fn few_datagrams_are_taken_one_by_one() {
        for every in [2, 5, 1000] {
            let (time, pieces) = after_a_second(usize::MAX, Duration::from_millis(every), 1);
            assert_eq!((time, pieces >= 100 / every), (Duration::ZERO, true), "{every}");
        }
    }

    #[test]
    fn a_burst_is_taken_as_one_soon_after_it_began() {
        for (every, datagrams) in [(1, 5), (1, 20), (1, 60), (10, 200)] {
            let (time, pieces) = after_a_second(usize::MAX, Duration::from_millis(every), datagrams);
            assert_eq!(time, BURST, "{datagrams}");
            assert!((100 / every..=100 / every + 1).contains(&pieces), "{datagrams}: {pieces}");
        }
    }

    #[test]
    fn a_flood_is_taken_in_pieces_of_two_batches() {
        let (time, _) = after_a_second(usize::MAX, Duration::from_micros(3), 1);
        let bytes = time.as_secs_f64() / 3e-6 * 1464.0;
        assert!((bytes - 131_072.0).abs() < 2000.0, "{bytes}");
    }

    #[test]
    fn what_comes_evenly_is_taken_about_once_a_millisecond() {
        for every in [16, 50, 333] {
            let (time, pieces) = after_a_second(usize::MAX, Duration::from_micros(every), 1);
            assert!(time <= COALESCING_MAX, "{every}: {time:?}");
            assert!((70..=210).contains(&pieces), "{every}: {pieces}");
        }
    }

    #[test]
    fn a_small_socket_is_not_filled_by_more_than_a_quarter_even_if_a_flood_begins_all_of_a_sudden() {
        for capacity in [2304_u32, 212_992, 425_984] {
            let (time, _) = after_a_second(usize::try_from(capacity).unwrap(), Duration::from_micros(50), 1);
            assert!(time > Duration::ZERO && time < COALESCING_MAX);
            // 10 Gbit/s.
            assert!(time.as_secs_f64() * 1.25e9 <= f64::from(capacity) / 4.0, "{capacity}: {time:?}");
        }
    }

    #[test]
    fn the_end_of_a_flood_is_seen_with_the_next_datagram() {
        let mut now = Instant::now();
        let mut gathering = Coalescing::new(usize::MAX, now);
        for _ in 0..200 {
            now += Duration::from_micros(100);
            gathering.note(30, 43_920, now);
        }
        assert!(gathering.time() > BURST);
        gathering.note(1, 1464, now + Duration::from_secs(1));
        assert_eq!(gathering.time(), Duration::ZERO);
    }
}
