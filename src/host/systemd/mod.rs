//! The interface to systemd: passed sockets, readiness, watchdog, journal message ids, the unit.

pub mod messages;
pub mod notify;
pub mod passed_sockets;
mod service_identity;
pub(crate) mod unit;
pub(crate) mod watchdog;
