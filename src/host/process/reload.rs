//! What both daemons say of a reload.

/// Tells that these settings changed, if any, and that a reload cannot take them up.
pub fn needs_restart(changed: &[&str]) {
    if !changed.is_empty() {
        let keys = changed.join(", ");
        tracing::warn!(keys, "changed, but taken up by a restart only (systemctl restart): {keys}");
    }
}
