//! What the service manager is told. Without `NOTIFY_SOCKET` nobody is told anything; that a message did not
//! get through is logged once, and changes nothing else.

use std::sync::Once;

use sd_notify::NotifyState;

static COMPLAINT: Once = Once::new();

/// The service has its sockets and its data, and works.
pub fn ready() {
    send(&NotifyState::Ready);
}

/// The service is about to end.
pub fn stopping() {
    send(&NotifyState::Stopping);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    send(&NotifyState::Status(line));
}

fn send(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(core::slice::from_ref(state)) {
        COMPLAINT.call_once(
            || tracing::warn!(%error, "the service manager at NOTIFY_SOCKET cannot be told anything"),
        );
    }
}
