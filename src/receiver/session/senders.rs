//! One seat for each sender: who sits there delivers its stream, and nobody else does.
//!
//! Owns what outlives a connection: the position of the stream, and how much of it each collector has. A newer connection
//! of the same sender asks the older one to rise, and goes on where that stands, so that a lost link repeats nothing.

mod known;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nf_transport_core::datagram::BootTime;
use nf_transport_core::framing::Hello;
use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::Admission;
use nf_transport_core::sequence::{RunId, SenderId, StreamId};
use tokio::sync::{OwnedMutexGuard, watch};

use crate::host::boot_clock;
use crate::receiver::delivery::collector_offsets::Left;
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
    /// The number of the newest connection, and its address.
    newest: watch::Sender<(u64, SocketAddr)>,
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
    /// Why the last session ended; `None` while there is one.
    ended: Option<String>,
}

/// The right to deliver a sender's stream, while it lasts.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) seat: Arc<Seat>,
    pub(crate) current: OwnedMutexGuard<Option<Current>>,
    /// Changes when a newer connection of the same sender wants the seat.
    pub(crate) newest: watch::Receiver<(u64, SocketAddr)>,
}

impl Turn {
    /// The address of the newest connection of the same sender.
    pub(crate) fn newest_peer(&self) -> SocketAddr {
        self.newest.borrow().1
    }
}

impl Drop for Turn {
    /// Forgets what will come again, and what the stored position says, too. While a collector is behind others, how far each of
    /// them is stays here until the sender is back. The file is closed in any case.
    fn drop(&mut self) {
        if let Some(current) = self.current.as_mut() {
            self.seat.counters.settled(&current.delivery.leave());
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
            newest: watch::Sender::new((0, peer)),
            view: Mutex::new(View {
                peer,
                stream,
                state: PeerState::Disconnected,
                cipher: "none",
                replaces: None,
                superseded: None,
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

    /// Takes the seat: a connection that has it ends. Fails with the address of a still newer connection.
    pub(crate) async fn take(
        self: Arc<Self>,
        peer: SocketAddr,
        hello: &Hello,
        cipher: &'static str,
    ) -> Result<Turn, SocketAddr> {
        let mut number = 0;
        self.newest.send_modify(|newest| {
            *newest = (newest.0 + 1, peer);
            number = newest.0;
        });
        let mut superseded = self.view().superseded;
        let current = if let Ok(current) = self.turn.clone().try_lock_owned() {
            current
        } else {
            superseded = Some(self.view().peer);
            self.turn.clone().lock_owned().await
        };
        let newest = self.newest.subscribe();
        let (newest_number, newest_peer) = *newest.borrow();
        if newest_number != number {
            return Err(newest_peer);
        }
        let (stream, replaces, state) = (hello.stream, hello.replaces, PeerState::Connected);
        *self.view() = View { peer, stream, state, cipher, replaces, superseded, ended: None };
        Ok(Turn { seat: self, current, newest })
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
    pub(crate) async fn settle(&self) -> Vec<Left> {
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
            ahead.extend(beyond.map(|(collector, position)| Left {
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
    use crate::limits::SENDER_ENTRIES_MAX;
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
        seat.take(peer, &hello(), "none").await.unwrap()
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
        for number in 0..=SENDER_ENTRIES_MAX {
            let seat = seats.seat(&format!("other-{number}").parse().unwrap(), peer, STREAM);
            Counters::add(&seat.counters.gaps, 1);
        }
        let is_kept = seats.status(&Admission::default()).iter().any(|row| row.id == "edge");
        assert!(!is_kept, "the seat made room");
        assert_eq!(seats.totals(), before);
        assert_eq!(before.delivered, Tally { datagrams: 30, bytes: 3000 });
        assert_eq!((before.duplicates, before.gaps), (2, u64::MAX));
    }

    #[tokio::test]
    async fn a_seat_that_somebody_is_about_to_take_is_never_given_up() {
        let seats = Seats::default();
        let peer = "192.0.2.1:40000".parse().unwrap();
        let seat = seats.seat(&"edge".parse().unwrap(), peer, STREAM);
        for number in 0..=SENDER_ENTRIES_MAX {
            seats.seat(&format!("other-{number}").parse().unwrap(), peer, STREAM);
        }
        assert!(Arc::ptr_eq(&seat, &seats.seat(&"edge".parse().unwrap(), peer, STREAM)));
    }
}
