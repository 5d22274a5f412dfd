//! The machine's clocks.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nf_transport_core::datagram::{BootId, BootTime, Moment, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// The time by the wall clock. A clock set before 1970 shows 1970.
pub fn wall_clock() -> Timestamp {
    Timestamp::from_unix(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// The time by the boot clock.
pub fn boot_clock() -> BootTime {
    static BOOT: OnceLock<BootId> = OnceLock::new();
    let time = clock_gettime(ClockId::Boottime);
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
    let elapsed = seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default());
    BootTime { boot: *BOOT.get_or_init(boot_id), elapsed }
}

/// The time by both clocks.
pub fn both_clocks() -> Moment {
    Moment { wall: wall_clock(), boot: boot_clock() }
}

/// The boot id; 0 where the kernel does not give it, so that nothing counts as written in this boot by an earlier run.
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
