//! One batch on its way to every collector.
//!
//! A delivery can be left at any point and taken up again: each collector's progress is counted as the kernel
//! takes the datagrams, so none is repeated and none is passed over.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;

use crate::batch::Records;
use crate::datagram::Datagram;
use crate::receiver::output::Outputs;

/// One batch on its way to every collector.
#[derive(Debug)]
pub(crate) struct Delivery {
    records: Records,
    /// For each output, how many datagrams of the batch it has.
    done: Vec<usize>,
}

impl Delivery {
    /// A delivery of `records` to `outputs`, of which all have the first `skip` datagrams already.
    pub(crate) fn new(records: Records, skip: u64, outputs: &Outputs) -> Self {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        Self { records, done: vec![skip; outputs.iter().len()] }
    }

    /// The collector at `place` among the outputs has the first `count` datagrams already.
    pub(crate) fn advance(&mut self, place: usize, count: u64) {
        if let Some(done) = self.done.get_mut(place) {
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.records.iter().count());
            *done = count.max(*done);
        }
    }

    /// For each output in order, how many datagrams from the front of the batch it has.
    pub(crate) fn progress(&self) -> impl Iterator<Item = u64> {
        self.done.iter().map(|done| u64::try_from(*done).unwrap_or(u64::MAX))
    }

    /// Delivers what `outputs`, the same as at first, do not have yet. Returns once all have the whole batch; may
    /// be dropped before that and called again.
    pub(crate) async fn run(&mut self, outputs: &Outputs) {
        let datagrams: Vec<Datagram<'_>> = self.records.iter().collect();
        let mut running: Vec<Pin<Box<_>>> = outputs
            .iter()
            .zip(&mut self.done)
            .map(|(output, done)| Box::pin(output.deliver(&datagrams, done)))
            .collect();
        poll_fn(|context| {
            running.retain_mut(|delivery| delivery.as_mut().poll(context).is_pending());
            if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// How many datagrams, from the front of the batch, every collector has.
    pub(crate) fn delivered(&self) -> u64 {
        self.progress().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
