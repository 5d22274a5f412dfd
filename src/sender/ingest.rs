//! The ingest thread: takes datagrams from every socket, makes batches of them, and pushes these into the queue.
//!
//! Owns the sockets, the slots and the ring. Never waits for disk or network. Always holds: a datagram that left
//! the kernel lies in the slots until the ring has it.

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

/// What of the settings ingest follows. A reload may change all of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IngestSettings {
    /// Exporters outside of these prefixes are denied; empty allows all.
    pub(crate) allow: Vec<IpNet>,
    pub(crate) compression: Compression,
}

/// How long ingest waits before it tries again to remove a failed intake.
const REMOVE_RETRY: Duration = Duration::from_secs(1);

/// Drops, at most, that a socket counted while what it queues now was queued.
const QUEUED_BEFORE: u32 = 1 << 24;

/// A socket that datagrams come to.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UdpSocket,
    local: SocketAddr,
    /// Bytes that the kernel queues at it.
    capacity: usize,
    /// Whether systemd holds the socket too, so that what it queues waits for the next run.
    is_held_by_systemd: bool,
    /// What the kernel had dropped at it when the first datagram came that this process took.
    dropped_before: Option<u32>,
}

impl Listener {
    /// A listener on `socket`, which does not block.
    pub(crate) fn new(socket: UdpSocket, outlives_us: bool) -> std::io::Result<Self> {
        let local = socket.local_addr()?;
        enable_ancillary_data(&socket, local.is_ipv6())?;
        let capacity = rustix::net::sockopt::socket_recv_buffer_size(&socket)?;
        Ok(Self { socket, local, capacity, is_held_by_systemd: outlives_us, dropped_before: None })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.local
    }

    /// The kernel had dropped `last` datagrams when it queued the last one that was taken, and `first` when it queued the
    /// first one.
    fn note_drops(&mut self, first: u32, last: u32, tally: &SocketCounters) {
        let before = *self.dropped_before.get_or_insert(first);
        let since = last.wrapping_sub(before);
        // One that was queued before the count began shows fewer.
        if since <= u32::MAX - QUEUED_BEFORE {
            tally.note_kernel_drops(u64::from(since));
        }
    }

    /// Notes what the kernel has dropped until now: with a datagram it says so only if one comes after the drops.
    fn read_kernel_drops(&mut self, tally: &SocketCounters) {
        if let Some(first) = self.dropped_before
            && let Some(last) = journal::kernel_drops(&self.socket)
        {
            self.note_drops(first, last, tally);
        }
    }
}

/// The ingest thread's belongings.
#[derive(Debug)]
pub(crate) struct Ingest {
    listeners: Vec<Listener>,
    /// Readable once datagrams are to be taken no more.
    stop: OwnedFd,
    /// What a reload may change.
    settings: watch::Receiver<IngestSettings>,
    slots: Slots,
    checkpoint: Arc<Checkpoint>,
    /// Where slots, marks and ring are.
    location: Arc<JournalLocation>,
    counters: Arc<IngestCounters>,
    batcher: Batcher,
    coalescing: Coalescing,
    slots_done: Option<u64>,
    /// When the removal of a failed intake is tried again.
    remove_retry_at: Option<Instant>,
    /// When the sockets are asked next what the kernel has dropped.
    next_drops_check: Instant,
}

/// Makes batches of datagrams and pushes them.
#[derive(Debug)]
struct Batcher {
    builder: BatchBuilder,
    /// Where flow records lie in the datagram at hand, for compression; the vector is reused.
    flows: Vec<FlowRun>,
    ring: Ring,
    queue: Arc<Queue>,
    counters: Arc<IngestCounters>,
    connection: Arc<SharedConnection>,
    allow: Vec<IpNet>,
    pulse: Pulse,
    /// More datagrams may wait than the slots could take.
    is_flooded: bool,
}

impl Ingest {
    /// Ingest from `listeners`, until `stop` is readable.
    pub(crate) fn new(
        listeners: Vec<Listener>,
        stop: OwnedFd,
        recovered: Recovered,
        lent: Arc<SharedConnection>,
        tally: Arc<IngestCounters>,
        mut settings: watch::Receiver<IngestSettings>,
        pulse: Pulse,
    ) -> Self {
        let Recovered { queue, stream, ring, slots, checkpoint: marks, slots_done, location: place } =
            recovered;
        let IngestSettings { allow, compression } = settings.borrow_and_update().clone();
        let builder = BatchBuilder::new(stream, compression);
        let encoder = Batcher {
            builder,
            flows: Vec::new(),
            ring,
            queue,
            counters: tally.clone(),
            connection: lent,
            allow,
            pulse,
            is_flooded: false,
        };
        let capacities = listeners.iter().map(|listener| listener.capacity);
        let gathering = Coalescing::new(capacities.min().unwrap_or_default(), Instant::now());
        Self {
            listeners,
            stop,
            settings,
            slots,
            checkpoint: marks,
            location: place,
            counters: tally,
            batcher: encoder,
            coalescing: gathering,
            slots_done,
            remove_retry_at: None,
            next_drops_check: Instant::now() + ROUND,
        }
    }

    /// Takes datagrams until told to stop; then those that are queued at sockets which end with the process.
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
                    tracing::error!(%error, "cannot wait for datagrams: {error}");
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
            for (listener, tally) in self.listeners.iter_mut().zip(self.counters.sockets()) {
                listener.read_kernel_drops(tally);
            }
        }
    }

    /// What the last run's recvmmsg returned and its ring does not have.
    fn recover_slots(&mut self) {
        let Some(done) = self.slots_done.take() else { return };
        let port = self.checkpoint.slots_port();
        let local = SocketAddr::new([0, 0, 0, 0].into(), port);
        let same = self.listeners.iter().position(|listener| listener.local.port() == port);
        // Of a socket that is not listened on any more, what is denied counts for the first one.
        let at = ListenedAt { socket: same.unwrap_or(0), local };
        let taken = self.batcher.batch_slots(&mut self.slots, at, SlotSource::LastRun { done });
        if taken.admitted > done {
            tracing::info!(
                datagrams = taken.admitted - done,
                "took up {} that the last run had just received",
                count_of(taken.admitted - done, "datagram")
            );
        }
    }

    /// Goes on in memory with all of the intake if part of its file has failed.
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
            tracing::error!(%error, "cannot move the intake to memory: {error}; trying again");
            return;
        }
        if let Some(reason) = self.location.note_failed_file() {
            self.remove_failed_journal();
            tracing::error!(
                message_id = sender::JOURNAL_IN_MEMORY,
                "the intake failed: {reason}; it is in memory now: kill -9 would lose what is received and not yet in \
                 the spool; remove the cause and restart"
            );
        }
    }

    fn remove_failed_journal(&mut self) {
        let was_refused = self.remove_retry_at.is_some();
        self.remove_retry_at = match self.location.remove_failed_file() {
            Ok(()) => {
                if was_refused {
                    tracing::info!("removed the file of the failed intake: the disk allows it again");
                }
                None
            }
            Err(error) => {
                if !was_refused {
                    tracing::error!(%error, "cannot remove the file of the failed intake: {error}; trying again");
                }
                Some(Instant::now() + REMOVE_RETRY)
            }
        };
    }

    /// What a reload changed counts from the next datagram on.
    fn apply_settings(&mut self) {
        if self.settings.has_changed().unwrap_or(false) {
            let IngestSettings { allow, compression } = self.settings.borrow_and_update().clone();
            self.batcher.allow = allow;
            self.batcher.builder.set_compression(compression);
        }
    }

    /// Waits for datagrams, or to be stopped, for a while.
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

    /// Takes what waits at one listener, as much as there are slots. Says how many datagrams that were.
    fn receive(&mut self, index: usize) -> usize {
        let Some(listener) = self.listeners.get_mut(index) else { return 0 };
        self.checkpoint.set_slots(self.batcher.queue.next_position(), listener.local.port());
        match self.slots.receive(&listener.socket) {
            Ok(count) => {
                self.batcher.is_flooded |= count == JOURNAL_SLOTS;
                // What is denied filled the socket, too.
                let datagrams = u64::try_from(count).unwrap_or(u64::MAX);
                let source = SlotSource::Socket { datagrams };
                let at = ListenedAt { socket: index, local: listener.local };
                let taken = self.batcher.batch_slots(&mut self.slots, at, source);
                self.slots.clear();
                self.coalescing.note(datagrams, taken.bytes, Instant::now());
                if let (Some((first, last)), Some(tally)) =
                    (taken.dropped, self.counters.sockets().get(index))
                {
                    listener.note_drops(first, last, tally);
                }
                count
            }
            Err(error) => {
                // The kernel could not write the datagram, and counts it as dropped.
                if error.raw_os_error() == Some(libc::EFAULT)
                    && let (Some(last), Some(tally)) =
                        (journal::kernel_drops(&listener.socket), self.counters.sockets().get(index))
                {
                    listener.note_drops(last.wrapping_sub(1), last, tally);
                } else if error.kind() != std::io::ErrorKind::WouldBlock {
                    tracing::debug!("recvmmsg: {error}");
                }
                0
            }
        }
    }
}

/// What a wait ended with.
#[derive(Debug)]
enum Readiness {
    /// Datagrams wait at these listeners.
    Listeners(Vec<usize>),
    /// It is time to stop.
    Stop,
}

/// Where the datagrams of a run of slots come from.
#[derive(Clone, Copy, Debug)]
enum SlotSource {
    /// So many were just taken from a socket.
    Socket { datagrams: u64 },
    /// The last run left them; the first `done` of those that are admitted lie in the ring already.
    LastRun { done: u64 },
}

/// The socket that the datagrams of a run of slots came to.
#[derive(Clone, Copy, Debug)]
struct ListenedAt {
    /// Its place among the listeners.
    socket: usize,
    local: SocketAddr,
}

/// What came of a run of slots.
#[derive(Debug, Default)]
struct SlotSummary {
    admitted: u64,
    /// Bytes of their payloads.
    bytes: u64,
    /// What the socket had dropped when the first datagram came, and when the last one did.
    dropped: Option<(u32, u32)>,
}

impl Batcher {
    /// Pushes the datagrams of the filled slots. Which are not admitted is decided, and marked in the slots, before the
    /// first is pushed: should this process be killed, the next one decides nothing twice.
    fn batch_slots(&mut self, slots: &mut Slots, at: ListenedAt, source: SlotSource) -> SlotSummary {
        let backing = slots.backing();
        let (skip, denied) = match source {
            SlotSource::LastRun { done } if done > 0 => (done, 0),
            SlotSource::LastRun { .. } | SlotSource::Socket { .. } => (0, self.deny(slots, at.socket)),
        };
        let now = both_clocks();
        let mut taken = SlotSummary::default();
        for index in 0.. {
            let slot = match slots.get(index) {
                SlotEntry::Filled(slot) => slot,
                SlotEntry::Denied => continue,
                SlotEntry::Damaged if is_torn(slots, backing) => break,
                SlotEntry::Damaged => {
                    taken.admitted += 1;
                    if taken.admitted > skip {
                        self.lose_damaged(source);
                    }
                    continue;
                }
                SlotEntry::Empty => break,
            };
            // The kernel says nothing where it has dropped nothing.
            let dropped = slot.dropped.unwrap_or_default();
            taken.dropped = Some((taken.dropped.map_or(dropped, |(first, _)| first), dropped));
            taken.admitted += 1;
            taken.bytes += u64::try_from(slot.payload.len()).unwrap_or_default();
            if taken.admitted <= skip {
                continue;
            }
            let datagram = Datagram {
                exporter: slot.exporter,
                local: SocketAddr::new(slot.local.unwrap_or(at.local.ip()), at.local.port()),
                arrival: slot.arrival.unwrap_or(now.wall),
                payload: slot.payload,
            };
            // Held for one line only: a push may wait for room, and the status must not wait with it.
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
            self.discard_torn_slots(&mut taken, denied, source);
        }
        self.flush();
        if !self.is_flooded && !self.connection.send_pending(&self.queue) {
            self.queue.announce();
        }
        taken
    }

    /// Counts as lost a datagram whose slot cannot be read.
    fn lose_damaged(&mut self, source: SlotSource) {
        match source {
            SlotSource::Socket { .. } => note_internal_error("a slot that the kernel filled cannot be read"),
            SlotSource::LastRun { .. } => tracing::error!(
                message_id = sender::SPOOL_DAMAGED,
                "a datagram that the last run had just received is damaged in the intake: it is lost and counts as corrupt"
            ),
        }
        self.lose_one();
    }

    /// Part of the slots was lost while they were read: all that is not in a batch yet counts as lost, as parts of it may
    /// have been read as zeros.
    fn discard_torn_slots(&mut self, taken: &mut SlotSummary, denied: u64, source: SlotSource) {
        taken.admitted -= u64::from(self.builder.discard());
        let lost = match source {
            SlotSource::Socket { datagrams } => {
                datagrams.saturating_sub(denied).saturating_sub(taken.admitted)
            }
            // How many there were was known to the slots alone.
            SlotSource::LastRun { .. } => 0,
        };
        self.queue.note_lost(lost);
        tracing::error!(
            message_id = sender::JOURNAL_IN_MEMORY,
            datagrams = lost,
            "the intake failed while {} were in it that had just been received: they are lost",
            count_of(lost, "datagram")
        );
    }

    /// Marks the slots whose datagrams are not to be carried. Returns how many that are.
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
            note_internal_error("an empty batch does not take a datagram that was admitted");
            self.lose_one();
        }
    }

    /// Counts as lost the datagram that follows what is in the batch.
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
        // Of a flood, the link sends one part while the next is taken.
        if self.is_flooded {
            self.queue.announce();
        }
    }
}

/// Whether part of what lay in `slots` was lost since `backing` held them.
fn is_torn(slots: &Slots, backing: Backing) -> bool {
    backing != Backing::Incomplete && slots.backing() == Backing::Incomplete
}
