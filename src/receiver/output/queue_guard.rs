//! A guard of the collector's receive queue: the number of datagrams that the collector can accept now.
//!
//! A remote collector accepts any number. For a collector on this machine, the guard keeps the receive queue
//! below half of its limit. The other half is for other senders and for datagrams that the kernel has not
//! counted yet. One query of the kernel permits as many datagrams as fit then, and is valid for a
//! millisecond.

use core::time::Duration;
use std::collections::VecDeque;

use tokio::time::Instant;

use crate::receiver::output::watch::{ReceiveQueue, Watch, WatchError, memory_at_least, memory_of};

/// Most datagrams in one run, for one sendmmsg call.
pub(super) const RUN_MAX: usize = 64;

/// Longest time for which one look at the collector's socket is valid.
const LOOK_VALID: Duration = Duration::from_millis(1);

/// Most bytes of kernel memory that one look permits, so that other senders find room as well.
const ROOM_MAX: u64 = 1024 * 1024;

/// Datagrams that may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    /// This many of the datagrams; at least 1, at most [`RUN_MAX`].
    Send(usize),
    /// None: the collector's queue is almost full.
    Full,
    /// None: the collector has no socket.
    Absent,
}

/// The queue guard of one collector.
#[derive(Debug)]
pub(super) struct QueueGuard {
    /// Query of the collector's socket; `None` for a remote collector.
    watch: Option<Watch>,
    /// Result and time of the last look.
    seen: Option<(ReceiveQueue, Instant)>,
    /// Bytes of kernel memory that may still be filled before the next look; `room <= ROOM_MAX`.
    room: u64,
    /// The socket that the last look found.
    found: Option<[u8; 8]>,
    /// The last socket that any look found, and how often it changed.
    last_socket: Option<[u8; 8]>,
    socket_changes: u64,
    /// Memory of each sent datagram that may still be unread in the collector's queue, oldest first.
    unread: VecDeque<u64>,
    /// Sum of `unread`.
    unread_memory: u64,
    /// True if anything was sent since the last look.
    sent: bool,
    /// Losses not reported yet: datagrams dropped at the collector's socket, and those that may have been
    /// unread in closed sockets.
    drops: u64,
    lost: u64,
}

impl QueueGuard {
    /// Returns a guard that looks through `watch`, or one without a limit. `known` is the last socket that an
    /// earlier guard found.
    pub(super) fn new(watch: Option<Watch>, known: Option<[u8; 8]>) -> Self {
        Self {
            watch,
            seen: None,
            room: 0,
            found: None,
            last_socket: known,
            socket_changes: 0,
            unread: VecDeque::new(),
            unread_memory: 0,
            sent: false,
            drops: 0,
            lost: 0,
        }
    }

    /// Returns whether the collector is watched.
    pub(super) fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// Takes the number of datagrams that the kernel dropped at the collector's socket, between looks between
    /// which some were sent.
    pub(super) fn take_drops(&mut self) -> u64 {
        core::mem::take(&mut self.drops)
    }

    /// Takes the upper bound of datagrams that were unread in sockets of the collector when these closed.
    pub(super) fn take_unread(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }

    /// Returns how often the collector was found at a new socket.
    pub(super) fn socket_changes(&self) -> u64 {
        self.socket_changes
    }

    /// Sets the last socket that an earlier run found.
    pub(super) fn resume_at(&mut self, socket: [u8; 8]) {
        self.last_socket = Some(socket);
    }

    /// Returns the last socket that any look found.
    pub(super) fn last_socket(&self) -> Option<[u8; 8]> {
        self.last_socket
    }

    /// Returns whether the collector is not watched or its socket exists, by a look that is still valid.
    pub(super) fn is_present(&mut self) -> Result<bool, WatchError> {
        let is_fresh = self.seen.is_some_and(|(_, when)| when.elapsed() < LOOK_VALID);
        Ok(!self.is_watching() || is_fresh || self.look()?.is_some())
    }

    /// Returns how many of the `payloads` may be sent now.
    pub(super) fn admit(&mut self, payloads: &[&[u8]]) -> Result<Budget, WatchError> {
        if !self.is_watching() {
            return Ok(Budget::Send(payloads.len().min(RUN_MAX)));
        }
        let fresh = self.seen.is_some_and(|(_, when)| when.elapsed() < LOOK_VALID);
        if fresh && let Some(count) = self.fitting(payloads) {
            return Ok(Budget::Send(count));
        }
        let Some(queue) = self.look()? else { return Ok(Budget::Absent) };
        Ok(match self.fitting(payloads) {
            Some(count) => Budget::Send(count),
            None if queue.queued == 0 => Budget::Send(1),
            None => Budget::Full,
        })
    }

    /// Returns how many of the payloads fit in the remaining room; `None` if none fits.
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

    /// Notes that something is about to be sent: drops from now on count as losses.
    pub(super) fn note_sending(&mut self) {
        self.sent = true;
    }

    /// Notes that these payloads went to the collector's socket.
    pub(super) fn note_sent(&mut self, payloads: &[&[u8]]) {
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

    /// Looks at the collector's socket now. Returns `None` if it does not exist or is not watched.
    pub(super) fn look(&mut self) -> Result<Option<ReceiveQueue>, WatchError> {
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
        if let Some(cookie) = self.found.filter(|cookie| self.last_socket != Some(*cookie)) {
            self.last_socket = Some(cookie);
            self.socket_changes += 1;
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

    /// Removes datagrams that must have been read. Only the latest with `queued` bytes of memory can be
    /// unread.
    fn forget_read(&mut self, queued: u64) {
        while let Some(oldest) = self.unread.front().filter(|oldest| self.unread_memory - **oldest >= queued)
        {
            self.unread_memory -= oldest;
            self.unread.pop_front();
        }
    }

    /// Returns whether the socket that the last look found still exists.
    pub(super) fn is_same_socket(&mut self) -> Result<bool, WatchError> {
        let before = self.seen.map(|(queue, _)| queue.cookie);
        Ok(self.look()?.map(|queue| queue.cookie) == before)
    }

    /// Invalidates the last look.
    pub(super) fn invalidate(&mut self) {
        self.room = 0;
    }
}
