//! nf-sender and nf-receiver with their usual places: the spool on a disk, the runtime directory in memory.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nf_transport_core::secure::Suite;
use nf_transport_kit::hosts::{ReceiverHost, SenderHost, write_secret};
use nf_transport_kit::pair::STALL;
use nf_transport_pki::Authority;
use tempfile::TempDir;

use crate::process::Process;
use crate::relay::Buffer;

/// A file system in memory, as `/run` is under systemd.
const MEMORY: &str = "/dev/shm";

/// Settings without a minimum of free disk space and with short delays between connection attempts.
pub(crate) const SETTINGS: &str =
    "spool.min-free = \"0B\"\nreconnect = { first = \"50ms\", factor = 2, longest = \"200ms\" }\n";

/// The machine that runs nf-sender, and the memory file system of its runtime directory, if there is one.
pub(crate) struct Sender {
    pub(crate) host: SenderHost,
    _memory: Option<TempDir>,
}

impl Sender {
    /// Creates a machine whose daemon will connect to `receiver`.
    pub(crate) fn new(id: &str, receiver: SocketAddr, buffer: Buffer) -> Self {
        Self::with(id, receiver, buffer, true)
    }

    /// Does the same; `in_memory` selects a memory file system for the runtime directory.
    fn with(id: &str, receiver: SocketAddr, buffer: Buffer, in_memory: bool) -> Self {
        let mut host = SenderHost::new(id, &receiver, SETTINGS);
        if buffer == Buffer::Permitted {
            host.limit_receive_buffer();
        }
        let memory = (in_memory && Path::new(MEMORY).is_dir()).then(|| run_in_memory(&host));
        Self { host, _memory: memory }
    }

    /// Returns the disk space of the files in the runtime directory, in bytes.
    pub(crate) fn journal(&self) -> u64 {
        let files = std::fs::read_dir(self.host.path("run")).unwrap();
        files.map(|file| 512 * file.unwrap().metadata().unwrap().blocks()).sum()
    }

    pub(crate) fn process(&self) -> Process {
        Process { name: "nf-sender", pid: self.host.daemon().pid() }
    }
}

/// Replaces the runtime directory by a link into a memory file system.
fn run_in_memory(host: &SenderHost) -> TempDir {
    let memory = tempfile::tempdir_in(MEMORY).unwrap();
    let run = host.path("run");
    std::fs::remove_dir(&run).unwrap();
    std::os::unix::fs::symlink(memory.path(), run).unwrap();
    memory
}

/// Both machines.
pub(crate) struct BenchPair {
    pub(crate) sender: Sender,
    pub(crate) receiver: ReceiverHost,
}

impl BenchPair {
    /// Creates both machines without starting a daemon. nf-receiver will deliver to `sink`.
    pub(crate) fn new(sink: SocketAddr, suite: Option<Suite>, buffer: Buffer) -> Self {
        Self::with(sink, suite, buffer, true)
    }

    /// Does the same; `in_memory` selects a memory file system for the runtime directory.
    pub(crate) fn with(sink: SocketAddr, suite: Option<Suite>, buffer: Buffer, in_memory: bool) -> Self {
        let receiver = ReceiverHost::new(&[sink], "");
        let sender = Sender::with("edge", receiver.addr(), buffer, in_memory);
        let mut pair = Self { sender, receiver };
        if let Some(suite) = suite {
            let key = pair.receiver.use_key("a key of all");
            pair.sender.host.protect(&["--key-file", key.to_str().unwrap(), "--cipher", suite.name()]);
        }
        pair
    }

    /// Gives both machines certificates of one authority instead of a key.
    pub(crate) fn with_mutual_tls(mut self) -> Self {
        const RECEIVER: &str = "collector.example.net";
        let authority = Authority::new("authority");
        let until = SystemTime::now() + Duration::from_secs(86_400);
        let install = |name: &str, serial, path: &dyn Fn(&str) -> PathBuf| {
            let issued = authority.issue(name, serial, until);
            let files =
                [("authority", &authority.pem), ("certificate", &issued.certificate), ("key", &issued.key)];
            let settings = files.map(|(setting, text)| {
                write_secret(&path(setting), text);
                format!("tls.{setting} = \"{}\"\n", path(setting).display())
            });
            settings.concat()
        };
        let of_sender = install("edge", 1, &|name| self.sender.host.path(name));
        let of_receiver = install(RECEIVER, 2, &|name| self.receiver.path(name));
        self.receiver.protect(&[]);
        self.receiver.set_toml(&of_receiver);
        self.sender.host.protect(&[]);
        self.with_settings(&format!("{of_sender}tls.server-name = \"{RECEIVER}\"\n"))
    }

    /// Replaces the settings of nf-sender by these and the usual ones.
    pub(crate) fn with_settings(mut self, settings: &str) -> Self {
        self.sender.host.set_toml(&format!("{settings}\n{SETTINGS}"));
        self
    }

    /// Starts both daemons of another build and waits until they are connected.
    pub(crate) fn connect_baseline(mut self, build: &Path) -> Self {
        self.receiver.use_build(build);
        self.sender.host.use_build(build);
        self.connect()
    }

    /// Starts both daemons and waits until they are connected.
    pub(crate) fn connect(mut self) -> Self {
        self.receiver.start();
        self.sender.host.start();
        self.sender.host.wait_state("connected", STALL);
        self
    }

    /// Returns the address on which nf-sender receives datagrams.
    pub(crate) fn input(&self) -> SocketAddr {
        self.sender.host.udp().addr()
    }

    pub(crate) fn processes(&self) -> [Process; 2] {
        let receiver = Process { name: "nf-receiver", pid: self.receiver.daemon().pid() };
        [self.sender.process(), receiver]
    }
}
