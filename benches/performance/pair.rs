//! nf-sender and nf-receiver with their usual places: the spool on a disk, the runtime directory in memory.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nf_transport_core::secure::Suite;
use nf_transport_kit::hosts::{ReceiverHost, SenderHost};
use nf_transport_kit::pair::STALL;
use tempfile::TempDir;

use crate::process::Process;

/// A file system in memory, as `/run` is under systemd.
const MEMORY: &str = "/dev/shm";

/// Settings without a minimum of free disk space and with short delays between connection attempts.
pub(crate) const SETTINGS: &str =
    "[spool]\nmin-free = \"0B\"\n[reconnect]\nfirst = \"50ms\"\nfactor = 2\nlongest = \"200ms\"\n";

/// The machine that runs nf-sender, and the memory file system of its runtime directory, if there is one.
pub(crate) struct Sender {
    pub(crate) host: SenderHost,
    _memory: Option<TempDir>,
}

impl Sender {
    /// Creates a machine whose daemon will connect to `receiver`, with the receive buffer that any user may
    /// request.
    pub(crate) fn new(id: &str, receiver: SocketAddr) -> Self {
        Self::with(id, receiver, true)
    }

    /// Does the same; `in_memory` selects a memory file system for the runtime directory.
    fn with(id: &str, receiver: SocketAddr, in_memory: bool) -> Self {
        let mut host = SenderHost::new(id, &receiver, SETTINGS);
        host.limit_receive_buffer();
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
    pub(crate) fn new(sink: SocketAddr, suite: Option<Suite>) -> Self {
        Self::with(sink, suite, true)
    }

    fn with(sink: SocketAddr, suite: Option<Suite>, in_memory: bool) -> Self {
        let receiver = ReceiverHost::new(&[sink], "");
        let sender = Sender::with("edge", receiver.addr(), in_memory);
        let mut pair = Self { sender, receiver };
        if let Some(suite) = suite {
            let key = pair.receiver.use_key("a key of all");
            pair.sender.host.protect(&["--key-file", key.to_str().unwrap(), "--cipher", suite.name()]);
        }
        pair
    }

    /// Starts both daemons and waits until they are connected.
    pub(crate) fn connected(sink: SocketAddr, suite: Option<Suite>) -> Self {
        Self::connected_with(sink, suite, true)
    }

    /// Does the same; `in_memory` selects a memory file system for the runtime directory.
    pub(crate) fn connected_with(sink: SocketAddr, suite: Option<Suite>, in_memory: bool) -> Self {
        Self::with(sink, suite, in_memory).connect()
    }

    /// Starts both daemons of another build and waits until they are connected.
    pub(crate) fn connected_baseline(sink: SocketAddr, suite: Option<Suite>, build: &Path) -> Self {
        let mut pair = Self::new(sink, suite);
        pair.receiver.use_build(build);
        pair.sender.host.use_build(build);
        pair.connect()
    }

    fn connect(mut self) -> Self {
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
