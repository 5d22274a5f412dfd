//! The host: what a service gets from it and tells it, whether systemd runs it or a terminal.

mod certificates;
mod clock;
mod command_line;
mod concealed_key;
pub mod console;
mod error;
mod keys;
mod log_limit;
pub mod logging;
pub mod messages;
pub mod notify;
mod open_files;
mod ownership;
pub mod pairing;
mod reload;
pub mod safe_file;
mod signals;
pub mod sockets;
mod stop;
pub mod stream;
mod watchdog;

pub use certificates::{ExpiryWatch, TlsTrouble, read_receiver_tls, read_sender_tls};
pub use clock::wall_clock;
pub use command_line::overrides;
pub use concealed_key::conceal_key;
pub use error::DaemonError;
pub use keys::{KeyReader, KeyTrouble, read_key};
pub use log_limit::{LogLimit, More};
pub use open_files::allow_open_files;
pub use ownership::{DirectoryLock, OwnershipError};
pub use reload::needs_restart;
pub use signals::watch_for;
pub use sockets::SocketError;
pub use stop::{Stop, Stopper, stop_channel};
pub use watchdog::{Pulse, ROUND, Watchdog};
