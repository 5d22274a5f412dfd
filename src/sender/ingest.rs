//! The ingest thread: receives datagrams from all sockets, batches them, pushes the batches into the queue,
//! and sends them over the connection of the uplink while that is lent.
//!
//! Owns the sockets, the slots and the ring. Never waits for disk or network. Always holds: a datagram that
//! left the kernel stays in the slots until the ring has it.

mod batcher;
pub(crate) mod coalescing;
pub(crate) mod counters;
pub(crate) mod exporter_log;
pub(crate) mod listener;
pub(crate) mod loss_log;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nf_transport_core::batch::{BatchBuilder, Compression};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::watch;

use crate::host::systemd::messages::sender;
use crate::host::{Pulse, ROUND};
use crate::limits::JOURNAL_SLOTS;
use crate::sender::ingest::batcher::{Batcher, ListenedAt, SlotSource};
use crate::sender::ingest::coalescing::Coalescing;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::ingest::listener::Listener;
use crate::sender::journal::{self, Backing, Checkpoint, JournalLocation, Slots};
use crate::sender::queue::recovery::RecoveredRun;
use crate::sender::uplink::connection::SharedConnection;
use crate::status::count_of;

/// Settings that ingest reloads at run time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IngestSettings {
    /// Exporters outside of these prefixes are denied; empty allows all.
    pub(crate) allow: Vec<IpNet>,
    pub(crate) compression: Compression,
    /// The longest time for which received datagrams gather; 0 sends bursts as they arrive.
    pub(crate) max_delay: Duration,
}

/// recvmmsg calls for one piece, at most. If all of them fill the slots, the traffic is a flood.
const CALLS_MAX: usize = 8;

/// The delay before another attempt to remove the file of a failed journal.
const REMOVE_RETRY: Duration = Duration::from_secs(1);

/// The state of the ingest thread.
#[derive(Debug)]
pub(crate) struct Ingest {
    listeners: Vec<Listener>,
    /// Becomes readable on shutdown.
    stop: OwnedFd,
    /// The settings that a reload may change.
    settings: watch::Receiver<IngestSettings>,
    slots: Slots,
    checkpoint: Arc<Checkpoint>,
    /// The location of slots, checkpoint and ring.
    location: Arc<JournalLocation>,
    counters: Arc<IngestCounters>,
    /// The connection that the uplink lends.
    connection: Arc<SharedConnection>,
    batcher: Batcher,
    coalescing: Coalescing,
    slots_done: Option<u64>,
    /// The time of the next attempt to remove a failed journal.
    remove_retry_at: Option<Instant>,
    /// The time at which the drop counters are read next; `None` if nothing was received since.
    drops_check: Option<Instant>,
}

impl Ingest {
    /// Sets up ingest from `listeners`, which runs until `stop` is readable.
    pub(crate) fn new(
        listeners: Vec<Listener>,
        stop: OwnedFd,
        recovered: RecoveredRun,
        connection: Arc<SharedConnection>,
        counters: Arc<IngestCounters>,
        mut settings: watch::Receiver<IngestSettings>,
        pulse: Pulse,
    ) -> Self {
        let RecoveredRun { queue, stream, ring, slots, checkpoint, slots_done, location } = recovered;
        let IngestSettings { allow, compression, max_delay } = settings.borrow_and_update().clone();
        let builder = BatchBuilder::new(stream, compression);
        let batcher = Batcher {
            builder,
            flows: Vec::new(),
            ring,
            next: queue.next_position(),
            queue,
            counters: counters.clone(),
            allow,
            pulse,
            is_flooded: false,
        };
        let capacities = listeners.iter().map(|listener| listener.capacity);
        let coalescing = Coalescing::new(max_delay, capacities.min().unwrap_or_default(), Instant::now());
        Self {
            listeners,
            stop,
            settings,
            slots,
            checkpoint,
            location,
            counters,
            connection,
            batcher,
            coalescing,
            slots_done,
            remove_retry_at: None,
            drops_check: None,
        }
    }

    /// Receives datagrams until shutdown. Then drains the sockets that end with the process.
    pub(crate) fn run(mut self) {
        self.recover_slots();
        self.slots.clear();
        loop {
            self.batcher.pulse.beat();
            self.replace_failed_journal();
            self.read_kernel_drops();
            match self.wait() {
                Ok(Readiness::Listeners(readable)) => self.receive_piece(&readable),
                Ok(Readiness::Shutdown) => break,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for datagrams on the UDP sockets: {error}; \
                     nf-sender stops");
                    break;
                }
            }
        }
        for index in 0..self.listeners.len() {
            let ends_with_us = self.listeners.get(index).is_some_and(|listener| !listener.is_held_by_systemd);
            while ends_with_us && self.receive(index).0 > 0 {}
        }
        send_queue(&self.batcher, &self.connection);
        self.drops_check = Some(Instant::now());
        self.read_kernel_drops();
    }

    /// Reads the drop counters once a second after datagrams arrived, and in each idle round.
    fn read_kernel_drops(&mut self) {
        let now = Instant::now();
        if self.drops_check.is_none_or(|at| at <= now) {
            self.drops_check = None;
            for (listener, counters) in self.listeners.iter_mut().zip(self.counters.sockets()) {
                listener.read_kernel_drops(counters);
            }
        }
    }

    /// Recovers the datagrams that the previous run had received and not yet written to the ring.
    fn recover_slots(&mut self) {
        let Some(done) = self.slots_done.take() else { return };
        let port = self.checkpoint.slots_port();
        let local = SocketAddr::new([0, 0, 0, 0].into(), port);
        let same = self.listeners.iter().position(|listener| listener.local.port() == port);
        // Denied datagrams of a socket that does not exist any more count for the first socket.
        let at = ListenedAt { socket: same.unwrap_or(0), local };
        let summary = self.batcher.batch_slots(&mut self.slots, at, SlotSource::PreviousRun { done });
        send_queue(&self.batcher, &self.connection);
        if summary.admitted > done {
            tracing::info!(
                datagrams = summary.admitted - done,
                "recovered {} that the previous run had received and not yet written to its ring",
                count_of(summary.admitted - done, "datagram")
            );
        }
    }

    /// Moves all of the journal to memory if part of its file has failed.
    fn replace_failed_journal(&mut self) {
        if self.remove_retry_at.is_some_and(|at| at <= Instant::now()) {
            self.remove_failed_journal();
        }
        let backings = [self.checkpoint.backing(), self.slots.backing(), self.batcher.ring.backing()];
        if self.location.path().is_none() || backings == [Backing::File; 3] {
            return;
        }
        let moved = self
            .checkpoint
            .move_to_memory()
            .and_then(|()| self.slots.move_to_memory())
            .and_then(|()| self.batcher.ring.move_to_memory());
        if let Err(error) = moved {
            tracing::error!(%error, "cannot move the receive journal to memory: {error}; trying again");
            return;
        }
        if let Some(reason) = self.location.note_failed_file() {
            self.remove_failed_journal();
            tracing::error!(
                message_id = sender::JOURNAL_IN_MEMORY,
                "the receive journal failed: {reason}; it is in memory now: kill -9 would lose received \
                 datagrams that are not yet in the spool; remove the cause and restart nf-sender"
            );
        }
    }

    fn remove_failed_journal(&mut self) {
        let has_failed_before = self.remove_retry_at.is_some();
        self.remove_retry_at = match self.location.remove_failed_file() {
            Ok(()) => {
                if has_failed_before {
                    tracing::info!(
                        "removed the file of the failed receive journal: the disk allows it again"
                    );
                }
                None
            }
            Err(error) => {
                if !has_failed_before {
                    tracing::error!(%error, "cannot remove the file of the failed receive journal: {error}; \
                     trying again");
                }
                Some(Instant::now() + REMOVE_RETRY)
            }
        };
    }

    /// Applies reloaded settings from the next datagram on.
    fn apply_settings(&mut self) {
        if self.settings.has_changed().unwrap_or(false) {
            let IngestSettings { allow, compression, max_delay } = self.settings.borrow_and_update().clone();
            self.batcher.allow = allow;
            self.batcher.builder.set_compression(compression);
            self.coalescing.set_max_delay(max_delay);
        }
    }

    /// Waits until a piece must be received, or for shutdown. Applies reloaded settings before the piece.
    fn wait(&mut self) -> io::Result<Readiness> {
        if core::mem::take(&mut self.batcher.is_flooded) {
            return Ok(Readiness::Listeners((0..self.listeners.len()).collect()));
        }
        if self.coalescing.is_ticking() {
            self.apply_settings();
            // Receiving from an empty socket would write to the journal, which may be on a full disk.
            return if self.gather()? { self.look(Duration::ZERO) } else { Ok(Readiness::Shutdown) };
        }
        let idle = self.batcher.pulse.idle_round();
        let is_work_due = self.remove_retry_at.is_some() || self.drops_check.is_some();
        let readiness = self.look(if is_work_due { idle.min(ROUND) } else { idle })?;
        self.apply_settings();
        if let Readiness::Listeners(readable) = &readiness
            && !readable.is_empty()
        {
            self.coalescing.note_arrival(Instant::now());
            if !self.gather()? {
                return Ok(Readiness::Shutdown);
            }
        }
        Ok(readiness)
    }

    /// Sleeps while datagrams gather. Returns `false` on shutdown.
    fn gather(&mut self) -> io::Result<bool> {
        let began = Instant::now();
        let mut age = Duration::ZERO;
        while let Some(time) = self.coalescing.next_sleep(age, || fullest(&self.listeners)) {
            self.batcher.pulse.beat();
            if poll(&mut [PollFd::new(&self.stop, PollFlags::IN)], time)? > 0 {
                return Ok(false);
            }
            age = began.elapsed().max(Duration::from_nanos(1));
            self.apply_settings();
        }
        Ok(true)
    }

    /// Looks for listeners with datagrams, and for shutdown. Waits for them for at most `time`.
    fn look(&self, time: Duration) -> io::Result<Readiness> {
        let mut waiting: Vec<PollFd<'_>> =
            self.listeners.iter().map(|listener| PollFd::new(&listener.socket, PollFlags::IN)).collect();
        waiting.push(PollFd::new(&self.stop, PollFlags::IN));
        poll(&mut waiting, time)?;
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if waiting.pop().is_some_and(|stop| is_ready(&stop)) {
            return Ok(Readiness::Shutdown);
        }
        let ready = waiting.iter().enumerate().filter(|(_, fd)| is_ready(fd));
        Ok(Readiness::Listeners(ready.map(|(index, _)| index).collect()))
    }

    /// Receives the datagrams that wait at these listeners, and sends them.
    fn receive_piece(&mut self, readable: &[usize]) {
        let (mut datagrams, mut bytes) = (0, 0);
        // In a flood, each call is a piece: the uplink sends it while ingest receives the next.
        let calls = if self.batcher.is_flooded { 1 } else { CALLS_MAX };
        for index in readable {
            for call in 1..=calls {
                let (count, payload) = self.receive(*index);
                datagrams += u64::try_from(count).unwrap_or(u64::MAX);
                bytes += payload;
                if count < JOURNAL_SLOTS {
                    break;
                }
                self.batcher.is_flooded |= call == calls;
            }
        }
        if datagrams > 0 {
            send_queue(&self.batcher, &self.connection);
        }
        self.coalescing.note_received(datagrams, bytes, Instant::now());
    }

    /// Receives waiting datagrams of one listener, as many as there are slots. Returns their number and the
    /// bytes of their payloads.
    fn receive(&mut self, index: usize) -> (usize, u64) {
        let Some(listener) = self.listeners.get_mut(index) else { return (0, 0) };
        self.checkpoint.set_slots(self.batcher.next, listener.local.port());
        match self.slots.receive(&listener.socket) {
            Ok(count) => {
                // Denied datagrams filled the socket, too.
                let datagrams = u64::try_from(count).unwrap_or(u64::MAX);
                let source = SlotSource::Socket { datagrams };
                let at = ListenedAt { socket: index, local: listener.local };
                let summary = self.batcher.batch_slots(&mut self.slots, at, source);
                self.slots.clear();
                if let (Some((first, last)), Some(counters)) =
                    (summary.dropped, self.counters.sockets().get(index))
                {
                    listener.note_drops(first, last, counters);
                }
                self.drops_check.get_or_insert_with(|| Instant::now() + ROUND);
                (count, summary.bytes)
            }
            Err(error) => {
                // The kernel could not write the datagram to the slots and counts it as dropped.
                if error.raw_os_error() == Some(libc::EFAULT)
                    && let (Some(memory), Some(counters)) =
                        (journal::socket_memory(&listener.socket), self.counters.sockets().get(index))
                {
                    listener.note_drops(memory.drops.wrapping_sub(1), memory.drops, counters);
                } else if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!("recvmmsg: {error}");
                }
                (0, 0)
            }
        }
    }
}

/// Waits for events on `waiting`, at most for `time`. Returns the number of ready ones.
fn poll(waiting: &mut [PollFd<'_>], time: Duration) -> io::Result<usize> {
    let time = Timespec::try_from(time).ok();
    loop {
        match rustix::event::poll(waiting, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Returns the bytes of kernel memory in the fullest socket. A socket that does not report it counts as full.
fn fullest(listeners: &[Listener]) -> u64 {
    let queued = |listener: &Listener| {
        journal::socket_memory(&listener.socket).map_or(u64::MAX, |memory| memory.queued.into())
    };
    listeners.iter().map(queued).max().unwrap_or_default()
}

/// Sends the queue over the lent connection, or else wakes the uplink, which sends it. In a flood the batcher
/// has woken the uplink for each batch: it sends one part while ingest receives the next.
fn send_queue(batcher: &Batcher, connection: &SharedConnection) {
    if !batcher.is_flooded && !connection.send_pending(&batcher.queue) {
        batcher.queue.announce();
    }
}

/// The event that ended a wait.
#[derive(Debug)]
enum Readiness {
    /// These listeners have datagrams.
    Listeners(Vec<usize>),
    /// Shutdown was requested.
    Shutdown,
}
