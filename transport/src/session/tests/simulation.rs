//! Randomized simulation of a sender with a spool and a receiver with a store.
//!
//! The connection between them splits, delays, stalls and cuts the bytes, depending on a seed. Every datagram
//! must be delivered exactly once and in order.

mod model;
mod receiver;

use core::time::Duration;
use std::time::Instant;

use model::{FastCollectors, Pipe, SpoolItem, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{batch, deliver_everything, gap, hello, place};
use crate::framing::{Heartbeat, Hello, Welcome};
use crate::sequence::Position;
use crate::session::{ReceiverEvent, ReceiverSession, SenderEvent, SenderSession, SessionError};

const HEARTBEAT: Duration = Duration::from_millis(100);
const SEEDS: u64 = 300;
const SPOOL_ITEMS: usize = 60;
const STEPS_MAX: usize = 20_000;

/// Most events in the lane of the slow collector.
const LANE_MAX: usize = 3;

/// A connection with the sessions at both ends.
struct SimulatedConnection {
    sender: SenderSession,
    receiver: ReceiverSession,
    up: Pipe,
    down: Pipe,
    /// All bytes that the sender wrote.
    recorded: Vec<u8>,
    /// Event that the receiver is delivering, and the end of the delivery.
    delivering: Option<(ReceiverEvent, Instant)>,
    /// Time since which the network silently discards every byte.
    dead_since: Option<Instant>,
}

/// Counters of rare events, to ensure that they occur.
#[derive(Debug, Default)]
struct EventCounts {
    repeats: u64,
    skips: u64,
    silences: u64,
    cuts: u64,
    replays: u64,
    resent: u64,
    dropped: u64,
}

struct Simulation {
    rng: StdRng,
    now: Instant,
    spool: Vec<SpoolItem>,
    /// Number of spool items written so far.
    written: usize,
    acknowledged: Position,
    /// Datagrams below may reach the collectors that are waited for: the sender does not drop these.
    in_flight: Position,
    store: Store,
    /// `None` if all collectors are equally fast.
    fast_collectors: Option<FastCollectors>,
    connection: SimulatedConnection,
    recordings: Vec<Vec<u8>>,
    seen: EventCounts,
}

fn spool(rng: &mut StdRng) -> Vec<SpoolItem> {
    let mut position = 0;
    let mut items = Vec::new();
    while items.len() < SPOOL_ITEMS {
        let end = position + rng.random_range(1..20);
        let is_gap = rng.random_bool(0.1);
        items.push(if is_gap {
            SpoolItem::Gap(gap(position, end))
        } else {
            SpoolItem::Batch(batch(position, end))
        });
        position = end;
    }
    items
}

fn connect(first: Position, now: Instant) -> SimulatedConnection {
    let hello = Hello { first, heartbeat: Heartbeat::nearest(HEARTBEAT), ..hello(0) };
    SimulatedConnection {
        sender: SenderSession::new(hello, now),
        receiver: ReceiverSession::new(),
        up: Pipe::default(),
        down: Pipe::default(),
        recorded: Vec::new(),
        delivering: None,
        dead_since: None,
    }
}

impl Simulation {
    fn new(seed: u64, goes_ahead: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Instant::now();
        Self {
            spool: spool(&mut rng),
            rng,
            now,
            written: 0,
            acknowledged: Position(0),
            in_flight: Position(0),
            store: Store::default(),
            fast_collectors: goes_ahead.then(FastCollectors::default),
            connection: connect(Position(0), now),
            recordings: Vec::new(),
            seen: EventCounts::default(),
        }
    }

    fn end(&self) -> Position {
        self.spool.last().unwrap().end()
    }

    fn run(mut self) -> EventCounts {
        for step in 0..STEPS_MAX {
            if self.acknowledged == self.end() {
                self.check();
                return self.seen;
            }
            // Faults end after a while, so that the rest of the run can recover.
            self.step(step < 2000);
        }
        panic!("stuck: {} stored, {} acknowledged of {}", self.store.stored, self.acknowledged, self.end());
    }

    fn step(&mut self, with_trouble: bool) {
        self.now += Duration::from_millis(self.rng.random_range(0..15));
        self.written = (self.written + self.rng.random_range(0..2)).min(SPOOL_ITEMS);
        let receives =
            if self.fast_collectors.is_some() { Self::fast_collectors_turn } else { Self::receiver_turn };
        let lives = self.sender_turn() & receives(self);
        if self.fast_collectors.is_some() && self.rng.random_bool(0.1) {
            self.drop_one();
        }
        let is_cut = with_trouble && self.rng.random_bool(0.02);
        if with_trouble && self.connection.dead_since.is_none() && self.rng.random_bool(0.005) {
            self.connection.dead_since = Some(self.now);
        }
        if !lives || is_cut {
            self.seen.cuts += 1;
            self.reconnect();
        }
    }

    /// The spool of the sender is full: it drops an item that is not in flight.
    fn drop_one(&mut self) {
        let may_go = |item: &&mut SpoolItem| {
            matches!(item, SpoolItem::Batch(_)) && item.first() >= self.in_flight.max(self.acknowledged)
        };
        let mut written = self.spool.iter_mut().take(self.written);
        if let Some(item) = written.find(may_go) {
            *item = SpoolItem::Gap(gap(item.first().0, item.end().0));
            self.seen.dropped += 1;
        }
    }

    /// Runs the sender. Returns false if it closes the connection.
    fn sender_turn(&mut self) -> bool {
        let SimulatedConnection { sender, up, down, recorded, dead_since, .. } = &mut self.connection;
        if dead_since.is_none() {
            sender.handle_bytes(&down.read(self.now), self.now);
        }
        sender.handle_timeout(self.now);
        loop {
            match sender.poll_event() {
                Ok(Some(SenderEvent::Welcomed(Welcome { resume, .. }))) => {
                    assert!(self.acknowledged <= resume && resume <= self.store.stored);
                    self.acknowledged = resume;
                    self.in_flight = resume;
                }
                Ok(Some(SenderEvent::Acknowledged(position))) => {
                    assert!(position <= self.store.stored, "acknowledged before it was stored");
                    assert!(position > self.acknowledged, "acknowledged twice");
                    self.acknowledged = position;
                    if sender.resent().is_none() {
                        self.in_flight = self.in_flight.max(sender.sent());
                    }
                }
                Ok(Some(SenderEvent::Received(position))) => {
                    assert!(self.fast_collectors.as_ref().is_some_and(|fast| position <= fast.store.stored));
                    if let Some(resent) = sender.resent() {
                        let held =
                            self.spool.iter().map(SpoolItem::end).filter(|end| *end > self.acknowledged);
                        let held = held.take(LANE_MAX).last().unwrap_or_default();
                        self.in_flight = self.in_flight.min(resent.max(held));
                    }
                }
                Ok(None) => break,
                Err(SessionError::Silent(_)) => {
                    assert!(dead_since.is_some(), "a live receiver is considered dead");
                    self.seen.silences += 1;
                    return false;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(sender.poll_timeout().is_some_and(|at| at > self.now), "the next timeout is in the past");
        let since = dead_since.unwrap_or(self.now);
        assert!(self.now - since < 4 * HEARTBEAT, "a dead connection goes unnoticed");
        while let Some(wanted) = sender.next_position() {
            let written = &self.spool[..self.written];
            let found = written.iter().find(|item| item.first() <= wanted && wanted < item.end());
            let Some(item) = found else { break };
            if sender.sends_to_all() {
                self.in_flight = self.in_flight.max(item.end());
            }
            match item {
                SpoolItem::Batch(batch) => sender.send_batch(batch).unwrap(),
                SpoolItem::Gap(gap) => sender.send_gap(*gap).unwrap(),
            }
        }
        recorded.extend(up.write(sender.outbox(), &mut self.rng, self.now));
        true
    }

    /// Discards the connection with all bytes in flight, and starts a new one.
    fn reconnect(&mut self) {
        if let Some((event, _)) = self.connection.delivering.take() {
            // The receiver was delivering: nothing, a part or all of the event was delivered and stored.
            match self.rng.random_range(0..3) {
                0 => {}
                1 if matches!(event, ReceiverEvent::Batch { .. }) => self.store.deliver(&event, 1),
                _ => self.store.deliver(&event, usize::MAX),
            }
        }
        // The spool frees whole segments with a delay, so its first position may be much lower.
        let item = self.spool.iter().rfind(|item| item.first() <= self.acknowledged).unwrap();
        let first = if self.rng.random_bool(0.3) { Position(0) } else { item.first() };
        let old = core::mem::replace(&mut self.connection, connect(first, self.now));
        self.recordings.push(old.recorded);
        if self.fast_collectors.is_none() && self.rng.random_bool(0.3) {
            self.replay();
        }
    }

    /// Replays the bytes of an earlier connection.
    fn replay(&mut self) {
        self.seen.replays += 1;
        let recording = &self.recordings[self.rng.random_range(0..self.recordings.len())];
        let mut receiver = ReceiverSession::new();
        for piece in recording.chunks(self.rng.random_range(1..500)) {
            receiver.handle_bytes(piece, self.now);
            while let Some(event) = receiver.poll_event().unwrap() {
                match event {
                    ReceiverEvent::Hello(_) => receiver.welcome(place(self.store.stored), self.now),
                    ReceiverEvent::Duplicate { .. } => self.seen.repeats += 1,
                    event => {
                        self.store.deliver(&event, usize::MAX);
                        deliver_everything(&mut receiver, self.now);
                    }
                }
            }
        }
    }

    fn check(&self) {
        let mut datagrams = Vec::new();
        let mut gaps = Vec::new();
        for item in &self.spool {
            match item {
                SpoolItem::Batch(batch) => datagrams.extend(batch.first().0..batch.end().0),
                SpoolItem::Gap(gap) => gaps.extend(gap.first.0..gap.end.0),
            }
        }
        let in_gaps = |store: &Store| -> Vec<u64> {
            store.gaps.iter().flat_map(|gap| gap.first.0..gap.end.0).collect()
        };
        assert_eq!(self.store.delivered, datagrams);
        assert_eq!(
            in_gaps(&self.store),
            gaps,
            "the datagrams that the sender dropped are lost, and no others"
        );
        assert_eq!(self.store.stored, self.end());
        if let Some(FastCollectors { store, .. }) = &self.fast_collectors {
            // They may have datagrams that the sender dropped later.
            let lost = in_gaps(store);
            assert!(lost.iter().all(|position| gaps.contains(position)), "{lost:?}");
            let mut all = [&store.delivered[..], &lost].concat();
            all.sort_unstable();
            assert_eq!(all, (0..self.end().0).collect::<Vec<_>>());
            assert_eq!(store.stored, self.end());
        }
    }
}

/// True for every second seed.
fn has_fast_collectors(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

#[test]
fn every_datagram_is_delivered_once_and_in_order() {
    let mut all = EventCounts::default();
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| Simulation::new(seed, has_fast_collectors(seed)).run());
        let seen = run.unwrap_or_else(|_| panic!("seed {seed} fails, see above"));
        all.repeats += seen.repeats;
        all.skips += seen.skips;
        all.silences += seen.silences;
        all.cuts += seen.cuts;
        all.replays += seen.replays;
        all.resent += seen.resent;
        all.dropped += seen.dropped;
    }
    println!("{all:?}");
    let rare = [all.repeats, all.skips, all.silences, all.cuts, all.replays, all.resent, all.dropped];
    assert!(rare.iter().all(|count| *count > SEEDS / 10), "too little happened: {all:?}");
}
