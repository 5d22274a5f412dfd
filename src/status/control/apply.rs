//! Asks the running service to apply its configuration, and reports the result.

use std::fs;
use std::path::{Path, PathBuf};

use crate::status::{ControlError, Request, request};

/// Requests the `service` at the socket `control` to apply the configuration `file`. Returns the result as a
/// sentence for the operator who changed the file. Even after a failure, the next start applies the change.
pub fn apply_configuration(service: &str, control: &Path, file: &Path) -> String {
    if let Some(used) = configuration(control).filter(|used| !is_same(used, file)) {
        return format!(
            "the {service} at {} uses {}, so it was not reloaded: {} takes effect at the next start of its \
             own service",
            control.display(),
            used.display(),
            file.display()
        );
    }
    match request(control, Request::Reload) {
        Ok(_) => format!("the running {service} has applied this"),
        Err(ControlError::Missing { .. } | ControlError::NotListening { .. }) => {
            format!("{service} is not running; it applies this at its next start")
        }
        Err(error) => format!(
            "warning: the running {service} has not applied this: {error}: \
             correct the cause and reload it (systemctl reload {service})"
        ),
    }
}

/// Returns the configuration file of the service at `control`; `None` if it does not answer, or is of an
/// older version.
fn configuration(control: &Path) -> Option<PathBuf> {
    Some(request(control, Request::Configuration).ok()?.as_str()?.into())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let resolve = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    resolve(one) == resolve(other)
}

/// Requests the service whose control socket is at `control` to apply its configuration. `rejected` converts
/// the error of a service that rejects the configuration and keeps the previous one, `unavailable` all
/// others.
pub fn reload<E>(
    control: &Path,
    rejected: impl FnOnce(String) -> E,
    unavailable: impl FnOnce(ControlError) -> E,
) -> Result<(), E> {
    match request(control, Request::Reload) {
        Ok(_) => Ok(()),
        Err(ControlError::Rejected(reason)) => Err(rejected(format!("not reloaded: {reason}"))),
        Err(error) => Err(unavailable(error)),
    }
}
