//! The process of a daemon: command line, log, clocks, exit codes, signals and shutdown.

pub(crate) mod clock;
pub(crate) mod command_line;
pub mod console;
pub(crate) mod count_table;
pub(crate) mod error;
pub(crate) mod internal_error_log;
pub(crate) mod locked;
pub(crate) mod log_interval;
pub(crate) mod log_limit;
pub(crate) mod logged_count;
#[cfg(test)]
pub(crate) mod logged_lines;
pub mod logging;
pub(crate) mod open_files;
pub(crate) mod panics;
pub(crate) mod privilege;
pub(crate) mod reload;
pub(crate) mod shutdown;
pub(crate) mod signals;
