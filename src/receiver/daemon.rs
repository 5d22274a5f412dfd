//! The daemon itself.

use crate::config::ReceiverSettings;
use crate::service::DaemonError;

/// Runs nf-receiver until it is told to stop.
#[expect(clippy::needless_pass_by_value, reason = "the daemon owns its settings")]
pub(crate) fn run(settings: ReceiverSettings) -> Result<(), DaemonError> {
    Err(DaemonError::system(format_args!("{} cannot run yet", settings.state.display())))
}
