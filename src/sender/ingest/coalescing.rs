//! The time for which ingest lets datagrams gather in the sockets before it receives them as one piece.
//!
//! Each piece wakes up both daemons, which costs them far more than the datagrams in it. So ingest receives
//! at most one piece in `max-delay`. While pieces follow each other, it only sleeps between them: it wakes
//! up once for each piece, not also for the first datagram of each.

mod adaptive;
mod flood;

use core::time::Duration;
use std::time::Instant;

use crate::sender::ingest::coalescing::adaptive::AdaptiveWait;
use crate::sender::ingest::coalescing::flood::time_at_peak;

/// The payload bytes of a piece that is large enough: a longer wait would save little.
const PIECE_BYTES: u64 = 256 * 1024;

/// The shortest sleep that is worth a wake-up. Sockets that a flood fills faster use the adaptive wait.
const SLEEP_MIN: Duration = Duration::from_micros(500);

/// Pieces in a row without datagrams after which ingest waits for the next datagram.
const EMPTY_PIECES_MAX: u32 = 2;

/// Decides when ingest receives. Reads no clock and does not sleep.
#[derive(Debug)]
pub(crate) struct Coalescing {
    max_delay: Duration,
    /// The bytes of kernel memory that may fill during a sleep, in the smallest socket.
    room: u64,
    /// The wait if `max_delay` is 0 or a socket is small.
    adaptive: AdaptiveWait,
    /// Pieces follow each other within `max_delay`.
    is_ticking: bool,
    empty_pieces: u32,
    /// The time of the last piece.
    received_at: Instant,
    /// The delay after which the next piece is large enough, at the rate of the last one.
    time_to_fill: Duration,
}

impl Coalescing {
    /// Sets up coalescing for sockets of which the smallest queues `capacity` bytes. Three quarters stay free
    /// for datagrams that arrive while ingest works.
    pub(crate) fn new(max_delay: Duration, capacity: usize, now: Instant) -> Self {
        let room = u64::try_from(capacity / 4).unwrap_or(u64::MAX);
        Self {
            max_delay,
            room,
            adaptive: AdaptiveWait::new(room, now),
            is_ticking: false,
            empty_pieces: 0,
            received_at: now,
            time_to_fill: Duration::MAX,
        }
    }

    /// Changes the longest delay from the next piece on.
    pub(crate) fn set_max_delay(&mut self, max_delay: Duration) {
        self.max_delay = max_delay;
        self.is_ticking &= self.uses_max_delay();
    }

    /// Returns `true` if the next piece begins at once. Otherwise it begins with the next datagram.
    pub(crate) fn is_ticking(&self) -> bool {
        self.is_ticking
    }

    /// Notes that the next piece begins at `now`, with the first datagram since the last piece.
    pub(crate) fn note_arrival(&mut self, now: Instant) {
        self.is_ticking = self.uses_max_delay() && now.duration_since(self.received_at) < self.max_delay;
        self.empty_pieces = 0;
    }

    /// Returns the next sleep of a piece that began `age` ago; `None` if it must be received. `queued`
    /// returns the bytes of kernel memory in the fullest socket. It is called only after a sleep.
    pub(crate) fn next_sleep(&self, age: Duration, queued: impl FnOnce() -> u64) -> Option<Duration> {
        if !self.uses_max_delay() {
            return Some(self.adaptive.time()).filter(|time| age.is_zero() && !time.is_zero());
        }
        let left = self.max_delay.min(self.time_to_fill).checked_sub(age).filter(|left| !left.is_zero())?;
        let queued = if age.is_zero() { 0 } else { queued() };
        let safe = time_at_peak(self.room.saturating_sub(queued));
        Some(left.min(safe)).filter(|_| safe >= SLEEP_MIN)
    }

    /// Notes a received piece, of several sockets if they were read together.
    pub(crate) fn note_received(&mut self, datagrams: u64, bytes: u64, now: Instant) {
        self.adaptive.note_received(datagrams, bytes, now);
        let since = now.duration_since(self.received_at);
        let nanos = since.as_nanos() * u128::from(PIECE_BYTES) / u128::from(bytes.max(1));
        self.time_to_fill = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.received_at = now;
        self.empty_pieces = if datagrams == 0 { self.empty_pieces + 1 } else { 0 };
        self.is_ticking &= self.empty_pieces < EMPTY_PIECES_MAX;
    }

    fn uses_max_delay(&self) -> bool {
        !self.max_delay.is_zero() && time_at_peak(self.room) >= SLEEP_MIN
    }
}

#[cfg(test)]
mod tests;
