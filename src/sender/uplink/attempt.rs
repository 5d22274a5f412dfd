//! The outcome of a connection attempt or of its session, and the next step.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::HostPort;
use crate::host::systemd::messages::sender;
use crate::host::{LogLimit, Suppressed};
use crate::limits::REFUSED_FOR_NOW_DELAY_MAX;
use crate::sender::uplink::dial::DialError;
use crate::sender::uplink::ended::SessionEnd;

/// The outcome of an attempt, for the backoff and the status.
#[derive(Debug)]
pub(crate) struct AttemptOutcome {
    /// A session was agreed in which the receiver acknowledged data, or nothing was queued.
    pub(crate) has_worked: bool,
    pub(crate) is_refusal: bool,
    pub(crate) next_step: NextStep,
    /// The upper bound of the delay, where a receiver will accept the stream soon.
    pub(crate) delay_max: Duration,
    pub(crate) reason: String,
    /// The event in the journal.
    pub(crate) message_id: &'static str,
}

/// The next step after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// Retry after the delay of the backoff.
    Delay,
    /// Fail over to the next receiver, if there is one, at once.
    NextReceiver,
    /// Retry at once.
    Attempt,
}

impl AttemptOutcome {
    /// An attempt that was abandoned for another.
    pub(crate) fn abandoned() -> Self {
        Self {
            has_worked: false,
            is_refusal: false,
            next_step: NextStep::Attempt,
            delay_max: Duration::MAX,
            reason: String::new(),
            message_id: sender::NOT_CONNECTED,
        }
    }

    /// No channel could be agreed with any of `count` receivers; `error` is that of the last one.
    pub(crate) fn dial_failed(count: usize, error: &DialError) -> Self {
        let mut reason = error.to_string();
        if count > 1 {
            reason = format!("none of {count} receivers accepts the connection; the last: {reason}");
        }
        let is_refusal = error.is_refusal();
        Self {
            has_worked: false,
            is_refusal,
            next_step: NextStep::NextReceiver,
            delay_max: Duration::MAX,
            reason,
            message_id: message_id(is_refusal),
        }
    }

    /// A session was begun and has ended.
    pub(crate) fn session_ended(ended: &SessionEnd, is_agreed: bool, has_worked: bool, remedy: &str) -> Self {
        let is_refusal = ended.is_refusal();
        Self {
            has_worked,
            is_refusal,
            next_step: match ended {
                SessionEnd::Renewed | SessionEnd::Asked => NextStep::Attempt,
                _ if ended.fails_over(is_agreed, has_worked) => NextStep::NextReceiver,
                _ => NextStep::Delay,
            },
            delay_max: match ended {
                SessionEnd::RefusedForNow(_) => REFUSED_FOR_NOW_DELAY_MAX,
                _ => Duration::MAX,
            },
            reason: format!("{ended}{remedy}"),
            message_id: match ended {
                SessionEnd::Stalled(_) => sender::STALLED,
                _ => message_id(is_refusal),
            },
        }
    }

    /// Logs the fail-over from this receiver to the next one.
    pub(crate) fn log_fail_over(&self, receiver: &HostPort, complaints: &mut LogLimit<String>) {
        let line = format!("not connected to {receiver}: {}; failing over to the next receiver", self.reason);
        if let Some(held_back) = complaints.admit(line.clone(), Instant::now().into_std()) {
            let (message_id, receiver) = (self.message_id, receiver.to_string());
            tracing::warn!(message_id, receiver, held_back, "{line}{}", Suppressed(held_back));
        }
    }
}

fn message_id(is_refusal: bool) -> &'static str {
    if is_refusal { sender::REFUSED } else { sender::NOT_CONNECTED }
}

/// The next step and the remedy for a path that loses large packets.
pub(crate) fn segment_size_advice(next: Option<u16>) -> String {
    let next = match next {
        Some(bytes) => format!("TCP segments of at most {bytes} bytes are tried next"),
        None => "smaller TCP segments did not help".to_owned(),
    };
    format!(
        "; {next}. Let ICMP \"fragmentation needed\" and \"packet too big\" pass, or lower the MTU of the \
         route"
    )
}
