//! The two machines of the field: one runs nf-sender, one nf-receiver. Each keeps what outlives its daemon: sockets,
//! as systemd would hold them, and directories.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::chatter::Pattern;
use crate::daemon::{Daemon, Launch, NOBODY, Program};
use crate::exporter::Exporters;
use crate::kernel_socket::{KernelFigures, KernelSocket, RECEIVE_BUFFER, enlarge, receive_buffer};
use crate::wall_clock::WallClock;

/// Settings under which faults pass quickly: a dead peer is found within 0.6 s, a retry comes within 0.2 s. The
/// spool needs no spare room on the machine that runs the tests.
pub const QUICK_SENDER: &str = r#"
heartbeat = "200ms"
[reconnect]
first = "50ms"
factor = 2
longest = "200ms"
[spool]
min-free = "0B"
"#;

/// A sender that will not retry by itself for an hour.
pub const PATIENT_SENDER: &str = r#"
heartbeat = "200ms"
[reconnect]
first = "1h"
factor = 1
longest = "1h"
[spool]
min-free = "0B"
"#;

/// Writes a key file that only its owner may read: a key that is always the same for the same `seed`.
pub fn write_key(path: &Path, seed: &str) {
    write_secret(path, &key_text(seed));
}

/// The key of `seed` as key files hold it.
pub fn key_text(seed: &str) -> String {
    seed.bytes().cycle().take(32).fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, text: &str) {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{text}").unwrap();
}

/// What a daemon is told on its command line of clear text and keys: clear text, unless a test says otherwise.
fn clear_text() -> Vec<String> {
    vec!["--plaintext".to_owned()]
}

/// A UDP socket that is held while daemons come and go.
pub struct HeldUdp {
    socket: UdpSocket,
    kernel: KernelSocket,
    capacity: u64,
}

impl HeldUdp {
    /// Binds a free port of this address and asks for a large receive buffer.
    pub fn bind(addr: &str) -> Self {
        let socket = UdpSocket::bind(addr).unwrap();
        enlarge(&socket);
        Self::of(socket)
    }

    /// Holds a socket as it is.
    pub fn of(socket: UdpSocket) -> Self {
        let capacity = u64::try_from(receive_buffer(&socket)).unwrap();
        Self { kernel: KernelSocket::of(&socket), socket, capacity }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Bytes that the kernel queues here at most.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    pub fn kernel(&self) -> KernelFigures {
        self.kernel.figures()
    }

    /// Datagrams that the kernel had no room for.
    pub fn dropped(&self) -> u64 {
        self.kernel().dropped
    }

    /// Waits until the daemon has taken all that the kernel queued.
    pub fn wait_until_drained(&self) {
        self.kernel.wait_until_drained();
    }
}

/// The machine of nf-sender.
pub struct SenderHost {
    directory: TempDir,
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
    /// A machine with an empty spool whose daemon, once started, connects to `receiver` with the settings `toml`.
    pub fn new(id: &str, receiver: &impl ToString, toml: &str) -> Self {
        let directory = directory();
        std::fs::write(directory.path().join("nf-sender.toml"), toml).unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let udp = Arc::new(HeldUdp::bind("127.0.0.1:0"));
        Self {
            directory,
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

    /// From the next start on the daemon has the receive buffer that anybody may ask for, even as root. Exporters that are
    /// there already know the socket before.
    pub fn limit_receive_buffer(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).unwrap();
        self.udp = Arc::new(HeldUdp::of(socket));
        self.has_net_admin = false;
    }

    /// From the next start on the daemon has this wall clock.
    pub fn set_clock(&mut self, clock: &WallClock) {
        self.clock = clock.environment();
    }

    /// From the next start on two more hours have passed since the boot, by the daemon's boot clock. Takes root.
    pub fn run_two_hours_later(&mut self) {
        self.is_two_hours_later = true;
    }

    /// Holds one more UDP socket for the daemon.
    pub fn add_socket(&mut self, socket: UdpSocket) {
        self.more_sockets.push(socket);
    }

    /// Changes the settings of the next start.
    pub fn set_toml(&mut self, toml: &str) {
        std::fs::write(self.path("nf-sender.toml"), toml).unwrap();
    }

    /// The next start leaves the id to the settings.
    pub fn forget_id(&mut self) {
        self.id = None;
    }

    /// Changes what the next start says of clear text and keys.
    pub fn protect(&mut self, args: &[&str]) {
        self.protection = args.iter().map(ToString::to_string).collect();
    }

    /// Makes the key of `seed` this machine's; returns the file.
    pub fn use_key(&mut self, seed: &str) -> PathBuf {
        let path = self.path("key");
        write_key(&path, seed);
        self.protect(&["--key-file", path.to_str().unwrap()]);
        path
    }

    /// Changes the receiver that the next start names, or names none.
    pub fn set_receiver(&mut self, receiver: Option<String>) {
        self.receiver = receiver;
    }

    /// From the next start on the service manager gives no runtime directory.
    pub fn take_runtime_directory_away(&mut self) {
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

    /// As [`Self::start`], where standard error is a full pipe that nobody reads.
    pub fn start_with_stuck_stderr(&mut self) {
        self.daemon = Some(self.launch().with_stuck_stderr().start());
    }

    /// How the daemon is started.
    pub fn launch(&self) -> Launch {
        let runtime_directory = self.has_runtime_directory.then(|| self.path("run"));
        let launch = Launch::new(Program::Sender)
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

    /// As [`Self::daemon`], to be changed.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("nf-sender runs")
    }

    /// Hands the daemon over, to be killed or stopped.
    pub fn take(&mut self) -> Daemon {
        self.daemon.take().expect("nf-sender runs")
    }

    pub fn status(&self) -> Value {
        Program::Sender.status(&self.control()).expect("nf-sender answers")
    }

    /// Waits until the status is as wanted; panics with the status and the log if that takes longer than `patience`.
    pub fn wait_status(&self, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_status(patience, || self.status(), wanted, self.daemon())
    }

    pub fn wait_state(&self, state: &str, patience: Duration) -> Value {
        self.wait_status(patience, |status| status["state"] == state)
    }
}

/// The machine of nf-receiver.
pub struct ReceiverHost {
    directory: TempDir,
    tcp: TcpListener,
    collectors: Vec<SocketAddr>,
    protection: Vec<String>,
    is_nobody: bool,
    open_files: Option<&'static str>,
    clock: Vec<(&'static str, OsString)>,
    daemon: Option<Daemon>,
}

impl ReceiverHost {
    /// A machine whose daemon, once started, delivers to these collectors with the settings `toml`.
    pub fn new(collectors: &[SocketAddr], toml: &str) -> Self {
        let directory = directory();
        std::fs::write(directory.path().join("nf-receiver.toml"), toml).unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            directory,
            tcp,
            collectors: collectors.to_vec(),
            protection: clear_text(),
            is_nobody: false,
            open_files: None,
            clock: Vec::new(),
            daemon: None,
        }
    }

    /// From the next start on the daemon is nobody's, with `CAP_NET_RAW` and nothing else. Takes root. Says whether nobody
    /// can reach the program and the directory.
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

    /// From the next start on the daemon may have at most so many open files, as `--nofile=NUMBER`.
    pub fn limit_open_files(&mut self, limit: &'static str) {
        self.open_files = Some(limit);
    }

    /// Changes the settings of the next start or reload.
    pub fn set_toml(&mut self, toml: &str) {
        std::fs::write(self.path("nf-receiver.toml"), toml).unwrap();
    }

    /// Changes what the next start says of clear text and keys.
    pub fn protect(&mut self, args: &[&str]) {
        self.protection = args.iter().map(ToString::to_string).collect();
    }

    /// Waits until the status is as wanted; panics with the status and the log if that takes longer than `patience`.
    pub fn wait_status(&self, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_status(patience, || self.status(), wanted, self.daemon())
    }

    /// Makes the key of `seed` that of all senders; returns the file.
    pub fn use_key(&mut self, seed: &str) -> PathBuf {
        let path = self.path("key");
        write_key(&path, seed);
        self.protect(&["--key-file", path.to_str().unwrap()]);
        path
    }

    /// From the next start on the daemon has this wall clock.
    pub fn set_clock(&mut self, clock: &WallClock) {
        self.clock = clock.environment();
    }

    /// Listens on a free port of this address instead.
    pub fn listen_on(&mut self, address: &str) {
        self.tcp = TcpListener::bind(address).unwrap();
    }

    /// Where it listens.
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

    /// As [`Self::start`], where standard error is a full pipe that nobody reads.
    pub fn start_with_stuck_stderr(&mut self) {
        self.daemon = Some(self.launch().with_stuck_stderr().start());
    }

    /// How the daemon is started.
    pub fn launch(&self) -> Launch {
        let collectors = self.collectors.iter().flat_map(|addr| ["-C".to_owned(), addr.to_string()]);
        let launch = Launch::new(Program::Receiver)
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

    /// As [`Self::daemon`], to be changed.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("nf-receiver runs")
    }

    /// Hands the daemon over, to be killed or stopped.
    pub fn take(&mut self) -> Daemon {
        self.daemon.take().expect("nf-receiver runs")
    }

    pub fn status(&self) -> Value {
        Program::Receiver.status(&self.control()).expect("nf-receiver answers")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Asks `status` until it is as wanted.
fn wait_status(
    patience: Duration,
    status: impl Fn() -> Value,
    wanted: impl Fn(&Value) -> bool,
    daemon: &Daemon,
) -> Value {
    let deadline = Instant::now() + patience;
    loop {
        let status = status();
        if wanted(&status) {
            return status;
        }
        let log = || daemon.log();
        assert!(Instant::now() < deadline, "not within {patience:?}; status:\n{status:#}\nlog:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a directory on a real disk, next to the programs that were built: `/tmp` may be small, or memory.
pub fn directory() -> TempDir {
    let built = Program::Sender.path();
    let place = built.parent().unwrap().join("tmp");
    std::fs::create_dir_all(&place).unwrap();
    tempfile::tempdir_in(place).unwrap()
}
