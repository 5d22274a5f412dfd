//! Asks the running service to take up its configuration, and says how that went.

use std::path::Path;

use crate::status::{ControlError, Request, request};

/// Asks the `service` whose control socket is at `control` to take up its configuration. What came of it, as a
/// sentence for whoever wrote the settings: they hold from the next start on, whatever it says.
pub fn take_up(service: &str, control: &Path) -> String {
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

/// Asks the service whose control socket is at `control` to take up its configuration. The errors of the caller are made by
/// `refused`, where the service stays as it was because something is wrong, and by `unavailable`.
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
