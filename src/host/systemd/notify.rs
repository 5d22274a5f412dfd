//! What the service manager is told (`sd_notify(3)`). Without `NOTIFY_SOCKET` nobody is told anything; that a message did
//! not get through is logged once, and changes nothing else.

use core::future::Future;
use core::pin::pin;
use std::sync::Once;

use sd_notify::NotifyState;
use tokio::time::{Duration, Instant, sleep};

use crate::limits::{EXTENSION, EXTENSIONS_MAX};

static COMPLAINT: Once = Once::new();

/// The service has its sockets and its data, and works; also, that a reload is over.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The service is about to take up changed settings; [`ready`] says when that is over.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the system's monotonic clock cannot be read: {error}"),
    }
}

/// The service is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// Every loop of the service goes round.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// Waits for a start or a stop that may take longer than the service manager's patience, and asks for more time
/// meanwhile, up to a limit.
pub async fn with_patience<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let begun = Instant::now();
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            () = sleep(EXTENSION / 3) => {}
        }
        if begun.elapsed() < EXTENSIONS_MAX {
            send(&[NotifyState::ExtendTimeoutUsec(microseconds(EXTENSION))]);
        }
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        COMPLAINT.call_once(
            || tracing::warn!(%error, "the service manager at NOTIFY_SOCKET cannot be told anything: {error}"),
        );
    }
}
