//! How many sockets for exporters the destinations may have, so that files are left for senders.

use core::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bounds of sockets for exporters: of each destination, and of all together, which share theirs evenly.
#[derive(Debug)]
pub(crate) struct SocketBudget {
    each: NonZeroUsize,
    total: AtomicUsize,
    destinations: AtomicUsize,
}

impl SocketBudget {
    pub(crate) fn new(each: NonZeroUsize, total: usize) -> Arc<Self> {
        Arc::new(Self { each, total: AtomicUsize::new(total), destinations: AtomicUsize::new(0) })
    }

    /// Lowers the bound of all together to `total`, if it is higher.
    pub(super) fn lower_to(&self, total: usize) {
        self.total.fetch_min(total, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl SocketBudget {
    /// Sixteen sockets for each destination, however many there are.
    pub(crate) fn of_sixteen() -> Arc<Self> {
        Self::new(NonZeroUsize::new(16).expect("a number"), usize::MAX)
    }
}

/// The share of one destination: others get it once this is dropped.
#[derive(Debug)]
pub(super) struct SocketShare(Arc<SocketBudget>);

impl SocketShare {
    pub(super) fn of(budget: &Arc<SocketBudget>) -> Self {
        budget.destinations.fetch_add(1, Ordering::Relaxed);
        Self(budget.clone())
    }

    /// How many sockets the destination may have now: at least one.
    pub(super) fn sockets(&self) -> usize {
        let destinations = self.0.destinations.load(Ordering::Relaxed).max(1);
        (self.0.total.load(Ordering::Relaxed) / destinations).clamp(1, self.0.each.get())
    }
}

impl Drop for SocketShare {
    fn drop(&mut self) {
        self.0.destinations.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_share_the_bound_evenly() {
        let budget = SocketBudget::new(NonZeroUsize::new(8).unwrap(), 10);
        let first = SocketShare::of(&budget);
        assert_eq!(first.sockets(), 8);
        let second = SocketShare::of(&budget);
        assert_eq!((first.sockets(), second.sockets()), (5, 5));
        drop(second);
        budget.lower_to(3);
        budget.lower_to(7);
        assert_eq!(first.sockets(), 3);
        budget.lower_to(0);
        assert_eq!(first.sockets(), 1);
    }
}
