//! How many datagrams a collector can take now.
//!
//! A collector elsewhere takes any number. One on this machine is watched: its receive queue is kept below half
//! of its limit, the other half being for other senders and for what the kernel has not counted yet. One question
//! to the kernel is worth as many datagrams as fit then, for a millisecond.

use core::time::Duration;
use std::io;

use tokio::time::Instant;

use crate::datagram::Datagram;
use crate::receiver::output::watch::{ReceiveQueue, Watch, memory_of};

/// Datagrams in one run at the most: what one sendmmsg call takes.
pub(super) const RUN_MAX: usize = 64;

/// The longest time for which one look at the collector's socket counts.
const LOOK_VALID: Duration = Duration::from_millis(1);

/// Bytes of kernel memory that one look is worth at the most, so that other senders find room too.
const ROOM_MAX: u64 = 1024 * 1024;

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// So many of the datagrams; at least 1, at most [`RUN_MAX`].
    Go(usize),
    /// None: the collector's queue is near full.
    Full,
    /// None: the collector's socket is not there.
    Absent,
}

/// The gate before one collector.
#[derive(Debug)]
pub(super) struct Gate {
    /// Looks at the collector's socket; `None` if the collector is elsewhere.
    watch: Option<Watch>,
    /// What the last look found, and when.
    seen: Option<(ReceiveQueue, Instant)>,
    /// Bytes of kernel memory that may still be filled before the next look; `room <= ROOM_MAX`.
    room: u64,
    /// Datagrams dropped at the collector's socket since it is watched.
    drops: u64,
}

impl Gate {
    /// A gate that looks through `watch`, or that is always open.
    pub(super) fn new(watch: Option<Watch>) -> Self {
        Self { watch, seen: None, room: 0, drops: 0 }
    }

    /// Whether the collector is watched.
    pub(super) fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// Datagrams dropped at the collector's socket since it is watched.
    pub(super) fn drops(&self) -> u64 {
        self.drops
    }

    /// How many of `datagrams`, at least one, may be sent now; they count as sent.
    pub(super) fn admit(&mut self, datagrams: &[Datagram<'_>]) -> io::Result<Admission> {
        if !self.is_watching() {
            return Ok(Admission::Go(datagrams.len().min(RUN_MAX)));
        }
        let fresh = self.seen.is_some_and(|(_, when)| when.elapsed() < LOOK_VALID);
        if fresh && let Some(count) = self.take_room(datagrams) {
            return Ok(Admission::Go(count));
        }
        let Some(queue) = self.look()? else { return Ok(Admission::Absent) };
        Ok(match self.take_room(datagrams) {
            Some(count) => Admission::Go(count),
            None if queue.queued == 0 => Admission::Go(1),
            None => Admission::Full,
        })
    }

    /// How many of the datagrams fit in the room that is left, which shrinks by them; `None` if none fits.
    fn take_room(&mut self, datagrams: &[Datagram<'_>]) -> Option<usize> {
        let mut count = 0;
        for datagram in datagrams.iter().take(RUN_MAX) {
            let Some(room) = self.room.checked_sub(memory_of(datagram.payload.len())) else { break };
            self.room = room;
            count += 1;
        }
        (count > 0).then_some(count)
    }

    /// Looks at the collector's socket now; `None` if it is not there or not watched.
    pub(super) fn look(&mut self) -> io::Result<Option<ReceiveQueue>> {
        let Some(watch) = &mut self.watch else { return Ok(None) };
        let before = self.seen.take();
        self.room = 0;
        let Some(queue) = watch.look()? else { return Ok(None) };
        if let Some((before, _)) = before.filter(|(before, _)| before.cookie == queue.cookie) {
            self.drops += u64::from(queue.drops.wrapping_sub(before.drops));
        }
        self.room = u64::from((queue.limit / 2).saturating_sub(queue.queued)).min(ROOM_MAX);
        self.seen = Some((queue, Instant::now()));
        Ok(Some(queue))
    }

    /// Whether the socket that the last look found is still there.
    pub(super) fn is_same_socket(&mut self) -> io::Result<bool> {
        let before = self.seen.map(|(queue, _)| queue.cookie);
        Ok(self.look()?.map(|queue| queue.cookie) == before)
    }

    /// What the last look found does not count any more.
    pub(super) fn forget(&mut self) {
        self.room = 0;
    }
}
