//! Encodes received datagrams into batches and pushes them into the queue.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use nf_transport_core::batch::{BatchBuilder, PushError};
use nf_transport_core::datagram::Datagram;
use nf_transport_core::flow_layout::FlowRun;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::limits::PAYLOAD_MAX;
use nf_transport_core::sequence::Position;

use crate::host::systemd::messages::sender;
use crate::host::{Pulse, boot_clock, both_clocks};
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::journal::{Backing, Ring, SlotEntry, Slots};
use crate::sender::queue::Queue;
use crate::status::count_of;

/// Encodes datagrams into batches and pushes them into the queue.
#[derive(Debug)]
pub(super) struct Batcher {
    pub(super) builder: BatchBuilder,
    /// The flow records of the current datagram, for compression. The vector is reused.
    pub(super) flows: Vec<FlowRun>,
    pub(super) ring: Ring,
    /// The position of the next datagram. Only ingest assigns positions, so it need not ask the queue.
    pub(super) next: Position,
    pub(super) queue: Arc<Queue>,
    pub(super) counters: Arc<IngestCounters>,
    pub(super) allow: Vec<IpNet>,
    pub(super) pulse: Pulse,
    /// The last receive filled all slots, so more datagrams may be waiting.
    pub(super) is_flooded: bool,
}

/// The origin of the datagrams in the slots.
#[derive(Clone, Copy, Debug)]
pub(super) enum SlotSource {
    /// This number was just received from a socket.
    Socket { datagrams: u64 },
    /// The previous run left them. The first `done` of the admitted ones are in the ring already.
    PreviousRun { done: u64 },
}

/// The socket that received the datagrams in the slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenedAt {
    /// The index of the listener.
    pub(super) socket: usize,
    pub(super) local: SocketAddr,
}

/// The result of batching the datagrams in the slots.
#[derive(Debug, Default)]
pub(super) struct SlotSummary {
    pub(super) admitted: u64,
    /// The bytes of their payloads.
    pub(super) bytes: u64,
    /// The drop counters of the socket with the first and with the last datagram.
    pub(super) dropped: Option<(u32, u32)>,
}

impl Batcher {
    /// Pushes the datagrams of the filled slots. First decides which of them are denied and checkpoint these
    /// in the slots. So after a kill the next run decides nothing twice.
    pub(super) fn batch_slots(
        &mut self,
        slots: &mut Slots,
        at: ListenedAt,
        source: SlotSource,
    ) -> SlotSummary {
        let backing = slots.backing();
        let (skip, denied) = match source {
            SlotSource::PreviousRun { done } if done > 0 => (done, 0),
            SlotSource::PreviousRun { .. } | SlotSource::Socket { .. } => (0, self.deny(slots, at.socket)),
        };
        let now = both_clocks();
        let mut summary = SlotSummary::default();
        for entry in slots.entries() {
            let slot = match entry {
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
                self.counters.exporters().count_datagram(&datagram, now.boot);
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
        summary
    }

    /// Counts a datagram as lost because its slot cannot be read.
    fn lose_damaged(&mut self, source: SlotSource) {
        match source {
            SlotSource::Socket { .. } => note_internal_error("a slot that the kernel filled cannot be read"),
            SlotSource::PreviousRun { .. } => tracing::error!(
                message_id = sender::SPOOL_DAMAGED,
                lost = 1,
                "a datagram that the previous run had just received is damaged in the receive journal: it \
                 is lost and counts as corrupt"
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
        self.next = self.queue.note_lost(lost);
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
                self.counters.note_denied(exporter, socket, now);
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
        self.next = self.queue.note_lost(1);
    }

    fn flush(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let Some(batch) = self.builder.finish(self.next) else {
            note_internal_error("a batch with datagrams in it cannot be finished");
            self.next = self.queue.note_lost(u64::from(self.builder.discard()));
            return;
        };
        self.next = batch.end();
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
