//! Senders: one entry for each, whose holder delivers the sender's stream.
//!
//! An entry keeps the state that outlives a connection: the position of the stream, and the offsets of the
//! collectors. A newer connection of the same stream supersedes the older one and resumes at its state, so a
//! lost link repeats nothing.
//!
//! A connection with another stream than that of the session belongs to another sender, or to a new spool. It
//! supersedes the session only if its stream was known first. Several senders may have the same id, and none
//! of them can end the session of one that was there first.

mod known;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use nf_transport_core::datagram::BootTime;
use nf_transport_core::framing::Hello;
use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::Admission;
use nf_transport_core::sequence::{RunId, SenderId, StreamId};
use tokio::sync::{OwnedMutexGuard, watch};

use crate::host::boot_clock;
use crate::receiver::delivery::collector_offsets::CollectorOffset;
use crate::receiver::delivery::denied::Denied;
use crate::receiver::delivery::unmatched::Unmatched;
use crate::receiver::delivery::{Delivery, Settled};
use crate::receiver::session::senders::known::SenderTable;
use crate::receiver::state::positions::{StreamInUse, StreamPosition};
use crate::status::{PeerState, PeerStatus, SenderTotals, Tally};

/// The current stream of a sender, and its delivery.
#[derive(Debug)]
pub(crate) struct ActiveStream {
    pub(crate) stream: StreamId,
    pub(crate) stored: Arc<StreamPosition>,
    /// The use of `stored` by the session; `None` between sessions.
    pub(crate) in_use: Option<StreamInUse>,
    pub(crate) delivery: Delivery,
    /// The run that sent the latest received datagrams.
    pub(crate) run: RunId,
}

impl ActiveStream {
    /// Returns whether the stored position describes the complete state.
    fn is_settled(&self) -> bool {
        self.delivery.is_even() && self.stored.get().unwrap_or_default() == self.delivery.position()
    }
}

/// Counts of one sender since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) datagrams: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) denied: Denied,
    /// Datagrams of all senders that match no collector.
    unmatched: Arc<Unmatched>,
}

impl Counters {
    /// Adds delivered, denied, lost and unmatched datagrams.
    pub(crate) fn add_settled(&self, settled: &Settled) {
        Self::add(&self.datagrams, settled.delivered.datagrams);
        Self::add(&self.bytes, settled.delivered.bytes);
        let now = boot_clock();
        self.denied.add(&settled.denied, now);
        self.unmatched.add(&settled.unmatched, now);
        for loss in &settled.losses {
            Self::add(&self.gaps, loss.datagrams);
        }
    }

    /// Returns the current counts.
    fn totals(&self) -> SenderTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SenderTotals {
            delivered: Tally { datagrams: get(&self.datagrams), bytes: get(&self.bytes) },
            duplicates: get(&self.duplicates),
            gaps: get(&self.gaps),
            denied: self.denied.total(),
        }
    }

    /// Adds `count`, which a sender may have chosen, and returns the sum. The counter saturates.
    pub(crate) fn add(counter: &AtomicU64, count: u64) -> u64 {
        let add = |sum: u64| sum.saturating_add(count);
        let before = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(add(sum)));
        add(before.unwrap_or_else(|sum| sum))
    }
}

/// The entry of one sender.
#[derive(Debug)]
pub(crate) struct SenderEntry {
    /// Locked by the connection that delivers.
    active: Arc<tokio::sync::Mutex<Option<ActiveStream>>>,
    /// The newest connection that acquired the entry or waits for it.
    holder: watch::Sender<Holder>,
    view: Mutex<ConnectionView>,
    pub(crate) counters: Counters,
}

/// Values of the status in addition to the counters.
#[derive(Clone, Debug)]
struct ConnectionView {
    peer: SocketAddr,
    stream: StreamId,
    state: PeerState,
    /// Cipher of the connection.
    cipher: &'static str,
    /// The stream that this one continues, because the spool was rolled back or cloned.
    replaces: Option<StreamId>,
    /// The last connection that a newer one superseded.
    superseded: Option<SocketAddr>,
    /// The last connection that was rejected because another sender had the entry.
    rival: Option<SocketAddr>,
    /// Reason for the end of the last session; `None` during a session.
    ended: Option<String>,
}

/// A connection that has the entry, or waits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    number: u64,
    peer: SocketAddr,
    stream: StreamId,
    begun: SystemTime,
    /// Whether the connection still has the entry, or waits for it.
    is_here: bool,
}

impl Holder {
    /// Fails if this connection exists with another stream, and the stream of the new one did not begin
    /// earlier.
    fn check(&self, stream: StreamId, begun: Option<SystemTime>) -> Result<(), Superseded> {
        let gives_way =
            !self.is_here || self.stream == stream || begun.is_some_and(|begun| begun < self.begun);
        if gives_way { Ok(()) } else { Err(Superseded::InUse(self.peer)) }
    }

    /// Returns the reason why a connection with `stream` lost the entry to this one.
    fn superseded(&self, stream: StreamId) -> Superseded {
        if self.stream == stream { Superseded::Newer(self.peer) } else { Superseded::KnownLonger(self.peer) }
    }
}

/// Reason why a connection does not get an entry, or lost it to another, with the address of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Superseded {
    #[error(
        "a newer connection of the same sender, from {0}, took over; if this repeats, two machines use the same id \
         and key: give one of them an id of its own"
    )]
    Newer(SocketAddr),
    #[error(
        "another sender with the same id, at {0}, took over, because nf-receiver has known its stream for longer: give each sender an \
         id of its own (nf-receiver invite NAME)"
    )]
    KnownLonger(SocketAddr),
    #[error(
        "its id is in use by another sender, at {0}: give each sender an id of its own (nf-receiver invite \
         NAME). All datagrams stay queued until that one disconnects; if that is an old connection of this \
         sender, it ends after three heartbeats"
    )]
    InUse(SocketAddr),
}

/// The claim of one connection to an entry, until dropped.
#[derive(Debug)]
struct Claim {
    entry: Arc<SenderEntry>,
    number: u64,
    stream: StreamId,
}

impl Claim {
    /// Fails if a newer connection claims the entry.
    fn check(&self) -> Result<(), Superseded> {
        let holder = *self.entry.holder.borrow();
        if holder.number == self.number { Ok(()) } else { Err(holder.superseded(self.stream)) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.entry.holder.send_if_modified(|holder| {
            holder.is_here &= holder.number != self.number;
            false
        });
    }
}

/// Exclusive right to deliver a sender's stream, until dropped.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    pub(crate) entry: Arc<SenderEntry>,
    /// Dropped before the entry is free, so that no new connection is rejected in between.
    claim: Claim,
    pub(crate) active: OwnedMutexGuard<Option<ActiveStream>>,
    /// Changes when another connection claims the entry.
    pub(crate) holder: watch::Receiver<Holder>,
}

impl StreamGuard {
    /// Returns the reason why another connection claims the entry.
    pub(crate) fn superseded(&self) -> Superseded {
        self.holder.borrow().superseded(self.claim.stream)
    }
}

impl Drop for StreamGuard {
    /// Drops batches that will be sent again, and the stream state if the stored position describes it
    /// completely. While a collector is behind others, their offsets stay here until the sender is back. The
    /// file is closed in any case.
    fn drop(&mut self) {
        if let Some(current) = self.active.as_mut() {
            self.entry.counters.add_settled(&current.delivery.suspend());
            current.in_use = None;
        }
        self.active.take_if(|current| current.is_settled());
        self.entry.view().state = PeerState::Disconnected;
    }
}

impl SenderEntry {
    fn new(peer: SocketAddr, stream: StreamId, unmatched: Arc<Unmatched>) -> Self {
        Self {
            active: Arc::default(),
            holder: watch::Sender::new(Holder {
                number: 0,
                peer,
                stream,
                begun: SystemTime::UNIX_EPOCH,
                is_here: false,
            }),
            view: Mutex::new(ConnectionView {
                peer,
                stream,
                state: PeerState::Disconnected,
                cipher: "none",
                replaces: None,
                superseded: None,
                rival: None,
                ended: None,
            }),
            counters: Counters { unmatched, ..Counters::default() },
        }
    }

    fn view(&self) -> MutexGuard<'_, ConnectionView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the reason for the end of the session.
    pub(crate) fn note_ended(&self, reason: String) {
        self.view().ended = Some(reason);
    }

    /// Claims the entry for a connection with `stream`, which began at `begun`. Returns the address of the
    /// connection that it supersedes.
    fn claim(
        self: &Arc<Self>,
        peer: SocketAddr,
        stream: StreamId,
        begun: SystemTime,
    ) -> Result<(Claim, Option<SocketAddr>), Superseded> {
        let mut outcome = Ok((0, None));
        self.holder.send_if_modified(|holder| {
            let before = holder.is_here.then_some(holder.peer);
            let number = holder.number + 1;
            outcome = holder.check(stream, Some(begun)).map(|()| (number, before));
            if outcome.is_ok() {
                *holder = Holder { number, peer, stream, begun, is_here: true };
            }
            outcome.is_ok()
        });
        match outcome {
            Ok((number, before)) => Ok((Claim { entry: self.clone(), number, stream }, before)),
            Err(superseded) => Err(self.note_rival(peer, superseded)),
        }
    }

    /// Notes for the status that a connection of `peer` was rejected.
    fn note_rival(&self, peer: SocketAddr, superseded: Superseded) -> Superseded {
        self.view().rival = Some(peer);
        superseded
    }

    /// Acquires the entry for a connection whose stream began at `begun`; a connection that has it ends.
    /// Fails if the entry is not available to this stream, or as soon as another connection claims it.
    pub(crate) async fn acquire(
        self: Arc<Self>,
        peer: SocketAddr,
        hello: &Hello,
        begun: SystemTime,
        cipher: &'static str,
    ) -> Result<StreamGuard, Superseded> {
        let (claim, before) = self.claim(peer, hello.stream, begun)?;
        let mut holder = self.holder.subscribe();
        let is_superseded = async {
            drop(holder.wait_for(|holder| holder.number != claim.number).await);
        };
        let current = tokio::select! {
            current = self.active.clone().lock_owned() => current,
            () = is_superseded => return claim.check().and(Err(Superseded::Newer(peer))),
        };
        let holder = self.holder.subscribe();
        claim.check()?;
        let (stream, replaces, state) = (hello.stream, hello.replaces, PeerState::Connected);
        let mut view = self.view();
        let (superseded, rival) = (before.or(view.superseded), view.rival);
        *view = ConnectionView { peer, stream, state, cipher, replaces, superseded, rival, ended: None };
        drop(view);
        Ok(StreamGuard { entry: self, claim, active: current, holder })
    }

    /// Returns whether no connection has the entry and its state is stored.
    fn is_idle(&self) -> bool {
        self.active.try_lock().is_ok_and(|current| current.as_ref().is_none_or(ActiveStream::is_settled))
    }
}

/// The entries of all known senders.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    table: Mutex<SenderTable>,
    unmatched: Arc<Unmatched>,
}

impl Senders {
    /// Returns the datagrams that match no collector.
    pub(crate) fn unmatched(&self) -> &Unmatched {
        &self.unmatched
    }

    fn table(&self) -> MutexGuard<'_, SenderTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the entry of `id`. If there are too many, free ones are removed.
    pub(crate) fn entry(&self, id: &SenderId, peer: SocketAddr, stream: StreamId) -> Arc<SenderEntry> {
        let mut known = self.table();
        let forgotten = known.make_room(id);
        let new = || Arc::new(SenderEntry::new(peer, stream, self.unmatched.clone()));
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
    pub(crate) fn status(&self, admission: &Admission) -> Vec<PeerStatus> {
        let row = |(id, entry): (&SenderId, &Arc<SenderEntry>)| row(id, entry, &admission.exporters_of(id));
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
                collector,
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
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use nf_transport_core::framing::{Heartbeat, StreamProof};
    use nf_transport_core::sequence::Position;

    use super::*;
    use crate::limits::SEATS_MAX;
    use crate::receiver::output::Outputs;
    use crate::receiver::state::positions::{Positions, StreamOwner};

    const STREAM: StreamId = StreamId([1; 16]);

    fn hello() -> Hello {
        let heartbeat = Heartbeat::nearest(core::time::Duration::from_secs(5));
        let (run, proof) = (RunId([2; 16]), StreamProof::NONE);
        Hello { stream: STREAM, first: Position(0), heartbeat, run, replaces: None, proof }
    }

    async fn guard(senders: &Senders, id: &str) -> StreamGuard {
        let peer = "192.0.2.1:40000".parse().unwrap();
        let entry = senders.entry(&id.parse().unwrap(), peer, STREAM);
        entry.acquire(peer, &hello(), SystemTime::UNIX_EPOCH, "none").await.unwrap()
    }

    #[tokio::test]
    async fn an_absent_sender_keeps_counters_but_no_file() {
        let state = tempfile::tempdir().unwrap();
        let positions = Positions::open(state.path()).unwrap();
        let senders = Senders::default();
        let mut guard = guard(&senders, "edge").await;
        let owner = StreamOwner { sender: "edge".parse().unwrap(), source: None };
        let in_use = positions.stream(&owner, STREAM, Instant::now()).unwrap();
        let stored = in_use.position().clone();
        let file = Arc::downgrade(&stored);
        stored.store(Position(3), RunId::NONE).unwrap();
        let sender = "edge".parse().unwrap();
        let delivery = Delivery::new(sender, Position(3), None, &Outputs::to(&[]), &HashMap::new());
        let in_use = Some(in_use);
        *guard.active = Some(ActiveStream { stream: STREAM, stored, in_use, delivery, run: RunId::NONE });
        Counters::add(&guard.entry.counters.datagrams, 3);
        drop(guard);
        positions.sync().unwrap();
        assert!(file.upgrade().is_none());
        assert_eq!(senders.status(&Admission::default())[0].delivered.datagrams, 3);
    }

    #[test]
    fn counts_of_forgotten_senders_stay_in_the_totals() {
        let senders = Senders::default();
        let peer = "192.0.2.1:40000".parse().unwrap();
        let entry = senders.entry(&"edge".parse().unwrap(), peer, STREAM);
        Counters::add(&entry.counters.datagrams, 30);
        Counters::add(&entry.counters.bytes, 3000);
        Counters::add(&entry.counters.duplicates, 2);
        Counters::add(&entry.counters.gaps, u64::MAX);
        drop(entry);
        let before = senders.totals();
        for number in 0..=SEATS_MAX {
            let entry = senders.entry(&format!("other-{number}").parse().unwrap(), peer, STREAM);
            Counters::add(&entry.counters.gaps, 1);
        }
        let is_kept = senders.status(&Admission::default()).iter().any(|row| row.id == "edge");
        assert!(!is_kept, "the entry made room");
        assert_eq!(senders.totals(), before);
        assert_eq!(before.delivered, Tally { datagrams: 30, bytes: 3000 });
        assert_eq!((before.duplicates, before.gaps), (2, u64::MAX));
    }

    /// Acquires `entry` for a connection with stream `number`, which began at that second.
    async fn take(entry: &Arc<SenderEntry>, number: u8) -> Result<StreamGuard, Superseded> {
        let peer = SocketAddr::from(([192, 0, 2, number], 40_000));
        let begun = SystemTime::UNIX_EPOCH + core::time::Duration::from_secs(number.into());
        let hello = Hello { stream: StreamId([number; 16]), ..hello() };
        entry.clone().acquire(peer, &hello, begun, "none").await
    }

    fn peer(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 40_000))
    }

    #[tokio::test]
    async fn a_superseded_connection_waits_no_longer() {
        let senders = Senders::default();
        let entry = senders.entry(&"edge".parse().unwrap(), peer(1), STREAM);
        let held = take(&entry, 3).await.unwrap();
        let waiting = [2, 1].map(|number| {
            let entry = entry.clone();
            tokio::spawn(async move { take(&entry, number).await.map(drop) })
        });
        let [earlier, later] = waiting;
        assert_eq!(earlier.await.unwrap().unwrap_err(), Superseded::KnownLonger(peer(1)));
        assert_eq!(held.superseded(), Superseded::KnownLonger(peer(1)));
        assert_eq!(take(&entry, 2).await.unwrap_err(), Superseded::InUse(peer(1)));
        drop(held);
        later.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_claim_blocks_no_connection() {
        let senders = Senders::default();
        let entry = senders.entry(&"edge".parse().unwrap(), peer(1), STREAM);
        let held = take(&entry, 3).await.unwrap();
        let waiting = tokio::spawn({
            let entry = entry.clone();
            async move { take(&entry, 1).await.map(drop) }
        });
        while held.superseded() != Superseded::KnownLonger(peer(1)) {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        waiting.await.unwrap_err();
        drop(held);
        take(&entry, 4).await.unwrap();
    }

    #[tokio::test]
    async fn an_entry_about_to_be_acquired_is_kept() {
        let senders = Senders::default();
        let peer = "192.0.2.1:40000".parse().unwrap();
        let entry = senders.entry(&"edge".parse().unwrap(), peer, STREAM);
        for number in 0..=SEATS_MAX {
            senders.entry(&format!("other-{number}").parse().unwrap(), peer, STREAM);
        }
        assert!(Arc::ptr_eq(&entry, &senders.entry(&"edge".parse().unwrap(), peer, STREAM)));
    }
}
