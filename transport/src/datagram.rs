//! A UDP payload with its addresses and arrival time, and the types for moments in time.

use core::fmt;
use core::net::{SocketAddr, SocketAddrV6};
use core::time::Duration;

/// A moment of the wall clock, in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Converts the time since 1970-01-01T00:00:00Z. Moments after the year 2554 become the last one of that
    /// year.
    pub fn from_unix(since_epoch: Duration) -> Self {
        Self(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub fn seconds(self) -> i64 {
        i64::try_from(self.0 / 1_000_000_000).unwrap_or(i64::MAX)
    }

    /// Time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Identifies one boot of one machine: the first 8 bytes of the kernel's boot id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId(pub u64);

/// A moment of the boot clock (`CLOCK_BOOTTIME`), which counts during suspend and which nobody can set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootTime {
    /// Boot that the moment belongs to; 0 if unknown.
    pub boot: BootId,
    /// Time since the machine booted.
    pub elapsed: Duration,
}

impl BootTime {
    /// Time from `earlier` to this moment; `None` if the boots differ or `earlier` is later.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        if self.boot == earlier.boot { self.elapsed.checked_sub(earlier.elapsed) } else { None }
    }
}

/// A moment according to both clocks of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Wall clock. It may be wrong and may be set at any time.
    pub wall: Timestamp,
    /// Boot clock.
    pub boot: BootTime,
}

impl Moment {
    /// Nanoseconds by which the wall clock is ahead of the boot clock.
    ///
    /// The value changes only when the wall clock is set, because both clocks are slewed alike.
    pub fn wall_ahead(self) -> i128 {
        i128::from(self.wall.0) - nanoseconds(self.boot.elapsed)
    }

    /// Returns the moment `later` after this one, with clocks that nobody sets.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        let elapsed = self.boot.elapsed + later;
        Self { boot: BootTime { elapsed, ..self.boot }, ..self }.set(later, true)
    }

    /// Returns this moment after the wall clock was set forward or back `by` this duration.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn set(self, by: Duration, forward: bool) -> Self {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let wall = if forward { self.wall.0.saturating_add(by) } else { self.wall.0.saturating_sub(by) };
        Self { wall: Timestamp(wall), ..self }
    }
}

/// Converts a duration to signed nanoseconds.
pub fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// A datagram as its socket delivered it, with a payload of 0 to 65,507 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Source address and port.
    ///
    /// A link-local address has the interface number of nf-sender's host as scope id.
    /// The scope id distinguishes exporters and has no meaning on other hosts.
    pub exporter: SocketAddr,
    /// Destination address and port.
    pub local: SocketAddr,
    /// Time at which the kernel received the datagram.
    pub arrival: Timestamp,
    /// UDP payload, unchanged.
    pub payload: &'a [u8],
}

impl fmt::Debug for Datagram<'_> {
    /// Shows the addresses and the length, never the payload: flow data must not get into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} ({} bytes)", self.exporter, self.local, self.payload.len())
    }
}

/// Sets the scope id of a link-local IPv6 address (RFC 4007). Returns any other address unchanged.
pub fn with_scope(address: SocketAddr, scope: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
        }
        other => other,
    }
}

/// Scope id of a link-local IPv6 address; 0 for any other address.
pub fn scope_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
        _ => 0,
    }
}
