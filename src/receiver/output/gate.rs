//! How many datagrams a collector can take now.
//!
//! A collector elsewhere takes any number. One on this machine is watched: its receive queue is kept below half
//! of its limit, the other half being for other senders and for what the kernel has not counted yet. One question
//! to the kernel is worth as many datagrams as fit then, for a millisecond.

use core::time::Duration;
use std::collections::VecDeque;
use std::io;

use tokio::time::Instant;

use crate::receiver::output::watch::{ReceiveQueue, Watch, memory_at_least, memory_of};

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
    /// The socket that the last look found.
    found: Option<[u8; 8]>,
    /// The last socket that was ever found, and how often another one than before was found.
    known: Option<[u8; 8]>,
    found_again: u64,
    /// Memory of each datagram that was sent and may lie unread in the collector's queue, oldest first.
    unread: VecDeque<u64>,
    /// All of it together.
    unread_memory: u64,
    /// Whether something was sent since the last look.
    sent: bool,
    /// Not told yet: datagrams dropped at the collector's socket, and those that may have lain unread in sockets that
    /// are gone.
    drops: u64,
    lost: u64,
}

impl Gate {
    /// A gate that looks through `watch`, or that is always open. The last socket that was ever found may be known.
    pub(super) fn new(watch: Option<Watch>, known: Option<[u8; 8]>) -> Self {
        Self {
            watch,
            seen: None,
            room: 0,
            found: None,
            known,
            found_again: 0,
            unread: VecDeque::new(),
            unread_memory: 0,
            sent: false,
            drops: 0,
            lost: 0,
        }
    }

    /// Whether the collector is watched.
    pub(super) fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// Datagrams that the kernel dropped at the collector's socket between two looks between which some were sent. Told once.
    pub(super) fn take_drops(&mut self) -> u64 {
        core::mem::take(&mut self.drops)
    }

    /// Datagrams, at the most, that lay unread in sockets of the collector when these went away. Told once.
    pub(super) fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }

    /// How often the collector was found at a socket that it was not at before.
    pub(super) fn found_again(&self) -> u64 {
        self.found_again
    }

    /// The last socket that an earlier run found.
    pub(super) fn expect(&mut self, socket: [u8; 8]) {
        self.known = Some(socket);
    }

    /// The last socket that was ever found.
    pub(super) fn known(&self) -> Option<[u8; 8]> {
        self.known
    }

    /// Whether the collector's socket is there, if it is watched, by a look that still counts.
    pub(super) fn is_present(&mut self) -> io::Result<bool> {
        let is_fresh = self.seen.is_some_and(|(_, when)| when.elapsed() < LOOK_VALID);
        Ok(!self.is_watching() || is_fresh || self.look()?.is_some())
    }

    /// How many of the `payloads`, at least one, may be sent now.
    pub(super) fn admit(&mut self, payloads: &[&[u8]]) -> io::Result<Admission> {
        if !self.is_watching() {
            return Ok(Admission::Go(payloads.len().min(RUN_MAX)));
        }
        let fresh = self.seen.is_some_and(|(_, when)| when.elapsed() < LOOK_VALID);
        if fresh && let Some(count) = self.fitting(payloads) {
            return Ok(Admission::Go(count));
        }
        let Some(queue) = self.look()? else { return Ok(Admission::Absent) };
        Ok(match self.fitting(payloads) {
            Some(count) => Admission::Go(count),
            None if queue.queued == 0 => Admission::Go(1),
            None => Admission::Full,
        })
    }

    /// How many of the payloads fit in the room that is left; `None` if none fits.
    fn fitting(&self, payloads: &[&[u8]]) -> Option<usize> {
        let mut room = self.room;
        let fits = |payload: &&&[u8]| match room.checked_sub(memory_of(payload.len())) {
            Some(rest) => {
                room = rest;
                true
            }
            None => false,
        };
        let count = payloads.iter().take(RUN_MAX).take_while(fits).count();
        (count > 0).then_some(count)
    }

    /// Something is about to be sent: what the kernel drops from now on counts.
    pub(super) fn sending(&mut self) {
        self.sent = true;
    }

    /// These payloads went to the collector's socket.
    pub(super) fn sent(&mut self, payloads: &[&[u8]]) {
        if !self.is_watching() {
            return;
        }
        for payload in payloads {
            self.room = self.room.saturating_sub(memory_of(payload.len()));
            let memory = memory_at_least(payload.len());
            self.unread.push_back(memory);
            self.unread_memory += memory;
        }
    }

    /// Looks at the collector's socket now; `None` if it is not there or not watched.
    pub(super) fn look(&mut self) -> io::Result<Option<ReceiveQueue>> {
        let Some(watch) = &mut self.watch else { return Ok(None) };
        let before = self.seen.take();
        self.room = 0;
        let found = watch.look()?;
        if found.map(|queue| queue.cookie) != self.found {
            self.lost += u64::try_from(self.unread.len()).unwrap_or(u64::MAX);
            self.unread.clear();
            self.unread_memory = 0;
            self.found = found.map(|queue| queue.cookie);
        }
        if let Some(cookie) = self.found.filter(|cookie| self.known != Some(*cookie)) {
            self.known = Some(cookie);
            self.found_again += 1;
        }
        let Some(queue) = found else { return Ok(None) };
        if let Some((before, _)) = before.filter(|(before, _)| before.cookie == queue.cookie && self.sent) {
            self.drops += u64::from(queue.drops.wrapping_sub(before.drops));
        }
        self.sent = false;
        self.forget_read(u64::from(queue.queued));
        self.room = u64::from((queue.limit / 2).saturating_sub(queue.queued)).min(ROOM_MAX);
        self.seen = Some((queue, Instant::now()));
        Ok(Some(queue))
    }

    /// Of what was sent, only what makes up the last `queued` bytes of memory can be unread.
    fn forget_read(&mut self, queued: u64) {
        while let Some(oldest) = self.unread.front().filter(|oldest| self.unread_memory - **oldest >= queued)
        {
            self.unread_memory -= oldest;
            self.unread.pop_front();
        }
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
