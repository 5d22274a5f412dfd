//! Wall clock and boot clock of the machine.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nf_transport_core::datagram::{BootId, BootTime, Moment, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Returns the time of the wall clock; 1970-01-01 if it is set to an earlier time.
pub fn wall_clock() -> Timestamp {
    Timestamp::from_unix(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Returns the time of the boot clock.
pub fn boot_clock() -> BootTime {
    static BOOT: OnceLock<BootId> = OnceLock::new();
    let time = clock_gettime(ClockId::Boottime);
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
    let elapsed = seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default());
    BootTime { boot: *BOOT.get_or_init(boot_id), elapsed }
}

/// Returns the time of both clocks.
pub fn both_clocks() -> Moment {
    Moment { wall: wall_clock(), boot: boot_clock() }
}

/// Returns the boot id. It is 0 if the kernel provides none: then no earlier run counts as one of this boot.
fn boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    BootId(u64::from_str_radix(&digits, 16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_shows_the_uptime() {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime = Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap());
        let now = boot_clock();
        assert!(now.elapsed.abs_diff(uptime) < Duration::from_secs(2), "{now:?}, {uptime:?}");
        assert_ne!(now.boot, BootId::default());
    }
}
