//! Starts the thread that reads or rewrites a segment, and applies its outcome.

use std::io;
use std::sync::atomic::AtomicBool;

use nf_transport_core::sequence::Position;
use nf_transport_core::spool::disk::Directory;
use nf_transport_core::spool::{Candidate, Spool};

use super::choice::SegmentChoice;
use super::worker::{SegmentContent, SegmentWork, WorkOutcome, read_shares, thin};
use super::{FairShare, LEARN_EVERY, Prepared, shape};

impl FairShare {
    pub(super) fn start_learning(&mut self, spool: &Spool<Directory>, in_flight: Position) -> bool {
        let unknown = spool.candidates(in_flight).find(|segment| self.is_unknown(segment.first));
        self.has_learned = unknown.is_some();
        self.learn_at = self.now + LEARN_EVERY;
        let Some(segment) = unknown else { return false };
        let reader = match spool.reader(segment.first, false) {
            Ok(Some(reader)) => reader,
            Ok(None) => return false,
            Err(error) => {
                self.retry_later(segment, &error);
                return false;
            }
        };
        let queue = self.queue.clone();
        self.start(segment, false, move |is_abandoned| {
            WorkOutcome::Learned(read_shares(&queue, reader, is_abandoned))
        })
    }

    pub(super) fn start_thinning(&mut self, spool: &mut Spool<Directory>, in_flight: Position) -> bool {
        let shape = shape(spool, in_flight);
        if self.is_idle(shape) {
            return false;
        }
        let choice = self.choose(spool, in_flight);
        let Some(SegmentChoice { segment, budgets: Some(budgets) }) = choice else {
            // A whole segment needs no preparation: it is dropped when the room is needed.
            self.idle_at = choice.is_none().then_some((shape, self.now + LEARN_EVERY));
            return false;
        };
        if !spool.may_take(segment.size) {
            self.idle_at = Some((shape, self.now + LEARN_EVERY));
            return false;
        }
        match spool.start_thinning(segment, in_flight) {
            Ok(Some(job)) => {
                let (queue, flows) = (self.queue.clone(), self.flows.clone());
                self.start(segment, true, move |is_abandoned| {
                    WorkOutcome::Thinned(thin(&queue, &flows, job, segment, budgets, is_abandoned))
                })
            }
            Ok(None) => false,
            Err(error) => {
                spool.abandon_thinning();
                self.retry_later(segment, &error);
                false
            }
        }
    }

    fn start(
        &mut self,
        segment: Candidate,
        is_thinning: bool,
        act: impl FnOnce(&AtomicBool) -> WorkOutcome + Send + 'static,
    ) -> bool {
        #[cfg(test)]
        let gate = self.gate.clone();
        let work = SegmentWork::start(segment, is_thinning, move |is_abandoned| {
            #[cfg(test)]
            drop(gate.lock());
            act(is_abandoned)
        });
        match work {
            Ok(work) => self.work = Some(work),
            Err(error) => self.retry_later(segment, &error),
        }
        self.work.is_some()
    }

    /// Applies the outcome of the thread if it has ended. Abandons a thread whose segment is no candidate any
    /// more, for example because it was acknowledged.
    pub(super) fn end_work(&mut self, spool: &mut Spool<Directory>, in_flight: Position) {
        let Some(work) = &self.work else { return };
        if !spool.is_candidate(work.segment, in_flight) {
            work.abandon();
        }
        if !work.is_finished() {
            return;
        }
        let Some(work) = self.work.take() else { return };
        let (segment, is_thinning) = (work.segment, work.is_thinning);
        let is_there = spool.is_candidate(segment, in_flight);
        let outcome = work.join();
        if let Ok(WorkOutcome::Thinned(Ok(Some((written, lost))))) = outcome {
            self.prepared = Some(Prepared { segment, written, lost });
            return;
        }
        if is_thinning {
            spool.abandon_thinning();
        }
        match outcome {
            _ if !is_there => {}
            Ok(WorkOutcome::Learned(Ok(SegmentContent::Shares(shares)))) => {
                self.holdings.set(segment.first, shares);
                self.idle_at = None;
                if self.is_unknown(segment.first) {
                    // The holdings have too many rows to add this segment.
                    self.exempt.add(segment.first, self.now);
                }
            }
            Ok(WorkOutcome::Learned(Ok(SegmentContent::Newer))) => self.exempt.add_newer(segment.first),
            Ok(WorkOutcome::Learned(Ok(SegmentContent::Damage)) | WorkOutcome::Thinned(Ok(_))) => {
                self.exempt.add_for_good(segment.first);
            }
            Ok(WorkOutcome::Learned(Err(error)) | WorkOutcome::Thinned(Err(error))) => {
                self.retry_later(segment, &error);
            }
            Err(_) => self.retry_later(segment, &io::Error::other("its thread has failed")),
        }
    }
}
