//! The limit of open files and sockets of the process, and its division by purpose.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::limits::{FILES_OTHER, FILES_PER_CONNECTION};

/// Raises the soft limit of open files to the hard limit, and returns it; `None` if it is unlimited.
///
/// systemd and shells set a low soft limit (1,024) for programs that use `select(2)`. The daemons do not use
/// it.
pub fn allow_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let granted = limit.current;
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_ok() { limit.maximum } else { granted }
}

/// Returns whether the process or the system has reached its limit of open files.
pub fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Files of nf-receiver by purpose. No purpose uses the files of another, so that sockets for exporters never
/// prevent connections of senders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileShares {
    /// Connections of senders, each with its position file.
    pub connections: usize,
    /// Connections before authentication.
    pub unauthenticated: usize,
    /// Sockets for exporters, of all collectors together.
    pub exporter_sockets: usize,
}

impl FileShares {
    /// Returns the number of files for these purposes and all others.
    pub fn total(self) -> u64 {
        let [connections, unauthenticated, exporter_sockets] =
            [self.connections, self.unauthenticated, self.exporter_sockets].map(count);
        let connections = connections.saturating_mul(FILES_PER_CONNECTION);
        connections
            .saturating_add(unauthenticated)
            .saturating_add(exporter_sockets)
            .saturating_add(FILES_OTHER)
    }

    /// Reduces this to fit into `allowed` files. Exporter sockets get the files that connections leave, and
    /// at least a quarter.
    #[must_use]
    pub fn within(self, allowed: u64) -> Self {
        let left = allowed - FILES_OTHER.min(allowed / 4);
        let unauthenticated = count(self.unauthenticated).min(left / 4);
        let left = left - unauthenticated;
        let for_exporters = count(self.exporter_sockets).min(left / 4);
        let connections = count(self.connections).min((left - for_exporters) / FILES_PER_CONNECTION);
        let exporter_sockets = count(self.exporter_sockets).min(left - connections * FILES_PER_CONNECTION);
        let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            connections: size(connections),
            unauthenticated: size(unauthenticated).max(1),
            exporter_sockets: size(exporter_sockets),
        }
    }
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: FileShares =
        FileShares { connections: 10_000, unauthenticated: 256, exporter_sockets: 1024 };

    #[test]
    fn enough_files_satisfy_all_purposes() {
        assert_eq!(WANTED.total(), 21_536);
        assert_eq!(WANTED.within(21_536), WANTED);
        assert_eq!(WANTED.within(u64::MAX), WANTED);
    }

    #[test]
    fn few_files_leave_some_for_each_purpose() {
        for allowed in [8, 64, 256, 1024, 4096, 20_000] {
            let shares = WANTED.within(allowed);
            let taken = 2 * shares.connections + shares.unauthenticated + shares.exporter_sockets;
            assert!(count(taken) + FILES_OTHER.min(allowed / 4) <= allowed, "{allowed}: {shares:?}");
            let least = usize::try_from(allowed).unwrap() / 8;
            assert!(
                2 * shares.connections >= least && shares.exporter_sockets >= least.min(1024),
                "{shares:?}"
            );
        }
    }

    #[test]
    fn exporters_get_what_few_connections_leave() {
        let wanted = FileShares { connections: 10, exporter_sockets: 65_536, ..WANTED };
        let shares = wanted.within(4096);
        assert_eq!((shares.connections, shares.exporter_sockets), (10, 4096 - 256 - 256 - 20));
    }
}
