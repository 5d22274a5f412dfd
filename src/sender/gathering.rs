//! How long ingest lets datagrams gather before it takes them: a lone one leaves at once, a burst as one, and a flood in large
//! pieces. Each piece costs both daemons, and the kernel between them, far more than the datagrams in it.

use core::time::Duration;
use std::time::Instant;

use crate::limits::GATHERING_MAX;

/// Bytes of payload that are worth waiting for: two full batches.
const PIECE: u64 = 128 * 1024;

/// How long a rate is measured.
const SPAN: Duration = Duration::from_millis(10);

/// How long the rest of a burst is waited for once its first datagram is there: the shortest sleep, which the kernel makes some
/// 50 us long (its timer slack).
const BURST: Duration = Duration::from_micros(1);

/// In so many microseconds a datagram must come for bursts to be waited for: fewer are taken one by one.
const BURST_RATE: u128 = 1000;

/// Bytes of kernel memory that a datagram takes in a socket's queue beside its payload, at the most.
const OVERHEAD: u64 = 1536;

/// The rate at which datagrams come, and what follows from it.
#[derive(Debug)]
pub(crate) struct Gathering {
    /// Bytes of kernel memory that may fill while nobody takes datagrams: of the smallest socket.
    room: u64,
    began: Instant,
    /// Since then.
    datagrams: u64,
    bytes: u64,
    pause: Duration,
    burst: Duration,
}

impl Gathering {
    /// Where the smallest socket queues `capacity` bytes. Half of that stays free for what comes while ingest is at work.
    pub(crate) fn new(capacity: usize, now: Instant) -> Self {
        let room = u64::try_from(capacity / 4).unwrap_or(u64::MAX);
        Self { room, began: now, datagrams: 0, bytes: 0, pause: Duration::ZERO, burst: Duration::ZERO }
    }

    /// So many datagrams with so many bytes of payload were just taken.
    pub(crate) fn note(&mut self, datagrams: u64, bytes: u64, now: Instant) {
        self.datagrams += datagrams;
        self.bytes += bytes;
        let span = now.duration_since(self.began);
        if span >= SPAN {
            self.pause = self.pause_at(span);
            let come_often = span.as_micros() <= BURST_RATE * u128::from(self.datagrams);
            self.burst = if come_often && self.pause.is_zero() { BURST } else { Duration::ZERO };
            (self.began, self.datagrams, self.bytes) = (now, 0, 0);
        }
    }

    /// How long to let a flood gather before datagrams are waited for again.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// How long to let a burst gather once its first datagram is there.
    pub(crate) fn burst(&self) -> Duration {
        self.burst
    }

    /// The time in which a piece comes, unless that is too long or more than the socket holds.
    fn pause_at(&self, span: Duration) -> Duration {
        let time_for = |amount: u64, of: u64| {
            let nanos = span.as_nanos() * u128::from(amount) / u128::from(of.max(1));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        let piece = time_for(PIECE, self.bytes);
        // The kernel rounds what a payload takes up to twice its size.
        let memory = self.bytes.saturating_mul(2).saturating_add(self.datagrams.saturating_mul(OVERHEAD));
        if piece > GATHERING_MAX { Duration::ZERO } else { piece.min(time_for(self.room, memory)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// What follows from a second in which so many datagrams of this length came in each millisecond.
    fn gathering(capacity: usize, datagrams: u64, length: u64) -> Gathering {
        let mut now = Instant::now();
        let mut gathering = Gathering::new(capacity, now);
        for _ in 0..1000 {
            now += MILLISECOND;
            gathering.note(datagrams, datagrams * length, now);
        }
        gathering
    }

    fn pause(capacity: usize, datagrams: u64, length: u64) -> Duration {
        gathering(capacity, datagrams, length).pause()
    }

    #[test]
    fn bursts_are_waited_for_while_many_datagrams_come_and_no_flood() {
        for (datagrams, is_waited_for) in [(0, false), (1, true), (20, true), (100, false)] {
            let burst = gathering(usize::MAX, datagrams, 1464).burst();
            assert_eq!(!burst.is_zero(), is_waited_for, "{datagrams}");
        }
        let mut now = Instant::now();
        let mut gathering = Gathering::new(usize::MAX, now);
        for _ in 0..1000 {
            now += Duration::from_millis(2);
            gathering.note(1, 1464, now);
        }
        assert!(gathering.burst().is_zero(), "500 a second are taken one by one");
    }

    #[test]
    fn what_comes_at_a_moderate_rate_is_taken_at_once() {
        for (datagrams, length) in [(0, 0), (1, 1464), (20, 1464), (40, 1464), (500, 100)] {
            assert_eq!(pause(usize::MAX, datagrams, length), Duration::ZERO, "{datagrams}");
        }
    }

    #[test]
    fn a_flood_gathers_for_as_long_as_two_batches_take() {
        for (datagrams, length) in [(60, 1464), (400, 1464), (5000, 100)] {
            let in_a_piece = pause(usize::MAX, datagrams, length).as_secs_f64()
                * 1e3
                * f64::from(u32::try_from(datagrams * length).unwrap());
            assert!((in_a_piece - 131_072.0).abs() < 100.0, "{datagrams}: {in_a_piece}");
        }
    }

    #[test]
    fn a_small_socket_is_never_filled_by_more_than_a_quarter() {
        let (capacity, datagrams, length) = (212_992, 60, 1464);
        let pause = pause(capacity, datagrams, length);
        assert!(pause > Duration::ZERO);
        // What Linux 6.18 takes for a datagram of this length.
        let filled = pause.as_secs_f64() * 1e3 * 60.0 * 2304.0;
        assert!(filled < 212_992.0 / 4.0, "{filled}");
    }

    #[test]
    fn the_end_of_a_flood_is_seen_with_the_next_datagram() {
        let mut now = Instant::now();
        let mut gathering = Gathering::new(usize::MAX, now);
        for _ in 0..20 {
            now += MILLISECOND;
            gathering.note(100, 146_400, now);
        }
        assert!(gathering.pause() > Duration::ZERO);
        gathering.note(1, 1464, now + Duration::from_secs(1));
        assert_eq!(gathering.pause(), Duration::ZERO);
    }
}
