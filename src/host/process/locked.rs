//! One way to lock a mutex in the daemons.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. Poisoning is ignored: a daemon aborts on a panic in any thread
/// ([`crate::host::abort_on_panic`]), so no thread ever sees data that a panic left half changed.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
