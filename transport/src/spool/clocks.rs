//! The clocks of one run of the spool, and the errors of the wall clock that a run reports.

use core::time::Duration;

use crate::clock::{ClockStep, ClockWatch};
use crate::datagram::BootTime;

/// An error of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongClock {
    /// The clock was set in this run.
    Set(ClockStep),
    /// The clock was set in this boot, after the newest segment was begun and before this run.
    SetBefore(ClockStep),
    /// The newest segment has a time of an earlier boot that lies this far in the future.
    Behind(Duration),
}

/// The clocks as this run has observed them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    /// The start of the run.
    pub(super) opened: BootTime,
    pub(super) watch: ClockWatch,
    /// An error that [`Spool::take_wrong_clock`](super::Spool::take_wrong_clock) has not returned yet.
    pub(super) wrong: Option<WrongClock>,
}
