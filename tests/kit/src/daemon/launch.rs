//! Starts a daemon as systemd does: with passed sockets, a notify socket and a chosen environment.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{OFlags, fcntl_setfl};

use super::log::Log;
use super::{Daemon, DaemonEvent, Program, clear_service_environment};

/// Settings with which a test starts a daemon.
pub struct Launch {
    program: Program,
    executable: PathBuf,
    args: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    sockets: Vec<(&'static str, OwnedFd)>,
    /// Command line of another program (such as `setpriv`) that runs the daemon.
    before: Vec<&'static str>,
    has_stuck_stderr: bool,
}

/// Id of the user and the group `nobody`.
pub const NOBODY: u32 = 65_534;

/// Runs a program as `nobody` with `CAP_NET_RAW` only, which lets it send from foreign addresses.
const NOBODY_WITH_NET_RAW: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all,+net_raw",
    "--ambient-caps=-all,+net_raw",
    "--bounding-set=-all,+net_raw",
    "--",
];

/// Runs a program as root in a time namespace whose boot clock is two hours ahead.
const TWO_HOURS_LATER: &[&str] = &["unshare", "--time", "--boottime=7200", "--"];

/// Runs a program as root without `CAP_NET_ADMIN`, so that `net.core.rmem_max` limits its receive buffers.
const WITHOUT_NET_ADMIN: &[&str] = &["setpriv", "--bounding-set=-net_admin", "--"];

impl Launch {
    pub fn new(program: Program) -> Self {
        Self {
            program,
            executable: program.path(),
            args: Vec::new(),
            environment: Vec::new(),
            sockets: Vec::new(),
            before: Vec::new(),
            has_stuck_stderr: false,
        }
    }

    /// Runs the program at this path instead of the one that Cargo built.
    pub fn executable(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.executable);
        self
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Passes a socket under this name by `LISTEN_FDS`, as systemd does.
    pub fn socket(mut self, name: &'static str, socket: impl Into<OwnedFd>) -> Self {
        self.sockets.push((name, socket.into()));
        self
    }

    /// Runs the daemon as `nobody` with `CAP_NET_RAW` only. Needs root.
    pub fn for_nobody_with_net_raw(mut self) -> Self {
        self.before = NOBODY_WITH_NET_RAW.to_vec();
        self
    }

    /// Runs the daemon without `CAP_NET_ADMIN`. Has no effect unless the test runs as root.
    pub fn without_net_admin(mut self) -> Self {
        if rustix::process::geteuid().is_root() {
            self.before = WITHOUT_NET_ADMIN.to_vec();
        }
        self
    }

    /// Makes standard error a full pipe, which nobody reads until [`Daemon::read_stderr`].
    pub fn with_stuck_stderr(mut self) -> Self {
        self.has_stuck_stderr = true;
        self
    }

    /// Limits the daemon's open files. `limit` is an argument of `prlimit`, such as `--nofile=NUMBER`.
    pub fn with_open_files(mut self, limit: &'static str) -> Self {
        self.before = vec!["prlimit", limit, "--"];
        self
    }

    /// Runs the daemon with a boot clock that is two hours ahead. Needs root.
    pub fn two_hours_later(mut self) -> Self {
        self.before = TWO_HOURS_LATER.to_vec();
        self
    }

    /// Starts the daemon and waits until it reports that it is ready.
    pub fn start(self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.wait_ready();
        daemon
    }

    /// Starts the daemon without waiting until it is ready.
    pub fn spawn(self) -> Daemon {
        let program = self.program;
        let directory = tempfile::tempdir().unwrap();
        let notify_path = directory.path().join("notify");
        let notify = UnixDatagram::bind(&notify_path).unwrap();
        if self.before == NOBODY_WITH_NET_RAW {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            chown(&notify_path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let (stderr, mut writer) = io::pipe().unwrap();
        if self.has_stuck_stderr {
            fill(&mut writer);
        }
        let is_read = !self.has_stuck_stderr;
        let mut command = self.command();
        command.env("NOTIFY_SOCKET", &notify_path).stdin(Stdio::null()).stderr(writer);
        let started = Instant::now();
        let child = command.spawn().unwrap();
        drop(command); // it still holds the passed sockets and the write end of the pipe
        let (events, incoming) = channel();
        let log = Arc::new(Log::default());
        follow_notify(notify.try_clone().unwrap(), events.clone());
        let mut daemon = Daemon {
            program,
            child,
            started,
            ready_after: None,
            log,
            unread: Some((stderr, events)),
            notify,
            events: incoming,
            _directory: directory,
        };
        if is_read {
            daemon.read_stderr();
        }
        daemon
    }

    /// Builds the command line. `LISTEN_PID` must be the daemon's process id. The shell sets it to its own
    /// id, which the daemon keeps because of `exec`.
    fn command(self) -> Command {
        let mut words = self.before.iter().map(OsString::from).chain([self.executable.into_os_string()]);
        let mut command = if self.sockets.is_empty() {
            Command::new(words.next().unwrap())
        } else {
            let mut shell = Command::new("sh");
            shell.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@""#]);
            shell
        };
        clear_service_environment(&mut command);
        if !self.sockets.is_empty() {
            let names: Vec<_> = self.sockets.iter().map(|(name, _)| *name).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
            let sockets = self.sockets.into_iter().map(|(_, socket)| socket);
            command.fd_mappings(sockets.zip(3..).map(mapping).collect()).unwrap();
        }
        command.args(words).args(self.args).envs(self.environment);
        command
    }
}

fn follow_notify(notify: UnixDatagram, events: Sender<DaemonEvent>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = notify.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if events.send(DaemonEvent::Notify(message)).is_err() {
                break;
            }
        }
    });
}

/// Fills a pipe with empty lines.
fn fill(pipe: &mut io::PipeWriter) {
    fcntl_setfl(&*pipe, OFlags::NONBLOCK).unwrap();
    while pipe.write(b"\n").is_ok() {}
    fcntl_setfl(&*pipe, OFlags::empty()).unwrap();
}
