//! One UDP payload with where and when it arrived.

use core::fmt;
use core::net::SocketAddr;
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

/// A datagram as it came from its socket. `payload` is 0 to 65,507 bytes long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The exporter's own address and port.
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
