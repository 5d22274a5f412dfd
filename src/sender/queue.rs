//! The queue between the sockets and the link: in memory while the link keeps up, in the spool when it does not.
//!
//! Owns the ledger, the tail (batches that lie in the intake's ring, and in memory) and the spool. Shared by
//! the ingest thread, which pushes; the keeper thread, which moves what stays too long from the tail into the
//! spool; and the link, which reads and acknowledges. Nothing waits for the disk while it holds `state`.
//! Always holds: every position from `acknowledged` to `next` is in the tail, in the spool, or in a gap.

pub(crate) mod fair_share;
pub(crate) mod flusher;
pub(crate) mod holdings;
pub(crate) mod last_run;
pub(crate) mod ledger;
pub(crate) mod recovery;
pub(crate) mod room;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nf_transport_core::batch::Batch;
use nf_transport_core::datagram::Moment;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::secure::{OpenError, SpoolKeys, StreamKey};
use nf_transport_core::sequence::{Gap, GapReason, Position, StreamId};
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{
    Begun, Damage, FileTotals, Lineage, Newer, Preserved, Room, SegmentReader, Spool,
};
use tokio::sync::Notify;

use crate::host::systemd::messages::sender;
use crate::host::{Pulse, ROUND};
use crate::limits::JOURNAL_RING;
use crate::sender::journal::{Held, Marks, Ring};
use crate::sender::queue::ledger::{Counts, Ledger};
use crate::status::count_of;

/// What follows at a position.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// A batch that holds the position.
    Batch(Batch),
    /// The position is gone, and so is what follows up to the gap's end.
    Gap(Gap),
    /// It is to be read from the spool.
    InSpool,
    /// It is not given out yet.
    Nothing,
}

/// A segment that is being read.
#[derive(Debug)]
pub(crate) struct OpenedSegment {
    /// Its first position.
    pub(crate) first: Position,
    pub(crate) reader: SegmentReader<File>,
    /// How many segments had been thinned by then.
    thinnings: u64,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Datagrams are taken and sent.
    Running,
    /// None is taken any more; what is in the tail goes to the spool, and what the link can send is sent.
    Draining,
    /// The link is done too.
    Stopped,
}

/// Figures of the queue at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) counts: Counts,
    pub(crate) queued: u64,
    /// Bytes that the queue occupies, in memory and on disk.
    pub(crate) bytes: u64,
    pub(crate) segments: usize,
    /// When the oldest datagram of the queue came into it; to the precision of a segment.
    pub(crate) oldest: Option<Oldest>,
    /// How much the spool may still take; `None` if the disk does not say.
    pub(crate) room: Option<Room>,
    /// The stream that the queue is sent as, and the one that it was sent as before.
    pub(crate) stream: StreamId,
    pub(crate) replaced: Option<StreamId>,
    /// Datagrams that were queued when the stream was replaced, and that the receiver may have had already.
    pub(crate) possible_repeats: u64,
    /// Copies of damaged pieces.
    pub(crate) damaged: FileTotals,
    /// What a newer version wrote.
    pub(crate) newer: FileTotals,
}

/// When the oldest datagram of the queue came into it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Oldest {
    /// The oldest segment was begun then.
    Segment(Begun),
    /// The oldest batch came then, and is in memory.
    InMemory(Instant),
}

impl Oldest {
    /// The time since then.
    pub(crate) fn age(self, now: Moment) -> Duration {
        match self {
            Self::Segment(begun) => begun.age(now),
            Self::InMemory(since) => since.elapsed(),
        }
    }
}

/// What the spool occupies, as the keeper last saw it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpoolFigures {
    pub(crate) size: u64,
    pub(crate) segments: usize,
    pub(crate) oldest: Option<Begun>,
    pub(crate) room: Option<Room>,
    pub(crate) damaged: FileTotals,
    pub(crate) newer: FileTotals,
    /// Where the spool began when `oldest` was read.
    first: Option<Position>,
}

impl SpoolFigures {
    pub(crate) fn of(spool: &Spool<Directory>) -> Self {
        let mut figures = Self::default();
        figures.update(spool);
        figures
    }

    pub(crate) fn update(&mut self, spool: &Spool<Directory>) {
        self.size = spool.size();
        self.segments = spool.segments();
        self.room = spool.room().ok();
        (self.damaged, self.newer) = (spool.damaged(), spool.newer());
        if self.first != spool.first() {
            self.first = spool.first();
            self.oldest = spool.oldest();
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    /// Batches in the ring, oldest first, each with when it came.
    pub(crate) tail: VecDeque<(Held, Instant)>,
    /// Positions below may be on their way to all collectors that are waited for: in the receiver or to it.
    pub(crate) in_flight: Position,
    /// Which stream the queue is sent as, and by which runs.
    pub(crate) lineage: Lineage,
    /// The secret of that stream.
    pub(crate) stream_key: StreamKey,
    /// What this run sent ends here; what earlier runs may have sent ends where it began to number.
    pub(crate) highest_sent: Position,
    /// Datagrams that were queued when the stream was replaced, and that the receiver may have had already.
    pub(crate) possible_repeats: u64,
    /// The spool took no more when it was last tried, and nothing in the ring may give way: what does not fit
    /// into the ring is dropped.
    pub(crate) is_full: bool,
    /// Why the spool does not take what it should; `None` if it does.
    pub(crate) trouble: Option<String>,
    /// Why no new segment can be created; `None` if it can.
    pub(crate) stuck: Option<String>,
    pub(crate) stage: Stage,
    pub(crate) spool: SpoolFigures,
    head: u64,
}

impl State {
    /// What follows at `position`.
    pub(crate) fn next(&self, position: Position) -> Next {
        if let Some(gap) = self.ledger.gap_at(position) {
            return Next::Gap(gap);
        }
        let index = self.tail.partition_point(|(held, _)| held.batch.end() <= position);
        match self.tail.get(index) {
            Some((held, _)) if held.batch.first() <= position => Next::Batch(held.batch.clone()),
            _ if position < self.ledger.next() => Next::InSpool,
            _ => Next::Nothing,
        }
    }

    /// Bytes of the ring that are taken.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.tail.front().map_or(0, |(oldest, _)| {
            self.head.checked_sub(oldest.start).unwrap_or_else(|| {
                note_internal_error("the tail begins behind the ring's head");
                0
            })
        })
    }
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    pub(crate) spool: Mutex<Spool<Directory>>,
    stream: StreamId,
    /// What lies in the spool is sealed with these, if it is.
    keys: Arc<SpoolKeys>,
    marks: Arc<Marks>,
    /// Something changed that the keeper may have to act on.
    pub(crate) work: Condvar,
    /// The ring has more room.
    room: Condvar,
    /// Something can be sent.
    arrived: Notify,
}

impl Queue {
    pub(crate) fn new(
        ledger: Ledger,
        spool: Spool<Directory>,
        stream_key: StreamKey,
        held: Vec<Held>,
        marks: Arc<Marks>,
        keys: Arc<SpoolKeys>,
    ) -> Self {
        let now = Instant::now();
        let ring_head = held.last().map_or(0, |newest| newest.end);
        let figures = SpoolFigures::of(&spool);
        let state = State {
            in_flight: ledger.acknowledged(),
            lineage: spool.lineage().clone(),
            stream_key,
            highest_sent: ledger.acknowledged(),
            possible_repeats: 0,
            ledger,
            tail: held.into_iter().map(|held| (held, now)).collect(),
            is_full: false,
            trouble: None,
            stuck: None,
            stage: Stage::Running,
            spool: figures,
            head: ring_head,
        };
        Self {
            state: Mutex::new(state),
            stream: spool.stream(),
            spool: Mutex::new(spool),
            keys,
            marks,
            work: Condvar::new(),
            room: Condvar::new(),
            arrived: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spool(&self) -> MutexGuard<'_, Spool<Directory>> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position that the next datagram gets.
    pub(crate) fn next_position(&self) -> Position {
        self.state().ledger.next()
    }

    /// Takes a batch in, which starts at `next_position`. Once this returns, it survives the process. Waits for
    /// room until the keeper has tried to make some; drops the batch if there is none then, and returns it.
    pub(crate) fn push(&self, batch: Batch, ring: &mut Ring, pulse: &Pulse) -> Option<Batch> {
        let (datagrams, bytes) = (u64::from(batch.datagrams()), u64::from(batch.payload_bytes()));
        let (first, end) = (batch.first(), batch.end());
        let written = if self.wait_for_room(&batch, ring, pulse) {
            ring.write(batch).map_err(|batch| {
                note_internal_error("the ring does not take a batch that fits into it");
                (batch, GapReason::Corrupt)
            })
        } else {
            Err((batch, GapReason::SpoolFull))
        };
        let mut state = self.state();
        state.ledger.receive(datagrams, bytes);
        let refused = match written {
            Ok(held) => {
                state.head = held.end;
                state.tail.push_back((held, Instant::now()));
                // Else the keeper looks at the tail before anything in it gets too old.
                if Self::is_pressing(&state) || state.stage > Stage::Running {
                    self.work.notify_one();
                }
                None
            }
            Err((batch, reason)) => {
                state.ledger.lose(Gap { first, end, reason });
                Some(batch)
            }
        };
        drop(state);
        self.marks.set_next(end);
        refused
    }

    /// So many datagrams were received, and lost before they could be made a batch.
    pub(crate) fn note_lost(&self, datagrams: u64) {
        let mut state = self.state();
        let first = state.ledger.next();
        state.ledger.receive(datagrams, 0);
        let end = state.ledger.next();
        state.ledger.lose(Gap { first, end, reason: GapReason::Corrupt });
        drop(state);
        self.marks.set_next(end);
    }

    /// Tells the link that something was pushed.
    pub(crate) fn announce(&self) {
        self.arrived.notify_one();
    }

    /// Waits until `batch` fits into the ring; false if it is to be dropped instead.
    fn wait_for_room(&self, batch: &Batch, ring: &Ring, pulse: &Pulse) -> bool {
        let mut state = self.state();
        loop {
            let tail = state.tail.front().map_or(ring.head(), |(oldest, _)| oldest.start);
            if ring.fits(batch, tail) {
                return true;
            }
            if state.is_full {
                return false;
            }
            self.announce();
            (state, _) = self.room.wait_timeout(state, ROUND).unwrap_or_else(PoisonError::into_inner);
            pulse.beat();
        }
    }

    /// What follows at `position`, for a link that sends it, or reads it to be sent. If it may reach all collectors that are
    /// waited for (`to_all`), it may be on its way to them from now on, so that it is not dropped to make room.
    pub(crate) fn next_to_send(&self, position: Position, to_all: bool) -> Next {
        let mut state = self.state();
        let next = state.next(position);
        if !to_all {
            return next;
        }
        let end = match &next {
            Next::Batch(batch) => batch.end(),
            Next::Gap(gap) => gap.end,
            // With one position of a segment all of it is kept.
            Next::InSpool => position.plus(1),
            Next::Nothing => position,
        };
        state.in_flight = state.in_flight.max(end);
        next
    }

    /// Waits until something was announced since the last call.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// From now on only positions below `position` may be on their way.
    pub(crate) fn set_in_flight(&self, position: Position) {
        self.state().in_flight = position;
    }

    /// Positions from `position` on reach the collectors that are waited for only if they are sent once more.
    pub(crate) fn bound_in_flight(&self, position: Position) {
        let mut state = self.state();
        state.in_flight = state.in_flight.min(position);
    }

    /// All positions below `position` may be on their way.
    pub(crate) fn raise_in_flight(&self, position: Position) {
        let mut state = self.state();
        state.in_flight = state.in_flight.max(position);
    }

    /// Positions below `position` were sent.
    pub(crate) fn note_sent(&self, position: Position) {
        let mut state = self.state();
        state.highest_sent = state.highest_sent.max(position);
    }

    /// The receiver has everything below `position`, of which `bytes` of payload were sent by this process.
    pub(crate) fn acknowledge(&self, position: Position, bytes: u64) {
        let mut state = self.state();
        state.ledger.acknowledge(position, bytes);
        let acknowledged = state.ledger.acknowledged();
        self.marks.set_acknowledged(acknowledged);
        self.pop_tail(&mut state, acknowledged);
        let spool_has_some = state.spool.size > 0;
        drop(state);
        if spool_has_some {
            self.work.notify_one();
        }
    }

    /// Everything below `position` needs the tail no longer.
    pub(crate) fn pop_tail(&self, state: &mut State, position: Position) {
        let mut popped = false;
        while state.tail.front().is_some_and(|(held, _)| held.batch.end() <= position) {
            state.tail.pop_front();
            popped = true;
        }
        if popped {
            let tail = state.tail.front().map_or(state.head, |(oldest, _)| oldest.start);
            self.marks.set_ring_tail(tail);
            self.room.notify_one();
        }
    }

    /// The ring's room is looked at anew by whoever waits for it.
    pub(crate) fn room_changed(&self) {
        self.room.notify_one();
    }

    /// Whether the ring is so full that the tail must go to the spool at once.
    pub(crate) fn is_pressing(state: &State) -> bool {
        state.tail_bytes() > JOURNAL_RING / 2
    }

    /// A segment reader at `position`; `None` if the position is not in a segment (any more). Blocks that cannot
    /// be read are errors, or damage if they are given up.
    pub(crate) fn reader(
        &self,
        position: Position,
        skip_unreadable: bool,
    ) -> io::Result<Option<OpenedSegment>> {
        let spool = self.spool();
        let Some((first, _, _)) = spool.segment_at(position) else { return Ok(None) };
        let thinnings = spool.thinnings();
        let reader = spool.reader(position, skip_unreadable)?;
        Ok(reader.map(|reader| OpenedSegment { first, reader, thinnings }))
    }

    /// The stream id that batches of the queue bear.
    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    /// `batch` as it goes into the spool.
    pub(crate) fn seal(&self, batch: &Batch) -> io::Result<Batch> {
        self.keys.seal(self.stream, batch).map_err(io::Error::other)
    }

    /// A batch of the spool as it was before it went there.
    pub(crate) fn open(&self, batch: &Batch) -> Result<Batch, OpenError> {
        self.keys.open(self.stream, batch)
    }

    /// How far `segment`, which holds `position`, reaches now, and its size in bytes. `None` if it may have been thinned since
    /// it was opened.
    pub(crate) fn segment_end(&self, segment: &OpenedSegment, position: Position) -> Option<(Position, u64)> {
        let spool = self.spool();
        let (found, end, size) = spool.segment_at(position)?;
        (found == segment.first && spool.thinnings() == segment.thinnings).then_some((end, size))
    }

    /// The segment that holds `position` cannot be read from there on: its positions.
    pub(crate) fn rest_of_segment(&self, position: Position) -> Option<Damage> {
        let (_, end, _) = self.spool().segment_at(position)?;
        Some(Damage { offset: 0, length: 0, first: position, end })
    }

    /// A piece of the segment that starts at `segment` is damaged: it is set aside and counted.
    pub(crate) fn give_up(&self, segment: Position, damage: Damage) {
        let (set_aside, aside) = {
            let mut spool = self.spool();
            let set_aside = if damage.length > 0 {
                spool.copy_damaged(segment, damage.offset, damage.length)
            } else {
                Ok(())
            };
            (set_aside, spool.damaged())
        };
        let gap = Gap { first: damage.first, end: damage.end, reason: GapReason::Corrupt };
        let mut state = self.state();
        state.spool.damaged = aside;
        let lost = state.ledger.lose(gap);
        drop(state);
        if lost == 0 && damage.length == 0 {
            // Positions of a gap whose record gave its place to a segment.
            return;
        }
        tracing::error!(
            message_id = sender::SPOOL_DAMAGED,
            segment = segment.0,
            offset = damage.offset,
            bytes = damage.length,
            lost,
            "a piece of the spool is damaged, and {} with it; it is set aside in the directory \
             'damaged', the rest is delivered",
            count_of(lost, "datagram")
        );
        if let Err(error) = set_aside {
            tracing::warn!(%error, "cannot keep a copy of the damaged piece: {error}");
        }
    }

    /// A newer version wrote a piece of the segment that starts at `segment`: it is taken out of the queue and kept. The
    /// receiver hears that its positions are unused, as they are; what lies there gets others once it can be read.
    pub(crate) fn preserve_newer(&self, segment: Position, newer: &Newer) -> io::Result<()> {
        let (gap, aside) = {
            let mut spool = self.spool();
            (spool.preserve_newer(segment, newer.place)?, spool.newer())
        };
        // If it left the queue since it was read, the keeper accounts for it.
        let Some(gap) = gap else { return Ok(()) };
        let mut state = self.state();
        state.spool.newer = aside;
        let kept = state.ledger.keep_apart(gap);
        drop(state);
        tell_newer(
            format_args!("{} in the spool", count_of(kept, "datagram")),
            NEWER_DIRECTORY,
            &newer.needs,
        );
        Ok(())
    }

    /// Takes over that the spool kept these apart, as a newer version wrote them.
    pub(crate) fn note_kept_apart(&self, kept: Vec<Preserved>) {
        for Preserved { gap, needs } in kept {
            self.state().ledger.keep_apart(gap);
            let what = format_args!("datagrams in the spool, from position {} on,", gap.first.0);
            tell_newer(what, NEWER_DIRECTORY, &needs);
        }
    }

    /// Goes on to the `next` stage.
    pub(crate) fn go_on_to(&self, next: Stage) {
        let mut state = self.state();
        state.stage = state.stage.max(next);
        drop(state);
        self.work.notify_one();
        self.room.notify_one();
    }

    /// Everything below is acknowledged or gone.
    pub(crate) fn acknowledged(&self) -> Position {
        self.state().ledger.acknowledged()
    }

    /// What is wrong with the spool.
    pub(crate) fn trouble(&self) -> Vec<String> {
        let state = self.state();
        let stuck =
            state.stuck.as_ref().map(|reason| format!("cannot create a segment of the spool: {reason}"));
        state.trouble.iter().cloned().chain(stuck).collect()
    }

    /// The figures at this moment: they agree with each other.
    pub(crate) fn figures(&self) -> Figures {
        let state = self.state();
        let in_memory = state.tail.front().map(|(_, since)| Oldest::InMemory(*since));
        let queued = state.ledger.queued();
        Figures {
            counts: state.ledger.counts(),
            queued,
            bytes: if queued == 0 { 0 } else { state.spool.size + state.tail_bytes() },
            segments: state.spool.segments,
            oldest: state.spool.oldest.map(Oldest::Segment).or(in_memory).filter(|_| queued > 0),
            room: state.spool.room,
            stream: state.lineage.sent_as(),
            replaced: state.lineage.replaced(),
            possible_repeats: state.possible_repeats,
            damaged: state.spool.damaged,
            newer: state.spool.newer,
        }
    }
}

/// Where the spool keeps what a newer version wrote, in words.
pub(crate) const NEWER_DIRECTORY: &str = "the directory 'newer'";

/// Logs that `what` a newer version wrote is kept in `place`, and what it needs.
pub(crate) fn tell_newer(what: impl core::fmt::Display, place: impl core::fmt::Display, needs: &str) {
    tracing::error!(
        message_id = sender::NEWER_FORMAT,
        needs,
        "{what} come from a newer nf-sender ({needs}): they are kept in {place} and not sent; start a version that \
         reads them, which takes them into the queue again"
    );
}
