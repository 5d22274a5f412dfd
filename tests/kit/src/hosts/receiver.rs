//! The machine that runs nf-receiver.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{clear_text, directory, wait_status, write_key};
use crate::daemon::{Daemon, Launch, NOBODY, Program, status};
use crate::wall_clock::WallClock;

/// The machine that runs nf-receiver.
pub struct ReceiverHost {
    directory: TempDir,
    executable: PathBuf,
    tcp: TcpListener,
    collectors: Vec<SocketAddr>,
    protection: Vec<String>,
    is_nobody: bool,
    open_files: Option<&'static str>,
    clock: Vec<(&'static str, OsString)>,
    daemon: Option<Daemon>,
}

impl ReceiverHost {
    /// Creates a machine. Its daemon will deliver to these collectors with the settings `toml`.
    pub fn new(collectors: &[SocketAddr], toml: &str) -> Self {
        let directory = directory();
        std::fs::write(directory.path().join("nf-receiver.toml"), toml).unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            directory,
            executable: Program::Receiver.path(),
            tcp,
            collectors: collectors.to_vec(),
            protection: clear_text(),
            is_nobody: false,
            open_files: None,
            clock: Vec::new(),
            daemon: None,
        }
    }

    /// Runs the daemon as `nobody` with `CAP_NET_RAW` only from the next start on. Needs root. Returns
    /// whether `nobody` can reach the program and the directory.
    pub fn run_as_nobody_with_net_raw(&mut self) -> bool {
        for name in ["", "run", "nf-receiver.toml"] {
            chown(self.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        self.is_nobody = true;
        let mut reach = Command::new("setpriv");
        reach.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]).arg("--clear-groups");
        reach.args(["sh", "-c", r#"test -x "$0" && test -w "$1""#]);
        reach.arg(Program::Receiver.path()).arg(self.path("run")).status().unwrap().success()
    }

    /// Limits the daemon's open files from the next start on. `limit` is an argument of `prlimit`, such as
    /// `--nofile=NUMBER`.
    pub fn limit_open_files(&mut self, limit: &'static str) {
        self.open_files = Some(limit);
    }

    /// Replaces the settings for the next start or reload.
    pub fn set_toml(&mut self, toml: &str) {
        std::fs::write(self.path("nf-receiver.toml"), toml).unwrap();
    }

    /// Replaces the arguments for channel protection from the next start on.
    pub fn protect(&mut self, args: &[&str]) {
        self.protection = args.iter().map(ToString::to_string).collect();
    }

    /// Waits until the status is as wanted. Panics with the status and the log after `patience`.
    pub fn wait_status(&self, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_status(patience, || self.status(), wanted, self.daemon())
    }

    /// Writes the key of `seed` and uses it for all senders from the next start on. Returns the path of the
    /// file.
    pub fn use_key(&mut self, seed: &str) -> PathBuf {
        let path = self.path("key");
        write_key(&path, seed);
        self.protect(&["--key-file", path.to_str().unwrap()]);
        path
    }

    /// Runs `nf-receiver` of this directory, which another version may have built, from the next start on.
    pub fn use_build(&mut self, directory: &Path) {
        self.executable = directory.join(Program::Receiver.name());
    }

    /// Uses this wall clock from the next start on.
    pub fn set_clock(&mut self, clock: &WallClock) {
        self.clock = clock.environment();
    }

    /// Replaces the listening socket by one on a free port of this address.
    pub fn listen_on(&mut self, address: &str) {
        self.tcp = TcpListener::bind(address).unwrap();
    }

    /// Returns the listening address.
    pub fn addr(&self) -> SocketAddr {
        self.tcp.local_addr().unwrap()
    }

    pub fn control(&self) -> PathBuf {
        self.path("run/control.sock")
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) -> &Daemon {
        assert!(self.daemon.is_none(), "nf-receiver runs already");
        self.daemon.insert(self.launch().start())
    }

    /// Does the same with a full pipe as standard error, which nobody reads.
    pub fn start_with_stuck_stderr(&mut self) {
        self.daemon = Some(self.launch().with_stuck_stderr().start());
    }

    /// Returns the settings of the next start.
    pub fn launch(&self) -> Launch {
        let collectors = self.collectors.iter().flat_map(|addr| ["-C".to_owned(), addr.to_string()]);
        let launch = Launch::new(Program::Receiver)
            .executable(&self.executable)
            .args(["-c", self.path("nf-receiver.toml").to_str().unwrap()])
            .args(&self.protection)
            .args(["--state", self.path("state").to_str().unwrap()])
            .args(["--control", self.control().to_str().unwrap()])
            .args(collectors)
            .env("RUNTIME_DIRECTORY", self.path("run"))
            .socket("nf-receiver.socket", self.tcp.try_clone().unwrap());
        let launch = self.open_files.into_iter().fold(launch, Launch::with_open_files);
        let launch = self.clock.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        if self.is_nobody { launch.for_nobody_with_net_raw() } else { launch }
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("nf-receiver runs")
    }

    /// Returns the daemon for a change.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("nf-receiver runs")
    }

    /// Takes the daemon out, so that the test can kill or stop it.
    pub fn take_daemon(&mut self) -> Daemon {
        self.daemon.take().expect("nf-receiver runs")
    }

    pub fn status(&self) -> Value {
        status(&self.executable, &self.control())
            .unwrap_or_else(|| panic!("nf-receiver does not answer; log:\n{}", self.daemon().log()))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
