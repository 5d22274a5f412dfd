//! How an attempt to connect, or the session that it led to, ended, and what follows.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::HostPort;
use crate::host::systemd::messages::sender;
use crate::host::{LogLimit, Suppressed};
use crate::limits::REFUSED_FOR_NOW_DELAY_MAX;
use crate::sender::uplink::dial::DialError;
use crate::sender::uplink::ended::Ended;

/// How an attempt ended, for the schedule and the status.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Whether a session was agreed in which the receiver acknowledged something, unless there was nothing to send.
    pub(crate) has_worked: bool,
    pub(crate) is_refusal: bool,
    pub(crate) follows: Follows,
    /// The longest delay before the next one, where a receiver needs no more.
    pub(crate) delay_max: Duration,
    pub(crate) reason: String,
    /// The event in the journal.
    pub(crate) message_id: &'static str,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The next attempt, after the delay of the schedule.
    Delay,
    /// The next receiver, if there is one, at once.
    NextReceiver,
    /// The next attempt, at once.
    Attempt,
}

impl Attempt {
    /// An attempt that was abandoned for another.
    pub(crate) fn abandoned() -> Self {
        Self {
            has_worked: false,
            is_refusal: false,
            follows: Follows::Attempt,
            delay_max: Duration::MAX,
            reason: String::new(),
            message_id: sender::NOT_CONNECTED,
        }
    }

    /// None of `count` receivers could be spoken to; `error` is what the last one came to.
    pub(crate) fn at_dialling(count: usize, error: &DialError) -> Self {
        let mut reason = error.to_string();
        if count > 1 {
            reason = format!("none of {count} receivers answers; the last: {reason}");
        }
        let is_refusal = error.is_refusal();
        Self {
            has_worked: false,
            is_refusal,
            follows: Follows::NextReceiver,
            delay_max: Duration::MAX,
            reason,
            message_id: message_id(is_refusal),
        }
    }

    /// A session was tried, and ended.
    pub(crate) fn at_session(ended: &Ended, is_agreed: bool, has_worked: bool, remedy: &str) -> Self {
        let is_refusal = ended.is_refusal();
        Self {
            has_worked,
            is_refusal,
            follows: match ended {
                Ended::Renewed | Ended::Asked => Follows::Attempt,
                _ if ended.fails_over(is_agreed, has_worked) => Follows::NextReceiver,
                _ => Follows::Delay,
            },
            delay_max: match ended {
                Ended::RefusedForNow(_) => REFUSED_FOR_NOW_DELAY_MAX,
                _ => Duration::MAX,
            },
            reason: format!("{ended}{remedy}"),
            message_id: match ended {
                Ended::Stalled(_) => sender::STALLED,
                _ => message_id(is_refusal),
            },
        }
    }

    /// Logs that the next receiver is tried instead of this one.
    pub(crate) fn log_fail_over(&self, receiver: &HostPort, complaints: &mut LogLimit<String>) {
        let line = format!("not connected to {receiver}: {}; trying the next receiver", self.reason);
        if let Some(held_back) = complaints.admit(line.clone(), Instant::now().into_std()) {
            let (message_id, receiver) = (self.message_id, receiver.to_string());
            tracing::warn!(message_id, receiver, held_back, "{line}{}", Suppressed(held_back));
        }
    }
}

fn message_id(is_refusal: bool) -> &'static str {
    if is_refusal { sender::REFUSED } else { sender::NOT_CONNECTED }
}

/// What the operator can do about a path that loses large packets.
pub(crate) fn remedy(next: Option<u16>) -> String {
    let next = match next {
        Some(bytes) => format!("TCP segments of at most {bytes} bytes are tried next"),
        None => "smaller TCP segments did not help".to_owned(),
    };
    format!(
        "; {next}. Let ICMP \"fragmentation needed\" and \"packet too big\" pass, or lower the MTU of the route"
    )
}
