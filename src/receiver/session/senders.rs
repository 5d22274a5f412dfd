//! One seat for each sender: who sits there delivers its stream, and nobody else does.
//!
//! Owns what outlives a connection: the position of the stream, and how much of it each collector has. A newer connection
//! of the same stream asks the older one to rise, and goes on where that stands, so that a lost link repeats nothing.
//!
//! A connection with another stream than the one of the session is another sender, or a new spool. It takes the seat only if its
//! stream was known before. Where many can have the same id, nobody can end the sessions of a sender that was there first.

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
use crate::receiver::session::senders::known::Known;
use crate::receiver::state::positions::{StreamInUse, StreamPosition};
use crate::status::{PeerState, PeerStatus, SenderTotals, Tally};

/// What the sender's current stream is, and how far it is delivered.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) stream: StreamId,
    pub(crate) stored: Arc<StreamPosition>,
    /// The use of it by the session; `None` while there is no session.
    pub(crate) in_use: Option<StreamInUse>,
    pub(crate) delivery: Delivery,
    /// The run that sent the latest of what has come.
    pub(crate) run: RunId,
}

impl Current {
    /// Whether the stored position says all that there is to know.
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
    /// Adds what was delivered, denied or lost, and what matched no collector.
    pub(crate) fn settled(&self, settled: &Settled) {
        Self::add(&self.datagrams, settled.delivered.datagrams);
        Self::add(&self.bytes, settled.delivered.bytes);
        let now = boot_clock();
        self.denied.add(&settled.denied, now);
        self.unmatched.add(&settled.unmatched, now);
        for loss in &settled.losses {
            Self::add(&self.gaps, loss.datagrams);
        }
    }

    /// All of them at this moment.
    fn totals(&self) -> SenderTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SenderTotals {
            delivered: Tally { datagrams: get(&self.datagrams), bytes: get(&self.bytes) },
            duplicates: get(&self.duplicates),
            gaps: get(&self.gaps),
            denied: self.denied.total(),
        }
    }

    /// Adds `count`, which a sender may have chosen, and returns the sum. It stays at the largest number.
    pub(crate) fn add(counter: &AtomicU64, count: u64) -> u64 {
        let add = |sum: u64| sum.saturating_add(count);
        let before = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(add(sum)));
        add(before.unwrap_or_else(|sum| sum))
    }
}

/// The seat of one sender.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Held by the connection that delivers.
    turn: Arc<tokio::sync::Mutex<Option<Current>>>,
    /// The newest connection that was to have the seat.
    holder: watch::Sender<Holder>,
    view: Mutex<View>,
    pub(crate) counters: Counters,
}

/// What the status shows beside the counters.
#[derive(Clone, Debug)]
struct View {
    peer: SocketAddr,
    stream: StreamId,
    state: PeerState,
    /// What encrypts the connection.
    cipher: &'static str,
    /// The stream that this one continues, because the spool was rolled back or cloned.
    replaces: Option<StreamId>,
    /// The last connection that a newer one took over from.
    superseded: Option<SocketAddr>,
    /// The last connection that was refused because another sender had the seat.
    rival: Option<SocketAddr>,
    /// Why the last session ended; `None` while there is one.
    ended: Option<String>,
}

/// A connection that has a seat, or is about to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    number: u64,
    peer: SocketAddr,
    stream: StreamId,
    begun: SystemTime,
    /// Whether the connection still has the seat, or waits for it.
    is_here: bool,
}

impl Holder {
    /// Fails if this connection is there with another stream, and that of the newcomer did not begin before it.
    fn check(&self, stream: StreamId, begun: Option<SystemTime>) -> Result<(), Unseated> {
        let gives_way =
            !self.is_here || self.stream == stream || begun.is_some_and(|begun| begun < self.begun);
        if gives_way { Ok(()) } else { Err(Unseated::InUse(self.peer)) }
    }

    /// Why a connection with `stream` lost the seat to this one.
    fn superseded(&self, stream: StreamId) -> Unseated {
        if self.stream == stream { Unseated::Newer(self.peer) } else { Unseated::KnownLonger(self.peer) }
    }
}

/// Why a connection does not get a seat, or lost it to another, with the address of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unseated {
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
        "its id is in use by another sender, at {0}: give each sender an id of its own (nf-receiver invite NAME). Everything stays \
         queued until that one disconnects; if that is an old connection of this sender, it ends after three heartbeats"
    )]
    InUse(SocketAddr),
}

/// The claim of one connection to a seat, until dropped.
#[derive(Debug)]
struct Claim {
    seat: Arc<Seat>,
    number: u64,
    stream: StreamId,
}

impl Claim {
    /// Fails if a newer connection claims the seat.
    fn check(&self) -> Result<(), Unseated> {
        let holder = *self.seat.holder.borrow();
        if holder.number == self.number { Ok(()) } else { Err(holder.superseded(self.stream)) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.seat.holder.send_if_modified(|holder| {
            holder.is_here &= holder.number != self.number;
            false
        });
    }
}

/// The right to deliver a sender's stream, while it lasts.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) seat: Arc<Seat>,
    /// Given up before the seat is free, so that no newcomer is refused in between.
    claim: Claim,
    pub(crate) current: OwnedMutexGuard<Option<Current>>,
    /// Changes when another connection is to have the seat.
    pub(crate) holder: watch::Receiver<Holder>,
}

impl Turn {
    /// Why another connection is to have the seat.
    pub(crate) fn superseded(&self) -> Unseated {
        self.holder.borrow().superseded(self.claim.stream)
    }
}

impl Drop for Turn {
    /// Forgets what will come again, and what the stored position says, too. While a collector is behind others, how far each of
    /// them is stays here until the sender is back. The file is closed in any case.
    fn drop(&mut self) {
        if let Some(current) = self.current.as_mut() {
            self.seat.counters.settled(&current.delivery.suspend());
            current.in_use = None;
        }
        self.current.take_if(|current| current.is_settled());
        self.seat.view().state = PeerState::Disconnected;
    }
}

impl Seat {
    fn new(peer: SocketAddr, stream: StreamId, unmatched: Arc<Unmatched>) -> Self {
        Self {
            turn: Arc::default(),
            holder: watch::Sender::new(Holder {
                number: 0,
                peer,
                stream,
                begun: SystemTime::UNIX_EPOCH,
                is_here: false,
            }),
            view: Mutex::new(View {
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

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why the session ended.
    pub(crate) fn note_ended(&self, reason: String) {
        self.view().ended = Some(reason);
    }

    /// Claims the seat for a connection with `stream`, which began at `begun`. Returns the address of the connection that loses
    /// it thereby.
    fn claim(
        self: &Arc<Self>,
        peer: SocketAddr,
        stream: StreamId,
        begun: SystemTime,
    ) -> Result<(Claim, Option<SocketAddr>), Unseated> {
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
            Ok((number, before)) => Ok((Claim { seat: self.clone(), number, stream }, before)),
            Err(unseated) => Err(self.refused(peer, unseated)),
        }
    }

    /// Notes for the status that a connection of `peer` was refused.
    fn refused(&self, peer: SocketAddr, unseated: Unseated) -> Unseated {
        self.view().rival = Some(peer);
        unseated
    }

    /// Takes the seat for a connection whose stream began at `begun`: a connection that has it ends. Fails if the seat is not for
    /// this stream now, or as soon as another connection is to have it.
    pub(crate) async fn take(
        self: Arc<Self>,
        peer: SocketAddr,
        hello: &Hello,
        begun: SystemTime,
        cipher: &'static str,
    ) -> Result<Turn, Unseated> {
        let (claim, before) = self.claim(peer, hello.stream, begun)?;
        let mut holder = self.holder.subscribe();
        let is_superseded = async {
            drop(holder.wait_for(|holder| holder.number != claim.number).await);
        };
        let current = tokio::select! {
            current = self.turn.clone().lock_owned() => current,
            () = is_superseded => return claim.check().and(Err(Unseated::Newer(peer))),
        };
        let holder = self.holder.subscribe();
        claim.check()?;
        let (stream, replaces, state) = (hello.stream, hello.replaces, PeerState::Connected);
        let mut view = self.view();
        let (superseded, rival) = (before.or(view.superseded), view.rival);
        *view = View { peer, stream, state, cipher, replaces, superseded, rival, ended: None };
        drop(view);
        Ok(Turn { seat: self, claim, current, holder })
    }

    /// Whether nothing is under way.
    fn is_idle(&self) -> bool {
        self.turn.try_lock().is_ok_and(|current| current.as_ref().is_none_or(Current::is_settled))
    }
}

/// The seats of all senders seen.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    known: Mutex<Known>,
    unmatched: Arc<Unmatched>,
}

impl Seats {
    /// Datagrams that match no collector.
    pub(crate) fn unmatched(&self) -> &Unmatched {
        &self.unmatched
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seat of `id`. With too many seats, free ones are given up.
    pub(crate) fn seat(&self, id: &SenderId, peer: SocketAddr, stream: StreamId) -> Arc<Seat> {
        let mut known = self.known();
        let forgotten = known.make_room(id);
        let new = || Arc::new(Seat::new(peer, stream, self.unmatched.clone()));
        let seat = known.seats.entry(id.clone()).or_insert_with(new).clone();
        drop(known);
        for (id, seat) in forgotten {
            seat.counters.denied.log(&id, Instant::now(), true);
        }
        seat
    }

    /// The address of the sender `id`, if it was here with this stream.
    pub(crate) fn peer_of(&self, id: &SenderId, stream: StreamId) -> Option<SocketAddr> {
        let seat = self.known().seats.get(id)?.clone();
        let view = seat.view();
        (view.stream == stream).then_some(view.peer)
    }

    /// Fails if `id` is in use by a sender with another stream that began before `begun`, or if this one has not begun at all.
    pub(crate) fn check(
        &self,
        id: &SenderId,
        peer: SocketAddr,
        stream: StreamId,
        begun: Option<SystemTime>,
    ) -> Result<(), Unseated> {
        let Some(seat) = self.known().seats.get(id).cloned() else { return Ok(()) };
        let holder = *seat.holder.borrow();
        holder.check(stream, begun).map_err(|unseated| seat.refused(peer, unseated))
    }

    /// The rows of all senders by id.
    pub(crate) fn status(&self, admission: &Admission) -> Vec<PeerStatus> {
        let row = |(id, seat): (&SenderId, &Arc<Seat>)| row(id, seat, &admission.exporters_of(id));
        let mut rows: Vec<PeerStatus> = self.known().seats.iter().map(row).collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    }

    /// The counts of all senders together.
    pub(crate) fn totals(&self) -> SenderTotals {
        self.known().totals()
    }

    /// Logs denied datagrams that are not in the log yet: those that are due or, at the end, all. To be called once a second.
    pub(crate) fn log_denied(&self, is_end: bool) {
        let seats: Vec<(SenderId, Arc<Seat>)> =
            self.known().seats.iter().map(|(id, seat)| (id.clone(), seat.clone())).collect();
        for (id, seat) in seats {
            seat.counters.denied.log(&id, Instant::now(), is_end);
        }
    }

    /// Stores, for batches that were on their way when the daemon stopped, what every collector has of them. Gives
    /// what some of the collectors have beyond that.
    pub(crate) async fn settle(&self) -> Vec<CollectorOffset> {
        let seats: Vec<(SenderId, Arc<Seat>)> =
            self.known().seats.iter().map(|(id, seat)| (id.clone(), seat.clone())).collect();
        let mut ahead = Vec::new();
        for (id, seat) in seats {
            let current = seat.turn.lock().await;
            let Some(current) = current.as_ref() else { continue };
            let stored = current.delivery.position();
            if let Err(error) = current.stored.store(stored, current.run) {
                tracing::error!(
                    %error,
                    "cannot store how far a stream is delivered, so that some of it will be repeated: \
                     {error}"
                );
            }
            let beyond = current.delivery.progress().filter(|(_, position)| *position > stored);
            ahead.extend(beyond.map(|(collector, position)| CollectorOffset {
                sender: id.to_string(),
                stream: current.stream.to_string(),
                collector,
                position: position.0,
                run: current.run.to_string(),
            }));
        }
        ahead
    }
}

fn row(id: &SenderId, seat: &Seat, exporters: &Prefixes) -> PeerStatus {
    let (view, now) = (seat.view().clone(), boot_clock());
    let seconds_since = |moment: BootTime| now.since(moment).map_or(0, |time| time.as_secs());
    let SenderTotals { delivered, duplicates, gaps, denied } = seat.counters.totals();
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
        denied_exporters: seat.counters.denied.exporters(seconds_since),
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
    use crate::receiver::state::positions::{Owner, Positions};

    const STREAM: StreamId = StreamId([1; 16]);

    fn hello() -> Hello {
        let heartbeat = Heartbeat::nearest(core::time::Duration::from_secs(5));
        let (run, proof) = (RunId([2; 16]), StreamProof::NONE);
        Hello { stream: STREAM, first: Position(0), heartbeat, run, replaces: None, proof }
    }

    async fn turn(seats: &Seats, id: &str) -> Turn {
        let peer = "192.0.2.1:40000".parse().unwrap();
        let seat = seats.seat(&id.parse().unwrap(), peer, STREAM);
        seat.take(peer, &hello(), SystemTime::UNIX_EPOCH, "none").await.unwrap()
    }

    #[tokio::test]
    async fn a_sender_that_is_gone_keeps_its_counters_and_no_open_file() {
        let state = tempfile::tempdir().unwrap();
        let positions = Positions::open(state.path()).unwrap();
        let seats = Seats::default();
        let mut turn = turn(&seats, "edge").await;
        let owner = Owner { sender: "edge".parse().unwrap(), source: None };
        let in_use = positions.stream(&owner, STREAM, Instant::now()).unwrap();
        let stored = in_use.position().clone();
        let file = Arc::downgrade(&stored);
        stored.store(Position(3), RunId::NONE).unwrap();
        let sender = "edge".parse().unwrap();
        let delivery = Delivery::new(sender, Position(3), None, &Outputs::to(&[]), &HashMap::new());
        let in_use = Some(in_use);
        *turn.current = Some(Current { stream: STREAM, stored, in_use, delivery, run: RunId::NONE });
        Counters::add(&turn.seat.counters.datagrams, 3);
        drop(turn);
        positions.sync().unwrap();
        assert!(file.upgrade().is_none());
        assert_eq!(seats.status(&Admission::default())[0].delivered.datagrams, 3);
    }

    #[test]
    fn counts_of_forgotten_senders_stay_in_the_totals() {
        let seats = Seats::default();
        let peer = "192.0.2.1:40000".parse().unwrap();
        let seat = seats.seat(&"edge".parse().unwrap(), peer, STREAM);
        Counters::add(&seat.counters.datagrams, 30);
        Counters::add(&seat.counters.bytes, 3000);
        Counters::add(&seat.counters.duplicates, 2);
        Counters::add(&seat.counters.gaps, u64::MAX);
        drop(seat);
        let before = seats.totals();
        for number in 0..=SEATS_MAX {
            let seat = seats.seat(&format!("other-{number}").parse().unwrap(), peer, STREAM);
            Counters::add(&seat.counters.gaps, 1);
        }
        let is_kept = seats.status(&Admission::default()).iter().any(|row| row.id == "edge");
        assert!(!is_kept, "the seat made room");
        assert_eq!(seats.totals(), before);
        assert_eq!(before.delivered, Tally { datagrams: 30, bytes: 3000 });
        assert_eq!((before.duplicates, before.gaps), (2, u64::MAX));
    }

    /// The seat of `edge`, and what a connection with stream `number`, which began then, is told when it wants it.
    async fn take(seat: &Arc<Seat>, number: u8) -> Result<Turn, Unseated> {
        let peer = SocketAddr::from(([192, 0, 2, number], 40_000));
        let begun = SystemTime::UNIX_EPOCH + core::time::Duration::from_secs(number.into());
        let hello = Hello { stream: StreamId([number; 16]), ..hello() };
        seat.clone().take(peer, &hello, begun, "none").await
    }

    fn peer(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 40_000))
    }

    #[tokio::test]
    async fn a_superseded_connection_waits_no_longer() {
        let seats = Seats::default();
        let seat = seats.seat(&"edge".parse().unwrap(), peer(1), STREAM);
        let held = take(&seat, 3).await.unwrap();
        let waiting = [2, 1].map(|number| {
            let seat = seat.clone();
            tokio::spawn(async move { take(&seat, number).await.map(drop) })
        });
        let [earlier, later] = waiting;
        assert_eq!(earlier.await.unwrap().unwrap_err(), Unseated::KnownLonger(peer(1)));
        assert_eq!(held.superseded(), Unseated::KnownLonger(peer(1)));
        assert_eq!(take(&seat, 2).await.unwrap_err(), Unseated::InUse(peer(1)));
        drop(held);
        later.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_claim_that_is_cut_off_blocks_nobody() {
        let seats = Seats::default();
        let seat = seats.seat(&"edge".parse().unwrap(), peer(1), STREAM);
        let held = take(&seat, 3).await.unwrap();
        let waiting = tokio::spawn({
            let seat = seat.clone();
            async move { take(&seat, 1).await.map(drop) }
        });
        while held.superseded() != Unseated::KnownLonger(peer(1)) {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        waiting.await.unwrap_err();
        drop(held);
        take(&seat, 4).await.unwrap();
    }

    #[tokio::test]
    async fn a_seat_that_somebody_is_about_to_take_is_never_given_up() {
        let seats = Seats::default();
        let peer = "192.0.2.1:40000".parse().unwrap();
        let seat = seats.seat(&"edge".parse().unwrap(), peer, STREAM);
        for number in 0..=SEATS_MAX {
            seats.seat(&format!("other-{number}").parse().unwrap(), peer, STREAM);
        }
        assert!(Arc::ptr_eq(&seat, &seats.seat(&"edge".parse().unwrap(), peer, STREAM)));
    }
}
