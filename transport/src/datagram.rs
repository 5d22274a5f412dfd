//! One UDP payload with where and when it arrived, and where flow records lie in it; and what a moment is.

use core::fmt;
use core::net::{SocketAddr, SocketAddrV6};
use core::time::Duration;

/// A moment of the wall clock, in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `since_epoch` after 1970-01-01T00:00:00Z; later than year 2554 counts as year 2554.
    pub fn from_unix(since_epoch: Duration) -> Self {
        Self(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub fn seconds(self) -> i64 {
        i64::try_from(self.0 / 1_000_000_000).unwrap_or(i64::MAX)
    }

    /// How much later this is than `earlier`; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Identifies one boot of one machine: the first 8 bytes of the kernel's boot id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId(pub u64);

/// A moment of the boot clock (`CLOCK_BOOTTIME`): it counts while the machine is suspended, and nobody can set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootTime {
    /// The boot that it belongs to; 0 if that is unknown.
    pub boot: BootId,
    /// The time since the machine was booted.
    pub elapsed: Duration,
}

impl BootTime {
    /// The time from `earlier` to this moment; `None` if they are of two boots, or in the wrong order.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        if self.boot == earlier.boot { self.elapsed.checked_sub(earlier.elapsed) } else { None }
    }
}

/// A moment by both clocks of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// By the wall clock, which may be wrong and may be set at any time.
    pub wall: Timestamp,
    /// By the boot clock.
    pub boot: BootTime,
}

impl Moment {
    /// Nanoseconds by which the wall clock is ahead of the boot clock. They change only when the wall clock is set: both
    /// clocks are slewed alike.
    pub fn wall_ahead(self) -> i128 {
        i128::from(self.wall.0) - nanoseconds(self.boot.elapsed)
    }

    /// The same moment `later`, of clocks that nobody sets.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        let elapsed = self.boot.elapsed + later;
        Self { boot: BootTime { elapsed, ..self.boot }, ..self }.set(later, true)
    }

    /// The same moment after the wall clock was set `by` so much.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn set(self, by: Duration, forward: bool) -> Self {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let wall = if forward { self.wall.0.saturating_add(by) } else { self.wall.0.saturating_sub(by) };
        Self { wall: Timestamp(wall), ..self }
    }
}

/// A duration as a number that can be below zero, too.
pub fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// A datagram as it came from its socket. `payload` is 0 to 65,507 bytes long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The exporter's own address and port; of a link-local address with the number of the interface at nf-sender (the scope
    /// id), which distinguishes exporters and means nothing elsewhere.
    pub exporter: SocketAddr,
    /// The address and port that the datagram was sent to.
    pub local: SocketAddr,
    /// When the kernel received it.
    pub arrival: Timestamp,
    /// What the exporter sent, byte for byte.
    pub payload: &'a [u8],
}

impl fmt::Debug for Datagram<'_> {
    /// Shows where from, where to and how long, never the payload: flow data stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} ({} bytes)", self.exporter, self.local, self.payload.len())
    }
}

/// `address` with this scope id where it is a link-local IPv6 address (RFC 4007); any other one as it is.
pub fn with_scope(address: SocketAddr, scope: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
        }
        other => other,
    }
}

/// The scope id of a link-local IPv6 address; 0 if there is none.
pub fn scope_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
        _ => 0,
    }
}

/// Flow records of one kind that follow each other in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRun {
    /// Where in the payload the first of them starts.
    pub start: usize,
    /// How many there are.
    pub records: usize,
    /// The id of their template; 0 if they need none.
    pub template: u16,
    /// What each of them looks like.
    pub layout: FlowLayout,
}

/// What is known of flow records of one kind: as much as helps to compress them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLayout {
    /// Bytes of each record.
    pub length: u16,
    /// Where its two addresses are, if it has them.
    pub addresses: Option<FlowAddresses>,
}

/// Where a flow record says between whom the flow was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowAddresses {
    /// Offset of the source address in the record.
    pub source: u16,
    /// Offset of the destination address, of the same family.
    pub destination: u16,
    /// Whether they are of IPv4 or of IPv6.
    pub family: AddressFamily,
}

/// Which addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// Of 4 bytes.
    V4,
    /// Of 16 bytes.
    V6,
}

impl AddressFamily {
    /// Bytes of an address.
    pub fn address_len(self) -> u16 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}
