//! The receiver of the simulation: with equally fast collectors, or with some that are ahead.

use core::time::Duration;

use rand::RngExt;

use super::model::FastCollectors;
use super::{LANE_MAX, SPOOL_ITEMS, SimulatedConnection, Simulation, deliver_everything, place};
use crate::session::{ReceiverEvent, ResumePoint, SessionError};

impl Simulation {
    /// Runs a receiver with equally fast collectors. Returns false if it closes the connection.
    pub(super) fn receiver_turn(&mut self) -> bool {
        let SimulatedConnection { receiver, up, down, delivering, dead_since, .. } = &mut self.connection;
        if let Some((event, _)) = delivering.take_if(|(_, until)| *until <= self.now) {
            self.store.deliver(&event, usize::MAX);
            deliver_everything(receiver, self.now);
        }
        if receiver.wants_bytes() && dead_since.is_none() {
            receiver.handle_bytes(&up.read(self.now), self.now);
        }
        receiver.handle_timeout(self.now);
        loop {
            match receiver.poll_event() {
                Ok(Some(ReceiverEvent::Hello(_))) => receiver.welcome(place(self.store.stored), self.now),
                Ok(Some(ReceiverEvent::Duplicate { .. })) => self.seen.repeats += 1,
                Ok(Some(event)) => {
                    self.seen.skips += u64::from(matches!(event, ReceiverEvent::Batch { skip: 1.., .. }));
                    // Sometimes a collector blocks for longer than the silence limit.
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
        assert!(receiver.poll_timeout().is_none_or(|at| at > self.now), "the next timeout is in the past");
        down.write(receiver.outbox(), &mut self.rng, self.now);
        true
    }

    /// Runs a receiver with fast collectors. Returns false if it closes the connection.
    pub(super) fn fast_collectors_turn(&mut self) -> bool {
        let SimulatedConnection { receiver, up, down, dead_since, .. } = &mut self.connection;
        let Some(FastCollectors { store: fast, lane, end }) = &mut self.fast_collectors else {
            return true;
        };
        while lane.front().is_some_and(|(_, until)| *until <= self.now) {
            let Some((event, _)) = lane.pop_front() else { break };
            self.store.deliver(&event, usize::MAX);
            receiver.note_delivered(self.store.stored, None, self.now);
        }
        if receiver.wants_bytes() && dead_since.is_none() {
            receiver.handle_bytes(&up.read(self.now), self.now);
        }
        receiver.handle_timeout(self.now);
        if receiver.is_ack_due() {
            receiver.acknowledge(self.store.stored, self.now);
        }
        loop {
            let longest = if self.rng.random_bool(0.2) { 600 } else { 10 };
            let until = self.now + Duration::from_millis(self.rng.random_range(0..longest));
            match receiver.poll_event() {
                Ok(Some(ReceiverEvent::Hello(_))) => {
                    let place = ResumePoint { received: fast.stored, ..place(self.store.stored) };
                    receiver.welcome(place, self.now);
                    lane.clear();
                    *end = self.store.stored;
                }
                Ok(Some(ReceiverEvent::Duplicate { .. })) => self.seen.repeats += 1,
                Ok(Some(ReceiverEvent::ResentBatch(batch))) => {
                    self.seen.resent += 1;
                    let skip = usize::try_from(end.since(batch.first())).unwrap();
                    *end = batch.end();
                    lane.push_back((ReceiverEvent::Batch { batch, skip }, until));
                }
                Ok(Some(ReceiverEvent::ResentGap(gap))) => {
                    self.seen.resent += 1;
                    assert_eq!(gap.first, *end);
                    *end = gap.end;
                    lane.push_back((ReceiverEvent::Gap(gap), until));
                }
                Ok(Some(event @ ReceiverEvent::Batch { .. }))
                    if self.written < SPOOL_ITEMS && self.rng.random_bool(0.03) =>
                {
                    // The connection breaks while the fast collectors have a part of the batch.
                    fast.deliver(&event, 1);
                    return false;
                }
                Ok(Some(event)) => {
                    let is_next = *end == fast.stored && lane.len() < LANE_MAX;
                    fast.deliver(&event, usize::MAX);
                    if is_next {
                        *end = fast.stored;
                        lane.push_back((event, until));
                    }
                    receiver.resume_reading(self.now);
                }
                Ok(None) => break,
                Err(SessionError::Silent(_)) if dead_since.is_some() => {
                    self.seen.silences += 1;
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
            fast.stored = fast.stored.max(*end);
        }
        if *end < fast.stored {
            receiver.acknowledge(self.store.stored, self.now);
            receiver.mark_received(fast.stored);
            if lane.is_empty() && !receiver.is_resend_pending() {
                receiver.request_resend(*end, self.rng.random_range(1..3000));
            }
        }
        down.write(receiver.outbox(), &mut self.rng, self.now);
        true
    }
}
