//! Notifications to the service manager (`sd_notify(3)`). Without `NOTIFY_SOCKET` they do nothing. The first
//! failure is logged and has no other effect.

use core::future::Future;
use core::pin::pin;
use std::sync::Once;

use sd_notify::NotifyState;
use tokio::time::{Duration, Instant, sleep};

use crate::limits::{EXTENSION, EXTENSIONS_MAX};

static FAILURE_LOGGED: Once = Once::new();

/// Reports that the service has its sockets and data, or that a reload is complete.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Reports the begin of a reload. [`ready`] reports its end.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock: {error}"),
    }
}

/// Reports that the service stops.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Reports one line for `systemctl status`.
pub fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// Feeds the watchdog.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// Waits for a slow start or stop, and requests more time from the service manager meanwhile, up to a limit.
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
        FAILURE_LOGGED.call_once(
            || tracing::warn!(%error, "cannot notify the service manager at NOTIFY_SOCKET: {error}"),
        );
    }
}
