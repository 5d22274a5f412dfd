//! The flusher's log messages about the disk and the clock.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use nf_transport_core::clock::ClockStep;
use nf_transport_core::spool::{AppendError, WhenFull, WrongClock};

use crate::host::systemd::messages::sender;
use crate::host::{LogLimit, Suppressed};
use crate::sender::queue::figures::SpoolFigures;

/// The kinds of problems, each logged once per log interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Complaint {
    Rejected,
    NoSegment,
    /// By direction: a clock that is set wrong and corrected gives two lines.
    Clock {
        is_forward: bool,
    },
}

/// Logs the problems of the flusher.
#[derive(Debug, Default)]
pub(super) struct FlusherLog {
    complaints: LogLimit<Complaint>,
}

impl FlusherLog {
    /// Logs that the spool rejected a batch.
    pub(super) fn append_error(&mut self, error: &AppendError, when_full: WhenFull, figures: &SpoolFigures) {
        let Some(held_back) = self.complaints.admit(Complaint::Rejected, Instant::now()) else { return };
        match error {
            AppendError::Full => tracing::warn!(
                message_id = sender::SPOOL_FULL,
                held_back,
                "spool full: {}. Datagrams stay in memory while there is room, then the {} are dropped. \
                 Raise spool.max-size{}",
                max_size_reached(figures),
                if when_full == WhenFull::DropOldest { "oldest" } else { "newest" },
                Suppressed(held_back)
            ),
            AppendError::NoRoom(error) => tracing::warn!(
                message_id = sender::SPOOL_FULL,
                %error,
                held_back,
                "spool full: no room on its disk: {error}. Datagrams stay in memory while there is room, \
                 then the newest are dropped. Free space on the disk or lower spool.min-free{}",
                Suppressed(held_back)
            ),
            AppendError::Disk(error) => {
                tracing::error!(
                    message_id = sender::SPOOL_FAILS,
                    %error,
                    held_back,
                    "cannot write to the spool: {error}; datagrams stay in memory while there is room; \
                     retrying. Check the disk{}",
                    Suppressed(held_back)
                );
            }
        }
    }

    /// Logs that no new segment can be created. The last batch was appended to the previous segment.
    pub(super) fn segment_error(&mut self, reason: &str) {
        let Some(held_back) = self.complaints.admit(Complaint::NoSegment, Instant::now()) else { return };
        tracing::error!(
            message_id = sender::SPOOL_FAILS,
            error = reason,
            held_back,
            "cannot create a segment of the spool: {reason}; nothing is lost: the previous segment grows \
             beyond rotate-size and rotate-every. Check the disk{}",
            Suppressed(held_back)
        );
    }

    /// Logs that the wall clock is or was wrong. Ages do not follow it, but arrival times do.
    pub(super) fn wrong_clock(&mut self, wrong: WrongClock) {
        let (change, milliseconds) = match wrong {
            WrongClock::Set(step) => (format!("was set {step}"), step.milliseconds()),
            WrongClock::SetBefore(step) => {
                (format!("was set {step} before nf-sender started"), step.milliseconds())
            }
            WrongClock::Behind(size) => {
                let step = ClockStep { is_forward: false, size };
                let size = humantime::format_duration(Duration::from_secs(size.as_secs()));
                (format!("is {size} behind the newest segment of the spool"), step.milliseconds())
            }
        };
        let complaint = Complaint::Clock { is_forward: milliseconds > 0 };
        let Some(held_back) = self.complaints.admit(complaint, Instant::now()) else { return };
        tracing::warn!(
            message_id = sender::CLOCK_SET,
            milliseconds,
            held_back,
            "the system clock {change}: no datagrams are dropped, as max-age does not follow it; datagrams \
             carry the arrival times that the clock showed{}",
            Suppressed(held_back)
        );
    }
}

/// Returns the bound that is reached.
fn max_size_reached(figures: &SpoolFigures) -> String {
    match figures.room {
        Some(room) => format!("it holds {} of max-size {}", ByteSize(room.held), ByteSize(room.max_size)),
        None => "max-size is reached".to_owned(),
    }
}
