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
        let least = self.done.iter().min().copied().unwrap_or_default();
        u64::try_from(least).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
