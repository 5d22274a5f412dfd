//! The machine's clock.

use std::time::SystemTime;

use crate::datagram::Timestamp;

/// What time it is. A clock set before 1970 shows 1970.
pub fn wall_clock() -> Timestamp {
    Timestamp::from_unix(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
