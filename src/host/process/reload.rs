//! Log lines about a reload, common to both daemons.

/// Warns that these settings changed, if any, and take effect only after a restart of `service`.
pub fn warn_restart_needed(service: &str, changed: &[&str]) {
    if !changed.is_empty() {
        let keys = changed.join(", ");
        let verb = if changed.len() == 1 { "takes" } else { "take" };
        tracing::warn!(keys, "{keys} changed: {verb} effect after systemctl restart {service}");
    }
}
