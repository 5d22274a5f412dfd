//! The ingest thread: receives datagrams from all sockets, batches them and pushes the batches into the
//! queue.
//!
//! Owns the sockets, the slots and the ring. Never waits for disk or network. Always holds: a datagram that
//! left the kernel stays in the slots until the ring has it.

pub(crate) mod coalescing;
pub(crate) mod counters;
pub(crate) mod exporter_log;
pub(crate) mod loss_log;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nf_transport_core::batch::{BatchBuilder, Compression, PushError};
use nf_transport_core::datagram::{Datagram, FlowRun};
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::PAYLOAD_MAX;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::watch;

use crate::host::systemd::messages::sender;
use crate::host::{Pulse, ROUND, boot_clock, both_clocks};
use crate::limits::JOURNAL_SLOTS;
use crate::sender::ingest::coalescing::Coalescing;
use crate::sender::ingest::counters::{IngestCounters, SocketCounters};
use crate::sender::journal::{
    self, Backing, Checkpoint, JournalLocation, Ring, SlotEntry, Slots, enable_ancillary_data,
};
use crate::sender::queue::Queue;
use crate::sender::queue::recovery::Recovered;
use crate::sender::uplink::connection::SharedConnection;
use crate::status::count_of;

/// Settings that ingest reloads at run time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IngestSettings {
    /// Exporters outside of these prefixes are denied; empty allows all.
    pub(crate) allow: Vec<IpNet>,
    pub(crate) compression: Compression,
}

/// The delay before another attempt to remove the file of a failed journal.
const REMOVE_RETRY: Duration = Duration::from_secs(1);

/// The largest number of drops between the first datagram in a socket queue and the newest one.
const QUEUED_BEFORE: u32 = 1 << 24;

/// A UDP socket that receives datagrams from exporters.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UdpSocket,
    local: SocketAddr,
    /// The receive buffer of the socket, in bytes.
    capacity: usize,
    /// systemd holds the socket too: datagrams in it stay for the next run.
    is_held_by_systemd: bool,
    /// The drop counter of the kernel when this process received its first datagram.
    dropped_before: Option<u32>,
}

impl Listener {
    /// Sets up a listener on `socket`, which does not block.
    pub(crate) fn new(socket: UdpSocket, outlives_us: bool) -> std::io::Result<Self> {
        let local = socket.local_addr()?;
        enable_ancillary_data(&socket, local.is_ipv6())?;
        let capacity = rustix::net::sockopt::socket_recv_buffer_size(&socket)?;
        Ok(Self { socket, local, capacity, is_held_by_systemd: outlives_us, dropped_before: None })
    }

    /// The local address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.local
    }

    /// Notes the drop counters of the kernel: `first` with the first datagram of a run of slots, `last` with
    /// the last one.
    fn note_drops(&mut self, first: u32, last: u32, counters: &SocketCounters) {
        let before = *self.dropped_before.get_or_insert(first);
        let since = last.wrapping_sub(before);
        // A datagram that was queued before counting began has a lower counter.
        if since <= u32::MAX - QUEUED_BEFORE {
            counters.note_kernel_drops(u64::from(since));
        }
    }

    /// Reads the drop counter of the kernel. A datagram carries it too, but none may follow the drops.
    fn read_kernel_drops(&mut self, counters: &SocketCounters) {
        if let Some(first) = self.dropped_before
            && let Some(last) = journal::kernel_drops(&self.socket)
        {
            self.note_drops(first, last, counters);
        }
    }
}

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
    batcher: Batcher,
    coalescing: Coalescing,
    slots_done: Option<u64>,
    /// The time of the next attempt to remove a failed journal.
    remove_retry_at: Option<Instant>,
    /// The time at which the drop counters are read next.
    next_drops_check: Instant,
}

/// Encodes datagrams into batches and pushes them into the queue.
#[derive(Debug)]
struct Batcher {
    builder: BatchBuilder,
    /// The flow records of the current datagram, for compression. The vector is reused.
    flows: Vec<FlowRun>,
    ring: Ring,
    queue: Arc<Queue>,
    counters: Arc<IngestCounters>,
    connection: Arc<SharedConnection>,
    allow: Vec<IpNet>,
    pulse: Pulse,
    /// The last receive filled all slots, so more datagrams may be waiting.
    is_flooded: bool,
}

impl Ingest {
    /// Sets up ingest from `listeners`, which runs until `stop` is readable.
    pub(crate) fn new(
        listeners: Vec<Listener>,
        stop: OwnedFd,
        recovered: Recovered,
        connection: Arc<SharedConnection>,
        counters: Arc<IngestCounters>,
        mut settings: watch::Receiver<IngestSettings>,
        pulse: Pulse,
    ) -> Self {
        let Recovered { queue, stream, ring, slots, checkpoint, slots_done, location } = recovered;
        let IngestSettings { allow, compression } = settings.borrow_and_update().clone();
        let builder = BatchBuilder::new(stream, compression);
        let batcher = Batcher {
            builder,
            flows: Vec::new(),
            ring,
            queue,
            counters: counters.clone(),
            connection,
            allow,
            pulse,
            is_flooded: false,
        };
        let capacities = listeners.iter().map(|listener| listener.capacity);
        let coalescing = Coalescing::new(capacities.min().unwrap_or_default(), Instant::now());
        Self {
            listeners,
            stop,
            settings,
            slots,
            checkpoint,
            location,
            counters,
            batcher,
            coalescing,
            slots_done,
            remove_retry_at: None,
            next_drops_check: Instant::now() + ROUND,
        }
    }

    /// Receives datagrams until shutdown. Then drains the sockets that end with the process.
    pub(crate) fn run(mut self) {
        self.recover_slots();
        self.slots.clear();
        loop {
            self.batcher.pulse.beat();
            self.apply_settings();
            self.replace_failed_journal();
            self.read_kernel_drops();
            match self.wait() {
                Ok(Readiness::Listeners(readable)) => {
                    if !core::mem::take(&mut self.batcher.is_flooded) && !readable.is_empty() {
                        sleep(self.coalescing.time());
                    }
                    for index in readable {
                        self.receive(index);
                    }
                }
                Ok(Readiness::Stop) => break,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for datagrams on the UDP sockets: {error}; nf-sender stops");
                    break;
                }
            }
        }
        for index in 0..self.listeners.len() {
            let ends_with_us = self.listeners.get(index).is_some_and(|listener| !listener.is_held_by_systemd);
            while ends_with_us && self.receive(index) > 0 {}
        }
        self.next_drops_check = Instant::now();
        self.read_kernel_drops();
    }

    fn read_kernel_drops(&mut self) {
        let now = Instant::now();
        if self.next_drops_check <= now {
            self.next_drops_check = now + ROUND;
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
                "the receive journal failed: {reason}; it is in memory now: kill -9 would lose received datagrams that are \
                 not yet in the spool; remove the cause and restart nf-sender"
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
                    tracing::error!(%error, "cannot remove the file of the failed receive journal: {error}; trying again");
                }
                Some(Instant::now() + REMOVE_RETRY)
            }
        };
    }

    /// Applies reloaded settings from the next datagram on.
    fn apply_settings(&mut self) {
        if self.settings.has_changed().unwrap_or(false) {
            let IngestSettings { allow, compression } = self.settings.borrow_and_update().clone();
            self.batcher.allow = allow;
            self.batcher.builder.set_compression(compression);
        }
    }

    /// Waits for datagrams or shutdown, for at most one round.
    fn wait(&self) -> std::io::Result<Readiness> {
        let mut waiting: Vec<PollFd<'_>> =
            self.listeners.iter().map(|listener| PollFd::new(&listener.socket, PollFlags::IN)).collect();
        waiting.push(PollFd::new(&self.stop, PollFlags::IN));
        let round = Timespec::try_from(ROUND).ok();
        while let Err(error) = rustix::event::poll(&mut waiting, round.as_ref()) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if waiting.pop().is_some_and(|stop| is_ready(&stop)) {
            return Ok(Readiness::Stop);
        }
        let ready = waiting.iter().enumerate().filter(|(_, fd)| is_ready(fd));
        Ok(Readiness::Listeners(ready.map(|(index, _)| index).collect()))
    }

    /// Receives waiting datagrams of one listener, as many as there are slots. Returns their number.
    fn receive(&mut self, index: usize) -> usize {
        let Some(listener) = self.listeners.get_mut(index) else { return 0 };
        self.checkpoint.set_slots(self.batcher.queue.next_position(), listener.local.port());
        match self.slots.receive(&listener.socket) {
            Ok(count) => {
                self.batcher.is_flooded |= count == JOURNAL_SLOTS;
                // Denied datagrams filled the socket, too.
                let datagrams = u64::try_from(count).unwrap_or(u64::MAX);
                let source = SlotSource::Socket { datagrams };
                let at = ListenedAt { socket: index, local: listener.local };
                let summary = self.batcher.batch_slots(&mut self.slots, at, source);
                self.slots.clear();
                self.coalescing.note(datagrams, summary.bytes, Instant::now());
                if let (Some((first, last)), Some(counters)) =
                    (summary.dropped, self.counters.sockets().get(index))
                {
                    listener.note_drops(first, last, counters);
                }
                count
            }
            Err(error) => {
                // The kernel could not write the datagram to the slots and counts it as dropped.
                if error.raw_os_error() == Some(libc::EFAULT)
                    && let (Some(last), Some(counters)) =
                        (journal::kernel_drops(&listener.socket), self.counters.sockets().get(index))
                {
                    listener.note_drops(last.wrapping_sub(1), last, counters);
                } else if error.kind() != std::io::ErrorKind::WouldBlock {
                    tracing::debug!("recvmmsg: {error}");
                }
                0
            }
        }
    }
}

/// The event that ended a wait.
#[derive(Debug)]
enum Readiness {
    /// These listeners have datagrams.
    Listeners(Vec<usize>),
    /// Shutdown was requested.
    Stop,
}

/// The origin of the datagrams in the slots.
#[derive(Clone, Copy, Debug)]
enum SlotSource {
    /// This number was just received from a socket.
    Socket { datagrams: u64 },
    /// The previous run left them. The first `done` of the admitted ones are in the ring already.
    PreviousRun { done: u64 },
}

/// The socket that received the datagrams in the slots.
#[derive(Clone, Copy, Debug)]
struct ListenedAt {
    /// The index of the listener.
    socket: usize,
    local: SocketAddr,
}

/// The result of batching the datagrams in the slots.
#[derive(Debug, Default)]
struct SlotSummary {
    admitted: u64,
    /// The bytes of their payloads.
    bytes: u64,
    /// The drop counters of the socket with the first and with the last datagram.
    dropped: Option<(u32, u32)>,
}

impl Batcher {
    /// Pushes the datagrams of the filled slots. First decides which of them are denied and checkpoint these in
    /// the slots. So after a kill the next run decides nothing twice.
    fn batch_slots(&mut self, slots: &mut Slots, at: ListenedAt, source: SlotSource) -> SlotSummary {
        let backing = slots.backing();
        let (skip, denied) = match source {
            SlotSource::PreviousRun { done } if done > 0 => (done, 0),
            SlotSource::PreviousRun { .. } | SlotSource::Socket { .. } => (0, self.deny(slots, at.socket)),
        };
        let now = both_clocks();
        let mut summary = SlotSummary::default();
        for index in 0.. {
            let slot = match slots.get(index) {
                SlotEntry::Filled(slot) => slot,
                SlotEntry::Denied => continue,
                SlotEntry::Damaged if is_torn(slots, backing) => break,
                SlotEntry::Damaged => {
                    summary.admitted += 1;
                    if summary.admitted > skip {
                        self.lose_damaged(source);
                    }
                    continue;
                }
                SlotEntry::Empty => break,
            };
            // Without drops the kernel sends no counter.
            let dropped = slot.dropped.unwrap_or_default();
            summary.dropped = Some((summary.dropped.map_or(dropped, |(first, _)| first), dropped));
            summary.admitted += 1;
            summary.bytes += u64::try_from(slot.payload.len()).unwrap_or_default();
            if summary.admitted <= skip {
                continue;
            }
            let datagram = Datagram {
                exporter: slot.exporter,
                local: SocketAddr::new(slot.local.unwrap_or(at.local.ip()), at.local.port()),
                arrival: slot.arrival.unwrap_or(now.wall),
                payload: slot.payload,
            };
            // The lock is held for one line only: a push may wait for room, and the status must not wait with
            // it.
            self.flows.clear();
            if self.builder.compresses() {
                self.counters.exporters().note_flows(&datagram, now.boot, &mut self.flows);
            } else {
                self.counters.exporters().note(&datagram, now.boot);
            }
            self.push(&datagram);
            if is_torn(slots, backing) {
                break;
            }
        }
        if is_torn(slots, backing) {
            self.discard_torn_slots(&mut summary, denied, source);
        }
        self.flush();
        if !self.is_flooded && !self.connection.send_pending(&self.queue) {
            self.queue.announce();
        }
        summary
    }

    /// Counts a datagram as lost because its slot cannot be read.
    fn lose_damaged(&mut self, source: SlotSource) {
        match source {
            SlotSource::Socket { .. } => note_internal_error("a slot that the kernel filled cannot be read"),
            SlotSource::PreviousRun { .. } => tracing::error!(
                message_id = sender::SPOOL_DAMAGED,
                "a datagram that the previous run had just received is damaged in the receive journal: it is lost and \
                 counts as corrupt"
            ),
        }
        self.lose_one();
    }

    /// Counts all datagrams that are not in a batch yet as lost, because part of the slots failed while they
    /// were read. Some bytes may have been read as zeros.
    fn discard_torn_slots(&mut self, summary: &mut SlotSummary, denied: u64, source: SlotSource) {
        summary.admitted -= u64::from(self.builder.discard());
        let lost = match source {
            SlotSource::Socket { datagrams } => {
                datagrams.saturating_sub(denied).saturating_sub(summary.admitted)
            }
            // Only the slots knew how many there were.
            SlotSource::PreviousRun { .. } => 0,
        };
        self.queue.note_lost(lost);
        tracing::error!(
            message_id = sender::JOURNAL_IN_MEMORY,
            datagrams = lost,
            "the receive journal failed with {} in it that had just been received: they are lost",
            count_of(lost, "datagram")
        );
    }

    /// Marks the slots with denied datagrams. Returns their number.
    fn deny(&self, slots: &mut Slots, socket: usize) -> u64 {
        let mut count = 0;
        // Over IPv6 a payload can be longer than the 65,507 bytes that IPv4 could deliver.
        if self.allow.is_empty() && slots.longest() <= PAYLOAD_MAX {
            return count;
        }
        let now = boot_clock();
        for index in 0.. {
            let denied = match slots.get(index) {
                SlotEntry::Filled(slot)
                    if !self.allows(slot.exporter) || slot.payload.len() > PAYLOAD_MAX =>
                {
                    Some(slot.exporter)
                }
                SlotEntry::Filled(_) | SlotEntry::Denied | SlotEntry::Damaged => None,
                SlotEntry::Empty => break,
            };
            if let Some(exporter) = denied {
                slots.deny(index);
                self.counters.note_denied(exporter.ip(), socket, now);
                count += 1;
            }
        }
        count
    }

    fn allows(&self, exporter: SocketAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|prefix| prefix.contains(&exporter.ip()))
    }

    fn push(&mut self, datagram: &Datagram<'_>) {
        let mut pushed = self.builder.push_flows(datagram, &self.flows);
        if pushed == Err(PushError::Full) {
            self.flush();
            pushed = self.builder.push_flows(datagram, &self.flows);
        }
        if pushed.is_err() {
            note_internal_error("an empty batch rejects an admitted datagram");
            self.lose_one();
        }
    }

    /// Counts the datagram after the current batch as lost.
    fn lose_one(&mut self) {
        self.flush();
        self.queue.note_lost(1);
    }

    fn flush(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let Some(batch) = self.builder.finish(self.queue.next_position()) else {
            note_internal_error("a batch with datagrams in it cannot be finished");
            self.queue.note_lost(u64::from(self.builder.discard()));
            return;
        };
        if let Some(dropped) = self.queue.push(batch, &mut self.ring, &self.pulse) {
            self.counters.note_dropped_batch(&dropped);
        }
        // In a flood, the uplink sends one part while ingest receives the next.
        if self.is_flooded {
            self.queue.announce();
        }
    }
}

/// Returns `true` if part of `slots` was lost since their backing was `backing`.
fn is_torn(slots: &Slots, backing: Backing) -> bool {
    backing != Backing::Incomplete && slots.backing() == Backing::Incomplete
}
