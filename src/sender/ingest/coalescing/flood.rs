//! The flood that may begin at any moment.

use core::time::Duration;

/// The peak rate that may begin at any moment, in bytes of kernel memory per second: 10 Gbit/s of full
/// datagrams, which use 1.6 times their length.
const PEAK_RATE: u64 = 2_000_000_000;

/// Returns the time in which `bytes` of kernel memory fill at the peak rate.
pub(super) fn time_at_peak(bytes: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / PEAK_RATE)
}
