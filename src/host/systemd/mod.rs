//! The interface to systemd: passed passed_sockets, readiness, watchdog, journal message ids, the unit.

pub mod messages;
pub mod notify;
pub mod passed_sockets;
pub(crate) mod unit;
pub(crate) mod watchdog;
