//! Where log lines go: to stderr, which systemd hands to the journal.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging; to be called once, before anything is logged.
///
/// `RUST_LOG` chooses what is shown, `info` and above by default. The journal has its own time, so lines carry
/// one only elsewhere. Colours are for terminals.
pub fn start() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    if env::var_os("JOURNAL_STREAM").is_some() { lines.without_time().init() } else { lines.init() }
}
