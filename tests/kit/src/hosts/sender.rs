//! The machine that runs nf-sender.

use std::ffi::OsString;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{HeldUdp, clear_text, directory, wait_status, write_key};
use crate::chatter::Pattern;
use crate::daemon::{Daemon, Launch, Program, status};
use crate::exporter::Exporters;
use crate::kernel_socket::RECEIVE_BUFFER;
use crate::wall_clock::WallClock;

/// The machine that runs nf-sender.
pub struct SenderHost {
    directory: TempDir,
    executable: PathBuf,
    id: Option<String>,
    receiver: Option<String>,
    udp: Arc<HeldUdp>,
    more_sockets: Vec<UdpSocket>,
    protection: Vec<String>,
    has_runtime_directory: bool,
    has_net_admin: bool,
    is_two_hours_later: bool,
    clock: Vec<(&'static str, OsString)>,
    daemon: Option<Daemon>,
}

impl SenderHost {
    /// Creates a machine with an empty spool. Its daemon will connect to `receiver` with the settings `toml`.
    pub fn new(id: &str, receiver: &impl ToString, toml: &str) -> Self {
        let directory = directory();
        std::fs::write(directory.path().join("nf-sender.toml"), toml).unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let udp = Arc::new(HeldUdp::bind("127.0.0.1:0"));
        Self {
            directory,
            executable: Program::Sender.path(),
            id: Some(id.to_owned()),
            receiver: Some(receiver.to_string()),
            udp,
            more_sockets: Vec::new(),
            protection: clear_text(),
            has_runtime_directory: true,
            has_net_admin: true,
            is_two_hours_later: false,
            clock: Vec::new(),
            daemon: None,
        }
    }

    /// Limits the receive buffer from the next start on to the size that any user may request, even if the
    /// test runs as root. Existing exporters still send to the previous socket.
    pub fn limit_receive_buffer(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).unwrap();
        self.udp = Arc::new(HeldUdp::holding(socket));
        self.has_net_admin = false;
    }

    /// Runs `nf-sender` of this directory, which another version may have built, from the next start on.
    pub fn use_build(&mut self, directory: &Path) {
        self.executable = directory.join(Program::Sender.name());
    }

    /// Uses this wall clock from the next start on.
    pub fn set_clock(&mut self, clock: &WallClock) {
        self.clock = clock.environment();
    }

    /// Sets the daemon's boot clock two hours ahead from the next start on. Needs root.
    pub fn run_two_hours_later(&mut self) {
        self.is_two_hours_later = true;
    }

    /// Adds another UDP socket for the daemon.
    pub fn add_socket(&mut self, socket: UdpSocket) {
        self.more_sockets.push(socket);
    }

    /// Replaces the settings for the next start.
    pub fn set_toml(&mut self, toml: &str) {
        std::fs::write(self.path("nf-sender.toml"), toml).unwrap();
    }

    /// Omits `--id` from the next start on, so that the settings determine the id.
    pub fn omit_id(&mut self) {
        self.id = None;
    }

    /// Replaces the arguments for channel protection from the next start on.
    pub fn protect(&mut self, args: &[&str]) {
        self.protection = args.iter().map(ToString::to_string).collect();
    }

    /// Writes the key of `seed` and uses it from the next start on. Returns the path of the file.
    pub fn use_key(&mut self, seed: &str) -> PathBuf {
        let path = self.path("key");
        write_key(&path, seed);
        self.protect(&["--key-file", path.to_str().unwrap()]);
        path
    }

    /// Sets or removes the receiver argument from the next start on.
    pub fn set_receiver(&mut self, receiver: Option<String>) {
        self.receiver = receiver;
    }

    /// Omits `RUNTIME_DIRECTORY` from the next start on.
    pub fn omit_runtime_directory(&mut self) {
        self.has_runtime_directory = false;
    }

    pub fn udp(&self) -> &Arc<HeldUdp> {
        &self.udp
    }

    pub fn exporters(&self, count: u16, pattern: Pattern) -> Exporters {
        Exporters::new(0..count, self.udp.addr(), pattern)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn control(&self) -> PathBuf {
        self.path("run/control.sock")
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) -> &Daemon {
        assert!(self.daemon.is_none(), "nf-sender runs already");
        self.daemon.insert(self.launch().start())
    }

    /// Does the same with a full pipe as standard error, which nobody reads.
    pub fn start_with_stuck_stderr(&mut self) {
        self.daemon = Some(self.launch().with_stuck_stderr().start());
    }

    /// Returns the settings of the next start.
    pub fn launch(&self) -> Launch {
        let runtime_directory = self.has_runtime_directory.then(|| self.path("run"));
        let launch = Launch::new(Program::Sender)
            .executable(&self.executable)
            .args(["-c", self.path("nf-sender.toml").to_str().unwrap()])
            .args(self.id.iter().flat_map(|id| ["--id", id]))
            .args(&self.protection)
            .args(self.receiver.iter().flat_map(|receiver| ["-r", receiver]))
            .args(["--spool", self.path("spool").to_str().unwrap()])
            .args(["--control", self.control().to_str().unwrap()])
            .socket("netflow", self.udp.socket.try_clone().unwrap());
        let more = self.more_sockets.iter().map(|socket| socket.try_clone().unwrap());
        let launch = more.fold(launch, |launch, socket| launch.socket("netflow", socket));
        let launch = if self.has_net_admin { launch } else { launch.without_net_admin() };
        let launch = if self.is_two_hours_later { launch.two_hours_later() } else { launch };
        let launch = self.clock.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        runtime_directory.into_iter().fold(launch, |launch, path| launch.env("RUNTIME_DIRECTORY", path))
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("nf-sender runs")
    }

    /// Returns the daemon for a change.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("nf-sender runs")
    }

    /// Takes the daemon out, so that the test can kill or stop it.
    pub fn take_daemon(&mut self) -> Daemon {
        self.daemon.take().expect("nf-sender runs")
    }

    pub fn status(&self) -> Value {
        status(&self.executable, &self.control())
            .unwrap_or_else(|| panic!("nf-sender does not answer; log:\n{}", self.daemon().log()))
    }

    /// Waits until the status is as wanted. Panics with the status and the log after `patience`.
    pub fn wait_status(&self, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_status(patience, || self.status(), wanted, self.daemon())
    }

    pub fn wait_state(&self, state: &str, patience: Duration) -> Value {
        self.wait_status(patience, |status| status["state"] == state)
    }
}
