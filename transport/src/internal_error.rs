//! Counter for impossible states.
//!
//! In debug builds they end the program. In release builds the program continues and counts them, and the
//! daemon logs them: a bug must not become a silent loss.

use core::fmt;
use core::panic::Location;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

static COUNT: AtomicU64 = AtomicU64::new(0);
static LATEST: Mutex<Option<InternalError>> = Mutex::new(None);

/// An impossible state and its location in the code.
#[derive(Clone, Copy, Debug)]
pub struct InternalError {
    description: &'static str,
    location: &'static Location<'static>,
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.description, self.location.file(), self.location.line())
    }
}

/// Counts an impossible state. `description` names it in a few words, without the content of a datagram.
#[track_caller]
pub fn note_internal_error(description: &'static str) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let error = InternalError { description, location: Location::caller() };
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    #[cfg(any(test, feature = "testing"))]
    if expected::count() {
        return;
    }
    debug_assert!(false, "internal error: {error}");
}

/// Number of internal errors since the start of the process.
pub fn internal_errors() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Latest internal error of the process.
pub fn latest_internal_error() -> Option<InternalError> {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(any(test, feature = "testing"))]
pub use expected::expecting_internal_errors;

/// Internal errors that a test provokes.
#[cfg(any(test, feature = "testing"))]
mod expected {
    use core::cell::Cell;

    thread_local! {
            /// Internal errors of this thread while it expects some; `None` while it expects none.
        static EXPECTED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Counts an internal error of this thread. Returns true if it is expected.
    pub(super) fn count() -> bool {
        let count = EXPECTED.get();
        EXPECTED.set(count.map(|count| count + 1));
        count.is_some()
    }

    /// Runs `act`, whose internal errors do not end the program. Returns its value and their number.
    pub fn expecting_internal_errors<T>(act: impl FnOnce() -> T) -> (T, u64) {
        EXPECTED.set(Some(0));
        let outcome = act();
        (outcome, EXPECTED.take().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_error_is_counted_with_location() {
        let before = internal_errors();
        let ((), count) = expecting_internal_errors(|| note_internal_error("a test asked for it"));
        assert_eq!(count, 1);
        assert!(internal_errors() > before);
        let latest = latest_internal_error().unwrap().to_string();
        assert!(latest.starts_with("a test asked for it (transport/src/internal_error.rs:"), "{latest}");
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "internal error: nobody expects it")]
    fn an_internal_error_ends_a_debug_build() {
        note_internal_error("nobody expects it");
    }
}
