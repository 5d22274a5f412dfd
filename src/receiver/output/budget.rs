//! The bound on exporter sockets, which keeps file descriptors free for senders.

use core::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bounds of exporter sockets: for each destination, and for all together. Destinations share the total
/// evenly.
#[derive(Debug)]
pub(crate) struct SocketBudget {
    each: NonZeroUsize,
    /// Lower bound of `total` after any number of reductions: an eighth of its first value.
    least: usize,
    total: AtomicUsize,
    destinations: AtomicUsize,
}

impl SocketBudget {
    pub(crate) fn new(each: NonZeroUsize, total: usize) -> Arc<Self> {
        let least = (total / 8).max(1);
        Arc::new(Self { each, least, total: AtomicUsize::new(total), destinations: AtomicUsize::new(0) })
    }

    /// Lowers the total bound to `total` if it is higher, but never below an eighth of its first value.
    /// Returns the new bound if it changed.
    pub(super) fn lower_to(&self, total: usize) -> Option<usize> {
        let total = total.max(self.least);
        (self.total.fetch_min(total, Ordering::Relaxed) > total).then_some(total)
    }
}

#[cfg(test)]
impl SocketBudget {
    /// Sixteen sockets for each destination, without a total bound.
    pub(crate) fn of_sixteen() -> Arc<Self> {
        Self::new(NonZeroUsize::new(16).expect("a number"), usize::MAX)
    }
}

/// The share of one destination, released when dropped.
#[derive(Debug)]
pub(super) struct SocketShare(Arc<SocketBudget>);

impl SocketShare {
    pub(super) fn within(budget: &Arc<SocketBudget>) -> Self {
        budget.destinations.fetch_add(1, Ordering::Relaxed);
        Self(budget.clone())
    }

    /// Returns the number of sockets that the destination may have now, at least one.
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
        let first = SocketShare::within(&budget);
        assert_eq!(first.sockets(), 8);
        let second = SocketShare::within(&budget);
        assert_eq!((first.sockets(), second.sockets()), (5, 5));
        drop(second);
        assert_eq!((budget.lower_to(3), budget.lower_to(7)), (Some(3), None));
        assert_eq!(first.sockets(), 3);
        assert_eq!(budget.lower_to(0), Some(1));
        assert_eq!(first.sockets(), 1);
    }

    #[test]
    fn an_eighth_of_the_sockets_is_left() {
        let budget = SocketBudget::new(NonZeroUsize::new(1024).unwrap(), 1024);
        assert_eq!((budget.lower_to(2), budget.lower_to(0)), (Some(128), None));
    }
}
