//! One stream on its way to every collector.
//!
//! Batches wait in two lanes, one for the collectors that are set to hold and one for those set to skip, until all of the
//! lane's collectors have them. Where there are collectors of both kinds, the one that is furthest sets the pace. One that is
//! set to skip and cannot follow is passed over as soon as its lane is full. Those that are set to hold and cannot follow get
//! no more then; what they lack stays with the sender, which sends it once more when they have room for it.
//!
//! A delivery can be left at any point and taken up again: each collector's progress is counted as the kernel takes the
//! datagrams, so none is repeated and none is passed over by that.

pub(crate) mod collector_offsets;
pub(crate) mod denied;
mod memory;
mod pending_batch;
pub(crate) mod unmatched;

use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::Poll;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nf_transport_core::datagram::Datagram;
use nf_transport_core::limits::{BATCH_BODY_MAX, LANE_MAX};
use nf_transport_core::sequence::{Position, SenderId};

use crate::config::WhenDown;
pub(crate) use crate::receiver::delivery::memory::LaneMemory;
use crate::receiver::delivery::memory::Part;
pub(crate) use crate::receiver::delivery::pending_batch::{Loss, LossCause, Parcel, Settled};
use crate::receiver::output::{Exporters, Output, Outputs, Progress};
use crate::receiver::state::templates::TemplateLearner;

/// The way of a stream to one collector.
#[derive(Debug)]
struct Leg {
    output: Arc<Output>,
    progress: Progress,
    /// Knows what the collector has seen of the sender's exporters up to there.
    learner: Arc<TemplateLearner>,
}

impl Leg {
    /// Delivers the first of `parcels` that the collector does not have as a whole.
    async fn run(&mut self, parcels: &VecDeque<Arc<Parcel>>) {
        let next = parcels.iter().find(|parcel| parcel.end > self.progress.position);
        let Some(parcel) = next else { return };
        for (first, datagrams) in parcel.runs_from(self.progress.position) {
            self.progress.position = first;
            self.output.deliver(&datagrams, &mut self.progress, &self.learner).await;
        }
        self.progress.position = parcel.end;
    }

    /// The collector does not get what it does not have of `parcel`.
    fn pass_over(&mut self, parcel: &Parcel) {
        if self.progress.position < parcel.end {
            let runs = parcel.runs_from(self.progress.position);
            let datagrams: Vec<Datagram<'_>> = runs.into_iter().flat_map(|(_, run)| run).collect();
            self.learner.learn(&datagrams, None);
            self.output.pass_over(&datagrams);
            self.progress.position = parcel.end;
        }
    }
}

/// The collectors of one kind, and the batches that not all of them have.
#[derive(Debug, Default)]
struct Lane {
    legs: Vec<Leg>,
    /// In the order of the stream, nothing between them left out.
    parcels: VecDeque<Arc<Parcel>>,
    /// Bytes of them all.
    bytes: usize,
    /// Everything below came this way.
    end: Position,
}

impl Lane {
    fn has_room(&self, memory: &Part) -> bool {
        self.parcels.is_empty() || (self.bytes < LANE_MAX && !memory.is_spent())
    }

    /// Up to where all of its collectors have the stream; `None` without any.
    fn position(&self) -> Option<Position> {
        self.legs.iter().map(|leg| leg.progress.position).min()
    }

    /// The next of the stream after `end`.
    fn push(&mut self, parcel: Arc<Parcel>) {
        self.end = parcel.end;
        if !self.legs.is_empty() {
            self.bytes += parcel.bytes();
            self.parcels.push_back(parcel);
        }
    }

    /// The end of the last whole batch that all of its collectors have.
    fn settled(&self) -> Position {
        self.parcels.front().map_or(self.end, |oldest| oldest.first)
    }

    /// Takes off the front what all of its collectors have.
    fn pop(&mut self) -> Option<Arc<Parcel>> {
        let position = self.position();
        let is_done = |parcel: &&Arc<Parcel>| position.is_none_or(|position| parcel.end <= position);
        self.parcels.front().filter(is_done)?;
        let parcel = self.parcels.pop_front()?;
        self.bytes -= parcel.bytes();
        Some(parcel)
    }

    /// Makes room for one more: those who are last are passed over with as much as that takes.
    fn make_room(&mut self, memory: &Part) {
        while !self.has_room(memory)
            && let Some(oldest) = self.parcels.front().cloned()
        {
            self.legs.iter_mut().for_each(|leg| leg.pass_over(&oldest));
            self.pop();
        }
    }

    /// Forgets all batches, and says what its collectors have of them.
    fn leave(&mut self, collected: &Exporters) -> Settled {
        let position = self.position().unwrap_or_default();
        self.bytes = 0;
        self.parcels.drain(..).map(|parcel| parcel.settled_below(position, collected)).collect()
    }

    /// Takes off the front what all of its collectors have, and says what that is.
    fn settle(&mut self, collected: &Exporters) -> Settled {
        core::iter::from_fn(|| self.pop()).map(|parcel| parcel.settled_below(parcel.end, collected)).collect()
    }
}

/// One stream on its way to every collector.
#[derive(Debug)]
pub(crate) struct Delivery {
    sender: SenderId,
    holding: Lane,
    skipping: Lane,
    /// Everything below came; `holding.end <= front`, `skipping.end == front`.
    front: Position,
    /// The result for datagrams that no collector gets, since the last [`Self::settle`].
    untaken: Settled,
    memory: Part,
}

impl Delivery {
    /// A delivery of a stream of `sender` to `outputs`, which all have everything below `position`; those that are not waited
    /// for have everything below `further`, and some have more, as `ahead` tells.
    pub(crate) fn new(
        sender: SenderId,
        position: Position,
        further: Option<Position>,
        outputs: &Outputs,
        ahead: &HashMap<SocketAddr, Position>,
    ) -> Self {
        let (holding, skipping) = (Lane::default(), Lane::default());
        let memory = Part::of(outputs.lane_memory());
        let untaken = Settled::default();
        let mut delivery = Self { sender, holding, skipping, front: position, untaken, memory };
        delivery.change(outputs);
        for leg in &mut delivery.skipping.legs {
            leg.progress.position = leg.progress.position.max(further.unwrap_or_default());
        }
        for leg in delivery.legs_mut() {
            let more = ahead.get(&leg.output.address()).copied().unwrap_or_default();
            leg.progress.position = leg.progress.position.max(more);
        }
        delivery.resume(position);
        delivery
    }

    /// After [`Self::leave`], there is nothing below `position`, which is at least [`Self::position`]. Everything that comes
    /// next begins at the front, or before it.
    pub(crate) fn resume(&mut self, position: Position) {
        for leg in self.legs_mut() {
            leg.progress.position = leg.progress.position.max(position);
        }
        self.holding.end = position;
        self.front = self.skipping.position().filter(|_| !self.holding.legs.is_empty()).unwrap_or(position);
        self.skipping.end = self.front;
    }

    /// Everything below came, though not all of it is with those that are waited for.
    pub(crate) fn front(&self) -> Position {
        self.front
    }

    /// Everything below has come, or is with at least one collector.
    pub(crate) fn furthest(&self) -> Position {
        self.progress().map(|(_, position)| position).fold(self.front, Position::max)
    }

    /// Whether those that are waited for lack something that has gone by; `false` if it is still here.
    pub(crate) fn is_behind(&self) -> bool {
        self.holding.end < self.front && !self.holding.legs.is_empty()
    }

    /// What is wanted once more, now that there is room for it: from where on, and how many bytes.
    pub(crate) fn wants_again(&self) -> Option<(Position, u32)> {
        let most = if self.memory.is_spent() { BATCH_BODY_MAX } else { LANE_MAX };
        let room = most.saturating_sub(self.holding.bytes);
        let wants = self.is_behind() && room > most / 2;
        wants.then(|| (self.holding.end, u32::try_from(room).unwrap_or(u32::MAX)))
    }

    /// What was wanted once more.
    pub(crate) fn push_again(&mut self, mut parcel: Parcel) {
        if parcel.first <= self.holding.end && parcel.end > self.holding.end {
            parcel.news = parcel.news.max(self.holding.end);
            self.holding.push(Arc::new(parcel));
            self.note_memory();
        }
    }

    /// Up to where all of those have the stream that are not waited for, if that is further than those that are.
    pub(crate) fn further(&self) -> Option<Position> {
        let is_two = !self.holding.legs.is_empty() && !self.skipping.legs.is_empty();
        Some(self.skipping.settled()).filter(|further| is_two && *further > self.settled())
    }

    /// Forgets what came and is not with all collectors: it will come again. Says what those that are waited for have of it.
    pub(crate) fn leave(&mut self) -> Settled {
        let collected = self.collected();
        let (holding, skipping) = (self.holding.leave(&collected), self.skipping.leave(&collected));
        self.note_memory();
        self.with_untaken(if self.holding.legs.is_empty() { skipping } else { holding })
    }

    /// From now on the stream goes to `outputs`. Those that it went to before go on where they are; to others goes what
    /// was not with every collector yet.
    pub(crate) fn change(&mut self, outputs: &Outputs) {
        let begin = self.position();
        let (parcels, bytes) = if !self.skipping.legs.is_empty() {
            (self.skipping.parcels.clone(), self.skipping.bytes)
        } else if self.is_behind() {
            // What lies between these and the front has gone by.
            (VecDeque::new(), 0)
        } else {
            (self.holding.parcels.clone(), self.holding.bytes)
        };
        let had_holding = !self.holding.legs.is_empty();
        let known: Vec<Leg> = self.holding.legs.drain(..).chain(self.skipping.legs.drain(..)).collect();
        let hindmost = known.iter().min_by_key(|leg| leg.progress.position);
        let model = hindmost.map(|leg| leg.learner.clone());
        let known: HashMap<SocketAddr, Progress> =
            known.into_iter().map(|leg| (leg.output.address(), leg.progress)).collect();
        let own: Vec<&Arc<Output>> = outputs.of_sender(&self.sender).collect();
        let addresses: Vec<SocketAddr> = own.iter().map(|output| output.address()).collect();
        let learners = outputs.templates().of_sender(&self.sender, addresses, model.as_deref());
        for (output, learner) in own.into_iter().zip(learners) {
            let progress = known.get(&output.address()).cloned().unwrap_or_else(|| Progress::at(begin));
            let lane = match output.when_down() {
                WhenDown::Hold => &mut self.holding,
                WhenDown::Skip => &mut self.skipping,
            };
            lane.legs.push(Leg { output: output.clone(), progress, learner });
        }
        if !had_holding {
            (self.holding.parcels, self.holding.bytes, self.holding.end) =
                (parcels.clone(), bytes, self.front);
        }
        (self.skipping.parcels, self.skipping.bytes) = (parcels, bytes);
        self.skip_to_oldest(&known);
        self.note_memory();
    }

    /// What has gone by is only with the sender: collectors that are not waited for go without it. They know what another
    /// one has seen of templates that has come as far.
    fn skip_to_oldest(&mut self, known: &HashMap<SocketAddr, Progress>) {
        let oldest = self.skipping.settled();
        let further = self.skipping.legs.iter().find(|leg| leg.progress.position >= oldest);
        let model = further.map(|leg| leg.learner.clone());
        for leg in &mut self.skipping.legs {
            let position = leg.progress.position;
            if position >= oldest {
                continue;
            }
            if known.contains_key(&leg.output.address()) {
                leg.output.count_skipped(oldest.since(position));
            }
            if let Some(model) = &model {
                leg.learner.copy(model);
            }
            leg.progress.position = oldest;
        }
    }

    /// The next of the stream.
    pub(crate) fn push(&mut self, parcel: Parcel) {
        if self.legs().next().is_none() {
            self.untaken.add(parcel.settled_below(parcel.end, &self.collected()));
        }
        let parcel = Arc::new(parcel);
        if !self.is_behind() && (self.holding.has_room(&self.memory) || self.skipping.legs.is_empty()) {
            self.holding.push(parcel.clone());
        }
        self.front = parcel.end;
        self.skipping.make_room(&self.memory);
        self.skipping.push(parcel);
        self.note_memory();
    }

    fn note_memory(&mut self) {
        self.memory.set(self.holding.bytes + self.skipping.bytes);
    }

    /// Whether the next of the stream may come. A collector that is done with everything sets the pace if it was sent
    /// something that others still lack: one that is down, or is to get nothing of all that, does not.
    pub(crate) fn may_take_more(&self) -> bool {
        if self.skipping.legs.is_empty() {
            return self.holding.parcels.is_empty();
        }
        let lacking = self.skipping.settled();
        let is_first = |leg: &Leg| leg.progress.position >= self.front && leg.progress.sent > lacking;
        self.skipping.has_room(&self.memory) || self.legs().any(is_first)
    }

    /// Whether there is something that a collector does not have.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.holding.parcels.is_empty() || !self.skipping.parcels.is_empty()
    }

    /// Delivers what the collectors do not have yet. Returns once one of them has everything or, where all are set to hold,
    /// all of them have; may be dropped before that and called again.
    pub(crate) async fn run(&mut self) {
        let needs_all = self.skipping.legs.is_empty();
        let Self { holding, skipping, .. } = self;
        let mut running: Vec<Pin<Box<_>>> = Vec::new();
        for lane in [holding, skipping] {
            let Lane { legs, parcels, .. } = lane;
            let end = parcels.back().map_or(Position::default(), |parcel| parcel.end);
            let waiting = legs.iter_mut().filter(|leg| leg.progress.position < end);
            running.extend(waiting.map(|leg| Box::pin(leg.run(parcels))));
        }
        poll_fn(|context| {
            let before = running.len();
            running.retain_mut(|leg| leg.as_mut().poll(context).is_pending());
            let is_done = if needs_all { running.is_empty() } else { running.len() < before };
            if is_done || running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What has reached all collectors that are waited for since the last call.
    pub(crate) fn settle(&mut self) -> Settled {
        let collected = self.collected();
        let (holding, skipping) = (self.holding.settle(&collected), self.skipping.settle(&collected));
        self.note_memory();
        self.with_untaken(if self.holding.legs.is_empty() { skipping } else { holding })
    }

    /// Exporters whose datagrams one of the collectors gets.
    fn collected(&self) -> Exporters {
        Exporters::of(self.legs().map(|leg| &leg.output))
    }

    fn with_untaken(&mut self, mut settled: Settled) -> Settled {
        settled.add(core::mem::take(&mut self.untaken));
        settled
    }

    /// Everything below is with every collector that is set to hold; where none is, with every one, or passed over.
    pub(crate) fn position(&self) -> Position {
        self.holding.position().or(self.skipping.position()).unwrap_or(self.front)
    }

    /// The end of the last whole batch below [`Self::position`].
    pub(crate) fn settled(&self) -> Position {
        let lane = if self.holding.legs.is_empty() { &self.skipping } else { &self.holding };
        lane.settled()
    }

    /// Whether every collector has as much of the stream.
    pub(crate) fn is_even(&self) -> bool {
        let position = self.position();
        self.legs().all(|leg| leg.progress.position == position)
    }

    /// Each collector, and up to where it has the stream.
    pub(crate) fn progress(&self) -> impl Iterator<Item = (SocketAddr, Position)> {
        self.legs().map(|leg| (leg.output.address(), leg.progress.position))
    }

    fn legs(&self) -> impl Iterator<Item = &Leg> + Clone {
        self.holding.legs.iter().chain(&self.skipping.legs)
    }

    fn legs_mut(&mut self) -> impl Iterator<Item = &mut Leg> {
        self.holding.legs.iter_mut().chain(&mut self.skipping.legs)
    }
}

#[cfg(test)]
mod tests;
