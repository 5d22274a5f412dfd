//! A sender with a spool and a receiver with a store over a connection that splits, delays, stalls and cuts as
//! a seed says. Whatever happens, every datagram is delivered once and in order.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use bytes::Buf;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{all_is_delivered, batch, gap, hello, place};
use crate::batch::Batch;
use crate::framing::{Heartbeat, Hello, Welcome};
use crate::sequence::{Gap, Position};
use crate::session::{
    Outbox, Place, ReceiverEvent, ReceiverSession, SenderEvent, SenderSession, SessionError,
};

const HEARTBEAT: Duration = Duration::from_millis(100);
const SEEDS: u64 = 300;
const PIECES: usize = 60;
const STEPS_MAX: usize = 20_000;
/// Bytes that are on their way in one direction at the most, as in the buffers of sockets.
const PIPE_MAX: usize = 2000;

/// What the sender's spool is made of.
#[derive(Clone, Debug)]
enum Piece {
    Batch(Batch),
    Gap(Gap),
}

impl Piece {
    fn first(&self) -> Position {
        match self {
            Self::Batch(batch) => batch.first(),
            Self::Gap(gap) => gap.first,
        }
    }

    fn end(&self) -> Position {
        match self {
            Self::Batch(batch) => batch.end(),
            Self::Gap(gap) => gap.end,
        }
    }
}

/// What the receiver keeps from one connection to the next.
#[derive(Debug, Default)]
struct Store {
    stored: Position,
    delivered: Vec<u64>,
    gaps: Vec<Gap>,
}

impl Store {
    /// Delivers what was handed out, or of a batch only the first `at_most` datagrams.
    fn deliver(&mut self, event: &ReceiverEvent, at_most: usize) {
        match event {
            ReceiverEvent::Batch { batch, skip } => {
                let records = batch.records().unwrap();
                for datagram in records.iter().skip(*skip).take(at_most) {
                    self.delivered.push(u64::from_be_bytes(datagram.payload.try_into().unwrap()));
                    self.stored = self.stored.plus(1);
                }
                assert!(self.stored <= batch.end());
            }
            ReceiverEvent::Gap(gap) => {
                assert_eq!(gap.first, self.stored);
                self.gaps.push(*gap);
                self.stored = gap.end;
            }
            other => panic!("{other:?} is not to be delivered"),
        }
    }
}

/// What a receiver keeps that takes more than it delivers to those who are waited for.
#[derive(Debug, Default)]
struct Further {
    /// What the others have, who are not waited for.
    store: Store,
    /// What waits for those who are, until when each is delivered, and where it ends.
    lane: VecDeque<(ReceiverEvent, Instant)>,
    end: Position,
}

/// Pieces that wait at the most for those who are waited for.
const LANE_MAX: usize = 3;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    /// Pieces with the moment of their arrival, in order.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Pipe {
    fn write(&mut self, outbox: &mut Outbox, rng: &mut StdRng, now: Instant) -> Vec<u8> {
        let room = outbox.len().min(PIPE_MAX.saturating_sub(self.bytes));
        if room == 0 {
            return Vec::new();
        }
        let piece = outbox.copy_to_bytes(rng.random_range(1..=room)).to_vec();
        let arrival = now + Duration::from_millis(rng.random_range(0..20));
        let not_before = self.pieces.back().map_or(arrival, |last| last.0.max(arrival));
        self.bytes += piece.len();
        self.pieces.push_back((not_before, piece.clone()));
        piece
    }

    fn read(&mut self, now: Instant) -> Vec<u8> {
        let is_here = self.pieces.front().is_some_and(|piece| piece.0 <= now);
        let piece = if is_here { self.pieces.pop_front().unwrap().1 } else { Vec::new() };
        self.bytes -= piece.len();
        piece
    }
}

/// A connection with the sessions at its ends.
struct Connection {
    sender: SenderSession,
    receiver: ReceiverSession,
    up: Pipe,
    down: Pipe,
    /// Everything that the sender ever wrote on it.
    recorded: Vec<u8>,
    /// What the receiver is delivering, and until when.
    delivering: Option<(ReceiverEvent, Instant)>,
    /// Since when the network swallows every byte without a word.
    dead_since: Option<Instant>,
}

/// How often the rarer things happened, to know that they did.
#[derive(Debug, Default)]
struct Seen {
    repeats: u64,
    skips: u64,
    silences: u64,
    cuts: u64,
    replays: u64,
    asked: u64,
    dropped: u64,
}

struct Simulation {
    rng: StdRng,
    now: Instant,
    spool: Vec<Piece>,
    /// How many pieces of the spool have been written so far.
    written: usize,
    acknowledged: Position,
    /// What lies below may reach the collectors that are waited for: the sender does not drop it.
    in_flight: Position,
    store: Store,
    /// Set if the receiver goes ahead.
    further: Option<Further>,
    connection: Connection,
    recordings: Vec<Vec<u8>>,
    seen: Seen,
}

fn spool(rng: &mut StdRng) -> Vec<Piece> {
    let mut position = 0;
    let mut pieces = Vec::new();
    while pieces.len() < PIECES {
        let end = position + rng.random_range(1..20);
        let is_gap = rng.random_bool(0.1);
        pieces.push(if is_gap { Piece::Gap(gap(position, end)) } else { Piece::Batch(batch(position, end)) });
        position = end;
    }
    pieces
}

fn connect(first: Position, now: Instant) -> Connection {
    let hello = Hello { first, heartbeat: Heartbeat::nearest(HEARTBEAT), ..hello(0) };
    Connection {
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
            further: goes_ahead.then(Further::default),
            connection: connect(Position(0), now),
            recordings: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn end(&self) -> Position {
        self.spool.last().unwrap().end()
    }

    fn run(mut self) -> Seen {
        for step in 0..STEPS_MAX {
            if self.acknowledged == self.end() {
                self.check();
                return self.seen;
            }
            // Trouble ends after a while, so that what is left can show that it recovers.
            self.step(step < 2000);
        }
        panic!("stuck: {} stored, {} acknowledged of {}", self.store.stored, self.acknowledged, self.end());
    }

    fn step(&mut self, with_trouble: bool) {
        self.now += Duration::from_millis(self.rng.random_range(0..15));
        self.written = (self.written + self.rng.random_range(0..2)).min(PIECES);
        let receives = if self.further.is_some() { Self::further_turn } else { Self::receiver_turn };
        let lives = self.sender_turn() & receives(self);
        if self.further.is_some() && self.rng.random_bool(0.1) {
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

    /// The sender's spool is full: it drops a piece that is not on its way.
    fn drop_one(&mut self) {
        let may_go = |piece: &&mut Piece| {
            matches!(piece, Piece::Batch(_)) && piece.first() >= self.in_flight.max(self.acknowledged)
        };
        let mut written = self.spool.iter_mut().take(self.written);
        if let Some(piece) = written.find(may_go) {
            *piece = Piece::Gap(gap(piece.first().0, piece.end().0));
            self.seen.dropped += 1;
        }
    }

    /// Whether the sender keeps the connection.
    fn sender_turn(&mut self) -> bool {
        let Connection { sender, up, down, recorded, dead_since, .. } = &mut self.connection;
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
                Ok(Some(SenderEvent::Taken(position))) => {
                    assert!(self.further.as_ref().is_some_and(|further| position <= further.store.stored));
                    if let Some(resent) = sender.resent() {
                        let held = self.spool.iter().map(Piece::end).filter(|end| *end > self.acknowledged);
                        let held = held.take(LANE_MAX).last().unwrap_or_default();
                        self.in_flight = self.in_flight.min(resent.max(held));
                    }
                }
                Ok(None) => break,
                Err(SessionError::Silent(_)) => {
                    assert!(dead_since.is_some(), "a living receiver is called dead");
                    self.seen.silences += 1;
                    return false;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(sender.poll_timeout().is_some_and(|at| at > self.now), "a timeout that is over is asked for");
        let since = dead_since.unwrap_or(self.now);
        assert!(self.now - since < 4 * HEARTBEAT, "a dead connection goes unnoticed");
        while let Some(wanted) = sender.wants() {
            let written = &self.spool[..self.written];
            let found = written.iter().find(|piece| piece.first() <= wanted && wanted < piece.end());
            let Some(piece) = found else { break };
            if sender.sends_to_all() {
                self.in_flight = self.in_flight.max(piece.end());
            }
            match piece {
                Piece::Batch(batch) => sender.send_batch(batch).unwrap(),
                Piece::Gap(gap) => sender.send_gap(*gap).unwrap(),
            }
        }
        recorded.extend(up.write(sender.outbox(), &mut self.rng, self.now));
        true
    }

    /// Whether the receiver keeps the connection.
    fn receiver_turn(&mut self) -> bool {
        let Connection { receiver, up, down, delivering, dead_since, .. } = &mut self.connection;
        if let Some((event, _)) = delivering.take_if(|(_, until)| *until <= self.now) {
            self.store.deliver(&event, usize::MAX);
            all_is_delivered(receiver, self.now);
        }
        if receiver.wants_bytes() && dead_since.is_none() {
            receiver.handle_bytes(&up.read(self.now), self.now);
        }
        receiver.handle_timeout(self.now);
        loop {
            match receiver.poll_event() {
                Ok(Some(ReceiverEvent::Hello(_))) => receiver.welcome(place(self.store.stored), self.now),
                Ok(Some(ReceiverEvent::Repeat { .. })) => self.seen.repeats += 1,
                Ok(Some(event)) => {
                    self.seen.skips += u64::from(matches!(event, ReceiverEvent::Batch { skip: 1.., .. }));
                    // Now and then a collector holds longer than any silence would be borne.
                    let longest = if self.rng.random_bool(0.05) { 600 } else { 10 };
                    let time = Duration::from_millis(self.rng.random_range(0..longest));
                    *delivering = Some((event, self.now + time));
                }
                Ok(None) => break,
                Err(SessionError::Silent(_)) if dead_since.is_some() => {
                    self.seen.silences += 1;
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            receiver.poll_timeout().is_none_or(|at| at > self.now),
            "a timeout that is over is asked for"
        );
        down.write(receiver.outbox(), &mut self.rng, self.now);
        true
    }

    /// Likewise, if it goes ahead.
    fn further_turn(&mut self) -> bool {
        let Connection { receiver, up, down, dead_since, .. } = &mut self.connection;
        let Some(Further { store: further, lane, end }) = &mut self.further else { return true };
        while let Some((event, _)) = lane.pop_front_if(|(_, until)| *until <= self.now) {
            self.store.deliver(&event, usize::MAX);
            receiver.acknowledge(self.store.stored, self.now);
        }
        if receiver.wants_bytes() && dead_since.is_none() {
            receiver.handle_bytes(&up.read(self.now), self.now);
        }
        receiver.handle_timeout(self.now);
        loop {
            let longest = if self.rng.random_bool(0.2) { 600 } else { 10 };
            let until = self.now + Duration::from_millis(self.rng.random_range(0..longest));
            match receiver.poll_event() {
                Ok(Some(ReceiverEvent::Hello(_))) => {
                    let place = Place { received: further.stored, ..place(self.store.stored) };
                    receiver.welcome(place, self.now);
                    lane.clear();
                    *end = self.store.stored;
                }
                Ok(Some(ReceiverEvent::Repeat { .. })) => self.seen.repeats += 1,
                Ok(Some(ReceiverEvent::Again(batch))) => {
                    self.seen.asked += 1;
                    let skip = usize::try_from(end.since(batch.first())).unwrap();
                    *end = batch.end();
                    lane.push_back((ReceiverEvent::Batch { batch, skip }, until));
                }
                Ok(Some(ReceiverEvent::GapAgain(gap))) => {
                    self.seen.asked += 1;
                    assert_eq!(gap.first, *end);
                    *end = gap.end;
                    lane.push_back((ReceiverEvent::Gap(gap), until));
                }
                Ok(Some(event @ ReceiverEvent::Batch { .. }))
                    if self.written < PIECES && self.rng.random_bool(0.03) =>
                {
                    // The connection is lost while the others have a part of it.
                    further.deliver(&event, 1);
                    return false;
                }
                Ok(Some(event)) => {
                    let is_next = *end == further.stored && lane.len() < LANE_MAX;
                    further.deliver(&event, usize::MAX);
                    if is_next {
                        *end = further.stored;
                        lane.push_back((event, until));
                    }
                    receiver.go_on(self.now);
                }
                Ok(None) => break,
                Err(SessionError::Silent(_)) if dead_since.is_some() => {
                    self.seen.silences += 1;
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
            further.stored = further.stored.max(*end);
        }
        if *end < further.stored {
            receiver.take(further.stored);
            if lane.is_empty() && !receiver.is_asking() {
                receiver.ask_again(*end, self.rng.random_range(1..3000));
            }
        }
        down.write(receiver.outbox(), &mut self.rng, self.now);
        true
    }

    /// The connection is gone with all that was on its way; a new one begins.
    fn reconnect(&mut self) {
        if let Some((event, _)) = self.connection.delivering.take() {
            // The receiver was in the midst of it: nothing, a part or all of it was delivered and stored.
            match self.rng.random_range(0..3) {
                0 => {}
                1 if matches!(event, ReceiverEvent::Batch { .. }) => self.store.deliver(&event, 1),
                _ => self.store.deliver(&event, usize::MAX),
            }
        }
        // The spool frees whole segments at its leisure, so what it holds may begin long before.
        let piece = self.spool.iter().rfind(|piece| piece.first() <= self.acknowledged).unwrap();
        let first = if self.rng.random_bool(0.3) { Position(0) } else { piece.first() };
        let old = core::mem::replace(&mut self.connection, connect(first, self.now));
        self.recordings.push(old.recorded);
        if self.further.is_none() && self.rng.random_bool(0.3) {
            self.replay();
        }
    }

    /// Somebody sends what was recorded on an earlier connection once more.
    fn replay(&mut self) {
        self.seen.replays += 1;
        let recording = &self.recordings[self.rng.random_range(0..self.recordings.len())];
        let mut receiver = ReceiverSession::new();
        for piece in recording.chunks(self.rng.random_range(1..500)) {
            receiver.handle_bytes(piece, self.now);
            while let Some(event) = receiver.poll_event().unwrap() {
                match event {
                    ReceiverEvent::Hello(_) => receiver.welcome(place(self.store.stored), self.now),
                    ReceiverEvent::Repeat { .. } => self.seen.repeats += 1,
                    event => {
                        self.store.deliver(&event, usize::MAX);
                        all_is_delivered(&mut receiver, self.now);
                    }
                }
            }
        }
    }

    fn check(&self) {
        let mut datagrams = Vec::new();
        let mut gaps = Vec::new();
        for piece in &self.spool {
            match piece {
                Piece::Batch(batch) => datagrams.extend(batch.first().0..batch.end().0),
                Piece::Gap(gap) => gaps.extend(gap.first.0..gap.end.0),
            }
        }
        let in_gaps = |store: &Store| -> Vec<u64> {
            store.gaps.iter().flat_map(|gap| gap.first.0..gap.end.0).collect()
        };
        assert_eq!(self.store.delivered, datagrams);
        assert_eq!(in_gaps(&self.store), gaps, "what the sender dropped is lost, and nothing else");
        assert_eq!(self.store.stored, self.end());
        if let Some(Further { store, .. }) = &self.further {
            // They may have what was dropped later.
            let lost = in_gaps(store);
            assert!(lost.iter().all(|position| gaps.contains(position)), "{lost:?}");
            let mut all = [&store.delivered[..], &lost].concat();
            all.sort_unstable();
            assert_eq!(all, (0..self.end().0).collect::<Vec<_>>());
            assert_eq!(store.stored, self.end());
        }
    }
}

/// In every other run.
fn goes_ahead(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

#[test]
fn every_datagram_is_delivered_once_and_in_order_whatever_the_network_does() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| Simulation::new(seed, goes_ahead(seed)).run());
        let seen = run.unwrap_or_else(|_| panic!("seed {seed} fails, see above"));
        all.repeats += seen.repeats;
        all.skips += seen.skips;
        all.silences += seen.silences;
        all.cuts += seen.cuts;
        all.replays += seen.replays;
        all.asked += seen.asked;
        all.dropped += seen.dropped;
    }
    println!("{all:?}");
    let rare = [all.repeats, all.skips, all.silences, all.cuts, all.replays, all.asked, all.dropped];
    assert!(rare.iter().all(|count| *count > SEEDS / 10), "too little happened: {all:?}");
}
