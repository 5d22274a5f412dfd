//! Delivery of one stream to all collectors.
//!
//! Pending batches are in two lanes, one for the collectors set to hold and one for those set to skip. A
//! batch stays until all collectors of its lane have it. Where both kinds exist, the fastest collector sets
//! the pace. If a lane is full:
//! - the collectors set to skip that are behind skip the oldest batches;
//! - those set to hold get no more for now. The sender keeps the datagrams that they lack, and sends them
//!   again once there is room.
//!
//! A delivery is cancel safe: each collector's progress is counted as the kernel accepts datagrams, so a
//! cancelled delivery that resumes neither repeats nor skips any.

pub(crate) mod collector_offsets;
pub(crate) mod denied;
mod lane;
mod memory;
mod pending_batch;
pub(crate) mod unmatched;

use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nf_transport_core::limits::{BATCH_BODY_MAX, LANE_MAX};
use nf_transport_core::sequence::{Position, SenderId};

use crate::config::WhenDown;
use crate::receiver::delivery::lane::{CollectorCursor, Lane};
pub(crate) use crate::receiver::delivery::memory::LaneMemory;
use crate::receiver::delivery::memory::StreamMemory;
pub(crate) use crate::receiver::delivery::pending_batch::{Loss, LossCause, PendingBatch, Settled};
use crate::receiver::output::{DeliveryProgress, ExporterFilter, Output, OutputName, Outputs};

/// Delivery of one stream to all collectors.
#[derive(Debug)]
pub(crate) struct Delivery {
    sender: SenderId,
    holding: Lane,
    skipping: Lane,
    /// Everything below was received; `holding.end <= received_up_to`, `skipping.end == received_up_to`.
    received_up_to: Position,
    /// Result for datagrams that no collector gets, since the last [`Self::take_settled`].
    uncollected: Settled,
    memory: StreamMemory,
}

impl Delivery {
    /// Returns a delivery of a stream of `sender` to `outputs`. All collectors have the datagrams below
    /// `position`, and those set to skip have those below `further`. Single ones may have more, as `offsets`
    /// lists.
    pub(crate) fn new(
        sender: SenderId,
        position: Position,
        further: Option<Position>,
        outputs: &Outputs,
        offsets: &HashMap<OutputName, Position>,
    ) -> Self {
        let (holding, skipping) = (Lane::default(), Lane::default());
        let memory = StreamMemory::within(outputs.lane_memory());
        let untaken = Settled::default();
        let mut delivery =
            Self { sender, holding, skipping, received_up_to: position, uncollected: untaken, memory };
        delivery.change(outputs);
        for leg in &mut delivery.skipping.cursors {
            leg.progress.position = leg.progress.position.max(further.unwrap_or_default());
        }
        for leg in delivery.cursors_mut() {
            let more = offsets.get(leg.output.name()).copied().unwrap_or_default();
            leg.progress.position = leg.progress.position.max(more);
        }
        delivery.resume(position);
        delivery
    }

    /// Resumes after [`Self::suspend`] at `position`, which is at least [`Self::position`]. The next batch
    /// begins at or below [`Self::received_up_to`].
    pub(crate) fn resume(&mut self, position: Position) {
        for leg in self.cursors_mut() {
            leg.progress.position = leg.progress.position.max(position);
        }
        self.holding.end = position;
        self.received_up_to =
            self.skipping.position().filter(|_| !self.holding.cursors.is_empty()).unwrap_or(position);
        self.skipping.end = self.received_up_to;
    }

    /// Returns the position below which everything was received. Collectors set to hold may still lack some
    /// of it.
    pub(crate) fn received_up_to(&self) -> Position {
        self.received_up_to
    }

    /// Returns the position below which everything was received, or delivered to at least one collector.
    pub(crate) fn highest_position(&self) -> Position {
        self.progress().map(|(_, position)| position).fold(self.received_up_to, Position::max)
    }

    /// Returns whether collectors set to hold lack datagrams that are no longer queued here.
    pub(crate) fn is_behind(&self) -> bool {
        self.holding.end < self.received_up_to && !self.holding.cursors.is_empty()
    }

    /// Returns the position and the number of bytes that the sender should send again, if there is room for
    /// them.
    pub(crate) fn wanted_resend(&self) -> Option<(Position, u32)> {
        let most = if self.memory.is_spent() { BATCH_BODY_MAX } else { LANE_MAX };
        let room = most.saturating_sub(self.holding.bytes);
        let wants = self.is_behind() && room > most / 2;
        wants.then(|| (self.holding.end, u32::try_from(room).unwrap_or(u32::MAX)))
    }

    /// Queues a batch that the sender sent again.
    pub(crate) fn push_resent(&mut self, mut batch: PendingBatch) {
        if batch.first <= self.holding.end && batch.end > self.holding.end {
            batch.first_new = batch.first_new.max(self.holding.end);
            self.holding.push(Arc::new(batch));
            self.note_memory();
        }
    }

    /// Returns the position of all collectors set to skip, if it is ahead of those set to hold.
    pub(crate) fn skip_position(&self) -> Option<Position> {
        let is_two = !self.holding.cursors.is_empty() && !self.skipping.cursors.is_empty();
        Some(self.skipping.settled()).filter(|further| is_two && *further > self.settled())
    }

    /// Drops the batches that not all collectors have: the sender will send them again. Returns the result
    /// for the datagrams that the collectors set to hold have.
    pub(crate) fn suspend(&mut self) -> Settled {
        let collected = self.collected();
        let (holding, skipping) = (self.holding.clear(&collected), self.skipping.clear(&collected));
        self.note_memory();
        self.with_uncollected(if self.holding.cursors.is_empty() { skipping } else { holding })
    }

    /// Changes the collectors to those of `outputs`. Existing ones keep their positions. New ones start at
    /// the position that all collectors had.
    pub(crate) fn change(&mut self, outputs: &Outputs) {
        let begin = self.position();
        let (batches, bytes) = if !self.skipping.cursors.is_empty() {
            (self.skipping.batches.clone(), self.skipping.bytes)
        } else if self.is_behind() {
            // The datagrams between these batches and `received_up_to` are no longer queued.
            (VecDeque::new(), 0)
        } else {
            (self.holding.batches.clone(), self.holding.bytes)
        };
        let had_holding = !self.holding.cursors.is_empty();
        let known: Vec<CollectorCursor> =
            self.holding.cursors.drain(..).chain(self.skipping.cursors.drain(..)).collect();
        let hindmost = known.iter().min_by_key(|leg| leg.progress.position);
        let model = hindmost.map(|leg| leg.learner.clone());
        let known: HashMap<OutputName, DeliveryProgress> =
            known.into_iter().map(|leg| (leg.output.name().clone(), leg.progress)).collect();
        let own: Vec<&Arc<Output>> = outputs.of_sender(&self.sender).collect();
        let names: Vec<OutputName> = own.iter().map(|output| output.name().clone()).collect();
        let learners = outputs.templates().of_sender(&self.sender, names, model.as_deref());
        for (output, learner) in own.into_iter().zip(learners) {
            let progress = known.get(output.name()).cloned().unwrap_or_else(|| DeliveryProgress::at(begin));
            let lane = match output.when_down() {
                WhenDown::Hold => &mut self.holding,
                WhenDown::Skip => &mut self.skipping,
            };
            lane.cursors.push(CollectorCursor { output: output.clone(), progress, learner });
        }
        if !had_holding {
            (self.holding.batches, self.holding.bytes, self.holding.end) =
                (batches.clone(), bytes, self.received_up_to);
        }
        (self.skipping.batches, self.skipping.bytes) = (batches, bytes);
        self.skip_to_oldest(&known);
        self.note_memory();
    }

    /// Moves collectors set to skip past datagrams that only the sender still has. They copy the templates of
    /// a collector that has reached that position.
    fn skip_to_oldest(&mut self, known: &HashMap<OutputName, DeliveryProgress>) {
        let oldest = self.skipping.settled();
        let further = self.skipping.cursors.iter().find(|leg| leg.progress.position >= oldest);
        let model = further.map(|leg| leg.learner.clone());
        for leg in &mut self.skipping.cursors {
            let position = leg.progress.position;
            if position >= oldest {
                continue;
            }
            if known.contains_key(leg.output.name()) {
                leg.output.count_skipped(oldest.since(position));
            }
            if let Some(model) = &model {
                leg.learner.copy(model);
            }
            leg.progress.position = oldest;
        }
    }

    /// Queues the next batch of the stream.
    pub(crate) fn push(&mut self, batch: PendingBatch) {
        if self.cursors().next().is_none() {
            self.uncollected.add(batch.settled_below(batch.end, &self.collected()));
        }
        let batch = Arc::new(batch);
        if !self.is_behind() && (self.holding.has_room(&self.memory) || self.skipping.cursors.is_empty()) {
            self.holding.push(batch.clone());
        }
        self.received_up_to = batch.end;
        self.skipping.make_room(&self.memory);
        self.skipping.push(batch);
        self.note_memory();
    }

    fn note_memory(&mut self) {
        self.memory.set(self.holding.bytes + self.skipping.bytes);
    }

    /// Returns whether the next batch may be received. A collector that has everything sets the pace, if it
    /// was sent datagrams that others still lack. One that is down, or gets none of these datagrams, does
    /// not.
    pub(crate) fn may_take_more(&self) -> bool {
        if self.skipping.cursors.is_empty() {
            return self.holding.batches.is_empty();
        }
        let lacking = self.skipping.settled();
        let is_first = |leg: &CollectorCursor| {
            leg.progress.position >= self.received_up_to && leg.progress.sent > lacking
        };
        self.skipping.has_room(&self.memory) || self.cursors().any(is_first)
    }

    /// Returns whether a collector lacks queued datagrams.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.holding.batches.is_empty() || !self.skipping.batches.is_empty()
    }

    /// Delivers queued batches. Returns once one collector has everything or, if all are set to hold, once
    /// all have everything. Cancel safe.
    pub(crate) async fn run(&mut self) {
        let needs_all = self.skipping.cursors.is_empty();
        let Self { holding, skipping, .. } = self;
        let mut running: Vec<Pin<Box<_>>> = Vec::new();
        for lane in [holding, skipping] {
            let Lane { cursors, batches, .. } = lane;
            let end = batches.back().map_or(Position::default(), |batch| batch.end);
            let waiting = cursors.iter_mut().filter(|leg| leg.progress.position < end);
            running.extend(waiting.map(|leg| Box::pin(leg.run(batches))));
        }
        poll_fn(|context| {
            let before = running.len();
            running.retain_mut(|leg| leg.as_mut().poll(context).is_pending());
            let is_done = if needs_all { running.is_empty() } else { running.len() < before };
            if is_done || running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Returns the result for datagrams that all collectors set to hold have got since the last call. Without
    /// such collectors, those set to skip count.
    pub(crate) fn take_settled(&mut self) -> Settled {
        let collected = self.collected();
        let (holding, skipping) =
            (self.holding.remove_delivered(&collected), self.skipping.remove_delivered(&collected));
        self.note_memory();
        self.with_uncollected(if self.holding.cursors.is_empty() { skipping } else { holding })
    }

    /// Returns the exporters whose datagrams at least one of the collectors gets.
    fn collected(&self) -> ExporterFilter {
        ExporterFilter::of(self.cursors().map(|leg| &leg.output))
    }

    fn with_uncollected(&mut self, mut settled: Settled) -> Settled {
        settled.add(core::mem::take(&mut self.uncollected));
        settled
    }

    /// Returns the position below which every collector set to hold has the stream. If there is none, it is
    /// the position that all collectors have, or skipped to.
    pub(crate) fn position(&self) -> Position {
        self.holding.position().or(self.skipping.position()).unwrap_or(self.received_up_to)
    }

    /// Returns the end of the last whole batch below [`Self::position`].
    pub(crate) fn settled(&self) -> Position {
        let lane = if self.holding.cursors.is_empty() { &self.skipping } else { &self.holding };
        lane.settled()
    }

    /// Returns whether all collectors have the same position.
    pub(crate) fn is_even(&self) -> bool {
        let position = self.position();
        self.cursors().all(|leg| leg.progress.position == position)
    }

    /// Iterates over the collectors and their positions.
    pub(crate) fn progress(&self) -> impl Iterator<Item = (&OutputName, Position)> {
        self.cursors().map(|leg| (leg.output.name(), leg.progress.position))
    }

    fn cursors(&self) -> impl Iterator<Item = &CollectorCursor> + Clone {
        self.holding.cursors.iter().chain(&self.skipping.cursors)
    }

    fn cursors_mut(&mut self) -> impl Iterator<Item = &mut CollectorCursor> {
        self.holding.cursors.iter_mut().chain(&mut self.skipping.cursors)
    }
}

#[cfg(test)]
mod tests;
