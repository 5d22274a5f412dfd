//! The parts of the simulation: spool items, stores and pipes.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use bytes::Buf;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::batch::Batch;
use crate::sequence::{Gap, Position};
use crate::session::{Outbox, ReceiverEvent};

/// Most bytes in flight in one direction, like in socket buffers.
const PIPE_MAX: usize = 2000;

/// A batch or gap in the sender's spool.
#[derive(Clone, Debug)]
pub(super) enum SpoolItem {
    Batch(Batch),
    Gap(Gap),
}

impl SpoolItem {
    pub(super) fn first(&self) -> Position {
        match self {
            Self::Batch(batch) => batch.first(),
            Self::Gap(gap) => gap.first,
        }
    }

    pub(super) fn end(&self) -> Position {
        match self {
            Self::Batch(batch) => batch.end(),
            Self::Gap(gap) => gap.end,
        }
    }
}

/// State that the receiver keeps across connections.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) stored: Position,
    pub(super) delivered: Vec<u64>,
    pub(super) gaps: Vec<Gap>,
}

impl Store {
    /// Delivers a gap, or at most `at_most` datagrams of a batch.
    pub(super) fn deliver(&mut self, event: &ReceiverEvent, at_most: usize) {
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
            other => panic!("{other:?} is not a delivery"),
        }
    }
}

/// Additional state of a receiver whose fast collectors are ahead of a slow one.
#[derive(Debug, Default)]
pub(super) struct FastCollectors {
    /// Datagrams delivered to the fast collectors.
    pub(super) store: Store,
    /// Events for the slow collector, each with the time of its delivery.
    pub(super) lane: VecDeque<(ReceiverEvent, Instant)>,
    /// Position after the last event of the lane.
    pub(super) end: Position,
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Pipe {
    /// Pieces with the time of their arrival, in order.
    pub(super) pieces: VecDeque<(Instant, Vec<u8>)>,
    pub(super) bytes: usize,
}

impl Pipe {
    pub(super) fn write(&mut self, outbox: &mut Outbox, rng: &mut StdRng, now: Instant) -> Vec<u8> {
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

    pub(super) fn read(&mut self, now: Instant) -> Vec<u8> {
        let is_here = self.pieces.front().is_some_and(|piece| piece.0 <= now);
        let piece = if is_here { self.pieces.pop_front().unwrap().1 } else { Vec::new() };
        self.bytes -= piece.len();
        piece
    }
}
