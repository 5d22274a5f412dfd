//! One way to lock a mutex in the daemons, and to wait on its condition variable.
//!
//! Poisoning is ignored: a daemon aborts on a panic in any thread ([`crate::host::abort_on_panic`]), so no
//! thread ever sees data that a panic left half changed.
#![expect(clippy::disallowed_types, reason = "all handling of poisoning is here")]

use core::time::Duration;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks `mutex`.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `changed` is notified, or spuriously: the caller checks its condition again.
pub fn wait_on<'guard, T>(changed: &Condvar, guard: MutexGuard<'guard, T>) -> MutexGuard<'guard, T> {
    changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Like [`wait_on`], at most for `patience`.
pub fn wait_on_for<'guard, T>(
    changed: &Condvar,
    guard: MutexGuard<'guard, T>,
    patience: Duration,
) -> MutexGuard<'guard, T> {
    changed.wait_timeout(guard, patience).unwrap_or_else(PoisonError::into_inner).0
}
