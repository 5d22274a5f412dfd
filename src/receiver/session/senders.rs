//! Senders: one entry for each, whose holder delivers the sender's stream.
//!
//! An entry keeps the state that outlives a connection: the position of the stream, and the offsets of the
//! collectors. A newer connection of the same stream supersedes the older one and resumes at its state, so a
//! lost link repeats nothing.
//!
//! A connection with another stream than that of the session belongs to another sender, or to a new spool. It
//! supersedes the session only if its stream was known first. Several senders may have the same id, and none
//! of them can end the session of one that was there first.

mod active_stream;
mod counters;
mod entry;
mod holder;
mod table;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

pub(crate) use active_stream::ActiveStream;
pub(crate) use counters::Counters;
pub(crate) use entry::StreamGuard;
pub(crate) use holder::Superseded;
use nf_transport_core::datagram::BootTime;
use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::AccessPolicy;
use nf_transport_core::sequence::{SenderId, StreamId};

use crate::host::{boot_clock, locked};
use crate::receiver::delivery::collector_offsets::CollectorOffset;
use crate::receiver::delivery::unmatched::Unmatched;
use crate::receiver::session::sender_log::SenderLog;
use crate::receiver::session::senders::entry::SenderEntry;
use crate::receiver::session::senders::table::SenderTable;
use crate::status::{PeerStatus, SenderTotals};

/// The entries of all known senders.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    table: Mutex<SenderTable>,
    unmatched: Arc<Unmatched>,
    sender_log: Arc<SenderLog>,
}

impl Senders {
    /// Returns the datagrams that match no collector.
    pub(crate) fn unmatched(&self) -> &Unmatched {
        &self.unmatched
    }

    /// Returns the log of lines about senders.
    pub(crate) fn sender_log(&self) -> &SenderLog {
        &self.sender_log
    }

    fn table(&self) -> MutexGuard<'_, SenderTable> {
        locked(&self.table)
    }

    /// Returns the entry of `id`. If there are too many, free ones are removed.
    pub(crate) fn entry(&self, id: &SenderId, peer: SocketAddr, stream: StreamId) -> Arc<SenderEntry> {
        let mut known = self.table();
        let forgotten = known.make_room(id);
        let new = || {
            Arc::new(SenderEntry::new(
                id.clone(),
                peer,
                stream,
                self.unmatched.clone(),
                self.sender_log.clone(),
            ))
        };
        let entry = known.entries.entry(id.clone()).or_insert_with(new).clone();
        drop(known);
        for (id, entry) in forgotten {
            entry.counters.denied.log(&id, Instant::now(), true);
        }
        entry
    }

    /// Returns the address of the sender `id`, if it was connected with this stream.
    pub(crate) fn peer_of(&self, id: &SenderId, stream: StreamId) -> Option<SocketAddr> {
        let entry = self.table().entries.get(id)?.clone();
        let view = entry.view();
        (view.stream == stream).then_some(view.peer)
    }

    /// Fails if `id` is in use by a sender with another stream that began before `begun`, or if this stream
    /// has not begun at all.
    pub(crate) fn check(
        &self,
        id: &SenderId,
        peer: SocketAddr,
        stream: StreamId,
        begun: Option<SystemTime>,
    ) -> Result<(), Superseded> {
        let Some(entry) = self.table().entries.get(id).cloned() else { return Ok(()) };
        let holder = *entry.holder.borrow();
        holder.check(stream, begun).map_err(|superseded| entry.note_rival(peer, superseded))
    }

    /// Returns the rows of all senders, sorted by id.
    pub(crate) fn status(&self, policy: &AccessPolicy) -> Vec<PeerStatus> {
        let row = |(id, entry): (&SenderId, &Arc<SenderEntry>)| row(id, entry, &policy.exporters_for(id));
        let mut rows: Vec<PeerStatus> = self.table().entries.iter().map(row).collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    }

    /// Returns the sum of the counts of all senders.
    pub(crate) fn totals(&self) -> SenderTotals {
        self.table().totals()
    }

    /// Logs denied datagrams that are not logged yet: those that are due or, at the end, all. Call it once a
    /// second.
    pub(crate) fn log_denied(&self, is_end: bool) {
        let senders: Vec<(SenderId, Arc<SenderEntry>)> =
            self.table().entries.iter().map(|(id, entry)| (id.clone(), entry.clone())).collect();
        for (id, entry) in senders {
            entry.counters.denied.log(&id, Instant::now(), is_end);
        }
    }

    /// Stores, at an orderly stop, the position that every collector has of each stream. Returns the offsets
    /// of collectors that are ahead of it.
    pub(crate) async fn store_offsets(&self) -> Vec<CollectorOffset> {
        let senders: Vec<(SenderId, Arc<SenderEntry>)> =
            self.table().entries.iter().map(|(id, entry)| (id.clone(), entry.clone())).collect();
        let mut offsets = Vec::new();
        for (id, entry) in senders {
            let current = entry.active.lock().await;
            let Some(current) = current.as_ref() else { continue };
            let stored = current.delivery.position();
            if let Err(error) = current.stored.store(stored, current.run) {
                tracing::error!(
                    %error,
                    "cannot store the position of the stream of {id}: {error}; some of its datagrams will \
                     be repeated"
                );
            }
            let beyond = current.delivery.progress().filter(|(_, position)| *position > stored);
            offsets.extend(beyond.map(|(collector, position)| CollectorOffset {
                sender: id.to_string(),
                stream: current.stream.to_string(),
                collector: collector.clone(),
                position: position.0,
                run: current.run.to_string(),
            }));
        }
        offsets
    }
}

fn row(id: &SenderId, entry: &SenderEntry, exporters: &Prefixes) -> PeerStatus {
    let (view, now) = (entry.view().clone(), boot_clock());
    let seconds_since = |moment: BootTime| now.since(moment).map_or(0, |time| time.as_secs());
    let SenderTotals { delivered, duplicates, gaps, denied } = entry.counters.totals();
    PeerStatus {
        id: id.to_string(),
        stream: view.stream.to_string(),
        peer: view.peer.to_string(),
        state: view.state,
        cipher: view.cipher.to_owned(),
        delivered,
        duplicates,
        gaps,
        replaces: view.replaces.map(|stream| stream.to_string()),
        superseded: view.superseded.map(|peer| peer.to_string()),
        rival: view.rival.map(|peer| peer.to_string()),
        ended: view.ended,
        exporters: exporters.iter().map(ToString::to_string).collect(),
        denied,
        denied_exporters: entry.counters.denied.exporters(seconds_since),
    }
}

#[cfg(test)]
mod tests;
