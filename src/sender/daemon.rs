//! The daemon itself.

use crate::config::SenderSettings;
use crate::service::DaemonError;

/// Runs nf-sender until it is told to stop.
#[expect(clippy::needless_pass_by_value, reason = "the daemon owns its settings")]
pub(crate) fn run(settings: SenderSettings) -> Result<(), DaemonError> {
    Err(DaemonError::system(format_args!("{} cannot run yet", settings.id)))
}
