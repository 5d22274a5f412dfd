//! Asks the running service to apply its configuration, and reports the result.

use std::fs;
use std::path::{Path, PathBuf};

use crate::status::{ControlError, Request, request};

/// Asks the `service` at the socket `control` to apply the configuration `file`. The result is a sentence for the operator
/// who changed the file: whatever it says, the next start applies the change.
pub fn take_up(service: &str, control: &Path, file: &Path) -> String {
    if let Some(used) = configuration(control).filter(|used| !is_same(used, file)) {
        return format!(
            "the {service} that runs at {} uses {}, so it was not reloaded: {} applies to the service that is started \
             with it",
            control.display(),
            used.display(),
            file.display()
        );
    }
    match request(control, Request::Reload) {
        Ok(_) => format!("the running {service} has taken this up"),
        Err(ControlError::NotThere { .. } | ControlError::NobodyAnswers { .. }) => {
            format!("{service} is not running; it will take this up when it starts")
        }
        Err(error) => format!(
            "warning: the running {service} has not taken this up: {error}: \
             set that right and reload it (systemctl reload {service})"
        ),
    }
}

/// The configuration file of the service at `control`; `None` if nothing answers there, or an older version does.
fn configuration(control: &Path) -> Option<PathBuf> {
    Some(request(control, Request::Configuration).ok()?.as_str()?.into())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let resolve = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    resolve(one) == resolve(other)
}

/// Asks the service whose control socket is at `control` to apply its configuration. `refused` makes the error of a service
/// that stays as it was because something is wrong, `unavailable` all others.
pub fn reload<E>(
    control: &Path,
    refused: impl FnOnce(String) -> E,
    unavailable: impl FnOnce(ControlError) -> E,
) -> Result<(), E> {
    match request(control, Request::Reload) {
        Ok(_) => Ok(()),
        Err(ControlError::Refused(reason)) => Err(refused(format!("not reloaded: {reason}"))),
        Err(error) => Err(unavailable(error)),
    }
}
