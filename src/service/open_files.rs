//! How many files and sockets the process may have open at once.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit to what the process may raise it to, and gives it; `None` stands for no limit.
///
/// systemd and shells set a low one (1,024) for the sake of programs that use `select(2)`; this one does not.
pub fn allow_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let granted = limit.current;
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_ok() { limit.maximum } else { granted }
}
