//! The interface to the host: sockets, files, process and service manager, under systemd or in a terminal.

pub(crate) mod connection;
pub mod credentials;
mod deadline;
pub mod files;
mod places;
pub mod process;
mod resolve_cause;
pub mod secure_stream;
pub mod sockets;
mod supervisor;
pub mod systemd;

pub use places::{ConnectionPlace, Eviction, Places, Rank, source_of};
pub use resolve_cause::resolve_cause;

pub use crate::host::credentials::argv_key::{conceal_key, conceal_token};
pub use crate::host::credentials::certificates::{TlsFileError, read_receiver_tls, read_sender_tls};
pub use crate::host::credentials::expiry::{Expiry, ExpiryWatch};
pub use crate::host::credentials::keys::{KeyFileError, KeyReader, read_key};
pub use crate::host::credentials::secret_prompt::read_secret_line;
pub use crate::host::credentials::session_expiry::{ExpiredCertificate, SessionExpiry};
pub(crate) use crate::host::deadline::Deadline;
pub use crate::host::files::directory_lock::{DirectoryLock, DirectoryLockError};
pub use crate::host::files::private_directory::DirectoryError;
pub(crate) use crate::host::files::private_directory::open_private_directory;
pub use crate::host::process::clock::{boot_clock, both_clocks, wall_clock};
pub use crate::host::process::command_line::overrides;
pub use crate::host::process::count_table::CountTable;
pub use crate::host::process::error::DaemonError;
pub use crate::host::process::internal_error_log::InternalErrorLog;
pub use crate::host::process::locked::{locked, wait_on, wait_on_for};
pub use crate::host::process::log_interval::LogInterval;
pub use crate::host::process::log_limit::{LogLimit, Suppressed};
pub use crate::host::process::logged_count::LoggedCount;
#[cfg(test)]
pub(crate) use crate::host::process::logged_lines::Lines;
pub use crate::host::process::open_files::{FileShares, allow_open_files, is_out_of_files};
pub use crate::host::process::panics::abort_on_panic;
pub use crate::host::process::privilege::Privilege;
pub use crate::host::process::reload::{run_reload, warn_restart_needed};
pub use crate::host::process::shutdown::{Shutdown, ShutdownTrigger, shutdown_channel};
pub use crate::host::process::signals::Signals;
pub use crate::host::sockets::bind::{SocketError, bind_metrics, bind_tcp, bind_udp};
pub use crate::host::sockets::receive_buffer::{ensure_receive_buffer, receive_buffer_advice};
pub use crate::host::sockets::tcp_info::TcpProgress;
pub(crate) use crate::host::supervisor::{Supervised, Supervisor};
pub use crate::host::systemd::passed_sockets::WrongSocket;
pub use crate::host::systemd::unit::ServiceUnit;
pub use crate::host::systemd::watchdog::{Pulse, ROUND, Watchdog};
