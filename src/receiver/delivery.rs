//! One batch on its way to every collector.
//!
//! A delivery can be left at any point and taken up again: each collector's progress is counted as the kernel
//! takes the datagrams, so none is repeated and none is passed over.

use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::Poll;
use std::sync::Arc;

use crate::batch::Records;
use crate::datagram::Datagram;
use crate::receiver::output::{Output, Outputs};

/// One batch on its way to every collector.
#[derive(Debug)]
pub(crate) struct Delivery {
    records: Records,
    legs: Vec<Leg>,
}

/// The way of the batch to one collector.
#[derive(Debug)]
struct Leg {
    output: Arc<Output>,
    /// How many datagrams of the batch it has.
    done: usize,
}

impl Delivery {
    /// A delivery of `records` to `outputs`, of which all have the first `skip` datagrams already.
    pub(crate) fn new(records: Records, skip: u64, outputs: &Outputs) -> Self {
        let done = usize::try_from(skip).unwrap_or(usize::MAX);
        let legs = outputs.iter().map(|output| Leg { output: output.clone(), done }).collect();
        Self { records, legs }
    }

    /// From now on the batch goes to `outputs`. Those that it went to before go on where they are; to others goes what
    /// was not with every collector yet.
    pub(crate) fn change(&mut self, outputs: &Outputs) {
        let delivered = self.with_all();
        let done = |output: &Arc<Output>| {
            let known = self.legs.iter().find(|leg| leg.output.address() == output.address());
            known.map_or(delivered, |leg| leg.done)
        };
        let legs = outputs.iter().map(|output| Leg { output: output.clone(), done: done(output) }).collect();
        self.legs = legs;
    }

    /// The collector at this address has the first `count` datagrams already.
    pub(crate) fn advance(&mut self, collector: SocketAddr, count: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.records.iter().count());
        for leg in self.legs.iter_mut().filter(|leg| leg.output.address() == collector) {
            leg.done = count.max(leg.done);
        }
    }

    /// Each collector, and how many datagrams from the front of the batch it has.
    pub(crate) fn progress(&self) -> impl Iterator<Item = (SocketAddr, u64)> {
        self.legs.iter().map(|leg| (leg.output.address(), u64::try_from(leg.done).unwrap_or(u64::MAX)))
    }

    /// Delivers what the collectors do not have yet. Returns once all have the whole batch; may be dropped before that
    /// and called again.
    pub(crate) async fn run(&mut self) {
        let datagrams: Vec<Datagram<'_>> = self.records.iter().collect();
        let legs = self.legs.iter_mut();
        let mut running: Vec<Pin<Box<_>>> =
            legs.map(|leg| Box::pin(leg.output.deliver(&datagrams, &mut leg.done))).collect();
        poll_fn(|context| {
            running.retain_mut(|delivery| delivery.as_mut().poll(context).is_pending());
            if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn with_all(&self) -> usize {
        self.legs.iter().map(|leg| leg.done).min().unwrap_or_default()
    }

    /// How many datagrams, from the front of the batch, every collector has.
    pub(crate) fn delivered(&self) -> u64 {
        u64::try_from(self.with_all()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
