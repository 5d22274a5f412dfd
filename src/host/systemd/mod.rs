//! The interface to systemd: passed sockets, readiness, watchdog, journal message ids, the unit.

pub mod messages;
pub mod notify;
pub mod sockets;
pub(crate) mod unit;
pub(crate) mod watchdog;
