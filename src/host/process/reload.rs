//! The part of a reload that both daemons share.

use crate::host::DaemonError;
use crate::host::systemd::notify;

/// Runs `work`, which reads and applies the settings, and reports its begin and end to the service manager.
/// An error, after which everything is as before, is logged under `message_id`.
pub fn run_reload(
    message_id: &'static str,
    work: impl FnOnce() -> Result<(), DaemonError>,
) -> Result<(), DaemonError> {
    notify::reloading();
    let outcome = work();
    if let Err(error) = &outcome {
        tracing::error!(message_id, "not reloaded, everything stays as it was: {error}");
    }
    notify::ready();
    outcome
}

/// Warns that these settings changed, if any, and take effect only after a restart of `service`.
pub fn warn_restart_needed(service: &str, changed: &[&str]) {
    if !changed.is_empty() {
        let keys = changed.join(", ");
        let verb = if changed.len() == 1 { "takes" } else { "take" };
        tracing::warn!(keys, "{keys} changed: {verb} effect after systemctl restart {service}");
    }
}
